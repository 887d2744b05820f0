//! An application whose answers tell how often it was asked, so that lost and doubled work show.

use container::application::{Application, DialogNumber, Profile, Reply, Request, Session, TimerId};
use sip::{HeaderName, Method};
use std::time::Duration;

const HOLD: TimerId = TimerId(1);
const RING: TimerId = TimerId(2);

/// Answers an INVITE at once or after ringing, counts INFOs and re-INVITEs, and hangs up when the time that the INVITE's Subject names is over.
#[derive(Debug)]
pub struct Counting {
    profile: Profile,
}

impl Counting {
    /// The application.
    #[must_use]
    pub fn new() -> Self {
        let profile = Profile {
            methods: &["INVITE", "ACK", "CANCEL", "BYE", "INFO"],
            extensions: &[],
            session: sip::dialog::SessionPolicy {
                interval: None,
                min_se: 90,
                refresher: sip::Refresher::Uac,
            },
        };
        Self { profile }
    }
}

impl Default for Counting {
    fn default() -> Self {
        Self::new()
    }
}

fn count(session: &Session<'_>) -> u32 {
    let text = session
        .attribute("count")
        .and_then(|value| std::str::from_utf8(value).ok());
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

impl Application for Counting {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        match request.method() {
            Method::Ack => {}
            Method::Invite if request.message().header(HeaderName::Subject).is_some() => {
                let subject = request.message().header(HeaderName::Subject).unwrap_or(b"0 0");
                let text = std::str::from_utf8(subject).unwrap_or("0 0");
                let mut numbers = text.split(' ').map(|n| n.parse::<u64>().unwrap_or(0));
                let (ring, hold) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
                session.start_timer(HOLD, Duration::from_millis(hold));
                if ring == 0 {
                    session.respond(request.transaction(), Reply::new(200));
                } else {
                    session.respond(request.transaction(), Reply::new(180));
                    session.start_timer(RING, Duration::from_millis(ring));
                }
            }
            Method::Info | Method::Invite => {
                let count = count(session) + 1;
                session.set_attribute("count", count.to_string());
                session.respond(
                    request.transaction(),
                    Reply::new(200).body("text/plain", count.to_string()),
                );
            }
            _ => session.respond(request.transaction(), Reply::new(200)),
        }
    }

    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        if timer == RING {
            let invite = session.dialogs().find_map(|dialog| dialog.invite());
            if let Some(invite) = invite {
                session.respond(invite, Reply::new(200));
            }
            return;
        }
        let dialogs: Vec<DialogNumber> = session.dialogs().map(|dialog| dialog.number()).collect();
        for dialog in dialogs {
            session.hang_up(dialog);
        }
    }
}

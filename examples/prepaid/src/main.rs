//! Prepaid calls: each is answered, told by an INFO when its credit is nearly used up, and ended when it is.
//!
//! What is kept of a call is one attribute and one timer of its session, so it survives the death of its container; nothing here says how.

use std::process::ExitCode;
use std::time::Duration;

use container::application::{Application, DialogNumber, Ended, Outgoing, Profile, Reply, Request, Session, TimerId};
use container::sip::dialog::{DialogState, SessionPolicy};
use container::sip::{HeaderName, Method};
use serde::Deserialize;

/// What stands in the manifest below `spec.application.custom.options`.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Options {
    /// How long a call may last.
    seconds: u32,
    /// How long before its end it is warned.
    warning_seconds: u32,
}

struct Prepaid {
    options: Options,
    profile: Profile,
}

/// The attribute that names who pays.
const ACCOUNT: &str = "account";
const WARN: TimerId = TimerId(1);
const END: TimerId = TimerId(2);
const SDP: &str =
    "v=0\r\no=prepaid 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

impl Prepaid {
    fn new(options: Options) -> Result<Self, String> {
        if options.warning_seconds >= options.seconds {
            return Err("warningSeconds must be less than seconds".into());
        }
        let profile = Profile {
            methods: &["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "UPDATE", "INFO"],
            extensions: &["timer"],
            session: SessionPolicy::default(),
        };
        Ok(Self { options, profile })
    }
}

impl Application for Prepaid {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let dialog = request.dialog().and_then(|dialog| session.dialog(dialog));
        let is_new = dialog.is_some_and(|dialog| dialog.state() == DialogState::Early);
        match request.method() {
            Method::Ack => {}
            Method::Invite => {
                if is_new {
                    let account = request.message().header(HeaderName::From).unwrap_or_default();
                    session.set_attribute(ACCOUNT, account.to_vec());
                    let warn_after = self.options.seconds - self.options.warning_seconds;
                    session.start_timer(WARN, Duration::from_secs(warn_after.into()));
                }
                session.respond(request.transaction(), Reply::new(200).body("application/sdp", SDP));
            }
            _ => session.respond(request.transaction(), Reply::new(200)),
        }
    }

    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        let account = String::from_utf8_lossy(session.attribute(ACCOUNT).unwrap_or_default()).into_owned();
        let dialogs: Vec<DialogNumber> = session.dialogs().map(|dialog| dialog.number()).collect();
        for dialog in dialogs {
            if timer == END {
                session.hang_up(dialog);
            } else {
                let text = format!("{} seconds left for {account}", self.options.warning_seconds);
                session.send(dialog, Outgoing::new("INFO").body("text/plain", text));
            }
        }
        if timer == WARN {
            session.start_timer(END, Duration::from_secs(self.options.warning_seconds.into()));
        }
    }

    fn on_ended(&self, session: &mut Session<'_>, _dialog: DialogNumber, _why: Ended) {
        session.stop_timer(WARN);
        session.stop_timer(END);
    }
}

#[global_allocator]
static ALLOCATOR: container::Allocator = container::Allocator;

fn main() -> ExitCode {
    container::run(Prepaid::new)
}

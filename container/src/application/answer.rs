//! `answer`: rings, answers, holds, and is agreeable to everything within the call. The application of the first try, of benches and of
//! the tests.

use std::time::Duration;

use serde::Deserialize;
use sip::{HeaderName, Method};

use super::{Application, DialogNumber, Ended, Profile, Reply, Request, Session, TimerId, session_policy};

/// How it behaves; the manifest's words.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields, default)]
pub struct Options {
    /// Between 180 and 200; zero: the call is answered at once, without 180.
    #[serde(deserialize_with = "super::period")]
    pub ring: Duration,
    /// After this it sends BYE; zero: never.
    #[serde(deserialize_with = "super::period")]
    pub hold: Duration,
    /// The session timer that it asks for (RFC 4028), at least 90 s; zero: only what the caller asks for.
    #[serde(deserialize_with = "super::period")]
    pub session_expires: Duration,
    /// Answers with the caller's own session description instead of a fixed one.
    pub echo: bool,
}

impl Default for Options {
    fn default() -> Self {
        let session_expires = Duration::from_secs(1800);
        Self {
            ring: Duration::ZERO,
            hold: Duration::ZERO,
            session_expires,
            echo: false,
        }
    }
}

/// The application.
#[derive(Debug)]
pub struct Answer {
    options: Options,
    profile: Profile,
}

const METHODS: &[&str] = &["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "UPDATE", "PRACK", "INFO"];
const EXTENSIONS: &[&str] = &["timer", "100rel"];
const RING: TimerId = TimerId(1);
const HOLD: TimerId = TimerId(2);
/// A plausible answer: G.711 towards an address where nobody listens. Media is not our job.
const SDP: &str = "v=0\r\no=sipcluster 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
    m=audio 9 RTP/AVP 0 8 101\r\na=rtpmap:101 telephone-event/8000\r\na=sendrecv\r\n";

impl Answer {
    /// The application with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let profile = Profile {
            methods: METHODS,
            extensions: EXTENSIONS,
            session: session_policy(options.session_expires),
        };
        Self { options, profile }
    }

    fn ring(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let mut ringing = Reply::new(180);
        if request.message().wire().requires(b"100rel") {
            ringing = ringing.reliably();
        }
        // The answer comes when the ringing ends; until then the description that it needs has to be kept.
        if self.options.echo && !request.message().body().is_empty() {
            session.set_attribute("offer", request.message().body().to_vec());
        }
        session.respond(request.transaction(), ringing);
        session.start_timer(RING, self.options.ring);
    }

    fn accept(&self, session: &mut Session<'_>, request: &Request<'_>) {
        session.respond(request.transaction(), self.ok_with_sdp(request.message().body()));
        self.hold(session);
    }

    fn hold(&self, session: &mut Session<'_>) {
        if !self.options.hold.is_zero() {
            session.start_timer(HOLD, self.options.hold);
        }
    }

    fn ok_with_sdp(&self, offer: &[u8]) -> Reply {
        let sdp = if self.options.echo && !offer.is_empty() {
            offer.to_vec()
        } else {
            SDP.as_bytes().to_vec()
        };
        Reply::new(200).body("application/sdp", sdp)
    }
}

impl Application for Answer {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let is_new = request
            .dialog()
            .and_then(|dialog| session.dialog(dialog))
            .is_some_and(|dialog| dialog.state() == sip::dialog::DialogState::Early);
        match request.method() {
            Method::Ack => {}
            Method::Invite if is_new && !self.options.ring.is_zero() => self.ring(session, request),
            Method::Invite if is_new => self.accept(session, request),
            Method::Invite => session.respond(request.transaction(), self.ok_with_sdp(request.message().body())),
            // RFC 3311: an UPDATE without an offer only refreshes.
            Method::Update if !request.message().body().is_empty() => {
                session.respond(request.transaction(), self.ok_with_sdp(request.message().body()));
            }
            Method::Options => {
                session.respond(
                    request.transaction(),
                    Reply::new(200).header(HeaderName::Accept.as_str(), b"application/sdp"),
                );
            }
            _ => session.respond(request.transaction(), Reply::new(200)),
        }
    }

    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        match timer {
            RING => {
                let offer = session.attribute("offer").map(<[u8]>::to_vec).unwrap_or_default();
                let invite = session.dialogs().find_map(|dialog| dialog.invite());
                if let Some(transaction) = invite {
                    session.respond(transaction, self.ok_with_sdp(&offer));
                    if !offer.is_empty() {
                        session.remove_attribute("offer");
                    }
                    self.hold(session);
                }
            }
            HOLD => {
                let dialogs: Vec<DialogNumber> = session.dialogs().map(|dialog| dialog.number()).collect();
                for dialog in dialogs {
                    session.hang_up(dialog);
                }
            }
            _ => {}
        }
    }

    fn on_ended(&self, session: &mut Session<'_>, _dialog: DialogNumber, _why: Ended) {
        session.stop_timer(RING);
        session.stop_timer(HOLD);
    }
}

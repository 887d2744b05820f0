//! An application that answers, and keeps a worker for a while for each call: as one that asks a slow database does. For `make bench`, and for tests
//! of what a slow application does to the calls of others.

use std::process::ExitCode;
use std::time::Duration;

use container::application::{Application, Profile, Reply, Request, Session};
use container::sip::Method;
use container::sip::dialog::SessionPolicy;
use serde::Deserialize;

/// `spec.application.custom.options`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Options {
    /// For how long a call keeps a worker.
    microseconds: u64,
    /// Names of containers in which it is twice as long.
    slow: Vec<String>,
}

struct Busy {
    time: Duration,
    profile: Profile,
}

const SDP: &str = "v=0\r\no=busy 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 9 RTP/AVP 0\r\n";

impl Busy {
    fn new(options: Options) -> Result<Self, String> {
        // It has none while its options are checked.
        let name = name().unwrap_or_default();
        let times = if options.slow.contains(&name) { 2 } else { 1 };
        Ok(Self {
            time: Duration::from_micros(options.microseconds) * times,
            profile: Profile {
                methods: &["INVITE", "ACK", "CANCEL", "BYE", "OPTIONS"],
                extensions: &["timer"],
                session: SessionPolicy::default(),
            },
        })
    }
}

impl Application for Busy {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let reply = match request.method() {
            Method::Ack => return,
            Method::Invite => {
                // On purpose not a timer: the worker is to do nothing else meanwhile.
                std::thread::sleep(self.time);
                Reply::new(200).body("application/sdp", SDP)
            }
            _ => Reply::new(200),
        };
        session.respond(request.transaction(), reply);
    }
}

/// This container's, from the command line.
fn name() -> Option<String> {
    let mut arguments = std::env::args().skip_while(|argument| argument != "--name");
    arguments.nth(1)
}

fn main() -> ExitCode {
    container::run(Busy::new)
}

//! The end: all parts stop in order, and none is left.

use std::time::Duration;

use tokio::signal::unix::Signal;
use ucf::plan::Who;

use super::{Supervisor, any};
use crate::child;
use crate::detach::Audience;

/// What each kind of process has from SIGTERM to SIGKILL. There is nobody left to hand calls to, so it is short.
const GRACE: Duration = Duration::from_secs(2);

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(10);

impl Supervisor<'_> {
    /// Proxies first, so that nothing new comes in; Redis last, so that nothing is missed. Another Ctrl-C cuts the waiting short.
    pub(super) async fn stop(&mut self, again: &mut [Signal], audience: &mut Audience) {
        audience.say("\nstopping");
        let mut hurry = false;
        for kind in [
            |who: &Who| matches!(who, Who::Proxy(_)),
            |who: &Who| matches!(who, Who::Container(_)),
            |who: &Who| matches!(who, Who::Redis),
        ] {
            self.signal(kind, libc::SIGTERM);
            if !hurry {
                tokio::select! {
                    _ = tokio::time::timeout(GRACE, self.all_ended(kind)) => {}
                    () = any(again) => hurry = true,
                }
            }
            self.signal(kind, libc::SIGKILL);
            self.all_ended(kind).await;
        }
    }

    fn signal(&self, kind: fn(&Who) -> bool, signal: i32) {
        for (_, part) in self.parts.iter().filter(|(who, _)| kind(who)) {
            if let Some(pid) = part.pid() {
                child::signal(pid, signal);
            }
        }
    }

    async fn all_ended(&mut self, kind: fn(&Who) -> bool) {
        loop {
            let now = self.now();
            let mut living = false;
            for (_, part) in self.parts.iter_mut().filter(|(who, _)| kind(who)) {
                part.reap(now);
                living |= part.pid().is_some();
            }
            if !living {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    }
}

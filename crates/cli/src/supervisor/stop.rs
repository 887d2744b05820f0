//! The end: all parts stop in order, and none is left.

use std::time::Duration;

use tokio::signal::unix::Signal;
use ucf::plan::Who;

use super::{Supervisor, any};
use crate::child;

/// What proxies and Redis have from SIGTERM to SIGKILL: proxies serve on for half a second.
const GRACE: Duration = Duration::from_secs(2);

/// What containers have. They would try to hand their calls over, but there is nobody left to take them.
const CONTAINERS_GRACE: Duration = Duration::from_millis(300);

/// How often an end is looked for.
const LOOK: Duration = Duration::from_millis(10);

/// Whether a part is one of a kind.
type Kind = fn(&Who) -> bool;

impl Supervisor<'_> {
    /// Proxies first, so that nothing new comes in; Redis last, so that nothing is missed. Another Ctrl-C cuts the waiting short.
    pub(super) async fn stop(&mut self, again: &mut [Signal]) {
        self.journal.say("\nstopping");
        let mut hurry = false;
        let kinds: [(Kind, Duration); 3] = [
            (|who| matches!(who, Who::Proxy(_)), GRACE),
            (|who| matches!(who, Who::Container(_)), CONTAINERS_GRACE),
            (|who| matches!(who, Who::Redis), GRACE),
        ];
        for (kind, grace) in kinds {
            self.signal(kind, libc::SIGTERM);
            if !hurry {
                tokio::select! {
                    _ = tokio::time::timeout(grace, self.all_ended(kind)) => {}
                    () = any(again) => hurry = true,
                }
            }
            self.signal(kind, libc::SIGKILL);
            self.all_ended(kind).await;
        }
    }

    fn signal(&self, kind: Kind, signal: i32) {
        for (_, part) in self.parts.iter().filter(|(who, _)| kind(who)) {
            if let Some(pid) = part.pid() {
                child::signal(pid, signal);
            }
        }
    }

    async fn all_ended(&mut self, kind: Kind) {
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

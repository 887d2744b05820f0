//! What is due when: one entry per session or transaction that waits for anything, so that a deadline that moves leaves nothing behind.

use std::collections::BTreeSet;

use sip::Instant;
use ucf::PartitionId;

use crate::records::Key;

/// What is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Due {
    pub partition: PartitionId,
    pub key: Key,
}

/// The deadlines of a worker.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: BTreeSet<(Instant, Due)>,
}

impl Queue {
    /// Moves the deadline of `due` from `armed` to `at`.
    pub fn arm(&mut self, due: Due, armed: &mut Option<Instant>, at: Option<Instant>) {
        if *armed == at {
            return;
        }
        if let Some(armed) = armed.take() {
            self.entries.remove(&(armed, due));
        }
        if let Some(at) = at {
            self.entries.insert((at, due));
        }
        *armed = at;
    }

    /// The next deadline.
    pub fn next(&self) -> Option<Instant> {
        self.entries.first().map(|(at, _)| *at)
    }

    /// Takes what is due. Its owner's `armed` has to be cleared.
    pub fn pop(&mut self, now: Instant) -> Option<Due> {
        let (at, due) = *self.entries.first()?;
        if at > now {
            return None;
        }
        self.entries.pop_first();
        Some(due)
    }
}

//! Whose lease is gone: a counter in the store that stays the same for 1.2 L on the watcher's own clock. No wall clock takes part.

use crate::Incarnation;
use sip::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// One watcher's view of all members' counters.
#[derive(Debug)]
pub struct LeaseWatch {
    lease: Duration,
    /// The last renewal of the watcher itself that succeeded.
    renewed: Option<Instant>,
    /// As many as there are members.
    seen: BTreeMap<Incarnation, Seen>,
}

#[derive(Debug)]
struct Seen {
    counter: u64,
    since: Instant,
    gone: bool,
}

impl LeaseWatch {
    /// A watcher that has seen nothing yet.
    #[must_use]
    pub fn new(lease: Duration) -> Self {
        Self {
            lease,
            renewed: None,
            seen: BTreeMap::new(),
        }
    }

    /// The watcher's own renewal, sent at `sent`, has brought these counters.
    pub fn observe(&mut self, now: Instant, sent: Instant, counters: impl Iterator<Item = (Incarnation, u64)>) {
        // Only time counts in which the watcher's own renewals came through: else the watcher may be the one who was away.
        let lapsed = self.renewed.is_none_or(|r| now.since(r) > self.lease * 2 / 3);
        self.renewed = Some(sent);
        let before = std::mem::take(&mut self.seen);
        for (member, counter) in counters {
            let since = match before.get(&member) {
                Some(seen) if seen.counter == counter && !lapsed => seen.since,
                _ => now,
            };
            let still_gone = before.get(&member).is_some_and(|s| s.gone && s.counter == counter);
            let gone = still_gone || now.since(since) >= self.lease * 6 / 5;
            self.seen.insert(member, Seen { counter, since, gone });
        }
    }

    /// Whether the member's lease is gone. One that is not on the list has none that could go.
    #[must_use]
    pub fn is_gone(&self, member: Incarnation) -> bool {
        self.seen.get(&member).is_some_and(|s| s.gone)
    }

    /// The counter last seen.
    #[must_use]
    pub fn counter(&self, member: Incarnation) -> Option<u64> {
        self.seen.get(&member).map(|s| s.counter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(3);
    const OTHER: Incarnation = Incarnation(7);

    fn watch(times: &[(u64, u64)]) -> bool {
        let mut watch = LeaseWatch::new(LEASE);
        for (ms, counter) in times {
            let now = Instant::from_micros(ms * 1000);
            watch.observe(now, now, std::iter::once((OTHER, *counter)));
        }
        watch.is_gone(OTHER)
    }

    #[test]
    fn a_counter_that_stays_for_longer_than_the_lease_is_gone() {
        assert!(!watch(&[(0, 1), (1000, 1), (2000, 1), (3000, 1), (3500, 1)]));
        assert!(watch(&[(0, 1), (1000, 1), (2000, 1), (3000, 1), (3600, 1)]));
        assert!(!watch(&[(0, 1), (1000, 1), (2000, 2), (3000, 2), (3600, 2)]));
    }

    #[test]
    fn time_without_own_renewals_does_not_count() {
        assert!(!watch(&[(0, 1), (1000, 1), (4000, 1), (5000, 1)]));
        assert!(watch(&[
            (0, 1),
            (1000, 1),
            (4000, 1),
            (5000, 1),
            (6000, 1),
            (7000, 1),
            (7600, 1)
        ]));
    }

    #[test]
    fn a_counter_that_moves_again_is_a_lease_again() {
        assert!(!watch(&[(0, 1), (1500, 1), (3000, 1), (4000, 1), (5000, 2)]));
    }
}

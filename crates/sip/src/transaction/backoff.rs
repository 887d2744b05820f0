//! When something unanswered is sent again: intervals that double.

use crate::Instant;
use std::time::Duration;

/// The next repeat and the pause that led to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Backoff {
    at: Instant,
    micros: u32,
}

impl Backoff {
    /// The first repeat after `interval`.
    pub(crate) fn start(now: Instant, interval: Duration) -> Self {
        Self {
            at: now + interval,
            micros: u32::try_from(interval.as_micros()).unwrap_or(u32::MAX),
        }
    }

    /// The first repeat now, the next after `interval`.
    pub(crate) fn at_once(now: Instant, interval: Duration) -> Self {
        Self {
            at: now,
            ..Self::start(now, interval / 2)
        }
    }

    pub(crate) fn at(&self) -> Instant {
        self.at
    }

    /// Whether the repeat is due; if so, sets the next one, twice as far away but no farther than `longest`.
    pub(crate) fn fire(&mut self, now: Instant, longest: Option<Duration>) -> bool {
        if now < self.at {
            return false;
        }
        let doubled = Duration::from_micros(u64::from(self.micros) * 2);
        *self = Self::start(now, longest.map_or(doubled, |longest| doubled.min(longest)));
        true
    }
}

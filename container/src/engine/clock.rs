//! The store's clock beside the worker's monotonic one: deadlines are kept in the former and run in the latter.

use std::time::Duration;

use sip::Instant;

/// What their offset may differ from the one in stored deadlines, in milliseconds: more than a sample is wrong by, less than anyone
/// would notice of a timer after a takeover.
const TOLERANCE: u64 = 300;

/// Their offset.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct StoreClock {
    /// Milliseconds of the store's clock at `Instant` zero.
    offset: i64,
    /// The same when all stored deadlines agreed with it; none before the first sample.
    agreed: Option<i64>,
}

impl StoreClock {
    /// The store said `millis` at `now`; `true` if its clock has jumped, or drifted, so far that stored deadlines are wrong.
    pub fn set(&mut self, now: Instant, millis: u64) -> bool {
        self.offset = millis.cast_signed() - (now.as_micros() / 1000).cast_signed();
        let agreed = self.agreed.get_or_insert(self.offset);
        let jumped = self.offset.abs_diff(*agreed) > TOLERANCE;
        if jumped {
            *agreed = self.offset;
        }
        jumped
    }

    /// For a record; rounded up, so that no timer fires early in another process.
    pub fn store(&self, at: Instant) -> u64 {
        ((at.as_micros().div_ceil(1000)).cast_signed() + self.offset)
            .max(0)
            .cast_unsigned()
    }

    /// From a record. What is overdue is due now.
    pub fn load(&self, millis: u64) -> Instant {
        let local = millis.cast_signed().saturating_sub(self.offset).max(0).cast_unsigned();
        Instant::from_micros(local.saturating_mul(1000))
    }

    /// Time from `now` to a deadline of a record.
    pub fn left(&self, now: Instant, millis: u64) -> Duration {
        self.load(millis).since(now)
    }
}

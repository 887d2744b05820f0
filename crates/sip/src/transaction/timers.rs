//! The timers of RFC 3261 table 4, with RFC 6026's L and M, from T1, T2 and T4.

use std::time::Duration;

/// T1, T2 and T4, from which every timer follows. Kept small: each transaction carries them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timers {
    t1: u32,
    t2: u32,
    t4: u32,
}

impl Timers {
    /// From the three base values (at most 71 minutes each; microseconds are kept).
    #[must_use]
    pub fn new(t1: Duration, t2: Duration, t4: Duration) -> Self {
        let micros = |d: Duration| u32::try_from(d.as_micros()).unwrap_or(u32::MAX);
        Self {
            t1: micros(t1),
            t2: micros(t2),
            t4: micros(t4),
        }
    }

    /// The round-trip estimate; 500 ms by default.
    #[must_use]
    pub fn t1(&self) -> Duration {
        Duration::from_micros(u64::from(self.t1))
    }

    /// The longest pause between repeats of anything but an INVITE; 4 s by default.
    #[must_use]
    pub fn t2(&self) -> Duration {
        Duration::from_micros(u64::from(self.t2))
    }

    /// How long a message may stay in the network; 5 s by default.
    #[must_use]
    pub fn t4(&self) -> Duration {
        Duration::from_micros(u64::from(self.t4))
    }

    /// 64 x T1: timers B, F, H, J, L and M.
    #[must_use]
    pub fn patience(&self) -> Duration {
        self.t1() * 64
    }

    /// Timer D: repeats of a final response to INVITE; more than 32 s over UDP, none over a reliable transport.
    #[must_use]
    pub fn d(&self, reliable: bool) -> Duration {
        if reliable {
            Duration::ZERO
        } else {
            Duration::from_secs(32).max(self.patience())
        }
    }

    /// Timer K: repeats of a final response to anything else.
    #[must_use]
    pub fn k(&self, reliable: bool) -> Duration {
        if reliable { Duration::ZERO } else { self.t4() }
    }
}

impl Default for Timers {
    fn default() -> Self {
        Self::new(
            Duration::from_millis(500),
            Duration::from_secs(4),
            Duration::from_secs(5),
        )
    }
}

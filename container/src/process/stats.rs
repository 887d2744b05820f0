//! What a worker shows of itself: atomics that it sets now and then, read by the control task and the admin pages.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::{Counters, Engine, Holdings};
use sip::Instant;

use super::histogram::Histogram;

/// How often it is set: ten reports a second are made of it.
const EVERY: Duration = Duration::from_millis(50);

/// Bounds of how long the store takes to acknowledge a turn: from a loopback's tenths of a millisecond to a store that is lost.
const ACKNOWLEDGED: [Duration; 12] = [
    Duration::from_micros(200),
    Duration::from_micros(500),
    Duration::from_millis(1),
    Duration::from_millis(2),
    Duration::from_millis(5),
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(250),
    Duration::from_secs(1),
    Duration::from_secs(5),
];

/// How long the delay of a turn says something about the next one: two reports.
const NEWS: Duration = Duration::from_millis(200);

/// One worker's.
#[derive(Debug)]
pub struct Stats {
    /// How long the first input of the last turn had waited.
    pub queue_delay_us: AtomicU64,
    /// When that turn ended.
    turn_ended_us: AtomicU64,
    /// Since when the first input of the open turn waits; 0 if there is none.
    waiting_since_us: AtomicU64,
    /// Messages written to proxies.
    pub sent: Output,
    /// Messages for which there was no connection, or no room on it.
    pub unsent: Output,
    /// What its applications ask outside.
    pub asks: Asks,
    /// From the end of a turn to the store's acknowledgement.
    pub replication: Histogram<{ ACKNOWLEDGED.len() }>,
    /// When the engine's part was set.
    at: AtomicU64,
    engine: Mutex<(Counters, Holdings)>,
}

/// Messages that leave, by kind.
#[derive(Debug, Default)]
pub struct Output {
    pub requests: AtomicU64,
    pub responses: AtomicU64,
}

/// Asks, and what came of them.
#[derive(Debug, Default)]
pub struct Asks {
    pub asked: AtomicU64,
    pub answered: AtomicU64,
    pub given_up: AtomicU64,
    /// Datagrams that were sent again.
    pub repeated: AtomicU64,
}

impl Asks {
    /// Counts more of the first three; the last is all so far.
    pub fn count(&self, asked: usize, answered: usize, given_up: usize, repeated: u64) {
        self.asked.fetch_add(asked as u64, Ordering::Relaxed);
        self.answered.fetch_add(answered as u64, Ordering::Relaxed);
        self.given_up.fetch_add(given_up as u64, Ordering::Relaxed);
        self.repeated.store(repeated, Ordering::Relaxed);
    }
}

impl Output {
    /// Counts a message.
    pub fn count(&self, message: &[u8]) {
        // RFC 3261 s7.2: only a response begins with the version.
        let kind = if message.starts_with(b"SIP/") {
            &self.responses
        } else {
            &self.requests
        };
        kind.fetch_add(1, Ordering::Relaxed);
    }
}

impl Default for Stats {
    fn default() -> Self {
        Self {
            queue_delay_us: AtomicU64::new(0),
            turn_ended_us: AtomicU64::new(0),
            waiting_since_us: AtomicU64::new(0),
            sent: Output::default(),
            unsent: Output::default(),
            asks: Asks::default(),
            replication: Histogram::new(&ACKNOWLEDGED),
            at: AtomicU64::new(0),
            engine: Mutex::default(),
        }
    }
}

impl Stats {
    /// An input waits for its turn from now on; only the first of a turn counts. Called by the worker alone, as are the next two.
    pub fn input_waits(&self, now: Instant) {
        if self.waiting_since_us.load(Ordering::Relaxed) == 0 {
            self.waiting_since_us.store(now.as_micros().max(1), Ordering::Relaxed);
        }
    }

    /// The turn that was open has ended.
    pub fn turn_ended(&self, now: Instant) {
        let since = self.waiting_since_us.swap(0, Ordering::Relaxed);
        if since > 0 {
            let delay = now.as_micros().saturating_sub(since);
            self.queue_delay_us.store(delay, Ordering::Relaxed);
            self.turn_ended_us.store(now.as_micros(), Ordering::Relaxed);
        }
    }

    /// What came is kept elsewhere, for a partition that stands still: it waits for no turn.
    pub fn nothing_waits(&self) {
        self.waiting_since_us.store(0, Ordering::Relaxed);
    }

    /// How long inputs wait for their turn: of the last turn as long as that is news, and of the open one so far. A worker that has had nothing
    /// to do for a moment is not late, whatever its last turn was.
    pub fn queue_delay(&self, now: Instant) -> Duration {
        let since = |at: u64| Duration::from_micros(now.as_micros().saturating_sub(at));
        let last = match since(self.turn_ended_us.load(Ordering::Relaxed)) {
            age if age < NEWS => Duration::from_micros(self.queue_delay_us.load(Ordering::Relaxed)),
            _ => Duration::ZERO,
        };
        match self.waiting_since_us.load(Ordering::Relaxed) {
            0 => last,
            open => last.max(since(open)),
        }
    }

    /// Sets the engine's part, if it is time; else says when it will be.
    pub fn publish(&self, now: Instant, engine: &Engine) -> Option<Instant> {
        let next = Instant::from_micros(self.at.load(Ordering::Relaxed)) + EVERY;
        if now < next {
            return Some(next);
        }
        self.at.store(now.as_micros(), Ordering::Relaxed);
        *self.engine.lock().expect("nobody panics with it in hand") = (engine.counters(), engine.holdings());
        None
    }

    /// The engine's part.
    pub fn engine(&self) -> (Counters, Holdings) {
        *self.engine.lock().expect("nobody panics with it in hand")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_that_has_nothing_to_do_is_not_late() {
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        let millis = Duration::from_millis;
        let stats = Stats::default();
        stats.input_waits(at(1000));
        stats.input_waits(at(1500));
        assert_eq!(
            stats.queue_delay(at(1900)),
            millis(900),
            "the open turn, from its first input on"
        );
        stats.turn_ended(at(2000));
        assert_eq!(
            stats.queue_delay(at(2100)),
            millis(1000),
            "the turn that has just ended"
        );
        assert_eq!(stats.queue_delay(at(2200)), Duration::ZERO, "nothing has come since");
        stats.input_waits(at(3000));
        stats.nothing_waits();
        assert_eq!(
            stats.queue_delay(at(4000)),
            Duration::ZERO,
            "what a frozen partition keeps"
        );
    }
}

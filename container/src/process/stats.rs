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

/// One worker's.
#[derive(Debug)]
pub struct Stats {
    /// How long the first input of the last turn had waited.
    pub queue_delay_us: AtomicU64,
    /// Messages written to proxies.
    pub sent: Output,
    /// Messages for which there was no connection, or no room on it.
    pub unsent: Output,
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
            sent: Output::default(),
            unsent: Output::default(),
            replication: Histogram::new(&ACKNOWLEDGED),
            at: AtomicU64::new(0),
            engine: Mutex::default(),
        }
    }
}

impl Stats {
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

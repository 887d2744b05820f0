//! What a worker shows of itself: atomics that it sets now and then, read by the control task and the admin pages.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use crate::engine::{Counters, Engine, Holdings};
use sip::Instant;

/// How often it is set: ten reports a second are made of it.
const EVERY: Duration = Duration::from_millis(50);

/// One worker's.
#[derive(Debug, Default)]
pub struct Stats {
    /// How long the first input of the last turn had waited.
    pub queue_delay_us: AtomicU64,
    /// Outputs for which there was no connection.
    pub unsent: AtomicU64,
    /// When the engine's part was set.
    at: AtomicU64,
    engine: Mutex<(Counters, Holdings)>,
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

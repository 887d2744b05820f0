//! Slow machines on a fast one: processes that run in turn, each for its share of the time.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::interop::process::signal;

/// Lets processes run in turn until it is dropped.
#[derive(Debug)]
pub struct Throttle {
    over: Arc<AtomicBool>,
    turns: Option<JoinHandle<()>>,
}

impl Throttle {
    /// Each process runs for its time, one after another, then all stand still for `rest`; and again. A round is far shorter than anything that
    /// the cluster takes for silence.
    pub fn start(shares: Vec<(u32, Duration)>, rest: Duration) -> anyhow::Result<Self> {
        for (pid, _) in &shares {
            signal(*pid, libc::SIGSTOP)?;
        }
        let over = Arc::new(AtomicBool::new(false));
        let seen = over.clone();
        let turns = std::thread::spawn(move || {
            while !seen.load(Ordering::Relaxed) {
                for (pid, time) in &shares {
                    // One that has ended stands still as well.
                    let _ = signal(*pid, libc::SIGCONT);
                    std::thread::sleep(*time);
                    let _ = signal(*pid, libc::SIGSTOP);
                }
                std::thread::sleep(rest);
            }
            for (pid, _) in &shares {
                let _ = signal(*pid, libc::SIGCONT);
            }
        });
        Ok(Self {
            over,
            turns: Some(turns),
        })
    }
}

impl Drop for Throttle {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(turns) = self.turns.take() {
            let _ = turns.join();
        }
    }
}

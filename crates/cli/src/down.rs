//! `sipcluster down`: tells the supervisor to stop everything, and waits until it has.

use std::time::{Duration, Instant};

use crate::child;
use crate::failure::Failure;
use crate::state_dir::StateDir;

/// The supervisor gives each kind of process its time and then kills; it needs less than this.
const PATIENCE: Duration = Duration::from_secs(20);

/// Stops the cluster. Where none runs there is nothing to do, but for what a killed supervisor left.
pub fn run(directory: &StateDir) -> Result<(), Failure> {
    if !directory.is_running() {
        println!(
            "no cluster is running here{}",
            if directory.remove_leftovers() {
                "; what the last one left is removed"
            } else {
                ""
            }
        );
        return Ok(());
    }
    let record =
        wait(|| directory.record().ok()).ok_or_else(|| Failure::here("the supervisor has not said its pid"))?;
    child::signal(record.pid, libc::SIGTERM);
    wait(|| (!directory.is_running()).then_some(())).ok_or_else(|| {
        let pid = record.pid;
        Failure::here(format!(
            "the supervisor (pid {pid}) does not end; `kill -9 {pid}` ends it and all that it started"
        ))
    })?;
    println!("{} is down", record.name);
    Ok(())
}

/// Asks until there is a value, or patience ends.
pub fn wait<T>(mut condition: impl FnMut() -> Option<T>) -> Option<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        match condition() {
            Some(value) => return Some(value),
            None if Instant::now() >= deadline => return None,
            None => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

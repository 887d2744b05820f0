//! How `scale`, `restart` and `apply` wait: they tell all that the supervisor does, until the cluster is as they asked.

use std::time::{Duration, Instant};

use crate::args::Patience;
use crate::failure::Failure;
use crate::state_dir::{Desired, Record, StateDir};

/// How often the supervisor's record is read.
const LOOK: Duration = Duration::from_millis(50);

/// Lets `change` change what is desired, and waits until it is so. `change` says whether anything is to be changed; the record is that of
/// the cluster as it is then.
pub fn bring_about(
    directory: &StateDir,
    patience: Patience,
    change: impl FnOnce(&mut Desired) -> Result<bool, Failure>,
) -> Result<Record, Failure> {
    // Only what happens from now on is of interest.
    let seen = directory.record().map_or(0, |record| last_entry(&record));
    let desired = directory.change_desired(change)?;
    until_done(directory, desired.generation, seen, patience.timeout.duration())
}

fn until_done(directory: &StateDir, generation: u64, mut seen: u64, timeout: Duration) -> Result<Record, Failure> {
    let deadline = Instant::now() + timeout;
    let mut gate = None;
    while Instant::now() < deadline {
        if !directory.is_running() {
            return Err(Failure::here("the cluster has been stopped meanwhile"));
        }
        if let Ok(record) = directory.record() {
            for entry in record.journal.iter().filter(|entry| entry.number > seen) {
                println!("{}", entry.text);
            }
            seen = seen.max(last_entry(&record));
            if record.generation >= generation && record.done {
                return Ok(record);
            }
            gate = record.gate;
        }
        std::thread::sleep(LOOK);
    }
    Err(Failure::here(format!(
        "not done within {}s: {}; the cluster goes on trying: `{}` shows how far it is, its logs are in {}",
        timeout.as_secs(),
        gate.unwrap_or_else(|| "the supervisor does not say what it waits for".into()),
        directory.command("status"),
        directory.file("log").display()
    )))
}

fn last_entry(record: &Record) -> u64 {
    record.journal.last().map_or(0, |entry| entry.number)
}

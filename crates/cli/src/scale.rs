//! `sipcluster scale N`: asks the supervisor for another number of containers, and says what it waits for until it is so.

use std::time::Duration;

use crds::status::State;

use crate::failure::Failure;
use crate::state_dir::StateDir;

/// Changes the number of containers and waits until it has been reached.
pub fn run(directory: &StateDir, replicas: u16) -> Result<(), Failure> {
    if !directory.is_running() {
        return Err(directory.nothing_runs());
    }
    directory
        .write("wanted", replicas.to_string().as_bytes())
        .map_err(|error| Failure::system("scale", error))?;
    let mut said = None;
    loop {
        if !directory.is_running() {
            return Err(directory.nothing_runs());
        }
        if let Ok(record) = directory.record()
            && record.replicas == replicas
        {
            let active = record.containers.iter().all(|part| part.state == State::Active);
            if record.gate.is_none() && active && record.containers.len() == usize::from(replicas) {
                println!("{} has {replicas} containers", record.name);
                return Ok(());
            }
            if record.gate != said {
                if let Some(gate) = &record.gate {
                    println!("waits: {gate}");
                }
                said = record.gate;
            }
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

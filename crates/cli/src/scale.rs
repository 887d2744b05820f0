//! `sipcluster scale N`: asks the supervisor for another number of containers.

use crate::args::Patience;
use crate::failure::Failure;
use crate::follow;
use crate::state_dir::StateDir;

/// Changes the number of containers and waits until it has been reached.
pub fn run(directory: &StateDir, replicas: u16, patience: Patience) -> Result<(), Failure> {
    let record = follow::bring_about(directory, patience, |desired| {
        desired.manifest.spec.replicas = replicas.into();
        match crds::broken(&desired.manifest) {
            problems if problems.is_empty() => Ok(true),
            problems => Err(Failure::problems("", &problems)),
        }
    })?;
    println!("{} has {} containers", record.name, record.replicas);
    Ok(())
}

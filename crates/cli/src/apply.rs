//! `sipcluster apply -f FILE`: makes the running cluster what a changed manifest describes.

use std::path::Path;

use crds::change::{Change, changes};
use crds::{SipCluster, Transport};

use crate::args::Patience;
use crate::failure::Failure;
use crate::state_dir::StateDir;
use crate::{follow, preflight, up};

/// Says what changes and brings it about; with `dry_run` it only says so. Nothing is touched if any of it cannot be.
pub fn run(directory: &StateDir, file: &Path, dry_run: bool, patience: Patience) -> Result<(), Failure> {
    let manifest = up::manifest(file)?;
    if dry_run {
        if !directory.is_running() {
            return Err(directory.nothing_runs());
        }
        let desired = directory.desired().ok_or_else(|| directory.nothing_runs())?;
        tell(&differences(&desired.manifest, &manifest, file)?);
        return Ok(());
    }
    let mut anything = false;
    let record = follow::bring_about(directory, patience, |desired| {
        let changes = differences(&desired.manifest, &manifest, file)?;
        tell(&changes);
        anything = !changes.is_empty();
        desired.manifest = manifest;
        Ok(anything)
    })?;
    if anything {
        println!("{} is as {} describes it", record.name, file.display());
    }
    Ok(())
}

/// What changes, if all of it can.
fn differences(from: &SipCluster, to: &SipCluster, file: &Path) -> Result<Vec<Change>, Failure> {
    let changes =
        changes(from, to).map_err(|problems| Failure::problems(&format!("{}: ", file.display()), &problems))?;
    // A transport that is new must find its port free, or no proxy could start again.
    let is_new = |transport: &&Transport| !from.spec.dispatcher.transports.contains(transport);
    let mut dispatcher = to.spec.dispatcher.clone();
    dispatcher.transports = dispatcher.transports.iter().filter(is_new).copied().collect();
    preflight::address_is_free(&dispatcher)?;
    Ok(changes)
}

fn tell(changes: &[Change]) {
    if changes.is_empty() {
        println!("nothing changes");
    }
    for change in changes {
        println!("{change}");
    }
}

//! `sipcluster restart containers|proxies|redis`: asks the supervisor to replace all parts of a kind, one at a time.

use crate::args::{Kind, Patience};
use crate::failure::Failure;
use crate::follow;
use crate::state_dir::StateDir;

/// Restarts a kind and waits until all of it is new.
pub fn run(directory: &StateDir, kind: Kind, patience: Patience) -> Result<(), Failure> {
    let record = follow::bring_about(directory, patience, |desired| {
        let restarts = &mut desired.restarts;
        match kind {
            Kind::Containers => restarts.containers += 1,
            Kind::Proxies => restarts.proxies += 1,
            Kind::Redis => {
                if let Some(url) = desired.manifest.spec.external_redis_url() {
                    return Err(Failure::usage(format!(
                        "redis: {url} is not the cluster's own; restart it by its own means, calls go on meanwhile"
                    )));
                }
                restarts.redis += 1;
            }
        }
        Ok(true)
    })?;
    let what = match kind {
        Kind::Containers => "containers",
        Kind::Proxies => "proxies",
        Kind::Redis => "redis",
    };
    println!("{}: {what} restarted", record.name);
    Ok(())
}

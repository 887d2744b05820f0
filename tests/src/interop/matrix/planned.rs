//! What is moved on purpose: `sipcluster scale` and `restart` under calls.

use std::time::Duration;

use anyhow::ensure;

use super::{Application, Cell, Fault, Today};
use crate::interop::cluster::Cluster;

/// The cells of an application.
pub fn cells(application: Application) -> Vec<Cell> {
    let machine = Fault::Machine;
    [
        (
            "scaled from three containers to four and back",
            machine(|c| run(c, &["scale", "4"]).and_then(|()| run(c, &["scale", "3"]))),
        ),
        (
            "containers restarted one by one",
            machine(|c| run(c, &["restart", "containers"])),
        ),
        (
            "proxies restarted one by one",
            machine(|c| run(c, &["restart", "proxies"])),
        ),
        ("Redis restarted", machine(|c| run(c, &["restart", "redis"]))),
    ]
    .map(|(name, fault)| Cell {
        application,
        name,
        fault,
        today: Today::Holds,
        worst: Duration::from_secs(4),
    })
    .into()
}

/// Each command waits until what it asks for is done.
fn run(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    let output = cluster.command(arguments).output()?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "sipcluster {}: {said}", arguments.join(" "));
    Ok(())
}

//! Planned moves under many dialogs.

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::calls::load;
use super::failover::{LIMIT, dialogs};
use super::load::Load;
use super::yardstick::{Effort, on_load_cpu};
use crate::interop::caller::{Caller, Transport};
use crate::interop::cluster::{Cluster, Manifest};
use crate::interop::figures::Spread;
use crate::interop::process::Process;

/// A restart of all containers, one at a time.
#[derive(Clone, Debug)]
pub struct Rolling {
    /// Dialogs that stood.
    pub dialogs: u64,
    /// How long `sipcluster restart containers` took.
    pub took: Duration,
    /// Answers of sampled dialogs meanwhile.
    pub answers: Spread,
}

/// Restarts three containers with `total` dialogs, and asks some of these all the time.
pub fn rolling_restart(total: u64) -> anyhow::Result<Rolling> {
    const SAMPLE: usize = 1_000;
    let cluster = Cluster::start(Manifest {
        name: "bench-rolling",
        address: [12, 4],
        session: "3600s",
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    dialogs(&mut caller, SAMPLE)?;
    let effort = Effort {
        calls: total - SAMPLE as u64,
        trials: 1,
        window: 64,
    };
    let fill = on_load_cpu(&Load {
        keep: true,
        ..load(&cluster, 4, effort)
    })?;
    ensure!(fill.lost + fill.refused == 0, "calls lost in filling: {fill:?}");
    let counted = |what: &str| cluster.until(what, LIMIT, |status| status.dialogs() == total);
    counted("the dialogs are counted")?;
    let since = caller.outcomes.len();
    let begun = Instant::now();
    let mut command = cluster.command(&["restart", "containers"]);
    let mut restart = Process::start(&mut command, &cluster.files().join("restart.log"))?;
    let mut next = 0;
    let status = loop {
        caller.paced(1_000, 0..20, |caller, _| {
            caller.request(next, "OPTIONS");
            next = (next + 1) % SAMPLE;
        });
        if let Some(status) = restart.ended() {
            break status;
        }
        ensure!(begun.elapsed() < LIMIT, "it does not end: {}", restart.log_tail());
    };
    let took = begun.elapsed();
    ensure!(status.success(), "{}", restart.log_tail());
    caller.settle(LIMIT)?;
    caller.expect_all_ok("OPTIONS", since, caller.outcomes_of("OPTIONS", since).count())?;
    counted("every dialog is still there")?;
    Ok(Rolling {
        dialogs: total,
        took,
        answers: caller.spread("OPTIONS", since),
    })
}

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
use crate::interop::process::{Process, lives, signal};

/// For how long answers at rest are measured; longer than a hand-over takes.
const REST: Duration = Duration::from_secs(3);

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

/// A container that hands over all it has and leaves.
#[derive(Clone, Debug)]
pub struct HandOver {
    /// Dialogs that it held.
    pub dialogs: u64,
    /// From the signal to the end of its process.
    pub took: Duration,
    /// Answers of sampled dialogs meanwhile.
    pub answers: Spread,
    /// Answers of the same dialogs, asked in the same way for as long, before.
    pub at_rest: Spread,
}

/// Dialogs that are asked all the time.
const SAMPLE: usize = 1_000;

/// Three containers with `total` dialogs, of which the caller's can be asked.
fn filled(name: &'static str, last: u8, total: u64) -> anyhow::Result<(Cluster, Caller)> {
    let cluster = Cluster::start(Manifest {
        name,
        address: [12, last],
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
    counted(&cluster, total)?;
    Ok((cluster, caller))
}

fn counted(cluster: &Cluster, total: u64) -> anyhow::Result<()> {
    cluster
        .until("every dialog is counted", LIMIT, |status| status.dialogs() == total)
        .map(drop)
}

/// Asks the caller's dialogs, 1,000 requests a second, until something is at hand.
fn ask_until<T>(caller: &mut Caller, mut over: impl FnMut() -> Option<T>) -> anyhow::Result<(T, Duration, Spread)> {
    let (since, begun) = (caller.outcomes.len(), Instant::now());
    let mut next = 0;
    let done = loop {
        caller.paced(1_000, 0..20, |caller, _| {
            caller.request(next, "OPTIONS");
            next = (next + 1) % SAMPLE;
        });
        if let Some(done) = over() {
            break done;
        }
        ensure!(begun.elapsed() < LIMIT, "it does not end");
    };
    let took = begun.elapsed();
    caller.settle(LIMIT)?;
    caller.expect_all_ok("OPTIONS", since, caller.outcomes_of("OPTIONS", since).count())?;
    Ok((done, took, caller.spread("OPTIONS", since)))
}

/// Restarts three containers with `total` dialogs, and asks some of these all the time.
pub fn rolling_restart(total: u64) -> anyhow::Result<Rolling> {
    let (cluster, mut caller) = filled("bench-rolling", 4, total)?;
    let mut command = cluster.command(&["restart", "containers"]);
    let mut restart = Process::start(&mut command, &cluster.files().join("restart.log"))?;
    let (status, took, answers) = ask_until(&mut caller, || restart.ended())?;
    ensure!(status.success(), "{}", restart.log_tail());
    counted(&cluster, total)?;
    Ok(Rolling {
        dialogs: total,
        took,
        answers,
    })
}

/// Tells one of three containers with `total` dialogs to leave, and asks some of these all the time.
pub fn hand_over(total: u64) -> anyhow::Result<HandOver> {
    let (cluster, mut caller) = filled("bench-leave", 8, total)?;
    let leaver = &cluster.status()?.containers[1];
    let hand_over = leave(leaver.running()?, leaver.dialogs.unwrap_or(0), &mut caller)?;
    cluster.settle(LIMIT)?;
    counted(&cluster, total)?;
    Ok(hand_over)
}

/// Tells a container that holds so many dialogs to leave, and asks some of the caller's all the time, before too.
pub(super) fn leave(pid: u32, dialogs: u64, caller: &mut Caller) -> anyhow::Result<HandOver> {
    let rest = Instant::now();
    let ((), _, at_rest) = ask_until(caller, || (rest.elapsed() > REST).then_some(()))?;
    signal(pid, libc::SIGTERM)?;
    let ((), took, answers) = ask_until(caller, || (!lives(pid)).then_some(()))?;
    Ok(HandOver {
        dialogs,
        took,
        answers,
        at_rest,
    })
}

//! Containers that are unequal, and too few: what least-loaded routing gains over taking turns, and what is left of the throughput when twice as
//! many calls come as can be handled.
//!
//! The containers run `busy` (`src/bin/busy.rs`), which keeps a worker for a while for each call: so it is they that are short of something, and not
//! the machine.

use std::time::Duration;

use anyhow::ensure;
use serde_json::json;

use super::calls::load;
use super::failover::LIMIT;
use super::load::{Load, Outcome};
use super::yardstick::{Effort, on_load_cpu};
use crate::interop::caller::{Caller, Transport};
use crate::interop::cluster::{Cluster, Manifest};
use crate::interop::process::binaries;

/// For how long a call keeps a worker, and twice that in a container of half the speed.
pub const BUSY: Duration = Duration::from_millis(2);

/// What 95 of 100 calls may take to be set up.
pub const SET_UP: Duration = Duration::from_millis(100);

/// For how many seconds a rate is offered.
const OFFERED: u64 = 4;

/// What four containers do of which one has half the speed, in calls a second that are set up within [`SET_UP`].
#[derive(Clone, Copy, Debug)]
pub struct Unequal {
    /// Proxies choose.
    pub least_loaded: f64,
    /// Each container is given every fourth call.
    pub in_turn: f64,
}

/// What four containers do that are offered too much.
#[derive(Clone, Debug)]
pub struct Overload {
    /// The most calls a second that were done: at saturation without a refusal, or when twice as many were offered.
    pub peak: f64,
    /// Calls a second that were offered.
    pub offered: u32,
    /// What came of them: an OPTIONS and a BYE belong to each call, and a call is lost whose last one of them is not answered.
    pub outcome: Outcome,
}

/// Four containers with one worker each; those named are of half the speed.
fn cluster(name: &'static str, address: u8, slow: &[&str]) -> anyhow::Result<Cluster> {
    let options = json!({ "microseconds": BUSY.as_micros() as u64, "slow": slow });
    Cluster::start(Manifest {
        name,
        address: [12, address],
        containers: 4,
        proxy_workers: 1,
        container_workers: 1,
        custom: Some(json!({ "command": binaries()?.join("busy"), "options": options })),
        ..Manifest::default()
    })
}

fn effort(calls: u64, window: usize) -> Effort {
    Effort {
        calls,
        trials: 1,
        window,
    }
}

/// As many calls as come in `seconds`, whatever becomes of those before them.
fn offer(cluster: &Cluster, rate: u32, seconds: u64, targets: &[String]) -> anyhow::Result<Outcome> {
    on_load_cpu(&Load {
        rate: Some(rate),
        options: 1,
        targets: targets.to_vec(),
        ..load(cluster, 16, effort(u64::from(rate) * seconds, 16_384))
    })
}

/// Calls a second with 64 in progress.
fn saturated(cluster: &Cluster) -> anyhow::Result<f64> {
    let outcome = on_load_cpu(&Load {
        options: 1,
        ..load(cluster, 16, effort(6_000, 64))
    })?;
    ensure!(outcome.lost + outcome.refused == 0, "calls lost at rest: {outcome:?}");
    Ok(outcome.rate())
}

/// Measures the one beside the other.
pub fn unequal() -> anyhow::Result<Unequal> {
    let cluster = cluster("bench-unequal", 6, &["bench-unequal-3"])?;
    let targets = targets(&cluster)?;
    let top = saturated(&cluster)?;
    Ok(Unequal {
        least_loaded: highest_rate(&cluster, top, &[])?,
        in_turn: highest_rate(&cluster, top, &targets)?,
    })
}

/// The highest rate at which nothing is refused and set-up stays within [`SET_UP`], to a fiftieth of `top`.
fn highest_rate(cluster: &Cluster, top: f64, targets: &[String]) -> anyhow::Result<f64> {
    let (mut done, mut low, mut high) = (0.0, 0.0, top * 1.25);
    while high - low > top / 50.0 {
        let rate = low.midpoint(high);
        let outcome = offer(cluster, rate as u32, OFFERED, targets)?;
        let in_time = u128::from(outcome.setup_at(0.95)) <= SET_UP.as_micros();
        if in_time && outcome.lost + outcome.refused == 0 {
            (done, low) = (outcome.rate(), rate);
        } else {
            high = rate;
        }
        // What is left of one rate is not to count for the next: as many as any container can do, until none of them waits.
        offer(cluster, (top / 10.0) as u32, 2, &[])?;
    }
    ensure!(done > 0.0, "no rate is low enough");
    Ok(done)
}

/// Request-URIs that name partitions of each container in turn: calls to them go where a proxy that takes turns would send them.
fn targets(cluster: &Cluster) -> anyhow::Result<Vec<String>> {
    const EACH: usize = 8;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    let mut found = vec![Vec::new(); 4];
    let mut before = [0; 4];
    while found.iter().any(|found| found.len() < EACH) {
        ensure!(caller.dialogs.len() < 200, "one container is given nothing: {before:?}");
        let index = caller.invite();
        caller.settle(LIMIT)?;
        let count = caller.dialogs.len() as u64;
        let status = cluster.until("the dialog is counted", LIMIT, |status| status.dialogs() == count)?;
        for (at, part) in status.containers.iter().enumerate() {
            let dialogs = part.dialogs.unwrap_or(0);
            if dialogs > before[at] && found[at].len() < EACH {
                found[at].push(caller.dialogs[index].target().to_owned());
            }
            before[at] = dialogs;
        }
    }
    for index in 0..caller.dialogs.len() {
        caller.request(index, "BYE");
    }
    caller.settle(LIMIT)?;
    let in_turn = (0..EACH).flat_map(|round| found.iter().map(move |found| found[round].clone()));
    Ok(in_turn.collect())
}

/// Measures what is left at twice the capacity.
pub fn overload() -> anyhow::Result<Overload> {
    let cluster = cluster("bench-overload", 7, &[])?;
    let saturated = saturated(&cluster)?;
    // Until the proxies have found their measure; it may show that more can be done than with so few calls in progress.
    let peak = saturated.max(offer(&cluster, (saturated * 2.0) as u32, 4, &[])?.rate());
    let offered = (peak * 2.0) as u32;
    let outcome = offer(&cluster, offered, 10, &[])?;
    Ok(Overload { peak, offered, outcome })
}

//! Six-message calls through a whole cluster: what containers and Redis cost, and whether any message overtakes another.

use std::net::SocketAddr;

use anyhow::Context;

use super::load::{Load, Outcome};
use super::machine::{LOAD, MEASURED, pin};
use super::profile;
use super::redis::Info;
use super::yardstick::{Effort, Measured, measure, on_load_cpu};
use crate::interop::cluster::{Cluster, Manifest, Part};
use crate::interop::http;

/// What a call costs in a cluster.
#[derive(Clone, Debug)]
pub struct Costs {
    /// CPU groups: proxy, containers, Redis.
    pub measured: Measured,
    /// Transactions and scripts of Redis for one call: each carries a turn's writes.
    pub turns: f64,
    /// Fenced writes of a partition for one call.
    pub writes: f64,
    /// The costliest symbols of Redis, in a run beyond those that count.
    pub redis: Vec<String>,
}

/// Which processes have the measured CPU for themselves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Alone {
    /// The proxy; containers, Redis and load share the other CPU.
    Proxy,
    /// The containers; proxy, Redis and load share the other CPU.
    Containers,
}

/// Group of the proxy in [`Costs::measured`].
pub const PROXY: usize = 0;
/// Group of the containers.
pub const CONTAINERS: usize = 1;
/// Group of Redis.
pub const REDIS: usize = 2;

/// Pids of running parts.
pub fn pids(parts: &[Part]) -> anyhow::Result<Vec<u32>> {
    parts.iter().map(Part::running).collect()
}

/// A load towards a cluster.
#[must_use]
pub fn load(cluster: &Cluster, ports: u16, effort: Effort) -> Load {
    let callers = (0..ports).map(|port| SocketAddr::new(cluster.caller_address(), 7000 + port));
    Load {
        proxy: cluster.address(),
        callers: callers.collect(),
        callees: Vec::new(),
        window: effort.window,
        calls: effort.calls,
        rate: None,
        options: 0,
        keep: false,
        targets: Vec::new(),
    }
}

/// Measures calls through one proxy with one worker and three containers with one worker each.
pub fn costs(alone: Alone, effort: Effort) -> anyhow::Result<Costs> {
    let cluster = Cluster::start(Manifest {
        name: "bench-calls",
        address: [11, 1],
        proxies: 1,
        proxy_workers: 1,
        container_workers: 1,
        session: "3600s",
        ..Manifest::default()
    })?;
    let status = cluster.status()?;
    let groups = [
        pids(&status.proxies)?,
        pids(&status.containers)?,
        vec![status.redis.running()?],
    ];
    let profiled = if alone == Alone::Proxy { PROXY } else { CONTAINERS };
    for (group, pids) in groups.iter().enumerate() {
        pin(pids, if group == profiled { MEASURED } else { LOAD });
    }
    let url = status.redis.url.context("Redis's URL")?;
    let (before, written) = (Info::of(&url)?, writes(&status.containers)?);
    let measured = measure(
        &load(&cluster, 1, effort),
        &groups,
        effort.trials,
        Some((profiled, cluster.files())),
    )?;
    // The warm-up and the profiled run made calls too.
    let calls =
        measured.trials.iter().map(|trial| trial.outcome.done).sum::<u64>() + effort.calls.min(2_000) + effort.calls;
    let after = Info::of(&url)?;
    let writes = (writes(&status.containers)? - written) / calls as f64;
    let (outcome, redis) = profile::during(&groups[REDIS], cluster.files(), || {
        on_load_cpu(&load(&cluster, 1, effort))
    });
    outcome?;
    Ok(Costs {
        turns: (after.turns() - before.turns()) as f64 / calls as f64,
        writes,
        measured,
        redis,
    })
}

/// Fenced writes of partitions that the containers have made.
fn writes(containers: &[Part]) -> anyhow::Result<f64> {
    let each = containers.iter().map(|part| {
        let admin = part.admin.context("a container's admin address")?;
        let text = http::get(admin, "/metrics")?;
        http::metric_where(&text, "sipcluster_container_writes_total", "sent").context("a container's writes")
    });
    each.sum()
}

/// Calls whose messages come in one go, through a proxy with four workers; the outcome counts what was overtaken.
pub fn order(effort: Effort) -> anyhow::Result<Outcome> {
    let cluster = Cluster::start(Manifest {
        name: "bench-order",
        address: [11, 2],
        proxies: 1,
        proxy_workers: 4,
        session: "3600s",
        ..Manifest::default()
    })?;
    let load = Load {
        options: 3,
        ..load(&cluster, 16, effort)
    };
    on_load_cpu(&load)
}

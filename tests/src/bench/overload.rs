//! Containers of unequal speed, and more calls than all of them can take.

use std::time::Duration;

use anyhow::ensure;

use super::calls::{load, pids};
use super::load::{Load, Outcome};
use super::machine::{LOAD, MEASURED, pin};
use super::throttle::Throttle;
use super::yardstick::{Effort, on_load_cpu};
use crate::interop::cluster::{Cluster, Manifest};

/// A full share of the containers' CPU in each round.
const SHARE: Duration = Duration::from_millis(2);

/// What is left of a round, so that proxy, Redis and load on the other CPU are never what is slow.
const REST: Duration = Duration::from_millis(7);

/// Calls in progress for each container that takes an equal part.
const WINDOW: usize = 400;

/// What the least-loaded choice makes of a container at half speed.
#[derive(Clone, Debug)]
pub struct Unequal {
    /// Four containers, one at half speed.
    pub ours: Outcome,
    /// The slow one alone, with an equal part of the calls.
    pub slow: Outcome,
}

impl Unequal {
    /// Calls a second, as a multiple of what round robin reaches: four times what the slowest does.
    #[must_use]
    pub fn gain(&self) -> f64 {
        self.ours.rate() / (4.0 * self.slow.rate())
    }
}

/// A cluster whose containers have these shares of a CPU, in halves.
struct Slow {
    cluster: Cluster,
    _throttle: Throttle,
}

impl Slow {
    fn start(name: &'static str, address: u8, halves: &[u32], round: u32) -> anyhow::Result<Self> {
        let cluster = Cluster::start(Manifest {
            name,
            address: [13, address],
            containers: u32::try_from(halves.len())?,
            proxies: 1,
            proxy_workers: 1,
            container_workers: 1,
            session: "3600s",
            ..Manifest::default()
        })?;
        let status = cluster.status()?;
        let containers = pids(&status.containers)?;
        pin(&containers, MEASURED);
        pin(&pids(&status.proxies)?, LOAD);
        pin(&[status.redis.running()?], LOAD);
        let used: u32 = halves.iter().sum();
        let shares = containers.into_iter().zip(halves.iter().map(|half| SHARE * *half / 2));
        let rest = REST + SHARE * round.saturating_sub(used) / 2;
        let throttle = Throttle::start(shares.collect(), rest)?;
        Ok(Self {
            cluster,
            _throttle: throttle,
        })
    }

    fn load(&self, window: usize, calls: u64) -> Load {
        let effort = Effort {
            calls,
            trials: 1,
            window,
        };
        load(&self.cluster, 4, effort)
    }
}

/// Four containers, one of them at half speed, against what the slow one does alone in rounds of the same length. The calls in progress are
/// 1.4 times as many, so an equal set-up time means 1.4 times the throughput.
pub fn unequal(calls: u64) -> anyhow::Result<Unequal> {
    const ROUND: u32 = 7;
    let slow = {
        let slow = Slow::start("bench-slow", 1, &[1], ROUND)?;
        on_load_cpu(&slow.load(WINDOW, calls / 8))?
    };
    let all = Slow::start("bench-unequal", 2, &[2, 2, 2, 1], ROUND)?;
    // How fast each is shows in its open work, once there is some.
    on_load_cpu(&all.load(WINDOW * 4, calls / 4))?;
    let ours = on_load_cpu(&all.load(WINDOW * 4 * 14 / 10, calls))?;
    let failed = ours.lost + ours.refused + slow.lost + slow.refused;
    ensure!(failed == 0, "calls failed: {ours:?} {slow:?}");
    Ok(Unequal { ours, slow })
}

/// What becomes of twice the calls that a cluster can take.
#[derive(Clone, Debug)]
pub struct Overload {
    /// The most calls a second, by as many calls in progress as it takes.
    pub peak: f64,
    /// With twice as many a second, whatever becomes of them.
    pub twice: Outcome,
}

/// Three containers, as many calls as they can take, then twice as many for `time`.
pub fn twice_the_capacity(calls: u64, time: Duration) -> anyhow::Result<Overload> {
    let cluster = Slow::start("bench-overload", 3, &[2, 2, 2], 6)?;
    let peak = on_load_cpu(&cluster.load(WINDOW * 3, calls))?;
    ensure!(peak.lost + peak.refused == 0, "calls failed at the peak: {peak:?}");
    let rate = peak.rate() * 2.0;
    // Without an answer a call is lost after two seconds: no more can be in progress.
    let load = Load {
        rate: Some(rate as u32),
        ..cluster.load((rate * 3.0) as usize, (rate * time.as_secs_f64()) as u64)
    };
    let twice = on_load_cpu(&load)?;
    Ok(Overload {
        peak: peak.rate(),
        twice,
    })
}

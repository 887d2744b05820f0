//! What happens while calls are up. Each ends with a cluster that is as it was wanted, for the next one.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::world::{NAME, World};
use crate::interop::process::wait_every;

/// A scenario.
pub struct Scenario {
    /// What people call it.
    pub title: &'static str,
    /// What is done, until all is as it should be again.
    pub act: fn(&World) -> anyhow::Result<()>,
    /// The longest that an answer may take meanwhile.
    pub limit: Duration,
}

/// A planned move: an answer waits for a hand-over at most.
const PLANNED: Duration = Duration::from_millis(1500);

/// A fault: it has to be noticed, and taken over; a datagram may have to be repeated.
const FAULT: Duration = Duration::from_secs(4);

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

/// All of them, in their order.
pub const ALL: [Scenario; 10] = [
    Scenario {
        title: "kubectl scale, 2 to 4",
        act: |world| scale(world, 4),
        limit: PLANNED,
    },
    Scenario {
        title: "kubectl scale, 4 to 2",
        act: |world| scale(world, 2),
        limit: PLANNED,
    },
    Scenario {
        title: "a container killed (kill -9)",
        act: container_killed,
        limit: FAULT,
    },
    Scenario {
        title: "a container's pod deleted",
        act: |world| pod_deleted(world, "demo-1", 2),
        limit: PLANNED,
    },
    Scenario {
        title: "rolling upgrade of the containers",
        act: upgrade,
        limit: PLANNED,
    },
    Scenario {
        title: "rolling upgrade of the proxies",
        act: proxies_upgraded,
        limit: FAULT,
    },
    Scenario {
        title: "a node cut off, with a container",
        act: node_lost,
        limit: FAULT,
    },
    Scenario {
        title: "Redis killed",
        act: redis_killed,
        limit: FAULT,
    },
    Scenario {
        title: "the operator killed in the middle of scaling",
        act: operator_killed,
        limit: PLANNED,
    },
    Scenario {
        title: "API server away, a container killed meanwhile",
        act: api_away,
        limit: FAULT,
    },
];

/// Containers that every scenario begins and ends with, but for the scaling ones.
pub const CONTAINERS: u64 = 2;

fn scale(world: &World, to: u64) -> anyhow::Result<()> {
    world
        .kubernetes
        .kubectl(&["scale", "sipcluster", NAME, &format!("--replicas={to}")])?;
    world.ready(to).map(drop)
}

fn container_killed(world: &World) -> anyhow::Result<()> {
    world.signal("demo-0", libc::SIGKILL)?;
    world.until("the operator sees it", |status| status.away() > 0)?;
    world.ready(CONTAINERS).map(drop)
}

fn pod_deleted(world: &World, pod: &str, containers: u64) -> anyhow::Result<()> {
    let uid = world.uid(pod).context("it is there")?;
    world.kubernetes.kubectl(&["delete", "pod", pod, "--wait=false"])?;
    world.replaced(pod, &uid)?;
    world.ready(containers).map(drop)
}

fn upgrade(world: &World) -> anyhow::Result<()> {
    let before: Vec<_> = ["demo-0", "demo-1"].map(|pod| (pod, world.uid(pod))).into();
    world.patch(r#"{"spec": {"application": {"answer": {"sessionExpires": "20m"}}}}"#)?;
    for (pod, uid) in before {
        world.replaced(pod, &uid.context("it is there")?)?;
    }
    world.ready(CONTAINERS).map(drop)
}

fn proxies_upgraded(world: &World) -> anyhow::Result<()> {
    let names = || -> anyhow::Result<Vec<String>> {
        let pods = world
            .kubernetes
            .get(&["pods", "-l", "app.kubernetes.io/component=proxy"])?;
        let items = pods["items"].as_array().context("a list")?;
        Ok(items
            .iter()
            .filter_map(|pod| pod["metadata"]["name"].as_str().map(str::to_owned))
            .collect())
    };
    let before = names()?;
    world.patch(r#"{"spec": {"proxies": {"drain": "5s"}}}"#)?;
    wait_every(
        Duration::from_millis(500),
        "all proxies are new",
        Duration::from_secs(90),
        || {
            let now = names().ok()?;
            (now.len() == before.len() && now.iter().all(|name| !before.contains(name))).then_some(())
        },
    )?;
    world.ready(CONTAINERS).map(drop)
}

fn redis_killed(world: &World) -> anyhow::Result<()> {
    let uid = world.uid("demo-redis-0").context("it is there")?;
    world.kubernetes.kubectl(&[
        "delete",
        "pod",
        "demo-redis-0",
        "--grace-period=0",
        "--force",
        "--wait=false",
    ])?;
    world.replaced("demo-redis-0", &uid)?;
    world.until("every call has two copies again", |status| {
        status
            .condition("ReplicationHealthy")
            .is_some_and(|(status, _)| status == "True")
    })?;
    world.ready(CONTAINERS).map(drop)
}

fn operator_killed(world: &World) -> anyhow::Result<()> {
    let leader = world.leader()?;
    world
        .kubernetes
        .kubectl(&["scale", "sipcluster", NAME, "--replicas=3"])?;
    world.kubernetes.kubectl(&[
        "delete",
        "pod",
        "-n",
        "sipcluster",
        &leader,
        "--grace-period=0",
        "--force",
        "--wait=false",
    ])?;
    world.ready(3)?;
    ensure!(world.leader()? != leader, "another replica leads now");
    scale(world, CONTAINERS)
}

/// The kubelet may start the container again or not, while it cannot ask: calls need neither.
fn api_away(world: &World) -> anyhow::Result<()> {
    world.kubernetes.run(&["api", "stop"])?;
    let away = Instant::now();
    let killed = world.signal("demo-1", libc::SIGKILL);
    let is_over = || (away.elapsed() >= AWAY).then_some(());
    wait_every(
        Duration::from_millis(500),
        "the API server's absence",
        2 * AWAY,
        is_over,
    )?;
    world.kubernetes.run(&["api", "cont"])?;
    killed?;
    world.ready(CONTAINERS).map(drop)
}

/// A node that is cut off for as long as it takes until all is well without it.
fn node_lost(world: &World) -> anyhow::Result<()> {
    let node = world.node_of("demo-1")?;
    let uid = world.uid("demo-1").context("it is there")?;
    world.kubernetes.run(&["cut", &node])?;
    let over = world.replaced("demo-1", &uid).and_then(|()| world.ready(CONTAINERS));
    world.kubernetes.run(&["mend", &node])?;
    over?;
    // The node's kubelet ends what was given up meanwhile; the next scenario is to have nothing of it.
    let alone = || (world.processes("demo-1").ok()?.len() == 1).then_some(());
    wait_every(
        Duration::from_millis(500),
        "the old container is gone",
        Duration::from_secs(60),
        alone,
    )
}

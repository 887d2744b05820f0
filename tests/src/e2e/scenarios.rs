//! What happens while calls are up. Each ends with a cluster that is as it was wanted, for the next one.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::drift;
use super::world::{NAME, REPLICA_PRIORITY, World};
use crate::interop::process::wait_every;

/// A scenario.
pub struct Scenario {
    /// What people call it.
    pub title: &'static str,
    /// What is done, until all is as it should be again.
    pub act: fn(&World) -> anyhow::Result<()>,
    /// The longest that an answer may take meanwhile.
    pub limit: Duration,
    /// Whether new calls may be refused meanwhile (503); none may be lost.
    pub may_refuse: bool,
}

/// A planned move: an answer waits for a hand-over at most.
const PLANNED: Duration = Duration::from_millis(1500);

/// A fault: it has to be noticed, and taken over; a datagram may have to be repeated.
const FAULT: Duration = Duration::from_secs(4);

/// A fault that takes a container and the Redis master at once: nobody can claim what it had before another master is promoted.
const BOTH: Duration = Duration::from_secs(12);

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

/// All of them, in their order.
pub const ALL: [Scenario; 14] = [
    Scenario {
        title: "kubectl scale, 2 to 4",
        act: |world| scale(world, 4),
        limit: PLANNED,
        may_refuse: false,
    },
    Scenario {
        title: "kubectl scale, 4 to 2",
        act: |world| scale(world, 2),
        limit: PLANNED,
        may_refuse: false,
    },
    Scenario {
        title: "a container killed (kill -9)",
        act: container_killed,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "a container's pod deleted",
        act: |world| pod_deleted(world, "demo-1", 2),
        limit: PLANNED,
        may_refuse: false,
    },
    Scenario {
        title: "rolling upgrade of the containers",
        act: upgrade,
        limit: PLANNED,
        may_refuse: false,
    },
    Scenario {
        title: "rolling upgrade of the proxies",
        act: proxies_upgraded,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "rolling upgrade of Redis",
        act: redis_upgraded,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "every object changed, and deleted",
        act: drift,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "a node cut off, with a container",
        act: |world| node_lost(world, false),
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "a node cut off, with a container and the Redis master",
        act: |world| node_lost(world, true),
        limit: BOTH,
        may_refuse: true,
    },
    Scenario {
        title: "the Redis master killed (kill -9)",
        act: redis_killed,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "the Redis master's pod deleted, without grace",
        act: redis_deleted,
        limit: FAULT,
        may_refuse: false,
    },
    Scenario {
        title: "the operator killed in the middle of scaling",
        act: operator_killed,
        limit: PLANNED,
        may_refuse: false,
    },
    Scenario {
        title: "API server away, a container killed meanwhile",
        act: api_away,
        limit: FAULT,
        may_refuse: false,
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

fn redis_upgraded(world: &World) -> anyhow::Result<()> {
    let before: Vec<_> = world.redis_pods().map(|pod| (world.uid(&pod), pod)).collect();
    world.patch(r#"{"spec": {"redis": {"managed": {"resources": {"requests": {"cpu": "20m"}}}}}}"#)?;
    for (uid, pod) in before.into_iter().rev() {
        world.replaced(&pod, &uid.context("it is there")?)?;
    }
    in_sync(world)
}

fn drift(world: &World) -> anyhow::Result<()> {
    drift::undone(world)?;
    in_sync(world)
}

fn redis_killed(world: &World) -> anyhow::Result<()> {
    let master = world.redis_master()?;
    world.kill_redis(&master)?;
    promoted(world, &master)
}

fn redis_deleted(world: &World) -> anyhow::Result<()> {
    let master = world.redis_master()?;
    world
        .kubernetes
        .kubectl(&["delete", "pod", &master, "--grace-period=0", "--force", "--wait=false"])?;
    promoted(world, &master)
}

/// Another is the master, and the former one follows it.
fn promoted(world: &World, former: &str) -> anyhow::Result<()> {
    wait_every(
        Duration::from_millis(200),
        "another master is promoted",
        Duration::from_secs(60),
        || world.redis_master().ok().filter(|master| master != former).map(drop),
    )?;
    in_sync(world)
}

/// All instances of Redis are in sync, and the cluster is as wanted.
fn in_sync(world: &World) -> anyhow::Result<()> {
    world.redis_in_sync()?;
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
fn node_lost(world: &World, with_master: bool) -> anyhow::Result<()> {
    let node = world.node_of("demo-1")?;
    place_master(world, &node, with_master)?;
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
    )?;
    in_sync(world)
}

/// Has Sentinels promote another if the Redis master is not on this node and is to be, or the other way round.
fn place_master(world: &World, node: &str, there: bool) -> anyhow::Result<()> {
    let master = world.redis_master()?;
    let mut fit = Vec::new();
    for pod in world.redis_pods() {
        if (world.node_of(&pod)? == node) == there {
            fit.push(pod);
        }
    }
    if fit.contains(&master) {
        return in_sync(world);
    }
    let wanted = fit.first().with_context(|| format!("no Redis fits node{node}"))?;
    world.prefer_redis(wanted)?;
    world.kill_redis(&master)?;
    let over = promoted(world, &master);
    // Whatever came of it: the next one to be preferred is to be the only one.
    world.set_redis_priority(wanted, REPLICA_PRIORITY)?;
    over?;
    let promoted = world.redis_master()?;
    ensure!(promoted == *wanted, "{promoted} has been promoted, not {wanted}");
    Ok(())
}

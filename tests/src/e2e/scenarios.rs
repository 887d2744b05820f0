//! What happens while calls are up. Each ends with a cluster that is as it was wanted, for the next one.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use serde_json::{Value, json};

use super::kubernetes::image;
use super::table::{FOREVER, next_image};
use super::world::{LIMIT, NAME, REPLICA_PRIORITY, Status, World};
use super::{beside, drift, external, nodes, phones, silent, strangers};
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
    /// Whether processes are ended, networks asked or changed, or nodes taken away: what only a cluster of our own is there for.
    pub takes_nodes: bool,
}

/// A planned move: an answer waits for a hand-over at most.
const fn planned(title: &'static str, act: fn(&World) -> anyhow::Result<()>) -> Scenario {
    Scenario {
        title,
        act,
        limit: Duration::from_millis(1500),
        may_refuse: false,
        takes_nodes: false,
    }
}

impl Scenario {
    const fn in_nodes(self) -> Self {
        Self {
            takes_nodes: true,
            ..self
        }
    }
}

/// A fault: it has to be noticed, and taken over; a datagram may have to be repeated.
const fn fault(title: &'static str, act: fn(&World) -> anyhow::Result<()>) -> Scenario {
    Scenario {
        limit: Duration::from_secs(4),
        ..planned(title, act)
    }
}

/// A fault that takes a container and the Redis master at once: nobody can claim what it had before another master is promoted.
const fn fault_of_both(title: &'static str, act: fn(&World) -> anyhow::Result<()>) -> Scenario {
    Scenario {
        limit: Duration::from_secs(12),
        may_refuse: true,
        ..planned(title, act)
    }
}

/// How soon another replica of the operator leads. A Lease holds for 6 s, and is looked at every 2 s by a replica that may have to be started first.
const LEADS: Duration = Duration::from_secs(20);

/// How long the API server is away.
const AWAY: Duration = Duration::from_secs(60);

/// All of them, in their order. Callers behind a NAT are silent from [`silent::AHEAD`] to those of their own; nothing in between takes a node away.
pub const ALL: [Scenario; 42] = [
    planned("kubectl scale, 2 to 5", |world| scale(world, 5)),
    planned("kubectl scale, 5 to 2", |world| scale(world, CONTAINERS)),
    planned("a HorizontalPodAutoscaler, 2 to 3", autoscaled),
    fault("a container killed (kill -9)", container_killed).in_nodes(),
    planned("a container's pod deleted", |world| {
        pod_deleted(world, "demo-1", |world, delete| {
            world.kubernetes.kubectl(delete).map(drop)
        })
    }),
    planned("rolling upgrade of the containers, to another image", upgrade),
    fault("rolling upgrade of the proxies", |world| {
        proxies_replaced(world, |world| world.patch(r#"{"spec": {"proxies": {"drain": "5s"}}}"#))
    }),
    fault("rolling upgrade of Redis", |world| {
        redis_replaced(world, |world| {
            world.patch(r#"{"spec": {"redis": {"managed": {"resources": {"requests": {"cpu": "20m"}}}}}}"#)
        })
    }),
    planned("rolling upgrade of the operator, while it scales", operator_upgraded),
    fault("paused, and a container killed", paused).in_nodes(),
    fault("rotation of the key", key_rotated),
    fault("rotation of the password of Redis", password_rotated),
    planned("the operator killed in the middle of scaling, 2 to 5", |world| {
        operator_killed(world, is_away, |world| begin_to_scale(world, 5))?;
        world.ready(5).map(drop)
    })
    .in_nodes(),
    planned("the operator killed in the middle of scaling, 5 to 2", |world| {
        operator_killed(world, is_away, |world| begin_to_scale(world, CONTAINERS))?;
        world.ready(CONTAINERS).map(drop)
    })
    .in_nodes(),
    planned("the operator killed in the middle of a rolling upgrade", |world| {
        upgraded(world, &session_timer("21m"), |world, change| {
            operator_killed(world, is_away, |world| world.patch(change))
        })
    })
    .in_nodes(),
    fault(
        "the operator killed in the middle of a rolling upgrade of the proxies",
        |world| {
            proxies_replaced(world, |world| {
                operator_killed(world, Status::is_on_its_way, |world| {
                    world.patch(r#"{"spec": {"proxies": {"drain": "4s"}}}"#)
                })
            })
        },
    )
    .in_nodes(),
    fault(
        "the operator killed in the middle of a rolling upgrade of Redis",
        |world| {
            redis_replaced(world, |world| {
                operator_killed(world, Status::is_on_its_way, |world| {
                    world.patch(r#"{"spec": {"redis": {"managed": {"resources": {"requests": {"cpu": "30m"}}}}}}"#)
                })
            })
        },
    )
    .in_nodes(),
    fault("a container and the operator killed (kill -9)", |world| {
        with_operator(world, |world| world.signal("demo-0", libc::SIGKILL))?;
        world.ready(CONTAINERS).map(drop)
    })
    .in_nodes(),
    planned("a container's pod deleted, and the operator killed", |world| {
        pod_deleted(world, "demo-1", |world, delete| {
            operator_killed(world, is_away, |world| world.kubernetes.kubectl(delete).map(drop))
        })
    })
    .in_nodes(),
    planned("an image that cannot be pulled, and one that can", |world| {
        stuck(
            world,
            "localhost/nowhere:e2e",
            &["ErrImagePull", "ImagePullBackOff"],
            "22m",
        )
    }),
    planned("an image that ends at once, and one that does not", |world| {
        // It is another program's, which does not know the arguments.
        stuck(world, &image("operator"), &["CrashLoopBackOff"], "23m")
    }),
    fault("kubectl drain of two nodes that have a container each", drained).in_nodes(),
    fault("every object changed, and deleted", drift),
    planned("a stranger's pod beside it", strangers::kept_out).in_nodes(),
    planned("wrong SipClusters beside it", beside::wrong),
    planned(
        "another SipCluster, deleted in the middle of a rollout",
        beside::deleted,
    ),
    planned("another SipCluster, the operator killed before it is Ready", begun).in_nodes(),
    planned("another SipCluster, whose Redis is not its own", beside::borrowing).in_nodes(),
    planned(
        "others whose Redis is outside, over TLS and a Redis Cluster, a container killed",
        external::outlived,
    )
    .in_nodes(),
    fault(
        "proxies in their nodes' network beside it, one deleted, then all replaced",
        nodes::replaced,
    )
    .in_nodes(),
    planned(
        "another SipCluster at a port of a node, scaled and its proxies replaced",
        nodes::at_a_port,
    )
    .in_nodes(),
    planned(silent::CALLERS[0].title, |world| {
        silent::ended(world, &silent::CALLERS[0])
    })
    .in_nodes(),
    planned(silent::CALLERS[1].title, |world| {
        silent::ended(world, &silent::CALLERS[1])
    })
    .in_nodes(),
    planned(silent::CALLERS[2].title, |world| {
        silent::ended(world, &silent::CALLERS[2])
    })
    .in_nodes(),
    fault("a node cut off, with a container", |world| node_lost(world, false, cut)).in_nodes(),
    fault("a node cut off, with a container, and the operator killed", |world| {
        node_lost(world, false, |world, node| {
            operator_killed(world, is_away, |world| cut(world, node))
        })
    })
    .in_nodes(),
    fault_of_both("a node cut off, with a container and the Redis master", |world| {
        node_lost(world, true, cut)
    })
    .in_nodes(),
    fault_of_both(
        "a node cut off, with a container and the Redis master, and the operator killed",
        |world| {
            node_lost(world, true, |world, node| {
                operator_killed(world, is_away, |world| cut(world, node))
            })
        },
    )
    .in_nodes(),
    fault("the Redis master killed (kill -9)", |world| {
        redis_killed(world, |world, kill| kill(world))
    })
    .in_nodes(),
    fault("the Redis master and the operator killed (kill -9)", |world| {
        redis_killed(world, |world, kill| with_operator(world, kill))
    })
    .in_nodes(),
    fault("the Redis master's pod deleted, without grace", redis_deleted),
    fault("API server away for a minute, a container killed meanwhile", api_away).in_nodes(),
];

/// Containers that every scenario begins and ends with, but for the scaling ones.
pub const CONTAINERS: u64 = 2;

fn begin_to_scale(world: &World, to: u64) -> anyhow::Result<()> {
    let replicas = format!("--replicas={to}");
    world
        .kubernetes
        .kubectl(&["scale", "sipcluster", NAME, &replicas])
        .map(drop)
}

fn scale(world: &World, to: u64) -> anyhow::Result<()> {
    begin_to_scale(world, to)?;
    world.ready(to).map(drop)
}

/// The resource's scale names the containers' pods, and no others: those whose metrics an autoscaler asks for.
fn selected(world: &World) -> anyhow::Result<()> {
    let path = format!("/apis/sipcluster.dev/v1alpha1/namespaces/default/sipclusters/{NAME}/scale");
    let scale: Value = serde_json::from_str(&world.kubernetes.kubectl(&["get", "--raw", &path])?)?;
    let selector = scale["status"]["selector"]
        .as_str()
        .context("the scale has a selector")?;
    let names = |pods: &Value| -> BTreeSet<String> {
        let pods = pods["items"].as_array().into_iter().flatten();
        pods.filter_map(|pod| Some(pod["metadata"]["name"].as_str()?.to_owned()))
            .collect()
    };
    let selected = names(&world.kubernetes.get(&["pods", "-l", selector])?);
    let containers = (0..CONTAINERS).map(|ordinal| format!("{NAME}-{ordinal}")).collect();
    ensure!(selected == containers, "{selector} selects {selected:?}");
    Ok(())
}

fn container_killed(world: &World) -> anyhow::Result<()> {
    world.signal("demo-0", libc::SIGKILL)?;
    world.until("the operator sees it", is_away)?;
    world.ready(CONTAINERS).map(drop)
}

/// One that wants more containers than there are asks the resource's scale for them.
fn autoscaled(world: &World) -> anyhow::Result<()> {
    let autoscaler = json!({
        "apiVersion": "autoscaling/v2",
        "kind": "HorizontalPodAutoscaler",
        "metadata": { "name": NAME },
        "spec": {
            "scaleTargetRef": { "apiVersion": "sipcluster.dev/v1alpha1", "kind": "SipCluster", "name": NAME },
            "minReplicas": 3,
            "maxReplicas": 5,
        },
    });
    selected(world)?;
    world.kubernetes.apply(&autoscaler.to_string(), world.scratch())?;
    let scaled = world.ready(3);
    world.kubernetes.kubectl(&["delete", "hpa", NAME])?;
    scaled?;
    scale(world, CONTAINERS)
}

/// It is deleted by `delete`, which is given kubectl's arguments for that.
fn pod_deleted(
    world: &World,
    pod: &str,
    delete: impl FnOnce(&World, &[&str]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let uid = world.uid(pod).context("it is there")?;
    delete(world, &["delete", "pod", pod, "--wait=false"])?;
    world.replaced(pod, &uid)?;
    world.ready(CONTAINERS).map(drop)
}

/// To a named cluster no other image is brought, so there it is another session timer.
fn upgrade(world: &World) -> anyhow::Result<()> {
    if world.kubernetes.outside().is_none() {
        return upgraded(world, &session_timer("20m"), World::patch);
    }
    let image = next_image();
    let change = json!({ "spec": { "containers": { "image": image } } });
    upgraded(world, &change.to_string(), World::patch)?;
    for pod in ["demo-0", "demo-1"] {
        let now = world.kubernetes.get(&["pod", pod])?;
        let named = &now["spec"]["containers"][0]["image"];
        // The kubelet calls an image of two names by either, so it is asked only whether it runs.
        let runs = &now["status"]["containerStatuses"][0]["state"]["running"];
        ensure!(*named == image && runs.is_object(), "{pod} does not run {image}: {now}");
    }
    Ok(())
}

/// A change that all containers are replaced for, brought in by `begin`.
fn upgraded(world: &World, change: &str, begin: impl FnOnce(&World, &str) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before: Vec<_> = ["demo-0", "demo-1"].map(|pod| (pod, world.uid(pod))).into();
    begin(world, change)?;
    for (pod, uid) in before {
        world.replaced(pod, &uid.context("it is there")?)?;
    }
    world.ready(CONTAINERS).map(drop)
}

/// A change that containers are replaced for, and by which the image is the operator's again.
fn session_timer(session: &str) -> String {
    format!(
        r#"{{"spec": {{"application": {{"answer": {{"sessionExpires": "{session}"}}}}, "containers": {{"image": null}}}}}}"#
    )
}

/// An image that does not run: the rollout stops at one container and says why, and the manifest that repairs it replaces that one first.
fn stuck(world: &World, image: &str, reasons: &[&str], session: &str) -> anyhow::Result<()> {
    let other = world.uid("demo-0").context("it is there")?;
    world.patch(&format!(r#"{{"spec": {{"containers": {{"image": "{image}"}}}}}}"#))?;
    let named = |text: &str| reasons.iter().any(|reason| text.contains(&format!("demo-1: {reason}")));
    world.until(&format!("the condition says one of {reasons:?}"), |status| {
        status
            .condition("Degraded")
            .is_some_and(|(status, why)| status == "True" && named(why))
    })?;
    let column = world.kubernetes.kubectl(&["get", "sipcluster", NAME])?;
    ensure!(named(&column), "the column does not say why: {column}");
    let events = world
        .kubernetes
        .kubectl(&["events", "--for", &format!("sipcluster/{NAME}")])?;
    let is_told = |reason: &str| events.contains(&format!("demo-1 does not answer: {reason}"));
    ensure!(
        reasons.iter().any(|reason| is_told(reason)),
        "no event says why: {events}"
    );
    ensure!(world.uid("demo-0").as_deref() == Some(&*other), "the rollout went on");
    // If demo-0 went before demo-1 is back, two would be away.
    world.patch(&session_timer(session))?;
    world.replaced("demo-0", &other)?;
    world.ready(CONTAINERS).map(drop)
}

/// All proxies, for a change that is brought in by `begin`, with calls over TCP besides: a phone whose proxy has closed its connection connects
/// anew, and loses no call.
fn proxies_replaced(world: &World, begin: impl FnOnce(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let names = || -> anyhow::Result<Vec<String>> {
        let pods = world.pods("proxy")?;
        Ok(pods.into_iter().map(|(name, _)| name).collect())
    };
    let before = names()?;
    let address = world.status()?.address().context("the SipCluster has an address")?;
    let network = world.kubernetes.outside();
    let (over, up) = (AtomicBool::new(false), AtomicUsize::new(0));
    let (replaced, in_use, called) = std::thread::scope(|threads| {
        let phones = threads.spawn(|| phones::call(network, address, &over, &up));
        let watch = threads.spawn(|| most_in_use(world, address.port(), &over));
        let are_up = || (up.load(Ordering::Relaxed) >= phones::ENOUGH).then_some(());
        let are_new = || {
            let now = names().ok()?;
            (now.len() == before.len() && now.iter().all(|name| !before.contains(name))).then_some(())
        };
        let (look, limit) = (Duration::from_millis(500), Duration::from_secs(90));
        let replaced = wait_every(look, "calls are up over TCP", limit, are_up)
            .and_then(|()| begin(world))
            .and_then(|()| wait_every(look, "all proxies are new", limit, are_new))
            .and_then(|()| world.ready(CONTAINERS));
        over.store(true, Ordering::Relaxed);
        let watch = watch.join().expect("the watch does not panic");
        (replaced, watch, phones.join().expect("phones do not panic"))
    });
    called?;
    replaced?;
    ensure!(
        in_use > 0 || network.is_none(),
        "no proxy had a phone's connection when it was told to end"
    );
    Ok(())
}

/// The most connections of clients that a proxy had after it was told to end, until `over`.
fn most_in_use(world: &World, port: u16, over: &AtomicBool) -> usize {
    let mut most = 0;
    let mut look = || {
        for proxy in world.ending_proxies().unwrap_or_default() {
            most = most.max(world.connections(&proxy, port).unwrap_or_default());
        }
        over.load(Ordering::Relaxed).then_some(())
    };
    // The scenario ends it.
    let _ = wait_every(Duration::from_millis(100), "the rollout's end", FOREVER, &mut look);
    most
}

/// Calls that began with the key before it are up all the while: two rollouts of containers and proxies, and a rest at the end.
fn key_rotated(world: &World) -> anyhow::Result<()> {
    let before = world.status()?.issuing().context("the status says which key issues")?;
    let next = before + 1;
    world.patch(&format!(r#"{{"spec": {{"keys": {{"current": {next}}}}}}}"#))?;
    world.until("all parts learn the next key", |status| {
        status
            .condition("Ready")
            .is_some_and(|(_, why)| why.contains(&format!("all parts learn key {next}")))
    })?;
    world.until_within(2 * LIMIT, "all issue with the next key", |status| {
        status.issuing() == Some(next)
    })?;
    world.ready(CONTAINERS)?;
    let events = world
        .kubernetes
        .kubectl(&["events", "--for", &format!("sipcluster/{NAME}")])?;
    for step in [format!("all parts learn key {next}"), format!("key {next} is taken")] {
        ensure!(events.contains(&step), "no event says {step:?}: {events}");
    }
    Ok(())
}

/// Three rollouts of Redis and one of containers; at the end the old password opens neither a server nor a Sentinel, and the new one all.
fn password_rotated(world: &World) -> anyhow::Result<()> {
    let before = world.status()?.redis_password();
    let next = before + 1;
    world.patch(&format!(
        r#"{{"spec": {{"redis": {{"managed": {{"password": {next}}}}}}}}}"#
    ))?;
    let steps = [
        format!("Redis learns password {next}"),
        format!("password {next} of Redis is taken"),
        format!("password {before} of Redis is forgotten"),
    ];
    for step in &steps {
        world.until_within(2 * LIMIT, step, |status| {
            let ready = status.condition("Ready");
            ready.is_some_and(|(_, why)| why.contains(step))
        })?;
    }
    in_sync(world)?;
    let events = world
        .kubernetes
        .kubectl(&["events", "--for", &format!("sipcluster/{NAME}")])?;
    for step in &steps {
        ensure!(events.contains(step), "no event says {step:?}: {events}");
    }
    let passwords = [world.redis_password(before)?, world.redis_password(next)?];
    for pod in world.redis_pods() {
        for port in ["6379", "26379"] {
            let [old, new] = passwords
                .each_ref()
                .map(|password| world.redis_opens(&pod, port, password));
            ensure!(
                !old? && new?,
                "port {port} of {pod} is to be opened by the new password alone"
            );
        }
    }
    Ok(())
}

/// All instances of Redis, for a change that is brought in by `begin`.
fn redis_replaced(world: &World, begin: impl FnOnce(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    let before: Vec<_> = world.redis_pods().map(|pod| (world.uid(&pod), pod)).collect();
    begin(world)?;
    for (uid, pod) in before.into_iter().rev() {
        world.replaced(&pod, &uid.context("it is there")?)?;
    }
    in_sync(world)
}

fn drift(world: &World) -> anyhow::Result<()> {
    drift::all_undone(world)?;
    in_sync(world)?;
    world.ready(CONTAINERS)?;
    another_is_found(world)
}

/// The master, by `kill`, which is given what does so.
fn redis_killed(
    world: &World,
    kill: impl FnOnce(&World, &dyn Fn(&World) -> anyhow::Result<()>) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let master = world.redis_master()?;
    kill(world, &|world| world.kill_redis(&master))?;
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
        || {
            let master = world.named_redis_master();
            master.filter(|master| master != former).map(drop)
        },
    )?;
    in_sync(world)
}

/// All instances of Redis are in sync, and the cluster is as wanted.
fn in_sync(world: &World) -> anyhow::Result<()> {
    // In the middle of a rollout all of them are in sync for moments, too.
    world.ready(CONTAINERS)?;
    world.redis_in_sync()?;
    world.until("every call has two copies again", |status| {
        status
            .condition("ReplicationHealthy")
            .is_some_and(|(status, _)| status == "True")
    })?;
    world.ready(CONTAINERS).map(drop)
}

/// A container is not active.
fn is_away(status: &Status) -> bool {
    !status.away().is_empty()
}

/// The replica that leads ends without a word when what begins here is in the middle; another one has to go on.
fn operator_killed(
    world: &World,
    is_in_the_middle: impl Fn(&Status) -> bool,
    begin: impl FnOnce(&World) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    begin(world)?;
    world.until("it is in the middle", is_in_the_middle)?;
    operator_killed_before(world, || world.status())
}

/// It ends before a SipCluster of this status is as wanted.
fn operator_killed_before(world: &World, status: impl Fn() -> anyhow::Result<Status>) -> anyhow::Result<()> {
    let leader = kill_operator(world)?;
    ensure!(!status()?.is_current(), "it was over before the operator was killed");
    another_leads(world, &leader)
}

/// Kills the replica of the operator that leads; which that was.
fn kill_operator(world: &World) -> anyhow::Result<String> {
    let leader = world.leader()?;
    world.kill_operator(&leader)?;
    Ok(leader)
}

fn another_leads(world: &World, former: &str) -> anyhow::Result<()> {
    wait_every(
        Duration::from_millis(500),
        "another replica of the operator leads",
        LEADS,
        || world.leader().ok().filter(|now| now != former).map(drop),
    )
}

/// What this begins is not over when the operator is gone.
fn with_operator(world: &World, begin: impl FnOnce(&World) -> anyhow::Result<()>) -> anyhow::Result<()> {
    begin(world)?;
    let leader = kill_operator(world)?;
    another_leads(world, &leader)
}

/// One beside it is begun; whoever leads next makes the rest of it.
fn begun(world: &World) -> anyhow::Result<()> {
    let beside = beside::Beside::create(world, "default", "begun", beside::SMALL)?;
    beside.until("it is on its way", Status::is_on_its_way)?;
    operator_killed_before(world, || beside.status())?;
    beside.answers()?;
    beside.delete()
}

/// Another template of the operator's own pods, while it scales.
fn operator_upgraded(world: &World) -> anyhow::Result<()> {
    begin_to_scale(world, 3)?;
    world.until("the third container is on its way", is_away)?;
    world
        .kubernetes
        .upgrade(&["--reuse-values", "--set=logFormat=json", "--wait", "--timeout=120s"])?;
    world.ready(3)?;
    scale(world, CONTAINERS)
}

/// A node that has a container and a proxy is drained while no other takes pods, then one that has the other container: budgets keep that
/// one where it is, until the first has come back somewhere.
fn drained(world: &World) -> anyhow::Result<()> {
    let (containers, proxies) = (world.pods("container")?, world.pods("proxy")?);
    let has_proxy = |node: &String| proxies.iter().any(|(_, at)| at == node);
    let (_, first) = containers
        .iter()
        .find(|(_, node)| has_proxy(node))
        .context("a node with a container and a proxy")?;
    let (stays, second) = containers
        .iter()
        .find(|(_, node)| node != first)
        .context("another node with a container")?;
    let uid = world.uid(stays);
    let done = drain_one_after_the_other(world, first, second).and_then(|()| {
        ensure!(
            world.uid(stays) == uid,
            "{stays} was evicted while no other container was active"
        );
        world.until("both containers are active, without the first node", |status| {
            status.away().is_empty() && status.is_counted(CONTAINERS)
        })
    });
    world.kubernetes.kubectl(&["uncordon", ALL_NODES])?;
    done?;
    in_sync(world)
}

/// Any label that each has.
const ALL_NODES: &str = "--selector=kubernetes.io/hostname";

fn drain_one_after_the_other(world: &World, first: &str, second: &str) -> anyhow::Result<()> {
    const OURS: &str = "--pod-selector=app.kubernetes.io/instance=demo";
    let drain = |node: &str, limit: &str| {
        // Of Redis' data the others have a copy.
        let arguments = ["drain", node, OURS, "--delete-emptydir-data", limit];
        world.kubernetes.kubectl(&arguments)
    };
    world.kubernetes.kubectl(&["cordon", ALL_NODES])?;
    drain(first, "--timeout=60s")?;
    let refused = drain(second, "--timeout=5s");
    let refused = refused.err().context("the second node was drained too")?.to_string();
    for kind in ["container", "redis"] {
        for (pod, node) in world.pods(kind)? {
            let is_told = refused.contains(&format!(r#"evicting pods/"{pod}""#));
            ensure!(node != second || is_told, "{pod} was not to be evicted: {refused}");
        }
    }
    ensure!(refused.contains("disruption budget"), "{refused}");
    let others = world.kubernetes.get(&["nodes"])?;
    for node in others["items"].as_array().into_iter().flatten() {
        let name = node["metadata"]["name"].as_str().context("it has a name")?;
        if name != first {
            world.kubernetes.kubectl(&["uncordon", name])?;
        }
    }
    Ok(())
}

/// While it is paused what fails is taken over and started again, and nothing of a change is carried out; afterwards that is.
fn paused(world: &World) -> anyhow::Result<()> {
    let held = killed_while_paused(world);
    let rolled_out = upgraded(world, r#"{"spec": {"paused": false}}"#, World::patch);
    held.and(rolled_out)
}

fn killed_while_paused(world: &World) -> anyhow::Result<()> {
    world.patch(r#"{"spec": {"paused": true}}"#)?;
    let before = world.uids()?;
    world.patch(&session_timer("24m"))?;
    world.until("its status says that it is paused", Status::is_paused)?;
    world.signal("demo-0", libc::SIGKILL)?;
    world.until("the operator sees it", is_away)?;
    world.until("both are active again, and every call has two copies", |status| {
        let copies = status.condition("ReplicationHealthy");
        status.is_paused()
            && status.away().is_empty()
            && status.is_counted(CONTAINERS)
            && copies.is_some_and(|(status, _)| status == "True")
    })?;
    // As it was, and not as the manifest has it by now.
    drift::undone(world, &["poddisruptionbudget", "service", "statefulset"])?;
    ensure!(world.uids()? == before, "a pod was replaced while it was paused");
    Ok(())
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
    world.ready(CONTAINERS)?;
    another_is_found(world)
}

/// Calls are given to a container that comes, which only proxies find that watch EndpointSlices.
fn another_is_found(world: &World) -> anyhow::Result<()> {
    begin_to_scale(world, CONTAINERS + 1)?;
    world.ready(CONTAINERS + 1)?;
    let another = format!("{NAME}-{CONTAINERS}");
    world.until("the new container has calls", |status| status.dialogs(&another) > 0)?;
    scale(world, CONTAINERS)
}

fn cut(world: &World, node: &str) -> anyhow::Result<()> {
    world.kubernetes.run(&["cut", node]).map(drop)
}

/// A node that is cut off, by `cut`, for as long as it takes until all is well without it.
fn node_lost(
    world: &World,
    with_master: bool,
    cut: impl FnOnce(&World, &str) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    spread(world, "container")?;
    spread(world, "proxy")?;
    let node = world.node_of("demo-1")?;
    place_master(world, &node, with_master)?;
    let uid = world.uid("demo-1").context("it is there")?;
    let over = cut(world, &node)
        .and_then(|()| world.replaced("demo-1", &uid))
        .and_then(|()| world.ready(CONTAINERS));
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

/// Has the pods of a kind on several nodes: a drain may have left them all on one, where Kubernetes leaves them.
fn spread(world: &World, kind: &str) -> anyhow::Result<()> {
    for _ in 0..3 {
        let pods = world.pods(kind)?;
        let nodes: BTreeSet<_> = pods.iter().map(|(_, node)| node).collect();
        if nodes.len() > 1 {
            return Ok(());
        }
        let (pod, _) = pods.last().context("a pod")?;
        let uid = world.uid(pod);
        world.kubernetes.kubectl(&["delete", "pod", pod, "--wait=false"])?;
        let is_gone = || (world.uid(pod) != uid).then_some(());
        wait_every(
            Duration::from_millis(500),
            "the pod is gone",
            Duration::from_secs(90),
            is_gone,
        )?;
        world.ready(CONTAINERS)?;
    }
    bail!("they are all on one node still: {:?}", world.pods(kind)?)
}

/// Has Sentinels promote another if the Redis master is not on this node and is to be, or the other way round.
fn place_master(world: &World, node: &str, there: bool) -> anyhow::Result<()> {
    // Whom they prefer they pass over all the same if it has said nothing for seconds.
    const ATTEMPTS: usize = 4;
    let mut fit = Vec::new();
    for pod in world.redis_pods() {
        if (world.node_of(&pod)? == node) == there {
            fit.push(pod);
        }
    }
    let wanted = fit.first().with_context(|| format!("no Redis fits node{node}"))?;
    let mut attempts = 0;
    loop {
        let master = world.redis_master()?;
        if fit.contains(&master) {
            return in_sync(world);
        }
        ensure!(
            attempts < ATTEMPTS,
            "{master} is the master after {attempts} attempts to have {wanted} promoted"
        );
        attempts += 1;
        world.prefer_redis(wanted)?;
        world.kill_redis(&master)?;
        let over = promoted(world, &master);
        // Whatever came of it: the next one to be preferred is to be the only one.
        world.set_redis_priority(wanted, REPLICA_PRIORITY)?;
        over?;
    }
}

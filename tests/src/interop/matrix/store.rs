//! What befalls Redis: all containers lose it at once and go on from memory. When it is back, a container dies: only what has been written
//! anew survives that.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use serde::Deserialize;

use super::{Application, Cell, Fault, LIMIT, Load, Today, faults};
use crate::interop::cluster::{self, Cluster, External, Manifest};
use crate::interop::process::{scratch, wait_every, who_comes_from};
use crate::interop::redis::{Relay, Server, Watched};

/// How long it is away where the time itself is not what is tried.
const AWAY: Duration = Duration::from_secs(3);

/// How often containers are asked what they say of their store.
const ASK: Duration = Duration::from_millis(40);

/// A redis-server that can be harmed, behind a relay that can be slow.
pub struct Store {
    server: Server,
    relay: Relay,
    /// The replica of some cells.
    second: Option<Server>,
    /// Where the containers are told that there is one.
    replicated: bool,
    files: PathBuf,
}

impl Store {
    /// Starts both beside a cluster's address; with a replica from the beginning if the containers are to know of one.
    pub fn start(manifest: &Manifest, replicated: bool) -> anyhow::Result<Self> {
        let at = |port| beside(manifest, port);
        let files = scratch(&format!("{}-redis", manifest.name))?;
        let server = Server::start(at(6379), &files)?;
        let relay = Relay::start(at(6380), server.address())?;
        let mut store = Self {
            server,
            relay,
            second: None,
            replicated,
            files,
        };
        if replicated {
            store.replica()?;
        }
        Ok(store)
    }

    /// As the containers are told.
    #[must_use]
    pub fn external(&self) -> External {
        External {
            instances: 1 + u8::from(self.replicated),
            ..self.relay.address().into()
        }
    }

    /// A second server, which follows the first.
    fn replica(&mut self) -> anyhow::Result<&Server> {
        let first = self.server.address();
        let second = Server::start((first.ip(), first.port() + 2).into(), &self.files.join("second"))?;
        second.follow(first)?;
        Ok(self.second.insert(second))
    }
}

/// A Redis with replicas and Sentinels beside a cluster's address.
pub fn watched(manifest: &Manifest) -> anyhow::Result<Watched> {
    Watched::start(beside(manifest, 6379), &scratch(&format!("{}-redis", manifest.name))?)
}

fn beside(manifest: &Manifest, port: u16) -> SocketAddr {
    let [third, fourth] = manifest.address;
    SocketAddr::from((Ipv4Addr::new(127, 0, third, fourth), port))
}

/// The cells of an application.
pub fn cells(application: Application) -> Vec<Cell> {
    let store = Fault::Store;
    [
        ("Redis killed, back with its data", store(back_with_its_data)),
        ("Redis killed, back empty", store(back_empty)),
        ("Redis stopped", store(stopped)),
        ("Redis full", store(full)),
        ("Redis slow, 100 ms a command", store(slow)),
        (
            "a replica of Redis promoted that lacks the last writes",
            store(promoted_behind),
        ),
        ("two masters of Redis for ten seconds", Fault::Replicated(two_masters)),
        (
            "the master of Redis killed, another promoted by Sentinels",
            Fault::Watched(master_killed),
        ),
        (
            "the master of Redis stopped until another was promoted",
            Fault::Watched(master_stopped),
        ),
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

/// Waits until this is so of every container, by what it says of itself.
fn until_all(cluster: &Cluster, what: &str, is_so: impl Fn(&State) -> bool) -> anyhow::Result<()> {
    let containers = cluster.status()?.containers;
    let ask = |admin| serde_json::from_value::<State>(cluster::state(admin).ok()?).ok();
    wait_every(ASK, what, LIMIT, || {
        let mut said = containers.iter().map(|part| part.admin.and_then(ask));
        said.all(|said| said.is_some_and(|state| is_so(&state))).then_some(())
    })
}

/// What a container says of its store.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct State {
    replicated: bool,
    from_memory: bool,
    partitions: u64,
}

/// From memory while it is away; afterwards a container dies.
fn outage(
    cluster: &Cluster,
    store: &mut Store,
    time: Duration,
    harm: impl FnOnce(&mut Server) -> anyhow::Result<()>,
    heal: impl FnOnce(&mut Server) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    harm(&mut store.server)?;
    // Who owns nothing has nothing to act on.
    until_all(cluster, "all go on from memory", |state| {
        !state.replicated && (state.from_memory || state.partitions == 0)
    })?;
    std::thread::sleep(time);
    heal(&mut store.server)?;
    then_a_kill(cluster)
}

/// Two copies of everything exist before it.
fn then_a_kill(cluster: &Cluster) -> anyhow::Result<()> {
    until_all(cluster, "every container is replicated", |state| {
        state.replicated && !state.from_memory
    })?;
    cluster.copies()?.until_equal(LIMIT)?;
    faults::kill(cluster, &[0])
}

/// Its data are older than what it held: what it was told since then is missing.
fn back_with_its_data(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    store.server.ask(&["SAVE"])?;
    let kill = |server: &mut Server| {
        server.kill();
        Ok(())
    };
    outage(cluster, store, AWAY, kill, Server::start_again)
}

fn back_empty(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    let kill = |server: &mut Server| {
        server.kill();
        Ok(())
    };
    outage(cluster, store, AWAY, kill, Server::start_again)
}

fn stopped(cluster: &Cluster, store: &mut Store, load: Load) -> anyhow::Result<()> {
    let send = |signal| move |server: &mut Server| server.signal(signal);
    outage(cluster, store, load.stop, send(libc::SIGSTOP), send(libc::SIGCONT))
}

fn full(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    let limit = |bytes| move |server: &mut Server| server.ask(&["CONFIG", "SET", "maxmemory", bytes]).map(drop);
    outage(cluster, store, AWAY, limit("1mb"), limit("0"))
}

/// Answers wait for it, or leave from memory: both are right.
fn slow(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    store.relay.delay(Duration::from_millis(100));
    std::thread::sleep(AWAY * 2);
    store.relay.delay(Duration::ZERO);
    then_a_kill(cluster)
}

/// It follows no more, and is the master once it lacks some dozens of writes, for containers that wait for no replica.
fn promoted_behind(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    // Bytes: the calls of two seconds.
    const BEHIND: u64 = 64 << 10;
    let second = store.replica()?;
    second.promote()?;
    let promoted = second.address();
    let had = store.server.written()?;
    wait_every(ASK, "the replica lacks writes", LIMIT, || {
        (store.server.written().ok()? >= had + BEHIND).then_some(())
    })?;
    store.relay.lead_to(promoted);
    then_a_kill(cluster)
}

/// One container goes on with the old master, the others with a promoted replica; then the old one follows that, and what it was told is gone.
fn two_masters(cluster: &Cluster, store: &mut Store, _: Load) -> anyhow::Result<()> {
    // It is the fault that lasts so long; nothing is waited for.
    const TIME: Duration = Duration::from_secs(10);
    let first = store.server.address();
    let second = store.second.as_ref().context("a replica from the beginning")?;
    let (stays, promoted) = (cluster.status()?.containers[0].running()?, second.address());
    second.promote()?;
    store.relay.lead(move |from| match who_comes_from(from, &[stays]) {
        Some(_) => first,
        None => promoted,
    });
    std::thread::sleep(TIME);
    store.server.follow(promoted)?;
    store.relay.lead_to(promoted);
    then_a_kill(cluster)
}

fn master_killed(cluster: &Cluster, redis: &mut Watched, _: Load) -> anyhow::Result<()> {
    let master = redis.master()?;
    master.kill();
    let former = master.address();
    until_promoted(redis, former)?;
    then_a_kill(cluster)
}

/// It goes on later, until the Sentinels have told it that it is none any more.
fn master_stopped(cluster: &Cluster, redis: &mut Watched, _: Load) -> anyhow::Result<()> {
    let master = redis.master()?;
    master.signal(libc::SIGSTOP)?;
    let former = master.address();
    until_promoted(redis, former)?;
    redis.server(former)?.signal(libc::SIGCONT)?;
    then_a_kill(cluster)
}

fn until_promoted(redis: &mut Watched, former: SocketAddr) -> anyhow::Result<()> {
    wait_every(ASK, "the Sentinels promote another", LIMIT, || {
        (redis.master().ok()?.address() != former).then_some(())
    })
}

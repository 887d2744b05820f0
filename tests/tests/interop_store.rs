//! Redis killed, emptied, stopped, full, slow and promoted under calls: the containers go on from memory, and afterwards two copies of
//! everything exist again. Real processes, a real redis-server, real sockets.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context as _, ensure};
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Part};
use tests::interop::figures::Spread;
use tests::interop::process::{scratch, signal};
use tests::interop::redis::{Relay, Server};

/// Longer than anything takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// Dialogs that stand before.
const DIALOGS: usize = 400;

/// Requests in the outage, a second; one of five is a new call.
const RATE: u32 = 100;

/// A cluster whose Redis is the test's, with calls up.
struct Scene {
    cluster: Cluster,
    caller: Caller,
}

/// An address of a test, `port` away from its cluster's.
fn address(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 86, last), port).into()
}

fn server(name: &str, at: SocketAddr) -> anyhow::Result<Server> {
    Server::start(at, &scratch(&format!("{name}-{}", at.port()))?)
}

impl Scene {
    fn start(name: &'static str, last: u8, redis: SocketAddr) -> anyhow::Result<Self> {
        let cluster = Cluster::start(Manifest {
            name,
            address: [86, last],
            redis: Some(redis.into()),
            partitions: 256,
            ..Manifest::default()
        })?;
        let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
        caller.paced(400, 0..DIALOGS, |caller, _| {
            caller.invite();
        });
        caller.all_answered(LIMIT)?;
        cluster.until("the dialogs are counted", LIMIT, |status| {
            status.dialogs() == DIALOGS as u64
        })?;
        Ok(Self { cluster, caller })
    }

    /// In-dialog requests and new calls for `time`; `act` is done a fifth of a second after the first.
    fn traffic(&mut self, time: Duration, act: impl FnOnce()) {
        let mut act = Some(act);
        let count = (time.as_secs_f64() * f64::from(RATE)) as usize;
        let dialogs = self.caller.indices(State::Confirmed);
        self.caller.paced(RATE, 0..count, |caller, item| {
            if item == RATE as usize / 5
                && let Some(act) = act.take()
            {
                act();
            }
            if item % 5 == 0 {
                caller.invite();
            } else {
                caller.request(dialogs[item % dialogs.len()], "INVITE");
            }
        });
    }

    /// Whether `sipcluster status` says this of all containers.
    fn all(&self, replicated: bool, from_memory: bool) -> bool {
        self.cluster.status().is_ok_and(|status| {
            let said = |part: &Part| (part.replicated, part.from_memory);
            status
                .containers
                .iter()
                .all(|part| said(part) == (Some(replicated), Some(from_memory)))
        })
    }

    /// Waits while calls go on.
    fn wait(&mut self, what: &str, condition: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + LIMIT;
        while !condition(self) {
            ensure!(
                Instant::now() < deadline,
                "not within {LIMIT:?}: {what}; {}",
                self.cluster.logs()
            );
            self.caller.pump(Duration::from_millis(20));
        }
        Ok(())
    }

    /// Calls through an outage that `harm` begins and `heal` ends; then a container is killed, and nothing is lost.
    fn through(mut self, what: &str, harm: impl FnOnce(), heal: impl FnOnce()) -> anyhow::Result<()> {
        let since = self.caller.outcomes.len();
        self.traffic(Duration::from_secs(3), harm);
        self.wait("every container acts from memory, and says so", |scene| {
            scene.all(false, true)
        })?;
        self.caller.settle(LIMIT)?;
        let before = self.caller.outcomes.len();
        self.traffic(Duration::from_secs(4), || ());
        assert!(self.all(false, true), "the outage lasts");
        self.caller.settle(LIMIT)?;
        self.expect_good(since)?;
        let (first, then) = (self.spread(since, before), self.spread(before, usize::MAX));
        let healed = Instant::now();
        let since = self.caller.outcomes.len();
        self.traffic(Duration::from_secs(3), heal);
        self.caller.settle(LIMIT)?;
        self.wait("every container is replicated", |scene| scene.all(true, false))?;
        let took = healed.elapsed();
        self.expect_good(since)?;
        let back = self.spread(since, usize::MAX);
        println!("{what}: as it begins {first}; from memory {then}; as it ends {back}; replicated after {took:?}");
        self.two_copies_exist()
    }

    /// What the containers hold is in Redis, and so the loss of one loses nothing.
    fn two_copies_exist(mut self) -> anyhow::Result<()> {
        let records = self.cluster.copies()?.until_equal(LIMIT)?;
        assert!(records >= DIALOGS, "a session each: {records}");
        let status = self.cluster.status()?;
        signal(status.containers[0].running()?, libc::SIGKILL)?;
        for method in ["INVITE", "BYE"] {
            let dialogs = self.caller.indices(State::Confirmed);
            let (count, since) = (dialogs.len(), self.caller.outcomes.len());
            assert!(count >= DIALOGS, "new calls and old: {count}");
            self.caller
                .paced(500, dialogs, |caller, dialog| caller.request(dialog, method));
            let settled = self.caller.settle(LIMIT);
            settled.with_context(|| self.cluster.report())?;
            self.caller.expect_all_ok(method, since, count)?;
        }
        self.caller.expect_no_call_doubled()?;
        self.cluster
            .until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
        Ok(())
    }

    fn expect_good(&self, since: usize) -> anyhow::Result<()> {
        let count = self.caller.outcomes.len() - since;
        self.caller.expect_all_ok("INVITE", since, count)?;
        self.caller.expect_no_call_doubled()
    }

    fn spread(&self, from: usize, to: usize) -> Spread {
        let outcomes = &self.caller.outcomes[from..to.min(self.caller.outcomes.len())];
        Spread::of(outcomes.iter().map(|outcome| outcome.took))
    }
}

#[test]
fn calls_go_on_while_redis_is_killed_and_comes_back_with_its_data() -> anyhow::Result<()> {
    let redis = server("store-data", address(1, 6379))?;
    let scene = Scene::start("store-data", 1, redis.address())?;
    redis.ask(&["SAVE"])?;
    let redis = std::cell::RefCell::new(redis);
    let heal = || redis.borrow_mut().start_again().expect("it starts");
    scene.through("killed, back with its data", || redis.borrow_mut().kill(), heal)
}

#[test]
fn calls_go_on_while_redis_is_killed_and_comes_back_empty() -> anyhow::Result<()> {
    let redis = server("store-empty", address(2, 6379))?;
    let scene = Scene::start("store-empty", 2, redis.address())?;
    let redis = std::cell::RefCell::new(redis);
    let heal = || redis.borrow_mut().start_again().expect("it starts");
    scene.through("killed, back empty", || redis.borrow_mut().kill(), heal)
}

#[test]
fn calls_go_on_while_redis_stands_still() -> anyhow::Result<()> {
    let redis = server("store-stopped", address(3, 6379))?;
    let scene = Scene::start("store-stopped", 3, redis.address())?;
    let send = |signal| move |redis: &Server| redis.signal(signal).expect("it runs");
    let (stop, go_on) = (send(libc::SIGSTOP), send(libc::SIGCONT));
    scene.through("stopped and continued", || stop(&redis), || go_on(&redis))
}

#[test]
fn calls_go_on_while_redis_has_no_room() -> anyhow::Result<()> {
    let redis = server("store-full", address(4, 6379))?;
    let scene = Scene::start("store-full", 4, redis.address())?;
    let limit = |bytes: &str| {
        redis.ask(&["CONFIG", "SET", "maxmemory", bytes]).expect("a setting");
    };
    scene.through("full", || limit("1mb"), || limit("0"))
}

/// Whatever goes to Redis is a tenth of a second late: answers wait for it, or leave from memory.
#[test]
fn calls_go_on_while_redis_is_slow() -> anyhow::Result<()> {
    let redis = server("store-slow", address(5, 6379))?;
    let relay = Relay::start(address(5, 6380), redis.address())?;
    let mut scene = Scene::start("store-slow", 5, relay.address())?;
    let since = scene.caller.outcomes.len();
    scene.traffic(Duration::from_secs(6), || relay.delay(Duration::from_millis(100)));
    scene.caller.settle(LIMIT)?;
    scene.expect_good(since)?;
    let memory = scene.all(false, true);
    println!(
        "100 ms a command (from memory: {memory}): {}",
        scene.spread(since, usize::MAX)
    );
    relay.delay(Duration::ZERO);
    scene.wait("every container is replicated", |scene| scene.all(true, false))?;
    scene.two_copies_exist()
}

/// The replica lacks what was written since it stopped following: calls, requests, owners and epochs.
#[test]
fn a_promoted_replica_that_lacks_the_last_writes_is_told_them() -> anyhow::Result<()> {
    let mut first = server("store-promoted", address(6, 6379))?;
    let second = server("store-promoted", address(6, 6381))?;
    let relay = Relay::start(address(6, 6380), first.address())?;
    second.follow(first.address())?;
    let mut scene = Scene::start("store-promoted", 6, relay.address())?;
    second.promote()?;
    // Only the first has these; and other owners, because a container dies and is started again.
    scene.traffic(Duration::from_secs(2), || ());
    scene.caller.settle(LIMIT)?;
    let status = scene.cluster.status()?;
    signal(status.containers[2].running()?, libc::SIGKILL)?;
    let died = status.containers[2].pid;
    scene.cluster.until("the container is back", LIMIT, |status| {
        status.containers[2].pid != died && status.containers[2].state == "Active"
    })?;
    scene.cluster.settle(LIMIT)?;
    let since = scene.caller.outcomes.len();
    scene.traffic(Duration::from_secs(4), || {
        first.kill();
        relay.lead_to(second.address());
    });
    scene.caller.settle(LIMIT)?;
    scene.wait("every container is replicated", |scene| scene.all(true, false))?;
    scene.expect_good(since)?;
    println!(
        "a replica without the last writes promoted: {}",
        scene.spread(since, usize::MAX)
    );
    scene.two_copies_exist()
}

/// What is missing, changed or too much in Redis is seen, as is that it is repaired.
#[test]
fn copies_that_differ_are_told_apart() -> anyhow::Result<()> {
    let redis = server("store-copies", address(7, 6379))?;
    let mut scene = Scene::start("store-copies", 7, redis.address())?;
    let copies = scene.cluster.copies()?;
    copies.until_equal(LIMIT)?;
    let client = redis::Client::open(format!("redis://{}/", redis.address()))?;
    let mut connection = client.get_connection()?;
    let keys: Vec<String> = redis::cmd("KEYS")
        .arg("sc:{store-copies:p*}:r")
        .query(&mut connection)?;
    let key = keys.first().context("records")?;
    let records: Vec<(Vec<u8>, Vec<u8>)> = redis::cmd("HGETALL").arg(key).query(&mut connection)?;
    let is_session = |(name, _): &&(Vec<u8>, Vec<u8>)| name.starts_with(b"s");
    let (name, value) = records.iter().find(is_session).context("a session")?;
    let mut set = |name: &[u8], value: Option<&[u8]>| -> anyhow::Result<()> {
        let mut command = redis::cmd(if value.is_some() { "HSET" } else { "HDEL" });
        command.arg(key).arg(name);
        value.iter().for_each(|value| _ = command.arg(*value));
        Ok(command.exec(&mut connection)?)
    };
    let mut differences = Vec::new();
    // A number of dialogs and calls that no session has (tag 5).
    let other = [value.as_slice(), b"\x28\x63"].concat();
    for wrong in [None, Some(other.as_slice())] {
        set(name, wrong)?;
        differences.extend(copies.compare()?.differences.into_values());
        set(name, Some(value))?;
    }
    set(b"s12345678", Some(value))?;
    differences.extend(copies.compare()?.differences.into_values());
    set(b"s12345678", None)?;
    assert_eq!(differences.len(), 3, "one partition each time: {differences:?}");
    copies.until_equal(LIMIT)?;
    scene.caller.settle(LIMIT)
}

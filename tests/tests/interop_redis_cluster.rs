//! A Redis Cluster: calls outlive one of its masters, and a container, and the move of their slot to another master. Real processes, a real Redis Cluster.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context as _, ensure};
use bytes::Bytes;
use container::engine::{Write, WriteOutcome};
use container::records::{Key, Kind};
use container::store::{Lost, Place, Store};
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, External, Manifest};
use tests::interop::process::{scratch, signal, wait_for};
use tests::interop::redis::{RedisCluster, Server};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::Mutex;
use ucf::store::{MemberRecord, StoreReply, StoreRequest};
use ucf::{Epoch, Incarnation, PartitionId};

/// Longer than anything takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// Calls and requests a second.
const RATE: u32 = 400;

/// Of a store that is busy with other tests.
const BUDGET: Duration = Duration::from_secs(2);

const ONE: Incarnation = Incarnation(1);
const OTHER: Incarnation = Incarnation(2);

fn address(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 94, last), port).into()
}

fn store(url: &str, replicas: u8) -> anyhow::Result<Store> {
    Ok(Store::new(Place::new(url, replicas, None)?, "c", BUDGET, 1))
}

fn join(member: Incarnation) -> StoreRequest {
    StoreRequest::Join {
        record: MemberRecord {
            incarnation: member,
            name: format!("demo-{member}"),
            sip: "127.0.0.1:1".into(),
            ucf: "127.0.0.1:2".into(),
            weight: 100,
        },
    }
}

fn claim(partition: u16, member: Incarnation, expected: Option<Incarnation>) -> StoreRequest {
    StoreRequest::Claim {
        partition: PartitionId(partition),
        member,
        expected,
        at_least: Epoch(1),
        as_target: false,
    }
}

/// One record of two partitions, so that a turn reaches more than one.
fn writes(number: u64) -> [Write; 2] {
    [0, 1].map(|partition| Write {
        partition: PartitionId(partition),
        epoch: Epoch(1),
        number,
        replace: false,
        sets: vec![(
            Key {
                kind: Kind::Session,
                id: number,
            },
            Bytes::from_static(b"a"),
        )],
        deletes: vec![],
    })
}

/// One at a time: nodes that get no processor for some seconds are taken for dead, which would be a second fault.
static ALONE: Mutex<()> = Mutex::const_new(());

const WRITTEN: [WriteOutcome; 2] = [WriteOutcome::Written; 2];

/// What the store's tasks run on, while something is asked of it.
fn runtime() -> anyhow::Result<Runtime> {
    Ok(Builder::new_current_thread().enable_all().build()?)
}

/// A store whose member has written twice to two partitions: by script, then under the watch.
async fn written(url: &str, replicas: u8) -> anyhow::Result<Store> {
    let mut store = store(url, replicas)?;
    store
        .ask(&[join(ONE), claim(0, ONE, None), claim(1, ONE, None)])
        .await?;
    for number in [1, 2] {
        assert_eq!(store.write(ONE, &writes(number)).await?, WRITTEN);
    }
    assert_eq!((store.paths().scripted, store.paths().watched), (1, 1));
    Ok(store)
}

#[test]
fn what_is_written_at_one_master_is_there_at_the_next() -> anyhow::Result<()> {
    let _alone = ALONE.blocking_lock();
    let runtime = runtime()?;
    let mut redis = RedisCluster::start(address(1, 7000), &scratch("redis-cluster-promoted")?)?;
    let mut store = runtime.block_on(written(&redis.url(), 1))?;
    let master = redis.master_of("sc:{c}")?;
    assert_eq!(store.address(), master.address().to_string());
    master.kill();
    // A replica is promoted. With nobody behind it nothing that it takes counts; who asks for no replica reads what it has.
    wait_for("the promoted one is asked for its replicas", LIMIT, || {
        let lost = runtime.block_on(store.write(ONE, &writes(3)));
        let Lost(why) = lost.expect_err("nobody else has it");
        why.contains("0 of 1 replicas have what was written").then_some(())
    })?;
    let promoted = redis.master_of("sc:{c}")?;
    assert_eq!(store.address(), promoted.address().to_string());
    let mut other = self::store(&redis.url(), 0)?;
    let answers = runtime.block_on(other.ask(&[claim(0, OTHER, Some(ONE))]))?;
    assert!(
        matches!(answers[0].reply, StoreReply::Claimed { epoch: Epoch(2) }),
        "{answers:?}"
    );
    assert_eq!(answers[0].records.len(), 3, "what did not count is there all the same");
    Ok(())
}

#[test]
fn a_slot_moves_and_the_fence_goes_with_it() -> anyhow::Result<()> {
    let _alone = ALONE.blocking_lock();
    let runtime = runtime()?;
    let redis = RedisCluster::start(address(2, 7000), &scratch("redis-cluster-moved")?)?;
    let mut store = runtime.block_on(written(&redis.url(), 0))?;
    let former = store.address().to_owned();
    let moving = redis.moving("sc:{c}")?;
    // The fence of whom it is taken from is at the new master already, the claim's key is not: nothing is claimed.
    let mut other = self::store(&redis.url(), 0)?;
    let taken = [claim(0, OTHER, Some(ONE))];
    moving.take(&[format!("sc:{{c}}:m:fence:{ONE}")])?;
    let between = "it is between two masters";
    runtime.block_on(other.ask(&taken)).expect_err(between);
    // A half of a turn's keys is there as well, the other is not: nothing is written.
    moving.take(&["sc:{c}:p0:o".into(), "sc:{c}:p0:r".into()])?;
    runtime.block_on(store.write(ONE, &writes(3))).expect_err(between);
    moving.finish()?;
    let outcomes = wait_for("the new master takes writes", LIMIT, || {
        runtime.block_on(store.write(ONE, &writes(3))).ok()
    })?;
    assert_eq!(outcomes, WRITTEN);
    assert_ne!(store.address(), former);
    // The claim ends the right to write under a watch, as ever.
    wait_for("the new master is found", LIMIT, || runtime.block_on(other.time()).ok())?;
    let answers = runtime.block_on(other.ask(&taken))?;
    assert_eq!(answers[0].records.len(), 3);
    let outcomes = runtime.block_on(store.write(ONE, &writes(4)))?;
    assert!(
        matches!(
            outcomes[..],
            [WriteOutcome::Stale { owner: Some(OTHER), .. }, WriteOutcome::Written]
        ),
        "{outcomes:?}"
    );
    Ok(())
}

#[tokio::test]
async fn a_wrong_scheme_is_told_with_its_remedy() -> anyhow::Result<()> {
    let _alone = ALONE.lock().await;
    let redis = RedisCluster::start(address(3, 7000), &scratch("redis-cluster-scheme")?)?;
    let single = Server::start(address(3, 6379), &scratch("redis-cluster-single")?)?;
    let node = redis.url().replace("redis-cluster://", "");
    let node = node.split(',').next().context("a node")?;
    for (url, what) in [
        (
            format!("redis://{node}"),
            "it is a node of a Redis Cluster; write redis-cluster://",
        ),
        (
            format!("redis-cluster://{}", single.address()),
            "it is no Redis Cluster; write redis://",
        ),
        (
            "redis-cluster://127.0.94.3:1".into(),
            "none of 1 nodes of the Redis Cluster names a master: 127.0.94.3:1: ",
        ),
    ] {
        let Lost(why) = store(&url, 0)?.time().await.expect_err("it is refused");
        assert!(why.contains(what), "{url}: {why}");
    }
    Ok(())
}

#[test]
fn dialogs_survive_a_master_then_a_container_then_the_move_of_their_slot() -> anyhow::Result<()> {
    const DIALOGS: usize = 400;
    const NAME: &str = "redis-cluster-calls";
    let _alone = ALONE.blocking_lock();
    let key = format!("sc:{{{NAME}}}");
    let mut redis = RedisCluster::start(address(10, 7000), &scratch("redis-cluster-calls-redis")?)?;
    let cluster = Cluster::start(Manifest {
        name: NAME,
        address: [94, 11],
        partitions: 256,
        redis: Some(External {
            url: redis.url(),
            instances: 2,
            ca: None,
        }),
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    caller.raise(DIALOGS, RATE, LIMIT)?;
    cluster.copies()?.until_equal(LIMIT)?;

    // The master dies; its replica is promoted after a second or two, and serves alone until the other is back. Calls go on from memory.
    let master = redis.master_of(&key)?;
    let former = master.address();
    master.kill();
    let promoted = caller.in_every_dialog("INVITE", RATE, LIMIT)?;
    wait_for("its replica is promoted", LIMIT, || {
        let now = redis.master_of(&key).ok()?.address();
        (now != former).then_some(())
    })?;
    redis.node(former)?.start_again()?;
    let status = cluster.until("all is in Redis again", LIMIT, |status| {
        status.containers.iter().all(|part| part.replicated == Some(true))
    })?;
    cluster.copies()?.until_equal(LIMIT)?;

    let lost = status.containers[1].dialogs.unwrap_or_default();
    ensure!(lost > 50, "it holds its part of the dialogs: {status:?}");
    signal(status.containers[1].running()?, libc::SIGKILL)?;
    let taken_over = caller.in_every_dialog("INVITE", RATE, LIMIT)?;
    cluster.settle(LIMIT)?;

    // Half of its keys have moved while a request is sent in every dialog: whoever has to wait is answered once the others have followed.
    let moving = redis.moving(&key)?;
    let keys = moving.left()?;
    moving.take(&keys[..keys.len() / 2])?;
    let since = caller.outcomes.len();
    let dialogs = caller.indices(State::Confirmed);
    caller.paced(RATE, dialogs, |caller, dialog| caller.request(dialog, "INVITE"));
    let waited = DIALOGS - caller.outcomes_of("INVITE", since).count();
    moving.finish()?;
    caller.settle(LIMIT)?;
    caller.expect_all_ok("INVITE", since, DIALOGS)?;
    let moved = caller.spread("INVITE", since);
    cluster.copies()?.until_equal(LIMIT)?;
    caller.in_every_dialog("BYE", RATE, LIMIT)?;
    caller.expect_no_call_doubled()?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    println!(
        "{DIALOGS} dialogs, 0 lost; re-INVITEs while a replica is promoted: {promoted}; of {lost} dialogs taken over: {taken_over}; \
         while their slot moves: {moved}, {waited} of them after it has moved"
    );
    Ok(())
}

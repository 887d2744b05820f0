//! Writes under a watch of the fence: what they refuse, and that they mean what the model says whichever way they go.

mod common;

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use common::RedisServer;
use container::engine::{Write, WriteOutcome};
use container::records::{Key, Kind};
use container::store::{Paths, Place, Store};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use ucf::store::{Era, MemberRecord, Model, StoreReply, StoreRequest, Write as PlainWrite};
use ucf::{Epoch, Incarnation, PartitionId};

const BUDGET: Duration = Duration::from_secs(5);
const ME: Incarnation = Incarnation(0xabc0_0000_0000_0001);
const OTHER: Incarnation = Incarnation(0xabc0_0000_0000_0002);

type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// A server, the control task's way to it, and a look behind the scenes.
struct Scene {
    redis: RedisServer,
    control: Store,
    raw: redis::Connection,
}

impl Scene {
    async fn with_members(members: &[Incarnation]) -> Self {
        let redis = RedisServer::start();
        let client = redis::Client::open(redis.url()).expect("a good URL");
        let mut scene = Self {
            control: store(&redis.url(), BUDGET),
            raw: client.get_connection().expect("Redis answers"),
            redis,
        };
        for member in members {
            scene.ask(join(*member)).await;
        }
        scene
    }

    fn link(&self) -> Store {
        store(&self.redis.url(), BUDGET)
    }

    async fn ask(&mut self, request: StoreRequest) -> StoreReply {
        let answer = self.control.ask(&[request]).await.expect("Redis answers").pop();
        answer.expect("one answer").reply
    }

    async fn claim(&mut self, partition: u16, member: Incarnation, expected: Option<Incarnation>) -> Epoch {
        match self.ask(claim(partition, member, expected)).await {
            StoreReply::Claimed { epoch } => epoch,
            other => panic!("{other:?}"),
        }
    }

    fn records(&mut self, partition: u16) -> Records {
        let key = format!("sc:{{c:p{partition}}}:r");
        redis::cmd("HGETALL")
            .arg(key)
            .query(&mut self.raw)
            .expect("Redis answers")
    }

    fn command<T: redis::FromRedisValue>(&mut self, words: &[&str]) -> T {
        let mut command = redis::cmd(words[0]);
        command.arg(&words[1..]);
        command.query(&mut self.raw).expect("Redis answers")
    }
}

fn store(url: &str, budget: Duration) -> Store {
    Store::new(Place::new(url, 0, None).expect("a good URL"), "c", budget, 1)
}

fn join(member: Incarnation) -> StoreRequest {
    StoreRequest::Join {
        record: MemberRecord {
            incarnation: member,
            name: "demo-0".into(),
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

fn key(id: u64) -> Key {
    Key {
        kind: Kind::Session,
        id,
    }
}

/// Sets record 1.
fn write(partition: u16, epoch: Epoch, number: u64, value: &'static str) -> Write {
    Write {
        partition: PartitionId(partition),
        epoch,
        number,
        replace: false,
        sets: vec![(key(1), Bytes::from_static(value.as_bytes()))],
        deletes: Vec::new(),
    }
}

fn record(value: &str) -> Records {
    [(key(1).to_bytes().to_vec(), value.as_bytes().to_vec())].into()
}

fn paths(watched: u64, aborted: u64, scripted: u64) -> Paths {
    Paths {
        watched,
        aborted,
        scripted,
    }
}

#[tokio::test]
async fn an_owner_that_watches_writes_nothing_after_a_claim_of_its_partition() {
    let mut scene = Scene::with_members(&[ME, OTHER]).await;
    let (mine, kept) = (scene.claim(0, ME, None).await, scene.claim(1, ME, None).await);
    let theirs = scene.claim(2, OTHER, None).await;
    let (mut my_link, mut their_link) = (scene.link(), scene.link());
    let first = [write(0, mine, 1, "a"), write(1, kept, 1, "a")];
    my_link.write(ME, &first).await.expect("Redis answers");
    their_link
        .write(OTHER, &[write(2, theirs, 1, "a")])
        .await
        .expect("Redis answers");
    let second = [write(0, mine, 2, "b"), write(1, kept, 2, "b")];
    let outcomes = my_link.write(ME, &second).await.expect("Redis answers");
    assert_eq!(
        (outcomes, my_link.paths()),
        (vec![WriteOutcome::Written; 2], paths(1, 0, 1))
    );

    // Between the watch and the next turn.
    let taken = scene.claim(0, OTHER, Some(ME)).await;
    let stale = WriteOutcome::Stale {
        owner: Some(OTHER),
        epoch: taken,
    };
    let third = [write(0, mine, 3, "stale"), write(1, kept, 3, "c")];
    let outcomes = my_link.write(ME, &third).await.expect("Redis answers");
    assert_eq!(outcomes, [stale, WriteOutcome::Written]);
    assert_eq!(my_link.paths(), paths(1, 1, 2));
    assert_eq!((scene.records(0), scene.records(1)), (record("b"), record("c")));

    // What is left goes on under the new token, what is gone stays refused.
    my_link
        .write(ME, &[write(1, kept, 4, "d")])
        .await
        .expect("Redis answers");
    assert_eq!(my_link.paths(), paths(2, 1, 2));
    let again = my_link.write(ME, &[write(0, mine, 4, "stale")]).await;
    assert_eq!(again.expect("Redis answers"), [stale]);
    assert_eq!((scene.records(0), scene.records(1)), (record("b"), record("d")));

    // The one who claimed was not disturbed.
    their_link
        .write(OTHER, &[write(2, theirs, 2, "b")])
        .await
        .expect("Redis answers");
    assert_eq!(their_link.paths(), paths(1, 0, 1));
}

#[tokio::test]
async fn a_claim_counts_for_partitions_that_are_not_written_at_once() {
    let mut scene = Scene::with_members(&[ME, OTHER]).await;
    let (mine, kept) = (scene.claim(0, ME, None).await, scene.claim(1, ME, None).await);
    let mut link = scene.link();
    let first = [write(0, mine, 1, "a"), write(1, kept, 1, "a")];
    link.write(ME, &first).await.expect("Redis answers");
    scene.claim(0, OTHER, Some(ME)).await;
    // The watch is broken and made anew by a write that says nothing of partition 0.
    link.write(ME, &[write(1, kept, 2, "b")]).await.expect("Redis answers");
    let outcomes = link
        .write(ME, &[write(0, mine, 2, "stale")])
        .await
        .expect("Redis answers");
    assert!(matches!(outcomes[..], [WriteOutcome::Stale { .. }]));
    assert_eq!(scene.records(0), record("a"));
}

#[tokio::test]
async fn an_owner_whose_epoch_was_overtaken_by_a_write_is_fenced_too() {
    let mut scene = Scene::with_members(&[ME, OTHER]).await;
    let mine = scene.claim(0, ME, None).await;
    let (mut my_link, mut their_link) = (scene.link(), scene.link());
    my_link
        .write(ME, &[write(0, mine, 1, "a")])
        .await
        .expect("Redis answers");
    let higher = write(0, Epoch(mine.0 + 1), 1, "theirs");
    let outcomes = their_link.write(OTHER, &[higher]).await.expect("Redis answers");
    assert_eq!(outcomes, [WriteOutcome::Behind]);
    let outcomes = my_link
        .write(ME, &[write(0, mine, 2, "stale")])
        .await
        .expect("Redis answers");
    assert!(matches!(outcomes[..], [WriteOutcome::Stale { .. }]));
    assert_eq!(scene.records(0), record("theirs"));
}

#[tokio::test]
async fn a_write_of_an_epoch_that_its_member_has_left_is_refused() {
    let mut scene = Scene::with_members(&[ME]).await;
    let left = scene.claim(0, ME, None).await;
    let present = scene.claim(0, ME, Some(ME)).await;
    let mut link = scene.link();
    for number in 1..3 {
        let present = [write(0, present, number, "a")];
        link.write(ME, &present).await.expect("Redis answers");
    }
    let outcomes = link
        .write(ME, &[write(0, left, 9, "stale")])
        .await
        .expect("Redis answers");
    assert!(matches!(outcomes[..], [WriteOutcome::Stale { .. }]));
    assert_eq!((scene.records(0), link.paths()), (record("a"), paths(1, 0, 2)));
}

#[tokio::test]
async fn a_member_that_is_not_listed_writes_by_script_and_leaves_a_fence_that_expires() {
    let mut scene = Scene::with_members(&[OTHER]).await;
    let mine = scene.claim(0, ME, None).await;
    let mut link = scene.link();
    for number in 1..4 {
        link.write(ME, &[write(0, mine, number, "a")])
            .await
            .expect("Redis answers");
    }
    assert_eq!(link.paths(), paths(0, 0, 3));
    let fence = format!("sc:{{c:m}}:fence:{ME}");
    assert!(scene.command::<i64>(&["TTL", &fence]) > 0);
    // Listed: it is there to stay, and watched.
    scene.ask(join(ME)).await;
    for number in 4..6 {
        link.write(ME, &[write(0, mine, number, "b")])
            .await
            .expect("Redis answers");
    }
    assert_eq!(link.paths(), paths(1, 0, 4));
    assert_eq!(scene.command::<i64>(&["TTL", &fence]), -1);
    let remove = StoreRequest::Remove {
        member: ME,
        counter: None,
    };
    scene.ask(remove).await;
    assert!(scene.command::<i64>(&["TTL", &fence]) > 0);
    scene.claim(0, OTHER, Some(ME)).await;
    let outcomes = link
        .write(ME, &[write(0, mine, 6, "stale")])
        .await
        .expect("Redis answers");
    assert!(matches!(outcomes[..], [WriteOutcome::Stale { .. }]));
    assert!(scene.command::<i64>(&["TTL", &fence]) > 0);
    assert_eq!(scene.records(0), record("b"));
}

#[tokio::test]
async fn a_store_that_forgot_is_behind_at_the_next_write() {
    let mut scene = Scene::with_members(&[ME]).await;
    let mine = scene.claim(0, ME, None).await;
    let mut link = scene.link();
    for number in 1..3 {
        link.write(ME, &[write(0, mine, number, "a")])
            .await
            .expect("Redis answers");
    }
    assert_eq!(link.paths(), paths(1, 0, 1));
    let () = scene.command(&["FLUSHALL"]);
    let outcomes = link.write(ME, &[write(0, mine, 3, "b")]).await.expect("Redis answers");
    assert_eq!(outcomes, [WriteOutcome::Behind]);
    assert_eq!(scene.records(0), record("b"));
    // Also if it forgets before the fence is back.
    let () = scene.command(&["FLUSHALL"]);
    let outcomes = link.write(ME, &[write(0, mine, 4, "c")]).await.expect("Redis answers");
    assert_eq!(outcomes, [WriteOutcome::Behind]);
    scene.ask(join(ME)).await;
    for number in 5..7 {
        let outcomes = link
            .write(ME, &[write(0, mine, number, "d")])
            .await
            .expect("Redis answers");
        assert_eq!(outcomes, [WriteOutcome::Written]);
    }
    assert_eq!(link.paths(), paths(2, 1, 4));
}

#[tokio::test]
async fn all_records_of_a_partition_are_replaced_by_either_way() {
    let mut scene = Scene::with_members(&[ME]).await;
    let mine = scene.claim(0, ME, None).await;
    let mut link = scene.link();
    let all = |number, from: u64| Write {
        replace: number < 3,
        sets: (from..from + 10_000)
            .map(|id| (key(id), Bytes::from_static(b"a")))
            .collect(),
        deletes: (from + 20_000..from + 30_000).map(key).collect(),
        ..write(0, mine, number, "")
    };
    for (number, from) in [(1, 0), (2, 100_000)] {
        link.write(ME, &[all(number, from)]).await.expect("Redis answers");
        let records = scene.records(0);
        assert_eq!(records.len(), 10_000);
        assert!(records.contains_key(&key(from).to_bytes()[..]));
    }
    assert_eq!(link.paths(), paths(1, 0, 1));
    // Many to be deleted.
    let few = |number| Write {
        sets: Vec::new(),
        deletes: (100_000 + 5_000 * (number - 3)..100_000 + 5_000 * (number - 2))
            .map(key)
            .collect(),
        ..write(0, mine, number, "")
    };
    link.write(ME, &[few(3)]).await.expect("Redis answers");
    assert_eq!(scene.records(0).len(), 5_000);
    let mut script = scene.link().by_script_only();
    script.write(ME, &[few(4)]).await.expect("Redis answers");
    assert_eq!(scene.records(0).len(), 0);
}

/// A way to the server that keeps what the first connection sends, when told to, and delivers it even if the sender is gone.
struct Relay {
    url: String,
    hold: watch::Sender<bool>,
    answered: Arc<Mutex<Vec<Arc<AtomicUsize>>>>,
}

impl Relay {
    async fn start(redis: &RedisServer) -> Self {
        let server = redis
            .url()
            .trim_start_matches("redis://")
            .trim_end_matches('/')
            .to_owned();
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a loopback port");
        let url = format!("redis://{}/", listener.local_addr().expect("bound"));
        let (hold, held) = watch::channel(false);
        let answered: Arc<Mutex<Vec<Arc<AtomicUsize>>>> = Arc::default();
        let counters = answered.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let counter = Arc::new(AtomicUsize::new(0));
                counters.lock().expect("no panic").push(counter.clone());
                let first = counters.lock().expect("no panic").len() == 1;
                let upstream = TcpStream::connect(&server).await.expect("Redis accepts");
                tokio::spawn(relay(client, upstream, first.then(|| held.clone()), counter));
            }
        });
        Self { url, hold, answered }
    }

    fn answered(&self) -> usize {
        self.answered.lock().expect("no panic")[0].load(Ordering::Relaxed)
    }

    /// Lets go what was held, and waits for the server's answer to it.
    async fn release(&self) {
        let before = self.answered();
        self.hold.send_replace(false);
        let deadline = Instant::now() + Duration::from_secs(10);
        while self.answered() == before {
            assert!(Instant::now() < deadline, "the late packet is answered");
            tokio::task::yield_now().await;
        }
    }
}

async fn relay(client: TcpStream, server: TcpStream, held: Option<watch::Receiver<bool>>, counter: Arc<AtomicUsize>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move {
        let mut buffer = vec![0; 1 << 16];
        while let Ok(length @ 1..) = from_server.read(&mut buffer).await {
            counter.fetch_add(length, Ordering::Relaxed);
            let _ = to_client.write_all(&buffer[..length]).await;
        }
    });
    let mut buffer = vec![0; 1 << 16];
    while let Ok(length @ 1..) = from_client.read(&mut buffer).await {
        if let Some(mut held) = held.clone() {
            let _ = held.wait_for(|held| !held).await;
        }
        let _ = to_server.write_all(&buffer[..length]).await;
    }
    // The server does not see that the client is gone: its half stays open.
    let _ = answers.await;
}

#[tokio::test]
async fn a_late_exec_of_a_dead_connection_changes_nothing() {
    let mut scene = Scene::with_members(&[ME]).await;
    let mine = scene.claim(0, ME, None).await;
    let relay = Relay::start(&scene.redis).await;
    let mut link = store(&relay.url, Duration::from_millis(500));
    for number in 1..3 {
        link.write(ME, &[write(0, mine, number, "a")])
            .await
            .expect("Redis answers");
    }
    assert_eq!(link.paths(), paths(1, 0, 1));
    relay.hold.send_replace(true);
    let held = [write(0, mine, 3, "late")];
    assert!(link.write(ME, &held).await.is_err());
    link.write(ME, &held).await.expect("Redis answers");
    link.write(ME, &[write(0, mine, 4, "new")])
        .await
        .expect("Redis answers");
    assert_eq!(link.paths(), paths(2, 0, 2));
    relay.release().await;
    assert_eq!(scene.records(0), record("new"));
}

#[tokio::test]
async fn a_late_script_of_a_dead_connection_changes_nothing_even_in_a_store_that_forgot() {
    let mut scene = Scene::with_members(&[ME]).await;
    let (mine, second) = (scene.claim(0, ME, None).await, scene.claim(1, ME, None).await);
    let relay = Relay::start(&scene.redis).await;
    let mut link = store(&relay.url, Duration::from_millis(500));
    link.write(ME, &[write(1, second, 1, "a")])
        .await
        .expect("Redis answers");
    relay.hold.send_replace(true);
    // Not known to be owned, so by script.
    assert!(link.write(ME, &[write(0, mine, 1, "late")]).await.is_err());
    link.write(ME, &[write(1, second, 2, "b")])
        .await
        .expect("Redis answers");
    assert_eq!(link.paths(), paths(0, 0, 2));
    let () = scene.command(&["FLUSHALL"]);
    relay.release().await;
    assert_eq!(scene.records(0), Records::new());
    let outcomes = link
        .write(ME, &[write(0, mine, 2, "new")])
        .await
        .expect("Redis answers");
    assert_eq!(outcomes, [WriteOutcome::Behind], "the late one did not hide the loss");
    assert_eq!(scene.records(0), record("new"));
}

/// A small generator: the seed alone makes the run.
struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % sides
    }
}

const MEMBERS: [Incarnation; 2] = [ME, OTHER];
const PARTITIONS: u16 = 6;

/// Two members with two links each; partitions go to links by number, as in a container.
struct Cluster {
    scene: Scene,
    model: Model,
    links: [[Store; 2]; 2],
    /// What each member believes to own: epoch and number of the last write.
    beliefs: [BTreeMap<u16, (Epoch, u64)>; 2],
    dice: Dice,
}

impl Cluster {
    async fn step(&mut self) {
        let member = self.dice.roll(2) as usize;
        let partition = self.dice.roll(u64::from(PARTITIONS)) as u16;
        match self.dice.roll(100) {
            0..6 => self.claim(member, partition).await,
            6..10 => self.both(join(MEMBERS[member])).await,
            10..12 => {
                let member = MEMBERS[member];
                self.both(StoreRequest::Remove { member, counter: None }).await;
            }
            12 => {
                let () = self.scene.command(&["FLUSHALL"]);
                self.model.flush(Era(0));
            }
            13 => {
                let _: i64 = self
                    .scene
                    .command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]);
                while self.scene.control.time().await.is_err() {}
            }
            _ => self.write(member).await,
        }
    }

    async fn both(&mut self, request: StoreRequest) {
        self.model.apply(&request);
        self.scene.ask(request).await;
    }

    async fn claim(&mut self, member: usize, partition: u16) {
        let expected = self
            .model
            .partition(PartitionId(partition))
            .and_then(|stored| stored.owner);
        let request = claim(partition, MEMBERS[member], expected);
        let expected = self.model.apply(&request);
        let reply = self.scene.ask(request).await;
        assert_eq!(reply, expected);
        if let StoreReply::Claimed { epoch } = reply {
            self.beliefs[member].insert(partition, (epoch, 0));
        }
    }

    async fn write(&mut self, member: usize) {
        let link = self.dice.roll(2) as usize;
        let mine = self.beliefs[member]
            .iter_mut()
            .filter(|(partition, _)| usize::from(**partition) % 2 == link);
        let mut writes = Vec::new();
        for (partition, (epoch, number)) in mine {
            // Sometimes twice, as when two turns go together.
            for _ in 0..self.dice.roll(3) {
                *number += 1;
                writes.push(Write {
                    replace: self.dice.roll(8) == 0,
                    sets: (0..self.dice.roll(3))
                        .map(|_| (key(self.dice.roll(5)), Bytes::from(self.dice.roll(1000).to_string())))
                        .collect(),
                    deletes: (0..self.dice.roll(3)).map(|_| key(self.dice.roll(5))).collect(),
                    ..write(*partition, *epoch, *number, "")
                });
            }
        }
        let expected: Vec<_> = writes
            .iter()
            .map(|write| apply(&mut self.model, MEMBERS[member], write))
            .collect();
        let outcomes = loop {
            // Lost if the connection was killed: again, as a worker does.
            if let Ok(outcomes) = self.links[member][link].write(MEMBERS[member], &writes).await {
                break outcomes;
            }
        };
        assert_eq!(outcomes, expected, "{writes:?}");
        for (write, outcome) in writes.iter().zip(&outcomes) {
            let partition = write.partition;
            let stored = self.model.partition(partition).map(|stored| stored.records.clone());
            assert_eq!(
                self.scene.records(partition.0),
                stored.unwrap_or_default(),
                "{writes:?}"
            );
            // Most believe it, some do not.
            if matches!(outcome, WriteOutcome::Stale { .. }) && self.dice.roll(3) > 0 {
                self.beliefs[member].remove(&partition.0);
            }
        }
    }
}

fn apply(model: &mut Model, member: Incarnation, write: &Write) -> WriteOutcome {
    let key = |key: &Key| key.to_bytes().to_vec();
    let request = StoreRequest::Write(PlainWrite {
        partition: write.partition,
        member,
        epoch: write.epoch,
        seq: write.number,
        replace: write.replace,
        sets: write
            .sets
            .iter()
            .map(|(name, value)| (key(name), value.to_vec()))
            .collect(),
        deletes: write.deletes.iter().map(key).collect(),
    });
    match model.apply(&request) {
        StoreReply::Written { behind: false } | StoreReply::Repeated => WriteOutcome::Written,
        StoreReply::Written { behind: true } => WriteOutcome::Behind,
        StoreReply::Refused(stored) => WriteOutcome::Stale {
            owner: stored.owner,
            epoch: stored.epoch,
        },
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn either_way_does_what_the_model_does() {
    let mut total = Paths::default();
    for seed in 0..6 {
        println!("seed {seed}");
        let scene = Scene::with_members(&MEMBERS).await;
        let mut model = Model::new(Era(0));
        for member in MEMBERS {
            model.apply(&join(member));
        }
        let links = [[scene.link(), scene.link()], [scene.link(), scene.link()]];
        let mut cluster = Cluster {
            scene,
            model,
            links,
            beliefs: Default::default(),
            dice: Dice(seed),
        };
        for _ in 0..600 {
            cluster.step().await;
        }
        for paths in cluster.links.iter().flatten().map(Store::paths) {
            total.watched += paths.watched;
            total.aborted += paths.aborted;
            total.scripted += paths.scripted;
        }
    }
    println!("{total:?}");
    assert!(
        total.watched > 300 && total.aborted > 100 && total.scripted > 300,
        "{total:?}"
    );
}

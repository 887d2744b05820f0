//! Redis with replicas: what counts once they have it, and the master that Sentinels name.

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::RedisServer;
use container::engine::{Write, WriteOutcome};
use container::records::{Key, Kind};
use container::store::{Lost, Place, Store};
use ucf::store::{MemberRecord, StoreReply, StoreRequest};
use ucf::{Epoch, Incarnation, PartitionId};

/// Of a store that is busy with other tests.
const BUDGET: Duration = Duration::from_secs(2);

const ME: Incarnation = Incarnation(1);

/// The servers' and the Sentinels' password.
const PASSWORD: &str = "secret";

fn join() -> StoreRequest {
    StoreRequest::Join {
        record: MemberRecord {
            incarnation: ME,
            name: "demo-0".into(),
            sip: "127.0.0.1:1".into(),
            ucf: "127.0.0.1:2".into(),
            weight: 100,
        },
    }
}

fn claim() -> StoreRequest {
    StoreRequest::Claim {
        partition: PartitionId(0),
        member: ME,
        expected: None,
        at_least: Epoch(1),
        as_target: false,
    }
}

fn write(number: u64) -> [Write; 1] {
    let key = Key {
        kind: Kind::Session,
        id: number,
    };
    [Write {
        partition: PartitionId(0),
        epoch: Epoch(1),
        number,
        replace: false,
        sets: vec![(key, Bytes::from_static(b"a"))],
        deletes: vec![],
    }]
}

fn command<T: redis::FromRedisValue>(server: &RedisServer, password: &str, words: &[&str]) -> redis::RedisResult<T> {
    let url = format!("redis://{password}127.0.0.1:{}/", server.port());
    let mut connection = redis::Client::open(url)?.get_connection()?;
    redis::cmd(words[0]).arg(&words[1..]).query(&mut connection)
}

fn follow(replica: &RedisServer, master: &RedisServer) {
    let port = master.port().to_string();
    let _: String = command(replica, "", &["REPLICAOF", "127.0.0.1", &port]).expect("Redis answers");
}

/// Until it succeeds: what is lost meanwhile is the store's, not the test's.
async fn until<T>(mut what: impl AsyncFnMut() -> Result<T, Lost>) -> T {
    let deadline = Instant::now() + Duration::from_secs(30);
    loop {
        match what().await {
            Ok(done) => return done,
            Err(lost) => assert!(Instant::now() < deadline, "{lost}"),
        }
    }
}

#[tokio::test]
async fn nothing_counts_before_a_replica_has_it() {
    let (master, replica) = (RedisServer::start(), RedisServer::start());
    let place = Place::new(&master.url(), 1, None).expect("a good URL");
    let mut store = Store::new(place, "c", BUDGET, 1);
    let alone = store
        .ask(&[join(), claim()])
        .await
        .expect_err("nobody else has it")
        .to_string();
    assert!(alone.contains("replicas"), "{alone}");
    follow(&replica, &master);
    until(async || store.ask(&[join()]).await).await;
    // By script the first time, under the watch the second, at a master that was left alone the third: the copy has what counts.
    for number in [1, 2] {
        assert_eq!(
            store.write(ME, &write(number)).await.expect("both are there"),
            [WriteOutcome::Written]
        );
        let held: u64 = command(&replica, "", &["HLEN", "sc:{c:p0}:r"]).expect("Redis answers");
        assert_eq!(held, number);
    }
    assert_eq!((store.paths().scripted, store.paths().watched), (1, 1));
    let _: String = command(&replica, "", &["REPLICAOF", "NO", "ONE"]).expect("Redis answers");
    let alone = store
        .write(ME, &write(3))
        .await
        .expect_err("nobody else has it")
        .to_string();
    assert!(alone.contains("replicas"), "{alone}");
}

/// A configuration that a Sentinel may rewrite, of a master called demo.
fn sentinel(master: &RedisServer, number: u32) -> (RedisServer, std::path::PathBuf) {
    let file = std::env::temp_dir().join(format!("sentinel-{}-{number}.conf", std::process::id()));
    let lines = format!(
        "sentinel monitor demo 127.0.0.1 {} 2\nsentinel auth-pass demo {PASSWORD}\nsentinel down-after-milliseconds demo 500\n\
         sentinel failover-timeout demo 5000\nrequirepass {PASSWORD}\n",
        master.port()
    );
    std::fs::write(&file, lines).expect("a directory for temporary files");
    (RedisServer::start_with(&[&file.to_string_lossy(), "--sentinel"]), file)
}

#[tokio::test]
async fn sentinels_lead_to_the_master_of_the_time() {
    let secured = ["--requirepass", PASSWORD, "--masterauth", PASSWORD];
    let master = RedisServer::start_with(&secured);
    let port = master.port().to_string();
    let replica = || RedisServer::start_with(&[&secured[..], &["--replicaof", "127.0.0.1", &port]].concat());
    let replicas = [replica(), replica()];
    let sentinels = [1, 2, 3].map(|number| sentinel(&master, number));
    let hosts = sentinels
        .each_ref()
        .map(|(sentinel, _)| format!("127.0.0.1:{}", sentinel.port()))
        .join(",");
    let place = Place::new(&format!("redis-sentinel://:{PASSWORD}@{hosts}/#demo"), 2, None).expect("a good URL");
    let mut store = Store::new(place, "c", BUDGET, 1);
    until(async || store.ask(&[join(), claim()]).await).await;
    assert_eq!(store.address(), format!("127.0.0.1:{port}"));
    store.write(ME, &write(1)).await.expect("both are there");
    // Who is not known to be a replica of a master cannot be promoted.
    until(async || {
        let known: Vec<Vec<String>> = command(&sentinels[0].0, ":secret@", &["SENTINEL", "REPLICAS", "demo"])?;
        let sentinels: Vec<Vec<String>> = command(&sentinels[0].0, ":secret@", &["SENTINEL", "SENTINELS", "demo"])?;
        if known.len() == 2 && sentinels.len() == 2 {
            Ok(())
        } else {
            Err(Lost("too few are known".into()))
        }
    })
    .await;
    drop(master);
    // What counted is at whoever was promoted, and one that is left is enough for more.
    let inspect = StoreRequest::Claim {
        partition: PartitionId(0),
        member: Incarnation(2),
        expected: None,
        at_least: Epoch(1),
        as_target: false,
    };
    let answers = until(async || store.ask(std::slice::from_ref(&inspect)).await).await;
    assert!(matches!(answers[0].reply, StoreReply::Refused(_)), "{answers:?}");
    let outcome = until(async || store.write(ME, &write(2)).await).await;
    assert_eq!(outcome, [WriteOutcome::Written]);
    let is_promoted = |replica: &&RedisServer| store.address() == format!("127.0.0.1:{}", replica.port());
    let promoted = replicas.iter().find(is_promoted).expect("one of them");
    let held: u64 = command(promoted, ":secret@", &["HLEN", "sc:{c:p0}:r"]).expect("Redis answers");
    assert_eq!(held, 2, "what was written before the master was lost, and after");
    for (_, file) in &sentinels {
        let _ = std::fs::remove_file(file);
    }
}

//! What a turn's writes cost Redis, by the script and under a watch of the fence.
//!
//! `cargo bench -p container --bench store`. CPU is that of the server alone, by `INFO cpu`; each write is one partition's of one turn, by
//! turns that of an INVITE (session and transaction) and that of a BYE (its transaction; the session and old transactions go).

#[path = "../tests/common/mod.rs"]
mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::RedisServer;
use container::engine::{Write, WriteOutcome};
use container::records::{Key, Kind};
use container::store::Store;
use ucf::store::{MemberRecord, StoreRequest};
use ucf::{Epoch, Incarnation, PartitionId};

const ME: Incarnation = Incarnation(0xabc0_0000_0000_0001);
const PARTITIONS: u64 = 1024;
const WRITES: u64 = 64_000;
/// A transaction stays for this many calls.
const KEPT: u64 = 1024;

fn main() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("a runtime");
    for batch in [8, 32] {
        for by_script in [true, false] {
            runtime.block_on(measure(batch, by_script));
        }
    }
}

async fn measure(batch: u64, by_script: bool) {
    let redis = RedisServer::start();
    let mut store = Store::new(redis.place(), "bench", Duration::from_secs(5), 1);
    if by_script {
        store = store.by_script_only();
    }
    let record = MemberRecord {
        incarnation: ME,
        name: "demo-0".into(),
        sip: "127.0.0.1:1".into(),
        ucf: "127.0.0.1:2".into(),
        weight: 100,
    };
    let claims = (0..PARTITIONS).map(|partition| StoreRequest::Claim {
        partition: PartitionId(partition as u16),
        member: ME,
        expected: None,
        at_least: Epoch(1),
        as_target: false,
    });
    let start: Vec<StoreRequest> = std::iter::once(StoreRequest::Join { record }).chain(claims).collect();
    store.ask(&start).await.expect("Redis answers");
    // The first writes go by script either way.
    let first: Vec<Write> = (0..PARTITIONS).map(|partition| empty(partition, 1)).collect();
    store.write(ME, &first).await.expect("Redis answers");

    let values = [290, 900, 420].map(|length| Bytes::from(vec![b's'; length]));
    let client = redis::Client::open(redis.url()).expect("a good URL");
    let mut raw = client.get_connection().expect("Redis answers");
    let (before, started) = (cpu(&mut raw), Instant::now());
    for turn in 0..WRITES / batch {
        let writes: Vec<Write> = (turn * batch..(turn + 1) * batch)
            .map(|event| write(event, &values))
            .collect();
        let outcomes = store.write(ME, &writes).await.expect("Redis answers");
        assert!(outcomes.iter().all(|outcome| *outcome == WriteOutcome::Written));
    }
    let each = |seconds: f64| seconds * 1e6 / WRITES as f64;
    println!(
        "{} in batches of {batch}: {:.2} us of Redis per write, {:.2} us elapsed; {:?}",
        if by_script { "script" } else { "watch" },
        each(cpu(&mut raw) - before),
        each(started.elapsed().as_secs_f64()),
        store.paths()
    );
}

fn empty(partition: u64, number: u64) -> Write {
    Write {
        partition: PartitionId(partition as u16),
        epoch: Epoch(1),
        number,
        replace: false,
        sets: Vec::new(),
        deletes: Vec::new(),
    }
}

/// Even events are INVITEs, odd ones BYEs of the same call.
fn write(event: u64, [session, invite, bye]: &[Bytes; 3]) -> Write {
    let call = event / 2;
    let key = |kind, id| Key { kind, id };
    let mut write = empty(call * 7 % PARTITIONS, event + 2);
    if event.is_multiple_of(2) {
        write.sets = vec![
            (key(Kind::Session, call), session.clone()),
            (key(Kind::Server, 2 * call), invite.clone()),
        ];
    } else {
        write.sets = vec![(key(Kind::Server, 2 * call + 1), bye.clone())];
        write.deletes = vec![key(Kind::Session, call)];
        // 7 and 1024 share no factor: the call of KEPT before was of the same partition.
        if let Some(old) = call.checked_sub(KEPT) {
            write
                .deletes
                .extend([key(Kind::Server, 2 * old), key(Kind::Server, 2 * old + 1)]);
        }
    }
    write
}

/// Seconds of CPU that the server has taken.
fn cpu(raw: &mut redis::Connection) -> f64 {
    let info: String = redis::cmd("INFO").arg("cpu").query(raw).expect("Redis answers");
    let of = |name: &str| -> f64 {
        let value = info.lines().find_map(|line| line.strip_prefix(name));
        value.expect("known to INFO").parse().expect("a number")
    };
    of("used_cpu_sys:") + of("used_cpu_user:")
}

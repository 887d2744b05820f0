//! The scripts against the model: generated requests get the same answers and leave the same records.

mod common;

use std::collections::BTreeMap;
use std::time::Duration;

use bytes::Bytes;
use common::RedisServer;
use container::engine::{Write, WriteOutcome};
use container::records::{Key, Kind};
use container::store::Store;
use ucf::store::{Era, MemberRecord, Model, StoreReply, StoreRequest, Write as PlainWrite};
use ucf::{Epoch, Incarnation, PartitionId};

const BUDGET: Duration = Duration::from_secs(5);

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

    fn member(&mut self) -> Incarnation {
        Incarnation(0xabc0_0000_0000_0001 + self.roll(3))
    }

    fn partition(&mut self) -> PartitionId {
        PartitionId(self.roll(4) as u16)
    }

    fn some_member(&mut self) -> Option<Incarnation> {
        (self.roll(3) > 0).then(|| self.member())
    }

    fn key(&mut self) -> Vec<u8> {
        format!("k{}", self.roll(5)).into_bytes()
    }

    fn write(&mut self) -> PlainWrite {
        PlainWrite {
            partition: self.partition(),
            member: self.member(),
            epoch: Epoch(1 + self.roll(8)),
            seq: 1 + self.roll(6),
            replace: self.roll(6) == 0,
            sets: (0..self.roll(4))
                .map(|_| (self.key(), self.roll(1000).to_string().into_bytes()))
                .collect(),
            deletes: (0..self.roll(3)).map(|_| self.key()).collect(),
        }
    }

    fn request(&mut self, model: &Model) -> StoreRequest {
        let partition = self.partition();
        let stored = model.partition(partition).cloned().unwrap_or_default();
        // Half of the requests are made to fit what is stored, or nearly all would be refused.
        let fits = self.roll(2) == 0;
        let member = if fits {
            stored.owner.unwrap_or(Incarnation(7))
        } else {
            self.member()
        };
        let epoch = if fits { stored.epoch } else { Epoch(self.roll(8)) };
        match self.roll(9) {
            0 => StoreRequest::Join {
                record: MemberRecord {
                    incarnation: self.member(),
                    name: format!("demo-{}", self.roll(3)),
                    sip: "127.0.0.1:1".into(),
                    ucf: "127.0.0.1:2".into(),
                    weight: 100,
                },
            },
            1 => StoreRequest::Renew {
                member: self.member(),
                counter: self.roll(5),
            },
            2 => StoreRequest::Remove {
                member: self.member(),
                counter: (self.roll(2) == 0).then(|| self.roll(3)),
            },
            3 => StoreRequest::Inspect {
                partitions: (0..4).map(PartitionId).collect(),
            },
            4 | 5 => StoreRequest::Claim {
                partition,
                member: self.member(),
                expected: if fits { stored.owner } else { self.some_member() },
                at_least: Epoch(self.roll(6)),
                as_target: self.roll(3) == 0,
            },
            6 => StoreRequest::Mark {
                partition,
                member,
                epoch,
                target: self.member(),
            },
            7 => StoreRequest::Withdraw {
                partition,
                member,
                epoch,
            },
            _ if fits => StoreRequest::Write(PlainWrite {
                partition,
                member,
                epoch,
                ..self.write()
            }),
            _ => StoreRequest::Write(self.write()),
        }
    }
}

/// What does not depend on the server's identity, in one order.
fn comparable(reply: StoreReply) -> StoreReply {
    match reply {
        StoreReply::Members { mut members, full, .. } => {
            members.sort_by_key(|member| member.record.incarnation);
            StoreReply::Members {
                members,
                era: Era(0),
                full,
            }
        }
        StoreReply::NotListed { .. } => StoreReply::NotListed { era: Era(0) },
        other => other,
    }
}

#[tokio::test]
async fn scripts_do_what_the_model_does() {
    let redis = RedisServer::start();
    for seed in 0..8 {
        let mut store = Store::new(redis.place(), &format!("c{seed}"), BUDGET, 1);
        let mut model = Model::new(Era(0));
        let mut dice = Dice(seed);
        for step in 0..400 {
            let request = dice.request(&model);
            let expected = comparable(model.apply(&request));
            let answer = store
                .ask(std::slice::from_ref(&request))
                .await
                .expect("Redis answers")
                .pop()
                .expect("one answer");
            assert_eq!(
                comparable(answer.reply.clone()),
                expected,
                "seed {seed} step {step}: {request:?}"
            );
            if let (StoreRequest::Claim { partition, .. }, StoreReply::Claimed { .. }) = (&request, &answer.reply) {
                let found: BTreeMap<Vec<u8>, Vec<u8>> = answer
                    .records
                    .iter()
                    .map(|(key, value)| (key.to_vec(), value.to_vec()))
                    .collect();
                assert_eq!(
                    &found,
                    &model.partition(*partition).expect("claimed").records,
                    "seed {seed} step {step}"
                );
            }
        }
    }
}

#[tokio::test]
async fn one_script_fences_each_partition_of_a_turn_by_itself() {
    let redis = RedisServer::start();
    let mut store = Store::new(redis.place(), "c", BUDGET, 1);
    let (me, other) = (Incarnation(1), Incarnation(2));
    let claim = |partition, member| StoreRequest::Claim {
        partition: PartitionId(partition),
        member,
        expected: None,
        at_least: Epoch(1),
        as_target: false,
    };
    store
        .ask(&[claim(0, me), claim(1, other), claim(2, me)])
        .await
        .expect("Redis answers");
    let key = |id| Key {
        kind: Kind::Session,
        id,
    };
    let write = |partition, epoch, number| Write {
        partition: PartitionId(partition),
        epoch: Epoch(epoch),
        number,
        replace: false,
        sets: vec![(key(1), Bytes::from_static(b"a")), (key(2), Bytes::from_static(b"b"))],
        deletes: vec![key(1)],
    };
    let writes = [
        write(0, 1, 1),
        write(1, 1, 1),
        write(2, 1, 1),
        write(2, 1, 1),
        write(3, 1, 1),
    ];
    let outcomes = store.write(me, &writes).await.expect("Redis answers");
    use WriteOutcome::{Behind, Stale, Written};
    let stale = Stale {
        owner: Some(other),
        epoch: Epoch(1),
    };
    assert_eq!(outcomes, [Written, stale, Written, Written, Behind]);
    let inspected = store.ask(&[claim(0, other)]).await.expect("Redis answers");
    assert!(matches!(inspected[0].reply, StoreReply::Refused(_)));
}

#[tokio::test]
async fn a_store_that_does_not_answer_is_lost_within_the_budget_and_found_again() {
    let redis = RedisServer::start();
    let mut store = Store::new(redis.place(), "c", Duration::from_millis(250), 1);
    let before = store.time().await.expect("Redis answers");
    // SAFETY-free pause: DEBUG SLEEP is off in a default server, a stopped process is the plainest black hole.
    let pid = redis.pid().to_string();
    let signal = |name: &str| {
        std::process::Command::new("kill")
            .args([name, &pid])
            .status()
            .expect("kill runs");
    };
    signal("-STOP");
    let started = std::time::Instant::now();
    assert!(store.time().await.is_err());
    assert!(started.elapsed() < Duration::from_secs(2));
    signal("-CONT");
    let deadline = std::time::Instant::now() + Duration::from_secs(10);
    loop {
        match store.time().await {
            Ok(after) => break assert!(after >= before),
            Err(lost) => assert!(std::time::Instant::now() < deadline, "{lost}"),
        }
    }
}

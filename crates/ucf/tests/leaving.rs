//! A member that leaves, and has nobody to hand over to, leaves all that it holds in the store.

use std::time::Duration;

use sip::Instant;
use ucf::Incarnation;
use ucf::member::{Config, Effect, Faults, Member, Notice, STORE_BUDGET};
use ucf::store::{Era, MemberRecord, Model, StoreRequest};

const ALONE: Incarnation = Incarnation(1);
const PARTITIONS: u16 = 4;

/// A member and the store.
struct World {
    now: Instant,
    member: Member,
    store: Model,
    /// The last round in which it was told to write all that it holds.
    round: Option<u64>,
    has_left: bool,
}

impl World {
    fn new() -> Self {
        let now = Instant::from_micros(1_000_000);
        let config = Config {
            record: MemberRecord {
                incarnation: ALONE,
                name: "demo-0".into(),
                sip: String::new(),
                ucf: String::new(),
                weight: 100,
            },
            partitions: PARTITIONS,
            lease: Duration::from_secs(2),
            store_budget: STORE_BUDGET,
            acts_from_memory: true,
            faults: Faults::default(),
        };
        Self {
            now,
            member: Member::new(config, now),
            store: Model::new(Era(1)),
            round: None,
            has_left: false,
        }
    }

    fn wait(&mut self, millis: u64) {
        let end = self.now + Duration::from_millis(millis);
        while self.member.poll_timeout() <= end {
            self.now = self.now.max(self.member.poll_timeout());
            self.member.handle_timeout(self.now);
            self.perform();
        }
        self.now = end;
    }

    fn perform(&mut self) {
        while let Some(effect) = self.member.poll_effect() {
            match effect {
                Effect::Store(id, request) => {
                    self.has_left |= matches!(request, StoreRequest::Remove { member: ALONE, .. });
                    let reply = self.store.apply(&request);
                    self.member.handle_store(self.now, id, reply);
                }
                Effect::Activate { partition, .. } => {
                    self.member.handle_engine(self.now, Notice::Loaded(partition));
                }
                Effect::Reconcile { round, .. } => self.round = Some(round),
                _ => {}
            }
        }
    }
}

#[test]
fn once_a_store_that_forgot_has_been_written_anew() {
    let mut world = World::new();
    world.wait(20_000);
    assert_eq!(world.member.held().count(), usize::from(PARTITIONS));
    world.store = Model::new(Era(2));
    world.wait(1_000);
    let round = world.round.expect("it is to write all that it holds");
    world.member.quiesce(world.now);
    world.wait(5_000);
    assert!(!world.has_left, "nothing of it is written yet");
    world.member.handle_engine(world.now, Notice::Reconciled(round));
    world.wait(1_000);
    assert!(world.has_left);
}

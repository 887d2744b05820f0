//! A member that leaves, and has nobody to hand over to, leaves all that it holds in the store.

mod support;

use sip::Instant;
use support::{BEGINS, Virtual, member};
use ucf::Incarnation;
use ucf::member::{Effect, Member, Notice};
use ucf::store::{Era, Model, StoreRequest};

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
        Self {
            now: BEGINS,
            member: member(ALONE, PARTITIONS),
            store: Model::new(Era(1)),
            round: None,
            has_left: false,
        }
    }
}

impl Virtual for World {
    fn member(&mut self) -> (&mut Instant, &mut Member) {
        (&mut self.now, &mut self.member)
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

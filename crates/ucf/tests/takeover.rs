//! The end of a takeover is told whatever becomes of each of its claims.

mod support;

use sip::Instant;
use support::{BEGINS, PROXY, Virtual, member, record};
use ucf::member::{Effect, Event, LinkEnd, Member, Notice, RequestId};
use ucf::store::{Era, Model, StoreRequest};
use ucf::wire::{Body, Fenced, Heartbeat, PartitionEpoch, Peer, PeerBody, View};
use ucf::{Epoch, Incarnation, PartitionId};

const SURVIVOR: Incarnation = Incarnation(1);
const DEAD: Incarnation = Incarnation(2);
const OTHER: Incarnation = Incarnation(3);

/// A survivor, the store, and claims whose answers are held back.
struct World {
    now: Instant,
    member: Member,
    store: Model,
    holds_back: fn(PartitionId) -> bool,
    held_back: Vec<(RequestId, StoreRequest)>,
    beat: u64,
    /// Partitions of each takeover that was told.
    told: Vec<usize>,
}

impl World {
    /// A member that has died owns all partitions; the survivor has heard of it and claims them.
    fn new(partitions: u16, holds_back: fn(PartitionId) -> bool) -> Self {
        let mut store = Model::new(Era(1));
        store.apply(&StoreRequest::Join { record: record(DEAD) });
        for partition in (0..partitions).map(PartitionId) {
            store.apply(&StoreRequest::Claim {
                partition,
                member: DEAD,
                expected: None,
                at_least: Epoch(1),
                as_target: false,
            });
        }
        let mut world = Self {
            now: BEGINS,
            member: member(SURVIVOR, partitions),
            store,
            holds_back,
            held_back: Vec::new(),
            beat: 0,
            told: Vec::new(),
        };
        world.member.handle_proxy_up(BEGINS, PROXY);
        let first = Heartbeat {
            number: 0,
            views: Vec::new(),
        };
        world.member.handle_proxy_frame(BEGINS, PROXY, Body::Heartbeat(first));
        world.wait(300);
        world.heartbeat();
        world
    }

    /// The proxy says that the member's connections have closed.
    fn heartbeat(&mut self) {
        self.beat += 1;
        let heartbeat = Heartbeat {
            number: self.beat,
            views: vec![View {
                incarnation: DEAD.0,
                silent_ms: 10,
                closed: true,
            }],
        };
        self.member
            .handle_proxy_frame(self.now, PROXY, Body::Heartbeat(heartbeat));
        self.perform();
    }

    fn answer(&mut self, id: RequestId, request: &StoreRequest) {
        let reply = self.store.apply(request);
        self.member.handle_store(self.now, id, reply);
    }

    /// Answers the oldest claims that are held back.
    fn let_go(&mut self, count: usize) {
        let count = count.min(self.held_back.len());
        for (id, request) in self.held_back.drain(..count).collect::<Vec<_>>() {
            self.answer(id, &request);
        }
        self.perform();
    }
}

impl Virtual for World {
    fn member(&mut self) -> (&mut Instant, &mut Member) {
        (&mut self.now, &mut self.member)
    }

    fn perform(&mut self) {
        while let Some(effect) = self.member.poll_effect() {
            match effect {
                Effect::Store(id, StoreRequest::Claim { partition, .. })
                    if (self.holds_back)(partition) && self.beat > 0 =>
                {
                    let Effect::Store(_, request) = effect else {
                        unreachable!("it is one")
                    };
                    self.held_back.push((id, request));
                }
                Effect::Store(id, request) => self.answer(id, &request),
                Effect::Connect { member, .. } => {
                    self.member.handle_peer_end(self.now, member, LinkEnd::Refused);
                }
                Effect::Activate { partition, .. } => {
                    self.member.handle_engine(self.now, Notice::Loaded(partition));
                }
                Effect::Event(Event::Takeover { from, partitions, .. }) => {
                    assert_eq!(from, DEAD);
                    self.told.push(partitions);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn although_another_was_heard_to_own_a_partition_before_the_claim_was_answered() {
    let mut world = World::new(4, |partition| partition.0 == 0);
    assert_eq!((world.held_back.len(), &world.told[..]), (1, &[][..]));
    let fenced = Fenced {
        partition: 0,
        owner: OTHER.0,
        epoch: 99,
    };
    world.member.handle_proxy_frame(world.now, PROXY, Body::Fenced(fenced));
    world.let_go(1);
    assert_eq!(world.told, [3]);
}

#[test]
fn although_the_store_was_lost_before_a_claim_was_answered() {
    let mut world = World::new(4, |partition| partition.0 == 0);
    assert!(world.told.is_empty());
    world.member.handle_store_lost(world.now);
    world.perform();
    assert_eq!(world.told, [3]);
}

#[test]
fn although_a_partition_was_offered_meanwhile_and_the_offer_ran_out() {
    const PARTITIONS: u16 = 300;
    let mut world = World::new(PARTITIONS, |_| true);
    let under_way = world.held_back.len();
    assert!(under_way < usize::from(PARTITIONS), "claims wait for others");
    let sent = |partition: u16| {
        let of =
            |request: &StoreRequest| matches!(request, StoreRequest::Claim { partition: p, .. } if p.0 == partition);
        world.held_back.iter().any(|(_, request)| of(request))
    };
    let waiting = (0..PARTITIONS).find(|partition| !sent(*partition)).expect("one waits");
    let offer = PartitionEpoch {
        partition: u32::from(waiting),
        epoch: 5,
    };
    let offer = Body::Peer(Peer {
        number: 1,
        body: Some(PeerBody::Offer(offer)),
    });
    world.member.handle_peer_frame(world.now, OTHER, offer);
    // The store is slow, and answers often enough not to be taken for lost.
    for _ in 0..3 {
        world.wait(200);
        world.heartbeat();
        world.let_go(5);
    }
    assert!(world.told.is_empty());
    world.holds_back = |_| false;
    world.let_go(usize::MAX);
    assert_eq!(world.told, [usize::from(PARTITIONS) - 1]);
}

#[test]
fn once_with_all_partitions_if_nothing_comes_between() {
    let world = World::new(300, |_| false);
    assert_eq!(world.told, [300]);
    assert_eq!(world.member.held().count(), 300);
    assert!(matches!(
        world.store.partition(PartitionId(299)).map(|stored| stored.owner),
        Some(Some(SURVIVOR))
    ));
}

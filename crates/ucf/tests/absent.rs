//! Whoever is off the list and not heard of any more keeps nobody waiting, though its connections stand, or nobody is there to refuse one.

mod support;

use std::time::Duration;

use sip::Instant;
use support::{BEGINS, LEASE, PROXY, member, record};
use ucf::Incarnation;
use ucf::member::{Effect, Event, Gate, LinkEnd, Member, Notice};
use ucf::store::{Era, Model, StoreRequest};
use ucf::wire::{Body, Heartbeat, MemberState, Peer, PeerBody, PeerStatus, Promise, Round, View};

const ME: Incarnation = Incarnation(1);
const LOST: Incarnation = Incarnation(2);
const OTHER: Incarnation = Incarnation(3);

const TICK: Duration = Duration::from_millis(50);

/// What one says that is well, and in touch with the store.
fn status(state: MemberState) -> PeerStatus {
    PeerStatus {
        state: state as i32,
        stored: true,
        admitted: true,
        era: 1,
        ..PeerStatus::default()
    }
}

/// A member that owns everything, its store, and two others. All they do is to renew their leases, and to promise what is asked for.
struct World {
    now: Instant,
    member: Member,
    store: Model,
    store_answers: bool,
    /// Who renews its lease.
    alive: Vec<Incarnation>,
    /// Whom the other names in its promises.
    named: Vec<Incarnation>,
    number: u64,
    events: Vec<Event>,
    gate: Gate,
    said: Vec<(Incarnation, PeerBody)>,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            now: BEGINS,
            member: member(ME, 4),
            store: Model::new(Era(1)),
            store_answers: true,
            alive: Vec::new(),
            named: Vec::new(),
            number: 0,
            events: Vec::new(),
            gate: Gate::Hold,
            said: Vec::new(),
        };
        world.member.handle_proxy_up(BEGINS, PROXY);
        world.run(LEASE);
        assert_eq!(world.member.held().count(), 4);
        world.alive = vec![LOST, OTHER];
        for other in [LOST, OTHER] {
            world.store.apply(&StoreRequest::Join { record: record(other) });
            world.member.handle_peer_up(world.now, other);
            world.say(other, PeerBody::Status(status(MemberState::Joining)));
        }
        world.run(LEASE);
        world.events.clear();
        world
    }

    fn say(&mut self, from: Incarnation, body: PeerBody) {
        self.number += 1;
        let frame = Peer {
            number: self.number,
            body: Some(body),
        };
        self.member.handle_peer_frame(self.now, from, Body::Peer(frame));
        self.perform();
    }

    /// Nothing is heard of it any more, by anybody, and its link stands.
    fn is_lost(&mut self) {
        self.alive.retain(|who| *who != LOST);
    }

    /// It hands everything over and ends, and its address goes with it.
    fn leaves(&mut self, last: PeerStatus) {
        self.say(LOST, PeerBody::Status(last));
        self.is_lost();
        let request = StoreRequest::Remove {
            member: LOST,
            counter: None,
        };
        self.store.apply(&request);
        self.member.handle_peer_end(self.now, LOST, LinkEnd::Closed);
        self.perform();
    }

    fn run(&mut self, time: Duration) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + TICK;
            self.number += 1;
            for other in self.alive.clone() {
                let request = StoreRequest::Renew {
                    member: other,
                    counter: self.number,
                };
                self.store.apply(&request);
            }
            let views = self.alive.iter().map(|other| View {
                incarnation: other.0,
                silent_ms: 0,
                closed: false,
            });
            let heartbeat = Heartbeat {
                number: self.number,
                views: views.collect(),
            };
            self.member
                .handle_proxy_frame(self.now, PROXY, Body::Heartbeat(heartbeat));
            self.member.handle_timeout(self.now);
            self.perform();
        }
    }

    fn perform(&mut self) {
        while let Some(effect) = self.member.poll_effect() {
            match effect {
                Effect::Store(id, request) if self.store_answers => {
                    let reply = self.store.apply(&request);
                    self.member.handle_store(self.now, id, reply);
                }
                Effect::Activate { partition, .. } => self.member.handle_engine(self.now, Notice::Loaded(partition)),
                Effect::Reconcile { round, .. } => self.member.handle_engine(self.now, Notice::Reconciled(round)),
                Effect::Connect { member, .. } => self.member.handle_peer_end(self.now, member, LinkEnd::Lost),
                Effect::ToPeer(to, Body::Peer(Peer { body: Some(body), .. })) => self.is_told(to, body),
                Effect::Event(event) => self.events.push(event),
                Effect::Gate(gate) => self.gate = gate,
                _ => {}
            }
        }
    }

    fn is_told(&mut self, to: Incarnation, body: PeerBody) {
        if !self.alive.contains(&to) {
            return;
        }
        let answer = match &body {
            PeerBody::Ask(round) => Some(PeerBody::Promise(Promise {
                round: round.round,
                members: self.named.iter().map(|named| named.0).collect(),
                ..Promise::default()
            })),
            PeerBody::Tell(round) => Some(PeerBody::Owns(ucf::wire::Owns {
                round: round.round,
                ..Default::default()
            })),
            _ => None,
        };
        self.said.push((to, body));
        if let Some(answer) = answer {
            self.say(to, answer);
        }
    }

    /// The store is away for a second.
    fn loses_the_store(&mut self) {
        self.store_answers = false;
        self.run(Duration::from_secs(1));
    }

    fn acts_from_memory(&self) -> bool {
        matches!(self.gate, Gate::Memory { .. })
    }

    /// How long it takes until memory and store are equal again, and output leaves.
    fn has_the_store_back(&mut self) -> Duration {
        self.store_answers = true;
        self.store = {
            let mut forgot = Model::new(Era(2));
            for other in self.alive.iter().chain([&ME]) {
                forgot.apply(&StoreRequest::Join { record: record(*other) });
            }
            forgot
        };
        let begins = self.now;
        while self.gate != Gate::Committed && self.now.since(begins) < LEASE * 4 {
            self.run(TICK);
        }
        self.now.since(begins)
    }
}

#[test]
fn one_that_is_lost_with_its_links_is_waited_for_until_it_is_forgotten() {
    let mut world = World::new();
    world.is_lost();
    world.loses_the_store();
    assert!(
        !world.acts_from_memory(),
        "it may claim as long as it may have the store"
    );

    let mut world = World::new();
    world.is_lost();
    world.run(LEASE * 7);
    world.loses_the_store();
    assert!(world.acts_from_memory());
    assert!(world.has_the_store_back() <= LEASE);
}

#[test]
fn and_is_not_named_to_those_who_never_knew_it() {
    let promised = |world: &mut World| {
        world.loses_the_store();
        world.say(OTHER, PeerBody::Ask(Round { round: 1 }));
        let mut promises = world.said.drain(..).filter_map(|(_, body)| match body {
            PeerBody::Promise(promise) => Some(promise.members),
            _ => None,
        });
        promises.next_back().expect("it promises")
    };
    let mut world = World::new();
    world.is_lost();
    assert_eq!(promised(&mut world), [LOST.0, OTHER.0]);

    let mut world = World::new();
    world.is_lost();
    world.run(LEASE * 7);
    assert_eq!(promised(&mut world), [OTHER.0]);
}

#[test]
fn one_that_another_names_is_waited_for_however_long_it_is_unheard() {
    let mut world = World::new();
    world.named = vec![Incarnation(77)];
    world.loses_the_store();
    world.run(LEASE * 7);
    assert!(!world.acts_from_memory(), "it may have joined unknown to this member");
    world.named.clear();
    world.run(LEASE);
    assert!(world.acts_from_memory(), "the other has forgotten it");
}

#[test]
fn one_that_has_left_is_not_waited_for_though_nobody_refuses_a_connection() {
    let mut world = World::new();
    world.leaves(status(MemberState::Quiescing));
    world.run(LEASE);
    world.loses_the_store();
    assert!(world.acts_from_memory());
    assert!(world.has_the_store_back() <= LEASE);
}

#[test]
fn one_that_closed_its_link_and_may_have_more_than_the_store_is_waited_for() {
    let another_era = PeerStatus {
        era: 7,
        ..status(MemberState::Quiescing)
    };
    let unwritten = PeerStatus {
        stored: false,
        ..status(MemberState::Quiescing)
    };
    for last in [status(MemberState::Active), another_era, unwritten] {
        let mut world = World::new();
        world.leaves(last);
        world.run(LEASE);
        world.loses_the_store();
        assert!(!world.acts_from_memory(), "{last:?}");
    }
    let mut world = World::new();
    world.say(LOST, PeerBody::Status(status(MemberState::Quiescing)));
    world.member.handle_peer_end(world.now, LOST, LinkEnd::Closed);
    world.run(LEASE);
    world.loses_the_store();
    assert!(!world.acts_from_memory(), "it is on the list");
}

#[test]
fn one_that_has_left_and_is_on_the_list_again_is_waited_for() {
    let mut world = World::new();
    world.leaves(status(MemberState::Quiescing));
    world.run(LEASE);
    world.store.apply(&StoreRequest::Join { record: record(LOST) });
    world.run(LEASE);
    world.loses_the_store();
    assert!(!world.acts_from_memory());
}

#[test]
fn nor_is_it_taken_for_well_again_when_everybody_has_forgotten_it() {
    let cut_off = PeerStatus {
        cut_off: true,
        ..status(MemberState::Active)
    };
    for last in [status(MemberState::Active), cut_off] {
        let mut world = World::new();
        world.say(LOST, PeerBody::Status(last));
        world.is_lost();
        world.run(LEASE * 7);
        let removed = |event: &Event| matches!(event, Event::Removed { member: LOST });
        let recovered = |event: &Event| matches!(event, Event::Recovered { .. });
        assert!(world.events.iter().any(removed));
        assert!(!world.events.iter().any(recovered), "{:?}", world.events);
        // Its node is there again.
        world.say(LOST, PeerBody::Status(status(MemberState::Joining)));
        assert!(world.events.iter().any(recovered));
    }
}

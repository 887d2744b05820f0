//! Of two stores each has the leases of those who reach it: a lease that is gone in one says nothing of a member that is with the other.

mod support;

use std::time::Duration;

use sip::Instant;
use support::{BEGINS, LEASE, PROXY, member, record};
use ucf::Incarnation;
use ucf::member::{Effect, Event, Member, Suspicion};
use ucf::store::{Era, Model, StoreRequest};
use ucf::wire::{Body, Heartbeat, MemberState, Ownership, Peer, PeerBody, PeerStatus, View};

const ME: Incarnation = Incarnation(1);
const OTHER: Incarnation = Incarnation(2);

/// A member, its store, and another that renews no lease there although a proxy sees it.
struct World {
    now: Instant,
    member: Member,
    store: Model,
    beat: u64,
    suspected: Option<Suspicion>,
}

impl World {
    /// The other says that what it owns is stored in the life `era` of its store; ours is in life 1.
    fn new(era: u64) -> Self {
        let mut store = Model::new(Era(1));
        store.apply(&StoreRequest::Join { record: record(OTHER) });
        let mut world = Self {
            now: BEGINS,
            member: member(ME, 4),
            store,
            beat: 0,
            suspected: None,
        };
        world.member.handle_proxy_up(BEGINS, PROXY);
        world.run(Duration::from_millis(200), false);
        world.member.handle_peer_up(world.now, OTHER);
        let status = PeerStatus {
            state: MemberState::Active as i32,
            stored: true,
            admitted: true,
            era,
            ..PeerStatus::default()
        };
        let status = Body::Peer(Peer {
            number: 1,
            body: Some(PeerBody::Status(status)),
        });
        world.member.handle_peer_frame(world.now, OTHER, status);
        world
    }

    /// Time passes in which a proxy sees the other, and the other itself says something, if it `speaks`.
    fn run(&mut self, time: Duration, speaks: bool) {
        let end = self.now + time;
        while self.now < end {
            self.now = self.now + Duration::from_millis(50);
            self.beat += 1;
            let view = View {
                incarnation: OTHER.0,
                silent_ms: 0,
                closed: false,
            };
            let heartbeat = Heartbeat {
                number: self.beat,
                views: vec![view],
            };
            self.member
                .handle_proxy_frame(self.now, PROXY, Body::Heartbeat(heartbeat));
            if speaks {
                let nothing = Ownership {
                    owner: OTHER.0,
                    ..Ownership::default()
                };
                self.member.handle_peer_frame(self.now, OTHER, Body::Ownership(nothing));
            }
            self.member.handle_timeout(self.now);
            self.perform();
        }
    }

    fn perform(&mut self) {
        while let Some(effect) = self.member.poll_effect() {
            match effect {
                Effect::Store(id, request) => {
                    let reply = self.store.apply(&request);
                    self.member.handle_store(self.now, id, reply);
                }
                Effect::Event(Event::Suspected { member, why }) => {
                    assert_eq!(member, OTHER);
                    self.suspected = Some(why);
                }
                _ => {}
            }
        }
    }
}

#[test]
fn one_that_renews_in_another_store_is_not_suspected_while_it_is_heard() {
    let mut world = World::new(2);
    world.run(LEASE * 4, true);
    assert_eq!(world.suspected, None);
    world.run(LEASE * 2 + Duration::from_millis(100), false);
    assert_eq!(world.suspected, Some(Suspicion::Lease));
}

#[test]
fn one_that_renews_nowhere_is_suspected_though_it_is_heard() {
    let mut world = World::new(1);
    world.run(LEASE, true);
    assert_eq!(world.suspected, None);
    world.run(LEASE, true);
    assert_eq!(world.suspected, Some(Suspicion::Lease));
}

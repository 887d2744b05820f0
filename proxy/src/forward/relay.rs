//! Through another proxy: for containers that this worker does not reach and others do.
//!
//! What a container tells a proxy, the proxy passes on to those that do not reach it ([`Heard`]): who owns what, which transactions live,
//! how much there is to do. So all proxies route alike, and a message that was routed here travels as it would have been written to the
//! container ([`Relay`]), once, to a proxy that answers for it from then on. What is for a client whose connection another proxy holds is
//! given to that proxy ([`ToClient`]), a datagram too where each has an address of its own: to the proxy that has the address now, whichever had it
//! when the client was heard, for that is the only source that a NAT before the client lets pass (RFC 4787 s5, address-dependent filtering).

use std::time::Duration;

use sip::{Index, Instant, Message};
use transport::legs::INNER;
use ucf::flow::{Flow, Held, Place};
use ucf::routing::Slot;
use ucf::window::Label;
use ucf::wire::{Body, Heard, Heartbeat, Hello, MemberState, Ownership, Relay, ToClient};
use ucf::{Incarnation, PartitionId, ProxyId};

use super::Core;
use super::containers::Container;
use super::counters::DropReason;
use super::effects::{Effect, Effects, LinkId};
use super::refusal::Refusal;

/// How long a container has to be out of reach before anything goes through a peer. When it has died, others notice it within this
/// time, and what is held goes to its successor, in order.
const GRACE: Duration = Duration::from_millis(250);

/// Transactions of one frame: twenty bytes each, far below the largest frame.
const PER_FRAME: usize = 4096;

impl Core {
    pub(super) fn peer_up(&mut self, now: Instant, hello: &Hello) -> Option<LinkId> {
        let worker = u16::try_from(hello.worker?).ok()?;
        if hello.cluster != self.config.cluster || hello.incarnation == self.config.me.incarnation {
            return None;
        }
        let incarnation = hello.incarnation;
        let place = hello.sip.parse().ok().map(Place::of);
        let id = self.peers.up(now, ProxyId { incarnation, worker }, place)?;
        // It hears at once whom we reach.
        self.next_heartbeat = now;
        Some(id)
    }

    /// A peer is gone: what was on its way through it goes another.
    pub(super) fn peer_down(&mut self, now: Instant, id: LinkId, effects: &mut Effects) {
        if let Some(taken) = self.peers.down(id) {
            self.keep_all(now, taken, effects);
            self.release(now, effects);
        }
    }

    /// What was on its way through peers that have fallen silent goes another way.
    pub(super) fn fall_silent(&mut self, now: Instant, effects: &mut Effects) {
        let taken = self.peers.fallen_silent(now);
        if !taken.is_empty() {
            self.keep_all(now, taken, effects);
            self.release(now, effects);
        }
    }

    /// A frame of another proxy.
    pub(super) fn peer_frame(&mut self, now: Instant, id: LinkId, body: &Body, effects: &mut Effects) {
        match body {
            Body::Heartbeat(heartbeat) => self.peer_beats(now, id, heartbeat, effects),
            Body::Heard(heard) => self.heard_by_peer(now, heard, effects),
            Body::Relay(relay) => self.take_relayed(now, relay, effects),
            Body::ToClient(message) => self.take_to_client(message, effects),
            // Not for proxies, or of a later version.
            _ => (),
        }
    }

    fn peer_beats(&mut self, now: Instant, id: LinkId, heartbeat: &Heartbeat, effects: &mut Effects) {
        let Some(peer) = self.peers.get_mut(id) else { return };
        peer.hear(now, heartbeat);
        let linked = self.containers.iter().filter(|(_, container)| container.link.is_some());
        for (slot, container) in linked {
            let incarnation = container.incarnation;
            if peer.reaches(incarnation) {
                continue;
            }
            if !peer.told.contains(&incarnation) {
                peer.told.push(incarnation);
                let is_its = |partition| self.routing.route(partition).owner == Some(slot);
                for transactions in self.transactions.live(PER_FRAME, is_its) {
                    let heard = told(incarnation, Body::Transactions(transactions));
                    effects.push(Effect::Frame { link: id, body: heard });
                }
            }
            // Again and again: what was missed while the peer reached it is made up for.
            let ownership = self.routing.ownership(slot);
            let heard = told(incarnation, Body::Ownership(ownership));
            effects.push(Effect::Frame { link: id, body: heard });
        }
        self.release(now, effects);
        self.news(now, effects);
    }

    /// Passes on what a container has told, to peers that do not reach it.
    pub(super) fn tell_peers(&mut self, slot: Slot, body: &Body, effects: &mut Effects) {
        if self.peers.is_empty() || !matches!(body, Body::Report(_) | Body::Ownership(_) | Body::Transactions(_)) {
            return;
        }
        let Some(container) = self.containers.get(slot) else {
            return;
        };
        let incarnation = container.incarnation;
        for peer in self.peers.iter_mut().filter(|peer| peer.told.contains(&incarnation)) {
            effects.push(Effect::Frame {
                link: peer.id,
                body: told(incarnation, body.clone()),
            });
        }
    }

    /// What a container that we do not reach has told a peer.
    fn heard_by_peer(&mut self, now: Instant, heard: &Heard, effects: &mut Effects) {
        let incarnation = Incarnation(heard.incarnation);
        let Some(slot) = self.routing.enter(incarnation) else {
            return;
        };
        if incarnation.0 == 0 || self.containers.link(slot).is_some() {
            return;
        }
        if let Some(report) = &heard.report {
            self.balancer.report(now, slot, report);
        }
        if let Some(transactions) = &heard.transactions {
            let partitions = self.routing.partitions();
            let anew = self.waits_for_others(now);
            self.transactions.announced(now, transactions, partitions, anew);
        }
        if let Some(ownership) = &heard.ownership {
            // Never complete: the peer may know less than we do.
            let ownership = Ownership {
                complete: false,
                ..ownership.clone()
            };
            self.ownership(now, &ownership, effects);
            self.settle_output(now, effects);
        }
        self.news(now, effects);
    }

    /// The container, if it can be sent to through a peer only.
    pub(super) fn relayed(&self, now: Instant, slot: Slot) -> Option<Incarnation> {
        let is_cut_off = |container: &Container| container.link.is_none() && now.since(container.heard) >= GRACE;
        let container = self.routing.incarnation(slot)?;
        let is_cut_off = self.containers.get(slot).is_none_or(is_cut_off);
        (is_cut_off && self.peers.reach(container)).then_some(container)
    }

    /// Whether a container that takes new dialogs can be sent to through a peer.
    pub(super) fn has_active_relayed(&self) -> bool {
        let mut slots = self
            .peers
            .reached()
            .filter_map(|container| self.routing.slot(container));
        slots.any(|slot| self.balancer.state(slot) == Some(MemberState::Active) && self.owns(slot))
    }

    /// Sends an edited message through a peer that reaches its partition's owner; false if there is none.
    pub(super) fn relay(
        &mut self,
        now: Instant,
        slot: Slot,
        label: Label,
        bytes: &[u8],
        effects: &mut Effects,
    ) -> bool {
        // Once only: whoever has it from another proxy does not pass it on.
        let container = self.relayed(now, slot).filter(|_| !label.relayed);
        let Some(peer) = container.and_then(|container| self.peers.towards(container, label.partition)) else {
            return false;
        };
        peer.keep(now, label, bytes);
        self.counters.relayed += 1;
        let relay = Relay {
            partition: u32::from(label.partition.0),
            message: bytes.to_vec(),
        };
        effects.push(Effect::Frame {
            link: peer.id,
            body: Body::Relay(relay),
        });
        true
    }

    /// A message for a container that the peer does not reach.
    fn take_relayed(&mut self, now: Instant, relay: &Relay, effects: &mut Effects) {
        let partition = u16::try_from(relay.partition)
            .ok()
            .filter(|partition| usize::from(*partition) < self.routing.partitions());
        let Some(partition) = partition.filter(|_| is_one_message(&relay.message)) else {
            return self.counters.drop(DropReason::Malformed);
        };
        let label = Label {
            partition: PartitionId(partition),
            came: now,
            order: self.next_order(),
            returns: 0,
            relayed: true,
        };
        let owner = self.routing.route(label.partition).settled();
        let kept = match owner.and_then(|slot| self.containers.link_mut(slot)) {
            Some(link) if link.window.has_room(relay.message.len()) => {
                link.window
                    .append(now, label, |out| out.extend_from_slice(&relay.message));
                true
            }
            Some(_) => false,
            None => self.hold.keep(now, label, &relay.message),
        };
        if !kept {
            self.give_up(now, Refusal::FULL, label, &relay.message, effects);
        }
    }

    /// Whether this process holds a flow: a connection, or the address.
    pub(super) fn holds(&self, held: Held) -> bool {
        let me = self.config.me.incarnation;
        match held {
            Held::Connection { by, .. } => by.incarnation == me,
            Held::Address { process, place } => process == me || place.is_some() && place == self.own.place(),
        }
    }

    /// The frame that has a client's message sent by the proxy that holds its flow; none if there is no link with it.
    pub(super) fn through_holder(&self, to: &Flow, held: Held) -> Option<(LinkId, ToClient)> {
        let link = self.peers.holder(held)?;
        let flow = to.encode(&self.config.keyring).as_bytes().to_vec();
        let message = Vec::new();
        Some((link, ToClient { flow, message }))
    }

    /// A message for a client whose flow this process holds.
    fn take_to_client(&mut self, message: &ToClient, effects: &mut Effects) {
        let flow = Flow::decode(&message.flow, &self.config.keyring);
        // Only so does it go no further: what two proxies hold of each other's addresses may differ.
        match flow.filter(|flow| flow.held.is_some_and(|held| self.holds(held))) {
            Some(to) => self.send(to, effects, |out| out.extend_from_slice(&message.message)),
            None => self.counters.drop(DropReason::NoFlow),
        }
    }
}

/// Whether these bytes, written into a stream among others, are one message there.
fn is_one_message(bytes: &[u8]) -> bool {
    let mut index = Index::new();
    index.scan(bytes, &INNER).is_ok() && {
        let message = Message::new(bytes, &index);
        let body = message.body();
        let ends = body.as_ptr_range().end == bytes.as_ptr_range().end;
        ends && message.content_length().map(|length| length as usize) == Some(body.len())
    }
}

/// What a container has told, for a proxy that does not reach it.
fn told(container: Incarnation, body: Body) -> Body {
    let mut heard = Heard {
        incarnation: container.0,
        ..Heard::default()
    };
    match body {
        Body::Report(report) => heard.report = Some(report),
        Body::Ownership(ownership) => heard.ownership = Some(ownership),
        Body::Transactions(transactions) => heard.transactions = Some(transactions),
        _ => (),
    }
    Body::Heard(heard)
}

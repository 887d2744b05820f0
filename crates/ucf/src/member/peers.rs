//! The other members: links, what they say, and whether they are down.

use super::{Effect, Event, LinkEnd, Member, Suspicion};
use crate::detector::Verdict;
use crate::store::{Era, MemberRecord};
use crate::wire::{Empty, MemberState, PeerBody, PeerStatus};
use crate::{Epoch, Incarnation};
use sip::Instant;
use std::time::Duration;

/// Waits between attempts to connect: the first and the longest.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(1));

/// Members that are known at most; the list in the store is of trusted parts, this is against a broken one.
const MAX_PEERS: usize = 4096;

#[derive(Debug, Default)]
pub(super) struct Peer {
    /// From the list of members.
    pub(super) record: Option<MemberRecord>,
    /// Since when it is not on the list.
    pub(super) unlisted_since: Option<Instant>,
    pub(super) linked: bool,
    /// When it last said anything.
    pub(super) heard: Instant,
    /// A connection was refused since the last link: nobody is there any more.
    refused: bool,
    /// The last link was closed by its side.
    closed: bool,
    /// Nothing had to be taken from it when it ended: see [`Peer::note_left`].
    left: bool,
    connecting: bool,
    next_try: Instant,
    tries: u32,
    pub(super) admitted_me: bool,
    pub(super) status: Option<PeerStatus>,
    status_number: u64,
    /// The last of our rounds in which it said what it owns.
    pub(super) told_round: u64,
    pub(super) suspicion: Option<(Suspicion, Instant)>,
    /// What is claimed from it has been scheduled under the present suspicion.
    pub(super) claimed: bool,
    pub(super) recovered_at: Option<Instant>,
}

impl Peer {
    /// Its process has ended: its side closed and nobody listens there any more, or it has left.
    pub(super) fn is_gone(&self) -> bool {
        !self.linked && (self.refused || self.left)
    }

    /// It is on the list, again perhaps.
    pub(super) fn note_listed(&mut self) {
        self.unlisted_since = None;
        self.left = false;
    }

    /// A renewal has shown that it is off the list, in this life of the store. If it was quiescing, and had written all that it had there, it has
    /// left; where its address goes with it, nobody is there to refuse a connection.
    pub(super) fn note_left(&mut self, era: Era) {
        let closed = self.closed && !self.linked;
        self.left |=
            closed && (self.status).is_some_and(|s| s.state() == MemberState::Quiescing && s.stored && s.era == era.0);
    }

    /// Only named by another's promise: never on the list, and never heard.
    pub(super) fn is_hearsay(&self) -> bool {
        self.record.is_none() && self.heard == Instant::default()
    }

    /// Nobody waits for anything from it: it has ended, or it is forgotten.
    pub(super) fn is_absent(&self, now: Instant, lease: Duration) -> bool {
        self.is_gone() || self.is_forgotten(now, lease)
    }

    /// Off the list for so long that it claims nothing before all others have admitted it anew, and silent for as long: its node may be lost,
    /// and its connections stand as long as nobody says otherwise.
    fn is_forgotten(&self, now: Instant, lease: Duration) -> bool {
        let long = |since: Instant| now.since(since) >= lease * 2;
        self.unlisted_since.is_some_and(long) && long(self.heard)
    }

    /// Whoever was found closed stays so until someone has seen it alive: a proxy that forgets or leaves does not vouch. Nor does a link that
    /// stands and is silent, of one that is off the list: its node may be lost.
    fn is_unseen(&self, now: Instant, lease: Duration, why: Suspicion) -> bool {
        if self.linked {
            self.unlisted_since.is_some() && now.since(self.heard) >= lease * 2
        } else {
            why == Suspicion::Closed
        }
    }

    pub(super) fn weight(&self) -> u16 {
        self.record.as_ref().map_or(100, |r| r.weight)
    }

    /// It can be asked to take a partition.
    pub(super) fn is_well(&self) -> bool {
        self.linked && self.suspicion.is_none() && self.status.is_some_and(|s| s.admitted && s.stored)
    }
}

impl Member {
    pub(super) fn connect_peers(&mut self, now: Instant) {
        let mut wanted = Vec::new();
        for (id, peer) in &mut self.peers {
            let Some(record) = &peer.record else { continue };
            if peer.linked || peer.connecting || peer.next_try > now {
                continue;
            }
            peer.connecting = true;
            wanted.push(Effect::Connect {
                member: *id,
                address: record.ucf.clone(),
            });
        }
        self.effects.extend(wanted);
    }

    pub(super) fn on_peer_up(&mut self, now: Instant, id: Incarnation) {
        if self.peers.len() >= MAX_PEERS && !self.peers.contains_key(&id) {
            return;
        }
        let peer = self.peers.entry(id).or_insert_with(|| Peer {
            // It may be on the list since the last renewal; the next one tells.
            unlisted_since: Some(now),
            ..Peer::default()
        });
        peer.linked = true;
        peer.heard = now;
        (peer.refused, peer.closed, peer.left) = (false, false, false);
        peer.connecting = false;
        peer.tries = 0;
        self.greet(id);
    }

    pub(super) fn on_peer_end(&mut self, now: Instant, id: Incarnation, end: LinkEnd) {
        let Some(peer) = self.peers.get_mut(&id) else { return };
        if end == LinkEnd::Refused && peer.linked {
            // Its own connection to us stands: what was refused was one of two.
            return;
        }
        let was_linked = std::mem::replace(&mut peer.linked, false);
        peer.connecting = false;
        peer.refused |= end == LinkEnd::Refused;
        peer.closed |= end == LinkEnd::Closed;
        let wait = (RETRY.0 * 2_u32.saturating_pow(peer.tries.min(8))).min(RETRY.1);
        // Asked at once after a link ended: whether nobody is there is soon wanted to be known.
        peer.next_try = if was_linked { now } else { now + wait };
        peer.tries = if was_linked { 0 } else { peer.tries + 1 };
        if peer.is_gone() {
            self.memory.release_gone(id);
        }
        if was_linked {
            self.connect_peers(now);
        }
        self.check_admission(now);
    }

    pub(super) fn on_peer_body(&mut self, now: Instant, from: Incarnation, number: u64, body: PeerBody) {
        match body {
            PeerBody::Status(status) => self.on_status(now, from, number, status),
            PeerBody::Admit(_) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    // Who asks has joined, after our last look at the list.
                    peer.note_listed();
                }
                // From now on it is asked before anything is done from memory; what was agreed before without it is not extended.
                if self.peers.contains_key(&from) && !self.memory.acts() {
                    self.tell_heard(from);
                    self.say(from, PeerBody::Admitted(Empty {}));
                }
            }
            PeerBody::Admitted(_) => {
                if let Some(peer) = self.peers.get_mut(&from) {
                    peer.admitted_me = true;
                }
                self.check_admission(now);
            }
            PeerBody::Offer(offer) => {
                if let Some(partition) = self.partition(offer.partition) {
                    self.on_offer(now, from, partition, Epoch(offer.epoch));
                }
            }
            PeerBody::Ask(round) => self.on_ask(now, from, number, round.round),
            PeerBody::Promise(promise) => self.on_promise(now, from, &promise),
            PeerBody::Refuse(round) => self.on_refuse(from, round.round),
            PeerBody::Tell(round) => self.tell_owned(from, round.round),
            PeerBody::Owns(owns) => self.on_owns(now, from, &owns),
        }
    }

    fn on_status(&mut self, now: Instant, from: Incarnation, number: u64, status: PeerStatus) {
        let Some(peer) = self.peers.get_mut(&from) else { return };
        // Two links may overtake one another.
        if number <= peer.status_number {
            return;
        }
        peer.status_number = number;
        peer.status = Some(status);
        if status.stored {
            self.memory.release(from, number);
        }
        self.detect(now);
    }

    /// Looks at everybody anew: who is down, and what is to be claimed for that.
    pub(super) fn detect(&mut self, now: Instant) {
        let ids: Vec<_> = self.peers.keys().copied().collect();
        for id in ids {
            let found = self.suspicion_of(now, id);
            let peer = self.peers.get_mut(&id).expect("its id was just listed");
            match (peer.suspicion, found) {
                (None, None) => {}
                (None, Some(why)) => {
                    peer.suspicion = Some((why, now));
                    peer.claimed = false;
                    self.event(Event::Suspected { member: id, why });
                }
                (Some(_), None) => {
                    peer.suspicion = None;
                    peer.recovered_at = Some(now);
                    self.event(Event::Recovered { member: id });
                }
                (Some((before, since)), Some(why)) => peer.suspicion = Some((stronger(before, why), since)),
            }
            self.claim_from_suspect(now, id);
        }
    }

    /// What it stores is not where this member looks: in an earlier life of the store, or in another one.
    pub(super) fn is_elsewhere(&self, peer: &Peer) -> bool {
        let era = self.store.era.map_or(0, |era| era.0);
        peer.status.is_some_and(|s| s.era != era)
    }

    fn suspicion_of(&self, now: Instant, id: Incarnation) -> Option<Suspicion> {
        let peer = self.peers.get(&id)?;
        let verdict = self.detector.verdict(now, id);
        let cut_off = peer.linked && peer.status.is_some_and(|s| s.cut_off);
        // Of two stores each has the leases of those who reach it.
        let heard = peer.linked && now.since(peer.heard) < self.config.lease * 2;
        let elsewhere =
            heard && verdict == Verdict::Up && peer.status.is_some_and(|s| s.stored) && self.is_elsewhere(peer);
        match verdict {
            Verdict::Closed => Some(Suspicion::Closed),
            _ if self.lease.is_gone(id) && !elsewhere => Some(Suspicion::Lease),
            _ if cut_off && self.store.is_up() => Some(Suspicion::CutOff),
            Verdict::Silent => Some(Suspicion::Silent),
            Verdict::Unknown => {
                let before = peer.suspicion.map(|(why, _)| why);
                let unseen = before.filter(|why| peer.is_unseen(now, self.config.lease, *why));
                // Silence is none if no proxy is there to be heard.
                unseen.filter(|why| *why != Suspicion::Silent || self.detector.in_touch(now))
            }
            Verdict::Up => None,
        }
    }
}

fn stronger(before: Suspicion, now: Suspicion) -> Suspicion {
    // A silence that turns out to be a close, or a lost lease, needs no sparing any more; not the other way round.
    if now == Suspicion::Silent { before } else { now }
}

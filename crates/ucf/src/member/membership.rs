//! Joining, admission, the list of members, states, leaving.

use super::store_link::What;
use super::{Effect, Event, Member, Phase};
use crate::assignment::{self, Candidate};
use crate::store::{StoreReply, StoreRequest, StoredMember};
use crate::wire::{Body, Empty, MemberState, Ownership, PeerBody, PeerStatus, Round};
use crate::{Incarnation, PartitionId};
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet};

impl Member {
    /// The list of members, as of a join or a renewal.
    pub(super) fn learn_members(&mut self, now: Instant, members: Vec<StoredMember>) {
        let me = self.incarnation();
        for peer in self.peers.values_mut() {
            peer.unlisted_since = peer.unlisted_since.or(Some(now));
        }
        let others: Vec<_> = members.into_iter().filter(|m| m.record.incarnation != me).collect();
        let joined = self.phase == Phase::Joining;
        if joined {
            self.phase = Phase::Listed;
            self.listed_at = now;
            self.admission = others.iter().map(|m| m.record.incarnation).collect();
            self.event(Event::Joined { others: others.len() });
        }
        for member in others {
            let peer = self.peers.entry(member.record.incarnation).or_default();
            peer.record = Some(member.record);
            peer.note_listed();
        }
        if let Some(era) = self.store.era {
            let off = self.peers.values_mut().filter(|peer| peer.unlisted_since.is_some());
            off.for_each(|peer| peer.note_left(era));
        }
        let (lease, keep) = (self.config.lease, &self.admission);
        self.peers.retain(|id, peer| {
            // A member off the list claims nothing before it is on it again, by its own rule of fresh renewals: so it may be forgotten.
            let off = peer.unlisted_since.is_some_and(|since| now.since(since) > lease * 2);
            !off || peer.linked || keep.contains(id)
        });
        if joined {
            self.connect_peers(now);
            self.check_admission(now);
        }
    }

    /// Whether everybody who was on the list has admitted this member or is closed.
    pub(super) fn check_admission(&mut self, now: Instant) {
        if self.admitted || self.phase != Phase::Listed {
            return;
        }
        // A store that forgot lists nobody: whom the proxies see alive has to admit as well, it may be acting from memory.
        let me = self.incarnation();
        let unheard = |id: &Incarnation| *id != me && self.peers.get(id).is_none_or(|p| !p.admitted_me && !p.is_gone());
        let alive: Vec<_> = self.detector.alive(now).filter(unheard).collect();
        let waiting: Vec<_> = self
            .admission
            .iter()
            .filter(|m| !self.need_not_admit(**m))
            .copied()
            .collect();
        self.admission = waiting.into_iter().collect();
        if !self.admission.is_empty() || !alive.is_empty() || !self.has_been_told_who_lives(now) {
            // Asked again with every tick: who acts from memory admits nobody before it has stopped.
            let waiting: BTreeSet<_> = self.admission.iter().chain(&alive).copied().collect();
            for peer in waiting {
                if self.peers.get(&peer).is_some_and(|p| p.linked) {
                    self.say(peer, PeerBody::Admit(Empty {}));
                }
            }
            return;
        }
        self.admitted = true;
        self.admitted_at = now;
        self.next_sweep = now;
        self.event(Event::Admitted);
        self.tell_status();
        self.sweep_if_due(now);
    }

    /// A proxy has said whom it sees. Without proxies whoever lives has had the time to tell a store that forgot what it owns: 2 L.
    fn has_been_told_who_lives(&self, now: Instant) -> bool {
        self.detector.in_touch(now) || now.since(self.listed_at) >= self.config.lease * 2
    }

    fn need_not_admit(&self, member: Incarnation) -> bool {
        let Some(peer) = self.peers.get(&member) else {
            return true;
        };
        let listed = peer.unlisted_since.is_none();
        // The next life of the same name runs, and the lease is gone: a process that will not come back, at an address that is no more.
        let name = peer.record.as_ref().map(|r| &r.name);
        let other_life = |id: &Incarnation, other: Option<&String>| *id != member && other == name;
        let succeeded = name == Some(&self.config.record.name)
            || (self.peers.iter()).any(|(id, p)| {
                p.unlisted_since.is_none() && other_life(id, p.record.as_ref().map(|r| &r.name)) && p.linked
            });
        peer.admitted_me || peer.is_gone() || !listed || (succeeded && self.lease.is_gone(member))
    }

    pub(super) fn status(&self) -> PeerStatus {
        // What a store that forgot has to be told is in no life of its data yet.
        let era = self.store.era.filter(|_| !self.store.forgot);
        PeerStatus {
            state: self.state as i32,
            stored: self.store.is_up() && self.reconcile.is_none() && !self.memory.acted && !self.store.forgot,
            cut_off: self.memory.cut_off,
            from_memory: self.memory.acted,
            admitted: self.admitted,
            era: era.map_or(0, |era| era.0),
        }
    }

    pub(super) fn tell_status(&mut self) {
        let status = self.status();
        self.say_to_all(&PeerBody::Status(status));
    }

    /// Who computes claims: the active, or all who are admitted, or all.
    pub(super) fn claimers(&self) -> Vec<Candidate> {
        let me = self.incarnation();
        let own = (self.state, self.admitted, me, self.config.record.weight);
        let others = self
            .peers
            .iter()
            .filter(|(_, p)| p.linked && p.suspicion.is_none())
            .map(|(id, p)| {
                let state = p.status.map_or(MemberState::Joining, |s| s.state());
                let admitted = p.status.is_some_and(|s| s.admitted);
                (state, admitted, *id, p.weight())
            });
        let all: Vec<_> = std::iter::once(own).chain(others).collect();
        let some = |wanted: &dyn Fn(MemberState, bool) -> bool| -> Vec<Candidate> {
            let chosen = all.iter().filter(|(state, admitted, ..)| wanted(*state, *admitted));
            chosen
                .map(|&(.., member, weight)| Candidate { member, weight })
                .collect()
        };
        let active = some(&|state, _| state == MemberState::Active);
        if !active.is_empty() {
            return active;
        }
        let admitted = some(&|state, admitted| admitted && state != MemberState::Quiescing);
        if admitted.is_empty() {
            some(&|_, _| true)
        } else {
            admitted
        }
    }

    /// Who is to own partitions in the long run: all in good health that do not leave.
    pub(super) fn wanted_owners(&self, now: Instant) -> Vec<Candidate> {
        let lease = self.config.lease;
        let steady = self.peers.iter().filter(|(_, p)| {
            let recovered = p.recovered_at.is_none_or(|at| now.since(at) >= lease);
            let willing = p
                .status
                .is_some_and(|s| s.admitted && s.stored && s.state() != MemberState::Quiescing);
            p.linked && p.unlisted_since.is_none() && p.suspicion.is_none() && recovered && willing
        });
        let mut wanted: Vec<_> = steady
            .map(|(id, p)| Candidate {
                member: *id,
                weight: p.weight(),
            })
            .collect();
        if self.state != MemberState::Quiescing {
            wanted.push(Candidate {
                member: self.incarnation(),
                weight: self.config.record.weight,
            });
        }
        wanted
    }

    /// A joiner with its share becomes active; a quiescing member with nothing leaves.
    pub(super) fn check_state(&mut self, now: Instant) {
        match self.state {
            MemberState::Joining if self.admitted && self.swept && self.reconcile.is_none() => {
                // Who waits for its share for long, because of an owner that is stuck, is of more use active.
                let waited = now.since(self.admitted_at) > self.config.lease * 4;
                if waited || self.has_its_share(now) {
                    self.set_state(MemberState::Active);
                }
            }
            MemberState::Quiescing if self.phase == Phase::Listed && self.store.is_up() => {
                let nowhere = !self.peers.values().any(|p| {
                    let quiescing = p.status.is_some_and(|s| s.state() == MemberState::Quiescing);
                    p.unlisted_since.is_none() && !quiescing && !p.is_gone() && p.suspicion.is_none()
                });
                // Whoever comes next finds only what the store has.
                if (self.held.is_empty() && self.claims.is_idle()) || nowhere && self.is_replicated() {
                    self.leave(now);
                }
            }
            _ => {}
        }
    }

    fn has_its_share(&self, now: Instant) -> bool {
        let wanted = self.wanted_owners(now);
        let me = Some(self.incarnation());
        let partitions = (0..self.config.partitions).map(PartitionId);
        let mut mine = partitions.filter(|p| assignment::owner(*p, &wanted) == me);
        mine.all(|p| self.held.contains_key(&p))
    }

    fn leave(&mut self, now: Instant) {
        self.phase = Phase::Leaving;
        let request = StoreRequest::Remove {
            member: self.incarnation(),
            counter: None,
        };
        self.ask_store(now, What::Leave, request);
    }

    /// Takes a dead member off the list, once nothing is left to be claimed from it.
    pub(super) fn remove_dead(&mut self, now: Instant) {
        let owners: BTreeSet<_> = self.table.iter().filter_map(|k| k.owner).collect();
        let long = self.config.lease * 2;
        let dead = self.peers.iter().filter(|(id, p)| {
            let over = p.is_gone() || self.lease.is_gone(**id);
            // The connections of a lost node stand.
            let suspected = p.suspicion.is_some_and(|(_, since)| now.since(since) >= long);
            p.unlisted_since.is_none() && (!p.linked || suspected) && over && !owners.contains(id)
        });
        let dead: Vec<_> = dead.map(|(id, _)| *id).collect();
        for member in dead {
            let request = StoreRequest::Remove {
                member,
                counter: self.lease.counter(member),
            };
            self.ask_store(now, What::Remove(member), request);
        }
    }

    pub(super) fn on_removed(&mut self, member: Incarnation, reply: StoreReply) {
        if reply == StoreReply::Removed(true) {
            self.event(Event::Removed { member });
        }
    }

    /// What others own, as far as was heard: a store that forgot does not say it, and they may be silent.
    pub(super) fn tell_heard(&mut self, to: Incarnation) {
        let mut heard = BTreeMap::<Incarnation, Ownership>::new();
        for (partition, known) in (0..).zip(&self.table) {
            let Some(owner) = known.owner.filter(|id| *id != to && *id != self.incarnation()) else {
                continue;
            };
            let owned = heard.entry(owner).or_default();
            owned.owner = owner.0;
            owned.partitions.push(partition);
            owned.epochs.push(known.epoch.0);
        }
        let frames = heard
            .into_values()
            .map(|owned| Effect::ToPeer(to, Body::Ownership(owned)));
        self.effects.extend(frames);
    }

    pub(super) fn greet(&mut self, peer: Incarnation) {
        let status = self.status();
        self.say(peer, PeerBody::Status(status));
        if self.phase == Phase::Listed && !self.admitted {
            self.say(peer, PeerBody::Admit(Empty {}));
        }
        if self.memory.back_round > 0 {
            let round = self.memory.back_round;
            self.say(peer, PeerBody::Tell(Round { round }));
        }
        let all = Body::Ownership(self.all_owned());
        self.effects.push_back(Effect::ToPeer(peer, all));
    }
}

//! Without the store: acting from memory while nobody else can claim, and making the store equal to memory when it is back.

use super::{Effect, Event, Gate, Member, Peer, Phase};
use crate::wire::{Owns, PeerBody, Promise, Round};
use crate::{Epoch, Incarnation, PartitionId};
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// How often a question that is not answered by all is asked anew.
const AGAIN: Duration = Duration::from_millis(250);

#[derive(Debug, Default)]
pub(super) struct Memory {
    /// Output has left unwritten, and the store is not yet equal to memory.
    pub(super) acted: bool,
    /// Others have the store and this member has not: they are to claim what it owns.
    pub(super) cut_off: bool,
    round: u64,
    /// The round in which all were asked what they own, when the store was last back.
    pub(super) back_round: u64,
    ask: Option<Ask>,
    next_ask: Instant,
    acting: bool,
    /// Who waits for an answer: at most one question of each peer.
    asked: BTreeMap<Incarnation, Asked>,
    /// To whom claiming nothing was promised.
    promised: BTreeMap<Incarnation, Promised>,
}

#[derive(Debug)]
struct Ask {
    at: Instant,
    heartbeats: Vec<(crate::ProxyId, u64)>,
    promised: BTreeSet<Incarnation>,
    refused: bool,
    complete: bool,
    held: BTreeSet<PartitionId>,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    number: u64,
    round: u64,
}

/// Holds for L, and is remembered until nobody has to be waited for because of it.
#[derive(Clone, Copy, Debug)]
struct Promised {
    at: Instant,
    number: u64,
}

/// The store is back and may differ from memory.
#[derive(Debug)]
pub(super) struct Reconcile {
    since: Instant,
    round: u64,
    /// Who has not said what it owns.
    waiting: BTreeSet<Incarnation>,
    tell_again: Instant,
    writing: bool,
}

impl Memory {
    pub(super) fn acts(&self) -> bool {
        self.acting
    }

    /// The peer has the store again and acts from memory no more, if it said so after it asked.
    pub(super) fn release(&mut self, from: Incarnation, number: u64) {
        if self.promised.get(&from).is_some_and(|p| p.number < number) {
            self.promised.remove(&from);
        }
    }

    /// Its process has ended.
    pub(super) fn release_gone(&mut self, from: Incarnation) {
        self.promised.remove(&from);
        self.asked.remove(&from);
    }

    /// Whether claims are promised away.
    pub(super) fn has_promised(&self, now: Instant, lease: Duration) -> bool {
        self.promised.values().any(|p| now.since(p.at) < lease)
    }

    /// Whether the peer was given a promise within this time and has not said since that the store has everything.
    pub(super) fn has_promised_to(&self, peer: Incarnation, now: Instant, within: Duration) -> bool {
        self.promised.get(&peer).is_some_and(|p| now.since(p.at) < within)
    }
}

impl Member {
    /// Asks everybody whether this member may act from memory.
    pub(super) fn ask_peers(&mut self, now: Instant) {
        self.memory.next_ask = now + AGAIN;
        if self.held.is_empty() || self.phase == Phase::Left || !self.store.is_lost() {
            return;
        }
        // Whom nobody but others knows is named anew by those who still do.
        self.peers.retain(|_, peer| !peer.is_hearsay());
        self.memory.round += 1;
        let ask = Ask {
            at: now,
            // Heard before asking: no output of this round can be younger than what the promises cover.
            heartbeats: self.detector.heartbeats(),
            promised: BTreeSet::new(),
            refused: false,
            complete: false,
            held: BTreeSet::new(),
        };
        self.memory.ask = Some(ask);
        let round = self.memory.round;
        self.say_to_all(&PeerBody::Ask(Round { round }));
        self.act_if_promised(now);
    }

    /// Somebody else wants to act from memory: only if the store does not answer this member either.
    pub(super) fn on_ask(&mut self, now: Instant, from: Incarnation, number: u64, round: u64) {
        self.memory.asked.insert(from, Asked { number, round });
        if self.store.is_lost() {
            self.answer_asked(now);
        } else {
            self.probe_store(now);
        }
    }

    pub(super) fn answer_asked(&mut self, now: Instant) {
        let remembered = self.config.lease * 2;
        self.memory.promised.retain(|_, p| now.since(p.at) < remembered);
        for (peer, asked) in std::mem::take(&mut self.memory.asked) {
            let round = asked.round;
            if self.store.is_up() {
                self.say(peer, PeerBody::Refuse(Round { round }));
                continue;
            }
            let promised = Promised {
                at: now,
                number: asked.number,
            };
            self.memory.promised.insert(peer, promised);
            let promise = self.promise(now, round);
            self.say(peer, PeerBody::Promise(promise));
        }
    }

    fn promise(&self, now: Instant, round: u64) -> Promise {
        let lease = self.config.lease;
        let present = self.peers.iter().filter(|(_, p)| !p.is_absent(now, lease));
        Promise {
            round,
            partitions: self.held.keys().map(|p| u32::from(p.0)).collect(),
            epochs: self.held.values().map(|h| h.epoch.0).collect(),
            unresolved: self.claims.may_be_won().map(|p| u32::from(p.0)).collect(),
            members: present.map(|(id, _)| id.0).collect(),
        }
    }

    pub(super) fn on_promise(&mut self, now: Instant, from: Incarnation, promise: &Promise) {
        if promise.round != self.memory.round || !self.store.is_lost() {
            return;
        }
        for (partition, epoch) in promise.partitions.iter().zip(&promise.epochs) {
            self.hear_owner(now, *partition, from, Epoch(*epoch));
        }
        let me = self.incarnation();
        for member in promise.members.iter().map(|m| Incarnation(*m)).filter(|m| *m != me) {
            // Its promise is needed as well; without an address it is waited for until it connects. It may have joined while this member was
            // off the list, and was not asked: then it owns what this one has in memory.
            self.peers.entry(member).or_default();
        }
        let held: Vec<_> = promise.unresolved.iter().filter_map(|p| self.partition(*p)).collect();
        if let Some(ask) = &mut self.memory.ask {
            ask.promised.insert(from);
            ask.held.extend(held);
        }
        self.act_if_promised(now);
    }

    pub(super) fn on_refuse(&mut self, from: Incarnation, round: u64) {
        let known = self.peers.contains_key(&from);
        if round != self.memory.round || !known || !self.store.is_lost() {
            return;
        }
        if let Some(ask) = &mut self.memory.ask {
            ask.refused = true;
        }
        self.check_cut_off();
    }

    fn check_cut_off(&mut self) {
        let refused = self.memory.ask.as_ref().is_some_and(|ask| ask.refused);
        if refused && !self.memory.acting && !self.memory.cut_off {
            self.memory.cut_off = true;
            self.tell_status();
        }
    }

    fn act_if_promised(&mut self, now: Instant) {
        let unasked = self.config.faults.acts_from_memory_unasked;
        let Some(ask) = self.memory.ask.as_mut().filter(|a| !a.complete) else {
            return;
        };
        let lease = self.config.lease;
        let promised = |(id, peer): (&Incarnation, &Peer)| ask.promised.contains(id) || peer.is_absent(now, lease);
        if !unasked && !self.peers.iter().all(promised) {
            return;
        }
        if !self.config.acts_from_memory {
            // Nothing leaves unwritten, so the store is not behind memory when it is back.
            return;
        }
        // Less than the lease that was promised: clocks run at different rates.
        let until = ask.at + self.config.lease * 4 / 5;
        if until <= now {
            return;
        }
        ask.complete = true;
        let gate = Gate::Memory {
            until,
            heartbeats: ask.heartbeats.clone(),
            held: ask.held.iter().copied().collect(),
        };
        let begins = !std::mem::replace(&mut self.memory.acting, true);
        if begins {
            self.event(Event::FromMemory);
        }
        self.memory.acted = true;
        self.memory.next_ask = now + self.config.lease / 4;
        if begins | std::mem::take(&mut self.memory.cut_off) {
            // Before any output leaves: whoever claims from this member later, should it fall silent, knows that the store lacks something.
            self.tell_status();
        }
        self.set_gate(gate);
    }

    pub(super) fn drive_memory(&mut self, now: Instant) {
        if let Gate::Memory { until, .. } = self.gate
            && until <= now
        {
            self.memory.acting = false;
            self.event(Event::MemoryOver);
            self.set_gate(Gate::Hold);
            self.check_cut_off();
        }
        if self.store.is_lost() {
            if self.memory.next_ask <= now {
                self.ask_peers(now);
            }
            self.act_if_promised(now);
        }
    }

    /// The store answers again, or is found to have lost what it knew.
    pub(super) fn back_in_store(&mut self, now: Instant) {
        self.store.back_at = now;
        self.memory.ask = None;
        self.memory.cut_off = false;
        self.memory.acting = false;
        self.next_sweep = if self.admitted { now } else { Instant::MAX };
        self.memory.round += 1;
        self.memory.back_round = self.memory.round;
        if !self.memory.acted && !self.store.forgot {
            self.set_gate(Gate::Committed);
            self.tell_status();
            let round = self.memory.round;
            return self.say_to_all(&PeerBody::Tell(Round { round }));
        }
        self.set_gate(Gate::Hold);
        self.reconcile = Some(Reconcile {
            since: now,
            round: self.memory.round,
            waiting: self.peers.keys().copied().collect(),
            tell_again: now,
            writing: false,
        });
        self.tell_status();
        self.drive_reconcile(now);
    }

    pub(super) fn store_forgot(&mut self, now: Instant) {
        if self.store.is_up() && self.reconcile.is_none() {
            self.store.forgot = true;
            self.back_in_store(now);
        }
    }

    pub(super) fn drive_reconcile(&mut self, now: Instant) {
        let Some(reconcile) = self.reconcile.as_mut().filter(|r| !r.writing) else {
            return;
        };
        let (peers, lease) = (&self.peers, self.config.lease);
        reconcile
            .waiting
            .retain(|id| peers.get(id).is_some_and(|p| !p.is_absent(now, lease)));
        let silent_for_long = now.since(reconcile.since) >= self.config.lease * 2;
        if reconcile.waiting.is_empty() || silent_for_long {
            reconcile.writing = true;
            return self.write_all(now);
        }
        if reconcile.tell_again <= now {
            reconcile.tell_again = now + AGAIN;
            let round = reconcile.round;
            let waiting: Vec<_> = reconcile.waiting.iter().copied().collect();
            for peer in waiting
                .into_iter()
                .filter(|id| self.peers[id].linked)
                .collect::<Vec<_>>()
            {
                self.say(peer, PeerBody::Tell(Round { round }));
            }
        }
    }

    fn write_all(&mut self, now: Instant) {
        let round = self.reconcile.as_ref().map_or(0, |r| r.round);
        let partitions: Vec<_> = self.held().collect();
        if partitions.is_empty() {
            return self.on_reconciled(now, round);
        }
        self.effects.push_back(Effect::Reconcile { round, partitions });
    }

    pub(super) fn on_reconciled(&mut self, now: Instant, round: u64) {
        let Some(reconcile) = self.reconcile.take_if(|r| r.writing && r.round == round) else {
            return;
        };
        self.memory.acted = false;
        self.store.forgot = false;
        self.event(Event::Reconciled {
            after: now.since(reconcile.since),
        });
        self.set_gate(Gate::Committed);
        self.tell_status();
        self.next_sweep = if self.admitted { now } else { Instant::MAX };
    }

    pub(super) fn tell_owned(&mut self, to: Incarnation, round: u64) {
        let owns = Owns {
            round,
            partitions: self.held.keys().map(|p| u32::from(p.0)).collect(),
            epochs: self.held.values().map(|h| h.epoch.0).collect(),
        };
        self.say(to, PeerBody::Owns(owns));
    }

    pub(super) fn on_owns(&mut self, now: Instant, from: Incarnation, owns: &Owns) {
        for (partition, epoch) in owns.partitions.iter().zip(&owns.epochs) {
            self.hear_owner(now, *partition, from, Epoch(*epoch));
            self.settle_tie(*partition, from, Epoch(*epoch));
        }
        if let Some(peer) = self.peers.get_mut(&from) {
            peer.told_round = peer.told_round.max(owns.round);
        }
        if let Some(reconcile) = self.reconcile.as_mut().filter(|r| r.round == owns.round) {
            reconcile.waiting.remove(&from);
        }
        self.drive_reconcile(now);
    }

    /// A store that forgot may have granted one epoch twice: then the lower incarnation keeps the partition.
    fn settle_tie(&mut self, partition: u32, other: Incarnation, epoch: Epoch) {
        let Some(partition) = self.partition(partition) else {
            return;
        };
        let tie = self.held.get(&partition).is_some_and(|held| held.epoch == epoch);
        if tie && other < self.incarnation() {
            self.held.remove(&partition);
            self.table[usize::from(partition.0)].owner = Some(other);
            self.drop_effects(partition, super::DropReason::Superseded);
        }
    }
}

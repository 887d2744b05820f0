//! What must hold, looked at from outside and after every step (ARCHITECTURE.md, "Invariants").

use super::container::{Mark, Output, Said};
use super::net::Micros;
use std::collections::{BTreeMap, BTreeSet};
use ucf::store::{StoreReply, StoreRequest};
use ucf::{Epoch, Incarnation, PartitionId};

/// A call, by its number.
pub type Call = u32;

/// The observer of a run.
#[derive(Default)]
pub struct Oracle {
    /// The first thing that must not be.
    pub violation: Option<String>,
    /// Highest number written, of every partition and epoch.
    written: BTreeMap<(PartitionId, Epoch), u64>,
    /// The highest epoch at which a partition was activated, and by whom.
    activated: BTreeMap<PartitionId, (Epoch, Incarnation)>,
    /// Calls about which a member knows something that only it knows, by its partition: it acted from memory, or the store forgot.
    only_in_memory: BTreeMap<(Incarnation, PartitionId), BTreeSet<Call>>,
    /// Calls whose state was lost with both copies: two faults, which the design gives up.
    pub excused: BTreeSet<Call>,
    /// Until when output of each member could leave from its memory.
    acts_until: BTreeMap<Incarnation, Micros>,
    /// When the store last forgot what an owner has in memory.
    forgot_at: Micros,
    /// When the store last carried out something for a member that had lost it, or had not had it yet.
    back_at: BTreeMap<Incarnation, Micros>,
    /// Members that were last told that the store is full: it is a lost one to them.
    told_full: BTreeSet<Incarnation>,
    /// Owners whose store forgot, until they have written anew.
    unwritten: BTreeSet<PartitionId>,
    /// First answer to every request: its nonce.
    answers: BTreeMap<(Call, u32), u64>,
    fires: BTreeMap<Call, u64>,
    consumed: BTreeMap<Call, u64>,
    /// Counts for the report.
    pub seen: Seen,
    /// Who took what up when.
    pub activations: Vec<(Micros, PartitionId, Incarnation)>,
    /// What callers heard when.
    pub answers_at: Vec<Micros>,
}

/// What happened, so that a run that tests nothing is noticed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Seen {
    /// Outputs that left, committed.
    pub committed: u64,
    /// Outputs that left from memory.
    pub from_memory: u64,
    /// Outputs that a proxy dropped.
    pub fenced: u64,
    /// Writes refused.
    pub refused: u64,
    /// Claims granted.
    pub claims: u64,
    /// Hand-overs that ended with the target's claim.
    pub hand_overs: u64,
    /// Calls that ended as they should.
    pub calls: u64,
    /// CANCELs accepted.
    pub cancels: u64,
    /// Records compared with the store's at the end.
    pub compared: u64,
    /// Calls given up because both copies were lost.
    pub excused: u64,
    /// Members that lost a partition to another while only they knew its state.
    pub dirty_drops: u64,
    /// Messages that went to their container through another proxy.
    pub relayed: u64,
    /// Calls taken up with deadlines that the store's clock had jumped away from and their owner not corrected yet.
    pub misdated: u64,
}

impl Seen {
    /// Sums up.
    pub fn add(&mut self, other: &Self) {
        self.committed += other.committed;
        self.from_memory += other.from_memory;
        self.fenced += other.fenced;
        self.refused += other.refused;
        self.claims += other.claims;
        self.hand_overs += other.hand_overs;
        self.calls += other.calls;
        self.cancels += other.cancels;
        self.compared += other.compared;
        self.excused += other.excused;
        self.dirty_drops += other.dirty_drops;
        self.relayed += other.relayed;
        self.misdated += other.misdated;
    }
}

impl Oracle {
    /// Something that must not be.
    pub fn fail(&mut self, what: String) {
        self.violation.get_or_insert(what);
    }

    /// The store carried a request out.
    pub fn on_store(&mut self, now: Micros, request: &StoreRequest, reply: &StoreReply) {
        match (request, reply) {
            (StoreRequest::Write(write), StoreReply::Written { .. }) => {
                let (partition, epoch) = (write.partition, write.epoch);
                let highest = self.written.entry((partition, epoch)).or_default();
                *highest = (*highest).max(write.seq);
                if write.replace {
                    self.only_in_memory.remove(&(write.member, partition));
                    self.unwritten.remove(&partition);
                }
                if self.activated.get(&partition).is_some_and(|(e, _)| *e > epoch)
                    && !self.unwritten.contains(&partition)
                {
                    self.fail(format!(
                        "fence: {partition} written at {epoch} although a later owner works"
                    ));
                }
                for (key, value) in &write.sets {
                    if let Some((call, nonce)) = super::container::fired(key, value) {
                        self.on_consumed(call, nonce);
                    }
                }
            }
            (StoreRequest::Write(_), StoreReply::Refused(_)) => self.seen.refused += 1,
            (StoreRequest::Renew { member, .. }, StoreReply::Members { full, .. }) => {
                if *full {
                    self.told_full.insert(*member);
                } else if self.told_full.remove(member) {
                    self.back_at.insert(*member, now);
                }
            }
            (StoreRequest::Claim { as_target, .. }, StoreReply::Claimed { .. }) => {
                self.seen.claims += 1;
                self.seen.hand_overs += u64::from(*as_target);
            }
            _ => {}
        }
    }

    fn on_consumed(&mut self, call: Call, nonce: u64) {
        let first = *self.consumed.entry(call).or_insert(nonce);
        if first != nonce && !self.excused.contains(&call) {
            self.fail(format!("timer of call {call} consumed twice"));
        }
    }

    /// The store lost everything.
    pub fn on_flush(&mut self, now: Micros, owned: impl Iterator<Item = (Incarnation, PartitionId, Vec<Call>)>) {
        self.forgot_at = now;
        for (member, partition, calls) in owned {
            self.unwritten.insert(partition);
            self.only_in_memory
                .entry((member, partition))
                .or_default()
                .extend(calls);
        }
    }

    /// All calls of the store's records, so that those in nobody's memory at a flush are excused. Epochs of the dead may be granted anew.
    pub fn on_flush_lost(&mut self, calls: impl Iterator<Item = Call>, living: &BTreeSet<Incarnation>) {
        self.excused.extend(calls);
        self.activated.retain(|_, (_, member)| living.contains(member));
    }

    /// A member has taken a partition up.
    pub fn on_activate(&mut self, now: Micros, partition: PartitionId, epoch: Epoch, member: Incarnation) {
        self.activations.push((now, partition, member));
        match self.activated.get(&partition) {
            Some((e, other)) if *e == epoch && *other != member => {
                self.fail(format!("{partition} is owned twice at {epoch}: {other} and {member}"));
            }
            // The reply to the claim was slower than the next claim: what it writes will be refused. Or the store forgot, and granted less than
            // the owner has in memory: that takes it back.
            Some((e, other)) if *e > epoch => {
                let forgot = self.unwritten.contains(&partition);
                if !forgot || self.only_in_memory.contains_key(&(*other, partition)) {
                    return;
                }
            }
            _ => {}
        }
        self.activated.insert(partition, (epoch, member));
        let others = self
            .only_in_memory
            .keys()
            .filter(|(m, p)| *p == partition && *m != member);
        for (other, partition) in others.copied().collect::<Vec<_>>() {
            let calls = self
                .only_in_memory
                .remove(&(other, partition))
                .expect("it was just listed");
            if now < self.may_be_given_up(member, other) && !calls.is_empty() {
                self.fail(format!(
                    "{partition}: {member} took what only {other} knew, without waiting for it"
                ));
            }
            self.seen.dirty_drops += 1;
            self.excused.extend(calls);
        }
    }

    /// From when a member may take what only the owner knows. It has to have let the owner write for 2 L since it has the store itself, and
    /// since the store forgot; and since it last promised to claim nothing, which is at most 0.8 L before output stops to leave (clocks
    /// may be fast).
    fn may_be_given_up(&self, member: Incarnation, owner: Incarnation) -> Micros {
        let lease = super::LEASE.as_micros() as Micros;
        let back_at = self.back_at.get(&member).copied().unwrap_or(0);
        let acted = self.acts_until.get(&owner).copied().unwrap_or(0);
        let (whole, rest) = (lease * 2 * 97 / 100, lease * 114 / 100);
        (back_at.max(self.forgot_at) + whole).max(acted + rest)
    }

    /// Calls whose owner fell before it noticed that the store's clock jumped: two faults, their timers are lost or early.
    pub fn on_misdated(&mut self, calls: BTreeSet<Call>) {
        self.seen.misdated += calls.len() as u64;
        self.excused.extend(calls);
    }

    /// A member's first request on a new connection for leases and claims is carried out: it had lost the store.
    pub fn on_store_found(&mut self, now: Micros, member: Incarnation) {
        self.back_at.insert(member, now);
    }

    /// What may leave a member has changed: from memory until then, or nothing from memory any more.
    pub fn on_gate(&mut self, now: Micros, member: Incarnation, from_memory_until: Option<Micros>) {
        let until = self.acts_until.entry(member).or_default();
        *until = from_memory_until.unwrap_or_else(|| now.min(*until));
    }

    /// A member acts on a call without having written it.
    pub fn on_acted(&mut self, member: Incarnation, partition: PartitionId, call: Call) {
        self.only_in_memory.entry((member, partition)).or_default().insert(call);
    }

    /// A member has forgotten a partition, or has died with it.
    pub fn on_forgotten(&mut self, member: Incarnation, partition: PartitionId, died: bool) {
        // An epoch of a dead owner may be granted anew by a store that forgot.
        if died
            && self.activated.get(&partition).is_some_and(|(_, m)| *m == member)
            && self.unwritten.remove(&partition)
        {
            self.activated.remove(&partition);
        }
        if let Some(calls) = self.only_in_memory.remove(&(member, partition)) {
            self.seen.dirty_drops += u64::from(!died);
            self.excused.extend(calls);
        }
    }

    /// A proxy forwards something to a caller: it leaves the cluster.
    pub fn on_leaving(&mut self, output: &Output) {
        let partition = output.partition;
        match output.mark {
            Mark::Committed => self.on_committed(partition, output.commit, &output.said),
            Mark::Memory { .. } => self.on_from_memory(partition, output.commit, output.member),
        }
    }

    /// Something leaves because this write of its partition, or a later one, was carried out.
    pub fn on_committed(&mut self, partition: PartitionId, write: (Epoch, u64), what: &dyn std::fmt::Debug) {
        self.seen.committed += 1;
        let (epoch, number) = write;
        let written = self.written.get(&(partition, epoch)).copied().unwrap_or(0);
        if written < number {
            self.fail(format!("{partition} {epoch}: {what:?} left before it was written"));
        }
    }

    /// Something leaves the cluster that a member has sent from memory. If this write, or a later one, was carried out meanwhile, it is as if
    /// the network had been slow.
    pub fn on_from_memory(&mut self, partition: PartitionId, write: (Epoch, u64), member: Incarnation) {
        self.seen.from_memory += 1;
        let (epoch, number) = write;
        if self
            .written
            .get(&(partition, epoch))
            .is_some_and(|written| *written >= number)
        {
            return;
        }
        if let Some((later, other)) = self.activated.get(&partition).filter(|(e, _)| *e > epoch) {
            self.fail(format!(
                "{partition}: {member} acts from memory at {epoch} while {other} works at {later}"
            ));
        }
    }

    /// A caller hears an answer to a request. Whether the call goes on.
    pub fn on_answer(&mut self, call: Call, said: &Said) -> bool {
        let Said::Answer {
            request,
            version,
            nonce,
        } = *said
        else {
            return true;
        };
        let first = *self.answers.entry((call, request)).or_insert(nonce);
        let lost = version != u64::from(request) + 1;
        if !lost && first == nonce {
            return true;
        }
        if self.excused.contains(&call) {
            return false;
        }
        if lost {
            self.fail(format!(
                "call {call}: state lost, request {request} was answered as version {version}"
            ));
        } else {
            self.fail(format!("call {call}: request {request} was carried out twice"));
        }
        false
    }

    /// A caller hears that a timer of its call fired.
    pub fn on_fire(&mut self, call: Call, nonce: u64) {
        let first = *self.fires.entry(call).or_insert(nonce);
        if first != nonce && !self.excused.contains(&call) {
            self.fail(format!("the timer of call {call} fired twice"));
        }
    }
}

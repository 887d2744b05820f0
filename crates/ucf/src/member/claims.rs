//! Claims: of a dead member's partitions, of orphans, of one's own after a lost reply, and as the target of a hand-over.

use super::store_link::What;
use super::{Effect, Event, Held, Known, Member, Phase, Suspicion};
use crate::assignment::{self, Candidate};
use crate::store::{StoreReply, StoreRequest, StoredOwner};
use crate::wire::MemberState;
use crate::{Epoch, Incarnation, PartitionId};
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

/// Rank k claims after k of these, counted from the last sign that the heir, who is rank 0, is at work.
const RANK_DELAY: Duration = Duration::from_millis(100);

/// How long a first joiner leaves partitions that nobody ever owned to those who start beside it.
const SETTLE: Duration = Duration::from_millis(200);

/// Claims under way at once: enough to keep the store busy, few enough that heartbeats are not late behind their records.
const PIPELINE: usize = 256;

/// Others follow when so many are under way, some dozens at once: what is due is looked for and sorted each time.
const REFILL: usize = PIPELINE * 3 / 4;

/// Partitions asked for by one request of a sweep.
const SWEEP_CHUNK: usize = 256;

/// How soon is looked again at an owner that has to write first.
const AGAIN: Duration = Duration::from_millis(50);

/// A target claims an offered partition within this time or not at all: later the owner has taken the offer back.
const OFFER_TTL: Duration = Duration::from_millis(400);

#[derive(Debug, Default)]
pub(super) struct Claims {
    /// At most one per partition.
    wanted: BTreeMap<PartitionId, Claim>,
    under_way: usize,
    /// Sent, and the store was lost before it answered.
    unresolved: BTreeSet<PartitionId>,
    /// The one member whose silence was enough, and when.
    forced: Option<(Incarnation, Instant)>,
    takeovers: BTreeMap<Incarnation, Takeover>,
}

#[derive(Clone, Copy, Debug)]
struct Claim {
    /// The owner as stored, as far as known.
    expected: Option<Incarnation>,
    /// Whose partition this is: `expected`, unless the store forgot.
    from: Option<Incarnation>,
    as_target: bool,
    due: Instant,
    /// How long others who are to own it go before us.
    delay: Duration,
    /// Who is to own it, where that is not us.
    heir: Option<Incarnation>,
    sent: bool,
}

#[derive(Debug)]
struct Takeover {
    since: Instant,
    /// When the last partition was loaded.
    until: Instant,
    claimed: usize,
    waiting: BTreeSet<PartitionId>,
}

impl Claims {
    pub(super) fn next_due(&self) -> Instant {
        if !self.has_room() {
            return Instant::MAX;
        }
        let unsent = self.wanted.values().filter(|c| !c.sent && !c.as_target);
        unsent.map(|c| c.due).min().unwrap_or(Instant::MAX)
    }

    fn has_room(&self) -> bool {
        self.under_way <= REFILL
    }

    /// The heir has taken up partitions of `from`: it is at work, and the rest of its share is left to it.
    pub(super) fn heir_at_work(&mut self, now: Instant, heir: Incarnation, from: Incarnation) {
        let left = |claim: &&mut Claim| !claim.sent && claim.heir == Some(heir) && claim.from == Some(from);
        for claim in self.wanted.values_mut().filter(left) {
            claim.due = claim.due.max(now + claim.delay);
        }
    }

    /// Partitions that may be this member's without its knowing.
    pub(super) fn may_be_won(&self) -> impl Iterator<Item = PartitionId> + '_ {
        let under_way = self.wanted.iter().filter(|(_, claim)| claim.sent).map(|(id, _)| id);
        self.unresolved.iter().chain(under_way).copied()
    }

    pub(super) fn is_idle(&self) -> bool {
        self.wanted.is_empty()
    }

    fn unsent(&self, which: impl Fn(&Claim) -> bool) -> Vec<PartitionId> {
        let unsent = self.wanted.iter().filter(|(_, claim)| !claim.sent && which(claim));
        unsent.map(|(partition, _)| *partition).collect()
    }

    /// Somebody else owns it now: a claim that still waits is moot. `true` if there was one.
    pub(super) fn owner_changed(&mut self, partition: PartitionId, owner: Incarnation) -> bool {
        let moot = |claim: &Claim| !claim.sent && claim.from != Some(owner);
        self.wanted.get(&partition).is_some_and(moot) && self.wanted.remove(&partition).is_some()
    }
}

impl Member {
    /// Schedules claims of all that a member in suspicion owns, once per suspicion; sweeps do it again.
    pub(super) fn claim_from_suspect(&mut self, now: Instant, id: Incarnation) {
        let peer = self.peers.get(&id).expect("only known members are suspected");
        let Some((why, since)) = peer.suspicion.filter(|_| !peer.claimed) else {
            return;
        };
        if why == Suspicion::Silent && !self.may_force(now, id) {
            return;
        }
        if let Some(peer) = self.peers.get_mut(&id) {
            peer.claimed = true;
        }
        let owned: Vec<_> = (0..self.config.partitions)
            .map(PartitionId)
            .filter(|p| self.known(*p).owner == Some(id))
            .collect();
        if owned.is_empty() {
            return;
        }
        self.claims.takeovers.insert(
            id,
            Takeover {
                since,
                until: since,
                claimed: 0,
                waiting: BTreeSet::new(),
            },
        );
        let claimers = self.claimers();
        for partition in owned {
            self.want(now, partition, Some(id), &claimers);
        }
    }

    /// Silence without a close is enough for one member in a lease period: slow processors must not bring down one after the other.
    fn may_force(&mut self, now: Instant, id: Incarnation) -> bool {
        let spent = self.claims.forced.filter(|(_, at)| now.since(*at) < self.config.lease);
        match spent {
            Some((other, _)) => other == id,
            None => {
                self.claims.forced = Some((id, now));
                true
            }
        }
    }

    pub(super) fn known(&self, partition: PartitionId) -> Known {
        self.table[usize::from(partition.0)]
    }

    /// Claims the partition of `expected`, after those of the claimers who come before us.
    fn want(&mut self, now: Instant, partition: PartitionId, expected: Option<Incarnation>, claimers: &[Candidate]) {
        if self.held.contains_key(&partition) || self.state == MemberState::Quiescing {
            return;
        }
        let from = self.known(partition).owner.or(expected);
        let me = self.incarnation();
        let own = from == Some(me);
        let rank = if own {
            0
        } else {
            assignment::rank(partition, me, claimers)
        };
        let delay = RANK_DELAY * u32::try_from(rank).unwrap_or(u32::MAX);
        let due = now + delay;
        let heir = assignment::owner(partition, claimers).filter(|_| rank > 0);
        let claim = Claim {
            expected,
            from,
            as_target: false,
            due,
            delay,
            heir,
            sent: false,
        };
        match self.claims.wanted.get_mut(&partition) {
            Some(known) if known.sent => return,
            Some(known) => known.due = known.due.min(due),
            None => _ = self.claims.wanted.insert(partition, claim),
        }
        if let Some(takeover) = from.and_then(|id| self.claims.takeovers.get_mut(&id)) {
            takeover.waiting.insert(partition);
        }
    }

    /// The owner offers a partition that it has stopped and marked for us.
    pub(super) fn on_offer(&mut self, now: Instant, from: Incarnation, partition: PartitionId, epoch: Epoch) {
        let busy = self.claims.wanted.get(&partition).is_some_and(|c| c.sent) || self.held.contains_key(&partition);
        if busy || self.state == MemberState::Quiescing || self.known(partition).epoch > epoch {
            return;
        }
        self.note_stored(partition, from, epoch);
        let claim = Claim {
            expected: Some(from),
            from: Some(from),
            as_target: !self.config.faults.hands_over_unfenced,
            due: now,
            delay: Duration::ZERO,
            heir: None,
            sent: false,
        };
        self.claims.wanted.insert(partition, claim);
    }

    /// Sends what is due, as far as claims are allowed at all.
    pub(super) fn send_claims(&mut self, now: Instant) {
        // Asked after every reply: mostly there is nothing to send, or no room.
        let unsent = self.claims.wanted.len() - self.claims.under_way;
        if unsent == 0 || !self.claims.has_room() {
            return;
        }
        let expired = |claim: &Claim| claim.as_target && now.since(claim.due) > OFFER_TTL;
        self.forget_claims(&self.claims.unsent(expired));
        if self.claims.wanted.is_empty() || !self.may_claim(now) {
            // What is due waits for something else than time: the next tick looks again.
            let due = self
                .claims
                .wanted
                .values_mut()
                .filter(|c| !c.sent && c.due <= now && !c.as_target);
            due.for_each(|claim| claim.due = self.next_tick.max(now + Duration::from_millis(1)));
            return;
        }
        let due = self.claims.wanted.iter().filter(|(_, c)| !c.sent && c.due <= now);
        let mut due: Vec<_> = due.map(|(p, c)| (*p, *c)).collect();
        // Our own share goes before what others are to claim.
        due.sort_unstable_by_key(|(partition, claim)| (claim.due, *partition));
        for (partition, claim) in due {
            if self.claims.under_way >= PIPELINE {
                break;
            }
            if !claim.as_target && !self.is_claimable(partition, claim.from) {
                self.forget_claims(&[partition]);
                continue;
            }
            if !claim.as_target && self.must_wait_for(now, &claim) {
                self.claims.wanted.get_mut(&partition).expect("it is due").due = now + AGAIN;
                continue;
            }
            self.send_claim(now, partition, claim);
        }
    }

    fn send_claim(&mut self, now: Instant, partition: PartitionId, claim: Claim) {
        let request = StoreRequest::Claim {
            partition,
            member: self.incarnation(),
            expected: claim.expected,
            at_least: self.known(partition).epoch.next(),
            as_target: claim.as_target,
        };
        self.claims.under_way += 1;
        self.claims.wanted.get_mut(&partition).expect("it is due").sent = true;
        self.event(Event::Claiming {
            partition,
            from: claim.from,
        });
        self.ask_store(now, What::Claim(partition), request);
    }

    /// Whether this member may claim anything now.
    fn may_claim(&self, now: Instant) -> bool {
        // A member that was away for long may have been taken off the list: then it is not asked any more by those who act from memory.
        let renewed = self.store.renewed.filter(|at| *at >= self.store.doubted);
        let fresh = renewed.is_some_and(|at| now.since(at) < self.config.lease);
        let whole = self.phase == Phase::Listed && self.admitted && self.store.is_up();
        whole
            && fresh
            && self.reconcile.is_none()
            && !self.store.forgot
            && !self.memory.has_promised(now, self.config.lease)
    }

    /// Whether the partition of `owner` may be claimed: nobody's, our own, a stranger's, or one's who is down.
    fn is_claimable(&self, partition: PartitionId, owner: Option<Incarnation>) -> bool {
        if self.held.contains_key(&partition) {
            return false;
        }
        let Some(owner) = owner else { return true };
        owner == self.incarnation() || self.peers.get(&owner).is_none_or(|p| self.is_down(p))
    }

    fn is_down(&self, peer: &super::Peer) -> bool {
        let stranger = peer.unlisted_since.is_some() && !peer.linked;
        stranger
            || peer
                .suspicion
                .is_some_and(|(why, _)| why != Suspicion::Silent || peer.claimed)
    }

    /// Whoever may know what the store does not says so and writes first: who acted from memory, or is with another life of the store. It gets
    /// 2 L for that, from when this member could first ask it, and from the last promise by which it may still act.
    fn must_wait_for(&self, now: Instant, claim: &Claim) -> bool {
        let long = self.config.lease * 2;
        let since = self.store.back_at.max(self.admitted_at);
        let owner = claim.from.filter(|id| *id != self.incarnation());
        let Some(id) = owner.filter(|_| !self.config.faults.claims_unasked) else {
            return false;
        };
        // A store that forgot does not name it: maybe it has not yet been able to write what it has, or to say anything.
        let forgotten = claim.expected != owner && now.since(since) < long;
        let Some(peer) = self.peers.get(&id) else {
            // Only others have heard of it.
            return forgotten;
        };
        if peer.is_gone() {
            return false;
        }
        let unheard = peer.told_round < self.memory.back_round;
        let from_memory = unheard || peer.status.is_some_and(|s| s.from_memory);
        // Another store may be at hand until it falls, and then what is there is gone from one moment to the next.
        let suspected = peer.suspicion.map_or(since, |(_, at)| at.max(since));
        forgotten
            || self.memory.has_promised_to(id, now, long)
            || from_memory && now.since(since) < long
            || self.is_elsewhere(peer) && now.since(suspected) < long
    }

    /// Claims nothing any more that is not under way.
    pub(super) fn forget_unsent_claims(&mut self) {
        self.forget_claims(&self.claims.unsent(|_| true));
    }

    fn forget_claims(&mut self, partitions: &[PartitionId]) {
        for partition in partitions {
            self.claims.wanted.remove(partition);
            self.takeover_progress(*partition, None);
        }
    }

    /// The reply to a claim will not come.
    pub(super) fn claim_lost(&mut self, partition: PartitionId) {
        if self.claims.wanted.remove(&partition).is_some_and(|claim| claim.sent) {
            self.claims.under_way -= 1;
            self.claims.unresolved.insert(partition);
            self.takeover_progress(partition, None);
        }
    }

    pub(super) fn on_claim(&mut self, now: Instant, partition: PartitionId, reply: StoreReply) {
        let Some(claim) = self.claims.wanted.remove(&partition) else {
            return;
        };
        self.claims.under_way -= 1;
        self.claims.unresolved.remove(&partition);
        match reply {
            StoreReply::Claimed { epoch } => self.take_on(partition, epoch),
            StoreReply::Refused(stored) => {
                self.event(Event::ClaimRefused { partition });
                self.takeover_progress(partition, None);
                self.on_stored(now, &stored, &[]);
            }
            _ => {}
        }
        debug_assert!(claim.sent);
    }

    fn take_on(&mut self, partition: PartitionId, epoch: Epoch) {
        if self.known(partition).epoch > epoch {
            // The reply was slow: another has claimed it meanwhile. The driver forgets the records.
            return self.drop_effects(partition, super::DropReason::Superseded);
        }
        self.table[usize::from(partition.0)] = Known {
            owner: Some(self.incarnation()),
            epoch,
        };
        let held = Held { epoch, hand_over: None };
        self.held.insert(partition, held);
        self.announce.insert(partition);
        self.effects.push_back(Effect::Activate { partition, epoch });
    }

    pub(super) fn claims_loaded(&mut self, now: Instant, partition: PartitionId) {
        self.takeover_progress(partition, Some(now));
    }

    /// A partition of a takeover is done with: loaded, or nothing to us any more (another survivor was before us).
    pub(super) fn takeover_progress(&mut self, partition: PartitionId, loaded: Option<Instant>) {
        let mut finished = Vec::new();
        for (from, takeover) in &mut self.claims.takeovers {
            if takeover.waiting.remove(&partition) {
                takeover.claimed += usize::from(loaded.is_some());
                takeover.until = loaded.unwrap_or(takeover.until);
                if takeover.waiting.is_empty() {
                    finished.push(*from);
                }
            }
        }
        for from in finished {
            let takeover = self.claims.takeovers.remove(&from).expect("it was just seen");
            if takeover.claimed > 0 {
                self.event(Event::Takeover {
                    from,
                    partitions: takeover.claimed,
                    took: takeover.until.since(takeover.since),
                });
            }
        }
    }

    /// Asks the store for all owners, every L: orphans, lost replies, members to be removed.
    pub(super) fn sweep_if_due(&mut self, now: Instant) {
        if self.next_sweep > now || !self.store.is_up() || self.phase != Phase::Listed || self.reconcile.is_some() {
            return;
        }
        self.next_sweep = now + self.config.lease;
        self.announce_all();
        if self.swept {
            self.remove_dead(now);
        }
        let all: Vec<_> = (0..self.config.partitions).map(PartitionId).collect();
        for chunk in all.chunks(SWEEP_CHUNK) {
            let partitions = chunk.to_vec();
            self.ask_store(now, What::Inspect, StoreRequest::Inspect { partitions });
        }
    }

    pub(super) fn on_owners(&mut self, now: Instant, reply: StoreReply) {
        let StoreReply::Owners(owners) = reply else { return };
        self.swept = true;
        let claimers = self.claimers();
        for stored in owners {
            self.claims.unresolved.remove(&stored.partition);
            self.on_stored(now, &stored, &claimers);
        }
    }

    /// What the store says of a partition; what is to be claimed is claimed in the order of `claimers`.
    fn on_stored(&mut self, now: Instant, stored: &StoredOwner, claimers: &[Candidate]) {
        let partition = stored.partition;
        if usize::from(partition.0) >= self.table.len() {
            return;
        }
        let me = self.incarnation();
        if let Some(held) = self.held.get(&partition) {
            let epoch = held.epoch;
            if stored.epoch < epoch {
                self.store_forgot(now);
            } else if stored.owner.is_some_and(|o| o != me) {
                let owner = stored.owner.expect("it was just seen");
                self.note_stored(partition, owner, stored.epoch);
                self.lose_partition_to(now, partition, owner, stored.epoch);
            }
            return;
        }
        if let Some(owner) = stored.owner {
            self.note_stored(partition, owner, stored.epoch);
        }
        // Whom we have heard of may own it although the store forgot: then it will write it.
        let known = self.known(partition);
        let heard = if known.epoch > stored.epoch {
            self.doubt_store(now);
            known.owner
        } else {
            stored.owner
        };
        if !self.is_claimable(partition, heard) || self.claims.wanted.contains_key(&partition) {
            return;
        }
        let settled = self.listed_at + SETTLE;
        if heard.is_none() && now < settled {
            // A cluster starts: looked at again when those who start beside us can be seen, and take their shares.
            self.next_sweep = self.next_sweep.min(settled);
            return;
        }
        self.want(now, partition, stored.owner, claimers);
    }
}

//! The member's requests to the store: what is under way, when the store counts as lost, and renewals.

use super::{Effect, Event, Gate, Member, Phase, RequestId};
use crate::store::{Era, StoreReply, StoreRequest};
use crate::{Incarnation, PartitionId};
use sip::Instant;
use std::collections::BTreeMap;
use std::time::Duration;

/// For how many of its budgets writes may fail while the store answers the control connection. A connection that was lost is made anew within
/// this time; a store that answers and writes nothing is as good as none.
const FAILING: u32 = 2;

/// How often a lost store is tried.
const PROBE: Duration = Duration::from_millis(100);

#[derive(Debug)]
pub(super) struct StoreLink {
    next: u64,
    /// Bounded by the claims under way and one request per hand-over.
    under_way: BTreeMap<RequestId, (Instant, What)>,
    /// When it last answered anything.
    heard: Instant,
    lost_since: Option<Instant>,
    /// Since when the engine's writes fail.
    pub(super) failing: Option<Instant>,
    /// It never answered yet.
    fresh: bool,
    pub(super) era: Option<Era>,
    /// The era changed, or a write found less than it should, and memory is not yet written.
    pub(super) forgot: bool,
    counter: u64,
    /// When the last renewal that succeeded was sent.
    pub(super) renewed: Option<Instant>,
    renew_due: Instant,
    /// When it last said less than was heard of an owner: nothing is claimed before a renewal has told whether it is in another life.
    pub(super) doubted: Instant,
    /// When it answered again after it was lost, or was found to have lost what it knew.
    pub(super) back_at: Instant,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum What {
    Join,
    Renew,
    Inspect,
    Claim(PartitionId),
    Mark(PartitionId),
    Withdraw(PartitionId),
    Remove(Incarnation),
    Leave,
}

impl StoreLink {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            next: 1,
            under_way: BTreeMap::new(),
            heard: now,
            lost_since: None,
            failing: None,
            fresh: true,
            era: None,
            forgot: false,
            counter: 0,
            renewed: None,
            renew_due: now,
            doubted: Instant::default(),
            back_at: now,
        }
    }

    pub(super) fn is_up(&self) -> bool {
        self.lost_since.is_none() && !self.fresh
    }

    pub(super) fn is_lost(&self) -> bool {
        self.lost_since.is_some()
    }

    pub(super) fn take(&mut self, now: Instant, id: RequestId) -> Option<(Instant, What)> {
        let taken = self.under_way.remove(&id);
        if taken.is_some() {
            self.heard = now;
        }
        taken
    }

    fn has(&self, what: impl Fn(&What) -> bool) -> bool {
        self.under_way.values().any(|(_, w)| what(w))
    }

    fn overdue(&self, now: Instant, budget: Duration) -> bool {
        // Ids grow with time: the first is the oldest. It is answered in its turn: behind hundreds of claims that each bring their records
        // along, the store is not lost as long as answers come.
        let oldest = self.under_way.first_key_value();
        oldest.is_some_and(|(_, (at, _))| now.since((*at).max(self.heard)) >= budget)
    }
}

impl Member {
    pub(super) fn ask_store(&mut self, now: Instant, what: What, request: StoreRequest) {
        let id = RequestId(self.store.next);
        self.store.next += 1;
        self.store.under_way.insert(id, (now, what));
        self.effects.push_back(Effect::Store(id, request));
    }

    /// Gives up what is overdue, renews what is due.
    pub(super) fn check_store(&mut self, now: Instant) {
        let budget = self.config.store_budget;
        let long = |since| now.since(since) >= budget * FAILING;
        let failing = self.store.failing.is_some_and(long) && self.store.is_up();
        if self.store.overdue(now, budget) || failing {
            self.lose_store(now);
        }
        if self.store.renew_due <= now && !self.store.has(|w| matches!(w, What::Join | What::Renew)) {
            self.renew(now);
        }
    }

    /// It carries them out again.
    pub(super) fn writes_succeed(&mut self, now: Instant) {
        if self.store.failing.take().is_some() && self.store.is_lost() {
            self.store.renew_due = now;
        }
    }

    /// The store did not carry out a write of the engine's.
    pub(super) fn writes_fail(&mut self, now: Instant) {
        self.store.failing.get_or_insert(now);
        self.probe_store(now);
    }

    /// Finds out soon whether the store answers.
    pub(super) fn probe_store(&mut self, now: Instant) {
        if self.store.is_up() && self.phase != Phase::Left && !self.store.has(|w| matches!(w, What::Renew)) {
            self.renew(now);
        }
    }

    /// It may have lost what it knew.
    pub(super) fn doubt_store(&mut self, now: Instant) {
        self.store.doubted = now;
        self.store.renew_due = now;
    }

    fn renew(&mut self, now: Instant) {
        self.store.renew_due = now + self.config.lease / 3;
        match self.phase {
            Phase::Joining => {
                let record = self.config.record.clone();
                self.ask_store(now, What::Join, StoreRequest::Join { record });
            }
            Phase::Listed | Phase::Leaving => {
                self.store.counter += 1;
                let request = StoreRequest::Renew {
                    member: self.incarnation(),
                    counter: self.store.counter,
                };
                self.ask_store(now, What::Renew, request);
            }
            Phase::Left => {}
        }
    }

    pub(super) fn lose_store(&mut self, now: Instant) {
        let under_way = std::mem::take(&mut self.store.under_way);
        if let Some((last, _)) = under_way.last_key_value() {
            self.effects.push_back(Effect::ResetStore(*last));
        }
        for (_, what) in under_way.into_values() {
            match what {
                What::Claim(partition) => self.claim_lost(partition),
                What::Mark(partition) | What::Withdraw(partition) => self.hand_over_reply_lost(now, partition),
                What::Leave => self.phase = Phase::Listed,
                _ => {}
            }
        }
        self.store.renew_due = now + PROBE;
        if self.store.is_lost() {
            return;
        }
        self.store.lost_since = Some(now);
        self.reconcile = None;
        self.event(Event::StoreLost);
        self.set_gate(Gate::Hold);
        self.tell_status();
        self.answer_asked(now);
        self.ask_peers(now);
    }

    pub(super) fn on_members(&mut self, now: Instant, sent: Instant, reply: StoreReply) {
        let (members, era, full) = match reply {
            StoreReply::Members { members, era, full } => (Some(members), era, full),
            StoreReply::NotListed { era } => (None, era, false),
            _ => return,
        };
        let other_era = self.store.era.is_some_and(|e| e != era);
        self.store.era = Some(era);
        self.store.forgot |= other_era && !self.held.is_empty();
        if other_era {
            // Who has it in memory is let write first.
            self.store.back_at = now;
        }
        let Some(members) = members else {
            return self.rejoin(now, other_era);
        };
        self.store.fresh = false;
        self.store.renewed = Some(sent);
        let counters = members.iter().map(|m| (m.record.incarnation, m.counter));
        self.lease.observe(now, sent, counters);
        self.learn_members(now, members);
        if full {
            // Leases go on. What cannot be written makes it a lost store for everything else.
            self.lose_store(now);
        } else if self.store.failing.is_some() && self.store.is_lost() {
            // It is back when it writes.
            self.store.renew_due = now + PROBE;
        } else if let Some(since) = self.store.lost_since.take() {
            let after = now.since(since);
            let forgot = self.store.forgot;
            self.event(Event::StoreBack { after, forgot });
            self.back_in_store(now);
        } else if self.store.forgot && self.reconcile.is_none() {
            self.back_in_store(now);
        }
        self.answer_asked(now);
    }

    /// Off the list: either the store forgot, or others took this member for dead and claimed what it owned.
    fn rejoin(&mut self, now: Instant, other_era: bool) {
        if !other_era && !self.store.forgot {
            self.drop_all(super::DropReason::Expelled);
        }
        self.phase = Phase::Joining;
        self.admitted = false;
        self.renew(now);
    }
}

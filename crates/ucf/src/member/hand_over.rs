//! Hand-over: a partition moves on purpose. Stop turns, flush, name the target, offer; the target's claim or the withdrawal, whichever
//! script is first, decides. While that is unknown the owner is silent.

use super::store_link::What;
use super::{Effect, Event, Gate, Member, Phase};
use crate::assignment;
use crate::store::{StoreReply, StoreRequest};
use crate::wire::{PartitionEpoch, PeerBody};
use crate::{Incarnation, PartitionId};
use sip::Instant;
use std::collections::{BTreeSet, VecDeque};
use std::ops::RangeInclusive;
use std::time::Duration;

/// Partitions under way at once. With the least the store and the target work by turns, which is almost as fast as they get, and calls wait as briefly
/// as can be; more are for a store that is far away.
const AT_ONCE: RangeInclusive<usize> = 3..=32;

/// One at once for each of these that the store's quickest answer takes: so much of a hand-over is the way there and back, on which it waits for no other.
const ROUND_TRIP: Duration = Duration::from_millis(1);

/// How long an offer stands before it is withdrawn.
const OFFER: Duration = Duration::from_millis(500);

/// How long the engine may take to stop and flush before the hand-over is called off.
const FREEZE: Duration = Duration::from_secs(2);

#[derive(Debug)]
pub(super) struct HandOver {
    pub(super) to: Incarnation,
    since: Instant,
    stage: Stage,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    /// The engine stops and flushes; nothing is stored yet.
    Freezing,
    Marking {
        since: Instant,
    },
    Offered {
        until: Instant,
    },
    Withdrawing,
    /// The store did not answer: marked or not, withdrawn or claimed.
    Unknown,
}

#[derive(Debug, Default)]
pub(super) struct Moves {
    /// Misplaced partitions, as of the last tick; at most all.
    queue: VecDeque<(PartitionId, Incarnation)>,
    /// Those whose hand-over came to nothing in this move.
    in_vain: BTreeSet<PartitionId>,
    pace: Pace,
}

impl Moves {
    /// Those tried in vain go last: their target may be out of reach, and would keep the others waiting.
    fn queue(&mut self, misplaced: impl Iterator<Item = (PartitionId, Incarnation)>) {
        let (again, first): (Vec<_>, Vec<_>) = misplaced.partition(|(partition, _)| self.in_vain.contains(partition));
        self.queue = first.into_iter().chain(again).collect();
    }
}

/// How many hand-overs are under way: begins anew with every move, and grows by one with each that is over.
#[derive(Debug)]
struct Pace {
    at_once: usize,
    /// How long the store's quickest answer of this move took.
    quickest: Duration,
}

impl Default for Pace {
    fn default() -> Self {
        Self {
            at_once: *AT_ONCE.start(),
            quickest: Duration::MAX,
        }
    }
}

impl Pace {
    fn answered(&mut self, took: Duration) {
        self.quickest = self.quickest.min(took);
    }

    fn handed_over(&mut self) {
        let trips = self.quickest.as_millis() / ROUND_TRIP.as_millis();
        let many = usize::try_from(trips).unwrap_or(usize::MAX);
        self.at_once = many.clamp(*AT_ONCE.start(), *AT_ONCE.end()).min(self.at_once + 1);
    }
}

impl Member {
    /// Finds what others should own, and starts as much as may be under way.
    pub(super) fn plan_moves(&mut self, now: Instant) {
        if self.moves.queue.is_empty() && self.held.values().all(|held| held.hand_over.is_none()) {
            self.moves = Moves::default();
        }
        self.moves.queue.clear();
        // Without the store, or while it is unsure what it knows, nothing moves that need not.
        let calm = self.store.is_up() && self.reconcile.is_none() && self.gate == Gate::Committed;
        if !calm || !self.admitted || self.phase != Phase::Listed {
            return;
        }
        let wanted = self.wanted_owners(now);
        let me = self.incarnation();
        let resting = self.held.iter().filter(|(_, held)| held.hand_over.is_none());
        let owners = resting.filter_map(|(p, _)| Some((*p, assignment::owner(*p, &wanted)?)));
        self.moves.queue(owners.filter(|(_, to)| *to != me));
        self.start_moves(now);
    }

    pub(super) fn start_moves(&mut self, now: Instant) {
        let mut under_way = self.held.values().filter(|h| h.hand_over.is_some()).count();
        while under_way < self.moves.pace.at_once {
            let Some((partition, to)) = self.moves.queue.pop_front() else {
                return;
            };
            if self.peers.get(&to).is_some_and(|p| p.is_well()) && self.start_hand_over(now, partition, to) {
                under_way += 1;
            }
        }
    }

    fn start_hand_over(&mut self, now: Instant, partition: PartitionId, to: Incarnation) -> bool {
        let Some(held) = self.held.get_mut(&partition).filter(|h| h.hand_over.is_none()) else {
            return false;
        };
        held.hand_over = Some(HandOver {
            to,
            since: now,
            stage: Stage::Freezing,
        });
        if self.config.faults.hands_over_unfenced {
            self.on_frozen(now, partition);
            return true;
        }
        self.announce.insert(partition);
        self.effects.push_back(Effect::Freeze(partition));
        true
    }

    fn hand_over_in(
        &self,
        partition: PartitionId,
        stage: impl Fn(Stage) -> bool,
    ) -> Option<(Incarnation, crate::Epoch)> {
        let held = self.held.get(&partition)?;
        let hand_over = held.hand_over.as_ref().filter(|h| stage(h.stage))?;
        Some((hand_over.to, held.epoch))
    }

    fn set_stage(&mut self, partition: PartitionId, stage: Stage) {
        if let Some(hand_over) = self.held.get_mut(&partition).and_then(|h| h.hand_over.as_mut()) {
            hand_over.stage = stage;
        }
    }

    pub(super) fn on_frozen(&mut self, now: Instant, partition: PartitionId) {
        let Some((to, epoch)) = self.hand_over_in(partition, |s| s == Stage::Freezing) else {
            return;
        };
        if !self.store.is_up() || !self.peers.get(&to).is_some_and(|p| p.is_well()) {
            return self.thaw(partition);
        }
        self.set_stage(partition, Stage::Marking { since: now });
        let request = StoreRequest::Mark {
            partition,
            member: self.incarnation(),
            epoch,
            target: to,
        };
        self.ask_store(now, What::Mark(partition), request);
    }

    pub(super) fn on_mark(&mut self, now: Instant, partition: PartitionId, reply: StoreReply) {
        let held = self.held.get(&partition);
        let Some((epoch, hand_over)) = held.and_then(|held| Some((held.epoch, held.hand_over.as_ref()?))) else {
            return;
        };
        let HandOver {
            to,
            stage: Stage::Marking { since },
            ..
        } = *hand_over
        else {
            return;
        };
        self.moves.pace.answered(now.since(since));
        match reply {
            StoreReply::Marked if self.peers.get(&to).is_some_and(|p| p.is_well()) => {
                self.set_stage(partition, Stage::Offered { until: now + OFFER });
                let offer = PartitionEpoch {
                    partition: u32::from(partition.0),
                    epoch: epoch.0,
                };
                self.say(to, PeerBody::Offer(offer));
            }
            StoreReply::Marked => self.withdraw(now, partition),
            other => self.hand_over_refused(now, partition, &other),
        }
    }

    fn withdraw(&mut self, now: Instant, partition: PartitionId) {
        let Some((_, epoch)) = self.hand_over_in(partition, |_| true) else {
            return;
        };
        self.set_stage(partition, Stage::Withdrawing);
        let request = StoreRequest::Withdraw {
            partition,
            member: self.incarnation(),
            epoch,
        };
        self.ask_store(now, What::Withdraw(partition), request);
    }

    pub(super) fn on_withdraw(&mut self, now: Instant, partition: PartitionId, reply: StoreReply) {
        let Some((to, _)) = self.hand_over_in(partition, |s| s == Stage::Withdrawing) else {
            return;
        };
        if reply == StoreReply::Withdrawn {
            self.event(Event::HandOverWithdrawn { partition, to });
            return self.thaw(partition);
        }
        self.hand_over_refused(now, partition, &reply);
    }

    /// Another owner is stored, or the store forgot; then it is written anew, and the withdrawal tried again.
    fn hand_over_refused(&mut self, now: Instant, partition: PartitionId, reply: &StoreReply) {
        self.set_stage(partition, Stage::Unknown);
        let StoreReply::Refused(stored) = reply else { return };
        let held = self.held.get(&partition).map_or(stored.epoch, |h| h.epoch);
        match stored.owner {
            Some(owner) if stored.epoch > held => {
                self.note_stored(partition, owner, stored.epoch);
                self.lose_partition_to(now, partition, owner, stored.epoch);
            }
            _ => self.store_forgot(now),
        }
    }

    pub(super) fn hand_over_reply_lost(&mut self, _now: Instant, partition: PartitionId) {
        self.set_stage(partition, Stage::Unknown);
    }

    fn thaw(&mut self, partition: PartitionId) {
        if let Some(held) = self.held.get_mut(&partition) {
            held.hand_over = None;
            self.moves.in_vain.insert(partition);
            self.announce.insert(partition);
            self.effects.push_back(Effect::Thaw(partition));
        }
    }

    /// What takes too long, or has lost its target.
    pub(super) fn check_hand_overs(&mut self, now: Instant) {
        let under_way = self.held.iter().filter_map(|(p, held)| {
            let hand_over = held.hand_over.as_ref()?;
            let well = self.peers.get(&hand_over.to).is_some_and(|peer| peer.is_well());
            Some((*p, hand_over.stage, hand_over.since, well))
        });
        for (partition, stage, since, well) in under_way.collect::<Vec<_>>() {
            match stage {
                Stage::Freezing if !well || !self.store.is_up() || now.since(since) > FREEZE => self.thaw(partition),
                Stage::Offered { until } if (!well || until <= now) && self.store.is_up() => {
                    self.withdraw(now, partition)
                }
                Stage::Unknown if self.store.is_up() && self.reconcile.is_none() => self.withdraw(now, partition),
                _ => {}
            }
        }
    }

    /// The target has claimed it.
    pub(super) fn hand_over_done(&mut self, now: Instant, partition: PartitionId, hand_over: &HandOver) {
        self.event(Event::HandedOver {
            partition,
            to: hand_over.to,
            took: now.since(hand_over.since),
        });
        self.moves.pace.handed_over();
        self.start_moves(now);
    }
}

#[cfg(test)]
mod tests {
    use super::super::{Config, Faults, Held, STORE_BUDGET};
    use super::*;
    use crate::Epoch;
    use crate::store::MemberRecord;

    #[test]
    fn what_was_tried_in_vain_goes_last() {
        let misplaced = [0, 1, 2, 3].map(|id| (PartitionId(id), Incarnation(7)));
        let mut moves = Moves {
            in_vain: [PartitionId(0), PartitionId(1)].into(),
            ..Moves::default()
        };
        moves.queue(misplaced.into_iter());
        assert_eq!(moves.queue.iter().map(|(id, _)| id.0).collect::<Vec<_>>(), [2, 3, 0, 1]);
    }

    #[test]
    fn what_comes_to_nothing_was_tried_in_vain() {
        let now = Instant::from_micros(1);
        let record = MemberRecord {
            incarnation: Incarnation(1),
            name: "demo-0".into(),
            sip: String::new(),
            ucf: String::new(),
            weight: 100,
        };
        let config = Config {
            record,
            partitions: 2,
            lease: Duration::from_secs(2),
            store_budget: STORE_BUDGET,
            acts_from_memory: true,
            faults: Faults::default(),
        };
        let mut member = Member::new(config, now);
        let [first, second] = [0, 1].map(PartitionId);
        let to_one_that_is_lost = HandOver {
            to: Incarnation(7),
            since: now,
            stage: Stage::Freezing,
        };
        let held = Held {
            epoch: Epoch(1),
            hand_over: Some(to_one_that_is_lost),
        };
        member.held.insert(first, held);
        member.check_hand_overs(now);
        let misplaced = [first, second].map(|partition| (partition, Incarnation(8)));
        member.moves.queue(misplaced.into_iter());
        let order: Vec<_> = member.moves.queue.iter().map(|(partition, _)| *partition).collect();
        assert_eq!(order, [second, first]);
    }

    #[test]
    fn few_at_once_and_more_by_and_by_if_even_the_quickest_answer_takes_long() {
        let mut pace = Pace::default();
        assert_eq!(pace.at_once, 3);
        pace.answered(Duration::from_millis(20));
        for expected in (4..=20).chain([20]) {
            pace.handed_over();
            assert_eq!(pace.at_once, expected);
        }
        pace.answered(Duration::from_micros(300));
        pace.answered(Duration::from_millis(20));
        pace.handed_over();
        assert_eq!(pace.at_once, 3, "the store is near, and was busy");
    }
}

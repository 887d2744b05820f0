//! The store in memory, as the scripts must behave.

use super::{Era, StoreReply, StoreRequest, StoredMember, StoredOwner, Write};
use crate::{Epoch, Incarnation, PartitionId};
use std::collections::BTreeMap;

/// A store that never fails; faults are its user's.
#[derive(Clone, Debug)]
pub struct Model {
    era: Era,
    members: BTreeMap<u64, StoredMember>,
    partitions: BTreeMap<PartitionId, PartitionModel>,
    compares_epochs: bool,
    raises_epochs: bool,
    full: bool,
}

/// What is stored of one partition.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PartitionModel {
    /// Who owns it.
    pub owner: Option<Incarnation>,
    /// At which epoch.
    pub epoch: Epoch,
    /// The number of the last write.
    pub seq: u64,
    /// To whom it is being handed over.
    pub target: Option<Incarnation>,
    /// Records by key.
    pub records: BTreeMap<Vec<u8>, Vec<u8>>,
}

impl Model {
    /// An empty store.
    #[must_use]
    pub fn new(era: Era) -> Self {
        Self {
            era,
            members: BTreeMap::new(),
            partitions: BTreeMap::new(),
            compares_epochs: true,
            raises_epochs: true,
            full: false,
        }
    }

    /// A broken store whose writes and claims compare nothing: simulations prove with it that their checks can fail.
    #[doc(hidden)]
    pub fn stop_comparing_epochs(&mut self) {
        self.compares_epochs = false;
    }

    /// A broken store whose claims do not raise the epoch and whose writes do not look at the owner: nothing fences a hand-over.
    #[doc(hidden)]
    pub fn stop_raising_epochs(&mut self) {
        self.raises_epochs = false;
    }

    /// Loses everything, as a restart without persistence does.
    pub fn flush(&mut self, era: Era) {
        self.era = era;
        self.members.clear();
        self.partitions.clear();
    }

    /// Another life of the server with the same data.
    pub fn set_era(&mut self, era: Era) {
        self.era = era;
    }

    /// From now on there is no room for records, or there is again. Whoever drives a full one has to let writes fail.
    pub fn set_full(&mut self, full: bool) {
        self.full = full;
    }

    /// Whether there is no room for records.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.full
    }

    /// Carries one request out.
    pub fn apply(&mut self, request: &StoreRequest) -> StoreReply {
        match request {
            StoreRequest::Join { record } => {
                let member = StoredMember {
                    record: record.clone(),
                    counter: 0,
                };
                self.members.insert(record.incarnation.0, member);
                self.list()
            }
            StoreRequest::Renew { member, counter } => match self.members.get_mut(&member.0) {
                Some(stored) => {
                    stored.counter = *counter;
                    self.list()
                }
                None => StoreReply::NotListed { era: self.era },
            },
            StoreRequest::Remove { member, counter } => {
                let same = self
                    .members
                    .get(&member.0)
                    .is_some_and(|m| counter.is_none_or(|c| c == m.counter));
                if same {
                    self.members.remove(&member.0);
                }
                StoreReply::Removed(same)
            }
            StoreRequest::Inspect { partitions } => {
                StoreReply::Owners(partitions.iter().map(|p| self.owner(*p)).collect())
            }
            StoreRequest::Claim {
                partition,
                member,
                expected,
                at_least,
                as_target,
            } => self.claim(*partition, *member, *expected, *at_least, *as_target),
            StoreRequest::Write(write) => self.write(write),
            StoreRequest::Mark {
                partition,
                member,
                epoch,
                target,
            } => self.owned(*partition, *member, *epoch, |stored| {
                stored.target = Some(*target);
                StoreReply::Marked
            }),
            StoreRequest::Withdraw {
                partition,
                member,
                epoch,
            } => self.owned(*partition, *member, *epoch, |stored| {
                stored.target = None;
                StoreReply::Withdrawn
            }),
        }
    }

    /// What is stored of a partition, if anything is.
    #[must_use]
    pub fn partition(&self, partition: PartitionId) -> Option<&PartitionModel> {
        self.partitions.get(&partition)
    }

    /// The members on the list.
    pub fn members(&self) -> impl Iterator<Item = &StoredMember> {
        self.members.values()
    }

    fn list(&self) -> StoreReply {
        StoreReply::Members {
            members: self.members.values().cloned().collect(),
            era: self.era,
            full: self.full,
        }
    }

    fn owner(&self, partition: PartitionId) -> StoredOwner {
        let stored = self.partitions.get(&partition);
        StoredOwner {
            partition,
            owner: stored.and_then(|s| s.owner),
            epoch: stored.map_or(Epoch(0), |s| s.epoch),
            target: stored.and_then(|s| s.target),
        }
    }

    fn claim(
        &mut self,
        partition: PartitionId,
        member: Incarnation,
        expected: Option<Incarnation>,
        at_least: Epoch,
        as_target: bool,
    ) -> StoreReply {
        let before = self.owner(partition);
        let granted = before.owner == expected && (!as_target || before.target == Some(member));
        if !granted && self.compares_epochs {
            return StoreReply::Refused(before);
        }
        let stored = self.partitions.entry(partition).or_default();
        stored.owner = Some(member);
        if self.raises_epochs || stored.epoch == Epoch(0) {
            stored.epoch = stored.epoch.next().max(at_least);
        }
        stored.seq = 0;
        stored.target = None;
        StoreReply::Claimed { epoch: stored.epoch }
    }

    fn write(&mut self, write: &Write) -> StoreReply {
        let before = self.owner(write.partition);
        let behind = before.owner.is_none() || before.epoch < write.epoch;
        let mine = before.epoch == write.epoch && (before.owner == Some(write.member) || !self.raises_epochs);
        if !behind && !mine && self.compares_epochs {
            return StoreReply::Refused(before);
        }
        let stored = self.partitions.entry(write.partition).or_default();
        if mine && write.seq <= stored.seq {
            return StoreReply::Repeated;
        }
        if behind {
            stored.owner = Some(write.member);
            stored.epoch = write.epoch;
            stored.target = None;
        }
        stored.seq = write.seq;
        if write.replace {
            stored.records.clear();
        }
        for key in &write.deletes {
            stored.records.remove(key);
        }
        for (key, value) in &write.sets {
            stored.records.insert(key.clone(), value.clone());
        }
        StoreReply::Written { behind }
    }

    fn owned(
        &mut self,
        partition: PartitionId,
        member: Incarnation,
        epoch: Epoch,
        change: impl FnOnce(&mut PartitionModel) -> StoreReply,
    ) -> StoreReply {
        match self.partitions.get_mut(&partition) {
            Some(stored) if stored.owner == Some(member) && stored.epoch == epoch => change(stored),
            _ => StoreReply::Refused(self.owner(partition)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const P: PartitionId = PartitionId(3);
    const A: Incarnation = Incarnation(0xa);
    const B: Incarnation = Incarnation(0xb);

    fn claim(member: Incarnation, expected: Option<Incarnation>, as_target: bool) -> StoreRequest {
        StoreRequest::Claim {
            partition: P,
            member,
            expected,
            at_least: Epoch(1),
            as_target,
        }
    }

    fn write(member: Incarnation, epoch: u64, seq: u64) -> StoreRequest {
        StoreRequest::Write(Write {
            partition: P,
            member,
            epoch: Epoch(epoch),
            seq,
            replace: false,
            sets: vec![(b"key".to_vec(), vec![seq as u8])],
            deletes: Vec::new(),
        })
    }

    fn owned_by_a() -> Model {
        let mut model = Model::new(Era(1));
        let first = model.apply(&claim(A, None, false));
        assert_eq!(first, StoreReply::Claimed { epoch: Epoch(1) });
        model
    }

    #[test]
    fn a_claim_names_the_owner_that_it_replaces_and_raises_the_epoch() {
        let mut model = owned_by_a();
        assert!(matches!(model.apply(&claim(B, None, false)), StoreReply::Refused(stored) if stored.owner == Some(A)));
        let won = model.apply(&claim(B, Some(A), false));
        assert_eq!(won, StoreReply::Claimed { epoch: Epoch(2) });
        assert!(matches!(model.apply(&write(A, 1, 1)), StoreReply::Refused(stored) if stored.epoch == Epoch(2)));
    }

    #[test]
    fn a_write_is_done_once_and_in_order() {
        let mut model = owned_by_a();
        assert_eq!(model.apply(&write(A, 1, 2)), StoreReply::Written { behind: false });
        assert_eq!(model.apply(&write(A, 1, 2)), StoreReply::Repeated);
        assert_eq!(model.apply(&write(A, 1, 1)), StoreReply::Repeated);
        assert_eq!(model.partition(P).expect("written").records[&b"key".to_vec()], [2]);
    }

    #[test]
    fn a_write_above_the_stored_epoch_is_kept_and_tells_that_the_store_forgot() {
        let mut model = owned_by_a();
        model.flush(Era(2));
        assert_eq!(model.apply(&write(A, 7, 9)), StoreReply::Written { behind: true });
        let stored = model.partition(P).expect("written");
        assert_eq!((stored.owner, stored.epoch, stored.seq), (Some(A), Epoch(7), 9));
    }

    #[test]
    fn of_a_targets_claim_and_a_withdrawal_the_first_wins() {
        let mark = StoreRequest::Mark {
            partition: P,
            member: A,
            epoch: Epoch(1),
            target: B,
        };
        let withdraw = StoreRequest::Withdraw {
            partition: P,
            member: A,
            epoch: Epoch(1),
        };
        let mut model = owned_by_a();
        assert!(matches!(model.apply(&claim(B, Some(A), true)), StoreReply::Refused(_)));
        assert_eq!(model.apply(&mark), StoreReply::Marked);
        let mut other = model.clone();
        assert_eq!(
            model.apply(&claim(B, Some(A), true)),
            StoreReply::Claimed { epoch: Epoch(2) }
        );
        assert!(matches!(model.apply(&withdraw), StoreReply::Refused(_)));
        assert_eq!(other.apply(&withdraw), StoreReply::Withdrawn);
        assert!(matches!(other.apply(&claim(B, Some(A), true)), StoreReply::Refused(_)));
    }

    #[test]
    fn a_member_is_removed_only_with_the_counter_that_was_seen() {
        let mut model = Model::new(Era(1));
        let renew = |counter| StoreRequest::Renew { member: A, counter };
        let remove = |counter| StoreRequest::Remove {
            member: A,
            counter: Some(counter),
        };
        assert_eq!(model.apply(&renew(1)), StoreReply::NotListed { era: Era(1) });
        let record = super::super::MemberRecord {
            incarnation: A,
            name: "demo-0".to_owned(),
            sip: String::new(),
            ucf: String::new(),
            weight: 100,
        };
        model.apply(&StoreRequest::Join { record });
        model.apply(&renew(5));
        assert_eq!(model.apply(&remove(4)), StoreReply::Removed(false));
        assert_eq!(model.apply(&remove(5)), StoreReply::Removed(true));
    }
}

//! The routing table: which member owns a partition, at which epoch, as far as has been heard.
//!
//! Containers announce ([`Ownership`]); the higher epoch wins. Members get small numbers ([`Slot`]), so that the way from a
//! partition to its owner is two array look-ups. The table also is the fence: what a member sends for a partition that
//! another one owns is dropped.

use crate::wire::{Fenced, Ownership};
use crate::{Epoch, Incarnation, PartitionId};

/// The header field by which a container that acts from memory names the last heartbeat that it had heard before asking. A
/// proxy takes it off.
pub const HEARTBEAT_HEADER: &str = "UCF-Heartbeat";

/// What the names of all header fields begin with that parts of the cluster write for one another: proxies let none of them pass, neither
/// in nor out.
pub const HEADER_PREFIX: &str = "UCF-";

/// Members that a table knows at most: far more than containers of a cluster; lives that ended are forgotten.
pub const MAX_MEMBERS: usize = 1024;

/// A member's place in the table; used again when the member is forgotten.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Slot(pub u16);

/// What is known of a partition.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Route {
    /// The owner at the highest epoch heard; none if it has disowned the partition or is forgotten.
    pub owner: Option<Slot>,
    /// The highest epoch heard.
    pub epoch: Epoch,
    /// The owner hands it over or has returned a message for it: hold until somebody announces it.
    pub leaving: bool,
    /// Its former owner has not said yet what became of all that it was sent: hold until then.
    held_back: bool,
    /// Who owned it before.
    before: Option<Slot>,
    /// That one handed it over: what it still sends was written while it owned, and its successor does not say it again.
    handed: bool,
    /// Place in the owner's list, while it is there.
    at: u32,
}

impl Route {
    /// The owner, unless the partition is in transition.
    #[must_use]
    pub fn settled(&self) -> Option<Slot> {
        let in_transition = self.leaving || self.held_back;
        self.owner.filter(|_| !in_transition)
    }

    /// Whether it matters that `member` says to own the partition at `epoch`. At an equal one the first who was heard stays: two owners of one
    /// epoch cannot be (claims compare and swap).
    fn is_changed_by(&self, member: Option<Slot>, epoch: Epoch) -> bool {
        let free = self.owner.is_none() || self.owner == member;
        epoch > self.epoch || epoch == self.epoch && free
    }
}

#[derive(Debug)]
struct Member {
    incarnation: Incarnation,
    /// Its settled partitions.
    owned: Vec<PartitionId>,
}

/// Partitions and members.
#[derive(Debug)]
pub struct RoutingTable {
    routes: Vec<Route>,
    members: Vec<Option<Member>>,
}

impl RoutingTable {
    /// Nobody owns anything.
    #[must_use]
    pub fn new(partitions: usize) -> Self {
        Self {
            routes: vec![Route::default(); partitions],
            members: Vec::new(),
        }
    }

    /// How many partitions there are.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.routes.len()
    }

    /// What is known of a partition.
    #[must_use]
    pub fn route(&self, partition: PartitionId) -> Route {
        self.routes.get(usize::from(partition.0)).copied().unwrap_or_default()
    }

    /// A member's slot.
    #[must_use]
    pub fn slot(&self, incarnation: Incarnation) -> Option<Slot> {
        self.members
            .iter()
            .position(|member| member.as_ref().is_some_and(|member| member.incarnation == incarnation))
            .map(|at| Slot(at as u16))
    }

    /// A member's slot, made if it is new; none if there are [`MAX_MEMBERS`].
    pub fn enter(&mut self, incarnation: Incarnation) -> Option<Slot> {
        if let Some(slot) = self.slot(incarnation) {
            return Some(slot);
        }
        let free = self.members.iter().position(Option::is_none);
        let at = free.unwrap_or(self.members.len());
        if at >= MAX_MEMBERS {
            return None;
        }
        if free.is_none() {
            self.members.push(None);
        }
        self.members[at] = Some(Member {
            incarnation,
            owned: Vec::new(),
        });
        Some(Slot(at as u16))
    }

    /// Forgets a member. Its partitions have no owner then, and keep their epochs.
    pub fn forget(&mut self, slot: Slot) {
        for route in &mut self.routes {
            if route.owner == Some(slot) {
                route.owner = None;
            }
            if route.before == Some(slot) {
                route.before = None;
            }
        }
        if let Some(member) = self.members.get_mut(usize::from(slot.0)) {
            *member = None;
        }
    }

    /// Forgets a member that owns nothing and that `is_needed` does not want to keep, a life that was only heard of; whose slot is free then.
    pub fn forget_idle(&mut self, is_needed: impl Fn(Slot) -> bool) -> Option<Slot> {
        let mut slots = (0..self.members.len()).map(|at| Slot(at as u16));
        let idle = slots
            .find(|slot| self.incarnation(*slot).is_some() && self.owned(*slot).is_empty() && !is_needed(*slot))?;
        self.forget(idle);
        Some(idle)
    }

    /// Who has a slot.
    #[must_use]
    pub fn incarnation(&self, slot: Slot) -> Option<Incarnation> {
        Some(self.members.get(usize::from(slot.0))?.as_ref()?.incarnation)
    }

    /// The partitions that a member owns and is not handing over.
    #[must_use]
    pub fn owned(&self, slot: Slot) -> &[PartitionId] {
        match self.members.get(usize::from(slot.0)) {
            Some(Some(member)) => &member.owned,
            _ => &[],
        }
    }

    /// What a member owns as far as is known, as an announcement that is not complete.
    #[must_use]
    pub fn ownership(&self, slot: Slot) -> Ownership {
        let mut ownership = Ownership {
            owner: self.incarnation(slot).map_or(0, |incarnation| incarnation.0),
            ..Ownership::default()
        };
        for (partition, route) in (0..).zip(&self.routes).filter(|(_, route)| route.owner == Some(slot)) {
            if route.leaving {
                ownership.leaving.push(partition);
            } else {
                ownership.partitions.push(partition);
                ownership.epochs.push(route.epoch.0);
            }
        }
        ownership
    }

    /// Takes an announcement; appends what became reachable at an owner to `changes`.
    pub fn announced(&mut self, announced: &Ownership, changes: &mut Vec<PartitionId>) {
        let Some(slot) = self.enter(Incarnation(announced.owner)) else {
            return;
        };
        if announced.complete {
            self.disown_unlisted(slot, announced);
        }
        for (partition, epoch) in announced.partitions.iter().zip(&announced.epochs) {
            if let Some(partition) = self.known(*partition) {
                self.announce(slot, partition, Epoch(*epoch), changes);
            }
        }
        for partition in &announced.leaving {
            let Some(partition) = self.known(*partition) else {
                continue;
            };
            let route = self.route(partition);
            if route.owner == Some(slot) {
                self.suspend(partition);
                changes.retain(|change| *change != partition);
            } else if route.before == Some(slot) {
                // Its successor was heard first.
                self.routes[usize::from(partition.0)].handed = true;
            }
        }
    }

    /// What of an announcement goes unheard, because somebody else has owned the partition at an epoch that is not lower. A store that forgot
    /// grants epochs anew: whoever gets one has to be told, or nothing is ever routed to it.
    pub fn unheard<'a>(&'a self, announced: &'a Ownership) -> impl Iterator<Item = Fenced> + use<'a> {
        let slot = self.slot(Incarnation(announced.owner));
        let known = announced.partitions.iter().zip(&announced.epochs);
        known.filter_map(move |(partition, epoch)| {
            let route = self.route(self.known(*partition)?);
            let is_its = route.owner.is_some() && route.owner == slot;
            (!is_its && !route.is_changed_by(slot, Epoch(*epoch))).then(|| Fenced {
                partition: *partition,
                // Nobody, if it is forgotten.
                owner: route
                    .owner
                    .and_then(|owner| self.incarnation(owner))
                    .map_or(0, |owner| owner.0),
                epoch: route.epoch.0,
            })
        })
    }

    fn announce(&mut self, slot: Slot, partition: PartitionId, epoch: Epoch, changes: &mut Vec<PartitionId>) {
        let route = self.route(partition);
        let mine = route.owner == Some(slot);
        if !route.is_changed_by(Some(slot), epoch) {
            return;
        }
        if mine && !route.leaving {
            self.routes[usize::from(partition.0)].epoch = epoch;
            return;
        }
        self.unlist(partition);
        let at = self.list(slot, partition);
        self.routes[usize::from(partition.0)] = Route {
            owner: Some(slot),
            epoch,
            leaving: false,
            held_back: mine && route.held_back,
            before: if mine { route.before } else { route.owner },
            handed: if mine { route.handed } else { route.leaving },
            at,
        };
        changes.push(partition);
    }

    /// Holds a partition's messages until somebody announces it.
    pub fn suspend(&mut self, partition: PartitionId) {
        self.unlist(partition);
        if let Some(route) = self.routes.get_mut(usize::from(partition.0)) {
            route.leaving = true;
        }
    }

    /// Whether its messages are held although its owner is known, until the former one has accounted for what it was sent. Ends with the next owner.
    pub fn hold_back(&mut self, partition: PartitionId, held_back: bool) {
        if let Some(route) = self.routes.get_mut(usize::from(partition.0)) {
            route.held_back = held_back;
        }
    }

    /// Ends [`Self::suspend`] without an announcement: the owner that is known is asked again.
    pub fn resume(&mut self, partition: PartitionId) {
        let route = self.route(partition);
        if let Some(slot) = route.owner.filter(|_| route.leaving) {
            let at = self.list(slot, partition);
            self.routes[usize::from(partition.0)] = Route {
                leaving: false,
                at,
                ..route
            };
        }
    }

    /// Who else owns the partition, if `from` is fenced: its output is to be dropped. Who handed it over is not: the news of the successor may
    /// outrun its last output, which nobody will send again.
    #[must_use]
    pub fn fenced(&self, from: Slot, partition: PartitionId) -> Option<(Incarnation, Epoch)> {
        let route = self.route(partition);
        let handed_it_over = route.handed && route.before == Some(from);
        let owner = route.owner.filter(|owner| *owner != from && !handed_it_over)?;
        Some((self.incarnation(owner)?, route.epoch))
    }

    fn disown_unlisted(&mut self, slot: Slot, announced: &Ownership) {
        let mut listed = vec![false; self.routes.len()];
        for partition in announced.partitions.iter().chain(&announced.leaving) {
            if let Some(listed) = listed.get_mut(*partition as usize) {
                *listed = true;
            }
        }
        for (at, listed) in listed.into_iter().enumerate() {
            if !listed && self.routes[at].owner == Some(slot) {
                self.unlist(PartitionId(at as u16));
                self.routes[at].owner = None;
            }
        }
    }

    fn known(&self, partition: u32) -> Option<PartitionId> {
        let partition = u16::try_from(partition).ok()?;
        (usize::from(partition) < self.routes.len()).then_some(PartitionId(partition))
    }

    fn list(&mut self, slot: Slot, partition: PartitionId) -> u32 {
        let Some(Some(member)) = self.members.get_mut(usize::from(slot.0)) else {
            return 0;
        };
        member.owned.push(partition);
        member.owned.len() as u32 - 1
    }

    /// Takes a settled partition off its owner's list.
    fn unlist(&mut self, partition: PartitionId) {
        let route = self.route(partition);
        let Some(Slot(slot)) = route.owner.filter(|_| !route.leaving) else {
            return;
        };
        let Some(Some(member)) = self.members.get_mut(usize::from(slot)) else {
            return;
        };
        member.owned.swap_remove(route.at as usize);
        if let Some(moved) = member.owned.get(route.at as usize) {
            self.routes[usize::from(moved.0)].at = route.at;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xa;
    const B: u64 = 0xb;
    const P: PartitionId = PartitionId(3);

    fn owns(owner: u64, partitions: &[u32], epoch: u64) -> Ownership {
        Ownership {
            owner,
            partitions: partitions.to_vec(),
            epochs: vec![epoch; partitions.len()],
            ..Ownership::default()
        }
    }

    fn tell(table: &mut RoutingTable, announced: &Ownership) -> Vec<u16> {
        let mut changes = Vec::new();
        table.announced(announced, &mut changes);
        for slot in 0..2 {
            for (at, partition) in table.owned(Slot(slot)).iter().enumerate() {
                assert_eq!(table.route(*partition).settled(), Some(Slot(slot)));
                assert_eq!(table.route(*partition).at as usize, at);
            }
        }
        changes.iter().map(|partition| partition.0).collect()
    }

    #[test]
    fn the_higher_epoch_wins_and_an_equal_one_does_not() {
        let mut table = RoutingTable::new(8);
        assert_eq!(tell(&mut table, &owns(A, &[2, 3], 5)), [2, 3]);
        assert_eq!(tell(&mut table, &owns(B, &[3], 5)), []);
        assert_eq!(tell(&mut table, &owns(B, &[3], 4)), []);
        assert_eq!(table.route(P).owner, Some(Slot(0)));
        assert_eq!(tell(&mut table, &owns(B, &[3], 6)), [3]);
        assert_eq!(table.route(P).owner, Some(Slot(1)));
        assert_eq!(tell(&mut table, &owns(A, &[2, 3], 5)), [], "late news of the old owner");
        assert_eq!(table.owned(Slot(0)), [PartitionId(2)]);
    }

    #[test]
    fn who_handed_a_partition_over_is_not_fenced_however_late_the_news_and_who_lost_it_is() {
        let leaving = Ownership {
            owner: A,
            leaving: vec![3],
            ..Ownership::default()
        };
        let partition = PartitionId(3);
        for told in [
            [&owns(A, &[3], 1), &leaving, &owns(B, &[3], 2)],
            [&owns(A, &[3], 1), &owns(B, &[3], 2), &leaving],
        ] {
            let mut table = RoutingTable::new(8);
            told.into_iter().for_each(|told| drop(tell(&mut table, told)));
            let (a, b) = (table.slot(Incarnation(A)).unwrap(), table.slot(Incarnation(B)).unwrap());
            assert_eq!((table.fenced(a, partition), table.fenced(b, partition)), (None, None));
            // The next owner takes it by force.
            tell(&mut table, &owns(0xc, &[3], 3));
            assert!(table.fenced(a, partition).is_some() && table.fenced(b, partition).is_some());
        }
        let mut table = RoutingTable::new(8);
        [owns(A, &[3], 1), owns(B, &[3], 2)]
            .iter()
            .for_each(|told| drop(tell(&mut table, told)));
        let a = table.slot(Incarnation(A)).unwrap();
        assert!(table.fenced(a, partition).is_some(), "it was claimed");
    }

    #[test]
    fn a_leaving_partition_waits_for_whoever_announces_it() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[3], 5));
        let leaving = Ownership {
            leaving: vec![3],
            ..owns(A, &[], 5)
        };
        tell(&mut table, &leaving);
        assert_eq!((table.route(P).settled(), table.owned(Slot(0)).len()), (None, 0));
        assert_eq!(table.fenced(Slot(0), P), None, "what it has committed may still leave");
        assert_eq!(tell(&mut table, &owns(B, &[3], 6)), [3]);
        assert_eq!(tell(&mut table, &leaving), []);
        assert_eq!(table.route(P).settled(), Some(Slot(1)));
    }

    #[test]
    fn a_hand_over_that_was_withdrawn_releases_at_the_old_owner() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[3], 5));
        table.suspend(P);
        assert_eq!(tell(&mut table, &owns(A, &[3], 5)), [3]);
        assert_eq!(table.route(P).settled(), Some(Slot(0)));
        table.suspend(P);
        table.resume(P);
        table.resume(P);
        assert_eq!(
            (table.route(P).settled(), table.owned(Slot(0))),
            (Some(Slot(0)), &[P][..])
        );
    }

    #[test]
    fn a_complete_list_disowns_what_it_lacks() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[1, 2, 3], 5));
        let complete = Ownership {
            complete: true,
            ..owns(A, &[1, 2], 5)
        };
        tell(&mut table, &complete);
        assert_eq!((table.route(P).owner, table.route(P).epoch), (None, Epoch(5)));
        assert_eq!(tell(&mut table, &owns(B, &[3], 4)), [], "its epoch is not forgotten");
    }

    #[test]
    fn a_fenced_member_is_told_who_owns() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[3], 5));
        tell(&mut table, &owns(B, &[3], 6));
        assert_eq!(table.fenced(Slot(0), P), Some((Incarnation(B), Epoch(6))));
        assert_eq!(table.fenced(Slot(1), P), None);
        assert_eq!(table.fenced(Slot(0), PartitionId(4)), None, "nobody is known to own it");
    }

    #[test]
    fn a_forgotten_member_owns_nothing_and_its_slot_is_free() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[3, 4], 5));
        table.forget(Slot(0));
        assert_eq!((table.route(P).owner, table.slot(Incarnation(A))), (None, None));
        assert_eq!(table.enter(Incarnation(B)), Some(Slot(0)));
        assert_eq!(tell(&mut table, &owns(B, &[3], 6)), [3]);
    }

    #[test]
    fn nonsense_is_ignored_and_members_are_bounded() {
        let mut table = RoutingTable::new(8);
        assert_eq!(tell(&mut table, &owns(A, &[8, 70_000, u32::MAX], 5)), []);
        let uneven = Ownership {
            epochs: vec![],
            ..owns(A, &[1], 1)
        };
        assert_eq!(tell(&mut table, &uneven), []);
        for life in 0..2000 {
            table.enter(Incarnation(life));
        }
        assert_eq!(table.members.len(), MAX_MEMBERS);
        while table.forget_idle(|slot| slot == Slot(7)).is_some() {}
        assert_eq!(table.members.iter().flatten().count(), 1);
    }

    #[test]
    fn an_epoch_that_others_had_is_no_news_and_its_owner_is_told() {
        let mut table = RoutingTable::new(8);
        tell(&mut table, &owns(A, &[2, 3], 5));
        let unheard = |table: &RoutingTable, owner: u64, epoch: u64| -> Vec<_> {
            let fenced = table.unheard(&owns(owner, &[3], epoch)).collect::<Vec<_>>();
            fenced.iter().map(|one| (one.partition, one.owner, one.epoch)).collect()
        };
        assert_eq!(unheard(&table, B, 5), [(3, A, 5)], "two owners of one epoch");
        assert_eq!(unheard(&table, B, 4), [(3, A, 5)]);
        assert_eq!(unheard(&table, B, 6), []);
        assert_eq!(unheard(&table, A, 4), [], "its own, of before");
        let a = table.slot(Incarnation(A)).unwrap();
        table.forget(a);
        assert_eq!(unheard(&table, B, 4), [(3, 0, 5)]);
        assert_eq!(unheard(&table, B, 5), []);
    }
}

//! What the store does for the cluster: members with their counters, and for each partition an owner, an epoch and records.
//!
//! Each [`StoreRequest`] is one script that runs whole or not at all, on one hash tag: that of its partition, or that of the members.
//! [`Model`] is the meaning of each in memory; the scripts of the container are held against it by generated operations.
//!
//! A request may be carried out although its answer is lost, and even late, after its sender has given it up. Every one is therefore
//! harmless then: a claim names the owner that it replaces, a write carries a number that only grows.

mod model;

pub use model::{Model, PartitionModel};

use crate::{Epoch, Incarnation, PartitionId};

/// What a member tells of itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MemberRecord {
    /// This life of the container.
    pub incarnation: Incarnation,
    /// Its name, such as `demo-0`: the same in its next life.
    pub name: String,
    /// Where it takes SIP from proxies.
    pub sip: String,
    /// Where it takes UCF links.
    pub ucf: String,
    /// Its share of the partitions against that of others, from 1; 100 is usual.
    pub weight: u16,
}

/// A member as the store knows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StoredMember {
    /// What it told.
    pub record: MemberRecord,
    /// What it last renewed with; 0 after joining.
    pub counter: u64,
}

/// The life of the store's data: another one after a restart, a failover or a flush, when what it knew may be gone.
///
/// The scripts make it of the server's run id and of a random value that stands beside the members.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Era(pub u64);

/// A partition's ownership as stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StoredOwner {
    /// The partition.
    pub partition: PartitionId,
    /// Who owns it; none, nobody ever claimed it.
    pub owner: Option<Incarnation>,
    /// At which epoch; 0 without owner.
    pub epoch: Epoch,
    /// To whom it is being handed over.
    pub target: Option<Incarnation>,
}

/// A request to the store: one script.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreRequest {
    /// Enters the list of members, with counter 0 (an entry of the same incarnation is replaced). Answer: [`StoreReply::Members`].
    Join {
        /// Who.
        record: MemberRecord,
    },
    /// Sets the counter of a listed member. Answer: [`StoreReply::Members`], or [`StoreReply::NotListed`] and nothing is changed.
    Renew {
        /// Who.
        member: Incarnation,
        /// Its counter.
        counter: u64,
    },
    /// Takes a member off the list; with `counter`, only while that is its counter. Answer: [`StoreReply::Removed`].
    ///
    /// A member leaves by removing itself; the dead are removed by those who claimed what they owned.
    Remove {
        /// Who.
        member: Incarnation,
        /// What its counter must be.
        counter: Option<u64>,
    },
    /// Owner, epoch and target of partitions. Answer: [`StoreReply::Owners`], in the same order.
    Inspect {
        /// Which.
        partitions: Vec<PartitionId>,
    },
    /// Becomes the owner and loads the records.
    ///
    /// If the stored owner is `expected` (none: no owner is stored) and, with `as_target`, the stored target is `member`: owner becomes
    /// `member`, the epoch the higher of `at_least` and stored + 1, the running number 0, the target none. Answer:
    /// [`StoreReply::Claimed`], and the records go to the driver. Else [`StoreReply::Refused`] and nothing is changed.
    Claim {
        /// Which.
        partition: PartitionId,
        /// Who claims.
        member: Incarnation,
        /// The owner that is replaced; may be `member` itself, whose reply was lost.
        expected: Option<Incarnation>,
        /// One more than the highest epoch heard.
        at_least: Epoch,
        /// The claim of a hand-over's target. Other claims do not look at the target: the owner is down.
        as_target: bool,
    },
    /// Changes a partition's records: the fence.
    ///
    /// Stored epoch lower, or no owner: `member`, `epoch` and `seq` are stored, the target cleared, the records changed; answer
    /// [`StoreReply::Written`] with `behind`. Stored epoch equal and owner `member`: if `seq` is above the stored one, it is stored and the
    /// records changed, answer [`StoreReply::Written`]; else nothing is changed (it was done before), answer [`StoreReply::Repeated`].
    /// Anything else: [`StoreReply::Refused`].
    Write(Write),
    /// Names the target of a hand-over, if owner and epoch are these. Answer: [`StoreReply::Marked`] or [`StoreReply::Refused`].
    Mark {
        /// Which.
        partition: PartitionId,
        /// The owner.
        member: Incarnation,
        /// Its epoch.
        epoch: Epoch,
        /// Who may claim.
        target: Incarnation,
    },
    /// Clears the target, if owner and epoch are these. Answer: [`StoreReply::Withdrawn`] or [`StoreReply::Refused`] (the target was first).
    Withdraw {
        /// Which.
        partition: PartitionId,
        /// The owner.
        member: Incarnation,
        /// Its epoch.
        epoch: Epoch,
    },
}

/// One fenced write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// Which partition.
    pub partition: PartitionId,
    /// Who writes.
    pub member: Incarnation,
    /// The epoch at which it owns the partition.
    pub epoch: Epoch,
    /// Running number of this epoch's writes to the partition, from 1.
    pub seq: u64,
    /// Drop all records first: the store is made equal to memory.
    pub replace: bool,
    /// Records to be set, by key.
    pub sets: Vec<(Vec<u8>, Vec<u8>)>,
    /// Keys of records to be dropped, before `sets` are made.
    pub deletes: Vec<Vec<u8>>,
}

/// The store's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum StoreReply {
    /// All members on the list.
    Members {
        /// The members, in any order.
        members: Vec<StoredMember>,
        /// The life of the store's data.
        era: Era,
        /// There is no room for records: leases and claims run, writes do not.
        full: bool,
    },
    /// The member is not on the list: it was removed, or the store forgot.
    NotListed {
        /// The life of the store's data.
        era: Era,
    },
    /// Whether there was such a member (with that counter).
    Removed(bool),
    /// Answer to `Inspect`.
    Owners(Vec<StoredOwner>),
    /// The claim is won at this epoch.
    Claimed {
        /// The new epoch.
        epoch: Epoch,
    },
    /// The write is done.
    Written {
        /// The store knew no or a lower epoch: it has lost what it knew.
        behind: bool,
    },
    /// The write had been done before.
    Repeated,
    /// The target is stored.
    Marked,
    /// The target is cleared.
    Withdrawn,
    /// Not carried out: this is what is stored.
    Refused(StoredOwner),
}

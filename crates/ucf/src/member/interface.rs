//! What goes into a [`Member`](super::Member) and what comes out of it.

use crate::store::{MemberRecord, StoreRequest};
use crate::wire::{Body, MemberState};
use crate::{Epoch, Incarnation, PartitionId, ProxyId};
use sip::Instant;
use std::time::Duration;

/// What a member is told at its start.
#[derive(Clone, Debug)]
pub struct Config {
    /// Itself.
    pub record: MemberRecord,
    /// How many partitions the cluster has.
    pub partitions: u16,
    /// L: the lease period.
    pub lease: Duration,
    /// A store that does not answer for this long is lost: [`super::STORE_BUDGET`], or more where more than one server has to have what it says.
    pub store_budget: Duration,
    /// The engine lets output leave under [`Gate::Memory`]. Without it the member never acts from memory, and a store that comes back
    /// with all its data is gone on with at once.
    pub acts_from_memory: bool,
    /// Switches that break the protocol; all off.
    #[doc(hidden)]
    pub faults: Faults,
}

/// Switches that break the protocol, so that simulations prove that their checks can fail.
#[doc(hidden)]
#[derive(Clone, Copy, Debug, Default)]
pub struct Faults {
    /// Acts from memory without asking anybody.
    pub acts_from_memory_unasked: bool,
    /// Offers a partition without stopping its turns and marking the target: it goes on working until it hears of the claim.
    pub hands_over_unfenced: bool,
    /// Claims from who may have acted from memory without letting it write first.
    pub claims_unasked: bool,
}

/// Ties a store's reply to its request.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestId(pub u64);

/// How a link to a peer ended or a connection was not made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LinkEnd {
    /// The other side closed or reset it.
    Closed,
    /// A new connection was refused, or another incarnation answered at the address: nobody listens there for the member any more.
    Refused,
    /// Neither is known: time ran out, no route, the own side gave up.
    Lost,
}

/// What the engine tells.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Notice {
    /// After [`Effect::Freeze`]: turns are stopped and every write is acknowledged.
    Frozen(PartitionId),
    /// After [`Effect::Activate`]: timers are armed and what was unanswered has been sent again.
    Loaded(PartitionId),
    /// A write was refused: this is stored. The engine has stopped the partition's turns.
    Stale {
        /// The partition.
        partition: PartitionId,
        /// At which epoch the refused write was made.
        written: Epoch,
        /// Its stored owner.
        owner: Option<Incarnation>,
        /// The stored epoch.
        epoch: Epoch,
    },
    /// A write (other than those of `Reconcile`) found a lower epoch or none: the store lost what it knew.
    Behind(PartitionId),
    /// A write is unanswered for [`Config::store_budget`], or was not carried out, or its connection was lost.
    StoreSilent,
    /// After `StoreSilent`: no write waits any more to be carried out.
    StoreWrites,
    /// After [`Effect::Reconcile`] of this round: the store equals memory for all partitions that were named and are still owned.
    Reconciled(u64),
}

/// What the driver does for a member, in this order.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Send to the store on the control connection; those of one batch in one pipeline. The answer goes to `handle_store`, the loss of the
    /// connection to `handle_store_lost`. Records of a claim that is won stay with the driver until `Activate` or `Drop`.
    Store(RequestId, StoreRequest),
    /// Requests up to and including this one are given up: close the store's connection, so that nothing more of them leaves, and open another.
    ResetStore(RequestId),
    /// Send a frame to one proxy worker.
    ToProxy(ProxyId, Body),
    /// Send a frame to every proxy worker that is connected.
    ToProxies(Body),
    /// Answer a proxy's heartbeat: the driver fills in the load and sends it.
    Report {
        /// To whom.
        proxy: ProxyId,
        /// The last heartbeat heard.
        heartbeat: u64,
        /// The member's state.
        state: MemberState,
    },
    /// Send a frame to a member, if a link stands. Links have no order among one another, each keeps its own.
    ToPeer(Incarnation, Body),
    /// Connect to a member. The outcome goes to `handle_peer_up` or `handle_peer_end`.
    Connect {
        /// Whom to expect.
        member: Incarnation,
        /// Where.
        address: String,
    },
    /// The partition is ours: load the records of the claim, arm timers, send what is unanswered again, work.
    Activate {
        /// The partition.
        partition: PartitionId,
        /// Ours.
        epoch: Epoch,
    },
    /// Stop the partition's turns, let its writes be acknowledged, keep its input; then `Notice::Frozen`.
    Freeze(PartitionId),
    /// The hand-over is off: go on with the kept input.
    Thaw(PartitionId),
    /// The partition is not ours: forget it, give kept and late input back to the proxies, let no output of it leave any more, and send no
    /// write of it again (a store that forgot would take it for the owner's).
    Drop {
        /// The partition.
        partition: PartitionId,
        /// Why.
        why: DropReason,
    },
    /// What output may leave from now on.
    Gate(Gate),
    /// Write each of these partitions whole (`Write::replace`) and forget older writes of them, then `Notice::Reconciled`. A later round
    /// replaces an earlier one (the store was lost meanwhile).
    Reconcile {
        /// Ties the notice to this.
        round: u64,
        /// What, at which epochs.
        partitions: Vec<(PartitionId, Epoch)>,
    },
    /// The list of members is left: the process may end.
    Left,
    /// Something that operators care about.
    Event(Event),
}

/// Why a partition is dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// A write was refused.
    Stale,
    /// A proxy or a member told of another owner at a higher epoch.
    Superseded,
    /// The target of its hand-over has claimed it.
    HandedOver,
    /// This member was taken off the list.
    Expelled,
}

/// What output may leave a member.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Each when its write is acknowledged.
    Committed,
    /// None.
    Hold,
    /// At once, unwritten, and naming the proxy's heartbeat; nothing later than `until`.
    Memory {
        /// Until when.
        until: Instant,
        /// The heartbeat to be named towards each proxy worker; towards others nothing may leave.
        heartbeats: Vec<(ProxyId, u64)>,
        /// Partitions whose output must wait: another member may own them.
        held: Vec<PartitionId>,
    },
}

/// Why a member is taken for down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspicion {
    /// Its connections closed at every proxy in touch.
    Closed,
    /// It is silent at every proxy in touch.
    Silent,
    /// Its lease is gone.
    Lease,
    /// It says so itself: it is cut off from the store.
    CutOff,
}

/// For logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// On the list of members.
    Joined {
        /// How many others are on it.
        others: usize,
    },
    /// Every member of the list has admitted this one or is closed.
    Admitted,
    /// The state changed.
    State(MemberState),
    /// The store does not answer.
    StoreLost,
    /// It answers again.
    StoreBack {
        /// How long it did not.
        after: Duration,
        /// It has lost or may have lost what it knew.
        forgot: bool,
    },
    /// Output leaves from memory.
    FromMemory,
    /// It waits again, although the store is not back: not everybody has promised anew in time.
    MemoryOver,
    /// Memory and store are equal again.
    Reconciled {
        /// After how long.
        after: Duration,
    },
    /// A member is taken for down.
    Suspected {
        /// Who.
        member: Incarnation,
        /// Why.
        why: Suspicion,
    },
    /// It is not, any more.
    Recovered {
        /// Who.
        member: Incarnation,
    },
    /// A claim was sent.
    Claiming {
        /// What.
        partition: PartitionId,
        /// From whom.
        from: Option<Incarnation>,
    },
    /// A claim was not granted.
    ClaimRefused {
        /// What.
        partition: PartitionId,
    },
    /// Everything claimed of one member is loaded and at work.
    Takeover {
        /// From whom.
        from: Incarnation,
        /// How many partitions.
        partitions: usize,
        /// Since the member was suspected.
        took: Duration,
    },
    /// A partition was handed over.
    HandedOver {
        /// Which.
        partition: PartitionId,
        /// To whom.
        to: Incarnation,
        /// Since its turns were stopped.
        took: Duration,
    },
    /// A hand-over was taken back.
    HandOverWithdrawn {
        /// Which.
        partition: PartitionId,
        /// From whom.
        to: Incarnation,
    },
    /// A member was taken off the list.
    Removed {
        /// Who.
        member: Incarnation,
    },
}

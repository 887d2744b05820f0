//! A container's part in the cluster: membership, leases, detection, claims, hand-over, acting without the store.
//!
//! The driver's contract:
//! - after every input (`handle_*`) perform the effects of [`Member::poll_effect`] until there are none, in order; call
//!   [`Member::handle_timeout`] when [`Member::poll_timeout`] is reached;
//! - `Hello` is the driver's: a link counts as up (`handle_peer_up`, `handle_proxy_up`) when the other side's `Hello` has come. A link to a
//!   peer is never closed because of silence. Two links to one peer (both connected) are one to the member: up with the first, ended with
//!   the last;
//! - the partition's engine obeys `Activate`, `Freeze`, `Thaw`, `Drop`, `Gate` and `Reconcile` in order, and tells by
//!   [`Member::handle_engine`] what came of it.

mod interface;

pub use interface::{Config, DropReason, Effect, Event, Faults, Gate, LinkEnd, Notice, RequestId, Suspicion};

use crate::store::StoreReply;
use crate::wire::{Body, MemberState};
use crate::{Epoch, Incarnation, PartitionId, ProxyId};
use sip::Instant;
use std::collections::VecDeque;
use std::time::Duration;

/// A store that does not answer for this long is lost.
pub const STORE_BUDGET: Duration = Duration::from_millis(250);

/// One container as a member of its cluster.
pub struct Member {
    config: Config,
    effects: VecDeque<Effect>,
    state: MemberState,
}

impl Member {
    /// A member that is about to join.
    #[must_use]
    pub fn new(config: Config, _now: Instant) -> Self {
        Self {
            config,
            effects: VecDeque::new(),
            state: MemberState::Joining,
        }
    }

    /// Between start and end.
    #[must_use]
    pub fn state(&self) -> MemberState {
        self.state
    }

    /// This member's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.config.record.incarnation
    }

    /// What it holds, and at which epochs.
    pub fn held(&self) -> impl Iterator<Item = (PartitionId, Epoch)> + '_ {
        std::iter::empty()
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        self.effects.pop_front()
    }

    /// When `handle_timeout` is wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        Instant::MAX
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, _now: Instant) {}

    /// The store answered.
    pub fn handle_store(&mut self, _now: Instant, _id: RequestId, _reply: StoreReply) {}

    /// The store's control connection was lost or could not be made: no request under way will be answered.
    pub fn handle_store_lost(&mut self, _now: Instant) {}

    /// A proxy worker connected and said `Hello`.
    pub fn handle_proxy_up(&mut self, _now: Instant, _proxy: ProxyId) {}

    /// Its link ended.
    pub fn handle_proxy_closed(&mut self, _now: Instant, _proxy: ProxyId) {}

    /// It said something: `Heartbeat` and `Fenced` are for the member, others are ignored.
    pub fn handle_proxy_frame(&mut self, _now: Instant, _proxy: ProxyId, _frame: Body) {}

    /// A link to a member stands.
    pub fn handle_peer_up(&mut self, _now: Instant, _peer: Incarnation) {}

    /// It ended, or could not be made.
    pub fn handle_peer_end(&mut self, _now: Instant, _peer: Incarnation, _end: LinkEnd) {}

    /// A member said something.
    pub fn handle_peer_frame(&mut self, _now: Instant, _peer: Incarnation, _frame: Body) {}

    /// The engine has something to tell.
    pub fn handle_engine(&mut self, _now: Instant, _notice: Notice) {}

    /// Hand everything over, then leave.
    pub fn quiesce(&mut self, _now: Instant) {}
}

//! Transactions: RFC 3261 s17 with RFC 6026, all four machines, sans-IO.
//!
//! The driver's contract: hand in what happened (`handle_*`, `respond`) with the time, perform the pushed [`Effect`]s
//! in their order, call `handle_timeout` when [`poll_timeout`](ServerTransaction::poll_timeout) has come, drop the
//! machine after [`Effect::Terminated`]. The machines work on bytes and a few facts; whoever scanned the message finds
//! the machine by its [`TransactionKey`].
//!
//! What differs from the RFC, because a machine may go on in another process:
//! - server transactions stay for 64 x T1 after the final response on every transport, so that a successor absorbs
//!   repeats;
//! - [`ServerTransaction::snapshot`] and `restore` take a machine apart into plain data and put it together; after a
//!   takeover `resume` sends the last response, or the unanswered request, again.
//!
//! `reliable` is always the outer leg's transport (the client's Via, the flow), not the TCP connection between proxy
//! and container.

mod ack;
mod backoff;
mod client;
mod invite_client;
mod invite_server;
mod key;
mod server;
mod snapshot;
mod timers;

pub use ack::{cancel as cancel_of, of_refused as ack_of_refused};
pub use client::NonInviteClient;
pub use invite_client::{InviteClient, Response};
pub use invite_server::{InviteServer, Repeat};
pub use key::{KeyParts, TransactionKey};
pub use server::NonInviteServer;
pub use snapshot::{ClientSnapshot, ClientState, ServerSnapshot, ServerState};
pub use timers::Timers;

pub(crate) use backoff::Backoff;

use crate::Instant;
use bytes::Bytes;

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Send these bytes to the peer, unchanged.
    Send(Bytes),
    /// Pass the message that is being handled to the transaction user.
    Deliver,
    /// 200 ms have passed without a response to an INVITE: respond with 100 (RFC 3261 s17.2.1).
    TryingDue,
    /// Nothing came in time. Client: act as if 408 had come (timers B, F). Server: no ACK came for a final response
    /// (timer H).
    TimedOut,
    /// The transport failed. Client: act as if 503 had come (RFC 3261 s8.1.3.1).
    Failed,
    /// The machine has ended; drop it.
    Terminated,
}

/// Effects in the order in which they are to be performed.
pub type Effects = Vec<Effect>;

/// A server transaction of either kind.
#[derive(Clone, Debug)]
pub enum ServerTransaction {
    /// For INVITE.
    Invite(InviteServer),
    /// For every other method but ACK.
    NonInvite(NonInviteServer),
}

/// A client transaction of either kind.
#[derive(Clone, Debug)]
pub enum ClientTransaction {
    /// For INVITE.
    Invite(InviteClient),
    /// For every other method but ACK.
    NonInvite(NonInviteClient),
}

impl ServerTransaction {
    /// A machine for a new request, which the caller passes to the transaction user.
    #[must_use]
    pub fn new(now: Instant, timers: Timers, reliable: bool, invite: bool) -> Self {
        if invite {
            Self::Invite(InviteServer::new(now, timers, reliable))
        } else {
            Self::NonInvite(NonInviteServer::new(timers, reliable))
        }
    }

    /// A request whose key is this transaction's came again, or its ACK.
    pub fn handle_request(&mut self, now: Instant, repeat: Repeat, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_request(now, repeat, out),
            Self::NonInvite(machine) => machine.handle_request(out),
        }
    }

    /// The transaction user responds.
    pub fn respond(&mut self, now: Instant, status: u16, response: Bytes, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.respond(now, status, response, out),
            Self::NonInvite(machine) => machine.respond(now, status, response, out),
        }
    }

    /// The transport could not send.
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_transport_error(out),
            Self::NonInvite(machine) => machine.handle_transport_error(out),
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.poll_timeout(),
            Self::NonInvite(machine) => machine.poll_timeout(),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_timeout(now, out),
            Self::NonInvite(machine) => machine.handle_timeout(now, out),
        }
    }

    /// After a takeover: send the last response again, the peer may have missed it.
    pub fn resume(&mut self, now: Instant, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.resume(now, out),
            Self::NonInvite(machine) => machine.resume(out),
        }
    }

    /// The latest response, as it was sent.
    #[must_use]
    pub fn last_response(&self) -> Option<&Bytes> {
        match self {
            Self::Invite(machine) => machine.last_response(),
            Self::NonInvite(machine) => machine.last_response(),
        }
    }

    /// Whether a final response was given.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        match self {
            Self::Invite(machine) => machine.is_answered(),
            Self::NonInvite(machine) => machine.is_answered(),
        }
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ServerSnapshot {
        match self {
            Self::Invite(machine) => machine.snapshot(now),
            Self::NonInvite(machine) => machine.snapshot(now),
        }
    }

    /// The machine that [`snapshot`](Self::snapshot) described, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ServerSnapshot) -> Self {
        if snapshot.invite {
            Self::Invite(InviteServer::restore(now, timers, snapshot))
        } else {
            Self::NonInvite(NonInviteServer::restore(now, timers, snapshot))
        }
    }
}

impl ClientTransaction {
    /// Sends a request.
    pub fn start(
        now: Instant,
        timers: Timers,
        reliable: bool,
        invite: bool,
        request: Bytes,
        out: &mut Effects,
    ) -> Self {
        if invite {
            Self::Invite(InviteClient::start(now, timers, reliable, request, out))
        } else {
            Self::NonInvite(NonInviteClient::start(now, timers, reliable, request, out))
        }
    }

    /// A response whose key is this transaction's. [`Effect::Deliver`] says whether the transaction user gets it.
    pub fn handle_response(&mut self, now: Instant, response: Response<'_>, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_response(now, response, out),
            Self::NonInvite(machine) => machine.handle_response(now, response.status, out),
        }
    }

    /// The transport could not send.
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_transport_error(out),
            Self::NonInvite(machine) => machine.handle_transport_error(out),
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Invite(machine) => machine.poll_timeout(),
            Self::NonInvite(machine) => machine.poll_timeout(),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.handle_timeout(now, out),
            Self::NonInvite(machine) => machine.handle_timeout(now, out),
        }
    }

    /// After a takeover: send an unanswered request again, unchanged.
    pub fn resume(&mut self, now: Instant, out: &mut Effects) {
        match self {
            Self::Invite(machine) => machine.resume(now, out),
            Self::NonInvite(machine) => machine.resume(now, out),
        }
    }

    /// The request as it was sent, while the machine still needs it.
    #[must_use]
    pub fn request(&self) -> Option<&Bytes> {
        match self {
            Self::Invite(machine) => machine.request(),
            Self::NonInvite(machine) => machine.request(),
        }
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ClientSnapshot {
        match self {
            Self::Invite(machine) => machine.snapshot(now),
            Self::NonInvite(machine) => machine.snapshot(now),
        }
    }

    /// The machine that [`snapshot`](Self::snapshot) described, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ClientSnapshot) -> Self {
        if snapshot.invite {
            Self::Invite(InviteClient::restore(now, timers, snapshot))
        } else {
            Self::NonInvite(NonInviteClient::restore(now, timers, snapshot))
        }
    }
}

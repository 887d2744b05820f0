//! Machines as plain data, for records.

use bytes::Bytes;
use std::time::Duration;

/// The state of a server transaction. For anything but INVITE: Proceeding covers Trying (no response yet), the last is
/// Completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ServerState {
    /// No final response yet.
    Proceeding = 0,
    /// A final response was given (INVITE: 300-699).
    Completed = 1,
    /// INVITE answered with 2xx (RFC 6026).
    Accepted = 2,
    /// INVITE refused and the ACK seen.
    Confirmed = 3,
}

/// The state of a client transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum ClientState {
    /// Calling, or Trying: nothing came yet.
    Calling = 0,
    /// A provisional response came.
    Proceeding = 1,
    /// A final response came (INVITE: 300-699).
    Completed = 2,
    /// INVITE answered with 2xx (RFC 6026).
    Accepted = 3,
    /// Proceeding of an INVITE that was cancelled or whose dialog has ended: with an end of its own (RFC 3261 s9.1).
    Cancelled = 4,
}

/// A server transaction as plain data; its key stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerSnapshot {
    /// Which machine.
    pub invite: bool,
    /// The outer leg's transport.
    pub reliable: bool,
    /// The state.
    pub state: ServerState,
    /// The latest response.
    pub response: Option<Bytes>,
    /// Time left of the state's own end (timers H, I, J, L); zero where it has none.
    pub left: Duration,
}

/// A client transaction as plain data; its key stands beside it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClientSnapshot {
    /// Which machine.
    pub invite: bool,
    /// The outer leg's transport.
    pub reliable: bool,
    /// The state.
    pub state: ClientState,
    /// The request; in an INVITE's Completed the ACK; empty once neither is needed.
    pub bytes: Bytes,
    /// Time left of the state's own end (timers B, D, F, K, M, the wait after a CANCEL); zero where it has none.
    pub left: Duration,
}

impl ServerState {
    /// From the number in a record; `None` for one that this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Proceeding, Self::Completed, Self::Accepted, Self::Confirmed]
            .get(usize::from(number))
            .copied()
    }
}

impl ClientState {
    /// From the number in a record; `None` for one that this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        let all = [
            Self::Calling,
            Self::Proceeding,
            Self::Completed,
            Self::Accepted,
            Self::Cancelled,
        ];
        all.get(usize::from(number)).copied()
    }
}

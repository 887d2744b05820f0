//! The server transaction of every method but INVITE and ACK (RFC 3261 s17.2.2).

use super::{Effect, Effects, ServerSnapshot, ServerState, Timers};
use crate::Instant;
use bytes::Bytes;

/// The machine.
///
/// | state | request again | TU 1xx | TU 2xx-6xx | time |
/// | --- | --- | --- | --- | --- |
/// | Trying | | send, Proceeding | send, Completed | |
/// | Proceeding | last 1xx | send | send, Completed | |
/// | Completed | final | | | J: end |
#[derive(Clone, Debug)]
pub struct NonInviteServer {
    timers: Timers,
    reliable: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Trying,
    Proceeding {
        provisional: Bytes,
    },
    Completed {
        response: Bytes,
        /// Timer J: 64 x T1 on every transport, for a successor.
        until: Instant,
    },
    Terminated,
}

impl NonInviteServer {
    /// For a new request, which goes to the transaction user.
    #[must_use]
    pub fn new(timers: Timers, reliable: bool) -> Self {
        Self {
            timers,
            reliable,
            state: State::Trying,
        }
    }

    /// The request came again.
    pub fn handle_request(&mut self, out: &mut Effects) {
        out.extend(self.last_response().cloned().map(Effect::Send));
    }

    /// The transaction user responds; a response after the final one is dropped (s17.2.2).
    pub fn respond(&mut self, now: Instant, status: u16, response: Bytes, out: &mut Effects) {
        if self.is_answered() {
            return;
        }
        out.push(Effect::Send(response.clone()));
        self.state = if status < 200 {
            State::Proceeding { provisional: response }
        } else {
            let until = now + self.timers.patience();
            State::Completed { response, until }
        };
    }

    /// The transport could not send (s17.2.4). The transaction stays: the request may come again another way.
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        if !matches!(self.state, State::Terminated) {
            out.push(Effect::Failed);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.state {
            State::Completed { until, .. } => Some(until),
            State::Trying | State::Proceeding { .. } | State::Terminated => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        if self.poll_timeout().is_some_and(|until| until <= now) {
            self.state = State::Terminated;
            out.push(Effect::Terminated);
        }
    }

    /// After a takeover: the last response again.
    pub fn resume(&mut self, out: &mut Effects) {
        self.handle_request(out);
    }

    /// The latest response, as it was sent.
    #[must_use]
    pub fn last_response(&self) -> Option<&Bytes> {
        match &self.state {
            State::Proceeding { provisional } => Some(provisional),
            // Empty after a restore whose record lacked it: then repeats are absorbed, the most that can be done.
            State::Completed { response, .. } => Some(response).filter(|response| !response.is_empty()),
            State::Trying | State::Terminated => None,
        }
    }

    /// Whether a final response was given.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        matches!(self.state, State::Completed { .. } | State::Terminated)
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ServerSnapshot {
        ServerSnapshot {
            invite: false,
            reliable: self.reliable,
            state: if self.is_answered() {
                ServerState::Completed
            } else {
                ServerState::Proceeding
            },
            response: self.last_response().cloned(),
            left: self.poll_timeout().unwrap_or(now).since(now),
        }
    }

    /// The machine that the snapshot describes, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ServerSnapshot) -> Self {
        let state = match (snapshot.state, snapshot.response) {
            (ServerState::Proceeding, None) => State::Trying,
            (ServerState::Proceeding, Some(provisional)) => State::Proceeding { provisional },
            (_, response) => State::Completed {
                response: response.unwrap_or_default(),
                until: now + snapshot.left.min(timers.patience()),
            },
        };
        Self {
            timers,
            reliable: snapshot.reliable,
            state,
        }
    }
}

//! The client transaction of every method but INVITE and ACK (RFC 3261 s17.1.2).

use super::{Backoff, ClientSnapshot, ClientState, Effect, Effects, Timers};
use crate::Instant;
use bytes::Bytes;

/// The machine.
///
/// | state | 1xx | 2xx-6xx | time |
/// | --- | --- | --- | --- |
/// | Trying | deliver, Proceeding | deliver, Completed | E: request; F: timed out, end |
/// | Proceeding | deliver | deliver, Completed | E (T2): request; F: timed out, end |
/// | Completed | | | K: end |
///
/// Completed over a reliable transport lasts no time: `Terminated` follows at once.
#[derive(Clone, Debug)]
pub struct NonInviteClient {
    timers: Timers,
    reliable: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Waiting(Waiting),
    /// Timer K.
    Completed {
        until: Instant,
    },
    Terminated,
}

/// Trying and Proceeding: they differ in the pause between repeats only.
#[derive(Clone, Debug)]
struct Waiting {
    request: Bytes,
    proceeding: bool,
    /// Timer E; `None` over a reliable transport.
    repeat: Option<Backoff>,
    /// Timer F.
    until: Instant,
}

impl NonInviteClient {
    /// Sends the request.
    pub fn start(now: Instant, timers: Timers, reliable: bool, request: Bytes, out: &mut Effects) -> Self {
        out.push(Effect::Send(request.clone()));
        let state = State::Waiting(Waiting {
            request,
            proceeding: false,
            repeat: (!reliable).then(|| Backoff::start(now, timers.t1())),
            until: now + timers.patience(),
        });
        Self {
            timers,
            reliable,
            state,
        }
    }

    /// A response came.
    pub fn handle_response(&mut self, now: Instant, status: u16, out: &mut Effects) {
        let State::Waiting(at) = &mut self.state else {
            return;
        };
        out.push(Effect::Deliver);
        if status >= 200 {
            let until = now + self.timers.k(self.reliable);
            self.state = State::Completed { until };
            self.handle_timeout(now, out);
        } else if !at.proceeding {
            at.proceeding = true;
            at.repeat = at.repeat.map(|_| Backoff::start(now, self.timers.t2()));
        }
    }

    /// The transport could not send (s17.1.4).
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Waiting(_)) {
            out.push(Effect::Failed);
            self.terminate(out);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Waiting(at) => Some(at.repeat.map_or(at.until, |repeat| repeat.at().min(at.until))),
            State::Completed { until } => Some(*until),
            State::Terminated => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        let longest = self.timers.t2();
        match &mut self.state {
            State::Waiting(at) if at.until <= now => {
                out.push(Effect::TimedOut);
                self.terminate(out);
            }
            State::Waiting(at) => {
                if at.repeat.as_mut().is_some_and(|repeat| repeat.fire(now, Some(longest))) {
                    out.push(Effect::Send(at.request.clone()));
                }
            }
            State::Completed { until } if *until <= now => self.terminate(out),
            State::Completed { .. } | State::Terminated => {}
        }
    }

    fn terminate(&mut self, out: &mut Effects) {
        self.state = State::Terminated;
        out.push(Effect::Terminated);
    }

    /// After a takeover: the unanswered request again, unchanged.
    pub fn resume(&mut self, now: Instant, out: &mut Effects) {
        if let State::Waiting(at) = &mut self.state
            && !at.proceeding
        {
            at.repeat = at.repeat.map(|_| Backoff::start(now, self.timers.t1()));
            out.push(Effect::Send(at.request.clone()));
        }
    }

    /// The request, until it is answered.
    #[must_use]
    pub fn request(&self) -> Option<&Bytes> {
        match &self.state {
            State::Waiting(at) => Some(&at.request),
            State::Completed { .. } | State::Terminated => None,
        }
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ClientSnapshot {
        let (state, until) = match &self.state {
            State::Waiting(at) if at.proceeding => (ClientState::Proceeding, at.until),
            State::Waiting(at) => (ClientState::Calling, at.until),
            State::Completed { until } => (ClientState::Completed, *until),
            State::Terminated => (ClientState::Completed, now),
        };
        ClientSnapshot {
            invite: false,
            reliable: self.reliable,
            state,
            bytes: self.request().cloned().unwrap_or_default(),
            left: until.since(now),
        }
    }

    /// The machine that the snapshot describes, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ClientSnapshot) -> Self {
        let until = now + snapshot.left.min(timers.patience());
        let waiting = |proceeding, pause| {
            State::Waiting(Waiting {
                request: snapshot.bytes,
                proceeding,
                repeat: (!snapshot.reliable).then(|| Backoff::start(now, pause)),
                until,
            })
        };
        let state = match snapshot.state {
            ClientState::Calling => waiting(false, timers.t1()),
            ClientState::Proceeding | ClientState::Cancelled => waiting(true, timers.t2()),
            ClientState::Completed | ClientState::Accepted => State::Completed { until },
        };
        Self {
            timers,
            reliable: snapshot.reliable,
            state,
        }
    }
}

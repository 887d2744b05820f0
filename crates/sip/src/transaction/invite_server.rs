//! The INVITE server transaction (RFC 3261 s17.2.1, RFC 6026 s7.1).

use super::{Backoff, Effect, Effects, ServerSnapshot, ServerState, Timers};
use crate::Instant;
use bytes::Bytes;
use std::time::Duration;

/// What came again for a server transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Repeat {
    /// The request itself.
    Request,
    /// The ACK of an INVITE.
    Ack,
}

/// RFC 3261 s17.2.1: a 100 is due when the transaction user is silent for so long.
const TRYING_AFTER: Duration = Duration::from_millis(200);

/// The machine.
///
/// | state | INVITE again | ACK | TU 1xx | TU 2xx | TU 3xx-6xx | time |
/// | --- | --- | --- | --- | --- | --- | --- |
/// | Proceeding | last 1xx | | send | send, Accepted | send, Completed | 200 ms: 100 due |
/// | Completed | final | Confirmed | | | | G: final; H: timed out, end |
/// | Accepted | | deliver | | send | | L: end |
/// | Confirmed | | | | | | I: end |
#[derive(Clone, Debug)]
pub struct InviteServer {
    timers: Timers,
    reliable: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Proceeding(Proceeding),
    Completed(Completed),
    Accepted(Accepted),
    Confirmed { until: Instant },
    Terminated,
}

#[derive(Clone, Debug)]
struct Proceeding {
    provisional: Option<Bytes>,
    trying: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Completed {
    response: Bytes,
    /// Timer G; `None` over a reliable transport.
    repeat: Option<Backoff>,
    /// Timer H.
    until: Instant,
}

#[derive(Clone, Debug)]
struct Accepted {
    /// The 2xx. The transaction user repeats it, not this machine; it is kept here for the record that a successor
    /// reads.
    response: Bytes,
    /// Timer L.
    until: Instant,
}

impl Completed {
    fn confirm(&self, now: Instant, timers: &Timers) -> State {
        // Timer I is T4 over UDP and zero else; here the transaction stays as long as H would have kept it, because a
        // proxy may send the INVITE to a successor once more.
        State::Confirmed {
            until: self.until.max(now + timers.t4()),
        }
    }
}

impl InviteServer {
    /// For a new INVITE, which goes to the transaction user.
    #[must_use]
    pub fn new(now: Instant, timers: Timers, reliable: bool) -> Self {
        let state = State::Proceeding(Proceeding {
            provisional: None,
            trying: Some(now + TRYING_AFTER),
        });
        Self {
            timers,
            reliable,
            state,
        }
    }

    /// The INVITE came again, or an ACK with its branch.
    pub fn handle_request(&mut self, now: Instant, repeat: Repeat, out: &mut Effects) {
        match (&self.state, repeat) {
            (State::Proceeding(at), Repeat::Request) => out.extend(at.provisional.clone().map(Effect::Send)),
            (State::Completed(at), Repeat::Request) => out.push(Effect::Send(at.response.clone())),
            (State::Completed(at), Repeat::Ack) => self.state = at.confirm(now, &self.timers),
            // RFC 6026 s7.1: an ACK for the 2xx that has the INVITE's branch (a bug of some) is still the core's.
            (State::Accepted(_), Repeat::Ack) => out.push(Effect::Deliver),
            _ => {}
        }
    }

    /// The transaction user responds. What does not fit the state is ignored: it lost a race (a final response after
    /// the 487).
    pub fn respond(&mut self, now: Instant, status: u16, response: Bytes, out: &mut Effects) {
        match &mut self.state {
            State::Proceeding(at) if status < 200 => {
                at.provisional = Some(response.clone());
                at.trying = None;
            }
            State::Proceeding(_) if status < 300 => self.accept(now, response.clone()),
            State::Proceeding(_) => self.complete(now, response.clone()),
            // RFC 6026 s7.1: another 2xx (a fork, or the core's repeat) passes.
            State::Accepted(_) if (200..300).contains(&status) => {}
            _ => return,
        }
        out.push(Effect::Send(response));
    }

    fn accept(&mut self, now: Instant, response: Bytes) {
        let until = now + self.timers.patience();
        self.state = State::Accepted(Accepted { response, until });
    }

    fn complete(&mut self, now: Instant, response: Bytes) {
        self.state = State::Completed(Completed {
            response,
            repeat: (!self.reliable).then(|| Backoff::start(now, self.timers.t1())),
            until: now + self.timers.patience(),
        });
    }

    /// RFC 3261 s17.2.4; in Accepted the core's repeats may still get through (RFC 6026 s7.1).
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        match self.state {
            State::Proceeding(_) | State::Completed(_) | State::Accepted(_) => out.push(Effect::Failed),
            State::Confirmed { .. } | State::Terminated => {}
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Proceeding(at) => at.trying,
            State::Completed(at) => Some(at.repeat.map_or(at.until, |repeat| repeat.at().min(at.until))),
            State::Accepted(Accepted { until, .. }) | State::Confirmed { until } => Some(*until),
            State::Terminated => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        let longest = self.timers.t2();
        match &mut self.state {
            State::Proceeding(at) => {
                if at.trying.take_if(|due| *due <= now).is_some() {
                    out.push(Effect::TryingDue);
                }
            }
            State::Completed(at) if at.until <= now => {
                out.push(Effect::TimedOut);
                self.terminate(out);
            }
            State::Completed(at) => {
                if at.repeat.as_mut().is_some_and(|repeat| repeat.fire(now, Some(longest))) {
                    out.push(Effect::Send(at.response.clone()));
                }
            }
            State::Accepted(Accepted { until, .. }) | State::Confirmed { until } if *until <= now => {
                self.terminate(out);
            }
            State::Accepted(_) | State::Confirmed { .. } | State::Terminated => {}
        }
    }

    fn terminate(&mut self, out: &mut Effects) {
        self.state = State::Terminated;
        out.push(Effect::Terminated);
    }

    /// After a takeover: the last response again. A 2xx is the dialog's to repeat.
    pub fn resume(&mut self, now: Instant, out: &mut Effects) {
        match &mut self.state {
            State::Proceeding(at) => match &at.provisional {
                Some(provisional) => out.push(Effect::Send(provisional.clone())),
                None => at.trying = Some(now + TRYING_AFTER),
            },
            State::Completed(at) => {
                at.repeat = at.repeat.map(|_| Backoff::start(now, self.timers.t1()));
                out.push(Effect::Send(at.response.clone()));
            }
            State::Accepted(_) | State::Confirmed { .. } | State::Terminated => {}
        }
    }

    /// The latest response, as it was sent.
    #[must_use]
    pub fn last_response(&self) -> Option<&Bytes> {
        match &self.state {
            State::Proceeding(at) => at.provisional.as_ref(),
            State::Completed(at) => Some(&at.response),
            State::Accepted(at) => Some(&at.response),
            State::Confirmed { .. } | State::Terminated => None,
        }
    }

    /// Whether a final response was given.
    #[must_use]
    pub fn is_answered(&self) -> bool {
        !matches!(self.state, State::Proceeding(_))
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ServerSnapshot {
        let (state, until) = match &self.state {
            State::Proceeding(_) => (ServerState::Proceeding, now),
            State::Completed(at) => (ServerState::Completed, at.until),
            State::Accepted(at) => (ServerState::Accepted, at.until),
            State::Confirmed { until } => (ServerState::Confirmed, *until),
            State::Terminated => (ServerState::Confirmed, now),
        };
        ServerSnapshot {
            invite: true,
            reliable: self.reliable,
            state,
            response: self.last_response().cloned(),
            left: until.since(now),
        }
    }

    /// The machine that the snapshot describes, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ServerSnapshot) -> Self {
        let mut machine = Self::new(now, timers, snapshot.reliable);
        let until = now + snapshot.left.min(timers.patience());
        machine.state = match (snapshot.state, snapshot.response) {
            (ServerState::Proceeding, provisional) => State::Proceeding(Proceeding {
                trying: provisional.is_none().then(|| now + TRYING_AFTER),
                provisional,
            }),
            (ServerState::Completed, Some(response)) => State::Completed(Completed {
                response,
                repeat: (!snapshot.reliable).then(|| Backoff::start(now, timers.t1())),
                until,
            }),
            (ServerState::Accepted, Some(response)) => State::Accepted(Accepted { response, until }),
            // A final state whose response is missing absorbs repeats, the most that can be done.
            (ServerState::Completed | ServerState::Accepted | ServerState::Confirmed, _) => State::Confirmed { until },
        };
        machine
    }
}

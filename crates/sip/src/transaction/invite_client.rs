//! The INVITE client transaction (RFC 3261 s17.1.1, RFC 6026 s7.2).

use super::{Backoff, ClientSnapshot, ClientState, Effect, Effects, Timers};
use crate::{HeaderName, Instant, Message};
use bytes::Bytes;

/// What of a response the machines need.
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    /// The status code.
    pub status: u16,
    /// The value of its To, tag included: the ACK of a 300-699 carries it.
    pub to: &'a [u8],
}

impl<'a> Response<'a> {
    /// Out of a response.
    #[must_use]
    pub fn of(response: &Message<'a>) -> Self {
        Self {
            status: response.status().unwrap_or_default(),
            to: response.header(HeaderName::To).unwrap_or_default(),
        }
    }
}

/// The machine.
///
/// | state | 1xx | 2xx | 300-699 | time |
/// | --- | --- | --- | --- | --- |
/// | Calling | deliver, Proceeding | deliver, Accepted | deliver, ACK, Completed | A: INVITE; B: timed out, end |
/// | Proceeding | deliver | deliver, Accepted | deliver, ACK, Completed | |
/// | Completed | | | ACK | D: end |
/// | Accepted | | deliver | | M: end |
///
/// Proceeding has no end of its own: the core gives up by CANCEL, and by [`InviteClient::abandon`] if even that is not
/// answered. The ACK of a 2xx is the dialog's.
#[derive(Clone, Debug)]
pub struct InviteClient {
    timers: Timers,
    reliable: bool,
    state: State,
}

#[derive(Clone, Debug)]
enum State {
    Calling(Calling),
    Proceeding(Proceeding),
    Completed(Completed),
    /// Timer M.
    Accepted {
        until: Instant,
    },
    Terminated,
}

#[derive(Clone, Debug)]
struct Calling {
    invite: Bytes,
    /// Timer A; `None` over a reliable transport.
    repeat: Option<Backoff>,
    /// Timer B.
    until: Instant,
}

#[derive(Clone, Debug)]
struct Proceeding {
    invite: Bytes,
    /// Set once a CANCEL left: if nothing final comes by then, the INVITE counts as cancelled (RFC 3261 s9.1).
    until: Option<Instant>,
}

#[derive(Clone, Debug)]
struct Completed {
    ack: Bytes,
    /// Timer D.
    until: Instant,
}

impl InviteClient {
    /// Sends the INVITE.
    pub fn start(now: Instant, timers: Timers, reliable: bool, invite: Bytes, out: &mut Effects) -> Self {
        out.push(Effect::Send(invite.clone()));
        let state = State::Calling(Calling {
            invite,
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
    pub fn handle_response(&mut self, now: Instant, response: Response<'_>, out: &mut Effects) {
        let invite = match &self.state {
            State::Calling(Calling { invite, .. }) | State::Proceeding(Proceeding { invite, .. }) => invite.clone(),
            State::Completed(at) => {
                if response.status >= 300 {
                    out.push(Effect::Send(at.ack.clone()));
                }
                return;
            }
            // RFC 6026 s7.2: the core acknowledges each 2xx, of the same fork or another.
            State::Accepted { .. } => {
                if (200..300).contains(&response.status) {
                    out.push(Effect::Deliver);
                }
                return;
            }
            State::Terminated => return,
        };
        out.push(Effect::Deliver);
        match response.status {
            0..200 => self.proceed(invite),
            200..300 => {
                self.state = State::Accepted {
                    until: now + self.timers.patience(),
                }
            }
            _ => self.complete(now, &invite, response.to, out),
        }
    }

    fn proceed(&mut self, invite: Bytes) {
        if let State::Calling(_) = self.state {
            self.state = State::Proceeding(Proceeding { invite, until: None });
        }
    }

    fn complete(&mut self, now: Instant, invite: &Bytes, to: &[u8], out: &mut Effects) {
        let ack = super::ack::of_refused(invite, to);
        out.push(Effect::Send(ack.clone()));
        let until = now + self.timers.d(self.reliable);
        self.state = State::Completed(Completed { ack, until });
        if self.reliable {
            self.terminate(out);
        }
    }

    /// A CANCEL for this INVITE leaves now, or a BYE ended its dialog: wait 64 x T1 for a final response, no longer
    /// (RFC 3261 s9.1).
    pub fn abandon(&mut self, now: Instant) {
        if let State::Proceeding(at) = &mut self.state {
            at.until.get_or_insert(now + self.timers.patience());
        }
    }

    /// Whether a CANCEL may be sent: only after a provisional response and before a final one (RFC 3261 s9.1).
    #[must_use]
    pub fn may_cancel(&self) -> bool {
        matches!(self.state, State::Proceeding(_))
    }

    /// The transport could not send (s17.1.4).
    pub fn handle_transport_error(&mut self, out: &mut Effects) {
        if matches!(self.state, State::Calling(_) | State::Completed(_)) {
            out.push(Effect::Failed);
            self.terminate(out);
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Calling(at) => Some(at.repeat.map_or(at.until, |repeat| repeat.at().min(at.until))),
            State::Proceeding(at) => at.until,
            State::Completed(Completed { until, .. }) | State::Accepted { until } => Some(*until),
            State::Terminated => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Effects) {
        match &mut self.state {
            State::Calling(Calling { until, .. }) if *until <= now => self.time_out(out),
            State::Calling(at) => {
                // RFC 3261 s17.1.1.2: timer A doubles without bound; B ends it.
                if at.repeat.as_mut().is_some_and(|repeat| repeat.fire(now, None)) {
                    out.push(Effect::Send(at.invite.clone()));
                }
            }
            State::Proceeding(at) if at.until.is_some_and(|until| until <= now) => self.time_out(out),
            State::Completed(Completed { until, .. }) | State::Accepted { until } if *until <= now => {
                self.terminate(out);
            }
            State::Proceeding(_) | State::Completed(_) | State::Accepted { .. } | State::Terminated => {}
        }
    }

    fn time_out(&mut self, out: &mut Effects) {
        out.push(Effect::TimedOut);
        self.terminate(out);
    }

    fn terminate(&mut self, out: &mut Effects) {
        self.state = State::Terminated;
        out.push(Effect::Terminated);
    }

    /// After a takeover: the unanswered INVITE again, unchanged; or the ACK, whose loss on a reliable leg nothing else
    /// would repair.
    pub fn resume(&mut self, now: Instant, out: &mut Effects) {
        match &mut self.state {
            State::Calling(at) => {
                at.repeat = at.repeat.map(|_| Backoff::start(now, self.timers.t1()));
                out.push(Effect::Send(at.invite.clone()));
            }
            State::Completed(at) => out.push(Effect::Send(at.ack.clone())),
            State::Proceeding(_) | State::Accepted { .. } | State::Terminated => {}
        }
    }

    /// The INVITE, until a final response comes.
    #[must_use]
    pub fn request(&self) -> Option<&Bytes> {
        match &self.state {
            State::Calling(at) => Some(&at.invite),
            State::Proceeding(at) => Some(&at.invite),
            State::Completed(_) | State::Accepted { .. } | State::Terminated => None,
        }
    }

    /// The machine as plain data.
    #[must_use]
    pub fn snapshot(&self, now: Instant) -> ClientSnapshot {
        let (state, bytes, until) = match &self.state {
            State::Calling(at) => (ClientState::Calling, at.invite.clone(), Some(at.until)),
            State::Proceeding(at) => {
                let state = at.until.map_or(ClientState::Proceeding, |_| ClientState::Cancelled);
                (state, at.invite.clone(), at.until)
            }
            State::Completed(at) => (ClientState::Completed, at.ack.clone(), Some(at.until)),
            State::Accepted { until } => (ClientState::Accepted, Bytes::new(), Some(*until)),
            State::Terminated => (ClientState::Accepted, Bytes::new(), None),
        };
        ClientSnapshot {
            invite: true,
            reliable: self.reliable,
            state,
            bytes,
            left: until.unwrap_or(now).since(now),
        }
    }

    /// The machine that the snapshot describes, going on at `now`.
    #[must_use]
    pub fn restore(now: Instant, timers: Timers, snapshot: ClientSnapshot) -> Self {
        let ClientSnapshot {
            reliable,
            state,
            bytes,
            left,
            ..
        } = snapshot;
        // Timer D may be longer than 64 x T1 when T1 is small.
        let until = now + left.min(timers.patience().max(timers.d(false)));
        let state = match state {
            ClientState::Calling => State::Calling(Calling {
                invite: bytes,
                repeat: (!reliable).then(|| Backoff::start(now, timers.t1())),
                until,
            }),
            ClientState::Proceeding | ClientState::Cancelled => State::Proceeding(Proceeding {
                invite: bytes,
                until: (state == ClientState::Cancelled).then_some(until),
            }),
            ClientState::Completed => State::Completed(Completed { ack: bytes, until }),
            ClientState::Accepted => State::Accepted { until },
        };
        Self {
            timers,
            reliable,
            state,
        }
    }
}

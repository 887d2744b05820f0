//! Dialogs as plain data, for records.

use super::busy::{Busy, Reliable, Unacknowledged};
use super::text::Text;
use super::{Dialog, DialogState, DialogText, Pending, SentAck, SessionTimer};
use crate::Instant;
use crate::transaction::Timers;
use bytes::Bytes;
use std::time::Duration;

/// A dialog as plain data. The texts are borrowed: from the dialog when it is written, from the record when it is read.
#[derive(Clone, Debug)]
pub struct DialogParts<'a> {
    /// The texts.
    pub text: DialogText<'a>,
    /// How far it has come.
    pub state: DialogState,
    /// Whether we sent the INVITE that made it.
    pub caller: bool,
    /// CSeq of our latest request; 0 before the first.
    pub local_cseq: u32,
    /// CSeq of the peer's latest request.
    pub remote_cseq: Option<u32>,
    /// The session timer.
    pub session: Option<SessionParts>,
    /// What is under way; the default for a dialog that merely talks.
    pub pending: Pending,
    /// Responses that wait for a PRACK: the first was sent if its RSeq is `pending.unacknowledged`.
    pub reliable: Vec<ReliableParts>,
    /// The ACK that answers repeats of a 2xx. It may be left out of the record: then a repeat stays unanswered.
    pub ack: Option<SentAck>,
}

/// A session timer as plain data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionParts {
    /// Seconds; 0 is off.
    pub interval: u32,
    /// The largest Min-SE that the peer named.
    pub min_se: u32,
    /// Whether it is us who refresh.
    pub we_refresh: bool,
    /// Time to our next refresh.
    pub refresh_left: Duration,
    /// Time to the end of the session.
    pub left: Duration,
}

/// A response that waits for a PRACK.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ReliableParts {
    /// Its RSeq; `None` for the final response behind them.
    pub rseq: Option<u32>,
    /// Whether it has a session description.
    pub sdp: bool,
    /// CSeq of the INVITE.
    pub cseq: u32,
    /// The status code.
    pub status: u16,
    /// The response.
    pub response: Bytes,
}

/// An outgoing INVITE as plain data.
#[derive(Clone, Debug)]
pub struct OutgoingInviteParts<'a> {
    /// The texts; `remote` has no tag yet, `target` is the Request-URI.
    pub text: DialogText<'a>,
    /// CSeq of the INVITE.
    pub cseq: u32,
    /// Whether it carries an offer.
    pub sdp: bool,
}

impl Dialog {
    /// The dialog as plain data.
    #[must_use]
    pub fn to_parts(&self, now: Instant) -> DialogParts<'_> {
        let busy = self.busy.as_ref();
        DialogParts {
            text: self.text.get(),
            state: self.state,
            caller: self.caller,
            local_cseq: self.local_cseq,
            remote_cseq: self.remote_cseq,
            session: self.session.to_parts(now),
            pending: self.pending(),
            reliable: busy
                .map(|busy| busy.reliable.iter().map(Reliable::to_parts).collect())
                .unwrap_or_default(),
            ack: busy.and_then(|busy| busy.ack.clone()),
        }
    }

    /// The dialog that the parts describe, going on at `now`; `None` if the texts do not fit one another.
    #[must_use]
    pub fn from_parts(now: Instant, timers: Timers, parts: DialogParts<'_>) -> Option<Self> {
        let DialogParts {
            text,
            state,
            caller,
            local_cseq,
            remote_cseq,
            session,
            pending,
            reliable,
            ack,
        } = parts;
        let sent = pending.unacknowledged;
        let reliable = reliable
            .into_iter()
            .map(|part| part.restore(now, &timers, sent))
            .collect();
        let busy = Busy {
            pending,
            answer: None,
            reliable,
            ack,
        };
        Some(Self {
            text: Text::new(&text)?,
            timers,
            state,
            caller,
            local_cseq,
            remote_cseq,
            session: session.map_or(SessionTimer::off(), |parts| SessionTimer::from_parts(now, &parts)),
            // A late PRACK is welcome although nothing else is under way.
            busy: (!busy.is_idle() || pending != Pending::default()).then(|| Box::new(busy)),
        })
    }
}

impl Reliable {
    fn to_parts(&self) -> ReliableParts {
        let (rseq, sdp, cseq, status, response) = match self {
            Self::Sent {
                rseq,
                sdp,
                status,
                wait,
            } => (Some(*rseq), *sdp, wait.cseq, *status, &wait.response),
            Self::Queued {
                rseq,
                sdp,
                cseq,
                status,
                response,
            } => (Some(*rseq), *sdp, *cseq, *status, response),
            Self::Final { cseq, status, response } => (None, true, *cseq, *status, response),
        };
        ReliableParts {
            rseq,
            sdp,
            cseq,
            status,
            response: response.clone(),
        }
    }
}

impl ReliableParts {
    fn restore(self, now: Instant, timers: &Timers, sent: Option<u32>) -> Reliable {
        let Self {
            rseq,
            sdp,
            cseq,
            status,
            response,
        } = self;
        match rseq {
            None => Reliable::Final { cseq, status, response },
            // Repeated at once: a successor sends the last responses again.
            Some(rseq) if sent == Some(rseq) => Reliable::Sent {
                rseq,
                sdp,
                status,
                wait: Unacknowledged::new(now, timers, cseq, response).at_once(now, timers),
            },
            Some(rseq) => Reliable::Queued {
                rseq,
                sdp,
                cseq,
                status,
                response,
            },
        }
    }
}

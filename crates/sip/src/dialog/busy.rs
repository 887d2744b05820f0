//! What is under way in a dialog: offers, unanswered INVITEs, responses that wait for their ACK or PRACK.

use super::DialogEffect;
use super::session_timer::Agreed;
use crate::Instant;
use crate::transaction::{Backoff, Timers};
use bytes::Bytes;
use std::collections::VecDeque;

/// What is under way, as plain data.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Pending {
    /// The peer's INVITE without a final response of ours, by its CSeq.
    pub in_invite: Option<u32>,
    /// Whether that INVITE brought an offer that no reliable response has answered.
    pub in_offer: bool,
    /// The peer's UPDATE without a final response of ours, by its CSeq.
    pub in_update: Option<u32>,
    /// Our INVITE without a final response, by its CSeq.
    pub out_invite: Option<u32>,
    /// Whether that INVITE brought an offer that no reliable response has answered.
    pub out_offer: bool,
    /// Our INVITE that left without an offer, by its CSeq: the 2xx brings the offer, and the ACK, which is still to be
    /// sent, the answer.
    pub late_offer: Option<u32>,
    /// Our UPDATE without a final response, by its CSeq.
    pub out_update: Option<u32>,
    /// RSeq of our latest reliable provisional response; 0 before the first.
    pub rseq: u32,
    /// RSeq of the one that waits for its PRACK.
    pub unacknowledged: Option<u32>,
    /// RSeq of the peer's latest reliable provisional response.
    pub remote_rseq: Option<u32>,
    /// The session timer that our 2xx to the INVITE will state.
    pub invite_agreed: Option<Agreed>,
    /// The session timer that our 2xx to the UPDATE will state.
    pub update_agreed: Option<Agreed>,
}

/// The ACK of a 2xx, kept to answer repeats of that 2xx.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SentAck {
    /// CSeq of its INVITE.
    pub cseq: u32,
    /// The ACK.
    pub ack: Bytes,
    /// Until when repeats may come.
    pub until: Instant,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Busy {
    pub(super) pending: Pending,
    pub(super) answer: Option<Unacknowledged>,
    /// The front waits for its PRACK, the others for their turn.
    pub(super) reliable: VecDeque<Reliable>,
    pub(super) ack: Option<SentAck>,
}

/// Our 2xx without its ACK (RFC 3261 s13.3.1.4), or the reliable provisional response without its PRACK (RFC 3262 s3).
#[derive(Clone, Debug)]
pub(super) struct Unacknowledged {
    pub(super) cseq: u32,
    pub(super) response: Bytes,
    pub(super) repeat: Backoff,
    pub(super) until: Instant,
    /// A successor may have missed the ACK: it gives up without a word.
    pub(super) silent: bool,
}

/// A response in the order that RFC 3262 s3 demands.
#[derive(Clone, Debug)]
pub(super) enum Reliable {
    /// Sent, and repeated until its PRACK comes.
    Sent {
        rseq: u32,
        sdp: bool,
        status: u16,
        wait: Unacknowledged,
    },
    /// A further one, which must not overtake.
    Queued {
        rseq: u32,
        sdp: bool,
        cseq: u32,
        status: u16,
        response: Bytes,
    },
    /// The 2xx, which must not overtake a session description.
    Final { cseq: u32, status: u16, response: Bytes },
}

impl Unacknowledged {
    pub(super) fn new(now: Instant, timers: &Timers, cseq: u32, response: Bytes) -> Self {
        Self {
            cseq,
            response,
            repeat: Backoff::start(now, timers.t1()),
            until: now + timers.patience(),
            silent: false,
        }
    }

    /// The first repeat now: nobody knows whether the last one left.
    pub(super) fn at_once(mut self, now: Instant, timers: &Timers) -> Self {
        self.repeat = Backoff::at_once(now, timers.t1());
        self
    }

    fn poll_timeout(&self) -> Instant {
        self.repeat.at().min(self.until)
    }

    /// `true` once it is to be given up.
    fn handle_timeout(
        &mut self,
        now: Instant,
        longest: Option<std::time::Duration>,
        out: &mut Vec<DialogEffect>,
    ) -> bool {
        if self.until <= now {
            return true;
        }
        if self.repeat.fire(now, longest) {
            out.push(DialogEffect::Send(self.response.clone()));
        }
        false
    }
}

impl Busy {
    pub(super) fn poll_timeout(&self) -> Option<Instant> {
        let answer = self.answer.as_ref().map(Unacknowledged::poll_timeout);
        let reliable = match self.reliable.front() {
            Some(Reliable::Sent { wait, .. }) => Some(wait.poll_timeout()),
            _ => None,
        };
        let ack = self.ack.as_ref().map(|sent| sent.until);
        [answer, reliable, ack].into_iter().flatten().min()
    }

    pub(super) fn handle_timeout(&mut self, now: Instant, timers: &Timers, out: &mut Vec<DialogEffect>) {
        // RFC 3261 s13.3.1.4: on every transport, pauses up to T2, for 64 x T1.
        if let Some(mut answer) = self.answer.take() {
            if !answer.handle_timeout(now, Some(timers.t2()), out) {
                self.answer = Some(answer);
            } else if !answer.silent {
                out.push(DialogEffect::AckMissing { cseq: answer.cseq });
            }
        }
        // RFC 3262 s3: the same without a longest pause.
        if let Some(Reliable::Sent { wait, .. }) = self.reliable.front_mut()
            && wait.handle_timeout(now, None, out)
        {
            out.push(DialogEffect::PrackMissing { cseq: wait.cseq });
            self.reliable.clear();
            self.pending.unacknowledged = None;
        }
        self.ack.take_if(|sent| sent.until <= now);
    }

    /// Whether nothing is under way. The RSeq numbers matter only while an INVITE is.
    pub(super) fn is_idle(&self) -> bool {
        let Pending {
            in_invite,
            in_update,
            out_invite,
            late_offer,
            out_update,
            ..
        } = self.pending;
        [in_invite, in_update, out_invite, late_offer, out_update]
            .iter()
            .all(Option::is_none)
            && self.answer.is_none()
            && self.reliable.is_empty()
            && self.ack.is_none()
    }
}

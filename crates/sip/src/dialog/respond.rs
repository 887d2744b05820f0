//! Our responses to the peer's requests: what they change, and in which order they may leave.

use super::busy::{Reliable, Unacknowledged};
use super::{Agreed, Busy, Dialog, DialogEffect, DialogState};
use crate::transaction::{Backoff, Timers};
use crate::{Instant, Method};
use bytes::Bytes;
use std::time::Duration;

/// A response of ours in a few facts.
#[derive(Clone, Copy, Debug)]
pub struct Answer<'a> {
    /// Method of the request.
    pub method: Method<'a>,
    /// CSeq of the request.
    pub cseq: u32,
    /// The status code.
    pub status: u16,
    /// RSeq, from [`Dialog::next_rseq`], of a reliable provisional response.
    pub rseq: Option<u32>,
    /// Whether it has a session description.
    pub sdp: bool,
}

/// Reliable provisional responses that wait for their turn. One of ours sends two or three in a call.
const MAX_QUEUE: usize = 8;

impl Dialog {
    /// A response of ours. It comes back as [`DialogEffect::Respond`], at once or when its turn has come (RFC 3262 s3);
    /// never if its request has its final response already (a 200 that lost against a CANCEL).
    pub fn respond(&mut self, now: Instant, answer: Answer<'_>, response: Bytes, out: &mut Vec<DialogEffect>) {
        let Answer {
            method, cseq, status, ..
        } = answer;
        if method == Method::Invite {
            if self.pending().in_invite == Some(cseq) {
                self.respond_to_invite(now, answer, response, out);
            }
            return;
        }
        out.push(DialogEffect::Respond {
            invite: false,
            cseq,
            status,
            response,
        });
        if method == Method::Update && status >= 200 {
            self.finish_update(now, cseq, status);
        } else if method == Method::Bye && (200..300).contains(&status) {
            self.terminate();
        }
    }

    fn finish_update(&mut self, now: Instant, cseq: u32, status: u16) {
        let pending = &mut self.busy_mut().pending;
        if pending.in_update.take_if(|update| *update == cseq).is_some() && status < 300 {
            let agreed = pending.update_agreed.take();
            // Before the 2xx to the INVITE there is no session to time.
            if self.state == DialogState::Confirmed {
                self.session.agreed_as_uas(now, agreed);
            }
        }
        self.tidy();
    }

    fn respond_to_invite(&mut self, now: Instant, answer: Answer<'_>, response: Bytes, out: &mut Vec<DialogEffect>) {
        let Answer { cseq, status, sdp, .. } = answer;
        let timers = self.timers;
        let busy = self.busy_mut();
        match answer.rseq {
            Some(rseq) if status < 200 && busy.reliable.is_empty() => {
                busy.send_reliable(now, &timers, (rseq, sdp), (cseq, status), response, out);
            }
            Some(rseq) if status < 200 => busy.reliable.push_back(Reliable::Queued {
                rseq,
                sdp,
                cseq,
                status,
                response,
            }),
            None if status < 200 => out.push(DialogEffect::invite_response(cseq, status, response)),
            // RFC 3262 s3: a 2xx must not overtake a session description that waits for its PRACK.
            _ if status < 300 && busy.reliable.iter().any(Reliable::has_sdp) => {
                busy.reliable.retain(|queued| !matches!(queued, Reliable::Final { .. }));
                busy.reliable.push_back(Reliable::Final { cseq, status, response });
            }
            _ => self.finish_invite(now, cseq, status, response, out),
        }
    }

    /// The final response to the peer's INVITE leaves now.
    pub(super) fn finish_invite(
        &mut self,
        now: Instant,
        cseq: u32,
        status: u16,
        response: Bytes,
        out: &mut Vec<DialogEffect>,
    ) {
        let accepted = status < 300;
        if accepted && self.is_terminated() {
            return;
        }
        out.push(DialogEffect::invite_response(cseq, status, response.clone()));
        let timers = self.timers;
        let busy = self.busy_mut();
        busy.pending.in_invite = None;
        busy.pending.in_offer = false;
        // RFC 3262 s3: not repeated any longer, but a PRACK that comes late is still welcome.
        busy.reliable.clear();
        if busy.pending.unacknowledged.is_none() {
            busy.pending.rseq = 0;
        }
        let agreed = busy.pending.invite_agreed.take();
        if accepted {
            busy.answer = Some(Unacknowledged::new(now, &timers, cseq, response));
            if self.state != DialogState::Ending {
                self.state = DialogState::Confirmed;
                self.session.agreed_as_uas(now, agreed);
            }
        } else if matches!(self.state, DialogState::Early | DialogState::Terminated) && !self.caller {
            self.terminate();
        } else {
            self.tidy();
        }
    }

    /// The RSeq of the next reliable provisional response (RFC 3262 s3: the first at random, below 2^31). `None`: too
    /// many wait for their PRACK, send this one unreliably.
    pub fn next_rseq(&mut self, entropy: u64) -> Option<u32> {
        self.pending().in_invite?;
        let busy = self.busy_mut();
        if busy.reliable.len() >= MAX_QUEUE {
            return None;
        }
        let next = match busy.pending.rseq {
            // 1 to 2^31 - 2^10: room to count up.
            0 => (entropy % ((1 << 31) - (1 << 10))) as u32 + 1,
            latest => latest.checked_add(1)?,
        };
        busy.pending.rseq = next;
        Some(next)
    }

    /// What the 2xx to the INVITE or UPDATE under way will state about the session timer: its header lines are
    /// [`Agreed::header_lines`].
    #[must_use]
    pub fn agreed(&self, method: Method<'_>) -> Option<Agreed> {
        match method {
            Method::Invite => self.pending().invite_agreed,
            Method::Update => self.pending().update_agreed,
            _ => None,
        }
    }

    /// After a takeover: goes on repeating the 2xx of `cseq` for as long as was `left`, at once and then with growing
    /// pauses, and gives up without a word, because the ACK may have come to the one before us. Of several INVITEs within 32 s only the
    /// last may be without its ACK: one that was not acknowledged lets no other begin (RFC 3261 s14.2).
    pub fn resume_answer(&mut self, now: Instant, cseq: u32, response: Bytes, left: Duration) {
        let known = self.busy.as_ref().and_then(|busy| busy.answer.as_ref());
        if known.is_some_and(|answer| answer.cseq > cseq) {
            return;
        }
        let answer = Unacknowledged {
            cseq,
            response,
            repeat: Backoff::at_once(now, self.timers.t1()),
            until: now + left.min(self.timers.patience()),
            silent: true,
        };
        self.busy_mut().answer = Some(answer);
    }
}

impl Busy {
    /// `number` is RSeq and whether there is a session description; `of` the CSeq and the status.
    pub(super) fn send_reliable(
        &mut self,
        now: Instant,
        timers: &Timers,
        (rseq, sdp): (u32, bool),
        (cseq, status): (u32, u16),
        response: Bytes,
        out: &mut Vec<DialogEffect>,
    ) {
        // The offer is answered reliably: an UPDATE may bring the next one (RFC 3311 s5.2).
        self.pending.in_offer &= !sdp;
        self.pending.unacknowledged = Some(rseq);
        let wait = Unacknowledged::new(now, timers, cseq, response.clone());
        self.reliable.push_front(Reliable::Sent {
            rseq,
            sdp,
            status,
            wait,
        });
        out.push(DialogEffect::invite_response(cseq, status, response));
    }
}

impl DialogEffect {
    fn invite_response(cseq: u32, status: u16, response: Bytes) -> Self {
        Self::Respond {
            invite: true,
            cseq,
            status,
            response,
        }
    }
}

impl Reliable {
    fn has_sdp(&self) -> bool {
        match self {
            Self::Sent { sdp, .. } | Self::Queued { sdp, .. } => *sdp,
            Self::Final { .. } => false,
        }
    }
}

//! Requests of the peer inside a dialog: order (RFC 3261 s12.2.2), overlap (s14.2, RFC 3311 s5.2), PRACK (RFC 3262 s3),
//! ACK.

use super::busy::Reliable;
use super::{Busy, Dialog, DialogEffect, DialogState, Facts, Refusal, SessionPolicy, session_timer};
use crate::{Instant, Method};

/// What to do with a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Pass it to the application. After BYE an INVITE of the peer that is still unanswered gets 487 (RFC 3261
    /// s15.1.2).
    Process,
    /// Respond with this status.
    Reject {
        /// The status code.
        status: u16,
        /// Retry-After in seconds.
        retry_after: Option<u8>,
        /// Min-SE in seconds, with a 422.
        min_se: Option<u32>,
    },
    /// It was the ACK of a 2xx.
    Acknowledged {
        /// CSeq of its INVITE.
        cseq: u32,
        /// Whether it is the first that came for it.
        first: bool,
    },
    /// Nothing at all.
    Drop,
}

impl Verdict {
    fn reject(status: u16) -> Self {
        Self::Reject {
            status,
            retry_after: None,
            min_se: None,
        }
    }

    /// RFC 3261 s14.2: 500 with a Retry-After of 0 to 10 s, chosen at random.
    fn overlap(entropy: u64) -> Self {
        Self::Reject {
            status: 500,
            retry_after: Some((entropy % 11) as u8),
            min_se: None,
        }
    }
}

impl Dialog {
    /// A request of the peer that no transaction absorbed. Effects are responses that waited for a PRACK.
    pub fn receive(
        &mut self,
        now: Instant,
        request: &Facts<'_>,
        policy: &SessionPolicy,
        entropy: u64,
        out: &mut Vec<DialogEffect>,
    ) -> Verdict {
        match request.method {
            Method::Ack => return self.acknowledged(request.cseq),
            // A CANCEL is between transactions; one that matched none is answered 481 there.
            Method::Cancel => return Verdict::Drop,
            _ if self.is_terminated() => return Verdict::reject(481),
            // RFC 3261 s12.2.2. The same number in a new transaction breaks the order as well.
            _ if self.remote_cseq.is_some_and(|latest| request.cseq <= latest) => return Verdict::reject(500),
            _ => self.remote_cseq = Some(request.cseq),
        }
        // RFC 3261 s15.1.1: with our BYE the session is over; only the peer's own BYE still makes sense.
        if self.state == DialogState::Ending && request.method != Method::Bye {
            return Verdict::reject(481);
        }
        match request.method {
            Method::Invite | Method::Update => self.session_request(request, policy, entropy),
            Method::Prack => self.provisional_acknowledged(now, request, out),
            _ => Verdict::Process,
        }
    }

    fn acknowledged(&mut self, cseq: u32) -> Verdict {
        let answer = self
            .busy
            .as_mut()
            .and_then(|busy| busy.answer.take_if(|answer| answer.cseq == cseq));
        self.tidy();
        Verdict::Acknowledged {
            cseq,
            first: answer.is_some(),
        }
    }

    /// INVITE and UPDATE: they refresh the target and the session, and may carry an offer.
    fn session_request(&mut self, request: &Facts<'_>, policy: &SessionPolicy, entropy: u64) -> Verdict {
        let invite = request.method == Method::Invite;
        if let Some(verdict) = self.overlap(invite, request.sdp, entropy) {
            return verdict;
        }
        self.session.raise_min_se(request.min_se);
        let agreed = match session_timer::agree(policy, request) {
            Ok(agreed) => agreed,
            Err(Refusal::IntervalTooSmall { min_se }) => {
                return Verdict::Reject {
                    status: 422,
                    retry_after: None,
                    min_se: Some(min_se),
                };
            }
            Err(Refusal::BadRequest) => return Verdict::reject(400),
        };
        if let Some(contact) = request.contact
            && !self.text.set_target(contact)
        {
            return Verdict::reject(400);
        }
        let pending = &mut self.busy_mut().pending;
        if invite {
            pending.in_invite = Some(request.cseq);
            pending.in_offer = request.sdp;
            pending.invite_agreed = agreed;
        } else {
            pending.in_update = Some(request.cseq);
            pending.update_agreed = agreed;
        }
        Verdict::Process
    }

    /// RFC 3261 s14.2 and RFC 3311 s5.2: one offer at a time. 491: ours is under way; 500: theirs is.
    fn overlap(&self, invite: bool, offer: bool, entropy: u64) -> Option<Verdict> {
        let pending = self.pending();
        let glare = match invite {
            true => pending.out_invite.is_some() || pending.out_update.is_some(),
            false => offer && (pending.out_offer || pending.out_update.is_some()),
        };
        let busy = match invite {
            true => pending.in_invite.is_some() || pending.in_update.is_some(),
            false => pending.in_update.is_some() || (offer && pending.in_offer),
        };
        match (busy, glare) {
            (true, _) => Some(Verdict::overlap(entropy)),
            (_, true) => Some(Verdict::reject(491)),
            _ => None,
        }
    }

    fn provisional_acknowledged(&mut self, now: Instant, prack: &Facts<'_>, out: &mut Vec<DialogEffect>) -> Verdict {
        let matched = prack
            .rack
            .filter(|rack| rack.cseq.method == Method::Invite)
            .and_then(|rack| {
                let busy = self.busy.as_mut()?;
                let waits =
                    busy.pending.unacknowledged == Some(rack.rseq) && busy.invite_cseq() == Some(rack.cseq.number);
                waits.then_some(())
            });
        if matched.is_none() {
            return Verdict::reject(481);
        }
        self.release_next(now, out);
        Verdict::Process
    }

    /// The PRACK came: what waited behind that response may leave, up to the next reliable one.
    fn release_next(&mut self, now: Instant, out: &mut Vec<DialogEffect>) {
        let timers = self.timers;
        let busy = self.busy_mut();
        busy.pending.unacknowledged = None;
        busy.reliable
            .pop_front_if(|front| matches!(front, Reliable::Sent { .. }));
        match busy.reliable.pop_front() {
            Some(Reliable::Queued {
                rseq,
                sdp,
                cseq,
                status,
                response,
            }) => busy.send_reliable(now, &timers, (rseq, sdp), (cseq, status), response, out),
            Some(Reliable::Final { cseq, status, response }) => self.finish_invite(now, cseq, status, response, out),
            Some(sent @ Reliable::Sent { .. }) => busy.reliable.push_front(sent),
            None => {}
        }
        self.tidy();
    }
}

impl Busy {
    /// CSeq of the INVITE whose provisional responses wait for PRACK; it may have its final response already.
    fn invite_cseq(&self) -> Option<u32> {
        self.pending
            .in_invite
            .or(self.answer.as_ref().map(|answer| answer.cseq))
    }
}

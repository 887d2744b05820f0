//! Dialogs: RFC 3261 s12-s15 with UPDATE (RFC 3311), reliable provisional responses (RFC 3262) and session timers (RFC
//! 4028), sans-IO.
//!
//! The driver's contract. A [`Dialog`] is made by [`Dialog::from_invite`] or by an [`OutgoingInvite`]. Every request of
//! the peer goes through [`Dialog::receive`], whose [`Verdict`] says whether the application sees it; every response of
//! ours through [`Dialog::respond`], every request of ours is written by [`Dialog::request`], every response to it goes
//! through [`Dialog::handle_response`]. Perform the pushed [`DialogEffect`]s in their order; call `handle_timeout` when
//! `poll_timeout` has come; drop the dialog when it [is over](Dialog::is_terminated).
//!
//! A dialog that merely talks is one small struct with one allocation for its text. What is under way (an INVITE, a 2xx
//! without ACK) stands in a second allocation that goes when it is done.
//!
//! A successor makes it again by [`Dialog::from_parts`]; a 2xx that waits for its ACK stands in the record of its
//! server transaction and is handed back by [`Dialog::resume_answer`].

mod busy;
mod facts;
mod incoming;
mod outgoing;
mod parts;
mod respond;
mod session_timer;
mod text;
mod uac;

pub use busy::{Pending, SentAck};
pub use facts::Facts;
pub use incoming::Verdict;
pub use outgoing::{NewRequest, Reaction};
pub use parts::{DialogParts, OutgoingInviteParts, ReliableParts, SessionParts};
pub use respond::Answer;
pub use session_timer::{Agreed, SessionPolicy, SessionTimer};
pub use text::DialogText;
pub use uac::{OutgoingInvite, UacEvent};

use crate::Instant;
use crate::transaction::Timers;
use busy::Busy;
use bytes::Bytes;
use text::Text;

/// What identifies a dialog (RFC 3261 s12).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct DialogId<'a> {
    /// Call-ID.
    pub call_id: &'a [u8],
    /// The tag that we gave.
    pub local_tag: &'a [u8],
    /// The tag that the peer gave; empty for a peer of RFC 2543.
    pub remote_tag: &'a [u8],
}

/// How far a dialog has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum DialogState {
    /// A provisional response made it.
    Early = 0,
    /// A 2xx confirmed it.
    Confirmed = 1,
    /// Ended by BYE, by a refusal, or because the peer does not know it.
    Terminated = 2,
    /// Our BYE is under way: the session is over, nothing else is to be sent (RFC 3261 s15.1.1).
    Ending = 3,
}

/// What the driver has to do, in order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum DialogEffect {
    /// Give this response to its server transaction, now: it was passed to [`Dialog::respond`], perhaps earlier.
    Respond {
        /// Whether the request is an INVITE.
        invite: bool,
        /// CSeq of the request.
        cseq: u32,
        /// The status code.
        status: u16,
        /// The response.
        response: Bytes,
    },
    /// Send these bytes, a repeat, to the peer, past the transaction.
    Send(Bytes),
    /// No ACK came for the 2xx of this INVITE: end the session by BYE (RFC 3261 s13.3.1.4).
    AckMissing {
        /// CSeq of the INVITE.
        cseq: u32,
    },
    /// No PRACK came for a reliable provisional response: refuse the INVITE with 504 (RFC 3262 s3).
    PrackMissing {
        /// CSeq of the INVITE.
        cseq: u32,
    },
    /// Half of the session interval has passed and we are the refresher: send UPDATE or re-INVITE (RFC 4028 s10).
    RefreshDue,
    /// Nobody refreshed the session: send BYE (RFC 4028 s10).
    SessionExpired,
}

/// Why no dialog could be made; the response to give.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// 400: no Contact, or a dialog's text beyond any measure.
    BadRequest,
    /// 422 with this Min-SE, in seconds (RFC 4028 s6).
    IntervalTooSmall {
        /// The least interval that we accept.
        min_se: u32,
    },
}

/// One peer-to-peer SIP relationship (RFC 3261 s12).
#[derive(Clone, Debug)]
pub struct Dialog {
    text: Text,
    timers: Timers,
    state: DialogState,
    /// Whether we sent the INVITE that made it: the one who chose the Call-ID waits longer after a glare.
    caller: bool,
    /// Our latest request; 0 before the first.
    local_cseq: u32,
    /// The peer's latest request.
    remote_cseq: Option<u32>,
    session: SessionTimer,
    busy: Option<Box<Busy>>,
}

impl Dialog {
    /// The dialog of an INVITE that came in, early (RFC 3261 s12.1.1). `contact` is the value of the Contact that we
    /// will send, `local_tag` the tag that we give to To.
    ///
    /// # Errors
    /// The [`Refusal`] to answer with.
    pub fn from_invite(
        invite: &Facts<'_>,
        local_tag: &[u8],
        contact: &[u8],
        policy: &SessionPolicy,
        timers: Timers,
    ) -> Result<Self, Refusal> {
        let agreed = session_timer::agree(policy, invite)?;
        let target = invite.contact.ok_or(Refusal::BadRequest)?;
        let local = [invite.to, b";tag=", local_tag].concat();
        // RFC 3261 s12.1.1: the route set of a UAS is Record-Route in its order.
        let routes = invite.record_route.join(&b", "[..]);
        let text = DialogText {
            call_id: invite.call_id,
            local: &local,
            local_tag,
            remote: invite.from,
            remote_tag: invite.from_tag,
            contact,
            target,
            routes: &routes,
        };
        let text = Text::new(&text).ok_or(Refusal::BadRequest)?;
        let mut dialog = Self::of_text(text, timers);
        dialog.remote_cseq = Some(invite.cseq);
        let pending = &mut dialog.busy_mut().pending;
        pending.in_invite = Some(invite.cseq);
        pending.in_offer = invite.sdp;
        pending.invite_agreed = agreed;
        Ok(dialog)
    }

    fn of_text(text: Text, timers: Timers) -> Self {
        Self {
            text,
            timers,
            state: DialogState::Early,
            caller: false,
            local_cseq: 0,
            remote_cseq: None,
            session: SessionTimer::off(),
            busy: None,
        }
    }

    /// What identifies it.
    #[must_use]
    pub fn id(&self) -> DialogId<'_> {
        let text = self.text.get();
        DialogId {
            call_id: text.call_id,
            local_tag: text.local_tag,
            remote_tag: text.remote_tag,
        }
    }

    /// How far it has come.
    #[must_use]
    pub fn state(&self) -> DialogState {
        self.state
    }

    /// Whether it has ended. If the peer's INVITE is [still unanswered](Self::unanswered_invite) then, refuse it with
    /// 487 (RFC 3261 s15.1.2) before the dialog is dropped.
    #[must_use]
    pub fn is_terminated(&self) -> bool {
        self.state == DialogState::Terminated
    }

    /// CSeq of our latest request; 0 before the first.
    #[must_use]
    pub fn local_cseq(&self) -> u32 {
        self.local_cseq
    }

    /// The texts of which its messages are made.
    #[must_use]
    pub fn text(&self) -> DialogText<'_> {
        self.text.get()
    }

    /// The session timer.
    #[must_use]
    pub fn session(&self) -> &SessionTimer {
        &self.session
    }

    /// The INVITE of the peer that we have not answered yet, by its CSeq.
    #[must_use]
    pub fn unanswered_invite(&self) -> Option<u32> {
        self.pending().in_invite
    }

    /// Our INVITE that the peer has not answered yet, by its CSeq.
    #[must_use]
    pub fn outstanding_invite(&self) -> Option<u32> {
        self.pending().out_invite
    }

    /// The INVITE of the peer whose 2xx has no ACK yet, by its CSeq: until it comes the called side must not send BYE
    /// (RFC 3261 s15). After a takeover that is not known, and nothing waits for it.
    #[must_use]
    pub fn awaits_ack(&self) -> Option<u32> {
        let answer = self.busy.as_ref()?.answer.as_ref();
        answer.filter(|answer| !answer.silent).map(|answer| answer.cseq)
    }

    /// The INVITE of the peer whose 2xx is repeated, by its CSeq: no ACK has been seen here. A successor may have missed it, and repeats it too.
    #[must_use]
    pub fn repeats_answer(&self) -> Option<u32> {
        Some(self.busy.as_ref()?.answer.as_ref()?.cseq)
    }

    /// Our INVITE without an offer whose ACK, which answers the offer of the 2xx (RFC 3261 s13.2.1), is not sent yet, by
    /// its CSeq.
    #[must_use]
    pub fn late_offer(&self) -> Option<u32> {
        self.pending().late_offer
    }

    /// Whether a re-INVITE may be sent now: one INVITE at a time, and only after the ACK of the last (RFC 3261 s14.1).
    #[must_use]
    pub fn may_reinvite(&self) -> bool {
        let Pending {
            in_invite,
            out_invite,
            late_offer,
            ..
        } = self.pending();
        let open = [in_invite, out_invite, late_offer, self.awaits_ack()];
        let quiet = open.iter().all(Option::is_none);
        quiet && self.state == DialogState::Confirmed
    }

    /// What is under way.
    #[must_use]
    pub fn pending(&self) -> Pending {
        self.busy.as_ref().map(|busy| busy.pending).unwrap_or_default()
    }

    /// Bytes on the heap, for the account of what a dialog costs.
    #[must_use]
    pub fn heap_size(&self) -> usize {
        self.text.heap_size() + self.busy.as_ref().map_or(0, |_| size_of::<Busy>())
    }

    /// Ends it at once: a BYE was sent or answered, or the call was given up. An INVITE of the peer that is still
    /// unanswered can only be refused from now on.
    pub fn terminate(&mut self) {
        self.state = DialogState::Terminated;
        self.session = SessionTimer::off();
        let in_invite = self.pending().in_invite;
        self.busy = None;
        if in_invite.is_some() {
            self.busy_mut().pending.in_invite = in_invite;
        }
    }

    /// When to call [`handle_timeout`](Self::handle_timeout).
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let busy = self.busy.as_ref().and_then(|busy| busy.poll_timeout());
        [busy, self.session.poll_timeout()].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Vec<DialogEffect>) {
        if let Some(busy) = &mut self.busy {
            busy.handle_timeout(now, &self.timers, out);
        }
        self.session.handle_timeout(now, out);
        self.tidy();
    }

    fn busy_mut(&mut self) -> &mut Busy {
        self.busy.get_or_insert_default()
    }

    /// Gives the second allocation back once nothing is under way.
    fn tidy(&mut self) {
        self.busy.take_if(|busy| busy.is_idle());
    }
}

impl DialogState {
    /// From the number in a record; `None` for one that this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::Early, Self::Confirmed, Self::Terminated, Self::Ending]
            .get(usize::from(number))
            .copied()
    }
}

//! An INVITE of ours that makes dialogs: one early dialog per fork (RFC 3261 s12.1.2, s13.2.2), CANCEL (s9.1), the 2xx
//! that counts.

use super::text::Text;
use super::{Dialog, DialogParts, DialogText, Facts, OutgoingInviteParts, Reaction};
use crate::Instant;
use crate::transaction::Timers;

/// How far our CANCEL has come.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum CancelState {
    /// Nobody wants it.
    #[default]
    None = 0,
    /// Wanted, but nothing came yet: it must wait for a provisional response (RFC 3261 s9.1).
    Wanted = 1,
    /// It was sent: a 2xx that crosses it gets ACK and BYE.
    Sent = 2,
}

/// Forks of one INVITE. A trunk forks to a few phones; more would be an attack on our memory.
const MAX_FORKS: usize = 16;

/// The user agent's side of one INVITE outside of dialogs.
#[derive(Clone, Debug)]
pub struct OutgoingInvite {
    text: Text,
    timers: Timers,
    cseq: u32,
    sdp: bool,
    heard: bool,
    cancel: CancelState,
    /// Until when forks may still answer: 64 x T1 after the first 2xx (s13.2.2.4).
    until: Option<Instant>,
    /// Early dialogs, in the order of their first response.
    dialogs: Vec<Dialog>,
    /// Tags of the forks that have answered: a repeat of their 2xx must not make a second dialog, even if the first has
    /// ended.
    answered: Vec<Box<[u8]>>,
}

/// What a response to it means.
#[derive(Clone, Debug)]
pub enum UacEvent {
    /// Nothing: a repeat, out of order, or a fork too many.
    Drop,
    /// 100, or a provisional response without a tag.
    Trying,
    /// A provisional response of an early dialog.
    Early {
        /// Which: for [`OutgoingInvite::dialog_mut`].
        dialog: usize,
        /// Whether it has just been made.
        new: bool,
        /// It is reliable: send PRACK with this RSeq.
        prack: Option<u32>,
    },
    /// A 2xx: the dialog is confirmed and the caller's from now on. Send its [`Dialog::ack`]; if the INVITE was
    /// [cancelled ](OutgoingInvite::cancel_state) or another fork was chosen, a BYE after it.
    Answered(Box<Dialog>),
    /// Refused: the early dialogs are gone.
    Refused,
}

impl OutgoingInvite {
    /// For an INVITE that leaves now. In `text`, `local` has our tag, `remote` none, `target` is the Request-URI;
    /// `sdp`: it carries an offer. `None`: text beyond any measure.
    #[must_use]
    pub fn new(text: &DialogText<'_>, cseq: u32, sdp: bool, timers: Timers) -> Option<Self> {
        Some(Self {
            text: Text::new(text)?,
            timers,
            cseq,
            sdp,
            heard: false,
            cancel: CancelState::None,
            until: None,
            dialogs: Vec::new(),
            answered: Vec::new(),
        })
    }

    /// CSeq of the INVITE.
    #[must_use]
    pub fn cseq(&self) -> u32 {
        self.cseq
    }

    /// The texts that its dialogs share.
    #[must_use]
    pub fn text(&self) -> DialogText<'_> {
        self.text.get()
    }

    /// The early dialogs.
    #[must_use]
    pub fn dialogs(&self) -> &[Dialog] {
        &self.dialogs
    }

    /// An early dialog.
    pub fn dialog_mut(&mut self, index: usize) -> Option<&mut Dialog> {
        self.dialogs.get_mut(index)
    }

    /// The early dialog with this tag of the peer.
    #[must_use]
    pub fn find(&self, remote_tag: &[u8]) -> Option<usize> {
        self.dialogs
            .iter()
            .position(|dialog| dialog.id().remote_tag == remote_tag)
    }

    /// A response that its transaction delivered. A repeat of a 2xx is its confirmed dialog's
    /// ([`Dialog::handle_response`]): look there first.
    pub fn handle_response(&mut self, now: Instant, response: &Facts<'_>) -> UacEvent {
        if response.cseq != self.cseq {
            return UacEvent::Drop;
        }
        self.heard = true;
        match response.status {
            101..200 if !response.to_tag.is_empty() => self.provisional(response),
            0..200 => UacEvent::Trying,
            200..300 => self.answered(now, response),
            // After a 2xx the refusal of another fork changes nothing.
            _ if self.until.is_some() => UacEvent::Drop,
            _ => {
                self.dialogs.clear();
                UacEvent::Refused
            }
        }
    }

    fn has_answered(&self, tag: &[u8]) -> bool {
        self.answered.iter().any(|known| **known == *tag)
    }

    fn provisional(&mut self, response: &Facts<'_>) -> UacEvent {
        let known = self.find(response.to_tag);
        let dialog = match known {
            Some(index) => index,
            // One that the 2xx of its fork overtook, or a fork too many.
            None if self.has_answered(response.to_tag) || self.dialogs.len() >= MAX_FORKS => return UacEvent::Drop,
            None => match self.fork(response) {
                Some(dialog) => {
                    self.dialogs.push(dialog);
                    self.dialogs.len() - 1
                }
                None => return UacEvent::Drop,
            },
        };
        let new = known.is_none();
        match self.dialogs[dialog].order_provisional(response) {
            Reaction::Drop => UacEvent::Drop,
            Reaction::Prack { rseq } => UacEvent::Early {
                dialog,
                new,
                prack: Some(rseq),
            },
            _ => UacEvent::Early {
                dialog,
                new,
                prack: None,
            },
        }
    }

    fn answered(&mut self, now: Instant, response: &Facts<'_>) -> UacEvent {
        if self.has_answered(response.to_tag) || self.answered.len() >= MAX_FORKS {
            return UacEvent::Drop;
        }
        let dialog = match self.find(response.to_tag) {
            Some(index) => Some(self.dialogs.remove(index)),
            None => self.fork(response),
        };
        let Some(mut dialog) = dialog else {
            return UacEvent::Drop;
        };
        // RFC 3261 s13.2.2.4: the route set is the 2xx's, whatever the provisional responses said.
        if !dialog.text.set_routes(&routes(response)) {
            return UacEvent::Drop;
        }
        dialog.confirmed(now, response);
        self.answered.push(response.to_tag.into());
        self.until.get_or_insert(now + self.timers.patience());
        UacEvent::Answered(Box::new(dialog))
    }

    /// The dialog that a response makes (RFC 3261 s12.1.2).
    fn fork(&self, response: &Facts<'_>) -> Option<Dialog> {
        let text = DialogText {
            remote: response.to,
            remote_tag: response.to_tag,
            // A provisional response should name a Contact; until one does, the Request-URI is the best there is.
            target: response.contact.unwrap_or(self.text.get().target),
            routes: &routes(response),
            ..self.text.get()
        };
        let mut dialog = Dialog::of_text(Text::new(&text)?, self.timers);
        dialog.caller = true;
        dialog.local_cseq = self.cseq;
        let pending = &mut dialog.busy_mut().pending;
        pending.out_invite = Some(self.cseq);
        pending.out_offer = self.sdp;
        Some(dialog)
    }

    /// The call is to be given up. `true`: send the CANCEL now; else [`cancel_due`](Self::cancel_due) says when.
    pub fn cancel(&mut self) -> bool {
        if self.cancel == CancelState::None {
            self.cancel = CancelState::Wanted;
        }
        self.cancel_due()
    }

    /// To be asked after each response: whether a CANCEL that had to wait leaves now. `true` once.
    pub fn cancel_due(&mut self) -> bool {
        let due = self.cancel == CancelState::Wanted && self.heard && self.until.is_none();
        if due {
            self.cancel = CancelState::Sent;
        }
        due
    }

    /// How far a CANCEL has come.
    #[must_use]
    pub fn cancel_state(&self) -> CancelState {
        self.cancel
    }

    /// When the forks that have not answered are given up.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.until
    }

    /// `true` once it is over: drop it with its early dialogs.
    #[must_use]
    pub fn is_over(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| until <= now)
    }

    /// As plain data.
    #[must_use]
    pub fn to_parts(&self, now: Instant) -> OutgoingInviteParts<'_> {
        OutgoingInviteParts {
            text: self.text.get(),
            cseq: self.cseq,
            sdp: self.sdp,
            heard: self.heard,
            cancel: self.cancel,
            answered_left: self.until.map(|until| until.since(now)),
            dialogs: self.dialogs.iter().map(|dialog| dialog.to_parts(now)).collect(),
            answered: self.answered.iter().map(|tag| &**tag).collect(),
        }
    }

    /// What the parts describe, going on at `now`; `None` if the texts do not fit one another.
    #[must_use]
    pub fn from_parts(now: Instant, timers: Timers, parts: OutgoingInviteParts<'_>) -> Option<Self> {
        let restore = |parts: DialogParts<'_>| Dialog::from_parts(now, timers, parts);
        let dialogs = parts.dialogs.into_iter().take(MAX_FORKS).map(restore);
        Some(Self {
            text: Text::new(&parts.text)?,
            timers,
            cseq: parts.cseq,
            sdp: parts.sdp,
            heard: parts.heard,
            cancel: parts.cancel,
            until: parts.answered_left.map(|left| now + left),
            dialogs: dialogs.collect::<Option<_>>()?,
            answered: parts.answered.into_iter().map(Into::into).collect(),
        })
    }
}

/// RFC 3261 s12.1.2: the route set of a UAC is Record-Route in reverse order.
fn routes(response: &Facts<'_>) -> Vec<u8> {
    let reversed: Vec<&[u8]> = response.record_route.iter().rev().copied().collect();
    reversed.join(&b", "[..])
}

impl CancelState {
    /// From the number in a record; `None` for one that this version does not know.
    #[must_use]
    pub fn from_number(number: u8) -> Option<Self> {
        [Self::None, Self::Wanted, Self::Sent].get(usize::from(number)).copied()
    }
}

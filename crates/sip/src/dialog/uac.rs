//! An INVITE of ours that makes dialogs: one early dialog per fork (RFC 3261 s12.1.2, s13.2.2), the 2xx that
//! counts, and those that come too late. Its CANCEL is a matter of its transaction
//! ([`InviteClient::may_cancel`](crate::transaction::InviteClient::may_cancel)).

use super::text::Text;
use super::{Dialog, DialogText, Facts, OutgoingInviteParts, Reaction};
use crate::Instant;
use crate::transaction::Timers;

/// The user agent's side of one INVITE outside of dialogs, until its first final response. The early dialogs that it
/// makes are the driver's to keep, and to bound: an INVITE forks to a few phones, anything else is an attack on memory.
#[derive(Clone, Debug)]
pub struct OutgoingInvite {
    text: Text,
    timers: Timers,
    cseq: u32,
    sdp: bool,
}

/// What a response to it means.
#[derive(Clone, Debug)]
pub enum UacEvent {
    /// Nothing: a repeat, out of order, or of another INVITE.
    Drop,
    /// 100, or a provisional response without a tag.
    Trying,
    /// A provisional response of an early dialog.
    Early {
        /// The dialog, if none was handed in.
        new: Option<Box<Dialog>>,
        /// It is reliable: send PRACK with this RSeq.
        prack: Option<u32>,
    },
    /// The first 2xx: the dialog that was handed in, or this one, is confirmed, and the INVITE is over with all other
    /// early dialogs. Send its [`Dialog::ack`], and a BYE after it if the INVITE was cancelled (RFC 3261 s9.1). The 2xx of another fork is [`OutgoingInvite::late_answer`]'s.
    Answered {
        /// The dialog, if none was handed in.
        new: Option<Box<Dialog>>,
    },
    /// Refused: the INVITE is over with its early dialogs.
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

    /// Refused in a way that can be mended (401, 422): the same call goes on with another INVITE, one CSeq above.
    pub fn again(&mut self) {
        self.cseq += 1;
    }

    /// A response that its transaction delivered. `early` is the early dialog of this INVITE with the To tag of the
    /// response, if the driver has one.
    pub fn handle_response(&mut self, now: Instant, response: &Facts<'_>, early: Option<&mut Dialog>) -> UacEvent {
        if response.cseq != self.cseq {
            return UacEvent::Drop;
        }
        match response.status {
            101..200 if !response.to_tag.is_empty() => self.provisional(response, early),
            0..200 => UacEvent::Trying,
            200..300 => self.answered(now, response, early),
            _ => UacEvent::Refused,
        }
    }

    fn provisional(&mut self, response: &Facts<'_>, early: Option<&mut Dialog>) -> UacEvent {
        let mut new = None;
        let dialog = match early {
            Some(early) => early,
            None => match self.fork(response) {
                Some(fork) => new.insert(Box::new(fork)),
                None => return UacEvent::Drop,
            },
        };
        match dialog.order_provisional(response) {
            Reaction::Drop => UacEvent::Drop,
            Reaction::Prack { rseq } => UacEvent::Early { new, prack: Some(rseq) },
            _ => UacEvent::Early { new, prack: None },
        }
    }

    fn answered(&mut self, now: Instant, response: &Facts<'_>, early: Option<&mut Dialog>) -> UacEvent {
        let mut new = None;
        let dialog = match early {
            Some(early) => early,
            None => match self.fork(response) {
                Some(fork) => new.insert(Box::new(fork)),
                None => return UacEvent::Drop,
            },
        };
        // RFC 3261 s13.2.2.4: the route set is the 2xx's, whatever the provisional responses said.
        if !dialog.text.set_routes(&routes(response)) {
            return UacEvent::Drop;
        }
        dialog.confirmed(now, response);
        UacEvent::Answered { new }
    }

    /// The dialog that a response makes (RFC 3261 s12.1.2).
    fn fork(&self, response: &Facts<'_>) -> Option<Dialog> {
        fork(&self.text.get(), self.timers, (self.cseq, self.sdp), response)
    }

    /// The dialog of a 2xx that nobody waits for any longer, because another fork was first or the call was given up:
    /// confirmed, to be acknowledged and ended by BYE (RFC 3261 s13.2.2.4). It is made of the response alone, whose
    /// From the caller has found to be its own.
    #[must_use]
    pub fn late_answer(now: Instant, response: &Facts<'_>, contact: &[u8], timers: Timers) -> Option<Dialog> {
        let text = DialogText {
            call_id: response.call_id,
            local: response.from,
            local_tag: response.from_tag,
            contact,
            target: response.contact?,
            ..DialogText::default()
        };
        let mut dialog = fork(&text, timers, (response.cseq, true), response)?;
        dialog.confirmed(now, response);
        Some(dialog)
    }

    /// As plain data.
    #[must_use]
    pub fn to_parts(&self) -> OutgoingInviteParts<'_> {
        OutgoingInviteParts {
            text: self.text.get(),
            cseq: self.cseq,
            sdp: self.sdp,
        }
    }

    /// What the parts describe; `None` if the texts do not fit one another.
    #[must_use]
    pub fn from_parts(timers: Timers, parts: &OutgoingInviteParts<'_>) -> Option<Self> {
        let OutgoingInviteParts { text, cseq, sdp } = parts;
        Some(Self {
            text: Text::new(text)?,
            timers,
            cseq: *cseq,
            sdp: *sdp,
        })
    }
}

/// The dialog that a response to an INVITE makes: `text` is the INVITE's, `of` its CSeq and whether it carried an offer.
fn fork(text: &DialogText<'_>, timers: Timers, of: (u32, bool), response: &Facts<'_>) -> Option<Dialog> {
    let text = DialogText {
        remote: response.to,
        remote_tag: response.to_tag,
        // A provisional response should name a Contact; until one does, the Request-URI is the best there is.
        target: response.contact.unwrap_or(text.target),
        routes: &routes(response),
        ..*text
    };
    let mut dialog = Dialog::of_text(Text::new(&text)?, timers);
    dialog.caller = true;
    dialog.local_cseq = of.0;
    let pending = &mut dialog.busy_mut().pending;
    pending.out_invite = Some(of.0);
    pending.out_offer = of.1;
    pending.late_offer = (!of.1).then_some(of.0);
    Some(dialog)
}

/// RFC 3261 s12.1.2: the route set of a UAC is Record-Route in reverse order.
fn routes(response: &Facts<'_>) -> Vec<u8> {
    let reversed: Vec<&[u8]> = response.record_route.iter().rev().copied().collect();
    reversed.join(&b", "[..])
}

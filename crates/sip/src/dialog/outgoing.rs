//! Our requests inside a dialog (RFC 3261 s12.2.1), and what the responses to them change.

use super::{Dialog, DialogState, Facts, SentAck};
use crate::{Instant, Method};
use bytes::Bytes;
use std::time::Duration;

/// A request to be written into a dialog. Call-ID, From, To, CSeq, Route, Max-Forwards, Contact and Content-Length are
/// the dialog's to write.
#[derive(Clone, Copy, Debug)]
pub struct NewRequest<'a> {
    /// The method.
    pub method: Method<'a>,
    /// The value of our Via, branch included.
    pub via: &'a [u8],
    /// Further header lines, each with its line end.
    pub headers: &'a [u8],
    /// The body; its Content-Type is among the headers.
    pub body: &'a [u8],
    /// Whether the body is an offer.
    pub sdp: bool,
}

impl<'a> NewRequest<'a> {
    /// With nothing but what the dialog writes.
    #[must_use]
    pub fn new(method: Method<'a>, via: &'a [u8]) -> Self {
        Self {
            method,
            via,
            headers: b"",
            body: b"",
            sdp: false,
        }
    }
}

/// What a response to our request means for the dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reaction {
    /// Nothing special: the application's.
    Pass,
    /// Not even the application's: out of order or a repeat.
    Drop,
    /// A reliable provisional response in order: send PRACK with this RSeq.
    Prack {
        /// For RAck.
        rseq: u32,
    },
    /// 2xx to our INVITE: send [`Dialog::ack`]; if it brought a [late offer](Dialog::late_offer), with the answer.
    Acknowledge,
    /// A repeat of that 2xx: send these bytes again.
    Repeat(Bytes),
    /// Glare: the same request again after this time (RFC 3261 s14.1).
    Retry(Duration),
    /// 422: the Min-SE is noted, the same request again with
    /// [`SessionTimer::request_lines`](super::SessionTimer::request_lines).
    IntervalTooSmall,
    /// The dialog has ended. After 408 and 481 to anything but BYE, a BYE is due (RFC 3261 s12.2.1.2).
    Ended,
}

impl Dialog {
    /// Writes a request and counts CSeq up. A BYE makes the dialog [`Ending`](DialogState::Ending): it is the last
    /// request.
    #[must_use]
    pub fn request(&mut self, new: &NewRequest<'_>) -> Bytes {
        self.local_cseq += 1;
        let cseq = self.local_cseq;
        match new.method {
            Method::Invite => {
                let pending = &mut self.busy_mut().pending;
                pending.out_invite = Some(cseq);
                pending.out_offer = new.sdp;
                pending.late_offer = (!new.sdp).then_some(cseq);
                pending.remote_rseq = None;
            }
            Method::Update => self.busy_mut().pending.out_update = Some(cseq),
            Method::Bye => {
                self.state = DialogState::Ending;
                self.stop();
            }
            _ => {}
        }
        self.write(cseq, new)
    }

    /// The session is over for us; the dialog stays until the BYE is answered.
    fn stop(&mut self) {
        self.session = super::SessionTimer::off();
        if let Some(busy) = &mut self.busy {
            busy.answer = None;
            busy.pending.late_offer = None;
        }
        self.tidy();
    }

    /// Writes the ACK of a 2xx to our INVITE with this CSeq, and keeps it to answer repeats of the 2xx (RFC 3261
    /// s13.2.2.4).
    #[must_use]
    pub fn ack(&mut self, now: Instant, cseq: u32, new: &NewRequest<'_>) -> Bytes {
        let new = NewRequest {
            method: Method::Ack,
            ..*new
        };
        let ack = self.write(cseq, &new);
        let until = now + self.timers.patience();
        let sent = SentAck {
            cseq,
            ack: ack.clone(),
            until,
        };
        let busy = self.busy_mut();
        busy.pending.late_offer.take_if(|late| *late == cseq);
        busy.ack = Some(sent);
        ack
    }

    /// The RAck line of a PRACK, with its line end (RFC 3262 s7.2).
    #[must_use]
    pub fn rack_line(rseq: u32, invite_cseq: u32) -> String {
        format!("RAck: {rseq} {invite_cseq} INVITE\r\n")
    }

    fn write(&self, cseq: u32, new: &NewRequest<'_>) -> Bytes {
        let text = self.text.get();
        let (uri, routes) = route(text.target, text.routes);
        let mut out = Vec::with_capacity(256 + self.text.heap_size() + new.headers.len() + new.body.len());
        for part in [new.method.as_bytes(), b" ", uri, b" SIP/2.0\r\nVia: ", new.via, b"\r\n"] {
            out.extend_from_slice(part);
        }
        if !routes.is_empty() {
            line(&mut out, b"Route: ", &routes);
        }
        line(&mut out, b"Max-Forwards: ", b"70");
        line(&mut out, b"From: ", text.local);
        line(&mut out, b"To: ", text.remote);
        line(&mut out, b"Call-ID: ", text.call_id);
        out.extend_from_slice(b"CSeq: ");
        number(&mut out, cseq as usize);
        line(&mut out, b" ", new.method.as_bytes());
        if !text.contact.is_empty() && !matches!(new.method, Method::Ack | Method::Bye | Method::Prack) {
            line(&mut out, b"Contact: ", text.contact);
        }
        out.extend_from_slice(new.headers);
        out.extend_from_slice(b"Content-Length: ");
        number(&mut out, new.body.len());
        out.extend_from_slice(b"\r\n\r\n");
        out.extend_from_slice(new.body);
        out.into()
    }

    /// A response to a request that [`request`](Self::request) wrote, as its transaction delivered it. A time-out
    /// counts as 408, a failed transport as 503 (RFC 3261 s8.1.3.1). The responses to the INVITE that made the dialog
    /// are [`OutgoingInvite`](super::OutgoingInvite)'s, but for the repeats of its 2xx.
    pub fn handle_response(&mut self, now: Instant, response: &Facts<'_>, entropy: u64) -> Reaction {
        let reaction = match response.method {
            Method::Invite => self.invite_response(now, response),
            Method::Update => self.update_response(now, response),
            Method::Bye if response.status >= 200 => {
                self.terminate();
                return Reaction::Ended;
            }
            _ => Reaction::Pass,
        };
        match (reaction, response.status) {
            // RFC 3261 s12.2.1.2: the peer does not know the dialog, or is gone.
            (Reaction::Pass, 408 | 481) if self.state == DialogState::Confirmed => {
                self.stop();
                Reaction::Ended
            }
            (Reaction::Pass, 422) => {
                self.session.raise_min_se(response.min_se);
                Reaction::IntervalTooSmall
            }
            (Reaction::Pass, 491) if self.state != DialogState::Ending => Reaction::Retry(self.glare_pause(entropy)),
            (reaction, _) => reaction,
        }
    }

    fn invite_response(&mut self, now: Instant, response: &Facts<'_>) -> Reaction {
        let ours = self.pending().out_invite == Some(response.cseq);
        match response.status {
            0..200 if ours => self.order_provisional(response),
            200..300 if ours => {
                self.confirmed(now, response);
                Reaction::Acknowledge
            }
            200..300 => self.repeat_ack(response.cseq),
            300.. if ours => {
                let pending = &mut self.busy_mut().pending;
                pending.out_invite = None;
                pending.out_offer = false;
                pending.late_offer = None;
                self.tidy();
                Reaction::Pass
            }
            _ => Reaction::Drop,
        }
    }

    /// RFC 3262 s4: the first RSeq is anyone's, each further one is one more; what comes out of order waits for its
    /// repeat.
    pub(super) fn order_provisional(&mut self, response: &Facts<'_>) -> Reaction {
        let Some(rseq) = response.rseq.filter(|_| response.reliable && response.status > 100) else {
            return Reaction::Pass;
        };
        let pending = &mut self.busy_mut().pending;
        if pending
            .remote_rseq
            .is_some_and(|latest| latest.checked_add(1) != Some(rseq))
        {
            return Reaction::Drop;
        }
        pending.remote_rseq = Some(rseq);
        pending.out_offer &= !response.sdp;
        Reaction::Prack { rseq }
    }

    /// 2xx to our INVITE, first or later: target and session are refreshed (RFC 3261 s12.2.1.2).
    pub(super) fn confirmed(&mut self, now: Instant, response: &Facts<'_>) {
        if self.state == DialogState::Early {
            self.state = DialogState::Confirmed;
        }
        let pending = &mut self.busy_mut().pending;
        pending.out_invite = None;
        pending.out_offer = false;
        pending.remote_rseq = None;
        self.refreshed(now, response);
    }

    fn refreshed(&mut self, now: Instant, response: &Facts<'_>) {
        if let Some(contact) = response.contact {
            self.text.set_target(contact);
        }
        // Before the 2xx to the INVITE there is no session to time.
        if self.state == DialogState::Confirmed {
            self.session.agreed_as_uac(now, response.session_expires);
        }
        self.tidy();
    }

    pub(super) fn repeat_ack(&self, cseq: u32) -> Reaction {
        let sent = self.busy.as_ref().and_then(|busy| busy.ack.as_ref());
        match sent.filter(|sent| sent.cseq == cseq) {
            Some(sent) => Reaction::Repeat(sent.ack.clone()),
            None => Reaction::Drop,
        }
    }

    fn update_response(&mut self, now: Instant, response: &Facts<'_>) -> Reaction {
        let pending = &mut self.busy_mut().pending;
        if response.status >= 200 && pending.out_update.take_if(|cseq| *cseq == response.cseq).is_some() {
            if response.status < 300 {
                self.refreshed(now, response);
            }
            self.tidy();
        }
        Reaction::Pass
    }

    /// RFC 3261 s14.1: 2.1 to 4 s for the one who chose the Call-ID, 0 to 2 s for the other, in steps of 10 ms.
    fn glare_pause(&self, entropy: u64) -> Duration {
        let steps = if self.caller {
            210 + entropy % 191
        } else {
            entropy % 201
        };
        Duration::from_millis(steps * 10)
    }
}

fn line(out: &mut Vec<u8>, start: &[u8], value: &[u8]) {
    for part in [start, value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

fn number(out: &mut Vec<u8>, number: usize) {
    use std::io::Write;
    write!(out, "{number}").expect("memory takes everything");
}

/// Request-URI and Route (RFC 3261 s12.2.1.1): behind a strict router its address becomes the Request-URI and the
/// target the last route.
fn route<'a>(target: &'a [u8], routes: &'a [u8]) -> (&'a [u8], std::borrow::Cow<'a, [u8]>) {
    let open = routes
        .iter()
        .position(|byte| *byte == b'<')
        .map_or(routes.len(), |at| at + 1);
    let close = routes[open..]
        .iter()
        .position(|byte| *byte == b'>')
        .map_or(routes.len(), |at| open + at);
    let first = &routes[open..close];
    if first.is_empty() || is_loose(first) {
        return (target, routes.into());
    }
    let rest = routes[close..]
        .iter()
        .position(|byte| *byte == b',')
        .map_or(&b""[..], |at| &routes[close + at + 1..]);
    let rest = rest.trim_ascii();
    let comma: &[u8] = if rest.is_empty() { b"" } else { b", " };
    (first, [rest, comma, b"<", target, b">"].concat().into())
}

fn is_loose(uri: &[u8]) -> bool {
    let parameters = uri.split(|byte| *byte == b'?').next().unwrap_or_default();
    parameters.split(|byte| *byte == b';').skip(1).any(|parameter| {
        let name = parameter.split(|byte| *byte == b'=').next().unwrap_or_default();
        name.trim_ascii().eq_ignore_ascii_case(b"lr")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_strict_router_gets_its_own_address_as_request_uri() {
        let (uri, routes) = route(b"sip:bob@pc", b"<sip:strict.example>, <sip:p2;lr>");
        assert_eq!(
            (uri, &routes[..]),
            (&b"sip:strict.example"[..], &b"<sip:p2;lr>, <sip:bob@pc>"[..])
        );
        let (uri, routes) = route(b"sip:bob@pc", b"<sip:strict.example>");
        assert_eq!((uri, &routes[..]), (&b"sip:strict.example"[..], &b"<sip:bob@pc>"[..]));
        for loose in [&b"<sip:p1;LR>"[..], b"<sip:p1;x=y;lr=on>, <sip:p2>", b""] {
            assert_eq!(route(b"sip:bob@pc", loose), (&b"sip:bob@pc"[..], loose.into()));
        }
    }
}

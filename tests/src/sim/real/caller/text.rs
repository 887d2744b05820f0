//! A caller's requests as they go out.

use super::{Asking, Call, Ends, HOLD, HOST};
use sip::{HeaderName, Limits, Message, Method, OwnedMessage, RequestBuilder};

impl Call {
    pub(super) fn build(&self, what: Asking) -> Vec<u8> {
        let method = match what {
            Asking::Invite | Asking::Reinvite => Method::Invite,
            Asking::Cancel => Method::Cancel,
            Asking::Info => Method::Info,
            Asking::Bye => Method::Bye,
        };
        self.build_as(method, self.cseq, "")
    }

    pub(super) fn build_as(&self, method: Method<'_>, cseq: u32, suffix: &str) -> Vec<u8> {
        let (number, attempt) = (self.number, self.attempt);
        let port = 10_000 + number;
        let mut out = Vec::new();
        let uri = self
            .peer
            .as_ref()
            .map_or(b"sip:answer@192.0.2.1".as_slice(), |p| &p.contact);
        let to = match &self.peer {
            Some(peer) => format!("<sip:answer@192.0.2.1>;tag={}", String::from_utf8_lossy(&peer.tag)),
            None => "<sip:answer@192.0.2.1>".to_owned(),
        };
        let mut request = RequestBuilder::new(&mut out, method, uri)
            .other(
                "Via",
                format!("SIP/2.0/UDP {HOST}:{port};branch=z9hG4bKc{number}a{attempt}r{cseq}{suffix}").as_bytes(),
            )
            .other("Max-Forwards", b"70")
            .other(
                "From",
                format!("<sip:c{number}.{attempt}@{HOST}>;tag=f{number}a{attempt}").as_bytes(),
            )
            .other("To", to.as_bytes())
            .other("Call-ID", format!("{number}.{attempt}@sim").as_bytes())
            .cseq(cseq, method)
            .other("Contact", format!("<sip:c{number}.{attempt}@{HOST}:{port}>").as_bytes());
        if method == Method::Invite && self.peer.is_none() {
            let hold = if self.ends == Ends::Expires { HOLD } else { 600_000 };
            request = request.other("Subject", format!("{} {hold}", self.ring).as_bytes());
        }
        for route in self.peer.iter().flat_map(|p| &p.routes) {
            request = request.other("Route", route);
        }
        request.finish();
        out
    }

    /// CANCEL, or the ACK of a refusal: the INVITE's branch, and otherwise what its answer or itself says (RFC 3261 s9.1, s17.1.1.3).
    pub(super) fn like_invite(&self, method: Method<'_>, invite: &[u8], answer: Option<&Message<'_>>) -> Vec<u8> {
        let invite = OwnedMessage::scan(invite.to_vec().into(), &Limits::default()).expect("we wrote it");
        let invite = invite.as_message();
        let cseq = invite.cseq().expect("we wrote it").number;
        let mut out = Vec::new();
        RequestBuilder::new(&mut out, method, invite.request_uri_bytes())
            .copy(&invite, HeaderName::Via)
            .other("Max-Forwards", b"70")
            .copy(&invite, HeaderName::Route)
            .copy(&invite, HeaderName::From)
            .copy(answer.unwrap_or(&invite), HeaderName::To)
            .copy(&invite, HeaderName::CallId)
            .cseq(cseq, method)
            .finish();
        out
    }
}

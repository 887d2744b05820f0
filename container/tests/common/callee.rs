//! Whoever the cluster calls.

use sip::{HeaderName, Message};

use super::world::{PARTITION, World, scan};

/// A callee with the INVITE that reached it.
#[derive(Clone)]
pub struct Callee {
    pub invite: String,
    pub tag: String,
}

/// The offer and the answer of these tests.
pub const SDP: &str = "v=0\r\ns=callee\r\n";

fn header(text: &str, name: HeaderName) -> String {
    let message = scan(text.as_bytes());
    let wire: Message<'_> = message.as_message();
    String::from_utf8_lossy(wire.header(name).unwrap_or_default()).into_owned()
}

/// The value of a header field.
#[allow(dead_code, reason = "not every test that shares this needs it")]
pub fn value(text: &str, name: HeaderName) -> String {
    header(text, name)
}

/// A response as a proxy passes it on, to any request of ours; `extra` are header lines.
pub fn response(world: &World, request: &str, status: u16, tag: &str, extra: &str, body: &str) -> String {
    let get = |name| header(request, name);
    let mut to = get(HeaderName::To);
    // Within a dialog the target stays where the request has found it.
    let mut contact = request.split(' ').nth(1).unwrap_or_default().to_owned();
    if !to.contains(";tag=") {
        to = format!("{to};tag={tag}");
        contact = format!("sip:{tag}@203.0.113.7:5090");
    }
    let token = world.keyring.token(PARTITION);
    let kind = if body.is_empty() {
        ""
    } else {
        "Content-Type: application/sdp\r\n"
    };
    format!(
        "SIP/2.0 {status} Because\r\nVia: {}\r\nRecord-Route: <sip:192.0.2.1:5060;lr;a={token};fl=flow2>\r\nFrom: {}\r\nTo: {to}\r\n\
         Call-ID: {}\r\nCSeq: {}\r\nContact: <{contact}>\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
        get(HeaderName::Via),
        get(HeaderName::From),
        get(HeaderName::CallId),
        get(HeaderName::Cseq),
        body.len()
    )
}

impl Callee {
    pub fn new(invite: &str, tag: &str) -> Self {
        assert!(invite.starts_with("INVITE "), "{invite}");
        Self {
            invite: invite.into(),
            tag: tag.into(),
        }
    }

    /// A response to the INVITE; a provisional or positive one with a session description if it says so.
    pub fn respond(&self, world: &World, status: u16, extra: &str, body: &str) -> String {
        response(world, &self.invite, status, &self.tag, extra, body)
    }

    /// A request within the dialog, as a proxy passes it on.
    pub fn request(&self, world: &World, method: &str, cseq: u32, extra: &str, body: &str) -> String {
        let kind = if body.is_empty() || extra.contains("Content-Type") {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let branch_method = if method == "CANCEL" { "INVITE" } else { method };
        let text = format!(
            "{method} sip:192.0.2.1:5060 SIP/2.0\r\nVia: SIP/2.0/UDP 203.0.113.7:5090;branch=z9hG4bK{}{branch_method}{cseq}\r\n\
             From: {};tag={}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {cseq} {method}\r\nContact: <sip:{}@203.0.113.7:5090>\r\n\
             Max-Forwards: 69\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            self.tag,
            header(&self.invite, HeaderName::To),
            self.tag,
            header(&self.invite, HeaderName::From),
            header(&self.invite, HeaderName::CallId),
            self.tag,
            body.len()
        );
        world.via_proxy(&text, "UDP")
    }
}

//! What the dialog tests share: a clock in milliseconds, messages, a called dialog.
#![allow(dead_code)] // Each test file uses its share.

pub mod phone;
pub mod random;

use bytes::Bytes;
use sip::dialog::{Answer, Dialog, DialogEffect, Facts, SessionPolicy, Verdict};
use sip::transaction::Timers;
use sip::{Instant, Limits, Method, OwnedMessage, Refresher};

pub fn at(millis: u64) -> Instant {
    Instant::from_micros(1_000_000_000 + millis * 1000)
}

/// No session timer unless the peer asks.
pub const QUIET: SessionPolicy = SessionPolicy {
    interval: None,
    min_se: 90,
    refresher: Refresher::Uac,
};

pub fn scan(bytes: impl Into<Bytes>) -> OwnedMessage {
    OwnedMessage::scan(bytes.into(), &Limits::default()).expect("a message")
}

pub fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("text")
}

/// A request of Alice to Bob; in a dialog if `to_tag` is given. `extra` are header lines; a session description is
/// added if one of them names it.
pub fn request(method: &str, cseq: u32, to_tag: Option<&str>, extra: &str) -> OwnedMessage {
    let tag = to_tag.map(|tag| format!(";tag={tag}")).unwrap_or_default();
    let contact = match method {
        "INVITE" | "UPDATE" => "Contact: <sip:alice@pc33.atlanta.example>\r\n",
        _ => "",
    };
    let body = if extra.contains("application/sdp") {
        "v=0\r\n"
    } else {
        ""
    };
    scan(format!(
        "{method} sip:bob@biloxi.example SIP/2.0\r\nVia: SIP/2.0/UDP pc33.atlanta.example;branch=z9hG4bK{method}{cseq}\r\n\
         Max-Forwards: 70\r\nRecord-Route: <sip:p2.example;lr>\r\nRecord-Route: <sip:p1.example;lr>\r\n\
         From: Alice <sip:alice@atlanta.example>;tag=1928\r\nTo: Bob <sip:bob@biloxi.example>{tag}\r\nCall-ID: a84b4c\r\n\
         CSeq: {cseq} {method}\r\n{contact}{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

/// A response to Bob's request in the same dialog, or to his INVITE that made it: `from` is Bob's.
pub fn response(status: u16, method: &str, cseq: u32, to_tag: &str, extra: &str) -> OwnedMessage {
    let tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    let body = if extra.contains("application/sdp") {
        "v=0\r\n"
    } else {
        ""
    };
    scan(format!(
        "SIP/2.0 {status} X\r\nVia: SIP/2.0/UDP b;branch=z9hG4bKout\r\nRecord-Route: <sip:p2.example;lr>\r\n\
         Record-Route: <sip:p1.example;lr>\r\nFrom: <sip:bob@biloxi.example>;tag=b0b\r\nTo: <sip:alice@atlanta.example>{tag}\r\n\
         Call-ID: out1\r\nCSeq: {cseq} {method}\r\n{extra}Content-Length: {}\r\n\r\n{body}",
        body.len()
    ))
}

pub fn receive(dialog: &mut Dialog, millis: u64, message: &OwnedMessage) -> (Verdict, Vec<DialogEffect>) {
    let mut out = Vec::new();
    let facts = Facts::of(&message.as_message());
    let verdict = dialog.receive(at(millis), &facts, &QUIET, 7, &mut out);
    (verdict, out)
}

pub fn respond(dialog: &mut Dialog, millis: u64, method: Method<'_>, cseq: u32, status: u16) -> Vec<DialogEffect> {
    let answer = Answer {
        method,
        cseq,
        status,
        rseq: None,
        sdp: false,
    };
    let mut out = Vec::new();
    dialog.respond(at(millis), answer, Bytes::from(status.to_string()), &mut out);
    out
}

pub fn tick(dialog: &mut Dialog, millis: u64) -> Vec<DialogEffect> {
    let mut out = Vec::new();
    dialog.handle_timeout(at(millis), &mut out);
    out
}

/// Bob's dialog of INVITE 1, early.
pub fn early() -> Dialog {
    called("", &QUIET)
}

pub fn called(extra: &str, policy: &SessionPolicy) -> Dialog {
    let invite = request("INVITE", 1, None, extra);
    let facts = Facts::of(&invite.as_message());
    Dialog::from_invite(&facts, b"b0b", b"<sip:bob@192.0.2.4>", policy, Timers::default()).expect("a dialog")
}

/// The same after 200 at 0 ms and its ACK at 100 ms.
pub fn talking() -> Dialog {
    let mut dialog = early();
    respond(&mut dialog, 0, Method::Invite, 1, 200);
    receive(&mut dialog, 100, &request("ACK", 1, Some("b0b"), ""));
    dialog
}

/// The effect that gives a response to its transaction.
pub fn gives(invite: bool, cseq: u32, status: u16) -> DialogEffect {
    DialogEffect::Respond {
        invite,
        cseq,
        status,
        response: Bytes::from(status.to_string()),
    }
}

/// The verdict that refuses with this status.
pub fn rejects(status: u16) -> Verdict {
    Verdict::Reject {
        status,
        retry_after: None,
        min_se: None,
    }
}

//! What one side says, in words for the other.

use bytes::Bytes;
use sip::HeaderName;

use super::super::{Message, Outgoing, Reply, Response};
use super::headers;

/// A request with the header fields of the one that it passes on, and its body.
pub(super) fn passed_on(mut outgoing: Outgoing, message: Message<'_>, body: Bytes) -> Outgoing {
    for (name, value) in headers::passing(message.wire(), false) {
        outgoing = outgoing.header(&name, value);
    }
    if body.is_empty() {
        return outgoing;
    }
    outgoing.body(&content_type(message), body)
}

pub(super) fn body_of(response: &Response<'_>) -> Bytes {
    let message = response.message();
    message.map_or_else(Bytes::new, |message| Bytes::copy_from_slice(message.body()))
}

/// What the one side answers, for the other.
pub(super) fn answer(response: &Response<'_>, body: Bytes) -> Reply {
    let status = status_for(response);
    let mut reply = Reply::new(status);
    let Some(message) = response.message() else {
        return reply;
    };
    let wire = message.wire();
    if status == response.status() {
        reply = reply.reason(&String::from_utf8_lossy(wire.reason()));
    }
    for (name, value) in headers::passing(wire, (300..400).contains(&status)) {
        // It goes with the status that is not passed on.
        if status != response.status() && name.eq_ignore_ascii_case(HeaderName::RetryAfter.as_str()) {
            continue;
        }
        reply = reply.header(&name, value);
    }
    if body.is_empty() {
        return reply;
    }
    reply.body(&content_type(message), body)
}

/// A failure of one side in the words for the other.
fn status_for(response: &Response<'_>) -> u16 {
    match (response.status(), response.message().is_some()) {
        // No way to the callee, for now.
        (503, false) => 480,
        // RFC 3261 s16.7 step 6: the callee is overloaded, not this cluster, which the caller would avoid.
        (503, true) => 500,
        // The other side wants credentials, an interval or an extension for a dialog that is not the caller's.
        (420 | 421 | 422 | 494, true) => 500,
        (status, _) => status,
    }
}

pub(super) fn content_type(message: Message<'_>) -> String {
    let kind = message
        .header(HeaderName::ContentType)
        .unwrap_or(b"application/octet-stream");
    String::from_utf8_lossy(kind).into_owned()
}

/// No instance leads the media: the call is refused, or the change to it. 503 would keep the caller away from this cluster's one address.
pub(super) fn unled() -> Reply {
    Reply::new(500).header(HeaderName::RetryAfter.as_str(), b"5")
}

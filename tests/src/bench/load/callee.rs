//! The callee: answers at once and remembers nothing.

use std::io::Write;
use std::net::SocketAddr;

use super::caller::SDP;
use super::lines::{Lines, is};

/// Answers a request: INVITE by 180 and 200, BYE by 200.
pub fn answer(request: &[u8], local: SocketAddr, mut send: impl FnMut(&[u8])) {
    let invite = request.starts_with(b"INVITE ");
    if !invite && !request.starts_with(b"BYE ") && !request.starts_with(b"OPTIONS ") {
        return;
    }
    let mut copied = Vec::with_capacity(1024);
    for line in Lines(request).skip(1) {
        let to = is(line, b"To:");
        let copy = to || is(line, b"Via:") || is(line, b"From:") || is(line, b"Call-ID:") || is(line, b"CSeq:");
        if copy || (invite && is(line, b"Record-Route:")) {
            copied.extend_from_slice(line);
            if to && invite {
                copied.extend_from_slice(b";tag=callee");
            }
            copied.extend_from_slice(b"\r\n");
        }
    }
    let mut message = Vec::with_capacity(1536);
    if invite {
        message.extend_from_slice(b"SIP/2.0 180 Ringing\r\n");
        message.extend_from_slice(&copied);
        let _ = write!(message, "Contact: <sip:svc@{local}>\r\nContent-Length: 0\r\n\r\n");
        send(&message);
        message.clear();
    }
    message.extend_from_slice(b"SIP/2.0 200 OK\r\n");
    message.extend_from_slice(&copied);
    let _ = if invite {
        let length = SDP.len();
        write!(
            message,
            "Contact: <sip:svc@{local}>\r\nContent-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{SDP}"
        )
    } else {
        write!(message, "Contact: <sip:svc@{local}>\r\nContent-Length: 0\r\n\r\n")
    };
    send(&message);
}

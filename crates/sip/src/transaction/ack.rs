//! Requests that follow from an INVITE of ours: its ACK after 300-699 (RFC 3261 s17.1.1.3) and its CANCEL (s9.1).

use bytes::Bytes;

/// The ACK of an INVITE that was refused; `to` is the To of the response.
#[must_use]
pub fn of_refused(invite: &[u8], to: &[u8]) -> Bytes {
    derive(invite, b"ACK", Some(to))
}

/// The CANCEL of an INVITE. Its branch is the INVITE's, so it is a client transaction of its own by method only.
#[must_use]
pub fn cancel(invite: &[u8]) -> Bytes {
    derive(invite, b"CANCEL", None)
}

/// Request-URI, topmost Via, Route, From, Call-ID and the number of CSeq are the INVITE's; To is the INVITE's unless
/// given.
fn derive(invite: &[u8], method: &[u8], to: Option<&[u8]>) -> Bytes {
    let mut out = Vec::with_capacity(invite.len().min(1024));
    let uri = invite.split(|byte| *byte == b' ').nth(1).unwrap_or_default();
    for part in [method, b" ", uri, b" SIP/2.0\r\n"] {
        out.extend_from_slice(part);
    }
    let mut via = None;
    for (name, value) in Headers(invite) {
        let canonical: &[u8] = match name.to_ascii_lowercase().as_slice() {
            b"via" | b"v" if via.replace(value).is_none() => b"Via",
            b"route" => b"Route",
            b"from" | b"f" => b"From",
            b"call-id" | b"i" => b"Call-ID",
            b"to" | b"t" => {
                line(&mut out, b"To", to.unwrap_or(value));
                continue;
            }
            b"cseq" => {
                let digits = value.iter().take_while(|byte| byte.is_ascii_digit()).count();
                line(&mut out, b"CSeq", &[&value[..digits], b" ", method].concat());
                continue;
            }
            _ => continue,
        };
        line(&mut out, canonical, value);
    }
    line(&mut out, b"Max-Forwards", b"70");
    line(&mut out, b"Content-Length", b"0");
    out.extend_from_slice(b"\r\n");
    out.into()
}

fn line(out: &mut Vec<u8>, name: &[u8], value: &[u8]) {
    out.extend_from_slice(name);
    out.extend_from_slice(b": ");
    // The To of a response may be folded; here it stands in one line.
    out.extend(
        value
            .iter()
            .map(|byte| if matches!(byte, b'\r' | b'\n') { b' ' } else { *byte }),
    );
    out.extend_from_slice(b"\r\n");
}

/// The header lines of a request that we made ourselves: no folding, one Via.
struct Headers<'a>(&'a [u8]);

impl<'a> Iterator for Headers<'a> {
    type Item = (&'a [u8], &'a [u8]);

    fn next(&mut self) -> Option<Self::Item> {
        // The first line is cut off by the first call, each header line by the one after it.
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        self.0 = &self.0[end + 1..];
        let end = self.0.iter().position(|byte| *byte == b'\n')?;
        let text = self.0[..end].trim_ascii();
        let colon = text.iter().position(|byte| *byte == b':')?;
        Some((text[..colon].trim_ascii(), text[colon + 1..].trim_ascii()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const INVITE: &[u8] = b"INVITE sip:bob@10.0.0.1 SIP/2.0\r\n\
        Via: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\n\
        Route: <sip:p1;lr>\r\n\
        Route: <sip:p2;lr>\r\n\
        Max-Forwards: 5\r\n\
        From: A <sip:a@a.example>;tag=1\r\n\
        To: <sip:bob@b.example>\r\n\
        Call-ID: 77\r\n\
        CSeq: 5 INVITE\r\n\
        Content-Length: 8\r\n\r\nTo: x\r\n\r";

    #[test]
    fn an_ack_takes_the_routes_of_its_invite_and_the_to_of_its_response() {
        let ack = of_refused(INVITE, b"<sip:bob@b.example>;tag=9");
        let expected = "ACK sip:bob@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\nRoute: <sip:p1;lr>\r\n\
            Route: <sip:p2;lr>\r\nFrom: A <sip:a@a.example>;tag=1\r\nTo: <sip:bob@b.example>;tag=9\r\nCall-ID: 77\r\n\
            CSeq: 5 ACK\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n";
        assert_eq!(String::from_utf8_lossy(&ack), expected);
    }

    #[test]
    fn a_cancel_differs_from_its_invite_by_method_only() {
        let text = String::from_utf8(cancel(INVITE).to_vec()).expect("text");
        assert!(text.starts_with("CANCEL sip:bob@10.0.0.1 SIP/2.0\r\nVia: SIP/2.0/UDP a.example;branch=z9hG4bK1\r\n"));
        assert!(text.contains("\r\nTo: <sip:bob@b.example>\r\n") && text.contains("\r\nCSeq: 5 CANCEL\r\n"));
    }

    #[test]
    fn bytes_that_are_no_request_make_no_panic() {
        for bytes in [
            &b""[..],
            b"\n",
            b"INVITE",
            b"INVITE x\r\n:\r\n\r\n",
            b"\xff \xff\r\nCSeq:\r\nVia\r\n",
        ] {
            assert!(cancel(bytes).starts_with(b"CANCEL"));
        }
    }
}

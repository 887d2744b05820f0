//! What a message must be before anyone works on it (RFC 3261 s8.1.1, s8.2, s16.3), and how it is refused.
//!
//! [`check`] is for everyone. What depends on the role stands beside it: a proxy also looks at [`check_hops`] and
//! [`check_scheme`] and at Proxy-Require by [`unsupported`], a user agent at [`check_scheme`] and at Require.

use super::header::HeaderName;
use super::message::{Message, Method};
use super::name_addr::NameAddr;
use super::params::closing_quote;
use super::scan::{Fault, is_lws, is_token};
use super::uri::Scheme;
use super::via::Via;

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status of the answer.
    pub status: u16,
    /// Its reason phrase; also the name under which a drop is counted.
    pub reason: &'static str,
    /// Whether an answer may be sent: never to a response or an ACK, nor when the topmost Via does not say where to.
    pub answer: bool,
}

/// What must stand there, and once only (RFC 3261 s8.1.1, s20).
const SINGLE: [(HeaderName, &str, &str); 4] = [
    (HeaderName::From, "No From", "Several From"),
    (HeaderName::To, "No To", "Several To"),
    (HeaderName::CallId, "No Call-ID", "Several Call-ID"),
    (HeaderName::Cseq, "No CSeq", "Several CSeq"),
];

/// Reasonable syntax (RFC 3261 s16.3, step 1), and the fields that every message needs (s8.1.1). Max-Forwards may be
/// absent (s16.3, step 3).
///
/// # Errors
/// How the message is to be refused.
pub fn check(message: &Message<'_>) -> Result<(), Reject> {
    match problem(message) {
        None => Ok(()),
        Some((status, reason)) => Err(reject(message, status, reason)),
    }
}

/// The hop limit (RFC 3261 s16.3, step 3); a proxy's affair, as a user agent takes a request with 0.
///
/// # Errors
/// 483 when the message may not be forwarded.
pub fn check_hops(message: &Message<'_>) -> Result<(), Reject> {
    match message.max_forwards() {
        Some(0) => Err(reject(message, 483, "Too Many Hops")),
        _ => Ok(()),
    }
}

/// The scheme of the Request-URI (RFC 3261 s8.2.2.1, s16.3 step 2): sip, sips, tel and urn are understood here.
///
/// # Errors
/// 416 for any other.
pub fn check_scheme(message: &Message<'_>) -> Result<(), Reject> {
    match message.request_uri().map(|uri| uri.scheme) {
        Some(Scheme::Other(_)) => Err(reject(message, 416, "Unsupported URI Scheme")),
        _ => Ok(()),
    }
}

/// The option tags of Require or Proxy-Require that are not among `supported`: what the Unsupported of a 420 lists
/// (RFC 3261 s8.2.2.3, s16.3 step 5). ACK and CANCEL are to be spared.
pub fn unsupported<'a>(
    message: &Message<'a>,
    name: HeaderName,
    supported: &'a [&'a [u8]],
) -> impl Iterator<Item = &'a [u8]> {
    let known = move |option: &[u8]| supported.iter().any(|known| known.eq_ignore_ascii_case(option));
    message
        .values(name)
        .map(|value| value.bytes)
        .filter(move |option| !known(option))
}

fn reject(message: &Message<'_>, status: u16, reason: &'static str) -> Reject {
    // RFC 4475 s3.3.1: what else an answer is made of may lack, it is then left out.
    let answer = message.is_request() && message.method() != Method::Ack && message.via().is_some();
    Reject { status, reason, answer }
}

fn problem(message: &Message<'_>) -> Option<(u16, &'static str)> {
    let index = message.index();
    if let Some(fault) = index.fault() {
        return Some(of_fault(fault));
    }
    for (name, absent, repeated) in SINGLE {
        if index.first(name).is_none() {
            return Some((400, absent));
        }
        if index.is_repeated(name) {
            return Some((400, repeated));
        }
    }
    let mut top = None;
    for value in message.values(HeaderName::Via) {
        let Some(via) = Via::parse(value.bytes).filter(sane_via) else {
            return Some((400, "Malformed Via"));
        };
        // RFC 4475 s3.3.10: followed blindly, such a Via would make a proxy flood its network.
        if message.is_response() && via.host == b"255.255.255.255" {
            return Some((400, "Via with a broadcast address"));
        }
        top.get_or_insert(via);
    }
    let Some(top) = top else {
        return Some((400, "No Via"));
    };
    if !message.from().is_some_and(|from| sane_address(&from)) {
        return Some((400, "Malformed From"));
    }
    if !message.to().is_some_and(|to| sane_address(&to)) {
        return Some((400, "Malformed To"));
    }
    if message.call_id().is_none_or(|id| id.iter().any(|b| is_lws(*b))) {
        return Some((400, "Malformed Call-ID"));
    }
    let Some(cseq) = message.cseq() else {
        return Some((400, "Malformed CSeq"));
    };
    if message.is_request() {
        request_problem(message, &top, cseq.method)
    } else {
        None
    }
}

fn request_problem(message: &Message<'_>, top: &Via<'_>, in_cseq: Method<'_>) -> Option<(u16, &'static str)> {
    match message.method() {
        method if method == in_cseq => {}
        // RFC 4475 s3.1.2.18: of both faults, the unknown method is the one to be named.
        Method::Other(_) => return Some((501, "Not Implemented")),
        _ => return Some((400, "CSeq does not fit the method")),
    }
    // RFC 4475 s3.2.1: the cookie without an id behind it would make one transaction of all of the sender's.
    if top.branch() == Some(b"z9hG4bK") {
        return Some((400, "Empty branch"));
    }
    let uri = match message.request_uri() {
        None => return Some((400, "Malformed Request-URI")),
        Some(uri) => uri,
    };
    // RFC 3261 s19.1.1, the table: header parts are not allowed in a Request-URI.
    if !uri.headers.is_empty() {
        return Some((400, "Request-URI with header parts"));
    }
    let index = message.index();
    if index.is_repeated(HeaderName::MaxForwards) {
        return Some((400, "Several Max-Forwards"));
    }
    if index.first(HeaderName::MaxForwards).is_some() && message.max_forwards().is_none() {
        return Some((400, "Malformed Max-Forwards"));
    }
    let bad = |value: &[u8]| !NameAddr::parse(value).is_some_and(|address| sane_contact(&address));
    if message.values(HeaderName::Contact).any(|value| bad(value.bytes)) {
        return Some((400, "Malformed Contact"));
    }
    if message
        .values(HeaderName::Route)
        .any(|value| NameAddr::parse(value.bytes).and_then(|route| route.uri()).is_none())
    {
        return Some((400, "Malformed Route"));
    }
    None
}

const fn of_fault(fault: Fault) -> (u16, &'static str) {
    match fault {
        Fault::Version => (505, "Version Not Supported"),
        Fault::RequestLine => (400, "Malformed request line"),
        Fault::StatusLine => (400, "Malformed status line"),
        Fault::HeaderLine => (400, "Malformed header field"),
        Fault::BareCr => (400, "CR without LF"),
        Fault::ContentLength => (400, "Malformed Content-Length"),
        Fault::DuplicateContentLength => (400, "Several Content-Length"),
        Fault::ShortBody => (400, "Body shorter than Content-Length"),
    }
}

/// Parameters have a name: `;;` is one separator too many.
fn sane_via(via: &Via<'_>) -> bool {
    sane_params(via.params.as_bytes())
}

fn sane_params(params: &[u8]) -> bool {
    let mut named = true;
    let mut at = 0;
    while let Some(byte) = params.get(at) {
        at += 1;
        match byte {
            b';' if !named => return false,
            b';' => named = false,
            b'"' => match closing_quote(params, at - 1) {
                Some(close) => at = close + 1,
                None => return false,
            },
            // A bracket would hide what follows from whoever looks for the next separator.
            b'<' | b'>' => return false,
            b' ' | b'\t' | b'\r' | b'\n' => {}
            _ => {
                named = true;
                at += params[at..].iter().take_while(|b| is_token(**b)).count();
            }
        }
    }
    // A lone semicolon at the end is so common that it passes.
    true
}

/// An address of any scheme, well formed around its URI.
fn sane_address(address: &NameAddr<'_>) -> bool {
    has_scheme(address.uri_bytes)
        && (is_bare(address) || is_tight(address))
        && sane_display(address.display)
        && sane_params(address.params.as_bytes())
        && address.params.get(b"tag") != Some(b"")
}

/// No space between the brackets and the URI (RFC 4475 s3.1.2.14).
fn is_tight(address: &NameAddr<'_>) -> bool {
    let start = address.uri_bytes.as_ptr() as usize - address.raw.as_ptr() as usize;
    let end = start + address.uri_bytes.len();
    address.raw.get(start.wrapping_sub(1)) == Some(&b'<') && address.raw.get(end) == Some(&b'>')
}

fn has_scheme(uri: &[u8]) -> bool {
    let length = uri
        .iter()
        .take_while(|b| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.'))
        .count();
    length > 0 && uri.get(length) == Some(&b':') && !uri.iter().any(|b| is_lws(*b) || matches!(b, b'"' | b'<'))
}

/// `*( token LWS )`, or a quoted string (RFC 3261 s25.1, display-name). UTF-8 is let through: too many send it.
fn sane_display(display: &[u8]) -> bool {
    display.first() == Some(&b'"') || display.iter().all(|b| is_token(*b) || is_lws(*b) || *b >= 0x80)
}

/// RFC 3261 s20.10: a URI with a question mark, comma or semicolon must stand in brackets.
fn sane_contact(address: &NameAddr<'_>) -> bool {
    address.uri_bytes == b"*" || sane_address(address) && !(is_bare(address) && address.uri_bytes.contains(&b'?'))
}

/// Whether the address stands there without brackets.
fn is_bare(address: &NameAddr<'_>) -> bool {
    address.raw.as_ptr() == address.uri_bytes.as_ptr()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Index, Limits};

    fn verdict(source: &str) -> Result<(), (u16, bool)> {
        let mut index = Index::new();
        index.scan(source.as_bytes(), &Limits::default()).unwrap();
        check(&Message::new(source.as_bytes(), &index)).map_err(|reject| (reject.status, reject.answer))
    }

    const GOOD: &str = "BYE sip:b@h SIP/2.0\r\nVia: SIP/2.0/TCP [2001:db8::1]:5060 ;branch=z9hG4bK1\r\n\
        From: <sip:a@h>;tag=1\r\nTo: \"B\" <tel:+1;phone-context=x>;tag=2\r\nCall-ID: 7\r\nCSeq: 1 BYE\r\n\r\n";

    #[test]
    fn what_the_rfc_demands_is_demanded() {
        assert_eq!(verdict(GOOD), Ok(()));
        for (part, instead, expected) in [
            ("Call-ID: 7\r\n", "", (400, true)),
            ("Via:", "Viah:", (400, false)),
            ("/TCP [", "/TCP ", (400, false)),
            ("CSeq: 1 BYE", "CSeq: 1 INVITE", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 2147483648 BYE", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\nMax-Forwards: 256", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\nTo: <sip:b@h>", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\nno colon", (400, true)),
            ("BYE sip", "BYEBYE sip", (501, true)),
            ("z9hG4bK1", "z9hG4bK", (400, true)),
            ("<tel", "< tel", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\na: \rb", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\nl: 1", (400, true)),
            ("CSeq: 1 BYE", "CSeq: 1 BYE\r\nRoute: <sip:p", (400, true)),
            ("\"B\"", "\"B", (400, true)),
            ("sip:b@h SIP", "sip:b@ SIP", (400, true)),
            ("SIP/2.0\r\n", "SIP/3.0\r\n", (505, true)),
        ] {
            assert_eq!(
                verdict(&GOOD.replacen(part, instead, 1)),
                Err(expected),
                "{part} -> {instead}"
            );
        }
    }

    #[test]
    fn ack_and_responses_are_never_answered() {
        let ack = GOOD
            .replace("BYE", "ACK")
            .replace("Max-Forwards", "")
            .replace("From: ", "From: \"");
        assert_eq!(verdict(&ack), Err((400, false)));
        let response = GOOD.replace("BYE sip:b@h SIP/2.0", "SIP/2.0 200 OK");
        assert_eq!(verdict(&response), Ok(()));
        assert_eq!(verdict(&response.replace("200", "2000")), Err((400, false)));
    }
}

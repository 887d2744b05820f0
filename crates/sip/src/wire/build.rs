//! Messages of our own, written straight into the output buffer.
//!
//! A value may come from a folded header field: line ends in values are written as one space (RFC 3261 s7.3.1), so
//! nothing that is handed in can end its header field early.

use memchr::memchr2;

use super::edit::put_decimal;
use super::header::HeaderName;
use super::message::{Message, Method};
use super::name_addr::NameAddr;
use super::scan::is_lws;

/// Writes a response to a request (RFC 3261 s8.2.6).
#[derive(Debug)]
#[must_use = "a message ends with `finish` or `body`"]
pub struct ResponseBuilder<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> ResponseBuilder<'o> {
    /// Appends to `out` the status line, all Vias, From, To with `to_tag` if the request had none, Call-ID and CSeq; of
    /// a dialog-forming request also Record-Route (s12.1.1, for 101 to 299), and Timestamp into a 100.
    pub fn new(out: &'o mut Vec<u8>, request: &Message<'_>, status: u16, reason: &str, to_tag: Option<&[u8]>) -> Self {
        out.extend_from_slice(b"SIP/2.0 ");
        put_decimal(out, u32::from(status));
        out.push(b' ');
        put_value(out, reason.as_bytes());
        out.extend_from_slice(b"\r\n");
        copy_all(out, request, HeaderName::Via);
        let forms_dialog = matches!(
            request.method(),
            Method::Invite | Method::Subscribe | Method::Refer | Method::Notify
        );
        if forms_dialog && (101..300).contains(&status) {
            copy_all(out, request, HeaderName::RecordRoute);
        }
        copy_first(out, request, HeaderName::From);
        if let Some(to) = request.header(HeaderName::To) {
            start(out, HeaderName::To.as_str());
            put_value(out, to);
            let tagged = NameAddr::parse(to).is_some_and(|to| to.tag().is_some());
            if let Some(tag) = to_tag.filter(|_| !tagged) {
                // A value may end in a semicolon that nothing follows.
                let semicolon = if to.ends_with(b";") { "" } else { ";" };
                out.extend_from_slice(semicolon.as_bytes());
                out.extend_from_slice(b"tag=");
                put_value(out, tag);
            }
            out.extend_from_slice(b"\r\n");
        }
        copy_first(out, request, HeaderName::CallId);
        copy_first(out, request, HeaderName::Cseq);
        if status == 100 {
            copy_first(out, request, HeaderName::Timestamp);
        }
        Self { out }
    }

    /// Adds a header field.
    pub fn header(self, name: HeaderName, value: &[u8]) -> Self {
        self.other(name.as_str(), value)
    }

    /// Adds a header field that is a number.
    pub fn number(self, name: HeaderName, value: u32) -> Self {
        put_number(self.out, name, value);
        self
    }

    /// Adds a header field of any name.
    pub fn other(self, name: &str, value: &[u8]) -> Self {
        put_header(self.out, name, value);
        self
    }

    /// Ends without a body.
    pub fn finish(self) {
        end(self.out, None);
    }

    /// Ends with a body.
    pub fn body(self, content_type: &[u8], body: &[u8]) {
        end(self.out, Some((content_type, body)));
    }
}

/// Writes a request; the caller adds every header field (RFC 3261 s8.1.1).
#[derive(Debug)]
#[must_use = "a message ends with `finish` or `body`"]
pub struct RequestBuilder<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> RequestBuilder<'o> {
    /// Appends the request line to `out`.
    pub fn new(out: &'o mut Vec<u8>, method: Method<'_>, uri: &[u8]) -> Self {
        out.extend_from_slice(method.as_bytes());
        out.push(b' ');
        put_value(out, uri);
        out.extend_from_slice(b" SIP/2.0\r\n");
        Self { out }
    }

    /// Adds a header field.
    pub fn header(self, name: HeaderName, value: &[u8]) -> Self {
        self.other(name.as_str(), value)
    }

    /// Adds a header field that is a number.
    pub fn number(self, name: HeaderName, value: u32) -> Self {
        put_number(self.out, name, value);
        self
    }

    /// Adds CSeq.
    pub fn cseq(self, number: u32, method: Method<'_>) -> Self {
        start(self.out, HeaderName::Cseq.as_str());
        put_decimal(self.out, number);
        self.out.push(b' ');
        put_value(self.out, method.as_bytes());
        self.out.extend_from_slice(b"\r\n");
        self
    }

    /// Copies all header fields of a name from another message, in order.
    pub fn copy(self, from: &Message<'_>, name: HeaderName) -> Self {
        copy_all(self.out, from, name);
        self
    }

    /// Adds a header field of any name.
    pub fn other(self, name: &str, value: &[u8]) -> Self {
        put_header(self.out, name, value);
        self
    }

    /// Ends without a body.
    pub fn finish(self) {
        end(self.out, None);
    }

    /// Ends with a body.
    pub fn body(self, content_type: &[u8], body: &[u8]) {
        end(self.out, Some((content_type, body)));
    }
}

fn start(out: &mut Vec<u8>, name: &str) {
    out.extend_from_slice(name.as_bytes());
    out.extend_from_slice(b": ");
}

fn put_header(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    start(out, name);
    put_value(out, value);
    out.extend_from_slice(b"\r\n");
}

fn put_number(out: &mut Vec<u8>, name: HeaderName, value: u32) {
    start(out, name.as_str());
    put_decimal(out, value);
    out.extend_from_slice(b"\r\n");
}

fn copy_all(out: &mut Vec<u8>, from: &Message<'_>, name: HeaderName) {
    for header in from.headers(name) {
        put_header(out, name.as_str(), header.value);
    }
}

fn copy_first(out: &mut Vec<u8>, from: &Message<'_>, name: HeaderName) {
    if let Some(value) = from.header(name) {
        put_header(out, name.as_str(), value);
    }
}

/// Appends a value; white space with a line end in it becomes one space.
fn put_value(out: &mut Vec<u8>, mut value: &[u8]) {
    while let Some(at) = memchr2(b'\r', b'\n', value) {
        let end = value[..at].iter().rposition(|b| !is_lws(*b)).map_or(0, |last| last + 1);
        let next = value[at..]
            .iter()
            .position(|b| !is_lws(*b))
            .map_or(value.len(), |skip| at + skip);
        out.extend_from_slice(&value[..end]);
        out.push(b' ');
        value = &value[next..];
    }
    out.extend_from_slice(value);
}

fn end(out: &mut Vec<u8>, body: Option<(&[u8], &[u8])>) {
    let (content_type, body) = body.unwrap_or_default();
    if !content_type.is_empty() {
        put_header(out, HeaderName::ContentType.as_str(), content_type);
    }
    start(out, HeaderName::ContentLength.as_str());
    put_decimal(out, u32::try_from(body.len()).expect("a body fits a message"));
    out.extend_from_slice(b"\r\n\r\n");
    out.extend_from_slice(body);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Index, Limits, check};

    const INVITE: &[u8] = b"INVITE sip:b@h SIP/2.0\r\nv: SIP/2.0/UDP a,\r\n SIP/2.0/UDP b\r\nVia: SIP/2.0/UDP c\r\n\
        Record-Route: <sip:p;lr>\r\nf: <sip:a@h>;tag=1\r\nt: <sip:b@h>\r\ni: 7\r\nCSeq: 1\r\n\tINVITE\r\nTimestamp: 54\r\n\r\n";

    fn response(status: u16, tag: Option<&[u8]>) -> String {
        let mut index = Index::new();
        index.scan(INVITE, &Limits::default()).unwrap();
        let mut out = Vec::new();
        ResponseBuilder::new(&mut out, &Message::new(INVITE, &index), status, "Reason", tag).finish();
        index.scan(&out, &Limits::default()).unwrap();
        assert_eq!(check(&Message::new(&out, &index)), Ok(()));
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn a_response_repeats_what_the_request_said() {
        assert_eq!(
            response(180, Some(b"x")),
            "SIP/2.0 180 Reason\r\nVia: SIP/2.0/UDP a, SIP/2.0/UDP b\r\nVia: SIP/2.0/UDP c\r\nRecord-Route: <sip:p;lr>\r\n\
             From: <sip:a@h>;tag=1\r\nTo: <sip:b@h>;tag=x\r\nCall-ID: 7\r\nCSeq: 1 INVITE\r\nContent-Length: 0\r\n\r\n"
        );
    }

    #[test]
    fn trying_has_the_timestamp_and_no_route() {
        let trying = response(100, None);
        assert!(
            trying.contains("\r\nTimestamp: 54\r\n") && !trying.contains("Record-Route") && !trying.contains(";tag=x")
        );
    }

    #[test]
    fn a_value_cannot_end_its_header_field() {
        let mut out = Vec::new();
        RequestBuilder::new(&mut out, Method::Info, b"sip:a")
            .header(HeaderName::Subject, b"a\r\nEvil: 1\n\n\rb \r\n")
            .body(b"text/plain", b"x\ny");
        let expected =
            b"INFO sip:a SIP/2.0\r\nSubject: a Evil: 1 b \r\nContent-Type: text/plain\r\nContent-Length: 3\r\n\r\nx\ny";
        assert_eq!(out, expected);
    }
}

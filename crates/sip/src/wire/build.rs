//! Messages of our own, written straight into the output buffer.

use super::header::HeaderName;
use super::message::{Message, Method};

/// Writes a response to a request (RFC 3261 s8.2.6).
#[derive(Debug)]
pub struct ResponseBuilder<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> ResponseBuilder<'o> {
    /// Writes the status line, all Vias, From, To with `to_tag` if the request had none, Call-ID and CSeq; of a
    /// dialog-forming request also Record-Route (s12.1.1, for 101 to 299), and Timestamp into a 100.
    pub fn new(out: &'o mut Vec<u8>, request: &Message<'_>, status: u16, reason: &str, to_tag: Option<&[u8]>) -> Self {
        let _ = (request, status, reason, to_tag);
        Self { out }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(self, name: HeaderName, value: &[u8]) -> Self {
        self.other(name.as_str(), value)
    }

    /// Adds a header field of any name.
    #[must_use]
    pub fn other(self, name: &str, value: &[u8]) -> Self {
        let _ = (name, value);
        self
    }

    /// Ends without a body.
    pub fn finish(self) {
        let _ = self.out;
    }

    /// Ends with a body.
    pub fn body(self, content_type: &[u8], body: &[u8]) {
        let _ = (content_type, body);
    }
}

/// Writes a request.
#[derive(Debug)]
pub struct RequestBuilder<'o> {
    out: &'o mut Vec<u8>,
}

impl<'o> RequestBuilder<'o> {
    /// Writes the request line.
    pub fn new(out: &'o mut Vec<u8>, method: Method<'_>, uri: &[u8]) -> Self {
        let _ = (method, uri);
        Self { out }
    }

    /// Adds a header field.
    #[must_use]
    pub fn header(self, name: HeaderName, value: &[u8]) -> Self {
        self.other(name.as_str(), value)
    }

    /// Adds CSeq.
    #[must_use]
    pub fn cseq(self, number: u32, method: Method<'_>) -> Self {
        let _ = (number, method);
        self
    }

    /// Adds a header field of any name.
    #[must_use]
    pub fn other(self, name: &str, value: &[u8]) -> Self {
        let _ = (name, value);
        self
    }

    /// Ends without a body.
    pub fn finish(self) {
        let _ = self.out;
    }

    /// Ends with a body.
    pub fn body(self, content_type: &[u8], body: &[u8]) {
        let _ = (content_type, body);
    }
}

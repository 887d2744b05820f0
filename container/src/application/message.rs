//! Messages as applications see and make them.

use bytes::Bytes;
use sip::HeaderName;

use super::session::{DialogNumber, TransactionId};

/// A message that came in: typed access without copies, and rsip's types on demand.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    wire: sip::Message<'a>,
}

impl<'a> Message<'a> {
    pub(crate) fn new(wire: sip::Message<'a>) -> Self {
        Self { wire }
    }

    /// Access to every part, as scanned.
    #[must_use]
    pub fn wire(&self) -> sip::Message<'a> {
        self.wire
    }

    /// The value of the first header field of this name.
    #[must_use]
    pub fn header(&self, name: HeaderName) -> Option<&'a [u8]> {
        self.wire.header(name)
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.wire.body()
    }
}

/// A request that came in.
#[derive(Clone, Copy, Debug)]
pub struct Request<'a> {
    message: Message<'a>,
    transaction: TransactionId,
    dialog: Option<DialogNumber>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(message: sip::Message<'a>, transaction: TransactionId, dialog: Option<DialogNumber>) -> Self {
        Self {
            message: Message::new(message),
            transaction,
            dialog,
        }
    }

    /// Its method.
    #[must_use]
    pub fn method(&self) -> sip::Method<'a> {
        self.message.wire().method()
    }

    /// What to answer it by.
    #[must_use]
    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// The dialog that it belongs to or makes; `None` outside of any.
    #[must_use]
    pub fn dialog(&self) -> Option<DialogNumber> {
        self.dialog
    }

    /// Headers and body.
    #[must_use]
    pub fn message(&self) -> Message<'a> {
        self.message
    }

    /// The request in rsip's types. It costs twenty times a scan, and rsip refuses much valid traffic.
    ///
    /// # Errors
    /// What rsip does not understand.
    pub fn to_rsip(&self) -> Result<rsip::Request, rsip::Error> {
        rsip::Request::try_from(self.message.wire().as_bytes())
    }
}

/// A response that came in, or stands for one that did not (408, 503).
#[derive(Clone, Copy, Debug)]
pub struct Response<'a> {
    message: Option<Message<'a>>,
    status: u16,
    dialog: Option<DialogNumber>,
    transaction: TransactionId,
}

impl<'a> Response<'a> {
    pub(crate) fn new(
        message: Option<sip::Message<'a>>,
        status: u16,
        transaction: TransactionId,
        dialog: Option<DialogNumber>,
    ) -> Self {
        Self {
            message: message.map(Message::new),
            status,
            dialog,
            transaction,
        }
    }

    /// Its status code.
    #[must_use]
    pub fn status(&self) -> u16 {
        self.status
    }

    /// The transaction that [`Session::send`](super::Session::send) named.
    #[must_use]
    pub fn transaction(&self) -> TransactionId {
        self.transaction
    }

    /// Its dialog.
    #[must_use]
    pub fn dialog(&self) -> Option<DialogNumber> {
        self.dialog
    }

    /// Headers and body; `None` if nothing came.
    #[must_use]
    pub fn message(&self) -> Option<Message<'a>> {
        self.message
    }

    /// The response in rsip's types.
    ///
    /// # Errors
    /// What rsip does not understand.
    pub fn to_rsip(&self) -> Option<Result<rsip::Response, rsip::Error>> {
        self.message
            .map(|message| rsip::Response::try_from(message.wire().as_bytes()))
    }
}

/// A response to be made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    pub(crate) status: u16,
    pub(crate) reason: Option<String>,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Option<(String, Bytes)>,
    pub(crate) reliably: bool,
}

impl Reply {
    /// A response with this status, 100 to 699. To, From, Call-ID, CSeq, Via, Contact, Allow, Supported and session timers are added.
    #[must_use]
    pub fn new(status: u16) -> Self {
        Self {
            status: status.clamp(100, 699),
            reason: None,
            headers: Vec::new(),
            body: None,
            reliably: false,
        }
    }

    /// Another reason phrase than the RFC's.
    #[must_use]
    pub fn reason(mut self, reason: &str) -> Self {
        self.reason = Some(reason.to_owned());
        self
    }

    /// One more header field. A line end in the value would forge other fields and is taken out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_owned(), one_line(value)));
        self
    }

    /// A body.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = Some((content_type.to_owned(), body.into()));
        self
    }

    /// A provisional response to be acknowledged by PRACK (RFC 3262); sent plainly to a caller that does not know it.
    #[must_use]
    pub fn reliably(mut self) -> Self {
        self.reliably = true;
        self
    }

    /// What a response of rsip says: status, body, and those header fields that the engine does not write itself.
    #[must_use]
    pub fn from_rsip(response: &rsip::Response) -> Self {
        let mut reply = Self::new(response.status_code.code());
        let mut content_type = None;
        for header in response.headers.iter() {
            let text = header.to_string();
            let Some((name, value)) = text.split_once(':') else {
                continue;
            };
            let value = value.trim();
            match HeaderName::recognize(name.as_bytes()) {
                HeaderName::ContentType => content_type = Some(value.to_owned()),
                name if is_written_by_the_engine(name) => {}
                _ => reply = reply.header(name, value.as_bytes()),
            }
        }
        match content_type {
            Some(content_type) if !response.body.is_empty() => reply.body(&content_type, response.body.clone()),
            _ => reply,
        }
    }
}

/// A request to be made within a dialog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    pub(crate) method: String,
    pub(crate) headers: Vec<(String, Vec<u8>)>,
    pub(crate) body: Option<(String, Bytes)>,
}

impl Outgoing {
    /// A request with this method. Everything that the dialog determines is added.
    #[must_use]
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            headers: Vec::new(),
            body: None,
        }
    }

    /// One more header field. A line end in the value would forge other fields and is taken out.
    #[must_use]
    pub fn header(mut self, name: &str, value: &[u8]) -> Self {
        self.headers.push((name.to_owned(), one_line(value)));
        self
    }

    /// A body.
    #[must_use]
    pub fn body(mut self, content_type: &str, body: impl Into<Bytes>) -> Self {
        self.body = Some((content_type.to_owned(), body.into()));
        self
    }
}

fn one_line(value: &[u8]) -> Vec<u8> {
    value
        .iter()
        .copied()
        .filter(|byte| !matches!(byte, b'\r' | b'\n'))
        .collect()
}

fn is_written_by_the_engine(name: HeaderName) -> bool {
    use HeaderName::{CallId, ContentLength, Cseq, From, RecordRoute, Route, SessionExpires, To, Via};
    matches!(
        name,
        Via | From | To | CallId | Cseq | RecordRoute | Route | ContentLength | SessionExpires
    )
}

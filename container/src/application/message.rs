//! Messages as applications see and make them.

use std::net::IpAddr;

use bytes::Bytes;
use sip::{HeaderName, Host};

use super::session::{CallNumber, DialogNumber, TransactionId};
use crate::records;

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
    pub(crate) replaces: Option<DialogNumber>,
}

impl<'a> Request<'a> {
    pub(crate) fn new(message: sip::Message<'a>, transaction: TransactionId, dialog: Option<DialogNumber>) -> Self {
        Self {
            message: Message::new(message),
            transaction,
            dialog,
            replaces: None,
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

    /// The dialog of this session whose place it wants to take (RFC 3891). If the application grants it, it answers, and hangs that one
    /// up. The engine finds it for applications whose profile names the extension `replaces`.
    #[must_use]
    pub fn replaces(&self) -> Option<DialogNumber> {
        self.replaces
    }

    /// Headers and body.
    #[must_use]
    pub fn message(&self) -> Message<'a> {
        self.message
    }

    /// The address that it came from, as the proxy saw it (RFC 3261 s18.2.1).
    #[must_use]
    pub fn source(&self) -> Option<IpAddr> {
        let via = self.message.wire().vias().nth(1)?;
        let sent_by = || match via.sent_by() {
            Some(Host::Address(address)) => Some(address),
            _ => None,
        };
        via.received().or_else(sent_by)
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
    pub(crate) dialog: Option<DialogNumber>,
    pub(crate) call: Option<CallNumber>,
    pub(crate) relays: Option<TransactionId>,
    transaction: TransactionId,
}

impl<'a> Response<'a> {
    pub(crate) fn new(message: Option<sip::Message<'a>>, status: u16, transaction: TransactionId) -> Self {
        Self {
            message: message.map(Message::new),
            status,
            dialog: None,
            call: None,
            relays: None,
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

    /// Its dialog; none for a call out that is refused.
    #[must_use]
    pub fn dialog(&self) -> Option<DialogNumber> {
        self.dialog
    }

    /// The call out that it is a response to.
    #[must_use]
    pub fn call(&self) -> Option<CallNumber> {
        self.call
    }

    /// The peer's request that was [passed on](Outgoing::relaying), to be answered now.
    #[must_use]
    pub fn relays(&self) -> Option<TransactionId> {
        self.relays
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

/// What an ask is about.
#[derive(Clone, Copy, Debug)]
pub enum About<'a> {
    /// A request, which is still unanswered unless it is an ACK.
    Request(Request<'a>),
    /// A response.
    Response(Response<'a>),
    /// Nothing, or a request that has got its answer meanwhile (CANCEL, the end of its dialog).
    Nothing,
}

impl About<'_> {
    /// What is kept of it, and stored.
    pub(crate) fn to_record(self) -> Option<records::About> {
        let copy = |message: Message<'_>| Bytes::copy_from_slice(message.wire().as_bytes());
        match self {
            Self::Request(request) => Some(records::About {
                message: copy(request.message),
                transaction: request.transaction.0,
                dialog: request.dialog.map(|DialogNumber(number)| number),
                replaces: request.replaces.map(|DialogNumber(number)| number),
                ..records::About::default()
            }),
            Self::Response(response) => Some(records::About {
                message: response.message.map(copy).unwrap_or_default(),
                transaction: response.transaction.0,
                dialog: response.dialog.map(|DialogNumber(number)| number),
                status: response.status.into(),
                call: response.call.map(|CallNumber(number)| number),
                relays: response.relays.map(|TransactionId(id)| id),
                replaces: None,
            }),
            Self::Nothing => None,
        }
    }
}

impl<'a> About<'a> {
    /// What was kept; `message` is what its bytes say.
    pub(crate) fn from_record(record: &records::About, message: Option<sip::Message<'a>>) -> Self {
        let transaction = TransactionId(record.transaction);
        let dialog = record.dialog.map(DialogNumber);
        match (u16::try_from(record.status), message) {
            (Ok(0), Some(message)) => {
                let mut request = Request::new(message, transaction, dialog);
                request.replaces = record.replaces.map(DialogNumber);
                Self::Request(request)
            }
            (Ok(status @ 1..), message) => {
                let mut response = Response::new(message, status, transaction);
                response.dialog = dialog;
                response.call = record.call.map(CallNumber);
                response.relays = record.relays.map(TransactionId);
                Self::Response(response)
            }
            _ => Self::Nothing,
        }
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
    pub(crate) relays: Option<TransactionId>,
}

impl Outgoing {
    /// A request with this method. Everything that the dialog determines is added.
    #[must_use]
    pub fn new(method: &str) -> Self {
        Self {
            method: method.to_owned(),
            headers: Vec::new(),
            body: None,
            relays: None,
        }
    }

    /// It passes on a request of another peer; its responses [say so](Response::relays).
    #[must_use]
    pub fn relaying(mut self, request: TransactionId) -> Self {
        self.relays = Some(request);
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
}

/// A call out to be made: an INVITE outside of dialogs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Call {
    pub(crate) target: Vec<u8>,
    pub(crate) from: Vec<u8>,
    pub(crate) to: Vec<u8>,
    pub(crate) max_forwards: u8,
    pub(crate) invite: Outgoing,
}

impl Call {
    /// An INVITE to `target`, a SIP URI whose host is an IP address: the application answers for its being allowed. `from` and `to` are
    /// the values of the header fields; tags in them are dropped. Via, Call-ID, CSeq, Contact, Allow, Supported and session timers are
    /// added.
    #[must_use]
    pub fn new(target: &[u8], from: &[u8], to: &[u8], invite: Outgoing) -> Self {
        Self {
            target: target.to_vec(),
            from: one_line(from),
            to: one_line(to),
            max_forwards: 70,
            invite,
        }
    }

    /// Another Max-Forwards than 70: one that comes of a peer's request has to be lower than that one's, or a loop has no end.
    #[must_use]
    pub fn max_forwards(mut self, hops: u8) -> Self {
        self.max_forwards = hops;
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

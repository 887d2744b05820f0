//! Typed access to a scanned message, without copies: every look-up reads the bytes that the [`Index`] points to.

use bytes::Bytes;

use super::header::HeaderName;
use super::name_addr::NameAddr;
use super::scan::{Entry, Index, Limits, ScanError, Span, StartLine, is_lws, parse_u32, trimmed};
use super::uri::Uri;
use super::values::{Header, Values};
use super::via::Via;

macro_rules! methods {
    ($($variant:ident $text:literal,)*) => {
        /// A method; names are case-sensitive (RFC 3261 s7.1).
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum Method<'a> {
            $(#[doc = stringify!($variant)] $variant,)*
            /// Any other, as written.
            Other(&'a [u8]),
        }

        impl<'a> Method<'a> {
            /// Recognizes a method.
            #[must_use]
            pub fn recognize(name: &'a [u8]) -> Self {
                match name {
                    $($text => Self::$variant,)*
                    _ => Self::Other(name),
                }
            }

            /// The name on the wire.
            #[must_use]
            pub const fn as_bytes(&self) -> &'a [u8] {
                match self {
                    $(Self::$variant => $text,)*
                    Self::Other(name) => name,
                }
            }
        }
    };
}

methods! {
    Invite b"INVITE",
    Ack b"ACK",
    Bye b"BYE",
    Cancel b"CANCEL",
    Options b"OPTIONS",
    Register b"REGISTER",
    Prack b"PRACK",
    Update b"UPDATE",
    Info b"INFO",
    Subscribe b"SUBSCRIBE",
    Notify b"NOTIFY",
    Refer b"REFER",
    Message b"MESSAGE",
    Publish b"PUBLISH",
}

/// CSeq (RFC 3261 s20.16).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cseq<'a> {
    /// Below 2^31.
    pub number: u32,
    /// The method of the request.
    pub method: Method<'a>,
}

/// RAck (RFC 3262 s7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Rack<'a> {
    /// RSeq of the response that is acknowledged.
    pub rseq: u32,
    /// CSeq of that response.
    pub cseq: Cseq<'a>,
}

/// Who refreshes a session (RFC 4028 s4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresher {
    /// The caller of the request that carries it.
    Uac,
    /// The callee.
    Uas,
}

/// Session-Expires (RFC 4028 s4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SessionExpires {
    /// The interval in seconds.
    pub seconds: u32,
    /// Who refreshes, if it is said.
    pub refresher: Option<Refresher>,
}

/// The dialog that Replaces (RFC 3891), Join (RFC 3911) or Target-Dialog (RFC 4538) names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NamedDialog<'a> {
    /// Call-ID of that dialog.
    pub call_id: &'a [u8],
    /// `to-tag`, or `local-tag` of Target-Dialog: the tag of the receiver.
    pub local_tag: &'a [u8],
    /// `from-tag`, or `remote-tag` of Target-Dialog: the tag of the peer.
    pub remote_tag: &'a [u8],
    /// `early-only` of Replaces.
    pub early_only: bool,
}

/// A scanned message: the bytes and their index.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    buffer: &'a [u8],
    index: &'a Index,
}

impl<'a> Message<'a> {
    /// Joins an index with the bytes that it was scanned from. With other bytes it gives nonsense, but is safe.
    #[must_use]
    pub const fn new(buffer: &'a [u8], index: &'a Index) -> Self {
        Self { buffer, index }
    }

    /// All bytes that were scanned; spans count from their start.
    #[must_use]
    pub const fn buffer(&self) -> &'a [u8] {
        self.buffer
    }

    /// The bytes of the message itself: without line ends before it and what follows its body.
    #[must_use]
    pub fn as_bytes(&self) -> &'a [u8] {
        Span::new(usize::from(self.index.start), self.index.end()).of(self.buffer)
    }

    /// The index.
    #[must_use]
    pub const fn index(&self) -> &'a Index {
        self.index
    }

    /// Where a part of the message stands; `None` for bytes from elsewhere.
    #[must_use]
    pub fn span_of(&self, part: &[u8]) -> Option<Span> {
        let start = (part.as_ptr() as usize).checked_sub(self.buffer.as_ptr() as usize)?;
        let end = start.checked_add(part.len())?;
        (end <= self.buffer.len()).then(|| Span::new(start, end))
    }

    // ---- first line ----

    /// Whether this is a request.
    #[must_use]
    pub const fn is_request(&self) -> bool {
        matches!(self.index.start_line, StartLine::Request { .. })
    }

    /// Whether this is a response.
    #[must_use]
    pub const fn is_response(&self) -> bool {
        !self.is_request()
    }

    /// The method: of a response, the one in its CSeq.
    #[must_use]
    pub fn method(&self) -> Method<'a> {
        match self.index.start_line {
            StartLine::Request { method, .. } => Method::recognize(method.of(self.buffer)),
            _ => self.cseq().map_or(Method::Other(b""), |cseq| cseq.method),
        }
    }

    /// The Request-URI taken apart; `None` for responses and if it is malformed.
    #[must_use]
    pub fn request_uri(&self) -> Option<Uri<'a>> {
        Uri::parse(self.request_uri_bytes())
    }

    /// The Request-URI as written; empty for responses.
    #[must_use]
    pub fn request_uri_bytes(&self) -> &'a [u8] {
        match self.index.start_line {
            StartLine::Request { uri, .. } => uri.of(self.buffer),
            _ => b"",
        }
    }

    /// The status code of a response.
    #[must_use]
    pub const fn status(&self) -> Option<u16> {
        match self.index.start_line {
            StartLine::Response { status, .. } => Some(status),
            _ => None,
        }
    }

    /// The reason phrase of a response; else empty.
    #[must_use]
    pub fn reason(&self) -> &'a [u8] {
        match self.index.start_line {
            StartLine::Response { reason, .. } => reason.of(self.buffer),
            _ => b"",
        }
    }

    // ---- header fields as bytes ----

    /// The value of the first header field of this name.
    #[must_use]
    #[inline]
    pub fn header(&self, name: HeaderName) -> Option<&'a [u8]> {
        let entry = self.index.headers.get(self.index.first(name)?)?;
        Some(entry.value.of(self.buffer))
    }

    /// All header fields of this name, in order.
    pub fn headers(&self, name: HeaderName) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let from = self.index.first(name).unwrap_or(usize::MAX);
        self.all_headers().skip(from).filter(move |header| header.name == name)
    }

    /// All header fields, in order.
    pub fn all_headers(&self) -> impl Iterator<Item = Header<'a>> + use<'a> {
        let message = *self;
        self.index
            .headers
            .iter()
            .enumerate()
            .map(move |(ordinal, entry)| message.header_of(ordinal, entry))
    }

    /// The header field at this place.
    #[must_use]
    pub fn header_at(&self, ordinal: usize) -> Option<Header<'a>> {
        self.index
            .headers
            .get(ordinal)
            .map(|entry| self.header_of(ordinal, entry))
    }

    /// The value of the first header field with this unknown name; case does not matter.
    #[must_use]
    pub fn other(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.headers(HeaderName::Other)
            .find(|header| header.name_bytes.eq_ignore_ascii_case(name))
            .map(|header| header.value)
    }

    /// The elements of all header fields of this name that is a comma list.
    #[must_use]
    pub fn values(&self, name: HeaderName) -> Values<'a> {
        Values::new(*self, name)
    }

    fn header_of(&self, ordinal: usize, entry: &Entry) -> Header<'a> {
        let end = self
            .index
            .headers
            .get(ordinal + 1)
            .map_or_else(|| self.blank_line(), |next| usize::from(next.start));
        let line = Span::new(usize::from(entry.start), end);
        let before = &self.buffer.get(line.start()..entry.value.start()).unwrap_or_default();
        let length = before.iter().take_while(|b| super::scan::is_token(**b)).count();
        Header {
            ordinal,
            name: entry.name,
            name_bytes: &before[..length],
            value: entry.value.of(self.buffer),
            span: entry.value,
            line,
        }
    }

    /// Where the blank line behind the header fields starts.
    #[must_use]
    pub fn blank_line(&self) -> usize {
        let body = self.index.body.start();
        match self.buffer.get(..body) {
            Some([.., b'\r', b'\n']) => body - 2,
            Some([.., b'\n']) => body - 1,
            _ => body,
        }
    }

    // ---- header fields with their meaning ----

    /// Call-ID (RFC 3261 s20.8).
    #[must_use]
    pub fn call_id(&self) -> Option<&'a [u8]> {
        self.header(HeaderName::CallId).filter(|value| !value.is_empty())
    }

    /// CSeq; `None` if it is malformed or its number is 2^31 or more (RFC 3261 s8.1.1.5).
    #[must_use]
    pub fn cseq(&self) -> Option<Cseq<'a>> {
        Cseq::parse(self.header(HeaderName::Cseq)?)
    }

    /// From.
    #[must_use]
    pub fn from(&self) -> Option<NameAddr<'a>> {
        NameAddr::parse(self.header(HeaderName::From)?)
    }

    /// To.
    #[must_use]
    pub fn to(&self) -> Option<NameAddr<'a>> {
        NameAddr::parse(self.header(HeaderName::To)?)
    }

    /// The topmost Via.
    #[must_use]
    pub fn via(&self) -> Option<Via<'a>> {
        Via::parse(self.values(HeaderName::Via).next()?.bytes)
    }

    /// All Vias from the topmost on, up to the first that is malformed.
    pub fn vias(&self) -> impl Iterator<Item = Via<'a>> + use<'a> {
        self.values(HeaderName::Via).map_while(|value| Via::parse(value.bytes))
    }

    /// The first Contact.
    #[must_use]
    pub fn contact(&self) -> Option<NameAddr<'a>> {
        self.addresses(HeaderName::Contact).next()
    }

    /// The Route set of a request, topmost first.
    pub fn routes(&self) -> impl Iterator<Item = NameAddr<'a>> + use<'a> {
        self.addresses(HeaderName::Route)
    }

    /// Record-Route, topmost first.
    pub fn record_routes(&self) -> impl Iterator<Item = NameAddr<'a>> + use<'a> {
        self.addresses(HeaderName::RecordRoute)
    }

    /// The addresses of a comma list such as Contact, Route or Path, up to the first that is malformed.
    pub fn addresses(&self, name: HeaderName) -> impl Iterator<Item = NameAddr<'a>> + use<'a> {
        self.values(name).map_while(|value| NameAddr::parse(value.bytes))
    }

    /// A header field that is one number.
    #[must_use]
    pub fn number(&self, name: HeaderName) -> Option<u32> {
        parse_u32(self.header(name)?)
    }

    /// Max-Forwards (RFC 3261 s20.22); `None` if it is absent, malformed or above 255.
    #[must_use]
    pub fn max_forwards(&self) -> Option<u8> {
        self.number(HeaderName::MaxForwards)
            .and_then(|hops| u8::try_from(hops).ok())
    }

    /// Expires, in seconds (RFC 3261 s20.19).
    #[must_use]
    pub fn expires(&self) -> Option<u32> {
        self.number(HeaderName::Expires)
    }

    /// Session-Expires (RFC 4028 s4).
    #[must_use]
    pub fn session_expires(&self) -> Option<SessionExpires> {
        let (seconds, params) = before_params(self.header(HeaderName::SessionExpires)?);
        let refresher = match params.get(b"refresher") {
            Some(who) if who.eq_ignore_ascii_case(b"uac") => Some(Refresher::Uac),
            Some(who) if who.eq_ignore_ascii_case(b"uas") => Some(Refresher::Uas),
            _ => None,
        };
        Some(SessionExpires {
            seconds: parse_u32(seconds)?,
            refresher,
        })
    }

    /// Min-SE, in seconds (RFC 4028 s5).
    #[must_use]
    pub fn min_se(&self) -> Option<u32> {
        parse_u32(before_params(self.header(HeaderName::MinSe)?).0)
    }

    /// Whether an option tag, event or method stands in a comma list such as Supported, Require or Allow.
    #[must_use]
    pub fn lists(&self, name: HeaderName, option: &[u8]) -> bool {
        self.values(name).any(|value| value.bytes.eq_ignore_ascii_case(option))
    }

    /// Whether Supported lists an option tag.
    #[must_use]
    pub fn supports(&self, option: &[u8]) -> bool {
        self.lists(HeaderName::Supported, option)
    }

    /// Whether Require lists an option tag.
    #[must_use]
    pub fn requires(&self, option: &[u8]) -> bool {
        self.lists(HeaderName::Require, option)
    }

    /// RSeq (RFC 3262 s7.1).
    #[must_use]
    pub fn rseq(&self) -> Option<u32> {
        self.number(HeaderName::Rseq)
    }

    /// RAck (RFC 3262 s7.2).
    #[must_use]
    pub fn rack(&self) -> Option<Rack<'a>> {
        let value = self.header(HeaderName::Rack)?;
        let digits = value.iter().position(|b| is_lws(*b))?;
        Some(Rack {
            rseq: parse_u32(&value[..digits])?,
            cseq: Cseq::parse(trimmed(&value[digits..]))?,
        })
    }

    /// Replaces (RFC 3891).
    #[must_use]
    pub fn replaces(&self) -> Option<NamedDialog<'a>> {
        NamedDialog::parse(self.header(HeaderName::Replaces)?, b"to-tag", b"from-tag")
    }

    /// Join (RFC 3911).
    #[must_use]
    pub fn join(&self) -> Option<NamedDialog<'a>> {
        NamedDialog::parse(self.header(HeaderName::Join)?, b"to-tag", b"from-tag")
    }

    /// Target-Dialog (RFC 4538).
    #[must_use]
    pub fn target_dialog(&self) -> Option<NamedDialog<'a>> {
        NamedDialog::parse(self.header(HeaderName::TargetDialog)?, b"local-tag", b"remote-tag")
    }

    /// Content-Type as written.
    #[must_use]
    pub fn content_type(&self) -> Option<&'a [u8]> {
        self.header(HeaderName::ContentType)
    }

    /// Content-Length, if there is a sane one.
    #[must_use]
    pub const fn content_length(&self) -> Option<u32> {
        self.index.content_length()
    }

    /// The body.
    #[must_use]
    pub fn body(&self) -> &'a [u8] {
        self.index.body.of(self.buffer)
    }
}

impl<'a> Cseq<'a> {
    /// Takes a value apart.
    #[must_use]
    pub fn parse(value: &'a [u8]) -> Option<Self> {
        let digits = value.iter().position(|b| is_lws(*b))?;
        let number = parse_u32(&value[..digits]).filter(|number| *number < 1 << 31)?;
        let method = trimmed(&value[digits..]);
        let sane = !method.is_empty() && method.iter().all(|b| super::scan::is_token(*b));
        sane.then(|| Self {
            number,
            method: Method::recognize(method),
        })
    }
}

impl<'a> NamedDialog<'a> {
    fn parse(value: &'a [u8], local: &[u8], remote: &[u8]) -> Option<Self> {
        let (call_id, params) = before_params(value);
        Some(Self {
            call_id,
            local_tag: params.get(local)?,
            remote_tag: params.get(remote)?,
            early_only: params.has(b"early-only"),
        })
    }
}

/// What stands before the first semicolon, and the parameters.
fn before_params(value: &[u8]) -> (&[u8], super::params::Params<'_>) {
    let end = memchr::memchr(b';', value).unwrap_or(value.len());
    (trimmed(&value[..end]), super::params::Params::new(&value[end..]))
}

/// A message that is kept: its bytes and its index.
#[derive(Clone, Debug)]
pub struct OwnedMessage {
    bytes: Bytes,
    index: Index,
}

impl OwnedMessage {
    /// Scans bytes and keeps them.
    ///
    /// # Errors
    /// See [`Index::scan`].
    pub fn scan(bytes: Bytes, limits: &Limits) -> Result<Self, ScanError> {
        let mut index = Index::default();
        index.scan(&bytes, limits)?;
        Ok(Self::new(bytes, index))
    }

    /// Joins bytes with the index that was scanned from them.
    #[must_use]
    pub fn new(bytes: Bytes, mut index: Index) -> Self {
        index.shrink();
        Self { bytes, index }
    }

    /// Typed access.
    #[must_use]
    pub fn as_message(&self) -> Message<'_> {
        Message::new(&self.bytes, &self.index)
    }

    /// The bytes.
    #[must_use]
    pub const fn bytes(&self) -> &Bytes {
        &self.bytes
    }
}

impl From<Message<'_>> for OwnedMessage {
    /// Copies the message out of the buffer that it was scanned in.
    fn from(message: Message<'_>) -> Self {
        Self::new(Bytes::copy_from_slice(message.buffer()), message.index().clone())
    }
}

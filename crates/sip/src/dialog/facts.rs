//! What of a message the dialog layer needs, as slices of it.

use crate::{HeaderName, Message, Method, NameAddr, Rack, SessionExpires};

/// The facts of a request or response. Those that stand at their default do not exist in the message.
#[derive(Clone, Debug)]
pub struct Facts<'a> {
    /// The method of a request; of a response the method in CSeq.
    pub method: Method<'a>,
    /// The status code; 0 for a request.
    pub status: u16,
    /// Call-ID.
    pub call_id: &'a [u8],
    /// From, whole.
    pub from: &'a [u8],
    /// Tag of From.
    pub from_tag: &'a [u8],
    /// To, whole.
    pub to: &'a [u8],
    /// Tag of To.
    pub to_tag: &'a [u8],
    /// Number of CSeq.
    pub cseq: u32,
    /// URI of the Contact.
    pub contact: Option<&'a [u8]>,
    /// Record-Route, one entry per address, in the message's order. Needed of messages that make a dialog.
    pub record_route: Vec<&'a [u8]>,
    /// Whether there is a session description.
    pub sdp: bool,
    /// Whether Supported or Require names `timer`.
    pub timer: bool,
    /// Whether Supported or, in a response, Require names `100rel`.
    pub reliable: bool,
    /// Session-Expires.
    pub session_expires: Option<SessionExpires>,
    /// Min-SE in seconds.
    pub min_se: Option<u32>,
    /// RSeq.
    pub rseq: Option<u32>,
    /// RAck.
    pub rack: Option<Rack<'a>>,
}

impl<'a> Facts<'a> {
    /// The facts of a message that was [checked](crate::check): what is malformed all the same counts as absent.
    #[must_use]
    pub fn of(message: &Message<'a>) -> Self {
        let (from, to) = (message.from(), message.to());
        let raw = |address: &Option<NameAddr<'a>>| address.map_or(&b""[..], |address| address.raw);
        let tag = |address: &Option<NameAddr<'a>>| address.and_then(|address| address.tag()).unwrap_or_default();
        let mut facts = Self {
            method: message.method(),
            status: message.status().unwrap_or_default(),
            call_id: message.call_id().unwrap_or_default(),
            from: raw(&from),
            from_tag: tag(&from),
            to: raw(&to),
            to_tag: tag(&to),
            cseq: message.cseq().map_or(0, |cseq| cseq.number),
            sdp: has_sdp(message),
            ..Self::default()
        };
        match facts.method {
            Method::Invite | Method::Update => facts.add_session(message),
            Method::Prack => facts.rack = message.rack(),
            _ => {}
        }
        facts
    }

    /// What INVITE, UPDATE and their responses say beyond the rest.
    fn add_session(&mut self, message: &Message<'a>) {
        // It becomes our Request-URI, where a space would end it.
        let sane = |uri: &&[u8]| uri.iter().all(|byte| *byte > b' ');
        self.contact = message.contact().map(|contact| contact.uri_bytes).filter(sane);
        self.timer = message.supports(b"timer") || message.requires(b"timer");
        self.reliable = message.requires(b"100rel") || (self.status == 0 && message.supports(b"100rel"));
        self.session_expires = message.session_expires();
        self.min_se = message.min_se();
        self.rseq = message.rseq();
        let makes_a_dialog = match self.status {
            0 => self.to_tag.is_empty(),
            status => (101..300).contains(&status),
        };
        if makes_a_dialog && message.header(HeaderName::RecordRoute).is_some() {
            self.record_route = message.record_routes().map(|route| route.raw).collect();
        }
    }

    /// The facts of the response that a failure stands for (RFC 3261 s8.1.3.1): 408 if nothing came in time, 503 if the
    /// transport failed.
    #[must_use]
    pub fn failure(method: Method<'a>, cseq: u32, status: u16) -> Self {
        Self {
            method,
            cseq,
            status,
            ..Self::default()
        }
    }
}

impl Default for Facts<'_> {
    fn default() -> Self {
        Self {
            method: Method::Other(b""),
            status: 0,
            call_id: b"",
            from: b"",
            from_tag: b"",
            to: b"",
            to_tag: b"",
            cseq: 0,
            contact: None,
            record_route: Vec::new(),
            sdp: false,
            timer: false,
            reliable: false,
            session_expires: None,
            min_se: None,
            rseq: None,
            rack: None,
        }
    }
}

fn has_sdp(message: &Message<'_>) -> bool {
    let starts = |value: &[u8], prefix: &[u8]| {
        value
            .get(..prefix.len())
            .is_some_and(|start| start.eq_ignore_ascii_case(prefix))
    };
    let is_sdp = |value| starts(value, b"application/sdp") || starts(value, b"multipart/");
    !message.body().is_empty() && message.content_type().is_some_and(is_sdp)
}

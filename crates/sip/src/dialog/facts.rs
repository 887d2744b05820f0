//! What of a message the dialog layer needs, as slices of it.

/// The facts of a request or response. Those that stand at their default do not exist in the message.
#[derive(Clone, Debug, Default)]
pub struct Facts<'a> {
    /// The method of a request; of a response the method in CSeq.
    pub method: &'a [u8],
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

/// Who has to refresh a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refresher {
    /// The sender of the latest request that negotiated it.
    Uac,
    /// Its receiver.
    Uas,
}

/// The value of Session-Expires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionExpires {
    /// The interval in seconds.
    pub seconds: u32,
    /// Who refreshes, if said.
    pub refresher: Option<Refresher>,
}

/// The value of RAck (RFC 3262 s7.2).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Rack<'a> {
    /// RSeq of the response.
    pub rseq: u32,
    /// Number of the request's CSeq.
    pub cseq: u32,
    /// Method of the request's CSeq.
    pub method: &'a [u8],
}

//! What is replicated: one record per session and per transaction, in protobuf with tagged fields only, so that a part one
//! version older or newer reads it. Fields of SIP are bytes: what a peer sent is kept as it was.
//!
//! Deadlines are milliseconds of the store's clock. Decoding is bounded: a record larger than [`MAX_RECORD`], or one with more
//! parts than an owner ever writes, is refused.

use bytes::Bytes;
use prost::Message as _;

/// The largest record that is written or read, in bytes: a message of 64 KiB in a transaction, and room for the rest.
pub const MAX_RECORD: usize = 80 * 1024;
/// The most dialogs of one session: a fork with more early dialogs than this is beyond what one call needs.
pub const MAX_DIALOGS: usize = 16;
/// The most attributes of one session.
pub const MAX_ATTRIBUTES: usize = 64;
/// The most timers of one session.
pub const MAX_TIMERS: usize = 16;
/// The longest route set of one dialog.
pub const MAX_ROUTES: usize = 32;

/// Which record a key names.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// A session, by the number in its first dialog's local tag.
    Session,
    /// A server transaction, by the hash of RFC 3261 s17.2.3's match.
    Server,
    /// A client transaction, by the number in its branch.
    Client,
}

/// A record's key within its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// What it names.
    pub kind: Kind,
    /// The number.
    pub id: u64,
}

impl Key {
    /// The field's name in the store.
    #[must_use]
    pub fn to_bytes(self) -> [u8; 9] {
        let mut name = [0; 9];
        name[0] = match self.kind {
            Kind::Session => b's',
            Kind::Server => b't',
            Kind::Client => b'c',
        };
        name[1..].copy_from_slice(&self.id.to_be_bytes());
        name
    }

    /// The key of a field, `None` if a newer version wrote another kind.
    #[must_use]
    pub fn parse(name: &[u8]) -> Option<Self> {
        let (kind, id) = name.split_first()?;
        let kind = match kind {
            b's' => Kind::Session,
            b't' => Kind::Server,
            b'c' => Kind::Client,
            _ => return None,
        };
        Some(Self {
            kind,
            id: u64::from_be_bytes(id.try_into().ok()?),
        })
    }
}

/// The proxy worker and flow that a peer was last heard through.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Flow {
    /// Incarnation of the proxy.
    #[prost(fixed64, tag = "1")]
    pub proxy: u64,
    /// Its worker.
    #[prost(uint32, tag = "2")]
    pub worker: u32,
    /// The flow token, parameter `fl`; empty without one.
    #[prost(bytes = "bytes", tag = "3")]
    pub token: Bytes,
    /// The outer leg's transport repeats nothing (UDP): ours to retransmit.
    #[prost(bool, tag = "4")]
    pub unreliable: bool,
}

/// A session.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Session {
    /// Its dialogs.
    #[prost(message, repeated, tag = "1")]
    pub dialogs: Vec<Dialog>,
    /// The application's attributes, sorted by name.
    #[prost(message, repeated, tag = "2")]
    pub attributes: Vec<Attribute>,
    /// The application's timers.
    #[prost(message, repeated, tag = "3")]
    pub timers: Vec<Timer>,
}

/// A dialog (RFC 3261 s12).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dialog {
    /// Number of the dialog in its session.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// Call-ID.
    #[prost(bytes = "bytes", tag = "2")]
    pub call_id: Bytes,
    /// Our From or To value without its tag.
    #[prost(bytes = "bytes", tag = "3")]
    pub local: Bytes,
    /// Our tag.
    #[prost(bytes = "bytes", tag = "4")]
    pub local_tag: Bytes,
    /// The peer's From or To value without its tag.
    #[prost(bytes = "bytes", tag = "5")]
    pub remote: Bytes,
    /// The peer's tag.
    #[prost(bytes = "bytes", tag = "6")]
    pub remote_tag: Bytes,
    /// The peer's Contact.
    #[prost(bytes = "bytes", tag = "7")]
    pub target: Bytes,
    /// Route set, nearest first.
    #[prost(bytes = "bytes", repeated, tag = "8")]
    pub routes: Vec<Bytes>,
    /// The last CSeq number sent; 0 before the first.
    #[prost(uint32, tag = "9")]
    pub local_cseq: u32,
    /// The last CSeq number received, and whether there was one.
    #[prost(uint32, optional, tag = "10")]
    pub remote_cseq: Option<u32>,
    /// Confirmed by a 2xx; early before.
    #[prost(bool, tag = "11")]
    pub confirmed: bool,
    /// We called.
    #[prost(bool, tag = "12")]
    pub caller: bool,
    /// Where the peer was last heard.
    #[prost(message, optional, tag = "13")]
    pub flow: Option<Flow>,
    /// The session timer (RFC 4028), once agreed.
    #[prost(message, optional, tag = "14")]
    pub refresh: Option<Refresh>,
    /// The last RSeq that we used (RFC 3262).
    #[prost(uint32, tag = "15")]
    pub rseq: u32,
    /// The server transaction of its INVITE that is not answered yet; 0 for none.
    #[prost(fixed64, tag = "16")]
    pub invite: u64,
}

/// A session timer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Refresh {
    /// The interval in seconds.
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
    /// We refresh.
    #[prost(bool, tag = "2")]
    pub ours: bool,
    /// When to refresh, if it is ours, else when the session has expired.
    #[prost(uint64, tag = "3")]
    pub deadline: u64,
}

/// An attribute.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Attribute {
    /// Name.
    #[prost(string, tag = "1")]
    pub name: String,
    /// Value.
    #[prost(bytes = "bytes", tag = "2")]
    pub value: Bytes,
}

/// A timer of the application.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Timer {
    /// The application's number for it.
    #[prost(uint32, tag = "1")]
    pub id: u32,
    /// When it fires.
    #[prost(uint64, tag = "2")]
    pub deadline: u64,
}

/// A server transaction (RFC 3261 s17.2).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Server {
    /// Its session; 0 for none.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// The request, until it is answered for good.
    #[prost(bytes = "bytes", tag = "2")]
    pub request: Bytes,
    /// The last response; empty before the first.
    #[prost(bytes = "bytes", tag = "3")]
    pub response: Bytes,
    /// When the last response was first sent.
    #[prost(uint64, tag = "4")]
    pub at: u64,
    /// Way back.
    #[prost(message, optional, tag = "5")]
    pub flow: Option<Flow>,
    /// It is an INVITE's.
    #[prost(bool, tag = "6")]
    pub invite: bool,
    /// The reliable provisional response that waits for its PRACK (RFC 3262): its RSeq; 0 for none.
    #[prost(uint32, tag = "7")]
    pub unacknowledged: u32,
    /// Number of the dialog in the session.
    #[prost(uint32, tag = "8")]
    pub dialog: u32,
}

/// A client transaction (RFC 3261 s17.1).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Client {
    /// Its session; 0 for none.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Number of the dialog in the session.
    #[prost(uint32, tag = "2")]
    pub dialog: u32,
    /// The request as it left.
    #[prost(bytes = "bytes", tag = "3")]
    pub request: Bytes,
    /// When it first left.
    #[prost(uint64, tag = "4")]
    pub at: u64,
    /// Way out.
    #[prost(message, optional, tag = "5")]
    pub flow: Option<Flow>,
    /// A provisional response has come.
    #[prost(bool, tag = "6")]
    pub proceeding: bool,
    /// The final response that has come to an INVITE; 0 before.
    #[prost(uint32, tag = "7")]
    pub status: u32,
}

/// A decoded record.
#[derive(Clone, Debug, PartialEq)]
pub enum Record {
    /// A session.
    Session(Session),
    /// A server transaction.
    Server(Server),
    /// A client transaction.
    Client(Client),
}

/// Why a record cannot be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unreadable {
    /// Beyond [`MAX_RECORD`] or one of the other bounds.
    TooLarge,
    /// Not protobuf, or not of this kind.
    Malformed,
}

impl Record {
    /// Decodes the value stored under a key of `kind`.
    ///
    /// # Errors
    /// Fails for what no owner would have written.
    pub fn decode(kind: Kind, value: Bytes) -> Result<Self, Unreadable> {
        if value.len() > MAX_RECORD {
            return Err(Unreadable::TooLarge);
        }
        let malformed = |_| Unreadable::Malformed;
        let record = match kind {
            Kind::Session => Self::Session(Session::decode(value).map_err(malformed)?),
            Kind::Server => Self::Server(Server::decode(value).map_err(malformed)?),
            Kind::Client => Self::Client(Client::decode(value).map_err(malformed)?),
        };
        match &record {
            Self::Session(session) if !session.within_bounds() => Err(Unreadable::TooLarge),
            _ => Ok(record),
        }
    }
}

impl Session {
    fn within_bounds(&self) -> bool {
        self.dialogs.len() <= MAX_DIALOGS
            && self.attributes.len() <= MAX_ATTRIBUTES
            && self.timers.len() <= MAX_TIMERS
            && self.dialogs.iter().all(|dialog| dialog.routes.len() <= MAX_ROUTES)
    }
}

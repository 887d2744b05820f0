//! What is replicated: one record per session and per transaction, in protobuf with tagged fields only, so that a part one
//! version older or newer reads it. Fields of SIP are bytes: what a peer sent is kept as it was.
//!
//! Deadlines are milliseconds of the store's clock. Decoding is bounded: a record larger than [`MAX_RECORD`], or one with more
//! parts than an owner ever writes, is refused.

use std::hash::Hasher as _;

use bytes::Bytes;
use prost::Message as _;
use sip::transaction::ServerState;
use siphasher::sip::SipHasher13;

/// The largest record that is written or read, in bytes: a message of 64 KiB in a transaction, and room for the rest.
pub const MAX_RECORD: usize = 80 * 1024;
/// The most dialogs of one session: a fork with more early dialogs than this is beyond what one call needs.
pub const MAX_DIALOGS: usize = 16;
/// The most calls out of one session that are not answered.
pub const MAX_CALLS: usize = 8;
/// The most attributes of one session.
pub const MAX_ATTRIBUTES: usize = 64;
/// The most timers of one session.
pub const MAX_TIMERS: usize = 16;
/// The most asks of one session that are not answered.
pub const MAX_ASKS: usize = 8;
/// The most responses of one dialog that wait for a PRACK, with the final one.
pub const MAX_RELIABLE: usize = 16;

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
    /// The flow token, parameter `fl`, where it is another than the one in the route set.
    #[prost(bytes = "bytes", tag = "3")]
    pub token: Bytes,
    /// The outer leg's transport loses nothing: no retransmissions.
    #[prost(bool, tag = "4")]
    pub reliable: bool,
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
    /// INVITEs of ours that wait for their final response.
    #[prost(message, repeated, tag = "4")]
    pub calls: Vec<Call>,
    /// How many numbers its dialogs and calls have used up; 0: as the dialogs say.
    #[prost(uint32, tag = "5")]
    pub numbers: u32,
    /// What the application has asked and is not answered yet: a successor asks again.
    #[prost(message, repeated, tag = "6")]
    pub asks: Vec<Ask>,
}

/// A question to something outside, and the message that waits for its answer.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Ask {
    /// Its number, unique in the partition.
    #[prost(fixed64, tag = "1")]
    pub number: u64,
    /// The question, in the application's words.
    #[prost(bytes = "bytes", tag = "2")]
    pub question: Bytes,
    /// What it was asked about; nothing, if nothing waits for the answer.
    #[prost(message, optional, tag = "3")]
    pub about: Option<About>,
}

/// The request or the response that an ask is about.
#[derive(Clone, PartialEq, prost::Message)]
pub struct About {
    /// The message; empty for a response that stands for one that did not come.
    #[prost(bytes = "bytes", tag = "1")]
    pub message: Bytes,
    /// Its transaction.
    #[prost(fixed64, tag = "2")]
    pub transaction: u64,
    /// Its dialog.
    #[prost(uint32, optional, tag = "3")]
    pub dialog: Option<u32>,
    /// Status of a response; 0: a request.
    #[prost(uint32, tag = "4")]
    pub status: u32,
    /// The call out that it is a response to.
    #[prost(uint32, optional, tag = "5")]
    pub call: Option<u32>,
    /// The server transaction of the request that was passed on.
    #[prost(fixed64, optional, tag = "6")]
    pub relays: Option<u64>,
    /// The dialog whose place a request wants to take.
    #[prost(uint32, optional, tag = "7")]
    pub replaces: Option<u32>,
}

/// A call out (RFC 3261 s13.2) until its final response. The INVITE stands in its client transaction, our tag in `local`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Call {
    /// Number of the call in its session.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Call-ID.
    #[prost(bytes = "bytes", tag = "2")]
    pub call_id: Bytes,
    /// Our From with its tag.
    #[prost(bytes = "bytes", tag = "3")]
    pub local: Bytes,
    /// To.
    #[prost(bytes = "bytes", tag = "4")]
    pub remote: Bytes,
    /// Our Contact; empty: the usual one of the partition.
    #[prost(bytes = "bytes", tag = "5")]
    pub contact: Bytes,
    /// Request-URI.
    #[prost(bytes = "bytes", tag = "6")]
    pub target: Bytes,
    /// CSeq number of the INVITE.
    #[prost(uint32, tag = "7")]
    pub cseq: u32,
    /// It carries an offer.
    #[prost(bool, tag = "8")]
    pub sdp: bool,
    /// The client transaction of the INVITE.
    #[prost(fixed64, tag = "9")]
    pub transaction: u64,
    /// Way out.
    #[prost(message, optional, tag = "10")]
    pub flow: Option<Flow>,
}

/// A dialog (RFC 3261 s12). The tags stand in `local` and `remote`.
#[derive(Clone, PartialEq, prost::Message)]
pub struct Dialog {
    /// Number of the dialog in its session.
    #[prost(uint32, tag = "1")]
    pub number: u32,
    /// Call-ID.
    #[prost(bytes = "bytes", tag = "2")]
    pub call_id: Bytes,
    /// Our From or To with its tag.
    #[prost(bytes = "bytes", tag = "3")]
    pub local: Bytes,
    /// The peer's From or To with its tag.
    #[prost(bytes = "bytes", tag = "4")]
    pub remote: Bytes,
    /// Our Contact; empty: the usual one of the partition.
    #[prost(bytes = "bytes", tag = "5")]
    pub contact: Bytes,
    /// The peer's Contact.
    #[prost(bytes = "bytes", tag = "6")]
    pub target: Bytes,
    /// Route set as the value of one Route.
    #[prost(bytes = "bytes", tag = "7")]
    pub routes: Bytes,
    /// 0 early, 1 confirmed, 2 terminated.
    #[prost(uint32, tag = "8")]
    pub state: u32,
    /// We called.
    #[prost(bool, tag = "9")]
    pub caller: bool,
    /// The last CSeq number sent; 0 before the first.
    #[prost(uint32, tag = "10")]
    pub local_cseq: u32,
    /// The last CSeq number received.
    #[prost(uint32, optional, tag = "11")]
    pub remote_cseq: Option<u32>,
    /// Where the peer was last heard.
    #[prost(message, optional, tag = "12")]
    pub flow: Option<Flow>,
    /// The session timer (RFC 4028).
    #[prost(message, optional, tag = "13")]
    pub session: Option<Refresh>,
    /// What is under way.
    #[prost(message, optional, tag = "14")]
    pub pending: Option<Pending>,
    /// Reliable provisional responses without their PRACK (RFC 3262), and the final one behind them.
    #[prost(message, repeated, tag = "15")]
    pub reliable: Vec<Reliable>,
    /// The server transaction of its INVITE that is not answered yet.
    #[prost(fixed64, optional, tag = "16")]
    pub invite: Option<u64>,
    /// The application knows that it has ended.
    #[prost(bool, tag = "17")]
    pub ended: bool,
    /// The call out that made it.
    #[prost(uint32, optional, tag = "18")]
    pub call: Option<u32>,
    /// A BYE of ours waits for the peer's ACK (RFC 3261 s15).
    #[prost(bool, tag = "19")]
    pub bye_due: bool,
    /// The ACK that answered a late offer, for repeats of its 2xx. One without body can be written anew.
    #[prost(message, optional, tag = "20")]
    pub ack: Option<SentAck>,
}

/// An ACK with the answer to an offer.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct SentAck {
    /// CSeq of its INVITE.
    #[prost(uint32, tag = "1")]
    pub cseq: u32,
    /// The ACK.
    #[prost(bytes = "bytes", tag = "2")]
    pub ack: Bytes,
    /// Until when repeats may come.
    #[prost(uint64, tag = "3")]
    pub until: u64,
}

/// A session timer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Refresh {
    /// The interval in seconds; 0 is off.
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
    /// The largest Min-SE that the peer named.
    #[prost(uint32, tag = "2")]
    pub min_se: u32,
    /// We refresh.
    #[prost(bool, tag = "3")]
    pub ours: bool,
    /// When we refresh next, if it is ours.
    #[prost(uint64, tag = "4")]
    pub refresh: u64,
    /// When the session ends.
    #[prost(uint64, tag = "5")]
    pub expires: u64,
}

/// What is under way in a dialog, by CSeq and RSeq.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Pending {
    /// The peer's INVITE without a final response.
    #[prost(uint32, optional, tag = "1")]
    pub in_invite: Option<u32>,
    /// It brought an offer that no reliable response has answered.
    #[prost(bool, tag = "2")]
    pub in_offer: bool,
    /// The peer's UPDATE without a final response.
    #[prost(uint32, optional, tag = "3")]
    pub in_update: Option<u32>,
    /// Our INVITE without a final response.
    #[prost(uint32, optional, tag = "4")]
    pub out_invite: Option<u32>,
    /// Our offer without an answer.
    #[prost(bool, tag = "5")]
    pub out_offer: bool,
    /// Our UPDATE without a final response.
    #[prost(uint32, optional, tag = "6")]
    pub out_update: Option<u32>,
    /// RSeq of our latest reliable provisional response.
    #[prost(uint32, tag = "7")]
    pub rseq: u32,
    /// RSeq of the one that waits for its PRACK.
    #[prost(uint32, optional, tag = "8")]
    pub unacknowledged: Option<u32>,
    /// RSeq of the peer's latest.
    #[prost(uint32, optional, tag = "9")]
    pub remote_rseq: Option<u32>,
    /// The session timer that our 2xx to the INVITE will state.
    #[prost(message, optional, tag = "10")]
    pub invite_agreed: Option<Agreed>,
    /// The session timer that our 2xx to the UPDATE will state.
    #[prost(message, optional, tag = "11")]
    pub update_agreed: Option<Agreed>,
    /// Our INVITE without an offer, whose ACK is still to be sent.
    #[prost(uint32, optional, tag = "12")]
    pub late_offer: Option<u32>,
}

/// What a 2xx will state about the session timer.
#[derive(Clone, Copy, PartialEq, Eq, prost::Message)]
pub struct Agreed {
    /// The interval in seconds.
    #[prost(uint32, tag = "1")]
    pub seconds: u32,
    /// The sender of the request will refresh.
    #[prost(bool, tag = "2")]
    pub uac: bool,
    /// The 2xx says `Require: timer`.
    #[prost(bool, tag = "3")]
    pub require: bool,
}

/// A response that waits for a PRACK.
#[derive(Clone, PartialEq, Eq, prost::Message)]
pub struct Reliable {
    /// Its RSeq; none for the final response behind them.
    #[prost(uint32, optional, tag = "1")]
    pub rseq: Option<u32>,
    /// It has a session description.
    #[prost(bool, tag = "2")]
    pub sdp: bool,
    /// CSeq of the INVITE.
    #[prost(uint32, tag = "3")]
    pub cseq: u32,
    /// The status code.
    #[prost(uint32, tag = "4")]
    pub status: u32,
    /// The response.
    #[prost(bytes = "bytes", tag = "5")]
    pub response: Bytes,
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
    /// Number of the dialog in the session.
    #[prost(uint32, optional, tag = "2")]
    pub dialog: Option<u32>,
    /// The request, until it is answered for good.
    #[prost(bytes = "bytes", tag = "3")]
    pub request: Bytes,
    /// The last response; empty before the first.
    #[prost(bytes = "bytes", tag = "4")]
    pub response: Bytes,
    /// `ServerState` of `sip::transaction`.
    #[prost(uint32, tag = "5")]
    pub state: u32,
    /// When the state ends; 0 where it does not.
    #[prost(uint64, tag = "6")]
    pub until: u64,
    /// It is an INVITE's.
    #[prost(bool, tag = "7")]
    pub invite: bool,
    /// CSeq number.
    #[prost(uint32, tag = "8")]
    pub cseq: u32,
    /// Way back.
    #[prost(message, optional, tag = "9")]
    pub flow: Option<Flow>,
    /// The key by which proxies know it (`ucf::transactions`).
    #[prost(fixed64, tag = "10")]
    pub key: u64,
    /// The key of merged requests.
    #[prost(fixed64, tag = "11")]
    pub merged: u64,
}

/// A client transaction (RFC 3261 s17.1).
#[derive(Clone, PartialEq, prost::Message)]
pub struct Client {
    /// Its session.
    #[prost(fixed64, tag = "1")]
    pub session: u64,
    /// Number of the dialog in the session.
    #[prost(uint32, tag = "2")]
    pub dialog: u32,
    /// The request as it left; in an INVITE's Completed the ACK.
    #[prost(bytes = "bytes", tag = "3")]
    pub request: Bytes,
    /// `ClientState` of `sip::transaction`.
    #[prost(uint32, tag = "4")]
    pub state: u32,
    /// When the state ends; 0 where it does not.
    #[prost(uint64, tag = "5")]
    pub until: u64,
    /// It is an INVITE's.
    #[prost(bool, tag = "6")]
    pub invite: bool,
    /// CSeq number.
    #[prost(uint32, tag = "7")]
    pub cseq: u32,
    /// Way out.
    #[prost(message, optional, tag = "8")]
    pub flow: Option<Flow>,
    /// Method.
    #[prost(string, tag = "9")]
    pub method: String,
    /// The engine's own, no matter of the application.
    #[prost(bool, tag = "10")]
    pub internal: bool,
    /// Number of the call in the session that it is the INVITE of.
    #[prost(uint32, optional, tag = "11")]
    pub call: Option<u32>,
    /// The server transaction of the request that it passes on.
    #[prost(fixed64, optional, tag = "12")]
    pub relays: Option<u64>,
    /// A CANCEL of this INVITE: 0 none, 1 waits for a provisional response, 2 was sent.
    #[prost(uint32, tag = "13")]
    pub cancel: u32,
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

impl Record {
    /// Without its deadlines: they are in the store's time, to which each container knows its offset by samples. Nor is an ACK of a refusal
    /// written: what it ends is left out.
    #[must_use]
    fn without_deadlines(mut self) -> Self {
        match &mut self {
            Self::Session(session) => {
                session.timers.iter_mut().for_each(|timer| timer.deadline = 0);
                for dialog in &mut session.dialogs {
                    if let Some(timer) = &mut dialog.session {
                        (timer.refresh, timer.expires) = (0, 0);
                    }
                    if let Some(sent) = &mut dialog.ack {
                        sent.until = 0;
                    }
                }
            }
            Self::Server(server) => {
                server.until = 0;
                if server.invite
                    && [ServerState::Completed as u32, ServerState::Confirmed as u32].contains(&server.state)
                {
                    (server.state, server.response) = (ServerState::Confirmed as u32, Bytes::new());
                }
            }
            Self::Client(client) => client.until = 0,
        }
        self
    }

    fn encode(&self) -> Vec<u8> {
        match self {
            Self::Session(session) => session.encode_to_vec(),
            Self::Server(server) => server.encode_to_vec(),
            Self::Client(client) => client.encode_to_vec(),
        }
    }
}

/// A number for a set of records, in whatever order: two copies of a partition that say the same have the same one, deadlines apart.
pub fn digest(records: impl IntoIterator<Item = (Key, Bytes)>) -> u64 {
    let of = |(key, value): (Key, Bytes)| {
        let mut hasher = SipHasher13::new();
        hasher.write(&key.to_bytes());
        match Record::decode(key.kind, value.clone()) {
            Ok(record) => hasher.write(&record.without_deadlines().encode()),
            Err(_) => hasher.write(&value),
        }
        hasher.finish()
    };
    records.into_iter().map(of).fold(0, u64::wrapping_add)
}

impl Session {
    fn within_bounds(&self) -> bool {
        self.dialogs.len() <= MAX_DIALOGS
            && self.calls.len() <= MAX_CALLS
            && self.attributes.len() <= MAX_ATTRIBUTES
            && self.timers.len() <= MAX_TIMERS
            && self.asks.len() <= MAX_ASKS
            && self.dialogs.iter().all(|dialog| dialog.reliable.len() <= MAX_RELIABLE)
    }
}

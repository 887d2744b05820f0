//! How large a message may be on each leg.
//!
//! A message grows on its way inward (Via, Record-Route, `received`, Max-Forwards, Content-Length), and so does what a container makes of
//! it. One link carries the messages of many calls, and a stream that cannot be read on is closed. So what the edge lets in must stay
//! readable within, whatever is added: the inner limits have room to spare, and nobody but the edge refuses.

use sip::Limits;

/// What a proxy takes from clients; beyond, it answers 513.
pub const EDGE: Limits = Limits {
    message: 60 << 10,
    headers: 112,
    line: 7 << 10,
};

/// What proxies and containers read from one another: as much as an index can address, and lines of twice the size.
pub const INNER: Limits = Limits {
    message: 65_535,
    headers: 254,
    line: 16 << 10,
};

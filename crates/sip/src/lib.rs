//! Sans-IO SIP (RFC 3261): scanning, editing, framing, transactions, dialogs. No clock, socket or randomness of its own.

pub mod time;
pub mod transaction;

pub use time::Instant;

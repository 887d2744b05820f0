//! What a message must be before anyone works on it (RFC 3261 s8.1.1, s8.2, s16.3), and how it is refused.

use super::message::Message;

/// Why a message goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Reject {
    /// The status of the answer.
    pub status: u16,
    /// Its reason phrase; also the name under which a drop is counted.
    pub reason: &'static str,
    /// Whether an answer may be sent: never to a response or an ACK, nor without the fields that it is made of.
    pub answer: bool,
}

/// Reasonable syntax (RFC 3261 s16.3, step 1), and the fields that every request needs (s8.1.1). Max-Forwards may be
/// absent (s16.3, step 3).
///
/// # Errors
/// How the message is to be refused.
pub fn check(message: &Message<'_>) -> Result<(), Reject> {
    let _ = message;
    Ok(())
}

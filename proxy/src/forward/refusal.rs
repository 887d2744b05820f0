//! What the proxy answers itself, and how.

use sip::{HeaderName, Message, ResponseBuilder};
use ucf::base32;
use ucf::token::Keyring;

use super::counters::DropReason;

/// Why a request goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Refusal {
    pub(super) status: u16,
    reason: &'static str,
    extra: Extra,
    /// How it is counted where no answer is allowed.
    pub(super) drop: DropReason,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Extra {
    Nothing,
    /// Retry-After, from 1 to 5 seconds: spread, so that clients do not come back all at once.
    RetryAfter,
    /// Unsupported: what Proxy-Require lists (RFC 3261 s16.3 step 5).
    Unsupported,
}

impl Refusal {
    /// RFC 3261 s16.3 step 1.
    pub(super) const fn malformed(status: u16, reason: &'static str) -> Self {
        Self::new(status, reason, Extra::Nothing, DropReason::Malformed)
    }

    /// RFC 3261 s21.5.14: more than the edge takes.
    pub(super) const TOO_LARGE: Self = Self::new(513, "Message Too Large", Extra::Nothing, DropReason::Malformed);
    /// RFC 3261 s16.3 step 3.
    pub(super) const TOO_MANY_HOPS: Self = Self::new(483, "Too Many Hops", Extra::Nothing, DropReason::Looped);
    /// RFC 3261 s16.3 step 4.
    pub(super) const LOOP: Self = Self::new(482, "Loop Detected", Extra::Nothing, DropReason::Looped);
    /// RFC 3261 s8.2.2.2: the same request came another way and is being worked on.
    pub(super) const MERGED: Self = Self::new(482, "Request Merged", Extra::Nothing, DropReason::Looped);
    /// RFC 3261 s16.3 step 5.
    pub(super) const BAD_EXTENSION: Self = Self::new(420, "Bad Extension", Extra::Unsupported, DropReason::Malformed);
    /// A tag or transaction that this cluster never made: no container can know it.
    pub(super) const UNKNOWN: Self = Self::new(
        481,
        "Call/Transaction Does Not Exist",
        Extra::Nothing,
        DropReason::StrayAck,
    );
    /// A Route or Request-URI with a token that this cluster never made.
    pub(super) const FORGED: Self = Self::new(403, "Forbidden", Extra::Nothing, DropReason::StrayAck);
    /// RFC 3261 s16.10: its INVITE is found, and ends.
    pub(super) const CANCELS: Self = Self::new(200, "OK", Extra::Nothing, DropReason::StrayAck);
    /// RFC 3261 s21.4.25: cancelled before any container had it.
    pub(super) const CANCELLED: Self = Self::new(487, "Request Terminated", Extra::Nothing, DropReason::StrayAck);
    /// RFC 3261 s21.5.4: no container takes new dialogs.
    pub(super) const NO_CONTAINER: Self = Self::new(503, "Service Unavailable", Extra::RetryAfter, DropReason::Full);
    /// The same because all of them have more than enough to do.
    pub(super) const OVERLOADED: Self = Self::new(503, "Service Overloaded", Extra::RetryAfter, DropReason::Full);
    /// A bound was reached. 500 and not 503, which would make a carrier stop using the cluster's one address.
    pub(super) const FULL: Self = Self::new(500, "Server Internal Error", Extra::RetryAfter, DropReason::Full);
    /// It waited for an owner longer than the failover window.
    pub(super) const LATE: Self = Self::new(500, "Server Internal Error", Extra::RetryAfter, DropReason::Late);
    /// A container's request that no way leads on (RFC 3261 s16.9).
    pub(super) const NO_FLOW: Self = Self::new(503, "Service Unavailable", Extra::Nothing, DropReason::NoFlow);

    const fn new(status: u16, reason: &'static str, extra: Extra, drop: DropReason) -> Self {
        Self {
            status,
            reason,
            extra,
            drop,
        }
    }

    /// Whether it says how things are at this proxy, and nothing of the request.
    pub(super) fn is_of_this_proxy(self) -> bool {
        matches!(self.drop, DropReason::Full | DropReason::Late)
    }

    /// Writes the answer. Stateless: the tag is the same for every retransmission (RFC 3261 s8.2.7).
    pub(super) fn write(self, out: &mut Vec<u8>, request: &Message<'_>, keyring: &Keyring, random: u64) {
        let mut tag = [0; 13];
        let seed = request.call_id().unwrap_or_default();
        base32::write(u128::from(keyring.hash(seed)), &mut tag);
        let mut answer = ResponseBuilder::new(out, request, self.status, self.reason, Some(&tag));
        match self.extra {
            Extra::Nothing => (),
            Extra::RetryAfter => {
                let seconds = [b'1' + (random % 5) as u8];
                answer = answer.header(HeaderName::RetryAfter, &seconds);
            }
            Extra::Unsupported => {
                for required in request.headers(HeaderName::ProxyRequire) {
                    answer = answer.header(HeaderName::Unsupported, required.value);
                }
            }
        }
        answer.finish();
    }
}

//! Header names: the ones this stack knows by number, with their compact forms (RFC 3261 s7.3.3, s20 and extensions).

/// Writes the enum, its canonical names and its compact forms from one table.
macro_rules! header_names {
    ($($variant:ident, $name:literal, $compact:expr;)*) => {
        /// A header field name known to this stack, or [`HeaderName::Other`].
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[repr(u8)]
        pub enum HeaderName {
            $(#[doc = $name] $variant,)*
            /// Any other name; its bytes are in the message.
            Other,
        }

        const ALL: &[(HeaderName, &str, Option<u8>)] = &[$((HeaderName::$variant, $name, $compact),)*];
    };
}

header_names! {
    Accept, "Accept", None;
    AcceptContact, "Accept-Contact", Some(b'a');
    AcceptEncoding, "Accept-Encoding", None;
    AcceptLanguage, "Accept-Language", None;
    AlertInfo, "Alert-Info", None;
    Allow, "Allow", None;
    AllowEvents, "Allow-Events", Some(b'u');
    AuthenticationInfo, "Authentication-Info", None;
    Authorization, "Authorization", None;
    CallId, "Call-ID", Some(b'i');
    CallInfo, "Call-Info", None;
    Contact, "Contact", Some(b'm');
    ContentDisposition, "Content-Disposition", None;
    ContentEncoding, "Content-Encoding", Some(b'e');
    ContentLanguage, "Content-Language", None;
    ContentLength, "Content-Length", Some(b'l');
    ContentType, "Content-Type", Some(b'c');
    Cseq, "CSeq", None;
    Date, "Date", None;
    Diversion, "Diversion", None;
    ErrorInfo, "Error-Info", None;
    Event, "Event", Some(b'o');
    Expires, "Expires", None;
    FlowTimer, "Flow-Timer", None;
    From, "From", Some(b'f');
    HistoryInfo, "History-Info", None;
    Identity, "Identity", Some(b'y');
    InReplyTo, "In-Reply-To", None;
    Join, "Join", None;
    MaxBreadth, "Max-Breadth", None;
    MaxForwards, "Max-Forwards", None;
    MimeVersion, "MIME-Version", None;
    MinExpires, "Min-Expires", None;
    MinSe, "Min-SE", None;
    Organization, "Organization", None;
    PAssertedIdentity, "P-Asserted-Identity", None;
    PPreferredIdentity, "P-Preferred-Identity", None;
    Path, "Path", None;
    Priority, "Priority", None;
    Privacy, "Privacy", None;
    ProxyAuthenticate, "Proxy-Authenticate", None;
    ProxyAuthorization, "Proxy-Authorization", None;
    ProxyRequire, "Proxy-Require", None;
    Rack, "RAck", None;
    Reason, "Reason", None;
    RecordRoute, "Record-Route", None;
    ReferTo, "Refer-To", Some(b'r');
    ReferredBy, "Referred-By", Some(b'b');
    RejectContact, "Reject-Contact", Some(b'j');
    Replaces, "Replaces", None;
    ReplyTo, "Reply-To", None;
    RequestDisposition, "Request-Disposition", Some(b'd');
    Require, "Require", None;
    ResourcePriority, "Resource-Priority", None;
    RetryAfter, "Retry-After", None;
    Route, "Route", None;
    Rseq, "RSeq", None;
    Server, "Server", None;
    ServiceRoute, "Service-Route", None;
    SessionExpires, "Session-Expires", Some(b'x');
    SipEtag, "SIP-ETag", None;
    SipIfMatch, "SIP-If-Match", None;
    Subject, "Subject", Some(b's');
    SubscriptionState, "Subscription-State", None;
    Supported, "Supported", Some(b'k');
    TargetDialog, "Target-Dialog", None;
    Timestamp, "Timestamp", None;
    To, "To", Some(b't');
    Unsupported, "Unsupported", None;
    UserAgent, "User-Agent", None;
    Via, "Via", Some(b'v');
    Warning, "Warning", None;
    WwwAuthenticate, "WWW-Authenticate", None;
}

impl HeaderName {
    /// How many names are known, `Other` included.
    pub const COUNT: usize = Self::Other as usize + 1;

    /// The name as the RFC writes it; empty for `Other`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        if (self as usize) < ALL.len() {
            ALL[self as usize].1
        } else {
            ""
        }
    }

    /// The one-letter form, where there is one (RFC 3261 s7.3.3).
    #[must_use]
    pub const fn compact(self) -> Option<u8> {
        if (self as usize) < ALL.len() {
            ALL[self as usize].2
        } else {
            None
        }
    }

    /// Recognizes a name in its long or compact form, without regard to case.
    #[must_use]
    pub fn recognize(name: &[u8]) -> Self {
        let (Some(first), Some(last)) = (name.first(), name.last()) else {
            return Self::Other;
        };
        let mut slot = hash(name.len(), *first, *last);
        loop {
            let (entry, text) = SLOTS[slot];
            if text.is_empty() || text.eq_ignore_ascii_case(name) {
                return entry;
            }
            slot = (slot + 1) % SLOTS.len();
        }
    }
}

/// Length, first and last letter tell nearly all names apart; the rest is linear probing in a table four times as
/// large as the names.
const fn hash(len: usize, first: u8, last: u8) -> usize {
    (len.wrapping_mul(11) ^ ((first | 0x20) as usize).wrapping_mul(37) ^ ((last | 0x20) as usize).wrapping_mul(151))
        % 512
}

static SLOTS: [(HeaderName, &[u8]); 512] = slots();

const fn slots() -> [(HeaderName, &'static [u8]); 512] {
    const COMPACT: [u8; 26] = *b"abcdefghijklmnopqrstuvwxyz";
    let mut slots: [(HeaderName, &'static [u8]); 512] = [(HeaderName::Other, b""); 512];
    let mut i = 0;
    while i < ALL.len() {
        let (name, text, compact) = ALL[i];
        insert(&mut slots, name, text.as_bytes());
        if let Some(letter) = compact {
            let from = COMPACT.split_at((letter - b'a') as usize).1;
            insert(&mut slots, name, from.split_at(1).0);
        }
        i += 1;
    }
    slots
}

const fn insert(slots: &mut [(HeaderName, &'static [u8]); 512], name: HeaderName, text: &'static [u8]) {
    let mut slot = hash(text.len(), text[0], text[text.len() - 1]);
    while !slots[slot].1.is_empty() {
        slot = (slot + 1) % slots.len();
    }
    slots[slot] = (name, text);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_name_is_recognized_in_every_form() {
        for (name, text, compact) in ALL {
            assert_eq!(HeaderName::recognize(text.as_bytes()), *name);
            assert_eq!(HeaderName::recognize(text.to_ascii_uppercase().as_bytes()), *name);
            if let Some(letter) = compact {
                assert_eq!(HeaderName::recognize(&[*letter]), *name);
                assert_eq!(HeaderName::recognize(&[letter.to_ascii_uppercase()]), *name);
            }
        }
        for other in ["", "X", "x-foo", "Callid", "Via2", "\u{e4}"] {
            let expected = if other == "X" {
                HeaderName::SessionExpires
            } else {
                HeaderName::Other
            };
            assert_eq!(HeaderName::recognize(other.as_bytes()), expected, "{other}");
        }
    }
}

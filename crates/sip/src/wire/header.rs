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
        match name {
            [] => Self::Other,
            [letter] => COMPACT[usize::from(letter.to_ascii_lowercase())],
            [first, .., last] => {
                let mut slot = hash(name.len(), *first, *last);
                while let Some((entry, text, _)) = ALL.get(usize::from(SLOTS[slot])) {
                    let text = text.as_bytes();
                    // Nearly all write the name as the RFC does.
                    if text == name || text.eq_ignore_ascii_case(name) {
                        return *entry;
                    }
                    slot = (slot + 1) % SLOTS.len();
                }
                Self::Other
            }
        }
    }
}

/// Length, first and last letter tell nearly all names apart; the rest is linear probing in a table of three times as
/// many slots as names, which is small enough to stay near.
const fn hash(len: usize, first: u8, last: u8) -> usize {
    (len.wrapping_mul(MIX.0)
        ^ ((first | 0x20) as usize).wrapping_mul(MIX.1)
        ^ ((last | 0x20) as usize).wrapping_mul(MIX.2))
        % 256
}

const MIX: (usize, usize, usize) = (15, 37, 73);

/// An empty slot.
const FREE: u8 = u8::MAX;

/// Places in [`ALL`], by [`hash`].
static SLOTS: [u8; 256] = {
    assert!(ALL.len() < FREE as usize);
    let mut slots = [FREE; 256];
    let mut place = 0;
    while place < ALL.len() {
        let text = ALL[place].1.as_bytes();
        let mut slot = hash(text.len(), text[0], text[text.len() - 1]);
        while slots[slot] != FREE {
            slot = (slot + 1) % slots.len();
        }
        slots[slot] = place as u8;
        place += 1;
    }
    slots
};

/// Names by their compact form.
static COMPACT: [HeaderName; 256] = {
    let mut names = [HeaderName::Other; 256];
    let mut place = 0;
    while place < ALL.len() {
        if let Some(letter) = ALL[place].2 {
            names[letter as usize] = ALL[place].0;
        }
        place += 1;
    }
    names
};

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

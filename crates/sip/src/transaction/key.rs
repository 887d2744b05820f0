//! Which transaction a message belongs to (RFC 3261 s17.1.3, s17.2.3).

use crate::{Message, Method, Via};
use std::fmt;

/// The key of a transaction: method, sent-by and branch in one allocation, readable in a log line.
///
/// Server: the method with ACK counted as INVITE, the sent-by in lower case, the branch byte by byte. Without the magic
/// cookie (RFC 2543) the branch is replaced by Request-URI, From tag, Call-ID, CSeq and the whole Via; the To tag is
/// left out because the ACK carries one that the INVITE lacks. Client: sent-by is empty, the branch is our own.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TransactionKey(Box<[u8]>);

/// What of a request goes into its key.
#[derive(Clone, Copy, Debug)]
pub struct KeyParts<'a> {
    /// The method of the request line.
    pub method: Method<'a>,
    /// `branch` of the topmost Via.
    pub branch: Option<&'a [u8]>,
    /// Host of the topmost Via.
    pub host: &'a [u8],
    /// Port of the topmost Via, if one is written.
    pub port: Option<u16>,
    /// The whole topmost Via value. This and the rest matter only for peers of RFC 2543.
    pub via: &'a [u8],
    /// Request-URI.
    pub uri: &'a [u8],
    /// Tag of From.
    pub from_tag: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Number of CSeq.
    pub cseq: u32,
}

impl<'a> KeyParts<'a> {
    /// Out of a request. Without a Via that can be read there is no transaction.
    #[must_use]
    pub fn of(request: &Message<'a>) -> Option<Self> {
        let Via { raw, host, port, .. } = request.via()?;
        Some(Self {
            method: request.method(),
            branch: request.via()?.branch(),
            host,
            port,
            via: raw,
            uri: request.request_uri_bytes(),
            from_tag: request.from().and_then(|from| from.tag()).unwrap_or_default(),
            call_id: request.call_id().unwrap_or_default(),
            cseq: request.cseq().map_or(0, |cseq| cseq.number),
        })
    }
}

const COOKIE: &[u8] = b"z9hG4bK";

impl TransactionKey {
    /// The key of a request that came in.
    #[must_use]
    pub fn server(parts: &KeyParts<'_>) -> Self {
        let method = canonical(parts.method);
        match parts.branch.filter(|branch| has_cookie(branch)) {
            Some(branch) => Self::modern(method, parts.host, parts.port, branch),
            None => Self::legacy(method, parts),
        }
    }

    /// The key of a request that we send, and of its responses: our branch and the CSeq's method (RFC 3261 s17.1.3).
    #[must_use]
    pub fn client(branch: &[u8], cseq_method: Method<'_>) -> Self {
        Self::modern(canonical(cseq_method), b"", None, branch)
    }

    /// The key of the transaction that a message belongs to: a request, or a response to a request of ours.
    #[must_use]
    pub fn of(message: &Message<'_>) -> Option<Self> {
        if message.is_request() {
            return KeyParts::of(message).map(|parts| Self::server(&parts));
        }
        Some(Self::client(message.via()?.branch()?, message.method()))
    }

    /// The key of the INVITE that a CANCEL with this key is about (RFC 3261 s9.2: same Via, other method).
    #[must_use]
    pub fn of_invite(&self) -> Self {
        let rest = &self.0[self.method().len()..];
        Self([b"INVITE", rest].concat().into())
    }

    /// Whether a CANCEL with the key `cancel` is about this transaction.
    #[must_use]
    pub fn matches(&self, cancel: &Self) -> bool {
        self.method() == b"INVITE" && self.0[self.method().len()..] == cancel.0[cancel.method().len()..]
    }

    /// The method, with ACK counted as INVITE.
    #[must_use]
    pub fn method(&self) -> &[u8] {
        self.0.split(|byte| *byte == b' ').next().unwrap_or_default()
    }

    /// The key as it goes into a record.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The key out of a record.
    #[must_use]
    pub fn from_bytes(bytes: &[u8]) -> Self {
        Self(bytes.into())
    }

    // METHOD SP sent-by SP branch. Method and sent-by hold no space, so nothing can be read in two ways.
    fn modern(method: &[u8], host: &[u8], port: Option<u16>, branch: &[u8]) -> Self {
        let mut key = Vec::with_capacity(method.len() + host.len() + branch.len() + 8);
        key.extend_from_slice(method);
        key.push(b' ');
        key.extend(host.iter().filter(|byte| **byte != b' ').map(u8::to_ascii_lowercase));
        if let Some(port) = port {
            key.push(b':');
            key.extend_from_slice(port.to_string().as_bytes());
        }
        key.push(b' ');
        key.extend_from_slice(branch);
        Self(key.into())
    }

    // The empty sent-by followed by a space tells a legacy key from a modern one: no branch begins with a space.
    fn legacy(method: &[u8], parts: &KeyParts<'_>) -> Self {
        let cseq = parts.cseq.to_string();
        let fields = [parts.uri, parts.from_tag, parts.call_id, cseq.as_bytes(), parts.via];
        let mut key = [method, b"  "].concat();
        for field in fields {
            key.push(b' ');
            key.extend_from_slice(field);
        }
        Self(key.into())
    }
}

/// The ACK of a refused INVITE belongs to its transaction.
fn canonical<'a>(method: Method<'a>) -> &'a [u8] {
    match method {
        Method::Ack => b"INVITE",
        method => method.as_bytes(),
    }
}

fn has_cookie(branch: &[u8]) -> bool {
    // Parameter values are case-insensitive (RFC 3261 s7.3.1). A bare cookie identifies nothing.
    branch.len() > COOKIE.len() && branch[..COOKIE.len()].eq_ignore_ascii_case(COOKIE)
}

impl fmt::Debug for TransactionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "TransactionKey({})", String::from_utf8_lossy(&self.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parts<'a>(method: Method<'a>, branch: Option<&'a [u8]>) -> KeyParts<'a> {
        KeyParts {
            method,
            branch,
            host: b"Pc33.Example.com",
            port: Some(5061),
            via: b"SIP/2.0/UDP pc33.example.com:5061",
            uri: b"sip:bob@example.com",
            from_tag: b"88sja8x",
            call_id: b"987asjd97y7atg",
            cseq: 986_759,
        }
    }

    #[test]
    fn an_ack_has_the_key_of_its_invite_and_a_cancel_finds_it() {
        let invite = TransactionKey::server(&parts(Method::Invite, Some(b"z9hG4bKa7")));
        let ack = TransactionKey::server(&parts(Method::Ack, Some(b"z9hG4bKa7")));
        let cancel = TransactionKey::server(&parts(Method::Cancel, Some(b"z9hG4bKa7")));
        assert_eq!(invite, ack);
        assert_ne!(invite, cancel);
        assert_eq!(cancel.of_invite(), invite);
        assert!(invite.matches(&cancel));
        assert!(!invite.matches(&TransactionKey::server(&parts(Method::Cancel, Some(b"z9hG4bKa8")))));
    }

    #[test]
    fn sent_by_tells_two_clients_with_one_branch_apart_but_its_case_does_not_matter() {
        let mut other = parts(Method::Invite, Some(b"z9hG4bKa7"));
        let key = TransactionKey::server(&other);
        other.host = b"pc33.example.COM";
        assert_eq!(TransactionKey::server(&other), key);
        other.host = b"pc34.example.com";
        assert_ne!(TransactionKey::server(&other), key);
    }

    #[test]
    fn without_the_cookie_the_whole_request_identifies_it() {
        for branch in [None, Some(&b"1"[..]), Some(b"z9hG4bK")] {
            let invite = TransactionKey::server(&parts(Method::Invite, branch));
            let mut other = parts(Method::Invite, branch);
            other.cseq += 1;
            assert_ne!(TransactionKey::server(&other), invite);
            assert_eq!(TransactionKey::server(&parts(Method::Ack, branch)), invite);
            assert!(invite.matches(&TransactionKey::server(&parts(Method::Cancel, branch))));
        }
    }
}

//! From, To, Contact, Route and their kin: a display name, a URI, parameters (RFC 3261 s20.10, s25.1).

use memchr::{memchr, memchr2};

use super::params::{Params, closing_quote};
use super::scan::trimmed;
use super::uri::Uri;

/// `"Display" <uri>;params`, or `uri;params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NameAddr<'a> {
    /// All of it.
    pub raw: &'a [u8],
    /// Display name as written, quotes kept; empty if there is none.
    pub display: &'a [u8],
    /// The URI as written; `*` of a Contact too.
    pub uri_bytes: &'a [u8],
    /// Parameters of the header value, those of the URI not among them.
    pub params: Params<'a>,
}

impl<'a> NameAddr<'a> {
    /// The URI taken apart; `None` if it is malformed.
    #[must_use]
    pub fn uri(&self) -> Option<Uri<'a>> {
        Uri::parse(self.uri_bytes)
    }

    /// The tag (RFC 3261 s19.3); an empty one counts as none.
    #[must_use]
    pub fn tag(&self) -> Option<&'a [u8]> {
        self.params.get(b"tag").filter(|tag| !tag.is_empty())
    }
}

impl<'a> NameAddr<'a> {
    /// Takes one value apart; `None` if it is malformed. What is inside the URI is not looked at yet.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let bytes = trimmed(raw);
        match open_bracket(bytes)? {
            Some(open) => {
                let close = open + memchr(b'>', &bytes[open..])?;
                let params = trimmed(&bytes[close + 1..]);
                if !matches!(params.first(), None | Some(b';')) {
                    return None;
                }
                Some(Self {
                    raw: bytes,
                    display: trimmed(&bytes[..open]),
                    uri_bytes: trimmed(&bytes[open + 1..close]),
                    params: Params::new(params),
                })
            }
            // RFC 3261 s20.10: without brackets, what follows the first semicolon belongs to the header.
            None => {
                let end = memchr(b';', bytes).unwrap_or(bytes.len());
                let uri_bytes = trimmed(&bytes[..end]);
                (!uri_bytes.is_empty()).then_some(Self {
                    raw: bytes,
                    display: b"",
                    uri_bytes,
                    params: Params::new(&bytes[end..]),
                })
            }
        }
    }
}

/// Where the bracket opens, behind a display name that may be quoted; `Some(None)` if there is none, `None` if a
/// quoted string does not end or stands where none may.
fn open_bracket(bytes: &[u8]) -> Option<Option<usize>> {
    if bytes.first() != Some(&b'"') {
        // A bracket behind a parameter is a parameter's affair.
        return Some(memchr2(b'<', b';', bytes).filter(|at| bytes[*at] == b'<'));
    }
    let from = closing_quote(bytes, 0)? + 1;
    let open = from + memchr(b'<', &bytes[from..])?;
    trimmed(&bytes[from..open]).is_empty().then_some(Some(open))
}

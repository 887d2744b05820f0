//! Parameters: `;name=value` behind Via, addresses and URIs (RFC 3261 s25.1, generic-param).

use memchr::{memchr, memchr3};

use super::scan::trimmed;

/// The parameters of a header value or URI, still as bytes; each look-up walks them, as they are few.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Params<'a> {
    raw: &'a [u8],
}

impl<'a> Params<'a> {
    /// Parameters as they stand on the wire: empty, or from the first semicolon on.
    #[must_use]
    pub const fn new(raw: &'a [u8]) -> Self {
        Self { raw }
    }

    /// The bytes, from the first semicolon on.
    #[must_use]
    pub const fn as_bytes(&self) -> &'a [u8] {
        self.raw
    }

    /// The value of the first parameter of this name (case does not matter); empty if it has none. Quotes are kept,
    /// see [`unquoted`].
    #[must_use]
    pub fn get(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.iter()
            .find(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.unwrap_or_default())
    }

    /// Whether there is a parameter of this name.
    #[must_use]
    pub fn has(&self, name: &[u8]) -> bool {
        self.iter().any(|(n, _)| n.eq_ignore_ascii_case(name))
    }

    /// All of them in order, as name and value; `;;` is skipped.
    pub fn iter(&self) -> impl Iterator<Item = (&'a [u8], Option<&'a [u8]>)> + use<'a> {
        let mut rest = self.raw;
        std::iter::from_fn(move || {
            loop {
                let start = memchr(b';', rest)? + 1;
                let end = find_unquoted(rest, start, b';').unwrap_or(rest.len());
                let one = trimmed(&rest[start..end]);
                rest = &rest[end..];
                if !one.is_empty() {
                    return Some(match memchr(b'=', one) {
                        Some(at) => (trimmed(&one[..at]), Some(trimmed(&one[at + 1..]))),
                        None => (one, None),
                    });
                }
            }
        })
    }
}

/// A quoted string without its quotes; anything else unchanged. Escapes (`\"`) are kept.
#[must_use]
pub fn unquoted(value: &[u8]) -> &[u8] {
    match value {
        [b'"', inner @ .., b'"'] => inner,
        _ => value,
    }
}

/// Where `target` stands outside quoted strings and angle brackets, at `from` or behind. A string or bracket that
/// does not end hides all that follows.
pub(crate) fn find_unquoted(bytes: &[u8], from: usize, target: u8) -> Option<usize> {
    let mut at = from;
    loop {
        at += memchr3(target, b'"', b'<', bytes.get(at..)?)?;
        if bytes[at] == target {
            return Some(at);
        }
        at = if bytes[at] == b'"' {
            closing_quote(bytes, at)? + 1
        } else {
            at + memchr(b'>', &bytes[at..])? + 1
        };
    }
}

/// The quote that ends the string which starts at `open` (RFC 3261 s25.1, quoted-string).
pub(crate) fn closing_quote(bytes: &[u8], open: usize) -> Option<usize> {
    let mut at = open + 1;
    loop {
        at += memchr::memchr2(b'"', b'\\', bytes.get(at..)?)?;
        if bytes[at] == b'"' {
            return Some(at);
        }
        at += 2;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_are_found_whatever_their_case_space_and_quotes() {
        let params = Params::new(b";tag = 7;LR; x=\"a;b\\\"c\";;y=");
        assert_eq!(params.get(b"TAG"), Some(&b"7"[..]));
        assert_eq!(params.get(b"lr"), Some(&b""[..]));
        assert_eq!(params.get(b"x").map(unquoted), Some(&b"a;b\\\"c"[..]));
        assert_eq!(params.get(b"y"), Some(&b""[..]));
        assert_eq!(params.get(b"z"), None);
        assert_eq!(params.iter().count(), 4);
    }

    #[test]
    fn what_does_not_end_hides_the_rest() {
        assert_eq!(find_unquoted(b"\"a,b", 0, b','), None);
        assert_eq!(find_unquoted(b"<a,b", 0, b','), None);
        assert_eq!(find_unquoted(b"\"a\\", 0, b','), None);
        assert_eq!(find_unquoted(b"\"a\\\",\",b", 0, b','), Some(6));
    }
}

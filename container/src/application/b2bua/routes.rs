//! Where a call goes: the first route that matches.

use std::net::IpAddr;

use serde::Deserialize;
use sip::{Host, Uri};

use crate::application::Request;

/// One route, in the manifest's words. What is left out matches everything.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Route {
    /// The method, which is INVITE.
    #[serde(default)]
    pub method: Option<RoutedMethod>,
    /// The user part of the Request-URI, or the number of a tel URI; `*` stands for any characters.
    #[serde(default)]
    pub user: Option<String>,
    /// The host of the Request-URI.
    #[serde(default)]
    pub domain: Option<String>,
    /// The network, or address, that the call comes from.
    #[serde(default)]
    pub source: Option<Network>,
    /// Where it goes.
    pub target: Target,
}

/// A method that makes calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum RoutedMethod {
    /// RFC 3261 s13.
    Invite,
}

/// An address, or a network such as `10.0.0.0/8`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Network {
    address: IpAddr,
    prefix: u8,
}

/// A SIP URI whose host is an IP address: nothing is looked up, and no call goes anywhere else.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct Target {
    uri: String,
    has_user: bool,
}

impl Route {
    /// Whether the request takes this route.
    #[must_use]
    pub fn matches(&self, request: &Request<'_>) -> bool {
        let uri = request.message().wire().request_uri();
        let user = uri.and_then(|uri| uri.user).unwrap_or_default();
        let host = uri.map(|uri| uri.host).unwrap_or_default();
        let from = |network: &Network| request.source().is_some_and(|source| network.holds(source));
        self.user
            .as_ref()
            .is_none_or(|pattern| matches_pattern(pattern.as_bytes(), user))
            && self
                .domain
                .as_ref()
                .is_none_or(|domain| domain.as_bytes().eq_ignore_ascii_case(host))
            && self.source.as_ref().is_none_or(from)
    }

    /// Whether it names the address: as the source of its calls, or as their target.
    #[must_use]
    pub fn names(&self, address: IpAddr) -> bool {
        self.source.is_some_and(|source| source.holds(address)) || self.target.address() == Some(address.to_canonical())
    }
}

/// `*` stands for any characters, none included.
fn matches_pattern(pattern: &[u8], text: &[u8]) -> bool {
    let Some(star) = pattern.iter().position(|byte| *byte == b'*') else {
        return pattern == text;
    };
    let Some(mut rest) = text.strip_prefix(&pattern[..star]) else {
        return false;
    };
    let mut parts: Vec<&[u8]> = pattern[star + 1..].split(|byte| *byte == b'*').collect();
    let last = parts.pop().unwrap_or_default();
    // The earliest place of each part leaves the most for those behind it.
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let Some(at) = rest.windows(part.len()).position(|window| window == part) else {
            return false;
        };
        rest = &rest[at + part.len()..];
    }
    rest.ends_with(last)
}

impl Network {
    /// Whether the address is in it.
    #[must_use]
    pub fn holds(&self, address: IpAddr) -> bool {
        let bits = |address: IpAddr| match address {
            IpAddr::V4(address) => (u128::from(u32::from(address)) << 96, 32),
            IpAddr::V6(address) => (u128::from(address), 128),
        };
        let ((ours, length), (theirs, other)) = (bits(self.address), bits(address.to_canonical()));
        let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
        length == other && (ours ^ theirs) & mask == 0
    }
}

impl TryFrom<String> for Network {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not an address such as 10.0.0.7, or a network such as 10.0.0.0/8");
        let (address, prefix) = match text.split_once('/') {
            Some((address, prefix)) => (address, Some(prefix.parse::<u8>().map_err(|_| wrong())?)),
            None => (text.as_str(), None),
        };
        let address: IpAddr = address.parse().map_err(|_| wrong())?;
        let longest = if address.is_ipv4() { 32 } else { 128 };
        let prefix = prefix.unwrap_or(longest);
        if prefix > longest {
            return Err(wrong());
        }
        Ok(Self { address, prefix })
    }
}

impl TryFrom<String> for Target {
    type Error = String;

    fn try_from(uri: String) -> Result<Self, String> {
        let parsed = Uri::parse(uri.as_bytes()).filter(|parsed| {
            parsed.scheme == sip::Scheme::Sip
                && parsed.headers.is_empty()
                && parsed.password.is_none()
                && matches!(parsed.host(), Some(Host::Address(_)))
        });
        let Some(parsed) = parsed else {
            return Err(format!(
                "{uri:?} is not a SIP URI with an IP address, such as sip:10.0.0.7:5060;transport=tcp"
            ));
        };
        let has_user = parsed.user.is_some();
        Ok(Self { uri, has_user })
    }
}

impl Target {
    /// The address that it names.
    #[must_use]
    pub fn address(&self) -> Option<IpAddr> {
        match Uri::parse(self.uri.as_bytes())?.host()? {
            Host::Address(address) => Some(address.to_canonical()),
            Host::Name(_) => None,
        }
    }

    /// The Request-URI of a call to it: with the user part that was called, unless it has one of its own. `None` if what was called is no
    /// user part: in front of the target it would name another one.
    #[must_use]
    pub fn uri(&self, called: Option<Uri<'_>>) -> Option<Vec<u8>> {
        let user = called.and_then(|uri| uri.user).filter(|_| !self.has_user);
        match (user, self.uri.split_once(':')) {
            (Some(user), Some((scheme, rest))) => user
                .iter()
                .all(is_of_a_user)
                .then(|| [scheme.as_bytes(), b":", user, b"@", rest.as_bytes()].concat()),
            _ => Some(self.uri.clone().into_bytes()),
        }
    }
}

/// RFC 3261 s25.1: unreserved, escaped and user-unreserved, without the `?` and `;` that some read as the end of it.
fn is_of_a_user(byte: &u8) -> bool {
    byte.is_ascii_alphanumeric() || b"-_.!~*'()%&=+$,/".contains(byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_star_stands_for_any_characters() {
        for (pattern, text) in [
            ("*", ""),
            ("+49*", "+4930"),
            ("*9", "99"),
            ("a*b*c", "aXbbYc"),
            ("bob", "bob"),
            ("*a*", "bab"),
        ] {
            assert!(matches_pattern(pattern.as_bytes(), text.as_bytes()), "{pattern} {text}");
        }
        for (pattern, text) in [
            ("", "x"),
            ("+49*", "+4"),
            ("*9", "98"),
            ("a*b*c", "abbX"),
            ("bob", "bobby"),
            ("ab*ba", "aba"),
        ] {
            assert!(
                !matches_pattern(pattern.as_bytes(), text.as_bytes()),
                "{pattern} {text}"
            );
        }
    }

    #[test]
    fn a_network_holds_its_addresses() {
        let network = |text: &str| Network::try_from(text.to_owned());
        let holds = |text: &str, address: &str| network(text).expect(text).holds(address.parse().expect(address));
        assert!(holds("10.0.0.0/8", "10.9.8.7") && !holds("10.0.0.0/8", "11.0.0.1"));
        assert!(holds("10.0.0.7", "10.0.0.7") && !holds("10.0.0.7", "10.0.0.6"));
        assert!(holds("0.0.0.0/0", "203.0.113.1") && !holds("0.0.0.0/0", "::1"));
        assert!(holds("2001:db8::/32", "2001:db8:1::1") && !holds("2001:db8::/32", "2001:db9::1"));
        assert!(holds("10.0.0.0/8", "::ffff:10.0.0.1"));
        for wrong in ["", "10.0.0", "10.0.0.0/33", "::/129", "10.0.0.0/x", "example.org"] {
            assert!(network(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_target_takes_the_user_that_was_called_unless_it_has_one() {
        let called = Uri::parse(b"sip:bob@example.org");
        let target = |text: &str| Target::try_from(text.to_owned());
        let uri = |text: &str| String::from_utf8(target(text).expect(text).uri(called).expect("a user")).expect("text");
        assert_eq!(
            uri("sip:10.0.0.7:5070;transport=tcp"),
            "sip:bob@10.0.0.7:5070;transport=tcp"
        );
        assert_eq!(uri("sip:desk@10.0.0.7"), "sip:desk@10.0.0.7");
        assert_eq!(uri("sip:[::1]:5070"), "sip:bob@[::1]:5070");
        for hostile in [
            "tel:x@198.51.100.1:5060?a",
            "tel:+49@198.51.100.1?",
            "tel:a:b",
            "tel:a?b",
        ] {
            let called = Uri::parse(hostile.as_bytes());
            assert_eq!(target("sip:10.0.0.7").expect("a target").uri(called), None, "{hostile}");
        }
        for wrong in [
            "",
            "sip:example.org",
            "sips:10.0.0.7",
            "tel:+4930",
            "10.0.0.7",
            "sip:10.0.0.7?Subject=x",
        ] {
            assert!(target(wrong).is_err(), "{wrong}");
        }
    }
}

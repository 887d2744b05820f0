//! URIs: sip, sips, tel, urn and whatever else a message carries (RFC 3261 s19.1, RFC 3966, RFC 3986).

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use memchr::{memchr, memchr2};

use super::params::Params;

/// The scheme of a [`Uri`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scheme<'a> {
    /// RFC 3261 s19.1.
    Sip,
    /// RFC 3261 s19.1; every hop over TLS.
    Sips,
    /// RFC 3966.
    Tel,
    /// RFC 8141, as in `urn:service:sos` (RFC 5031).
    Urn,
    /// Any other, as written.
    Other(&'a [u8]),
}

/// Where a URI or a Via points.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Host<'a> {
    /// An IPv4 or IPv6 address.
    Address(IpAddr),
    /// A name to be resolved (RFC 3263).
    Name(&'a [u8]),
}

/// A URI, taken apart without copies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uri<'a> {
    /// All of it.
    pub raw: &'a [u8],
    /// The scheme.
    pub scheme: Scheme<'a>,
    /// User part of sip and sips, still escaped; the number of a tel URI.
    pub user: Option<&'a [u8]>,
    /// Password of sip and sips.
    pub password: Option<&'a [u8]>,
    /// Host of sip and sips as written, an IPv6 reference in its brackets; else empty.
    pub host: &'a [u8],
    /// Port, if one is written.
    pub port: Option<u16>,
    /// URI parameters.
    pub params: Params<'a>,
    /// What follows `?`, still escaped; else empty.
    pub headers: &'a [u8],
}

impl<'a> Host<'a> {
    /// A name, an IPv4 address, or an IPv6 address with or without brackets; `None` if it cannot be a host.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        match bytes.iter().position(|b| !is_host(*b)) {
            None if bytes.is_empty() => None,
            None => Some(parse_v4(bytes).map_or(Self::Name(bytes), |address| Self::Address(address.into()))),
            Some(_) => {
                let inner = match bytes {
                    [b'[', inner @ .., b']'] => inner,
                    _ => bytes,
                };
                let text = std::str::from_utf8(inner).ok()?;
                text.parse::<Ipv6Addr>()
                    .ok()
                    .map(|address| Self::Address(address.into()))
            }
        }
    }
}

/// Letters, digits, `-` and `.`; underscores are no host names, but many a private network has them.
const fn is_host(byte: u8) -> bool {
    const HOST: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = (byte as u8).is_ascii_alphanumeric() || matches!(byte as u8, b'-' | b'.' | b'_');
            byte += 1;
        }
        table
    };
    HOST[byte as usize]
}

/// Four numbers of one to three digits up to 255, without leading zeros.
fn parse_v4(bytes: &[u8]) -> Option<Ipv4Addr> {
    let mut octets = [0_u8; 4];
    let mut parts = bytes.split(|b| *b == b'.');
    for octet in &mut octets {
        *octet = match parts.next()? {
            [b'0'] => 0,
            [b'0', ..] => return None,
            digits if digits.len() <= 3 => u8::try_from(super::scan::parse_u32(digits)?).ok()?,
            _ => return None,
        };
    }
    parts.next().is_none().then_some(octets.into())
}

/// What may stand in a URI at all; octets beyond ASCII are let through, as too many send them unescaped.
const fn is_uri(byte: u8) -> bool {
    const URI: [bool; 256] = {
        let mut table = [false; 256];
        let mut byte = 0;
        while byte < 256 {
            table[byte] = !matches!(byte as u8, 0..=b' ' | b'<' | b'>' | b'"' | 0x7f);
            byte += 1;
        }
        table
    };
    URI[byte as usize]
}

/// A port that can be sent to.
pub(crate) fn parse_port(digits: &[u8]) -> Option<u16> {
    super::scan::parse_u32(digits)
        .and_then(|n| u16::try_from(n).ok())
        .filter(|n| *n != 0)
}

/// `host[:port]`, an IPv6 reference in brackets. White space may stand around the colon in a Via (RFC 3261 s25.1).
pub(crate) fn host_port(bytes: &[u8]) -> Option<(&[u8], Option<u16>)> {
    use super::scan::trimmed;
    let host_end = match bytes.first()? {
        b'[' => memchr(b']', bytes)? + 1,
        _ => memchr(b':', bytes).unwrap_or(bytes.len()),
    };
    let host = trimmed(&bytes[..host_end]);
    if host.is_empty() || host.iter().any(|b| !is_host(*b)) {
        Host::parse(host)?;
    }
    let port = match trimmed(&bytes[host_end..]) {
        [] => None,
        [b':', port @ ..] => Some(parse_port(trimmed(port))?),
        _ => return None,
    };
    Some((host, port))
}

impl<'a> Uri<'a> {
    /// Takes a URI apart; `None` if it is not one.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let colon = memchr(b':', raw)?;
        let (scheme, rest) = (&raw[..colon], &raw[colon + 1..]);
        if rest.is_empty() || raw.iter().any(|b| !is_uri(*b)) {
            return None;
        }
        let scheme = Scheme::parse(scheme)?;
        match scheme {
            Scheme::Sip | Scheme::Sips => Self::parse_sip(raw, scheme, rest),
            Scheme::Tel => {
                let end = memchr(b';', rest).unwrap_or(rest.len());
                Some(Self {
                    user: Some(&rest[..end]),
                    params: Params::new(&rest[end..]),
                    ..Self::opaque(raw, scheme)
                })
            }
            Scheme::Urn | Scheme::Other(_) => Some(Self::opaque(raw, scheme)),
        }
    }

    const fn opaque(raw: &'a [u8], scheme: Scheme<'a>) -> Self {
        Self {
            raw,
            scheme,
            user: None,
            password: None,
            host: b"",
            port: None,
            params: Params::new(b""),
            headers: b"",
        }
    }

    fn parse_sip(raw: &'a [u8], scheme: Scheme<'a>, rest: &'a [u8]) -> Option<Self> {
        // A user part may hold ';' and '?', but '@' stands nowhere else unescaped (RFC 3261 s25.1).
        let (userinfo, rest) = match memchr(b'@', rest) {
            Some(at) => (Some(&rest[..at]), &rest[at + 1..]),
            None => (None, rest),
        };
        let (user, password) = match userinfo {
            Some([] | [b':', ..]) => return None,
            Some(info) => match memchr(b':', info) {
                Some(at) => (Some(&info[..at]), Some(&info[at + 1..])),
                None => (Some(info), None),
            },
            None => (None, None),
        };
        let host_end = memchr2(b';', b'?', rest).unwrap_or(rest.len());
        let (host, port) = host_port(&rest[..host_end])?;
        let tail = &rest[host_end..];
        let params_end = memchr(b'?', tail).unwrap_or(tail.len());
        Some(Self {
            raw,
            scheme,
            user,
            password,
            host,
            port,
            params: Params::new(&tail[..params_end]),
            headers: tail.get(params_end + 1..).unwrap_or_default(),
        })
    }

    /// Host of sip and sips taken apart.
    #[must_use]
    pub fn host(&self) -> Option<Host<'a>> {
        Host::parse(self.host)
    }

    /// Whether both name the same resource: RFC 3261 s19.1.4 for sip and sips, RFC 3966 s5 for tel, else the bytes,
    /// but not the case of the scheme. Not transitive, as the RFC says itself.
    #[must_use]
    pub fn is_equivalent(&self, other: &Uri<'_>) -> bool {
        if self.raw == other.raw {
            return true;
        }
        match (self.scheme, other.scheme) {
            (Scheme::Sip, Scheme::Sip) | (Scheme::Sips, Scheme::Sips) => {
                same_part(self.user, other.user, false)
                    && same_part(self.password, other.password, false)
                    && same_host(self.host, other.host)
                    && self.port == other.port
                    && params_agree(self.params, other.params)
                    && params_agree(other.params, self.params)
                    && headers_agree(self.headers, other.headers)
                    && headers_agree(other.headers, self.headers)
            }
            (Scheme::Tel, Scheme::Tel) => same_number(self, other),
            _ => match (memchr(b':', self.raw), memchr(b':', other.raw)) {
                (Some(a), Some(b)) => {
                    self.raw[..a].eq_ignore_ascii_case(&other.raw[..b]) && self.raw[a..] == other.raw[b..]
                }
                _ => false,
            },
        }
    }

    /// Whether this is sip or sips.
    #[must_use]
    pub const fn is_sip(&self) -> bool {
        matches!(self.scheme, Scheme::Sip | Scheme::Sips)
    }
}

impl<'a> Scheme<'a> {
    fn parse(bytes: &'a [u8]) -> Option<Self> {
        let sane = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'-' | b'.');
        if !bytes.first()?.is_ascii_alphabetic() || !bytes.iter().all(sane) {
            return None;
        }
        Some(if bytes.eq_ignore_ascii_case(b"sip") {
            Self::Sip
        } else if bytes.eq_ignore_ascii_case(b"sips") {
            Self::Sips
        } else if bytes.eq_ignore_ascii_case(b"tel") {
            Self::Tel
        } else if bytes.eq_ignore_ascii_case(b"urn") {
            Self::Urn
        } else {
            Self::Other(bytes)
        })
    }
}

/// RFC 3966 s5: visual separators and case do not matter, every parameter does.
fn same_number(one: &Uri<'_>, other: &Uri<'_>) -> bool {
    fn plain<'n>(uri: &Uri<'n>) -> impl Iterator<Item = u8> + use<'n> {
        let number = uri.user.unwrap_or_default().iter();
        number
            .filter(|b| !matches!(b, b'-' | b'.' | b'(' | b')'))
            .map(u8::to_ascii_lowercase)
    }
    let has = |name: &[u8], value: Option<&[u8]>| {
        other
            .params
            .get(name)
            .is_some_and(|found| found.eq_ignore_ascii_case(value.unwrap_or_default()))
    };
    plain(one).eq(plain(other))
        && one.params.iter().count() == other.params.iter().count()
        && one.params.iter().all(|(name, value)| has(name, value))
}

fn same_host(one: &[u8], other: &[u8]) -> bool {
    match (Host::parse(one), Host::parse(other)) {
        (Some(Host::Address(one)), Some(Host::Address(other))) => one == other,
        _ => one.eq_ignore_ascii_case(other),
    }
}

/// A parameter that stands in both must have one value; `user`, `ttl`, `method`, `maddr` and `transport` must stand in
/// both or none. (The RFC's rule does not list `transport`, its example of URIs that differ does.)
fn params_agree(one: Params<'_>, other: Params<'_>) -> bool {
    const IN_BOTH: [&[u8]; 5] = [b"user", b"ttl", b"method", b"maddr", b"transport"];
    one.iter().all(|(name, value)| match other.get(name) {
        Some(found) => same_bytes(value.unwrap_or_default(), found, true),
        None => !IN_BOTH.iter().any(|must| must.eq_ignore_ascii_case(name)),
    })
}

/// Every header part of `one` stands in `other`; order does not matter.
fn headers_agree(one: &[u8], other: &[u8]) -> bool {
    let split = |part: &[u8]| memchr(b'=', part).unwrap_or(part.len());
    one.split(|b| *b == b'&').all(|part| {
        other.split(|b| *b == b'&').any(|candidate| {
            let (a, b) = (split(part), split(candidate));
            same_bytes(&part[..a], &candidate[..b], true) && same_bytes(&part[a..], &candidate[b..], false)
        })
    })
}

fn same_part(one: Option<&[u8]>, other: Option<&[u8]>, fold: bool) -> bool {
    match (one, other) {
        (Some(one), Some(other)) => same_bytes(one, other, fold),
        (None, None) => true,
        _ => false,
    }
}

/// Equal but for escapes: a character is the same as its escape, unless it is reserved (RFC 3261 s19.1.4).
fn same_bytes(one: &[u8], other: &[u8], fold: bool) -> bool {
    let case = move |(byte, reserved): (u8, bool)| (if fold { byte.to_ascii_lowercase() } else { byte }, reserved);
    unescaped(one).map(case).eq(unescaped(other).map(case))
}

/// The bytes behind the escapes; `true` marks a reserved character that was escaped.
fn unescaped(bytes: &[u8]) -> impl Iterator<Item = (u8, bool)> + '_ {
    let hex = |b: u8| (b as char).to_digit(16).map(|digit| digit as u8);
    let mut rest = bytes;
    std::iter::from_fn(move || {
        let (&first, tail) = rest.split_first()?;
        if let (b'%', [high, low, after @ ..]) = (first, tail)
            && let (Some(high), Some(low)) = (hex(*high), hex(*low))
        {
            rest = after;
            let byte = high << 4 | low;
            return Some((byte, b";/?:@&=+$,".contains(&byte)));
        }
        rest = tail;
        Some((first, false))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uri(text: &str) -> Uri<'_> {
        Uri::parse(text.as_bytes()).unwrap_or_else(|| panic!("{text}"))
    }

    #[test]
    fn uris_of_all_kinds_are_taken_apart() {
        let sip = uri("sip:us;er=1?:pw@[2001:db8::9]:5070;transport=tcp;lr?subject=x&a=b");
        assert_eq!(
            (sip.user, sip.password, sip.port),
            (Some(&b"us;er=1?"[..]), Some(&b"pw"[..]), Some(5070))
        );
        assert_eq!(sip.host(), Some(Host::Address("2001:db8::9".parse().unwrap())));
        assert!(sip.params.has(b"LR") && sip.headers == b"subject=x&a=b");
        let sips = uri("SIPS:host.example");
        assert_eq!(
            (sips.scheme, sips.user, sips.host()),
            (Scheme::Sips, None, Some(Host::Name(b"host.example")))
        );
        let tel = uri("tel:+1-201;phone-context=x");
        assert_eq!(
            (tel.user, tel.params.get(b"phone-context")),
            (Some(&b"+1-201"[..]), Some(&b"x"[..]))
        );
        assert_eq!(uri("urn:service:sos").scheme, Scheme::Urn);
        assert_eq!(uri("soap.beep://h:1").scheme, Scheme::Other(b"soap.beep"));
        for bad in [
            "",
            "sip",
            "sip:",
            ":a",
            "sip:@h",
            "sip:a@",
            "sip:a@b@c",
            "sip:h:0",
            "sip:h:65536",
            "sip:[::1",
            "sip:a b",
            "1:a",
        ] {
            assert_eq!(Uri::parse(bad.as_bytes()), None, "{bad}");
        }
    }

    #[test]
    fn comparison_is_that_of_rfc_3261_19_1_4() {
        for (one, other) in [
            (
                "sip:%61lice@atlanta.com;transport=TCP",
                "sip:alice@AtLanTa.CoM;Transport=tcp",
            ),
            ("sip:carol@chicago.com", "sip:carol@chicago.com;newparam=5"),
            ("sip:carol@chicago.com;security=on", "sip:carol@chicago.com;newparam=5"),
            (
                "sip:biloxi.com;transport=tcp;method=REGISTER?to=sip:bob%40biloxi.com",
                "sip:biloxi.com;method=REGISTER;transport=tcp?to=sip:bob%40biloxi.com",
            ),
            (
                "sip:alice@atlanta.com?subject=project%20x&priority=urgent",
                "sip:alice@atlanta.com?priority=urgent&subject=project%20x",
            ),
            ("tel:+1-201-555", "TEL:+1(201)555"),
            ("sip:[::1]", "sip:[0:0:0:0:0:0:0:1]"),
        ] {
            assert!(
                uri(one).is_equivalent(&uri(other)) && uri(other).is_equivalent(&uri(one)),
                "{one} {other}"
            );
        }
        for (one, other) in [
            (
                "SIP:ALICE@AtLanTa.CoM;Transport=udp",
                "sip:alice@AtLanTa.CoM;Transport=UDP",
            ),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:5060"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com;transport=udp"),
            ("sip:bob@biloxi.com", "sip:bob@biloxi.com:6000;transport=tcp"),
            ("sip:carol@chicago.com", "sip:carol@chicago.com?Subject=next%20meeting"),
            ("sip:bob@phone21.boxesbybob.com", "sip:bob@192.0.2.4"),
            (
                "sip:carol@chicago.com;security=on",
                "sip:carol@chicago.com;security=off",
            ),
            ("sip:a%3Bb@h", "sip:a;b@h"),
            ("sip:h", "sips:h"),
            ("tel:1", "tel:1;phone-context=x"),
        ] {
            assert!(!uri(one).is_equivalent(&uri(other)), "{one} {other}");
        }
    }
}

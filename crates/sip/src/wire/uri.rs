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
        let inner = match bytes {
            [b'[', inner @ .., b']'] => inner,
            _ => bytes,
        };
        if memchr(b':', inner).is_some() {
            let text = std::str::from_utf8(inner).ok()?;
            return text.parse::<Ipv6Addr>().ok().map(|a| Self::Address(a.into()));
        }
        // Underscores are no host names, but many a private network has them.
        let sane = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_');
        if bytes.is_empty() || !bytes.iter().all(sane) {
            return None;
        }
        let address = match bytes.last() {
            Some(b'0'..=b'9') => std::str::from_utf8(bytes).ok()?.parse::<Ipv4Addr>().ok(),
            _ => None,
        };
        Some(address.map_or(Self::Name(bytes), |a| Self::Address(a.into())))
    }
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
    Host::parse(host)?;
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
        if rest.is_empty() || raw.iter().any(|b| matches!(b, 0..=b' ' | b'<' | b'>' | b'"' | 0x7f..)) {
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

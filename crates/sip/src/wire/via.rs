//! Via (RFC 3261 s20.42, RFC 3581).

use std::net::IpAddr;

use memchr::memchr;

use super::params::Params;
use super::scan::{is_lws, is_token, trim, trimmed};
use super::uri::{Host, host_port};

/// One hop: `SIP/2.0/UDP host:port;params`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Via<'a> {
    /// All of it.
    pub raw: &'a [u8],
    /// Protocol and version as written, `SIP/2.0`; [`crate::check`] looks at the version in the first line only.
    pub protocol: &'a [u8],
    /// `UDP`, `TCP`, `TLS`, `WS`, .. as written.
    pub transport: &'a [u8],
    /// Host of sent-by as written, an IPv6 reference in its brackets.
    pub host: &'a [u8],
    /// Port of sent-by, if one is written.
    pub port: Option<u16>,
    /// The parameters.
    pub params: Params<'a>,
}

impl<'a> Via<'a> {
    /// A parameter by name, see [`Params::get`].
    #[must_use]
    pub fn param(&self, name: &[u8]) -> Option<&'a [u8]> {
        self.params.get(name)
    }

    /// The transaction's id (RFC 3261 s8.1.1.7).
    #[must_use]
    pub fn branch(&self) -> Option<&'a [u8]> {
        self.params.get(b"branch").filter(|branch| !branch.is_empty())
    }

    /// The source address that the next hop saw (RFC 3261 s18.2.1).
    #[must_use]
    pub fn received(&self) -> Option<IpAddr> {
        let received = self.params.get(b"received")?;
        match Host::parse(received) {
            Some(Host::Address(address)) => Some(address),
            _ => None,
        }
    }

    /// `;rport` without a value is a request for symmetric response routing, with one it is the answer (RFC 3581).
    #[must_use]
    pub fn rport(&self) -> Option<Option<u16>> {
        let rport = self.params.get(b"rport")?;
        Some(super::uri::parse_port(rport))
    }

    /// The multicast or override address of responses (RFC 3261 s18.2.2).
    #[must_use]
    pub fn maddr(&self) -> Option<Host<'a>> {
        Host::parse(self.params.get(b"maddr")?)
    }

    /// Sent-by's host taken apart.
    #[must_use]
    pub fn sent_by(&self) -> Option<Host<'a>> {
        Host::parse(self.host)
    }
}

impl<'a> Via<'a> {
    /// Takes one value apart; `None` if it is malformed.
    #[must_use]
    pub fn parse(raw: &'a [u8]) -> Option<Self> {
        let bytes = trimmed(raw);
        // sent-protocol = protocol-name SLASH protocol-version SLASH transport, with white space around the slashes.
        let slash = if bytes.starts_with(b"SIP/2.0/") {
            7
        } else {
            let slash = memchr(b'/', bytes)?;
            let slash = slash + 1 + memchr(b'/', &bytes[slash + 1..])?;
            if !bytes[..slash].iter().all(|b| is_token(*b) || is_lws(*b) || *b == b'/') {
                return None;
            }
            slash
        };
        let transport = trim(bytes, slash + 1).start;
        let length = bytes[transport..].iter().take_while(|b| is_token(**b)).count();
        let sent_by = transport + length;
        if length == 0 || !bytes.get(sent_by).copied().is_some_and(is_lws) {
            return None;
        }
        let params = sent_by + memchr(b';', &bytes[sent_by..]).unwrap_or(bytes.len() - sent_by);
        let (host, port) = host_port(trimmed(&bytes[sent_by..params]))?;
        Some(Self {
            raw: bytes,
            protocol: &bytes[..slash],
            transport: &bytes[transport..sent_by],
            host,
            port,
            params: Params::new(&bytes[params..]),
        })
    }
}

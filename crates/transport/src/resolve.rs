//! Names to addresses.

use std::future::Future;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;

use crate::error::{Error, Result};

/// The addresses that one name may resolve to, at most; more than any sane record set, and a bound against a hostile one.
const MAX_ADDRESSES: usize = 16;

/// A lookup under way.
pub type Lookup = Pin<Box<dyn Future<Output = Result<Vec<SocketAddr>>> + Send>>;

/// Turns the host and port of a SIP URI into addresses, best first.
pub trait Resolve: Send + Sync {
    /// Looks `host` up; `port` is the URI's, or the default of its transport.
    fn resolve(&self, host: &str, port: u16) -> Lookup;
}

/// The system's resolver (A and AAAA). RFC 3263's NAPTR and SRV are for a later implementation of [`Resolve`].
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolve for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> Lookup {
        if let Some(address) = numeric(host, port) {
            return Box::pin(std::future::ready(Ok(vec![address])));
        }
        let host = host.to_owned();
        Box::pin(async move {
            let found = tokio::net::lookup_host((host.as_str(), port)).await;
            let found = found.map_err(|source| Error::network(format!("cannot resolve {host}"), source))?;
            Ok(found.take(MAX_ADDRESSES).collect())
        })
    }
}

/// The address if `host` is a number: IPv4, or IPv6 with or without the brackets of a SIP URI. No lookup is needed then.
#[must_use]
pub fn numeric(host: &str, port: u16) -> Option<SocketAddr> {
    let bare = host
        .strip_prefix('[')
        .and_then(|rest| rest.strip_suffix(']'))
        .unwrap_or(host);
    bare.parse::<IpAddr>().ok().map(|ip| SocketAddr::new(ip, port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_need_no_lookup() {
        assert_eq!(numeric("127.0.0.1", 5060), Some("127.0.0.1:5060".parse().unwrap()));
        assert_eq!(numeric("[::1]", 5060), Some("[::1]:5060".parse().unwrap()));
        assert_eq!(numeric("::1", 5060), Some("[::1]:5060".parse().unwrap()));
        assert_eq!(numeric("example.invalid", 5060), None);
    }
}

//! The flow token: where a peer was seen, so that whoever carries a message to it can use the same way.
//!
//! Parameter `fl` of the Via and the Record-Route that a proxy adds. A container copies it unseen. One leading byte says what
//! follows: proxy and worker that hold it (connections, and datagrams where each proxy has an address of its own), listener, remote address,
//! 64 bits of keyed check.

use std::net::{IpAddr, SocketAddr};

use crate::{ProxyId, base32, token::Keyring};

/// How the peer is reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Transport {
    /// RFC 3261 s18, datagrams.
    Udp,
    /// RFC 3261 s18, streams.
    Tcp,
}

impl Transport {
    /// As it stands in a Via.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

/// A client connection of one proxy worker; not used again in the worker's life.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectionId(pub u32);

/// A connection and who holds it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Held {
    /// The worker that holds it.
    pub by: ProxyId,
    /// Its name there.
    pub connection: ConnectionId,
}

/// One way to a peer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Flow {
    /// How.
    pub transport: Transport,
    /// The listener, by its place in the configuration, below [`MAX_LISTENERS`]: its local address is the source.
    pub listener: u8,
    /// The peer's observed address.
    pub remote: SocketAddr,
    /// Of datagrams: the peer's Via named another address than the observed one, or we are known by another address than we listen at. A NAT stands
    /// between, whose binding closes unless something passes (RFC 4787 s4.3).
    pub translated: bool,
    /// For a stream that was accepted or opened: which one. Of datagrams: the proxy that has the address, where each has one of its own.
    pub held: Option<Held>,
}

/// Bytes of the longest flow: head, proxy, worker, connection, IPv6 address, port, check.
const MAX_BYTES: usize = 1 + 8 + 2 + 4 + 16 + 2 + 8;

/// Characters of the longest flow token.
pub const FLOW_LEN: usize = base32::digits(MAX_BYTES);

/// Listeners that a flow can tell apart.
pub const MAX_LISTENERS: usize = 16;

const TCP: u8 = 0x80;
const IPV6: u8 = 0x40;
const HELD: u8 = 0x20;
const TRANSLATED: u8 = 0x10;
const LISTENER: u8 = 0x0f;

/// A flow token as text, on the stack.
#[derive(Clone, Copy)]
pub struct FlowToken {
    text: [u8; FLOW_LEN],
    len: usize,
}

impl FlowToken {
    /// The token's characters.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.text[..self.len]
    }
}

impl Flow {
    /// The flow as a token that only this cluster can make.
    #[must_use]
    pub fn encode(&self, keyring: &Keyring) -> FlowToken {
        let mut bytes = Writer {
            bytes: [0; MAX_BYTES],
            len: 0,
        };
        bytes.put(&[self.head()]);
        match self.remote.ip() {
            IpAddr::V4(ip) => bytes.put(&ip.octets()),
            IpAddr::V6(ip) => bytes.put(&ip.octets()),
        }
        bytes.put(&self.remote.port().to_be_bytes());
        if let Some(held) = &self.held {
            bytes.put(&held.by.incarnation.to_be_bytes());
            bytes.put(&held.by.worker.to_be_bytes());
            bytes.put(&held.connection.0.to_be_bytes());
        }
        let check = keyring.flow_check(bytes.written());
        bytes.put(&check.to_be_bytes());
        let mut text = [0; FLOW_LEN];
        let len = base32::encode(bytes.written(), &mut text);
        FlowToken { text, len }
    }

    /// The flow that a token names, unless this cluster did not make it.
    #[must_use]
    pub fn decode(text: &[u8], keyring: &Keyring) -> Option<Self> {
        let mut bytes = [0; MAX_BYTES];
        let len = base32::decode(text, &mut bytes)?;
        let (signed, check) = bytes[..len].split_last_chunk::<8>()?;
        let mut rest = Reader(signed);
        let [head] = rest.take()?;
        let ip = if head & IPV6 == 0 {
            IpAddr::from(rest.take::<4>()?)
        } else {
            IpAddr::from(rest.take::<16>()?)
        };
        let port = u16::from_be_bytes(rest.take()?);
        let held = match head & HELD {
            0 => None,
            _ => Some(Held {
                by: ProxyId {
                    incarnation: u64::from_be_bytes(rest.take()?),
                    worker: u16::from_be_bytes(rest.take()?),
                },
                connection: ConnectionId(u32::from_be_bytes(rest.take()?)),
            }),
        };
        if !rest.0.is_empty() || !keyring.flow_verifies(signed, u64::from_be_bytes(*check)) {
            return None;
        }
        Some(Self {
            transport: if head & TCP == 0 {
                Transport::Udp
            } else {
                Transport::Tcp
            },
            listener: head & LISTENER,
            remote: SocketAddr::new(ip, port),
            translated: head & TRANSLATED != 0,
            held,
        })
    }

    fn head(&self) -> u8 {
        let mut head = self.listener & LISTENER;
        if self.transport == Transport::Tcp {
            head |= TCP;
        }
        if self.remote.is_ipv6() {
            head |= IPV6;
        }
        if self.held.is_some() {
            head |= HELD;
        }
        if self.translated {
            head |= TRANSLATED;
        }
        head
    }
}

struct Writer {
    bytes: [u8; MAX_BYTES],
    len: usize,
}

impl Writer {
    fn put(&mut self, bytes: &[u8]) {
        self.bytes[self.len..self.len + bytes.len()].copy_from_slice(bytes);
        self.len += bytes.len();
    }

    fn written(&self) -> &[u8] {
        &self.bytes[..self.len]
    }
}

struct Reader<'a>(&'a [u8]);

impl Reader<'_> {
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk::<N>()?;
        self.0 = rest;
        Some(*first)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

    fn ring(secret: u8) -> Keyring {
        Keyring::new(
            Key {
                id: 0,
                secret: [secret; 16],
            },
            &[],
            8,
        )
    }

    fn flows() -> Vec<Flow> {
        let held = Some(Held {
            by: ProxyId {
                incarnation: u64::MAX,
                worker: 7,
            },
            connection: ConnectionId(u32::MAX),
        });
        let mut flows = Vec::new();
        for remote in ["192.0.2.1:5060", "[2001:db8::9:1]:65535"] {
            for (transport, held) in [(Transport::Udp, None), (Transport::Tcp, None), (Transport::Tcp, held)] {
                flows.push(Flow {
                    transport,
                    listener: 15,
                    remote: remote.parse().unwrap(),
                    translated: transport == Transport::Udp,
                    held,
                });
            }
        }
        flows
    }

    #[test]
    fn a_flow_survives_its_token() {
        for flow in flows() {
            let token = flow.encode(&ring(1));
            assert!(token.as_bytes().len() <= FLOW_LEN);
            assert_eq!(Flow::decode(token.as_bytes(), &ring(1)), Some(flow));
        }
        assert_eq!(flows()[0].encode(&ring(1)).as_bytes().len(), 24);
    }

    #[test]
    fn a_changed_or_foreign_flow_is_refused() {
        for flow in flows() {
            let token = flow.encode(&ring(1));
            assert_eq!(Flow::decode(token.as_bytes(), &ring(2)), None);
            for at in 0..token.as_bytes().len() {
                let mut bad = token.as_bytes().to_vec();
                bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
                assert_eq!(Flow::decode(&bad, &ring(1)), None, "digit {at}");
                assert_eq!(Flow::decode(&token.as_bytes()[..at], &ring(1)), None, "cut at {at}");
            }
        }
    }

    #[test]
    fn a_retired_key_still_verifies_flows() {
        let old = Key { id: 1, secret: [1; 16] };
        let new = Key { id: 2, secret: [2; 16] };
        let flow = flows()[0];
        let token = flow.encode(&Keyring::new(old, &[], 8));
        assert_eq!(
            Flow::decode(token.as_bytes(), &Keyring::new(new, &[old], 8)),
            Some(flow)
        );
    }
}

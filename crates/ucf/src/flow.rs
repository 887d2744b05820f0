//! The flow token: where a peer was seen, so that whoever carries a message to it can use the same way.
//!
//! Parameter `fl` of the Via and the Record-Route that a proxy adds. A container copies it unseen. One leading byte says what
//! follows: listener, remote address, who holds it (the worker of a connection; of datagrams, where each proxy has an address of its own, that
//! address), 64 bits of keyed check.

use std::hash::Hasher as _;
use std::net::{IpAddr, SocketAddr};

use siphasher::sip::SipHasher24;

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

/// An address at which one proxy of the cluster receives at a time, and any that comes after it: 48 bits of a hash. It is not keyed, because it has to
/// be the same whichever key issues; the token's check covers it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Place([u8; PLACE_BYTES]);

const PLACE_BYTES: usize = 6;

impl Place {
    /// The place that is this address.
    #[must_use]
    pub fn of(address: SocketAddr) -> Self {
        let mut hasher = SipHasher24::new();
        match address.ip() {
            IpAddr::V4(ip) => hasher.write(&ip.octets()),
            IpAddr::V6(ip) => hasher.write(&ip.octets()),
        }
        hasher.write(&address.port().to_be_bytes());
        let [.., a, b, c, d, e, f] = hasher.finish().to_be_bytes();
        // Never what an earlier version has there.
        Self([a, b, c, d, e, f | 1])
    }

    /// None of an earlier version, which has the number of a worker and four zeros there.
    fn read(bytes: [u8; PLACE_BYTES]) -> Option<Self> {
        (!bytes.ends_with(&[0; 4])).then_some(Self(bytes))
    }
}

/// Who has the way to a peer, where not every proxy has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Held {
    /// A stream: one worker has the connection.
    Connection {
        /// That worker.
        by: ProxyId,
        /// The connection's name there.
        connection: ConnectionId,
    },
    /// Datagrams, where each proxy has an address of its own: whichever process is there.
    Address {
        /// The one that was there when the peer was heard. An earlier version looks for no other.
        process: u64,
        /// Where that is; none in a token of an earlier version.
        place: Option<Place>,
    },
}

impl Held {
    /// The connection's name, if it is one.
    #[must_use]
    pub const fn connection(self) -> Option<ConnectionId> {
        match self {
            Self::Connection { connection, .. } => Some(connection),
            Self::Address { .. } => None,
        }
    }
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
    /// For a stream that was accepted or opened: which one. Of datagrams: from which address they leave, where each proxy has one of its own.
    pub held: Option<Held>,
}

/// Bytes of the longest flow: head, IPv6 address, port, process, worker and connection (or place), check.
const MAX_BYTES: usize = 1 + 16 + 2 + 8 + PLACE_BYTES + 8;

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
        match &self.held {
            Some(Held::Connection { by, connection }) => {
                bytes.put(&by.incarnation.to_be_bytes());
                bytes.put(&by.worker.to_be_bytes());
                bytes.put(&connection.0.to_be_bytes());
            }
            Some(Held::Address { process, place }) => {
                bytes.put(&process.to_be_bytes());
                bytes.put(&place.map_or([0; PLACE_BYTES], |place| place.0));
            }
            None => {}
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
        let held = match (head & HELD, head & TCP) {
            (0, _) => None,
            (_, 0) => Some(Held::Address {
                process: u64::from_be_bytes(rest.take()?),
                place: Place::read(rest.take()?),
            }),
            _ => Some(Held::Connection {
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
        let connection = Some(Held::Connection {
            by: ProxyId {
                incarnation: u64::MAX,
                worker: 7,
            },
            connection: ConnectionId(u32::MAX),
        });
        let at = |place| Some(Held::Address { process: 9, place });
        let mut flows = Vec::new();
        for remote in ["192.0.2.1:5060", "[2001:db8::9:1]:65535"] {
            let place = Place::of(remote.parse().unwrap());
            for (transport, held) in [
                (Transport::Udp, None),
                (Transport::Tcp, None),
                (Transport::Tcp, connection),
                (Transport::Udp, at(None)),
                (Transport::Udp, at(Some(place))),
            ] {
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

    /// In an earlier version a datagram's flow had proxy, worker and connection, as a stream's has, and the connection was 0.
    #[test]
    fn an_earlier_version_finds_the_process_and_is_understood() {
        let udp = |held| Flow {
            held: Some(held),
            ..flows()[0]
        };
        let earlier = |worker, connection| {
            udp(Held::Connection {
                by: ProxyId { incarnation: 9, worker },
                connection: ConnectionId(connection),
            })
        };
        for worker in [0, 1, u16::MAX] {
            let held = Held::Address {
                process: 9,
                place: None,
            };
            let token = earlier(worker, 0).encode(&ring(1));
            assert_eq!(Flow::decode(token.as_bytes(), &ring(1)), Some(udp(held)));
        }
        let place = Place::of("192.0.2.10:5060".parse().unwrap());
        let [a, b, c, d, e, f] = place.0;
        let later = udp(Held::Address {
            process: 9,
            place: Some(place),
        });
        let read = earlier(u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, e, f]));
        assert_eq!(later.encode(&ring(1)).as_bytes(), read.encode(&ring(1)).as_bytes());
    }

    #[test]
    fn every_address_is_a_place_of_its_own() {
        let mut places = std::collections::BTreeSet::new();
        for host in 0..=u16::MAX {
            let [high, low] = host.to_be_bytes();
            let place = Place::of(([10, 0, high, low], 5060).into());
            assert_eq!(Place::read(place.0), Some(place));
            places.insert(place.0);
        }
        for other in ["10.0.0.1:5061", "[2001:db8::a00:1]:5060", "[2001:db8::a00:2]:5060"] {
            places.insert(Place::of(other.parse().unwrap()).0);
        }
        assert_eq!(places.len(), (1 << 16) + 3);
        // The same in every version: tokens outlive processes.
        assert_eq!(
            Place::of(([192, 0, 2, 10], 5060).into()).0,
            [0xa0, 0xd8, 0x09, 0xef, 0x76, 0x7b]
        );
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

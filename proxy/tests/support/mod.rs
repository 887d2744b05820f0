//! Forwarders and fake containers in virtual time.
#![allow(dead_code)] // each test binary uses a part of it

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use proxy::forward::{Config, Effect, Effects, Forwarder, Limits, LinkId, Listener};
use sip::{Framer, Instant, Side};
use ucf::flow::{ConnectionId, Flow, Held, Transport};
use ucf::token::{Key, Keyring};
use ucf::transactions::Keys;
use ucf::wire::{Body, Confirm, Hello, MemberState, Ownership, Report, Transactions};
use ucf::{PartitionId, ProxyId};

pub const PARTITIONS: u32 = 8;

/// The wall clock when a forwarder's clock stands at zero.
pub const STARTED: Duration = Duration::from_secs(1_700_000_000);

pub const KEY: Key = Key {
    id: 1,
    secret: *b"a secret of ours",
};

pub fn keyring() -> Arc<Keyring> {
    Arc::new(Keyring::new(KEY, &[], PARTITIONS))
}

pub fn config(incarnation: u64) -> Config {
    let listener = |host: &str| Listener {
        local: SocketAddr::new(host.parse().unwrap(), 5060),
        host: host.to_owned(),
        port: 5060,
    };
    Config {
        me: ProxyId { incarnation, worker: 0 },
        workers: 1,
        cluster: "demo".to_owned(),
        keyring: keyring(),
        listeners: vec![listener("192.0.2.10"), listener("2001:db8::10")],
        aliases: vec!["sip.example.com".to_owned()],
        route_host: None,
        stand_in: None,
        emergency: ["112", "urn:service:police"].map(str::to_owned).into(),
        lease: Duration::from_secs(1),
        entropy: 7,
        started: STARTED,
        limits: Limits::default(),
    }
}

/// The same of a proxy that has its node's address.
pub fn config_of_node(incarnation: u64, address: &str) -> Config {
    let mut config = config(incarnation);
    config.listeners.truncate(1);
    config.listeners[0].local.set_ip(address.parse().expect("an address"));
    config.listeners[0].host = address.into();
    config.aliases.clear();
    config.stand_in = Some("sipcluster.invalid".into());
    config
}

/// What a proxy did for the outside since it was last asked.
#[derive(Debug, Default)]
pub struct Out {
    pub clients: Vec<(Flow, String)>,
    pub workers: Vec<(u16, String)>,
    pub frames: Vec<(LinkId, Body)>,
    pub closed: Vec<LinkId>,
}

/// A proxy with its containers, each a list of what it got.
pub struct Proxy {
    pub forwarder: Forwarder,
    pub now: Instant,
    effects: Effects,
    streams: BTreeMap<LinkId, (Framer, Vec<u8>)>,
}

impl Proxy {
    pub fn new(config: Config) -> Self {
        Self {
            forwarder: Forwarder::new(config),
            now: Instant::default() + Duration::from_secs(100),
            effects: Effects::default(),
            streams: BTreeMap::new(),
        }
    }

    /// A container that is active and owns these partitions.
    pub fn container(&mut self, incarnation: u64, partitions: &[u32], epoch: u64) -> LinkId {
        let link = self.link(incarnation);
        self.active(link);
        self.owns(link, incarnation, partitions, epoch);
        link
    }

    pub fn link(&mut self, incarnation: u64) -> LinkId {
        self.try_link("demo", incarnation).expect("it is one of the cluster")
    }

    pub fn try_link(&mut self, cluster: &str, incarnation: u64) -> Option<LinkId> {
        let hello = Hello {
            version: 1,
            cluster: cluster.to_owned(),
            name: format!("demo-{incarnation}"),
            incarnation,
            ..Hello::default()
        };
        let link = self.forwarder.link_up(self.now, &hello, &mut self.effects)?;
        let framer = Framer::new(Side::Accepted, transport::legs::INNER);
        self.streams.insert(link, (framer, Vec::new()));
        Some(link)
    }

    pub fn active(&mut self, link: LinkId) {
        let report = Report {
            state: MemberState::Active as i32,
            ..Report::default()
        };
        self.frame(link, Body::Report(report));
    }

    pub fn owns(&mut self, link: LinkId, owner: u64, partitions: &[u32], epoch: u64) {
        let owned = Ownership {
            owner,
            partitions: partitions.to_vec(),
            epochs: vec![epoch; partitions.len()],
            ..Ownership::default()
        };
        self.frame(link, Body::Ownership(owned));
    }

    pub fn confirm(&mut self, link: LinkId, upto: u64, returned: &[u64]) {
        let confirm = Confirm {
            upto,
            returned: returned.to_vec(),
            ..Confirm::default()
        };
        self.frame(link, Body::Confirm(confirm));
    }

    pub fn frame(&mut self, link: LinkId, body: Body) {
        self.forwarder.handle_frame(self.now, link, &body, &mut self.effects);
    }

    pub fn down(&mut self, link: LinkId) {
        self.streams.remove(&link);
        self.forwarder.link_down(self.now, link, &mut self.effects);
    }

    pub fn client(&mut self, source: Flow, message: &str) {
        self.client_bytes(source, message.as_bytes());
    }

    pub fn client_bytes(&mut self, source: Flow, message: &[u8]) {
        self.forwarder
            .handle_client(self.now, &source, message, &mut self.effects);
    }

    /// The connection was not to be had.
    pub fn unsent(&mut self, to: Flow, message: &str) {
        self.forwarder
            .handle_unsent(self.now, &to, message.as_bytes(), &mut self.effects);
    }

    /// What another worker has passed on.
    pub fn passed(&mut self, source: Flow, message: &str) {
        self.forwarder
            .handle_passed(self.now, &source, message.as_bytes(), &mut self.effects);
    }

    pub fn container_says(&mut self, link: LinkId, message: &str) {
        self.container_says_bytes(link, message.as_bytes());
    }

    pub fn container_says_bytes(&mut self, link: LinkId, message: &[u8]) {
        self.forwarder
            .handle_container(self.now, link, message, &mut self.effects);
    }

    pub fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while self.forwarder.poll_timeout() <= end {
            self.now = self.now.max(self.forwarder.poll_timeout());
            self.forwarder.handle_timeout(self.now, &mut self.effects);
        }
        self.now = end;
    }

    /// The messages that have arrived at a container.
    pub fn arrived(&mut self, link: LinkId) -> Vec<String> {
        let (framer, stream) = self.streams.get_mut(&link).expect("the link stands");
        loop {
            let mut slices = [IoSlice::new(&[]); 4];
            let count = self.forwarder.outgoing(link, &mut slices);
            let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            if bytes.is_empty() {
                break;
            }
            stream.extend_from_slice(&bytes);
            self.forwarder.wrote(link, bytes.len());
        }
        let mut messages = Vec::new();
        loop {
            let (consumed, frame) = framer.next(stream).expect("a stream of SIP");
            if let Some(sip::Frame::Message(range)) = &frame {
                messages.push(String::from_utf8_lossy(&stream[range.clone()]).into_owned());
            }
            stream.drain(..consumed);
            if frame.is_none() {
                return messages;
            }
        }
    }

    pub fn out(&mut self) -> Out {
        let mut out = Out::default();
        for effect in self.effects.list() {
            let text = |span| String::from_utf8_lossy(self.effects.message(span)).into_owned();
            match effect {
                Effect::Client { to, message } => out.clients.push((*to, text(*message))),
                Effect::Worker { worker, message, .. } => out.workers.push((*worker, text(*message))),
                Effect::Pass { worker, message, .. } => out.workers.push((*worker, text(*message))),
                Effect::Frame { link, body } => out.frames.push((*link, body.clone())),
                Effect::Close { link, .. } => out.closed.push(*link),
            }
        }
        self.effects.clear();
        out
    }

    /// The only message that went to a client.
    pub fn sent(&mut self) -> (Flow, String) {
        let mut out = self.out();
        assert_eq!(out.clients.len(), 1, "{out:#?}");
        out.clients.remove(0)
    }
}

/// What a container tells of a request of `192.0.2.1:5060` that it has taken on in this partition.
pub fn begun(message: &str, at: u32) -> Body {
    let mut other = Proxy::new(config(99));
    let link = other.container(99, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    other.client(udp("192.0.2.1:5060"), message);
    let inner = one(other.arrived(link));
    let branch = param(fields(&inner, "Via")[0], "branch").expect("ours has one");
    let (keys, _) = Keys::of_branch(branch.as_bytes()).expect("of our own making");
    Body::Transactions(Transactions {
        keys: vec![keys.transaction],
        merged: vec![keys.merged],
        partitions: vec![at],
        ended: vec![],
    })
}

pub fn udp(remote: &str) -> Flow {
    let remote: SocketAddr = remote.parse().unwrap();
    Flow {
        transport: Transport::Udp,
        listener: u8::from(remote.is_ipv6()),
        remote,
        translated: false,
        held: None,
    }
}

/// A connection of a worker of proxy process `incarnation`.
pub fn tcp(remote: &str, incarnation: u64, worker: u16, connection: u32) -> Flow {
    Flow {
        transport: Transport::Tcp,
        held: Some(Held::Connection {
            by: ProxyId { incarnation, worker },
            connection: ConnectionId(connection),
        }),
        ..udp(remote)
    }
}

pub fn one(mut messages: Vec<String>) -> String {
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages.remove(0)
}

/// A request of a caller at `192.0.2.1:5060`; `extra` are lines of header fields, each with its end.
pub fn request(method: &str, uri: &str, branch: &str, to_tag: &str, extra: &str) -> String {
    let tag = if to_tag.is_empty() {
        String::new()
    } else {
        format!(";tag={to_tag}")
    };
    let sequence = if matches!(method, "INVITE" | "ACK" | "CANCEL") {
        1
    } else {
        2
    };
    format!(
        "{method} {uri} SIP/2.0\r\n\
         Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK{branch};rport\r\n\
         From: <sip:alice@example.org>;tag=alice\r\n\
         To: <sip:bob@example.com>{tag}\r\n\
         Call-ID: call-1@example.org\r\n\
         CSeq: {sequence} {method}\r\n\
         Max-Forwards: 70\r\n\
         {extra}\
         Content-Length: 0\r\n\r\n"
    )
}

/// A container's response to what it got: Vias, From, To with its tag, Call-ID, CSeq, Record-Route.
pub fn response(request: &str, status: &str, tag: &str) -> String {
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().skip(1).take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "To" if !line.contains(";tag=") => text += &format!("{line};tag={tag}\r\n"),
            "Via" | "From" | "To" | "Call-ID" | "CSeq" | "Record-Route" => text += &format!("{line}\r\n"),
            _ => (),
        }
    }
    text + "Content-Length: 0\r\n\r\n"
}

/// The values of a header field.
pub fn fields<'a>(message: &'a str, name: &str) -> Vec<&'a str> {
    message
        .lines()
        .filter_map(|line| line.split_once(": "))
        .filter(|(field, _)| field.eq_ignore_ascii_case(name))
        .map(|(_, value)| value)
        .collect()
}

pub fn param<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value
        .trim_end_matches('>')
        .split([';', '>'])
        .filter_map(|one| one.split_once('='))
        .find(|(field, _)| *field == name)
        .map(|(_, value)| value)
}

/// The partition that the proxy named in the message for a container.
pub fn partition(message: &str) -> PartitionId {
    let token = param(fields(message, "Via")[0], "pt").expect("pt stands in the Via");
    keyring().verify(token.as_bytes()).partition().expect("a token of ours")
}

pub fn tag(partition: PartitionId) -> String {
    format!("{}-u1", keyring().token(partition))
}

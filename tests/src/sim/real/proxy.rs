//! The real [`Forwarder`], driven over the simulated network: one worker.

use crate::sim::caller::Datagram;
use crate::sim::container::Clock;
use crate::sim::net::{ConnId, Context, MS, Message, Node};
use proxy::forward::{Config, Effect, Effects, Forwarder, Limits, LinkId, Listener};
use sip::Instant;
use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;
use ucf::ProxyId;
use ucf::flow::{Flow, Transport};
use ucf::token::Keyring;
use ucf::wire::{Body, Hello};

/// As in the process: how long what containers answer is waited for at least, that they confirm all at most, and that they close.
const HEARD_OUT: Duration = Duration::from_millis(50);
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);
const FAREWELL: Duration = Duration::from_millis(500);

/// How soon a connection is made anew.
const RETRY: Duration = Duration::from_micros(100 * MS);

/// A proxy's place and the process in it.
pub struct Proxy {
    /// Its place.
    pub node: Node,
    slots: usize,
    proxies: usize,
    keyring: Arc<Keyring>,
    process: Option<Process>,
    /// See `Broken::IslandsUnseen`.
    pub ignores_islands: bool,
}

struct Process {
    life: u64,
    forwarder: Forwarder,
    effects: Effects,
    clock: Clock,
    paused: bool,
    leaving: Option<Leaving>,
    inbox: Vec<Inbox>,
    links: Vec<Option<Link>>,
    next_try: Vec<Instant>,
    /// Links with other proxies, both ways.
    peers: BTreeMap<ConnId, Peer>,
    /// When each of them is dialled.
    next_dial: Vec<Instant>,
}

/// How far a process is that was told to end, and since when.
#[derive(Clone, Copy)]
enum Leaving {
    /// Containers are to confirm what it took.
    Unconfirmed(Instant),
    /// They are to close; what they have sent before still leaves.
    Farewell(Instant),
}

/// A link with another proxy.
struct Peer {
    /// Whom this process has dialled; none, it was dialled.
    dialled: Option<usize>,
    id: Option<LinkId>,
}

enum Inbox {
    Stream(ConnId, usize, Box<Message>),
    Datagram(SocketAddr, Vec<u8>),
}

/// The two connections to one container.
struct Link {
    sip: ConnId,
    ucf: Option<ConnId>,
    id: Option<LinkId>,
}

impl Proxy {
    /// An empty place.
    #[must_use]
    pub fn new(index: usize, slots: usize, proxies: usize, keyring: Arc<Keyring>) -> Self {
        Self {
            node: Node::Proxy(index),
            slots,
            proxies,
            keyring,
            ignores_islands: false,
            process: None,
        }
    }

    /// A new process.
    pub fn start(&mut self, ctx: &mut Context) {
        let life = ctx.start(self.node);
        let clock = Clock {
            ppm: ctx.rng.range(0, 40_000) as i64 - 20_000,
            start: ctx.rng.range(1, 1_000_000_000),
        };
        let local: SocketAddr = "192.0.2.1:5060".parse().expect("an address");
        let config = Config {
            me: ProxyId {
                incarnation: life,
                worker: 0,
            },
            workers: 1,
            cluster: "sim".to_owned(),
            keyring: self.keyring.clone(),
            listeners: vec![Listener {
                local,
                host: local.ip().to_string(),
                port: local.port(),
            }],
            aliases: Vec::new(),
            route_host: None,
            stand_in: None,
            emergency: Vec::new(),
            lease: crate::sim::LEASE,
            entropy: ctx.rng.bits(),
            started: Duration::ZERO,
            limits: Limits::default(),
        };
        let now = clock.read(ctx.now);
        let mut forwarder = Forwarder::new(config);
        if self.ignores_islands {
            forwarder.ignore_islands();
        }
        self.process = Some(Process {
            life,
            forwarder,
            effects: Effects::default(),
            clock,
            paused: false,
            leaving: None,
            inbox: Vec::new(),
            links: (0..self.slots).map(|_| None).collect(),
            next_try: vec![now; self.slots],
            peers: BTreeMap::new(),
            next_dial: vec![now; self.proxies],
        });
        ctx.wake(self.node, ctx.now);
    }

    /// `kill -9`.
    pub fn crash(&mut self, ctx: &mut Context) {
        if self.process.take().is_some() {
            ctx.end(self.node);
        }
    }

    /// A process runs here, and is not to end.
    #[must_use]
    pub fn serves(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.leaving.is_none())
    }

    /// Told to end: nothing more comes.
    pub fn drain(&mut self, ctx: &mut Context) {
        if let Some(process) = &mut self.process {
            process.leaving = Some(Leaving::Unconfirmed(process.clock.read(ctx.now)));
        }
    }

    /// It takes nothing any more. While it stands still it does not know that it is to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.leaving.is_some() && !p.paused)
    }

    /// The process stands still.
    pub fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.paused = true;
        }
    }

    /// It goes on.
    pub fn resume(&mut self, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if !std::mem::replace(&mut process.paused, false) {
            return;
        }
        for item in std::mem::take(&mut process.inbox) {
            match item {
                Inbox::Stream(conn, end, message) => self.handle(ctx, conn, end, *message),
                Inbox::Datagram(remote, bytes) => self.datagram(ctx, remote, bytes),
            }
        }
        self.wake(ctx);
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        let node = self.node;
        let Some(process) = self.process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        let now = process.clock.read(ctx.now);
        if let Some(leaving) = process.leaving {
            if process.leave(ctx, now, leaving) {
                return self.crash(ctx);
            }
        } else {
            process.connect_all(ctx, node, now);
        }
        if process.forwarder.poll_timeout() <= now {
            process.forwarder.handle_timeout(now, &mut process.effects);
        }
        process.perform(ctx, node);
    }

    /// A datagram came from outside.
    pub fn datagram(&mut self, ctx: &mut Context, remote: SocketAddr, bytes: Vec<u8>) {
        let node = self.node;
        let Some(process) = &mut self.process else { return };
        if process.paused {
            process.inbox.push(Inbox::Datagram(remote, bytes));
            return;
        }
        let now = process.clock.read(ctx.now);
        let source = Flow {
            transport: Transport::Udp,
            listener: 0,
            remote,
            translated: false,
            held: None,
        };
        process
            .forwarder
            .handle_client(now, &source, &bytes, &mut process.effects);
        process.perform(ctx, node);
    }

    /// Something came on a stream.
    pub fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let node = self.node;
        let Some(process) = &mut self.process else { return };
        if process.paused {
            process.inbox.push(Inbox::Stream(conn, end, Box::new(message)));
            return;
        }
        process.handle(ctx, node, conn, end, message);
        process.perform(ctx, node);
    }
}

impl Process {
    fn hello(&self, sip: String) -> Hello {
        Hello {
            version: 1,
            cluster: "sim".to_owned(),
            incarnation: self.life,
            worker: Some(0),
            sip,
            ..Hello::default()
        }
    }

    /// As `Worker::leave` does: ends the UCF links once all is confirmed that it took. Whether it is over.
    fn leave(&mut self, ctx: &mut Context, now: Instant, leaving: Leaving) -> bool {
        match leaving {
            Leaving::Unconfirmed(since) => {
                let waited = now.since(since);
                let confirmed = self.forwarder.containers().all(|c| c.unconfirmed == 0);
                if waited >= CONFIRMED_WITHIN || waited >= HEARD_OUT && confirmed {
                    self.leaving = Some(Leaving::Farewell(now));
                    let links = self.links.iter().flatten();
                    links.filter_map(|link| link.ucf).for_each(|ucf| ctx.close(ucf, 0));
                }
                false
            }
            Leaving::Farewell(since) => now.since(since) >= FAREWELL || self.links.iter().all(Option::is_none),
        }
    }

    fn connect_all(&mut self, ctx: &mut Context, node: Node, now: Instant) {
        for slot in 0..self.links.len() {
            self.connect(ctx, node, now, slot);
        }
        self.dial(ctx, node, now);
    }

    fn connect(&mut self, ctx: &mut Context, node: Node, now: Instant, slot: usize) {
        if self.links[slot].is_some() || self.next_try[slot] > now {
            return;
        }
        // Without `sip` in its hello it is the SIP connection; the other one names it.
        let sip = ctx.connect(node, Node::Container(slot), self.hello(String::new()));
        self.links[slot] = Some(Link {
            sip,
            ucf: None,
            id: None,
        });
    }

    /// Dials the other proxies.
    fn dial(&mut self, ctx: &mut Context, node: Node, now: Instant) {
        for index in 0..self.next_dial.len() {
            let stands = self.peers.values().any(|peer| peer.dialled == Some(index));
            if node != Node::Proxy(index) && !stands && self.next_dial[index] <= now {
                let conn = ctx.connect(node, Node::Proxy(index), self.hello(String::new()));
                let dialled = Some(index);
                self.peers.insert(conn, Peer { dialled, id: None });
            }
        }
    }

    fn handle_peer(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let now = self.clock.read(ctx.now);
        match message {
            Message::Open(hello) => {
                ctx.send(conn, end, Message::Accept(self.hello(String::new())));
                let id = self.forwarder.peer_up(now, &hello);
                self.peers.insert(conn, Peer { dialled: None, id });
            }
            Message::Accept(hello) => {
                let id = self.forwarder.peer_up(now, &hello);
                if let Some(peer) = self.peers.get_mut(&conn) {
                    peer.id = id;
                }
            }
            Message::Frame(body) => {
                if let Some(id) = self.peers.get(&conn).and_then(|peer| peer.id) {
                    self.forwarder.handle_frame(now, id, &body, &mut self.effects);
                }
            }
            Message::Closed | Message::Refused | Message::TimedOut => self.close_peer(ctx, now, conn, end),
            _ => {}
        }
    }

    fn close_peer(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, end: usize) {
        let Some(peer) = self.peers.remove(&conn) else { return };
        ctx.close(conn, end);
        if let Some(index) = peer.dialled {
            self.next_dial[index] = now + RETRY;
        }
        if let Some(id) = peer.id {
            self.forwarder.link_down(now, id, &mut self.effects);
        }
    }

    fn handle(&mut self, ctx: &mut Context, node: Node, conn: ConnId, end: usize, message: Message) {
        if self.peers.contains_key(&conn) || matches!(message, Message::Open(_)) {
            return self.handle_peer(ctx, conn, end, message);
        }
        let now = self.clock.read(ctx.now);
        let of = |link: &Option<Link>| link.as_ref().is_some_and(|l| l.sip == conn || l.ucf == Some(conn));
        let Some(slot) = self.links.iter().position(of) else {
            return;
        };
        let hello = self.hello(conn.0.to_string());
        let link = self.links[slot].as_mut().expect("it was just found");
        match message {
            Message::Accept(_) if link.sip == conn => {
                link.ucf = Some(ctx.connect(node, Node::Container(slot), hello));
            }
            Message::Accept(hello) => {
                link.id = self.forwarder.link_up(now, &hello, &mut self.effects);
                if link.id.is_none() {
                    self.close(ctx, now, slot);
                }
            }
            Message::Closed | Message::Refused | Message::TimedOut => self.close(ctx, now, slot),
            Message::Frame(body) => {
                if let Some(id) = link.id {
                    self.forwarder.handle_frame(now, id, &body, &mut self.effects);
                }
            }
            Message::Leaving(member, leaving) => {
                let Some(id) = link.id else { return };
                let output = &leaving.output;
                self.forwarder
                    .handle_container(now, id, &output.bytes, &mut self.effects);
                let sent = |effect: &Effect| matches!(effect, Effect::Client { .. });
                if leaving.from_memory && self.effects.list().iter().any(sent) {
                    let write = (output.epoch, leaving.write);
                    ctx.oracle.on_from_memory(output.partition, write, member);
                }
            }
            _ => {}
        }
    }

    fn close(&mut self, ctx: &mut Context, now: Instant, slot: usize) {
        let Some(link) = self.links[slot].take() else { return };
        self.next_try[slot] = now + RETRY;
        ctx.abort(link.sip, 0);
        link.ucf.into_iter().for_each(|ucf| ctx.abort(ucf, 0));
        if let Some(id) = link.id {
            self.forwarder.link_down(now, id, &mut self.effects);
        }
    }

    fn perform(&mut self, ctx: &mut Context, node: Node) {
        let now = self.clock.read(ctx.now);
        while !self.effects.is_empty() {
            let effects = std::mem::take(&mut self.effects);
            for effect in effects.list() {
                match effect {
                    Effect::Client { to, message } => {
                        let bytes = effects.message(*message).to_vec();
                        ctx.datagram(node, Node::Callers, Datagram::Sip(to.remote, bytes));
                    }
                    Effect::Frame { link, body } => {
                        ctx.oracle.seen.fenced += u64::from(matches!(body, Body::Fenced(_)));
                        ctx.oracle.seen.relayed += u64::from(matches!(body, Body::Relay(_)));
                        let container = self.links.iter().flatten().find(|l| l.id == Some(*link));
                        let peer = self.peers.iter().find(|(_, peer)| peer.id == Some(*link));
                        let ucf = container.and_then(|l| l.ucf).or(peer.map(|(conn, _)| *conn));
                        if let Some(conn) = ucf {
                            ctx.send(conn, ctx.end_of(conn, node), Message::Frame(body.clone()));
                        }
                    }
                    Effect::Close { link, .. } => {
                        let of = |l: &Option<Link>| l.as_ref().is_some_and(|l| l.id == Some(*link));
                        if let Some(slot) = self.links.iter().position(of) {
                            self.close(ctx, now, slot);
                        }
                        let peer = self.peers.iter().find(|(_, peer)| peer.id == Some(*link));
                        if let Some(conn) = peer.map(|(conn, _)| *conn) {
                            self.close_peer(ctx, now, conn, ctx.end_of(conn, node));
                        }
                    }
                    Effect::Worker { .. } | Effect::Pass { .. } => {
                        ctx.oracle.fail("a proxy of one worker named another".to_owned());
                    }
                }
            }
        }
        self.write(ctx);
        let tries = self
            .links
            .iter()
            .zip(&self.next_try)
            .filter(|(l, _)| l.is_none())
            .map(|(_, at)| *at)
            .min();
        let undialled = |(index, _): &(usize, &Instant)| {
            node != Node::Proxy(*index) && !self.peers.values().any(|peer| peer.dialled == Some(*index))
        };
        let dials = self.next_dial.iter().enumerate().filter(undialled).map(|(_, at)| *at);
        let tries = tries.into_iter().chain(dials).min().filter(|_| self.leaving.is_none());
        let next = self.forwarder.poll_timeout().min(tries.unwrap_or(Instant::MAX));
        ctx.wake(node, self.clock.when(next));
    }

    /// Writes what the links have to write; the network takes everything.
    fn write(&mut self, ctx: &mut Context) {
        for link in self.links.iter().flatten() {
            let Some(id) = link.id else { continue };
            loop {
                let mut slices = [IoSlice::new(&[]); 16];
                let count = self.forwarder.outgoing(id, &mut slices);
                let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter().copied()).collect();
                if bytes.is_empty() {
                    break;
                }
                self.forwarder.wrote(id, bytes.len());
                ctx.send(link.sip, 0, Message::Sip(bytes));
            }
        }
    }
}

//! A container's process: the real [`Member`], driven as its contract says, beside a small model of the session engine.

use super::caller::Datagram;
use super::checks::Call;
use super::engine::Engine;
use super::net::{ConnId, Context, MS, Message, Micros, Node, Records};
use sip::Instant;
use std::collections::BTreeMap;
use std::time::Duration;
use ucf::member::{Config, Effect, Event, Faults, Gate, LinkEnd, Member, RequestId, STORE_BUDGET};
use ucf::store::{MemberRecord, StoreReply, StoreRequest};
use ucf::wire::{Body, Hello, Report};
use ucf::{Epoch, Incarnation, PartitionId, ProxyId};

/// What leaves a container for a caller.
#[derive(Clone, Debug)]
pub struct Output {
    /// To which call.
    pub call: Call,
    /// What.
    pub said: Said,
    /// The partition, the owner and its epoch.
    pub partition: PartitionId,
    /// Who sends.
    pub member: Incarnation,
    /// At which epoch.
    pub epoch: Epoch,
    /// The write that made it: its epoch and running number.
    pub commit: (Epoch, u64),
    /// Why it may leave.
    pub mark: Mark,
}

/// Why output may leave.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Mark {
    /// It is written.
    Committed,
    /// Nobody else can claim; the proxy's heartbeat that proves it.
    Memory {
        /// Its number.
        heartbeat: u64,
    },
}

/// What callers hear.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Said {
    /// An answer: version of the dialog's state (0: unknown dialog) and what was drawn when the request was carried out.
    Answer {
        /// To which request.
        request: u32,
        /// The dialog's state: requests carried out.
        version: u64,
        /// Drawn once.
        nonce: u64,
    },
    /// The session's timer.
    Fired {
        /// Drawn once.
        nonce: u64,
    },
}

/// If a record says that a timer was consumed: whose, and the nonce.
#[must_use]
pub fn fired(key: &[u8], value: &[u8]) -> Option<(Call, u64)> {
    super::engine::fired(key, value)
}

/// A process's clock: another rate and start than the run's.
#[derive(Clone, Copy, Debug)]
pub struct Clock {
    /// Millionths by which it is fast.
    pub ppm: i64,
    /// What it showed at the run's start.
    pub start: Micros,
}

impl Clock {
    /// What it shows.
    #[must_use]
    pub fn read(self, now: Micros) -> Instant {
        let drift = now as i64 * self.ppm / 1_000_000;
        Instant::from_micros((self.start as i64 + now as i64 + drift) as u64)
    }

    /// When it will show this.
    #[must_use]
    pub fn when(self, shown: Instant) -> Micros {
        let since = shown.as_micros().saturating_sub(self.start);
        if since > 1 << 50 {
            return 1 << 50;
        }
        (since as i64 * 1_000_000 / (1_000_000 + self.ppm)) as u64 + 1
    }
}

/// A container's slot and the process in it.
pub struct Container {
    /// Its place.
    pub node: Node,
    slot: usize,
    /// The process, if one runs.
    pub process: Option<Process>,
    /// None is to run here for the time being.
    pub away: bool,
    faults: Faults,
    output_first: bool,
    partitions: u16,
}

/// One life of a container.
pub struct Process {
    /// The real thing.
    pub member: Member,
    /// The model of the engine.
    pub engine: Engine,
    incarnation: Incarnation,
    clock: Clock,
    /// What came while the process was paused.
    inbox: Vec<(ConnId, usize, Message)>,
    paused: bool,
    control: Option<ConnId>,
    peers: BTreeMap<ConnId, (Incarnation, bool)>,
    proxies: BTreeMap<ConnId, ProxyId>,
    claimed: BTreeMap<PartitionId, Records>,
    asked: BTreeMap<u64, PartitionId>,
    /// It has left and may be ended.
    pub left: bool,
}

impl Container {
    /// An empty slot.
    #[must_use]
    pub fn new(slot: usize, partitions: u16, faults: Faults, output_first: bool) -> Self {
        Self {
            node: Node::Container(slot),
            slot,
            process: None,
            away: false,
            faults,
            output_first,
            partitions,
        }
    }

    /// A new life.
    pub fn start(&mut self, ctx: &mut Context) {
        let life = ctx.start(self.node);
        let incarnation = Incarnation((ctx.rng.bits() & 0xffff_0000) | life);
        let record = MemberRecord {
            incarnation,
            name: format!("demo-{}", self.slot),
            sip: String::new(),
            ucf: format!("{}", self.slot),
            weight: 100,
        };
        let clock = Clock {
            ppm: ctx.rng.range(0, 40_000) as i64 - 20_000,
            start: ctx.rng.range(1, 1_000_000_000),
        };
        let config = Config {
            record,
            partitions: self.partitions,
            lease: super::LEASE,
            store_budget: STORE_BUDGET,
            acts_from_memory: true,
            faults: self.faults,
        };
        let node = self.node;
        ctx.log(|| format!("{node:?} starts as {incarnation}"));
        self.process = Some(Process {
            member: Member::new(config, clock.read(ctx.now)),
            engine: Engine::new(incarnation, self.node, self.output_first),
            incarnation,
            clock,
            inbox: Vec::new(),
            paused: false,
            control: None,
            peers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            claimed: BTreeMap::new(),
            asked: BTreeMap::new(),
            left: false,
        });
        ctx.wake(self.node, ctx.now);
    }

    /// A new life, if there is to be one.
    pub fn start_if_empty(&mut self, ctx: &mut Context) {
        if self.process.is_none() && !self.away {
            self.start(ctx);
        }
    }

    /// One runs, and is not to leave.
    #[must_use]
    pub fn stays(&self) -> bool {
        self.process.is_some() && !self.away
    }

    /// `kill -9`.
    pub fn crash(&mut self, ctx: &mut Context) {
        if let Some(process) = self.process.take() {
            let node = self.node;
            ctx.log(|| format!("{node:?} dies"));
            for (partition, _) in process.engine.epochs() {
                ctx.oracle.on_forgotten(process.incarnation, partition, true);
            }
            ctx.end(self.node);
        }
    }

    /// The process stands still.
    pub fn pause(&mut self) {
        if let Some(process) = &mut self.process {
            process.paused = true;
        }
    }

    /// It goes on: with what has come meanwhile, or with its timers first.
    pub fn resume(&mut self, ctx: &mut Context) {
        let Some(process) = &mut self.process else { return };
        if !std::mem::replace(&mut process.paused, false) {
            return;
        }
        let inbox = std::mem::take(&mut process.inbox);
        if ctx.rng.chance(50) {
            self.wake(ctx);
        }
        for (conn, end, message) in inbox {
            self.handle(ctx, conn, end, message);
        }
        self.wake(ctx);
    }

    /// Wants to leave.
    pub fn quiesce(&mut self, ctx: &mut Context) {
        let node = self.node;
        if let Some(process) = self.process.as_mut().filter(|p| !p.paused) {
            ctx.log(|| format!("{node:?} quiesces"));
            process.member.quiesce(process.clock.read(ctx.now));
            process.pump(ctx, node);
        }
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        let Some(process) = self.process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        let now = process.clock.read(ctx.now);
        if process.member.poll_timeout() <= now {
            process.member.handle_timeout(now);
        }
        process.engine.handle_timeout(ctx, now);
        process.pump(ctx, self.node);
    }

    /// Something came.
    pub fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let node = self.node;
        let Some(process) = self.process.as_mut() else { return };
        if process.paused {
            process.inbox.push((conn, end, message));
            return;
        }
        process.handle(ctx, node, conn, end, message);
        process.pump(ctx, node);
    }
}

impl Process {
    fn hello(&self) -> Hello {
        Hello {
            version: 1,
            incarnation: self.incarnation.0,
            ..Hello::default()
        }
    }

    fn handle(&mut self, ctx: &mut Context, node: Node, conn: ConnId, end: usize, message: Message) {
        let now = self.clock.read(ctx.now);
        if self.engine.is_store_link(conn) {
            return self.engine.handle_store(ctx, now, message);
        }
        match message {
            Message::Open(hello) => {
                let answer = self.hello();
                ctx.send(conn, end, Message::Accept(answer));
                match hello.worker {
                    Some(worker) => {
                        let proxy = ProxyId {
                            incarnation: hello.incarnation,
                            worker: u16::try_from(worker).expect("small"),
                        };
                        self.proxies.insert(conn, proxy);
                        self.engine.proxy_up(conn, ctx.other_node(conn, end));
                        self.member.handle_proxy_up(now, proxy);
                    }
                    None => self.peer_up(now, conn, Incarnation(hello.incarnation)),
                }
            }
            Message::Accept(hello) => self.accepted(ctx, now, conn, Incarnation(hello.incarnation)),
            Message::Closed if self.control == Some(conn) => {
                self.control = None;
                self.member.handle_store_lost(now);
            }
            Message::Refused | Message::TimedOut if self.control == Some(conn) => {
                self.control = None;
                self.member.handle_store_lost(now);
            }
            Message::Closed => self.ended(ctx, now, conn, end, LinkEnd::Closed),
            Message::Refused => self.ended(ctx, now, conn, end, LinkEnd::Refused),
            Message::TimedOut => self.ended(ctx, now, conn, end, LinkEnd::Lost),
            Message::Frame(body) => {
                if let Some(proxy) = self.proxies.get(&conn) {
                    self.engine.heard_proxy(conn, &body);
                    self.member.handle_proxy_frame(now, *proxy, body);
                } else if let Some((peer, true)) = self.peers.get(&conn) {
                    self.member.handle_peer_frame(now, *peer, body);
                }
            }
            Message::Input(number, datagram) => self.input(ctx, now, conn, number, datagram),
            Message::Answer(id, reply, records) => self.answer(ctx, now, conn, id, reply, records),
            _ => {}
        }
        _ = node;
    }

    fn peer_up(&mut self, now: Instant, conn: ConnId, peer: Incarnation) {
        let first = !self.peers.values().any(|(p, up)| *p == peer && *up);
        self.peers.insert(conn, (peer, true));
        if first {
            self.member.handle_peer_up(now, peer);
        }
    }

    fn accepted(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, who: Incarnation) {
        let Some((expected, _)) = self.peers.get(&conn).copied() else {
            return;
        };
        if expected == who {
            return self.peer_up(now, conn, who);
        }
        // Another life answers at the address: that one is a member of its own, and will connect by itself.
        self.peers.remove(&conn);
        ctx.close(conn, 0);
        self.member.handle_peer_end(now, expected, LinkEnd::Refused);
    }

    fn ended(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, end: usize, how: LinkEnd) {
        ctx.close(conn, end);
        if let Some(proxy) = self.proxies.remove(&conn) {
            self.engine.proxy_closed(conn);
            if !self.proxies.values().any(|p| *p == proxy) {
                self.member.handle_proxy_closed(now, proxy);
            }
        } else if let Some((peer, _)) = self.peers.remove(&conn) {
            let other = self.peers.values().any(|(p, up)| *p == peer && *up);
            if !other {
                self.member.handle_peer_end(now, peer, how);
            }
        }
    }

    fn input(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, number: u64, datagram: Datagram) {
        self.engine.input(ctx, now, conn, number, datagram);
    }

    fn answer(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        conn: ConnId,
        id: u64,
        reply: StoreReply,
        records: Option<Records>,
    ) {
        if self.control != Some(conn) {
            return;
        }
        if let (Some(records), Some(partition)) = (records, self.asked.remove(&id)) {
            self.claimed.insert(partition, records);
        }
        _ = ctx;
        self.member.handle_store(now, RequestId(id), reply);
    }

    /// Performs all effects, and asks to be woken.
    fn pump(&mut self, ctx: &mut Context, node: Node) {
        let now = self.clock.read(ctx.now);
        loop {
            while let Some(effect) = self.member.poll_effect() {
                self.perform(ctx, node, now, effect);
            }
            let Some(notice) = self.engine.poll_notice() else { break };
            self.member.handle_engine(now, notice);
        }
        let next = self.member.poll_timeout().min(self.engine.poll_timeout());
        if next != Instant::MAX && !self.left {
            ctx.wake(node, self.clock.when(next));
        }
    }

    fn perform(&mut self, ctx: &mut Context, node: Node, now: Instant, effect: Effect) {
        match effect {
            Effect::Store(id, request) => {
                if let StoreRequest::Claim { partition, .. } = &request {
                    self.asked.insert(id.0, *partition);
                }
                let hello = self.hello();
                let conn = *self
                    .control
                    .get_or_insert_with(|| ctx.connect(node, Node::Store, hello));
                ctx.send(conn, 0, Message::Ask(id.0, request));
            }
            Effect::ResetStore(_) => {
                if let Some(conn) = self.control.take() {
                    ctx.close(conn, 0);
                }
            }
            Effect::ToProxy(proxy, body) => self.to_proxies(ctx, Some(proxy), &body),
            Effect::ToProxies(body) => self.to_proxies(ctx, None, &body),
            Effect::Report {
                proxy,
                heartbeat,
                state,
            } => {
                let report = Report {
                    heartbeat,
                    state: state as i32,
                    ..Report::default()
                };
                self.to_proxies(ctx, Some(proxy), &Body::Report(report));
            }
            Effect::ToPeer(peer, body) => {
                let conn = self.peers.iter().rev().find(|(_, (p, up))| *p == peer && *up);
                if let Some((conn, _)) = conn {
                    let conn = *conn;
                    // Each side has its own end: the initiator's is 0.
                    let end = ctx.end_of(conn, node);
                    ctx.send(conn, end, Message::Frame(body));
                }
            }
            Effect::Connect { member, address } => {
                let slot = address.parse().expect("the simulation's addresses are slots");
                let conn = ctx.connect(node, Node::Container(slot), self.hello());
                self.peers.insert(conn, (member, false));
            }
            Effect::Activate { partition, epoch } => {
                ctx.log(|| format!("{node:?} activates {partition} {epoch}"));
                let records = self
                    .claimed
                    .remove(&partition)
                    .expect("the records of a claim wait for it");
                ctx.oracle.on_activate(ctx.now, partition, epoch, self.incarnation);
                self.engine.activate(ctx, now, partition, epoch, records);
            }
            Effect::Freeze(partition) => self.engine.freeze(partition),
            Effect::Thaw(partition) => self.engine.thaw(ctx, now, partition),
            Effect::Drop { partition, why } => {
                ctx.log(|| format!("{node:?} drops {partition} {why:?}"));
                self.claimed.remove(&partition);
                ctx.oracle.on_forgotten(self.incarnation, partition, false);
                self.engine.drop_partition(ctx, partition);
            }
            Effect::Gate(gate) => {
                ctx.log(|| format!("{node:?} {gate:?}"));
                let until = match gate {
                    Gate::Memory { until, .. } => Some(self.clock.when(until)),
                    Gate::Committed | Gate::Hold => None,
                };
                ctx.oracle.on_gate(ctx.now, self.incarnation, until);
                self.engine.gate(ctx, now, gate);
            }
            Effect::Reconcile { round, partitions } => self.engine.reconcile(ctx, now, round, &partitions),
            Effect::Left => self.left = true,
            Effect::Event(Event::Claiming { .. } | Event::ClaimRefused { .. }) => {}
            Effect::Event(event) => {
                ctx.log(|| format!("{node:?} {event:?}"));
            }
        }
    }

    fn to_proxies(&self, ctx: &mut Context, only: Option<ProxyId>, body: &Body) {
        for (conn, proxy) in &self.proxies {
            if only.is_none_or(|p| p == *proxy) {
                ctx.send(*conn, 1, Message::Frame(body.clone()));
            }
        }
    }
}

/// For the engine's own link to the store.
pub(super) const RECONNECT: Duration = Duration::from_micros(100 * MS);

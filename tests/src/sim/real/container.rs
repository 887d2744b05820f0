//! The real [`Member`] and the real [`Engine`], driven over the simulated network: one worker.

use super::caller::call_of;
use super::compare;
use crate::sim::container::Clock;
use crate::sim::net::{ConnId, Context, MS, Message, Node, Records};
use bytes::Bytes;
use container::engine::{
    Announcement, ConnectionId, Engine, Fate, Input, Released, Settings, Turn, WriteOutcome, partition_of,
};
use container::records::Key;
use sip::{Frame, Framer, Instant, Limits, OwnedMessage, Side};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::Duration;
use ucf::member::{Config, Effect, Event, Faults, Gate, LinkEnd, Member, Notice, RequestId, STORE_BUDGET};
use ucf::store::{MemberRecord, StoreReply, StoreRequest, Write};
use ucf::token::Keyring;
use ucf::wire::{Body, Confirm, Hello, Report, Transactions};
use ucf::{Epoch, Incarnation, PartitionId, ProxyId};

const RETRY: Duration = Duration::from_micros(50 * MS);
const ENGINE_LOOK: Duration = Duration::from_micros(20 * MS);

/// A container's slot and the process in it.
pub struct Container {
    /// Its place.
    pub node: Node,
    slot: usize,
    settings: Settings,
    faults: Faults,
    output_first: bool,
    /// The process, if one runs.
    pub process: Option<Process>,
    /// None is to run here for the time being.
    pub away: bool,
}

/// One life of a container.
pub struct Process {
    /// Its part in the cluster.
    pub member: Member,
    engine: Engine,
    keyring: Arc<Keyring>,
    incarnation: Incarnation,
    node: Node,
    clock: Clock,
    paused: bool,
    inbox: Vec<(ConnId, usize, Message)>,
    control: Option<ConnId>,
    peers: BTreeMap<ConnId, (Incarnation, bool)>,
    /// UCF connections of proxies, and the SIP connections beside them.
    proxies: BTreeMap<ConnId, (ProxyId, ConnId)>,
    sips: BTreeMap<ConnId, Sip>,
    claimed: BTreeMap<PartitionId, Won>,
    /// Claims that are asked for, and whether as the target of a hand-over.
    asked: BTreeMap<u64, (PartitionId, bool)>,
    writer: Writer,
    /// It has left and may be ended.
    pub left: bool,
}

/// What a claim has brought.
struct Won {
    records: Records,
    /// The former owner has named us, so it has stopped and written everything.
    handed_over: bool,
}

/// A SIP connection of a proxy: what came, and what is confirmed.
struct Sip {
    proxy: Option<ProxyId>,
    framer: Framer,
    buffer: Vec<u8>,
    read: u64,
    upto: u64,
    told: u64,
    done: BTreeMap<u64, Fate>,
    returned: Vec<u64>,
    kept: Vec<u64>,
}

/// The worker's own connection to the store.
#[derive(Default)]
struct Writer {
    link: Option<ConnId>,
    next: u64,
    writing: VecDeque<Writing>,
    retry: Option<Instant>,
    /// The member has been told that writes fail.
    failing: bool,
    /// Broken on purpose: turns count as written when they are sent.
    output_first: bool,
}

struct Writing {
    turn: u64,
    writes: Vec<Write>,
    first: u64,
    outcomes: Vec<Option<WriteOutcome>>,
    at: Instant,
}

impl Container {
    /// An empty slot.
    #[must_use]
    pub fn new(slot: usize, settings: Settings, faults: Faults, output_first: bool) -> Self {
        Self {
            node: Node::Container(slot),
            slot,
            settings,
            faults,
            output_first,
            process: None,
            away: false,
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
        let keyring = self.settings.keyring.clone();
        let config = Config {
            record,
            partitions: u16::try_from(keyring.partitions()).expect("few"),
            lease: crate::sim::LEASE,
            store_budget: STORE_BUDGET,
            acts_from_memory: true,
            faults: self.faults,
        };
        let node = self.node;
        ctx.log(|| format!("{node:?} starts as {incarnation}"));
        let seed = [ctx.rng.bits(), ctx.rng.bits()];
        self.process = Some(Process {
            member: Member::new(config, clock.read(ctx.now)),
            engine: Engine::new(self.settings.clone(), seed),
            keyring,
            incarnation,
            node,
            clock,
            paused: false,
            inbox: Vec::new(),
            control: None,
            peers: BTreeMap::new(),
            proxies: BTreeMap::new(),
            sips: BTreeMap::new(),
            claimed: BTreeMap::new(),
            asked: BTreeMap::new(),
            writer: Writer {
                output_first: self.output_first,
                ..Writer::default()
            },
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
            for partition in process.partitions() {
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
        if let Some(process) = self.process.as_mut().filter(|p| !p.paused) {
            process.member.quiesce(process.clock.read(ctx.now));
            process.pump(ctx);
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
        process.engine.handle_timeout(now);
        process.look_at_writes(ctx, now);
        process.pump(ctx);
    }

    /// Something came.
    pub fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let Some(process) = self.process.as_mut() else { return };
        if process.paused {
            process.inbox.push((conn, end, message));
            return;
        }
        process.handle(ctx, conn, end, message);
        process.pump(ctx);
    }
}

impl Process {
    /// What it holds.
    pub fn partitions(&self) -> Vec<PartitionId> {
        let all = (0..crate::sim::PARTITIONS).map(PartitionId);
        all.filter(|id| self.engine.epoch(*id).is_some()).collect()
    }

    /// Whether writes are on their way.
    #[must_use]
    pub fn is_writing(&self) -> bool {
        !self.writer.writing.is_empty()
    }

    /// A partition's epoch, records and those that wait to be deleted.
    pub fn memory(&self, ctx: &Context, id: PartitionId) -> Option<(Epoch, BTreeMap<Key, Bytes>, &[Key])> {
        let records = self.engine.records(self.clock.read(ctx.now), id)?;
        Some((self.engine.epoch(id)?, records, self.engine.ripe(id)))
    }

    fn hello(&self) -> Hello {
        Hello {
            version: 1,
            cluster: "sim".to_owned(),
            incarnation: self.incarnation.0,
            ..Hello::default()
        }
    }

    fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let now = self.clock.read(ctx.now);
        if self.writer.link == Some(conn) {
            return self.handle_written(now, message);
        }
        match message {
            Message::Open(hello) => {
                let answer = self.hello();
                ctx.send(conn, end, Message::Accept(answer));
                self.opened(now, conn, &hello);
            }
            Message::Accept(hello) => self.accepted(ctx, now, conn, Incarnation(hello.incarnation)),
            Message::Closed | Message::Refused | Message::TimedOut if self.control == Some(conn) => {
                self.control = None;
                self.member.handle_store_lost(now);
            }
            Message::Closed => self.ended(ctx, now, conn, end, LinkEnd::Closed),
            Message::Refused => self.ended(ctx, now, conn, end, LinkEnd::Refused),
            Message::TimedOut => self.ended(ctx, now, conn, end, LinkEnd::Lost),
            Message::Frame(body) => {
                if let Some((proxy, _)) = self.proxies.get(&conn) {
                    self.member.handle_proxy_frame(now, *proxy, body);
                } else if let Some((peer, true)) = self.peers.get(&conn) {
                    self.member.handle_peer_frame(now, *peer, body);
                }
            }
            Message::Sip(bytes) => self.sip(now, conn, &bytes),
            Message::Answer(id, reply, records) if self.control == Some(conn) => {
                // The store's time, as of its answer.
                self.engine.set_store_clock(now, store_time(ctx));
                if let (Some(records), Some((partition, handed_over))) = (records, self.asked.remove(&id)) {
                    self.claimed.insert(partition, Won { records, handed_over });
                }
                self.member.handle_store(now, RequestId(id), reply);
            }
            _ => {}
        }
    }

    fn opened(&mut self, now: Instant, conn: ConnId, hello: &Hello) {
        let Some(worker) = hello.worker else {
            return self.peer_up(now, conn, Incarnation(hello.incarnation));
        };
        let proxy = ProxyId {
            incarnation: hello.incarnation,
            worker: u16::try_from(worker).expect("small"),
        };
        let Ok(sip) = hello.sip.parse::<u64>() else {
            let sip = Sip {
                proxy: None,
                framer: Framer::new(Side::Accepted, Limits::default()),
                buffer: Vec::new(),
                read: 0,
                upto: 0,
                told: 0,
                done: BTreeMap::new(),
                returned: Vec::new(),
                kept: Vec::new(),
            };
            self.sips.insert(conn, sip);
            return;
        };
        self.proxies.insert(conn, (proxy, ConnId(sip)));
        if let Some(sip) = self.sips.get_mut(&ConnId(sip)) {
            sip.proxy = Some(proxy);
        }
        self.member.handle_proxy_up(now, proxy);
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
        self.peers.remove(&conn);
        ctx.close(conn, 0);
        self.member.handle_peer_end(now, expected, LinkEnd::Refused);
    }

    fn ended(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, end: usize, how: LinkEnd) {
        ctx.close(conn, end);
        if let Some((proxy, sip)) = self.proxies.remove(&conn) {
            // Both connections of a proxy end together.
            ctx.close(sip, 1);
            self.sips.remove(&sip);
            if !self.proxies.values().any(|(p, _)| *p == proxy) {
                self.member.handle_proxy_closed(now, proxy);
            }
        } else if self.sips.remove(&conn).is_some() {
            let beside = self
                .proxies
                .iter()
                .find(|(_, (_, sip))| *sip == conn)
                .map(|(ucf, _)| *ucf);
            if let Some(ucf) = beside {
                self.ended(ctx, now, ucf, 1, how);
            }
        } else if let Some((peer, _)) = self.peers.remove(&conn)
            && !self.peers.values().any(|(p, up)| *p == peer && *up)
        {
            self.member.handle_peer_end(now, peer, how);
        }
    }

    fn sip(&mut self, now: Instant, conn: ConnId, bytes: &[u8]) {
        let Some(link) = self.sips.get_mut(&conn) else { return };
        link.buffer.extend_from_slice(bytes);
        // Nothing is read before the proxy has said who it is.
        let Some(proxy) = link.proxy else { return };
        let mut messages = Vec::new();
        loop {
            match link.framer.next(&link.buffer).expect("a proxy sends SIP") {
                (0, None) => break,
                (consumed, frame) => {
                    if let Some(Frame::Message(range)) = frame {
                        let bytes = Bytes::copy_from_slice(&link.buffer[range]);
                        messages.push(OwnedMessage::new(bytes, link.framer.index().clone()));
                    }
                    link.buffer.drain(..consumed);
                }
            }
        }
        for message in messages {
            link.read += 1;
            let input = Input {
                connection: ConnectionId(conn.0),
                number: link.read,
            };
            debug_assert!(partition_of(&message.as_message(), &self.keyring).is_some());
            self.engine.handle_sip(now, input, proxy, message);
        }
    }

    /// Effects, turns, what they release and what the engine has to tell, until all is quiet.
    fn pump(&mut self, ctx: &mut Context) {
        let now = self.clock.read(ctx.now);
        loop {
            while let Some(effect) = self.member.poll_effect() {
                self.perform(ctx, now, effect);
            }
            let announcements = self.engine.take_announcements();
            self.announce(ctx, None, &announcements);
            // As in the process: one turn is under way at a time, and from memory turns have no writes.
            let may_end = self.writer.writing.is_empty() || self.engine.acts_from_memory();
            if may_end && let Some(turn) = self.engine.end_turn(now) {
                self.write(ctx, now, turn);
            }
            let proxies: Vec<_> = self.proxies.values().map(|(proxy, _)| *proxy).collect();
            let released = self.engine.take_released(now, &proxies);
            self.release(ctx, released);
            let mut quiet = true;
            while let Some(notice) = self.engine.poll_notice() {
                quiet = false;
                self.member.handle_engine(now, notice);
            }
            if quiet {
                break;
            }
        }
        let engine = self.engine.poll_timeout().unwrap_or(Instant::MAX);
        let writer = if !self.writer.writing.is_empty() {
            now + ENGINE_LOOK
        } else {
            Instant::MAX
        };
        let next = self.member.poll_timeout().min(engine).min(writer);
        if next != Instant::MAX && !self.left {
            ctx.wake(self.node, self.clock.when(next));
        }
    }

    fn write(&mut self, ctx: &mut Context, now: Instant, turn: Turn) {
        if turn.writes.is_empty() {
            return;
        }
        let writes: Vec<_> = turn.writes.into_iter().map(|w| self.stored(w)).collect();
        let writing = Writing {
            turn: turn.number,
            first: self.writer.next,
            outcomes: vec![None; writes.len()],
            writes,
            at: now,
        };
        self.writer.next += writing.writes.len() as u64;
        if self.writer.output_first {
            let outcomes = vec![WriteOutcome::Written; writing.writes.len()];
            self.engine.handle_written(writing.turn, &outcomes);
        }
        if self.writer.retry.is_none() {
            self.send_writes(ctx, &writing);
        }
        self.writer.writing.push_back(writing);
    }

    fn stored(&self, write: container::engine::Write) -> Write {
        Write {
            partition: write.partition,
            member: self.incarnation,
            epoch: write.epoch,
            seq: write.number,
            replace: write.replace,
            sets: write
                .sets
                .into_iter()
                .map(|(k, v)| (k.to_bytes().to_vec(), v.to_vec()))
                .collect(),
            deletes: write.deletes.into_iter().map(|k| k.to_bytes().to_vec()).collect(),
        }
    }

    fn send_writes(&mut self, ctx: &mut Context, writing: &Writing) {
        let node = self.node;
        let hello = self.hello();
        let conn = *self
            .writer
            .link
            .get_or_insert_with(|| ctx.connect(node, Node::Store, hello));
        let unanswered = |place: usize| writing.outcomes[place].is_none();
        let writes = writing
            .writes
            .iter()
            .enumerate()
            .filter(|(place, _)| unanswered(*place));
        for (place, write) in writes {
            let id = writing.first + place as u64;
            ctx.send(conn, 0, Message::Ask(id, StoreRequest::Write(write.clone())));
        }
    }

    fn look_at_writes(&mut self, ctx: &mut Context, now: Instant) {
        let Some(oldest) = self.writer.writing.front().map(|w| w.at) else {
            return;
        };
        if self.writer.retry.is_none() && now.since(oldest) >= STORE_BUDGET {
            self.writer.retry = Some(now + RETRY);
            if let Some(conn) = self.writer.link.take() {
                ctx.close(conn, 0);
            }
            self.writes_fail(now);
        } else if self.writer.retry.is_some_and(|at| at <= now) {
            self.writer.retry = None;
            // Again, in order, which running numbers make harmless; but not of what is another's now: a store that forgot would take that
            // for the owner's.
            for mut writing in std::mem::take(&mut self.writer.writing) {
                writing.at = now;
                for (write, outcome) in writing.writes.iter().zip(&mut writing.outcomes) {
                    if self.engine.epoch(write.partition) != Some(write.epoch) {
                        outcome.get_or_insert(WriteOutcome::Written);
                    }
                }
                self.send_writes(ctx, &writing);
                self.writer.writing.push_back(writing);
            }
            self.take_written(now);
        }
    }

    fn writes_fail(&mut self, now: Instant) {
        self.writer.failing = true;
        self.member.handle_engine(now, Notice::StoreSilent);
    }

    fn handle_written(&mut self, now: Instant, message: Message) {
        let (id, reply) = match message {
            Message::Answer(id, reply, _) => (id, reply),
            Message::Closed | Message::Refused | Message::TimedOut => {
                self.writer.link = None;
                if !self.writer.writing.is_empty() {
                    self.writer.retry = Some(now + RETRY);
                    self.writes_fail(now);
                }
                return;
            }
            _ => return,
        };
        let of = |w: &&mut Writing| (w.first..w.first + w.writes.len() as u64).contains(&id);
        let Some(writing) = self.writer.writing.iter_mut().find(of) else {
            return;
        };
        let place = usize::try_from(id - writing.first).expect("a place in the turn");
        writing.outcomes[place] = Some(match reply {
            StoreReply::Written { behind: true } if !writing.writes[place].replace => WriteOutcome::Behind,
            StoreReply::Refused(stored) => WriteOutcome::Stale {
                owner: stored.owner,
                epoch: stored.epoch,
            },
            _ => WriteOutcome::Written,
        });
        self.take_written(now);
    }

    /// Turns that are written.
    fn take_written(&mut self, now: Instant) {
        while self
            .writer
            .writing
            .front()
            .is_some_and(|w| w.outcomes.iter().all(Option::is_some))
        {
            let written = self.writer.writing.pop_front().expect("it is there");
            let outcomes: Vec<_> = written.outcomes.into_iter().flatten().collect();
            self.engine.handle_written(written.turn, &outcomes);
        }
        if self.writer.writing.is_empty() && std::mem::take(&mut self.writer.failing) {
            self.member.handle_engine(now, Notice::StoreWrites);
        }
    }

    fn release(&mut self, ctx: &mut Context, released: Released) {
        for leaving in released.outputs {
            let output = &leaving.output;
            let call = call_of(&output.bytes).map_or(0, |(call, _)| u32::try_from(call).expect("few calls"));
            if leaving.from_memory {
                ctx.oracle.on_acted(self.incarnation, output.partition, call);
            } else {
                let write = (output.epoch, leaving.write);
                ctx.oracle
                    .on_committed(output.partition, write, &format_args!("a message of call {call}"));
            }
            let named = self.proxies.values().find(|(p, _)| Some(*p) == output.proxy);
            if let Some((_, sip)) = named.or_else(|| self.proxies.values().next()) {
                ctx.send(*sip, 1, Message::Leaving(self.incarnation, Box::new(leaving)));
            }
        }
        for confirm in released.confirms {
            if let Some(sip) = self.sips.get_mut(&ConnId(confirm.input.connection.0)) {
                sip.confirm(confirm.input.number, confirm.fate);
            }
        }
        for (ucf, (_, sip)) in &self.proxies {
            let Some(sip) = self.sips.get_mut(sip) else { continue };
            if sip.upto > sip.told || !sip.returned.is_empty() || !sip.kept.is_empty() {
                sip.told = sip.upto;
                let confirm = Confirm {
                    upto: sip.upto,
                    returned: std::mem::take(&mut sip.returned),
                    kept: std::mem::take(&mut sip.kept),
                    ..Confirm::default()
                };
                ctx.send(*ucf, 1, Message::Frame(Body::Confirm(confirm)));
            }
        }
    }

    fn announce(&self, ctx: &mut Context, only: Option<ProxyId>, announcements: &[Announcement]) {
        if announcements.is_empty() {
            return;
        }
        let begun = announcements.iter().filter(|a| !a.ended);
        let frame = Transactions {
            keys: begun.clone().map(|a| a.key).collect(),
            merged: begun.clone().map(|a| a.merged).collect(),
            partitions: begun.map(|a| u32::from(a.partition.0)).collect(),
            ended: announcements.iter().filter(|a| a.ended).map(|a| a.key).collect(),
        };
        self.to_proxies(ctx, only, &Body::Transactions(frame));
    }

    fn to_proxies(&self, ctx: &mut Context, only: Option<ProxyId>, body: &Body) {
        for (ucf, (proxy, _)) in &self.proxies {
            if only.is_none_or(|p| p == *proxy) {
                ctx.send(*ucf, 1, Message::Frame(body.clone()));
            }
        }
    }

    fn perform(&mut self, ctx: &mut Context, now: Instant, effect: Effect) {
        let node = self.node;
        match effect {
            Effect::Store(id, request) => {
                if let StoreRequest::Claim {
                    partition, as_target, ..
                } = &request
                {
                    self.asked.insert(id.0, (*partition, *as_target));
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
            Effect::ToProxy(proxy, body) => {
                self.to_proxies(ctx, Some(proxy), &body);
                // The live transactions go first in a new link, with the member's first word to it.
                if matches!(&body, Body::Ownership(owned) if owned.complete) {
                    let live: Vec<_> = self.engine.live_transactions().collect();
                    self.announce(ctx, Some(proxy), &live);
                }
            }
            Effect::ToProxies(body) => self.to_proxies(ctx, None, &body),
            Effect::Report {
                proxy,
                heartbeat,
                state,
            } => {
                let holdings = self.engine.holdings();
                let report = Report {
                    heartbeat,
                    state: state as i32,
                    open_transactions: u32::try_from(holdings.open_transactions).unwrap_or(u32::MAX),
                    holds: *self.member.gate() == Gate::Hold,
                    ..Report::default()
                };
                self.to_proxies(ctx, Some(proxy), &Body::Report(report));
            }
            Effect::ToPeer(peer, body) => {
                let conn = self
                    .peers
                    .iter()
                    .rev()
                    .find(|(_, (p, up))| *p == peer && *up)
                    .map(|(c, _)| *c);
                if let Some(conn) = conn {
                    ctx.send(conn, ctx.end_of(conn, node), Message::Frame(body));
                }
            }
            Effect::Connect { member, address } => {
                let slot = address.parse().expect("the simulation's addresses are slots");
                let conn = ctx.connect(node, Node::Container(slot), self.hello());
                self.peers.insert(conn, (member, false));
            }
            Effect::Activate { partition, epoch } => {
                ctx.log(|| format!("{node:?} activates {partition} {epoch}"));
                let won = self.claimed.remove(&partition);
                let Won { records, handed_over } = won.expect("the records of a claim wait for it");
                ctx.oracle.on_activate(ctx.now, partition, epoch, self.incarnation);
                ctx.oracle.on_misdated(compare::misdated(&records, store_time(ctx)));
                let records = records.into_iter().map(|(k, v)| (Bytes::from(k), Bytes::from(v)));
                match handed_over {
                    true => self.engine.receive(now, partition, epoch, records),
                    false => self.engine.activate(now, partition, epoch, records),
                }
            }
            Effect::Freeze(partition) => self.engine.freeze(partition),
            Effect::Thaw(partition) => self.engine.thaw(now, partition),
            Effect::Drop { partition, why } => {
                ctx.log(|| format!("{node:?} drops {partition} {why:?}"));
                self.claimed.remove(&partition);
                ctx.oracle.on_forgotten(self.incarnation, partition, false);
                self.engine.drop_partition(partition);
            }
            Effect::Gate(gate) => {
                ctx.log(|| format!("{node:?} {gate:?}"));
                let until = match gate {
                    Gate::Memory { until, .. } => Some(self.clock.when(until)),
                    Gate::Committed | Gate::Hold => None,
                };
                ctx.oracle.on_gate(ctx.now, self.incarnation, until);
                self.engine.set_gate(gate);
            }
            Effect::Reconcile { round, partitions } => self.engine.reconcile(round, &partitions),
            Effect::Left => self.left = true,
            Effect::Event(Event::Claiming { .. } | Event::ClaimRefused { .. }) => {}
            Effect::Event(event) => {
                ctx.log(|| format!("{node:?} {event:?}"));
            }
        }
    }
}

/// What the store's clock shows, in milliseconds.
fn store_time(ctx: &Context) -> u64 {
    (ctx.now / 1000 + 1_700_000_000_000)
        .checked_add_signed(ctx.store_clock)
        .expect("it is wrong by hours")
}

impl Sip {
    fn confirm(&mut self, number: u64, fate: Fate) {
        match fate {
            Fate::Done => {}
            Fate::Returned => self.returned.push(number),
            Fate::Kept => return self.kept.push(number),
        }
        self.done.insert(number, fate);
        while self.done.remove(&(self.upto + 1)).is_some() {
            self.upto += 1;
        }
    }
}

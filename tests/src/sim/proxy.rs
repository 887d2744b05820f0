//! A small model of a proxy: routes by what owners announce, holds in transition, keeps what is unconfirmed, fences, vouches.

use super::caller::Datagram;
use super::container::{Clock, Mark, Output};
use super::net::{ConnId, Context, MS, Message, Micros, Node};
use sip::Instant;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;
use ucf::wire::{Body, Fenced, Heartbeat, Hello, Ownership, View};
use ucf::{Epoch, Incarnation, PartitionId};

const BEAT: Duration = Duration::from_millis(100);

/// Messages held of one partition; callers repeat what is refused.
const HELD: usize = 64;

/// A proxy's place and the process in it.
pub struct Proxy {
    /// Its place.
    pub node: Node,
    slots: usize,
    process: Option<Process>,
    fences: bool,
}

struct Process {
    life: u64,
    clock: Clock,
    paused: bool,
    draining: bool,
    inbox: Vec<Inbox>,
    /// One link per container slot.
    links: Vec<Option<Link>>,
    next_try: Vec<Instant>,
    closed: BTreeMap<Incarnation, Instant>,
    table: BTreeMap<PartitionId, Known>,
    held: BTreeMap<PartitionId, VecDeque<Datagram>>,
    beats: u64,
    /// When each of the latest heartbeats was sent.
    beaten: VecDeque<(u64, Instant)>,
    next_beat: Instant,
    numbered: u64,
}

enum Inbox {
    Stream(ConnId, usize, Box<Message>),
    Datagram(Datagram),
}

struct Known {
    owner: Incarnation,
    epoch: Epoch,
    leaving: bool,
}

struct Link {
    conn: ConnId,
    member: Option<Incarnation>,
    heard: Instant,
    unconfirmed: BTreeMap<u64, Datagram>,
}

impl Proxy {
    /// An empty place.
    #[must_use]
    pub fn new(index: usize, slots: usize, fences: bool) -> Self {
        Self {
            node: Node::Proxy(index),
            slots,
            process: None,
            fences,
        }
    }

    /// A new process.
    pub fn start(&mut self, ctx: &mut Context) {
        let life = ctx.start(self.node);
        let clock = Clock {
            ppm: ctx.rng.range(0, 40_000) as i64 - 20_000,
            start: ctx.rng.range(1, 1_000_000_000),
        };
        let now = clock.read(ctx.now);
        self.process = Some(Process {
            life,
            clock,
            paused: false,
            draining: false,
            inbox: Vec::new(),
            links: (0..self.slots).map(|_| None).collect(),
            next_try: vec![now; self.slots],
            closed: BTreeMap::new(),
            table: BTreeMap::new(),
            held: BTreeMap::new(),
            beats: 0,
            beaten: VecDeque::new(),
            next_beat: now,
            numbered: 0,
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
        self.process.as_ref().is_some_and(|p| !p.draining)
    }

    /// Told to end: nothing more comes, and once all is confirmed that came, it ends.
    pub fn drain(&mut self) {
        if let Some(process) = &mut self.process {
            process.draining = true;
        }
    }

    /// It takes nothing any more. While it stands still it does not know that it is to end.
    #[must_use]
    pub fn is_draining(&self) -> bool {
        self.process.as_ref().is_some_and(|p| p.draining && !p.paused)
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
                Inbox::Datagram(datagram) => self.datagram(ctx, datagram),
            }
        }
        self.wake(ctx);
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        let (node, slots) = (self.node, self.slots);
        let Some(process) = self.process.as_mut().filter(|p| !p.paused) else {
            return;
        };
        let now = process.clock.read(ctx.now);
        if process.next_beat <= now {
            process.next_beat = now + BEAT;
            for slot in 0..slots {
                process.connect(ctx, node, now, slot);
            }
            process.beat(ctx, now);
        }
        if process.draining && process.links.iter().flatten().all(|link| link.unconfirmed.is_empty()) {
            return self.crash(ctx);
        }
        let at = process.clock.when(process.next_beat);
        ctx.wake(node, at);
    }

    /// A caller's datagram came.
    pub fn datagram(&mut self, ctx: &mut Context, datagram: Datagram) {
        let Some(process) = &mut self.process else { return };
        if process.paused {
            process.inbox.push(Inbox::Datagram(datagram));
            return;
        }
        process.route(ctx, datagram);
    }

    /// Something came on a stream.
    pub fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        let (node, fences) = (self.node, self.fences);
        let Some(process) = &mut self.process else { return };
        if process.paused {
            process.inbox.push(Inbox::Stream(conn, end, Box::new(message)));
            return;
        }
        let now = process.clock.read(ctx.now);
        let Some(slot) = process
            .links
            .iter()
            .position(|l| l.as_ref().is_some_and(|l| l.conn == conn))
        else {
            return;
        };
        let link = process.links[slot].as_mut().expect("it was just found");
        link.heard = now;
        match message {
            Message::Accept(hello) => {
                let member = Incarnation(hello.incarnation);
                link.member = Some(member);
                process.closed.remove(&member);
                process.beat(ctx, now);
                process.release(ctx);
            }
            Message::Closed | Message::Refused | Message::TimedOut => {
                ctx.close(conn, 0);
                process.lost(ctx, now, slot);
            }
            Message::Frame(Body::Ownership(owned)) => process.learn(ctx, conn, &owned),
            Message::Confirmed(number) => _ = link.unconfirmed.remove(&number),
            Message::Returned(number) => {
                if let Some(datagram) = link.unconfirmed.remove(&number) {
                    process.hold(datagram);
                }
            }
            Message::Output(output) => process.forward(ctx, node, now, conn, *output, fences),
            _ => {}
        }
    }
}

impl Process {
    fn connect(&mut self, ctx: &mut Context, node: Node, now: Instant, slot: usize) {
        if self.links[slot].is_some() || self.next_try[slot] > now {
            return;
        }
        let hello = Hello {
            version: 1,
            incarnation: self.life,
            worker: Some(0),
            ..Hello::default()
        };
        let conn = ctx.connect(node, Node::Container(slot), hello);
        self.links[slot] = Some(Link {
            conn,
            member: None,
            heard: now,
            unconfirmed: BTreeMap::new(),
        });
    }

    fn lost(&mut self, ctx: &mut Context, now: Instant, slot: usize) {
        let Some(link) = self.links[slot].take() else { return };
        self.next_try[slot] = now + BEAT;
        if let Some(member) = link.member {
            self.closed.insert(member, now);
            self.beat(ctx, now);
        }
        for datagram in link.unconfirmed.into_values() {
            self.hold(datagram);
        }
        self.release(ctx);
    }

    /// Says that it lives, and whom it sees.
    fn beat(&mut self, ctx: &mut Context, now: Instant) {
        let millis = |since: Instant| u32::try_from(now.since(since).as_millis()).unwrap_or(u32::MAX);
        let linked = self.links.iter().flatten().filter_map(|l| {
            Some(View {
                incarnation: l.member?.0,
                silent_ms: millis(l.heard),
                closed: false,
            })
        });
        let closed = self.closed.iter().map(|(member, since)| View {
            incarnation: member.0,
            silent_ms: millis(*since),
            closed: true,
        });
        let views = linked.chain(closed).collect();
        self.beats += 1;
        self.beaten.push_back((self.beats, now));
        self.beaten.truncate(1 << 16);
        let frame = Body::Heartbeat(Heartbeat {
            number: self.beats,
            views,
        });
        for link in self.links.iter().flatten().filter(|l| l.member.is_some()) {
            ctx.send(link.conn, 0, Message::Frame(frame.clone()));
        }
    }

    fn learn(&mut self, ctx: &mut Context, conn: ConnId, owned: &Ownership) {
        let owner = Incarnation(owned.owner);
        for (partition, epoch) in owned.partitions.iter().zip(&owned.epochs) {
            let partition_id = PartitionId(u16::try_from(*partition).expect("small"));
            let epoch = Epoch(*epoch);
            let leaving = owned.leaving.contains(partition);
            match self.table.get(&partition_id) {
                Some(known) if known.epoch > epoch => {
                    let fenced = Fenced {
                        partition: *partition,
                        owner: known.owner.0,
                        epoch: known.epoch.0,
                    };
                    if known.owner != owner {
                        ctx.send(conn, 0, Message::Frame(Body::Fenced(fenced)));
                    }
                }
                _ => _ = self.table.insert(partition_id, Known { owner, epoch, leaving }),
            }
        }
        self.release(ctx);
    }

    fn owner_link(&mut self, partition: PartitionId) -> Option<&mut Link> {
        let known = self.table.get(&partition).filter(|known| !known.leaving)?;
        let owner = known.owner;
        self.links.iter_mut().flatten().find(|l| l.member == Some(owner))
    }

    fn route(&mut self, ctx: &mut Context, datagram: Datagram) {
        let partition = super::partition_of(datagram.call());
        self.numbered += 1;
        let number = self.numbered;
        match self.owner_link(partition) {
            Some(link) => {
                link.unconfirmed.insert(number, datagram.clone());
                let conn = link.conn;
                ctx.send(conn, 0, Message::Input(number, datagram));
            }
            None => self.hold(datagram),
        }
    }

    fn hold(&mut self, datagram: Datagram) {
        let held = self.held.entry(super::partition_of(datagram.call())).or_default();
        if held.len() < HELD && !held.contains(&datagram) {
            held.push_back(datagram);
        }
    }

    /// What is held, and what went to an owner that is none any more, goes to the present owner.
    fn release(&mut self, ctx: &mut Context) {
        let table = &self.table;
        let mut moved = Vec::new();
        for link in self.links.iter_mut().flatten() {
            let member = link.member;
            let gone = |d: &Datagram| {
                table
                    .get(&super::partition_of(d.call()))
                    .is_some_and(|k| Some(k.owner) != member)
            };
            let stale: Vec<u64> = link
                .unconfirmed
                .iter()
                .filter(|(_, d)| gone(d))
                .map(|(n, _)| *n)
                .collect();
            moved.extend(stale.into_iter().filter_map(|n| link.unconfirmed.remove(&n)));
        }
        let ready: Vec<_> = self.held.keys().copied().collect();
        for partition in ready {
            if self.owner_link(partition).is_some() {
                moved.extend(self.held.remove(&partition).expect("it was just listed"));
            }
        }
        for datagram in moved {
            self.route(ctx, datagram);
        }
    }

    fn forward(&mut self, ctx: &mut Context, node: Node, now: Instant, conn: ConnId, output: Output, fences: bool) {
        let known = self.table.get(&output.partition);
        let fence = known.filter(|k| k.owner != output.member && k.epoch >= output.epoch);
        if let Some(known) = fence.filter(|_| fences) {
            let fenced = Fenced {
                partition: u32::from(output.partition.0),
                owner: known.owner.0,
                epoch: known.epoch.0,
            };
            ctx.oracle.seen.fenced += 1;
            ctx.send(conn, 0, Message::Frame(Body::Fenced(fenced)));
            return;
        }
        if let Mark::Memory { heartbeat } = output.mark {
            let sent = self
                .beaten
                .iter()
                .rev()
                .find(|(n, _)| *n == heartbeat)
                .map(|(_, at)| *at);
            // A pause after the container's own check does no harm: nobody can have claimed within this age.
            let fresh = sent.is_some_and(|at| now.since(at) <= super::LEASE * 4 / 5);
            if !fresh && fences {
                ctx.oracle.seen.fenced += 1;
                return;
            }
        }
        ctx.oracle.on_leaving(&output);
        ctx.datagram(node, Node::Callers, Datagram::Said(output.call, output.said));
    }
}

/// How long a proxy's process takes to come back.
pub const RESTART: Micros = 500 * MS;

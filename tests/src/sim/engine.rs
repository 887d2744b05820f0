//! A small model of the session engine: turns, fenced writes, output that waits for them, records as state.

use super::caller::Datagram;
use super::checks::Call;
use super::container::{Mark, Output, RECONNECT, Said};
use super::net::{ConnId, Context, Message, Micros, Node, Records};
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use ucf::member::{Gate, Notice, STORE_BUDGET};
use ucf::store::{StoreReply, StoreRequest, Write};
use ucf::wire::{Body, Hello};
use ucf::{Epoch, Incarnation, PartitionId};

/// How often what a caller has not acknowledged is sent again.
const AGAIN: Micros = 1_000_000;

/// The engine of one container.
pub struct Engine {
    member: Incarnation,
    node: Node,
    output_first: bool,
    actors: BTreeMap<PartitionId, Actor>,
    /// Writes in order, and what waits for them.
    pending: VecDeque<Turn>,
    /// A write was not carried out, and some wait still.
    failing: bool,
    link: Option<ConnId>,
    next_id: u64,
    reconnect: Option<Instant>,
    gate: Gate,
    /// Output that is written but may not leave.
    held: Vec<(Option<ConnId>, Output)>,
    proxies: BTreeMap<ConnId, (Node, u64)>,
    notices: VecDeque<Notice>,
    reconciling: Option<(u64, BTreeSet<u64>)>,
    next_look: Option<Instant>,
}

struct Actor {
    epoch: Epoch,
    seq: u64,
    records: Records,
    frozen: bool,
    input: VecDeque<(ConnId, u64, Datagram)>,
    /// The proxy that carried each call's latest message, and when its timer was last sent.
    flows: BTreeMap<Call, ConnId>,
    repeats: BTreeMap<Call, Micros>,
}

/// One turn: a write, and what leaves when it is acknowledged.
struct Turn {
    id: u64,
    write: Option<Write>,
    partition: PartitionId,
    at: Instant,
    outputs: Vec<(Option<ConnId>, Output)>,
    confirms: Vec<(ConnId, u64)>,
    /// The output has left from memory.
    left: bool,
    acknowledged: bool,
}

fn key(kind: u8, call: Call, request: u32) -> Vec<u8> {
    let mut key = vec![kind];
    key.extend(call.to_be_bytes());
    key.extend(request.to_be_bytes());
    key
}

fn value(words: [u64; 4]) -> Vec<u8> {
    words.iter().flat_map(|w| w.to_be_bytes()).collect()
}

fn words(value: &[u8]) -> [u64; 4] {
    let word = |i: usize| u64::from_be_bytes(value[i * 8..i * 8 + 8].try_into().expect("eight bytes"));
    [word(0), word(1), word(2), word(3)]
}

fn call_of(key: &[u8]) -> Call {
    Call::from_be_bytes(key[1..5].try_into().expect("four bytes"))
}

/// If a record says that a timer was consumed: whose, and the nonce.
pub fn fired(key: &[u8], value: &[u8]) -> Option<(Call, u64)> {
    (key[0] == b'f').then(|| (call_of(key), words(value)[0]))
}

/// The calls of some records.
pub fn calls(records: &Records) -> impl Iterator<Item = Call> + '_ {
    records.keys().map(|k| call_of(k))
}

/// What is said to whom, and the earlier write that made it, if it is said again.
type Saying = (Call, Said, Option<(Epoch, u64)>);

/// What a turn changes and says.
#[derive(Default)]
struct Changes {
    sets: Vec<(Vec<u8>, Vec<u8>)>,
    deletes: Vec<Vec<u8>>,
    says: Vec<Saying>,
}

impl Engine {
    /// One that owns nothing.
    pub fn new(member: Incarnation, node: Node, output_first: bool) -> Self {
        Self {
            member,
            node,
            output_first,
            actors: BTreeMap::new(),
            pending: VecDeque::new(),
            failing: false,
            link: None,
            next_id: 1,
            reconnect: None,
            gate: Gate::Committed,
            held: Vec::new(),
            proxies: BTreeMap::new(),
            notices: VecDeque::new(),
            reconciling: None,
            next_look: None,
        }
    }

    /// What it owns.
    pub fn epochs(&self) -> impl Iterator<Item = (PartitionId, Epoch)> + '_ {
        self.actors.iter().map(|(p, a)| (*p, a.epoch))
    }

    /// A partition's state.
    pub fn records(&self, partition: PartitionId) -> Option<&Records> {
        self.actors.get(&partition).map(|a| &a.records)
    }

    pub(super) fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    pub(super) fn is_store_link(&self, conn: ConnId) -> bool {
        self.link == Some(conn)
    }

    pub(super) fn poll_timeout(&self) -> Instant {
        self.next_look.unwrap_or(Instant::MAX)
    }

    pub(super) fn proxy_up(&mut self, conn: ConnId, node: Node) {
        self.proxies.insert(conn, (node, 0));
    }

    pub(super) fn proxy_closed(&mut self, conn: ConnId) {
        self.proxies.remove(&conn);
    }

    pub(super) fn heard_proxy(&mut self, conn: ConnId, body: &Body) {
        if let (Body::Heartbeat(beat), Some((_, number))) = (body, self.proxies.get_mut(&conn)) {
            *number = beat.number;
        }
    }

    /// Looks at timers and at writes that take too long.
    pub(super) fn handle_timeout(&mut self, ctx: &mut Context, now: Instant) {
        if self.next_look.is_some_and(|at| at > now) {
            return;
        }
        self.next_look = (!self.actors.is_empty() || !self.pending.is_empty()).then(|| now + RECONNECT);
        let overdue = self
            .pending
            .front()
            .is_some_and(|t| t.write.is_some() && now.since(t.at) >= STORE_BUDGET);
        if overdue {
            self.writes_fail();
            if let Some(conn) = self.link.take() {
                ctx.close(conn, 0);
                self.reconnect = Some(now);
            }
        }
        if self.reconnect.is_some_and(|at| at <= now) {
            self.send_again(ctx, now);
        }
        self.run_timers(ctx, now);
        self.writes_again();
    }

    fn run_timers(&mut self, ctx: &mut Context, now: Instant) {
        // Held output must not pile up: nothing is begun that could not leave.
        if self.gate == Gate::Hold {
            return;
        }
        let mut due = Vec::new();
        for (partition, actor) in self.actors.iter().filter(|(_, a)| !a.frozen) {
            for (key, value) in &actor.records {
                let call = call_of(key);
                let fields = words(value);
                let repeat = actor.repeats.get(&call).is_none_or(|at| ctx.now >= at + AGAIN);
                match key[0] {
                    b't' if fields[0] <= ctx.now => due.push((*partition, call, None)),
                    b'f' if fields[3] == 0 && repeat => due.push((*partition, call, Some(fields))),
                    _ => {}
                }
            }
        }
        for (partition, call, fired) in due {
            let mut changes = Changes::default();
            match fired {
                None => {
                    let nonce = ctx.rng.bits();
                    let actor = &self.actors[&partition];
                    let made = (actor.epoch, actor.seq + 1);
                    changes.deletes.push(key(b't', call, 0));
                    changes
                        .sets
                        .push((key(b'f', call, 0), value([nonce, made.0.0, made.1, 0])));
                    changes.says.push((call, Said::Fired { nonce }, None));
                }
                Some([nonce, epoch, seq, _]) => {
                    changes
                        .says
                        .push((call, Said::Fired { nonce }, Some((Epoch(epoch), seq))))
                }
            }
            let at = ctx.now;
            self.actors
                .get_mut(&partition)
                .expect("it is due")
                .repeats
                .insert(call, at);
            self.turn(ctx, now, partition, changes, None);
        }
    }

    pub(super) fn input(&mut self, ctx: &mut Context, now: Instant, conn: ConnId, number: u64, datagram: Datagram) {
        let partition = super::partition_of(datagram.call());
        let Some(actor) = self.actors.get_mut(&partition) else {
            ctx.send(conn, 1, Message::Returned(number));
            return;
        };
        if actor.frozen {
            actor.input.push_back((conn, number, datagram));
            return;
        }
        self.run(ctx, now, partition, conn, number, &datagram);
    }

    fn run(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        partition: PartitionId,
        conn: ConnId,
        number: u64,
        datagram: &Datagram,
    ) {
        let nonce = ctx.rng.bits();
        let actor = self.actors.get_mut(&partition).expect("its input is run");
        actor.flows.insert(datagram.call(), conn);
        let made = (actor.epoch, actor.seq + 1);
        let mut changes = Changes::default();
        match datagram {
            Datagram::Request {
                call,
                request,
                bye,
                expires,
            } => {
                let transaction = key(b'x', *call, *request);
                let dialog = key(b'd', *call, 0);
                let version = actor.records.get(&dialog).map(|d| words(d)[0]);
                if let Some(known) = actor.records.get(&transaction) {
                    let [version, nonce, epoch, seq] = words(known);
                    let said = Said::Answer {
                        request: *request,
                        version,
                        nonce,
                    };
                    changes.says.push((*call, said, Some((Epoch(epoch), seq))));
                } else {
                    let version = match version {
                        Some(version) => version + 1,
                        None => u64::from(*request == 0),
                    };
                    let said = Said::Answer {
                        request: *request,
                        version,
                        nonce,
                    };
                    changes.says.push((*call, said, None));
                    if version > 0 {
                        changes
                            .sets
                            .push((transaction, value([version, nonce, made.0.0, made.1])));
                        changes.sets.push((dialog.clone(), value([version, 0, 0, 0])));
                    }
                    if *request == 0 {
                        changes.sets.push((key(b't', *call, 0), value([*expires, 0, 0, 0])));
                    }
                    if *bye {
                        changes.sets.retain(|(k, _)| *k != dialog);
                        changes.deletes.extend([dialog, key(b't', *call, 0)]);
                    }
                }
            }
            Datagram::Acknowledge { call } => {
                let fire = key(b'f', *call, 0);
                if let Some(known) = actor.records.get(&fire) {
                    let [nonce, epoch, seq, _] = words(known);
                    changes.sets.push((fire, value([nonce, epoch, seq, 1])));
                }
            }
            Datagram::Said(..) | Datagram::Sip(..) => {}
        }
        self.turn(ctx, now, partition, changes, Some((conn, number)));
    }

    /// One turn: the state changes, the write goes out, the output waits.
    fn turn(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        partition: PartitionId,
        changes: Changes,
        confirms: Option<(ConnId, u64)>,
    ) {
        let actor = self.actors.get_mut(&partition).expect("its turn");
        // An answer without a change is fenced as well: a stale owner does not know what it says.
        actor.seq += 1;
        let made = (actor.epoch, actor.seq);
        for key in &changes.deletes {
            actor.records.remove(key);
        }
        for (key, value) in &changes.sets {
            actor.records.insert(key.clone(), value.clone());
        }
        let mut outputs = Vec::new();
        for (call, said, commit) in changes.says {
            let output = Output {
                call,
                said,
                partition,
                member: self.member,
                epoch: actor.epoch,
                commit: commit.unwrap_or(made),
                mark: Mark::Committed,
            };
            outputs.push((actor.flows.get(&call).copied(), output));
        }
        let write = Write {
            partition,
            member: self.member,
            epoch: actor.epoch,
            seq: actor.seq,
            replace: false,
            sets: changes.sets,
            deletes: changes.deletes,
        };
        if self.output_first {
            for (flow, output) in std::mem::take(&mut outputs) {
                self.emit(ctx, flow, output);
            }
        }
        self.queue(ctx, now, write, outputs, confirms.into_iter().collect());
        self.leave_from_memory(ctx, now);
    }

    fn queue(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        write: Write,
        outputs: Vec<(Option<ConnId>, Output)>,
        confirms: Vec<(ConnId, u64)>,
    ) {
        let id = self.next_id;
        self.next_id += 1;
        if self.reconnect.is_none() {
            self.ask(ctx, id, write.clone());
        }
        self.pending.push_back(Turn {
            id,
            partition: write.partition,
            write: Some(write),
            at: now,
            outputs,
            confirms,
            left: false,
            acknowledged: false,
        });
        self.next_look.get_or_insert(now + RECONNECT);
    }

    fn ask(&mut self, ctx: &mut Context, id: u64, write: Write) {
        let node = self.node;
        let conn = *self
            .link
            .get_or_insert_with(|| ctx.connect(node, Node::Store, Hello::default()));
        ctx.send(conn, 0, Message::Ask(id, StoreRequest::Write(write)));
    }

    fn send_again(&mut self, ctx: &mut Context, now: Instant) {
        self.reconnect = None;
        let again: Vec<_> = self
            .pending
            .iter()
            .filter(|t| !t.acknowledged)
            .filter_map(|t| Some((t.id, t.write.clone()?)))
            .collect();
        for (id, write) in again {
            self.ask(ctx, id, write);
        }
        for turn in &mut self.pending {
            turn.at = now;
        }
    }

    fn writes_fail(&mut self) {
        if self.pending.iter().any(|turn| !turn.acknowledged) {
            self.failing = true;
            self.notices.push_back(Notice::StoreSilent);
        }
    }

    /// No write waits any more, be it that its partition was dropped.
    fn writes_again(&mut self) {
        if self.failing && self.pending.iter().all(|turn| turn.acknowledged) {
            self.failing = false;
            self.notices.push_back(Notice::StoreWrites);
        }
    }

    pub(super) fn handle_store(&mut self, ctx: &mut Context, now: Instant, message: Message) {
        let (id, reply) = match message {
            Message::Answer(id, reply, _) => (id, reply),
            Message::Closed | Message::Refused | Message::TimedOut => {
                self.link = None;
                self.reconnect = Some(now + RECONNECT);
                self.next_look.get_or_insert(now + RECONNECT);
                self.writes_fail();
                return;
            }
            _ => return,
        };
        let Some(turn) = self.pending.iter_mut().find(|t| t.id == id) else {
            return;
        };
        turn.acknowledged = true;
        self.failing = false;
        self.notices.push_back(Notice::StoreWrites);
        let partition = turn.partition;
        let replaced = turn.write.as_ref().is_some_and(|w| w.replace);
        match reply {
            StoreReply::Written { behind } if behind && !replaced => {
                // What it took waits for the member, which asks all others.
                if self.gate == Gate::Committed {
                    self.gate = Gate::Hold;
                }
                self.notices.push_back(Notice::Behind(partition));
            }
            StoreReply::Refused(stored) => {
                let written = turn.write.as_ref().map_or(Epoch(0), |w| w.epoch);
                turn.outputs.clear();
                turn.confirms.clear();
                self.stop(partition, written);
                self.notices.push_back(Notice::Stale {
                    partition,
                    written,
                    owner: stored.owner,
                    epoch: stored.epoch,
                });
            }
            _ => {}
        }
        if let Some((round, waiting)) = &mut self.reconciling {
            waiting.remove(&id);
            if waiting.is_empty() {
                self.notices.push_back(Notice::Reconciled(*round));
                self.reconciling = None;
            }
        }
        self.flush(ctx, now);
    }

    /// A write was refused: no turn of this partition any more, until the member says so.
    fn stop(&mut self, partition: PartitionId, written: Epoch) {
        if let Some(actor) = self.actors.get_mut(&partition).filter(|a| a.epoch == written) {
            actor.frozen = true;
        }
    }

    /// Acknowledged turns leave in order.
    fn flush(&mut self, ctx: &mut Context, _now: Instant) {
        while self.pending.front().is_some_and(|t| t.acknowledged) {
            let turn = self.pending.pop_front().expect("it is there");
            for (flow, output) in turn.outputs {
                if self.gate == Gate::Committed {
                    self.emit(ctx, flow, output);
                } else if !turn.left {
                    self.held.push((flow, output));
                }
            }
            for (conn, number) in turn.confirms {
                ctx.send(conn, 1, Message::Confirmed(number));
            }
        }
        self.tell_frozen();
        self.writes_again();
    }

    fn tell_frozen(&mut self) {
        for (partition, actor) in self.actors.iter().filter(|(_, a)| a.frozen) {
            _ = actor;
            if !self.pending.iter().any(|t| t.partition == *partition) {
                self.notices.push_back(Notice::Frozen(*partition));
            }
        }
    }

    fn leave_from_memory(&mut self, ctx: &mut Context, now: Instant) {
        let Gate::Memory {
            until,
            heartbeats,
            held,
        } = self.gate.clone()
        else {
            return;
        };
        if now >= until {
            return;
        }
        let named: BTreeMap<u64, u64> = heartbeats.iter().map(|(p, n)| (p.incarnation, *n)).collect();
        let mut leaving = Vec::new();
        for turn in self
            .pending
            .iter_mut()
            .filter(|t| !t.left && !held.contains(&t.partition))
        {
            if self.actors.get(&turn.partition).is_none_or(|a| a.frozen) {
                continue;
            }
            turn.left = true;
            leaving.extend(turn.outputs.iter().cloned());
        }
        for (flow, mut output) in leaving {
            let flow = flow
                .filter(|f| self.proxies.contains_key(f))
                .or_else(|| self.proxies.keys().next().copied());
            let Some((conn, (node, _))) = flow.and_then(|f| Some((f, self.proxies.get(&f)?))) else {
                continue;
            };
            let Some(heartbeat) = ctx.life(*node).and_then(|life| named.get(&life)) else {
                continue;
            };
            output.mark = Mark::Memory { heartbeat: *heartbeat };
            ctx.oracle.on_acted(self.member, output.partition, output.call);
            ctx.send(conn, 1, Message::Output(Box::new(output)));
        }
    }

    fn emit(&mut self, ctx: &mut Context, flow: Option<ConnId>, output: Output) {
        let flow = flow
            .filter(|f| self.proxies.contains_key(f))
            .or_else(|| self.proxies.keys().next().copied());
        if let Some(conn) = flow {
            ctx.send(conn, 1, Message::Output(Box::new(output)));
        }
    }

    pub(super) fn activate(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        partition: PartitionId,
        epoch: Epoch,
        records: Records,
    ) {
        let actor = Actor {
            epoch,
            seq: 0,
            records,
            frozen: false,
            input: VecDeque::new(),
            flows: BTreeMap::new(),
            repeats: BTreeMap::new(),
        };
        self.actors.insert(partition, actor);
        self.notices.push_back(Notice::Loaded(partition));
        self.next_look = Some(now + RECONNECT);
        _ = ctx;
    }

    pub(super) fn freeze(&mut self, partition: PartitionId) {
        if let Some(actor) = self.actors.get_mut(&partition) {
            actor.frozen = true;
        }
        self.tell_frozen();
    }

    pub(super) fn thaw(&mut self, ctx: &mut Context, now: Instant, partition: PartitionId) {
        let Some(actor) = self.actors.get_mut(&partition) else {
            return;
        };
        actor.frozen = false;
        let input = std::mem::take(&mut actor.input);
        for (conn, number, datagram) in input {
            self.run(ctx, now, partition, conn, number, &datagram);
        }
    }

    pub(super) fn drop_partition(&mut self, ctx: &mut Context, partition: PartitionId) {
        if let Some(actor) = self.actors.remove(&partition) {
            for (conn, number, _) in actor.input {
                ctx.send(conn, 1, Message::Returned(number));
            }
        }
        for turn in self.pending.iter_mut().filter(|t| t.partition == partition) {
            // Not to be sent again: a store that forgot would take it for the owner's.
            turn.acknowledged = true;
            turn.outputs.clear();
            for (conn, number) in std::mem::take(&mut turn.confirms) {
                ctx.send(conn, 1, Message::Returned(number));
            }
        }
    }

    pub(super) fn gate(&mut self, ctx: &mut Context, now: Instant, gate: Gate) {
        self.gate = gate;
        match self.gate {
            Gate::Committed => {
                for (flow, output) in std::mem::take(&mut self.held) {
                    self.emit(ctx, flow, output);
                }
            }
            Gate::Memory { .. } => self.leave_from_memory(ctx, now),
            Gate::Hold => {}
        }
    }

    pub(super) fn reconcile(
        &mut self,
        ctx: &mut Context,
        now: Instant,
        round: u64,
        partitions: &[(PartitionId, Epoch)],
    ) {
        let mut waiting = BTreeSet::new();
        for (partition, epoch) in partitions {
            let Some(actor) = self.actors.get_mut(partition).filter(|a| a.epoch == *epoch) else {
                continue;
            };
            // Older writes are forgotten, what waits for them waits for the whole.
            let mut outputs = Vec::new();
            let mut confirms = Vec::new();
            for turn in self.pending.iter_mut().filter(|t| t.partition == *partition) {
                turn.acknowledged = true;
                let waiting = std::mem::take(&mut turn.outputs);
                if !turn.left {
                    outputs.extend(waiting);
                }
                confirms.append(&mut turn.confirms);
            }
            actor.seq += 1;
            let write = Write {
                partition: *partition,
                member: self.member,
                epoch: *epoch,
                seq: actor.seq,
                replace: true,
                sets: actor.records.clone().into_iter().collect(),
                deletes: Vec::new(),
            };
            waiting.insert(self.next_id);
            self.queue(ctx, now, write, outputs, confirms);
        }
        if waiting.is_empty() {
            self.notices.push_back(Notice::Reconciled(round));
            self.reconciling = None;
        } else {
            self.reconciling = Some((round, waiting));
        }
        self.flush(ctx, now);
    }
}

//! One worker of a container, sans-IO: partitions as actors, transactions, dialogs, timers and turns.
//!
//! The driver's contract:
//! - hand in what happened (`handle_sip`, `handle_timeout` when [`Engine::poll_timeout`] has come, what the member asks for);
//! - send what [`Engine::take_announcements`] gives to all proxies at once: no turn and no write is waited for;
//! - call [`Engine::end_turn`] when the inputs at hand are drained and again after each turn, and send its writes to the store;
//! - tell by [`Engine::handle_written`] how the writes of a turn went, turn by turn, and send what [`Engine::take_released`] then gives,
//!   in its order. Nothing leaves in any other way, so nothing leaves that is not written (invariant 1), or that under [`Gate::Memory`]
//!   nobody else can act on: then turns have no writes, may be ended at any time, and messages name a heartbeat of their proxy;
//! - a write whose answer is lost is sent again as it is: its running number makes that harmless;
//! - carry out the asks among it, and hand in what came of them (`handle_answer`);
//! - pass what [`Engine::poll_notice`] gives to the member.
//!
//! Later turns may run while earlier writes are under way. The engine knows no clock and no randomness: times and the seed are arguments,
//! and the same inputs give the same turns.

mod actor;
mod asks;
mod bounds;
mod calls;
mod client;
mod clock;
mod digest;
mod dispatch;
mod entropy;
mod flows;
mod gate;
mod partition;
mod queue;
mod respond;
mod restore;
mod turn;
mod turns;

pub use asks::Asking;
pub use digest::Digest;
pub use dispatch::partition_of;
pub(crate) use entropy::Entropy;
pub use flows::DueFlow;
pub use turn::{
    Announcement, Confirm, ConnectionId, Fate, Input, Leaving, Output, Released, Turn, Write, WriteOutcome,
};

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use sip::transaction::{Effect, ServerState};
use sip::{Instant, OwnedMessage};
use ucf::member::{Gate, Notice};
use ucf::token::Keyring;
use ucf::{Epoch, PartitionId, ProxyId};

use crate::application::{About, Application, TransactionId};
use crate::records::{Key, Kind};
use actor::Actor;
use clock::StoreClock;
use gate::AtGate;
use partition::{MAX_KEPT, Partition};
use queue::Queue;
use turns::{Batch, Open, Reconciling, Waiting};

/// What an engine is made for.
#[derive(Clone)]
pub struct Settings {
    /// Keys and number of partitions.
    pub keyring: Arc<Keyring>,
    /// Host and port that stand in our Via and Contact.
    pub advertised: String,
    /// What handles the calls.
    pub application: Arc<dyn Application>,
}

/// What does not change.
struct Shared {
    keyring: Arc<Keyring>,
    application: Arc<dyn Application>,
    advertised: String,
    allow: String,
    supported: String,
    extensions: Vec<&'static [u8]>,
}

/// What an engine has counted since its start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counters {
    /// Requests that came for a partition of ours.
    pub requests: u64,
    /// Responses that came for a partition of ours.
    pub responses: u64,
    /// Requests that a transaction absorbed.
    pub repeated: u64,
    /// Requests given back because their partition is not ours, or could not be kept through its hand-over.
    pub returned_requests: u64,
    /// Responses given back likewise.
    pub returned_responses: u64,
    /// Requests without a partition.
    pub lost_requests: u64,
    /// Responses without a partition.
    pub lost_responses: u64,
    /// Requests refused before an application saw them.
    pub refused: u64,
    /// Requests for dialogs that do not exist.
    pub unknown_dialogs: u64,
    /// Responses to no transaction of ours.
    pub unknown_responses: u64,
    /// Sessions begun.
    pub sessions: u64,
    /// Dialogs ended.
    pub ended: u64,
    /// Timers of applications that fired.
    pub timers: u64,
    /// Fenced writes.
    pub writes: u64,
    /// Writes that were refused.
    pub stale: u64,
    /// Records that could not be read.
    pub unreadable: u64,
    /// Messages sent.
    pub sent: u64,
}

/// What an engine holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Holdings {
    /// Partitions.
    pub partitions: usize,
    /// Dialogs, early and confirmed.
    pub dialogs: usize,
    /// Transactions in progress.
    pub open_transactions: usize,
}

impl std::ops::AddAssign for Counters {
    fn add_assign(&mut self, more: Self) {
        let Self {
            requests,
            responses,
            repeated,
            returned_requests,
            returned_responses,
            lost_requests,
            lost_responses,
            refused,
            unknown_dialogs,
            unknown_responses,
            sessions,
            ended,
            timers,
            writes,
            stale,
            unreadable,
            sent,
        } = more;
        self.requests += requests;
        self.responses += responses;
        self.repeated += repeated;
        self.returned_requests += returned_requests;
        self.returned_responses += returned_responses;
        self.lost_requests += lost_requests;
        self.lost_responses += lost_responses;
        self.refused += refused;
        self.unknown_dialogs += unknown_dialogs;
        self.unknown_responses += unknown_responses;
        self.sessions += sessions;
        self.ended += ended;
        self.timers += timers;
        self.writes += writes;
        self.stale += stale;
        self.unreadable += unreadable;
        self.sent += sent;
    }
}

impl std::ops::AddAssign for Holdings {
    fn add_assign(&mut self, more: Self) {
        self.partitions += more.partitions;
        self.dialogs += more.dialogs;
        self.open_transactions += more.open_transactions;
    }
}

/// What has become of the owner before us.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Former {
    /// Nobody knows what of its output has left.
    Down,
    /// All of it has.
    HandsOver,
}

/// One worker.
pub struct Engine {
    shared: Shared,
    clock: StoreClock,
    entropy: Entropy,
    queue: Queue,
    /// By number; `None` is not ours.
    partitions: Vec<Option<Box<Partition>>>,
    /// Sessions and transactions of all of them.
    held: usize,
    open: Open,
    waiting: VecDeque<Waiting>,
    turn: u64,
    released: AtGate,
    gate: Gate,
    notices: VecDeque<Notice>,
    /// The last round of `reconcile`.
    reconciling: Option<Reconciling>,
    /// Turns that are gathered and not begun: more than one where much changed at once.
    batches: VecDeque<Batch>,
    sweep: Instant,
    asked: flows::Asked,
    counters: Counters,
}

impl Engine {
    /// An engine without partitions. `seed` is the only randomness that it gets.
    #[must_use]
    pub fn new(settings: Settings, seed: [u64; 2]) -> Self {
        let profile = settings.application.profile();
        let shared = Shared {
            allow: profile.methods.join(", "),
            supported: profile.extensions.join(", "),
            extensions: profile.extensions.iter().map(|name| name.as_bytes()).collect(),
            keyring: settings.keyring,
            application: settings.application,
            advertised: settings.advertised,
        };
        let partitions = (0..shared.keyring.partitions()).map(|_| None).collect();
        Self {
            shared,
            clock: StoreClock::default(),
            entropy: Entropy::new(seed),
            queue: Queue::default(),
            partitions,
            held: 0,
            open: Open::default(),
            waiting: VecDeque::new(),
            turn: 0,
            released: AtGate::default(),
            gate: Gate::Committed,
            notices: VecDeque::new(),
            reconciling: None,
            batches: VecDeque::new(),
            sweep: Instant::MAX,
            asked: flows::Asked::default(),
            counters: Counters::default(),
        }
    }

    /// The store said `millis` (of the Unix epoch) at `now`: deadlines in records are in its time, and are written anew if that jumped.
    pub fn set_store_clock(&mut self, now: Instant, millis: u64) {
        if self.clock.set(now, millis) {
            self.rewrite_all();
        }
    }

    /// A SIP message came on a proxy worker's connection.
    pub fn handle_sip(&mut self, now: Instant, input: Input, proxy: ProxyId, message: OwnedMessage) {
        let is_request = message.as_message().is_request();
        let Some(id) = partition_of(&message.as_message(), &self.shared.keyring) else {
            match is_request {
                true => self.counters.lost_requests += 1,
                false => self.counters.lost_responses += 1,
            }
            return self.open.confirm(input, None);
        };
        let Some(partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return self.give_back(input, is_request);
        };
        if let Some(frozen) = &mut partition.frozen {
            if frozen.inputs.len() < MAX_KEPT {
                frozen.inputs.push_back((input, proxy, message));
                self.released.keep(input);
            } else {
                self.give_back(input, is_request);
            }
            return;
        }
        self.open.confirm(input, Some((id, partition.epoch)));
        self.work(now, id, |actor| {
            if is_request {
                actor.counters.requests += 1;
                actor.request(proxy, message);
            } else {
                actor.counters.responses += 1;
                actor.response(&message);
            }
        });
    }

    fn give_back(&mut self, input: Input, is_request: bool) {
        match is_request {
            true => self.counters.returned_requests += 1,
            false => self.counters.returned_responses += 1,
        }
        self.open.give_back(input);
    }

    /// The partition is ours: loads the records of its claim, arms timers and sends again what is unanswered.
    pub fn activate(
        &mut self,
        now: Instant,
        id: PartitionId,
        epoch: Epoch,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        self.take_on(now, id, epoch, records, Former::Down);
    }

    /// The partition was handed over to us: loads the records of its claim and goes on where its former owner has stopped, which has sent
    /// everything and noted what was acknowledged ([`freeze`](Self::freeze)). Should it die before what it sent has left the machine, proxies send
    /// again what they have no confirmation of.
    pub fn receive(
        &mut self,
        now: Instant,
        id: PartitionId,
        epoch: Epoch,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
    ) {
        self.take_on(now, id, epoch, records, Former::HandsOver);
    }

    fn take_on(
        &mut self,
        now: Instant,
        id: PartitionId,
        epoch: Epoch,
        records: impl IntoIterator<Item = (Bytes, Bytes)>,
        former: Former,
    ) {
        let Some(place) = self.partitions.get(usize::from(id.0)) else {
            return;
        };
        if place.is_some() {
            self.drop_partition(id);
        }
        let mut partition = Box::new(Partition::new(id, epoch));
        let contact = self.shared.contact(id, false);
        let unreadable = restore::load(&mut partition, records, self.clock, now, &contact);
        self.counters.unreadable += unreadable as u64;
        if partition.ripe_since.is_some() {
            self.sweep = self.sweep.min(now + turns::SWEEP);
        }
        let keys = partition.keys();
        self.held += partition.held();
        // A proxy may have started since the former owner told of them, and not have heard that one any more.
        self.open.announcements.extend(partition.live_transactions());
        self.partitions[usize::from(id.0)] = Some(partition);
        self.work(now, id, |actor| {
            for key in keys {
                actor.resume(key, former);
            }
        });
        self.notices.push_back(Notice::Loaded(id));
    }

    /// Stops the partition's turns for a hand-over; [`Notice::Frozen`] follows once all is written, and which answers were acknowledged with it.
    pub fn freeze(&mut self, id: PartitionId) {
        if let Some(partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::as_mut) {
            partition.note_acknowledged();
            partition.frozen.get_or_insert_default();
            self.open.touch(id);
            self.tell_frozen(id);
        }
    }

    /// The hand-over is off: goes on with what was kept.
    pub fn thaw(&mut self, now: Instant, id: PartitionId) {
        let Some(partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::as_mut) else {
            return;
        };
        let Some(frozen) = partition.frozen.take() else { return };
        self.work(now, id, |actor| {
            for key in frozen.due {
                actor.due(key);
            }
        });
        for (ask, answer) in frozen.answers {
            self.handle_answer(now, ask, answer);
        }
        for (input, proxy, message) in frozen.inputs {
            self.handle_sip(now, input, proxy, message);
        }
    }

    /// The partition is another's: forgets it. What it kept goes back to the proxies, none of its unreleased output leaves any more.
    pub fn drop_partition(&mut self, id: PartitionId) {
        let Some(mut partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::take) else {
            return;
        };
        self.held -= partition.held();
        self.released.drop_partition(id);
        for key in partition.keys() {
            let armed = match key.kind {
                Kind::Session => partition.sessions.get_mut(&key.id).map(|session| &mut session.armed),
                Kind::Server => partition.servers.get_mut(&key.id).map(|server| &mut server.armed),
                Kind::Client => partition.clients.get_mut(&key.id).map(|client| &mut client.armed),
            };
            if let Some(armed) = armed {
                self.queue.arm(queue::Due { partition: id, key }, armed, None);
            }
        }
        for (input, _, message) in partition.frozen.take().unwrap_or_default().inputs {
            self.give_back(input, message.as_message().is_request());
        }
    }

    /// When [`handle_timeout`](Self::handle_timeout) is wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let sweep = (self.sweep < Instant::MAX).then_some(self.sweep);
        [self.queue.next(), sweep].into_iter().flatten().min()
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some(due) = self.queue.pop(now) {
            let Some(partition) = self.partitions[usize::from(due.partition.0)].as_mut() else {
                continue;
            };
            match due.key.kind {
                Kind::Session => partition
                    .sessions
                    .get_mut(&due.key.id)
                    .map(|session| session.armed = None),
                Kind::Server => partition.servers.get_mut(&due.key.id).map(|server| server.armed = None),
                Kind::Client => partition.clients.get_mut(&due.key.id).map(|client| client.armed = None),
            };
            match &mut partition.frozen {
                Some(frozen) => frozen.due.push(due.key),
                None => self.work(now, due.partition, |actor| actor.due(due.key)),
            }
        }
        if self.sweep <= now {
            self.sweep_ripe(now);
        }
    }

    /// Something for the member.
    pub fn poll_notice(&mut self) -> Option<Notice> {
        self.notices.pop_front()
    }

    /// What was counted.
    #[must_use]
    pub fn counters(&self) -> Counters {
        self.counters
    }

    /// What is held; walks the partitions, not what is in them: a session counts as one dialog.
    #[must_use]
    pub fn holdings(&self) -> Holdings {
        let mut holdings = Holdings::default();
        for partition in self.partitions.iter().flatten() {
            holdings.partitions += 1;
            holdings.dialogs += partition.sessions.len();
            holdings.open_transactions += partition.in_progress;
        }
        holdings
    }

    /// Whether the partition is ours, and at which epoch.
    #[must_use]
    pub fn epoch(&self, id: PartitionId) -> Option<Epoch> {
        self.partitions
            .get(usize::from(id.0))?
            .as_ref()
            .map(|partition| partition.epoch)
    }

    /// The live server transactions of INVITEs, for a proxy that has just connected.
    pub fn live_transactions(&self) -> impl Iterator<Item = Announcement> + '_ {
        let partitions = self.partitions.iter().flatten();
        partitions.flat_map(|partition| partition.live_transactions())
    }

    /// Runs an actor on a partition of ours, and notes what it changed.
    fn work(&mut self, now: Instant, id: PartitionId, work: impl FnOnce(&mut Actor<'_>)) {
        let Some(partition) = self.partitions[usize::from(id.0)].as_mut() else {
            return;
        };
        let before = partition.held();
        let mut actor = Actor {
            now,
            held: self.held,
            shared: &self.shared,
            entropy: &mut self.entropy,
            queue: &mut self.queue,
            open: &mut self.open,
            counters: &mut self.counters,
            partition,
        };
        work(&mut actor);
        self.held = self.held + partition.held() - before;
        if partition.is_changed() {
            self.open.touch(id);
        }
        if partition.ripe_since.is_some() {
            self.sweep = self.sweep.min(now + turns::SWEEP);
        }
    }
}

impl Actor<'_> {
    /// Something of a session or transaction is due.
    fn due(&mut self, key: Key) {
        match key.kind {
            Kind::Server => {
                self.on_server(key.id, |machine, now, out| machine.handle_timeout(now, out));
            }
            Kind::Client => self.on_client(key.id, |machine, now, out| machine.handle_timeout(now, out)),
            Kind::Session => self.session_due(key.id),
        }
    }

    /// A timer is consumed here and its effects follow in the same turn: one write stores both.
    fn session_due(&mut self, id: u64) {
        let Some(mut session) = self.partition.sessions.remove(&id) else {
            return;
        };
        let now = self.now;
        let fired: Vec<_> = session
            .timers
            .iter()
            .filter(|(_, at)| *at <= now)
            .map(|(timer, _)| *timer)
            .collect();
        if !fired.is_empty() {
            session.timers.retain(|(_, at)| *at > now);
            session.dirty = true;
        }
        for timer in fired {
            self.counters.timers += 1;
            self.handle(&mut session, |application, session| {
                application.on_timer(session, timer)
            });
        }
        let numbers: Vec<u32> = session.dialogs.iter().map(|slot| slot.number).collect();
        for number in numbers {
            let Some(slot) = session.dialog_mut(number) else {
                continue;
            };
            let mut effects = Vec::new();
            slot.dialog.handle_timeout(now, &mut effects);
            self.dialog_effects(&mut session, number, None, effects);
            self.bye_due(&mut session, number);
        }
        self.put(session);
    }

    /// Arms what is to come; after a takeover sends again what was unanswered, and the answers that may not have left.
    fn resume(&mut self, key: Key, former: Former) {
        let again = former == Former::Down;
        match key.kind {
            Kind::Session => {
                if let Some(mut session) = self.partition.sessions.remove(&key.id) {
                    let numbers: Vec<u32> = session.dialogs.iter().map(|slot| slot.number).collect();
                    for number in numbers {
                        self.bye_due(&mut session, number);
                    }
                    self.ask_again(&session);
                    self.put(session);
                }
            }
            Kind::Client => self.on_client(key.id, |machine, now, out| {
                if again {
                    machine.resume(now, out);
                }
            }),
            Kind::Server => {
                self.on_server(key.id, |machine, now, out| {
                    if again {
                        machine.resume(now, out);
                    }
                });
                self.resume_answer(key.id);
                self.deliver_again(key.id);
            }
        }
    }

    /// A 2xx to an INVITE is the dialog's to repeat until its ACK; whether the old owner saw that is not known.
    fn resume_answer(&mut self, id: u64) {
        let Some(server) = self.partition.servers.get(&id) else {
            return;
        };
        let snapshot = server.machine.snapshot(self.now);
        let (ServerState::Accepted, Some(response)) = (snapshot.state, snapshot.response) else {
            return;
        };
        let (cseq, session, number) = (server.cseq, server.session, server.dialog);
        let Some(mut session) = session.and_then(|session| self.partition.sessions.remove(&session)) else {
            return;
        };
        if let Some(slot) = number.and_then(|number| session.dialog_mut(number)) {
            slot.dialog.resume_answer(self.now, cseq, response, snapshot.left);
        }
        self.put(session);
    }

    /// A request that the old owner had taken on without any response, and without a timer, an ask or a request of ours that leads to one, goes
    /// to the application once more: its turn was written, so this happens only for applications that answer later.
    fn deliver_again(&mut self, id: u64) {
        let Some(server) = self.partition.servers.get(&id) else {
            return;
        };
        let untouched = server.machine.last_response().is_none() && !server.machine.is_answered();
        let relayed = server.relayed;
        let (Some(message), Some(session), dialog) = (server.request.clone(), server.session, server.dialog) else {
            return;
        };
        let Some(mut session) = self.partition.sessions.remove(&session) else {
            return;
        };
        if untouched && !relayed && session.timers.is_empty() && session.asks.is_empty() {
            let request = crate::application::Request::new(
                message.as_message(),
                TransactionId(id),
                dialog.map(crate::application::DialogNumber),
            );
            self.handle_about(&mut session, About::Request(request), |application, session| {
                application.on_request(session, &request)
            });
        }
        self.put(session);
    }
}

impl Shared {
    /// `<token>-<number>`.
    fn tag(&self, partition: PartitionId, number: u64) -> Vec<u8> {
        let mut tag = self.keyring.token(partition).as_bytes().to_vec();
        entropy::append(&mut tag, number);
        tag
    }

    /// The value of our Contact: the cluster's address, and the partition.
    fn contact(&self, partition: PartitionId, tcp: bool) -> Vec<u8> {
        let transport = if tcp { ";transport=tcp" } else { "" };
        format!(
            "<sip:{};a={}{transport}>",
            self.advertised,
            self.keyring.token(partition)
        )
        .into_bytes()
    }

    /// The value of our Via.
    fn via(&self, partition: PartitionId, number: u64, tcp: bool) -> Vec<u8> {
        let transport = if tcp { "TCP" } else { "UDP" };
        let mut via = format!("SIP/2.0/{transport} {};branch=", self.advertised).into_bytes();
        via.extend_from_slice(&client::branch(self.keyring.token(partition).as_bytes(), number));
        via
    }
}

/// Kept so that the type stands where effects are made.
type Scratch = Vec<Effect>;

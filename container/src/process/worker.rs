//! A worker thread: an engine, the SIP connections that were accepted here, and a Redis connection of its own.
//!
//! Readers feed the engine as they read; the loop ends the turn once nothing more is at hand, so a turn takes all that came while the
//! writes of the last one were under way: one pipeline per turn, one turn on its way at a time. Whoever feeds it pauses after [`STINT`]: where
//! more comes than can be handled, something is always at hand.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::net::SocketAddr;
use std::pin::Pin;
use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use crate::application::Outside;
use crate::engine::{Announcement, Asking, Confirm, ConnectionId, Engine, Input, Leaving, Write, WriteOutcome};
use crate::store::{Lost, Store};
use bytes::Bytes;
use hashbrown::HashMap;
use sip::{Instant, OwnedMessage};
use tokio::sync::Notify;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tracing::{debug, warn};
use transport::places::{Place, Places};
use transport::tcp::Listener;
use transport::ucf_link::MAX_GREETING;
use ucf::member::Notice;
use ucf::token::Keyring;
use ucf::{Incarnation, PartitionId, ProxyId};

use super::asker::Asker;
use super::config::MAX_WORKERS;
use super::mail::{Directory, ToControl, ToWorker, Workers, worker_of};
use super::sip_link::{self, SipLink};
use super::stats::Stats;

/// How long what is done with may wait before a proxy hears of it.
const CONFIRM_AFTER: Duration = Duration::from_millis(5);

/// Pause between attempts to write while the store is lost.
const RETRY_AFTER: Duration = Duration::from_millis(50);

/// How often flows are looked for that are to be kept open.
const FLOWS_EVERY: Duration = Duration::from_millis(100);

/// Mail taken at once, so that connections get their turn.
const MAIL_BATCH: usize = 64;

/// For how long a connection, or the mail of other workers, hands inputs to the engine on end before a turn may end. So long does an answer wait for
/// what is read behind it, of each of them: long beside a turn's own cost, short beside the delay at which new dialogs are held back (60 ms).
pub const STINT: Duration = Duration::from_millis(5);

/// What a worker is made of.
pub struct Parts {
    pub index: usize,
    pub engine: Engine,
    /// What carries out the asks of the application, if it has any.
    pub outside: Option<Box<dyn Outside>>,
    pub keyring: Arc<Keyring>,
    pub store: Store,
    pub member: Incarnation,
    pub mailbox: UnboundedReceiver<ToWorker>,
    pub workers: Workers,
    pub control: UnboundedSender<ToControl>,
    pub stats: Arc<Stats>,
    pub start: std::time::Instant,
}

/// What the tasks of the thread share.
pub struct Worker {
    pub index: usize,
    pub keyring: Arc<Keyring>,
    pub workers: Workers,
    core: RefCell<Core>,
    wake: Notify,
    start: std::time::Instant,
    control: UnboundedSender<ToControl>,
    connections: Cell<u64>,
    /// The store has not carried out a turn's writes, and none since.
    failing: Cell<bool>,
}

struct Core {
    engine: Engine,
    asker: Option<Asker>,
    links: HashMap<ConnectionId, Rc<SipLink>>,
    directory: Arc<Directory>,
    stats: Arc<Stats>,
    confirm_at: Option<Instant>,
    flows_at: Instant,
    publish_at: Option<Instant>,
    salt: u64,
}

/// A turn's writes on their way: the store comes back with what came of them.
type Writing = Pin<Box<dyn Future<Output = Written>>>;

struct Written {
    store: Store,
    batch: Batch,
    result: Result<Vec<WriteOutcome>, Lost>,
}

/// The writes of a turn.
struct Batch {
    turn: u64,
    /// When the turn ended.
    ended: Instant,
    writes: Vec<Write>,
    /// Place of each among the turn's writes, and how many these were: those of dropped partitions are left out of a second attempt.
    places: Vec<usize>,
    count: usize,
    /// The store has not answered a former attempt; the next one is then.
    again_at: Option<Instant>,
}

impl Worker {
    /// The worker of a partition.
    pub fn of_partition(&self, partition: PartitionId) -> usize {
        usize::from(partition.0) % self.workers.len()
    }

    /// A message of a connection here for a partition here.
    pub fn handle_sip(&self, input: Input, proxy: ProxyId, message: OwnedMessage) {
        let now = self.now();
        let mut core = self.core.borrow_mut();
        core.stats.input_waits(now);
        core.engine.handle_sip(now, input, proxy, message);
        self.wake.notify_one();
    }

    /// Sends mail to another worker. One that has ended gets none.
    pub fn mail(&self, worker: usize, mail: ToWorker) {
        let _ = self.workers[worker].send(mail);
    }

    /// A datagram of whoever asks are sent to, or of anybody.
    pub fn handle_datagram(&self, from: SocketAddr, datagram: &[u8]) {
        let now = self.now();
        if let Some(asker) = &mut self.core.borrow_mut().asker {
            asker.handle_datagram(now, from, datagram);
            self.wake.notify_one();
        }
    }

    fn tell(&self, what: ToControl) {
        let _ = self.control.send(what);
    }

    /// The process's time.
    pub fn now(&self) -> Instant {
        super::since(self.start)
    }
}

/// Runs until told to stop.
pub async fn run(parts: Parts, listener: Listener) {
    let Parts {
        index,
        engine,
        outside,
        keyring,
        store,
        member,
        mut mailbox,
        workers,
        control,
        stats,
        start,
    } = parts;
    let core = Core {
        engine,
        asker: outside.map(Asker::new),
        links: HashMap::new(),
        directory: Arc::default(),
        stats,
        confirm_at: None,
        flows_at: Instant::default(),
        publish_at: None,
        salt: index as u64,
    };
    let worker = Rc::new(Worker {
        index,
        keyring,
        workers,
        core: RefCell::new(core),
        wake: Notify::new(),
        start,
        control,
        connections: Cell::new(0),
        failing: Cell::new(false),
    });
    tokio::task::spawn_local(accept(worker.clone(), listener));
    let mut resting = Some(store);
    let mut writing: Option<Writing> = None;
    let mut unwritten: Option<Batch> = None;
    let mut received = Vec::with_capacity(MAIL_BATCH);
    let mut mail = VecDeque::with_capacity(MAIL_BATCH);
    let sleep = tokio::time::sleep(Duration::ZERO);
    tokio::pin!(sleep);
    loop {
        let again_at = unwritten
            .as_ref()
            .and_then(|batch| batch.again_at)
            .unwrap_or(Instant::MAX);
        let deadline = worker.core.borrow().poll_timeout().min(again_at);
        let until = worker.start + Duration::from_micros(deadline.as_micros().min(1 << 50));
        if sleep.deadline().into_std() != until {
            sleep.as_mut().reset(until.into());
        }
        let mut woken = true;
        tokio::select! {
            biased;
            written = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                writing = None;
                unwritten = worker.written(written.batch, written.result, &written.store);
                resting = Some(written.store);
            }
            count = mailbox.recv_many(&mut received, MAIL_BATCH), if mail.is_empty() => {
                if count == 0 {
                    return;
                }
                mail.extend(received.drain(..));
            }
            // Connections, and the store, have their turn before the rest of it.
            () = tokio::task::yield_now(), if !mail.is_empty() => {}
            () = worker.wake.notified() => {}
            () = &mut sleep => woken = false,
        }
        if worker.read_mail(&mut mail) {
            return;
        }
        let now = worker.now();
        let mut core = worker.core.borrow_mut();
        core.engine.handle_timeout(now);
        core.ask(&worker, now, Vec::new());
        core.announce(&worker);
        if core.engine.acts_from_memory() {
            // Whatever is written meanwhile: turns wait for nothing.
            let written = core.end_turn(now);
            debug_assert!(written.is_none(), "from memory nothing is written");
        }
        core.keep_open(&worker, now);
        if let Some(store) = resting.take() {
            let again = unwritten
                .take()
                .and_then(|batch| core.try_again(batch, now, &mut unwritten));
            if again.is_none() && unwritten.is_none() {
                worker.writes_again();
            }
            let batch = match again {
                None if unwritten.is_none() => core.end_turn(now),
                again => again,
            };
            match batch {
                Some(batch) => writing = Some(Box::pin(write(store, member, batch))),
                None => resting = Some(store),
            }
        }
        core.release(&worker, now);
        let changed = writing.is_some() || woken;
        core.publish(now, changed);
    }
}

impl Core {
    fn poll_timeout(&self) -> Instant {
        let engine = self.engine.poll_timeout().unwrap_or(Instant::MAX);
        let own = [self.confirm_at, self.publish_at];
        let asker = self.asker.as_ref().map_or(Instant::MAX, Asker::poll_timeout);
        let first = engine.min(self.flows_at).min(asker);
        own.into_iter().flatten().fold(first, Instant::min)
    }

    /// Tells all proxies of new transactions before their outputs leave, even while a write is stuck: if the proxy that sent one dies
    /// meanwhile, its request may come again by another.
    fn announce(&mut self, worker: &Worker) {
        let announcements = self.engine.take_announcements();
        if !announcements.is_empty() {
            worker.tell(ToControl::Announce {
                to: None,
                announcements,
            });
        }
    }

    /// Has proxies ping the flows that a NAT would forget.
    fn keep_open(&mut self, worker: &Worker, now: Instant) {
        if self.flows_at <= now {
            self.flows_at = now + FLOWS_EVERY;
            let flows = self.engine.take_due_flows(now);
            if !flows.is_empty() {
                worker.tell(ToControl::KeepOpen(flows));
            }
        }
    }

    /// Ends the open turn; gives its writes. Turns without any are over at once.
    fn end_turn(&mut self, now: Instant) -> Option<Batch> {
        loop {
            let batch = self.end_one(now)?;
            if batch.count > 0 {
                return Some(batch);
            }
        }
    }

    fn end_one(&mut self, now: Instant) -> Option<Batch> {
        let Some(turn) = self.engine.end_turn(now) else {
            self.stats.nothing_waits();
            return None;
        };
        self.stats.turn_ended(now);
        let count = turn.writes.len();
        Some(Batch {
            turn: turn.number,
            ended: now,
            writes: turn.writes,
            places: (0..count).collect(),
            count,
            again_at: None,
        })
    }

    /// The writes that the store has not answered, when it is time. Those of partitions that were dropped meanwhile are not sent again:
    /// a store that forgot would take them for the owner's.
    fn try_again(&mut self, mut batch: Batch, now: Instant, wait: &mut Option<Batch>) -> Option<Batch> {
        if batch.again_at.is_some_and(|at| at > now) {
            *wait = Some(batch);
            return None;
        }
        let engine = &mut self.engine;
        let ours = |write: &Write| engine.epoch(write.partition) == Some(write.epoch);
        let kept = std::mem::take(&mut batch.writes)
            .into_iter()
            .zip(std::mem::take(&mut batch.places));
        (batch.writes, batch.places) = kept.filter(|(write, _)| ours(write)).unzip();
        if batch.writes.is_empty() {
            engine.handle_written(batch.turn, &[]);
            return None;
        }
        Some(batch)
    }

    /// Sends what written turns release, and tells what came of inputs.
    fn release(&mut self, worker: &Rc<Worker>, now: Instant) {
        let released = self.engine.take_released(now, self.directory.proxies());
        self.send(worker, released.outputs);
        self.confirm(worker, released.confirms);
        self.ask(worker, now, released.asks);
        self.tell_proxies(worker, now);
        while let Some(notice) = self.engine.poll_notice() {
            worker.tell(ToControl::Notice {
                worker: worker.index,
                notice,
            });
        }
    }

    /// Asks, and hands in what came of asks: in time for the turn at hand, or for one that follows at once.
    fn ask(&mut self, worker: &Rc<Worker>, now: Instant, asks: Vec<Asking>) {
        let asked = asks.len();
        let answers = match &mut self.asker {
            Some(asker) => asker.drive(worker, now, asks),
            None => asks.into_iter().map(|asking| (asking.id, None)).collect(),
        };
        if let Some(asker) = &self.asker {
            let answered = answers.iter().filter(|(_, answer)| answer.is_some()).count();
            let given_up = answers.len() - answered;
            self.stats.asks.count(asked, answered, given_up, asker.repeated());
        }
        for (id, answer) in answers {
            self.engine.handle_answer(now, id, answer);
            worker.wake.notify_one();
        }
    }

    fn send(&mut self, worker: &Worker, outputs: Vec<Leaving>) {
        if outputs.is_empty() {
            return;
        }
        let mut others: Vec<Vec<(ConnectionId, Bytes)>> = Vec::new();
        let mut touched: Vec<ConnectionId> = Vec::new();
        for Leaving { output, .. } in outputs {
            self.salt = self.salt.wrapping_add(1);
            let Some(connection) = self.directory.find(output.proxy, self.salt) else {
                self.stats.unsent.count(&output.bytes);
                continue;
            };
            let target = worker_of(connection);
            if target == worker.index {
                self.push(connection, &output.bytes, &mut touched);
            } else {
                if others.is_empty() {
                    others.resize_with(worker.workers.len(), Vec::new);
                }
                others[target].push((connection, output.bytes));
            }
        }
        self.flush(&touched);
        for (target, outputs) in others
            .into_iter()
            .enumerate()
            .filter(|(_, outputs)| !outputs.is_empty())
        {
            worker.mail(target, ToWorker::Outputs(outputs));
        }
    }

    fn push(&self, connection: ConnectionId, bytes: &[u8], touched: &mut Vec<ConnectionId>) {
        match self.links.get(&connection) {
            Some(link) => {
                if link.push(bytes) {
                    self.stats.sent.count(bytes);
                } else {
                    self.stats.unsent.count(bytes);
                }
                if !touched.contains(&connection) {
                    touched.push(connection);
                }
            }
            None => self.stats.unsent.count(bytes),
        }
    }

    fn flush(&self, touched: &[ConnectionId]) {
        for connection in touched {
            if let Some(link) = self.links.get(connection) {
                link.flush();
            }
        }
    }

    fn confirm(&mut self, worker: &Worker, confirms: Vec<Confirm>) {
        let mut others: Vec<Vec<Confirm>> = Vec::new();
        for confirm in confirms {
            let connection = confirm.input.connection;
            let target = worker_of(connection);
            if target == worker.index {
                if let Some(link) = self.links.get(&connection) {
                    link.note(confirm.input.number, confirm.fate);
                }
            } else {
                if others.is_empty() {
                    others.resize_with(worker.workers.len(), Vec::new);
                }
                others[target].push(confirm);
            }
        }
        for (target, confirms) in others
            .into_iter()
            .enumerate()
            .filter(|(_, confirms)| !confirms.is_empty())
        {
            worker.mail(target, ToWorker::Confirms(confirms));
        }
    }

    /// Tells proxies what they need not keep any more: at once what is returned, the rest together.
    fn tell_proxies(&mut self, worker: &Worker, now: Instant) {
        let all = self.confirm_at.is_some_and(|at| at <= now);
        let mut news = false;
        for link in self.links.values() {
            if let (Some(proxy), Some(confirm)) = (link.proxy.get(), link.confirm(!all)) {
                worker.tell(ToControl::Confirm { proxy, confirm });
            }
            news |= link.has_news();
        }
        self.confirm_at = match (news, self.confirm_at.filter(|_| !all)) {
            (true, None) => Some(now + CONFIRM_AFTER),
            (true, at) => at,
            (false, _) => None,
        };
    }

    /// Shows what is held. After a turn something may have changed; what is too soon to show is shown a little later.
    fn publish(&mut self, now: Instant, changed: bool) {
        if changed || self.publish_at.is_some_and(|at| at <= now) {
            self.publish_at = self.stats.publish(now, &self.engine);
        }
    }
}

impl Worker {
    /// What came of a turn's writes; gives them back if they have to be sent again, which their running numbers make harmless.
    fn written(&self, mut batch: Batch, result: Result<Vec<WriteOutcome>, Lost>, store: &Store) -> Option<Batch> {
        match result {
            Ok(outcomes) => {
                // What became of a dropped partition is nothing to the engine any more.
                let mut all = vec![WriteOutcome::Written; batch.count];
                for (place, outcome) in batch.places.iter().zip(outcomes) {
                    all[*place] = outcome;
                }
                let mut core = self.core.borrow_mut();
                core.stats.replication.observe(self.now().since(batch.ended));
                core.engine.handle_written(batch.turn, &all);
                None
            }
            Err(Lost(error)) => {
                if !self.failing.replace(true) {
                    warn!(%error, redis = %store.address(), "the store does not answer");
                    let notice = Notice::StoreSilent;
                    self.tell(ToControl::Notice {
                        worker: self.index,
                        notice,
                    });
                }
                batch.again_at = Some(self.now() + RETRY_AFTER);
                Some(batch)
            }
        }
    }

    /// No write waits to be carried out any more.
    fn writes_again(&self) {
        if self.failing.replace(false) {
            let notice = Notice::StoreWrites;
            self.tell(ToControl::Notice {
                worker: self.index,
                notice,
            });
        }
    }

    /// Deals with mail, for a stint; `true` is the end.
    fn read_mail(self: &Rc<Self>, mail: &mut VecDeque<ToWorker>) -> bool {
        let now = self.now();
        let mut core = self.core.borrow_mut();
        while let Some(next) = mail.pop_front() {
            match next {
                ToWorker::Messages(messages) => {
                    core.stats.input_waits(now);
                    let mut messages = messages.into_iter();
                    while let Some((input, proxy, message)) = messages.next() {
                        core.engine.handle_sip(now, input, proxy, message);
                        if self.now().since(now) >= STINT {
                            mail.push_front(ToWorker::Messages(messages.collect()));
                            return false;
                        }
                    }
                }
                ToWorker::Outputs(outputs) => {
                    let mut touched = Vec::new();
                    for (connection, bytes) in outputs {
                        core.push(connection, &bytes, &mut touched);
                    }
                    core.flush(&touched);
                }
                ToWorker::Confirms(confirms) => core.confirm(self, confirms),
                ToWorker::Tied { connection, proxy } => {
                    if let Some(link) = core.links.get(&connection) {
                        link.tie(proxy);
                    }
                }
                ToWorker::Untied { connection } => {
                    if let Some(link) = core.links.get(&connection) {
                        link.end();
                    }
                }
                ToWorker::Directory(directory) => core.directory = directory,
                ToWorker::Clock { at, millis } => core.engine.set_store_clock(at, millis),
                ToWorker::Activate {
                    partition,
                    epoch,
                    records,
                    handed_over,
                } => match handed_over {
                    true => core.engine.receive(now, partition, epoch, records),
                    false => core.engine.activate(now, partition, epoch, records),
                },
                ToWorker::Freeze(partition) => core.engine.freeze(partition),
                ToWorker::Thaw(partition) => core.engine.thaw(now, partition),
                ToWorker::Drop(partition) => core.engine.drop_partition(partition),
                ToWorker::Gate(gate) => core.engine.set_gate(gate),
                ToWorker::Reconcile { round, partitions } => core.engine.reconcile(round, &partitions),
                ToWorker::Live(proxy) => {
                    let announcements: Vec<Announcement> = core.engine.live_transactions().collect();
                    self.tell(ToControl::Announce {
                        to: Some(proxy),
                        announcements,
                    });
                }
                // Who asked may have gone.
                ToWorker::Digests(to) => _ = to.send(core.engine.digests(now)),
                ToWorker::Stop => return true,
            }
        }
        false
    }
}

/// Writes a turn.
async fn write(mut store: Store, member: Incarnation, batch: Batch) -> Written {
    let result = store.write(member, &batch.writes).await;
    Written { store, batch, result }
}

/// Accepts SIP connections for good.
async fn accept(worker: Rc<Worker>, listener: Listener) {
    let places = Places::new(MAX_GREETING);
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let place = places.take(connection.peer_addr());
                worker.connections.set(worker.connections.get() + 1);
                let id = ConnectionId(worker.connections.get() * u64::from(MAX_WORKERS) + worker.index as u64);
                let peer = connection.peer_addr();
                let link = Rc::new(SipLink::new(id, connection));
                worker.core.borrow_mut().links.insert(id, link.clone());
                worker.tell(ToControl::Accepted { connection: id, peer });
                tokio::task::spawn_local(serve(worker.clone(), link, place));
            }
            Err(error) => {
                debug!(%error, "accepting");
                // Out of descriptors, most likely: others have to end first.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

async fn serve(worker: Rc<Worker>, link: Rc<SipLink>, place: Place) {
    if let Err(error) = sip_link::read(worker.clone(), link.clone(), place).await {
        debug!(%error, "SIP connection of a proxy");
    }
    link.end();
    worker.core.borrow_mut().links.remove(&link.id);
    worker.tell(ToControl::Ended { connection: link.id });
}

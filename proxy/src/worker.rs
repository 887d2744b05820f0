//! One worker: a thread with its own sockets, connections and [`Forwarder`], sharing nothing with the others but mailboxes.
//!
//! Tasks on the worker's single-threaded runtime wait, each for one socket. Whoever wakes feeds a bounded batch to the forwarder and
//! asks for a flush; the flush task runs after all that were woken with it, so one wake-up of the thread is one turn: many messages
//! in, one write per destination out.

use std::cell::{Cell, RefCell};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use proxy::forward::{Config as ForwarderConfig, Effect, Effects, Forwarder};
use sip::Instant;
use tokio::sync::{Notify, watch};
use tracing::warn;
use transport::tcp::{Connection, Listener};
use transport::ucf_link::{self, VERSION};
use transport::udp::{ReceiveBatch, SendBatch, UdpSocket};
use transport::{Fault, InBuffer};
use ucf::ProxyId;
use ucf::flow::{Flow, Transport};
use ucf::greeting::End;
use ucf::wire::Hello;

use crate::clients::Clients;
use crate::config::Binding;
use crate::endpoints::Endpoint;
use crate::links::{self, Links};
use crate::mailbox::{Inbox, Mail, Outboxes};
use crate::snapshot::{DriverCounters, Snapshot};

/// How often timers are looked at. Heartbeats are every 100 ms and nothing else is finer, so no timer is armed per message.
const TICK: Duration = Duration::from_millis(10);

/// How often what the worker counts is published.
const PUBLISH_EVERY: u32 = 20;

/// At the end: how long to go on reading what had arrived, and how long containers may take to confirm it.
const HEARD_OUT: Duration = Duration::from_millis(50);
const CONFIRMED_WITHIN: Duration = Duration::from_secs(1);

/// How long they may take to end their side of a link after that.
const FAREWELL: Duration = Duration::from_millis(500);

/// How often client connections that are idle are looked for: every 30 s.
const SWEEP_EVERY: u32 = 3000;

/// What a worker is made of.
pub struct Parts {
    pub forwarder: ForwarderConfig,
    pub name: String,
    pub bindings: Vec<Binding>,
    /// Where other proxies link.
    pub ucf: Option<SocketAddr>,
    pub inbox: Inbox,
    pub outboxes: Outboxes,
    pub endpoints: watch::Receiver<Vec<Endpoint>>,
    pub snapshot: Arc<Mutex<Snapshot>>,
    /// The common start of all clocks of the process.
    pub epoch: std::time::Instant,
}

/// The sockets of a worker, bound.
pub struct Sockets {
    /// One place per listener.
    udp: Vec<Option<UdpSocket>>,
    tcp: Vec<Option<Listener>>,
    ucf: Option<Listener>,
}

/// What the tasks of a worker share. One thread: cells, no locks.
pub struct Worker {
    pub core: RefCell<Core>,
    pub name: String,
    me: ProxyId,
    udp: Vec<Option<UdpSocket>>,
    epoch: std::time::Instant,
    flush: Notify,
    flush_wanted: Cell<bool>,
}

/// The state of a worker.
pub struct Core {
    pub forwarder: Forwarder,
    pub effects: Effects,
    pub clients: Clients,
    pub links: Links,
    pub counters: DriverCounters,
    outboxes: Outboxes,
    /// By listener.
    datagrams: Vec<Datagrams>,
    /// Swapped with `effects` while they are performed.
    performing: Effects,
}

/// What waits to leave through one listener's socket.
#[derive(Default)]
struct Datagrams {
    batch: SendBatch,
    /// A task waits until the kernel takes more.
    blocked: bool,
}

impl Sockets {
    /// Binds everything of one worker, on its runtime.
    pub fn bind(bindings: &[Binding], ucf: Option<SocketAddr>) -> transport::Result<Self> {
        let mut sockets = Self {
            udp: Vec::new(),
            tcp: Vec::new(),
            ucf: ucf.map(|address| Listener::bind(address, true)).transpose()?,
        };
        for binding in bindings {
            let udp = binding
                .udp
                .then(|| UdpSocket::bind(binding.address, transport::udp::Options::default()));
            let tcp = binding.tcp.then(|| Listener::bind(binding.address, true));
            sockets.udp.push(udp.transpose()?);
            sockets.tcp.push(tcp.transpose()?);
        }
        Ok(sockets)
    }
}

/// Runs a worker until `stop` says that the time to drain is over.
pub async fn run(parts: Parts, sockets: Sockets, mut stop: watch::Receiver<Phase>) {
    let listeners = sockets.udp.len();
    let worker = Rc::new(Worker {
        me: parts.forwarder.me,
        core: RefCell::new(Core {
            forwarder: Forwarder::new(parts.forwarder),
            effects: Effects::default(),
            clients: Clients::default(),
            links: Links::default(),
            counters: DriverCounters::default(),
            outboxes: parts.outboxes,
            datagrams: (0..listeners).map(|_| Datagrams::default()).collect(),
            performing: Effects::default(),
        }),
        name: parts.name,
        udp: sockets.udp,
        epoch: parts.epoch,
        flush: Notify::new(),
        flush_wanted: Cell::new(false),
    });
    for listener in (0..listeners).filter(|listener| worker.udp[*listener].is_some()) {
        tokio::task::spawn_local(receive(worker.clone(), listener));
    }
    let mut accepting = Vec::new();
    for (listener, tcp) in sockets.tcp.into_iter().enumerate() {
        if let Some(tcp) = tcp {
            accepting.push(tokio::task::spawn_local(crate::clients::accept(
                worker.clone(),
                listener as u8,
                tcp,
            )));
        }
    }
    if let Some(ucf) = sockets.ucf {
        accepting.push(tokio::task::spawn_local(crate::peers::accept(worker.clone(), ucf)));
    }
    tokio::task::spawn_local(deliver(worker.clone(), parts.inbox));
    tokio::task::spawn_local(flush(worker.clone()));
    tokio::task::spawn_local(tick(worker.clone(), parts.snapshot));
    let linking = tokio::task::spawn_local(links::keep_all(worker.clone(), parts.endpoints));

    let _ = stop.wait_for(|phase| *phase >= Phase::Draining).await;
    accepting.iter().for_each(tokio::task::JoinHandle::abort);
    let drained = async {
        let mut clock = tokio::time::interval(TICK);
        loop {
            clock.tick().await;
            worker.core.borrow_mut().clients.close_resting(worker.now());
        }
    };
    tokio::select! {
        () = drained => {}
        _ = stop.wait_for(|phase| *phase >= Phase::Leaving) => {}
    }
    linking.abort();
    worker.leave().await;
}

/// Where the process stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Serving,
    /// No new connections, and those at rest are closed; all else goes on.
    Draining,
    /// Nothing more is taken; what was taken is brought to its end.
    Leaving,
}

async fn receive(worker: Rc<Worker>, listener: usize) {
    let socket = worker.udp[listener]
        .as_ref()
        .expect("only listeners with UDP are received on");
    let mut batch = ReceiveBatch::new();
    loop {
        if let Err(error) = socket.receive(&mut batch).await {
            // Nothing that a datagram can cause ends here; a socket in this state is polled slowly, not given up.
            warn!(%error, "receiving");
            tokio::time::sleep(TICK).await;
            continue;
        }
        worker.feed(|core, now| {
            core.counters.datagrams_in += batch.len() as u64;
            core.counters.receives += 1;
            for (remote, bytes) in batch.iter() {
                let source = Flow {
                    transport: Transport::Udp,
                    listener: listener as u8,
                    remote,
                    translated: false,
                    held: None,
                };
                core.forwarder.handle_client(now, &source, bytes, &mut core.effects);
            }
        });
        if batch.is_full() {
            // More is waiting: let the flush and the other sockets have their turn first.
            tokio::task::yield_now().await;
        }
    }
}

async fn deliver(worker: Rc<Worker>, mut inbox: Inbox) {
    while let Some(parcel) = inbox.recv().await {
        worker.feed(|core, now| {
            for (mail, flow, message) in parcel.iter() {
                match mail {
                    Mail::Pass => core.forwarder.handle_passed(now, flow, message, &mut core.effects),
                    Mail::Send => core.clients.send(&worker, flow, message),
                }
            }
            core.outboxes.recycle(parcel);
        });
    }
}

async fn tick(worker: Rc<Worker>, snapshot: Arc<Mutex<Snapshot>>) {
    let mut clock = tokio::time::interval(TICK);
    clock.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    for round in 0u32.. {
        clock.tick().await;
        let due = {
            let core = worker.core.borrow();
            core.forwarder.poll_timeout() <= worker.now() || !core.outboxes.is_empty()
        };
        if due {
            worker.feed(|core, now| {
                if core.forwarder.poll_timeout() <= now {
                    core.forwarder.handle_timeout(now, &mut core.effects);
                }
            });
        }
        if round % SWEEP_EVERY == 0 {
            worker.core.borrow_mut().clients.close_idle(worker.now());
        }
        if round % PUBLISH_EVERY == 0 {
            let core = worker.core.borrow();
            snapshot
                .lock()
                .expect("nobody panics with the snapshot in hand")
                .take(&core);
        }
    }
}

async fn flush(worker: Rc<Worker>) {
    loop {
        worker.flush.notified().await;
        worker.flush_now();
    }
}

/// Goes on sending datagrams when the kernel takes them again.
async fn resume(worker: Rc<Worker>, listener: usize) {
    if let Some(socket) = &worker.udp[listener] {
        let _ = socket.writable().await;
        worker.core.borrow_mut().datagrams[listener].blocked = false;
        worker.want_flush();
    }
}

impl Worker {
    /// Which worker this is.
    pub fn me(&self) -> ProxyId {
        self.me
    }

    /// Says hello on a link and hears the other side's. Strangers are counted, and told of now and then: anybody may knock.
    pub async fn greet(
        &self,
        ucf: &Connection,
        frames: &mut InBuffer,
        end: End,
        sip: String,
    ) -> transport::Result<Hello> {
        let keyring = self.core.borrow().forwarder.config().keyring.clone();
        let greeted = ucf_link::hello(ucf, frames, &keyring, end, self.hello(sip)).await;
        if let Err(error) = &greeted
            && error.fault() == Fault::Stranger
        {
            let strangers = &mut self.core.borrow_mut().counters.strangers;
            *strangers += 1;
            if strangers.is_power_of_two() {
                warn!(%error, refused = *strangers, "link refused");
            }
        }
        greeted
    }

    /// What it says of itself; `sip` is the local address of the SIP connection beside the link, or to a proxy its own address.
    fn hello(&self, sip: String) -> Hello {
        Hello {
            version: VERSION,
            cluster: self.core.borrow().forwarder.config().cluster.clone(),
            name: self.name.clone(),
            incarnation: self.me.incarnation,
            worker: Some(self.me.worker.into()),
            sip,
            ..Hello::default()
        }
    }

    /// The present time of the process.
    pub fn now(&self) -> Instant {
        Instant::from_micros(self.epoch.elapsed().as_micros() as u64)
    }

    /// Lets `work` act on the state, and sees to it that what comes of it leaves at the end of this turn.
    pub fn feed<T>(&self, work: impl FnOnce(&mut Core, Instant) -> T) -> T {
        let done = work(&mut self.core.borrow_mut(), self.now());
        self.want_flush();
        done
    }

    /// Asks for a flush at the end of this turn.
    pub fn want_flush(&self) {
        if !self.flush_wanted.replace(true) {
            self.flush.notify_one();
        }
    }

    /// The end: takes nothing more, sees to it that containers have confirmed all that was taken, and lets out what they answered.
    async fn leave(self: &Rc<Self>) {
        for socket in self.udp.iter().flatten() {
            if let Err(error) = socket.leave_group() {
                warn!(%error, "what arrives until the end is lost");
            }
        }
        self.core.borrow_mut().clients.close_every();
        // Tasks go on meanwhile: they read what had arrived, and what other workers pass on.
        let confirmed =
            |core: &Core| core.outboxes.is_empty() && core.forwarder.containers().all(|c| c.unconfirmed == 0);
        self.until(HEARD_OUT, CONFIRMED_WITHIN, confirmed).await;
        self.core.borrow().links.say_farewell();
        self.until(Duration::ZERO, FAREWELL, |core| core.links.is_empty()).await;
        self.flush_now();
    }

    /// Waits until it is so, at least and at most so long.
    async fn until(&self, least: Duration, most: Duration, condition: impl Fn(&Core) -> bool) {
        let begun = self.epoch.elapsed();
        let mut clock = tokio::time::interval(TICK);
        loop {
            clock.tick().await;
            let waited = self.epoch.elapsed().saturating_sub(begun);
            if waited >= most || waited >= least && condition(&self.core.borrow()) {
                return;
            }
        }
    }

    fn flush_now(self: &Rc<Self>) {
        self.flush_wanted.set(false);
        let mut core = self.core.borrow_mut();
        let core = &mut *core;
        core.perform(self);
        core.send_datagrams(self);
        core.clients.flush(self, &mut core.counters);
        core.links.flush(self, &mut core.forwarder, &mut core.counters);
        core.counters.mail_dropped += core.outboxes.flush();
        // A connection that failed has been closed meanwhile, which may have moved messages to another.
        if !core.effects.is_empty() || core.links.has_failed() {
            self.want_flush();
        }
    }
}

impl Core {
    /// Performs what the forwarder asks for, in order, until it asks for nothing more.
    fn perform(&mut self, worker: &Rc<Worker>) {
        let now = worker.now();
        self.reap(now);
        while !self.effects.is_empty() {
            std::mem::swap(&mut self.effects, &mut self.performing);
            for effect in self.performing.list() {
                match effect {
                    Effect::Client { to, message } => {
                        let message = self.performing.message(*message);
                        match (to.transport, self.datagrams.get_mut(usize::from(to.listener))) {
                            (Transport::Udp, Some(datagrams)) => datagrams.batch.push(to.remote, message),
                            (Transport::Udp, None) => self.counters.datagrams_dropped += 1,
                            (Transport::Tcp, _) => self.clients.send(worker, to, message),
                        }
                    }
                    Effect::Worker { worker, to, message } => {
                        let message = self.performing.message(*message);
                        self.counters.mail_dropped += self.outboxes.put(*worker, Mail::Send, to, message);
                    }
                    Effect::Pass {
                        worker,
                        source,
                        message,
                    } => {
                        let message = self.performing.message(*message);
                        self.counters.passed += 1;
                        self.counters.mail_dropped += self.outboxes.put(*worker, Mail::Pass, source, message);
                    }
                    Effect::Frame { link, body } => self.links.push_frame(*link, body.clone()),
                    Effect::Close { link, reason } => {
                        self.links.give_up(*link, reason);
                    }
                }
            }
            self.performing.clear();
            self.reap(now);
        }
    }

    /// Takes failed links down; that a container is gone is said at once, not with the next tick.
    fn reap(&mut self, now: Instant) {
        self.links.reap(&mut self.forwarder, now, &mut self.effects);
        if self.forwarder.poll_timeout() <= now {
            self.forwarder.handle_timeout(now, &mut self.effects);
        }
    }

    fn send_datagrams(&mut self, worker: &Rc<Worker>) {
        for (listener, Datagrams { batch, blocked }) in self.datagrams.iter_mut().enumerate() {
            if batch.is_empty() {
                continue;
            }
            let waiting = batch.len();
            match &worker.udp[listener] {
                Some(_) if *blocked => {}
                Some(socket) => {
                    if !socket.try_send(batch) {
                        *blocked = true;
                        tokio::task::spawn_local(resume(worker.clone(), listener));
                    }
                }
                None => batch.discard(),
            }
            let dropped = batch.take_dropped();
            self.counters.datagrams_dropped += dropped;
            self.counters.datagrams_out += ((waiting - batch.len()) as u64).saturating_sub(dropped);
        }
    }
}

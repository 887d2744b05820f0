//! The path of a message through one proxy worker, sans-IO.
//!
//! # The driver's contract
//!
//! The driver owns the sockets and the clock. It connects to every container it is told of and, when both connections stand
//! and `Hello` has been exchanged, calls [`Forwarder::link_up`]; the [`LinkId`] names the pair from then on. It feeds one whole
//! SIP message or one frame at a time with `handle_*`, then
//! - performs [`Effects`] in order and clears them (a batch of inputs may share one `Effects`),
//! - writes what [`Forwarder::outgoing`] shows for each link to its SIP connection and says so with [`Forwarder::wrote`]
//!   (the bytes stay in the link's window until the container confirms them; there is no second copy),
//! - calls [`Forwarder::handle_timeout`] at [`Forwarder::poll_timeout`].

mod ahead;
mod config;
mod containers;
mod counters;
mod deliver;
mod early;
mod effects;
mod island;
mod keep_open;
mod own;
mod path;
mod peers;
mod refusal;
mod relay;
mod request;

pub use config::{Config, Limits, Listener};
pub use counters::{Counters, DropReason, Kind, Outcome};
pub use effects::{Effect, Effects, LinkId, Span};

use std::io::IoSlice;
use std::net::SocketAddr;
use std::time::Duration;

use sip::{Edit, Index, Instant, Message, OverloadControl, ScanError};
use transport::legs::{EDGE, INNER};
use ucf::flow::Flow;
use ucf::hold::Hold;
use ucf::load::Balancer;
use ucf::routing::{RoutingTable, Slot};
use ucf::transactions::TransactionTable;
use ucf::window::Window;
use ucf::wire::{Body, Heartbeat, Hello, MemberState};
use ucf::{Incarnation, PartitionId};

use ahead::Ahead;
use containers::Containers;
use deliver::Unaccounted;
use early::Early;
use island::Island;
use own::Own;
use path::Arrival;
use peers::Peers;
use refusal::Refusal;

/// How often containers hear of us.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// A heartbeat of ours that is late by this has not waited for its turn: the process did not run. Well below the silence after which anybody
/// counts as gone.
const PAUSE: Duration = Duration::from_millis(300);

/// How long an upstream holds back what it was told to, unless it is told again (RFC 7339 s4.3 has this for whoever says nothing).
const TOLD: Duration = Duration::from_millis(500);

/// One worker of a proxy.
pub struct Forwarder {
    core: Core,
    /// Reused for every message.
    index: Index,
    edit: Edit,
}

/// What the path of a message works on, apart from the message itself.
struct Core {
    config: Config,
    own: Own,
    routing: RoutingTable,
    balancer: Balancer,
    transactions: TransactionTable,
    hold: Hold,
    early: Early,
    ahead: Ahead,
    island: Island,
    /// Partitions whose owner has returned a message, and when it is asked again; each at most once.
    returned: Vec<(Instant, PartitionId)>,
    /// Partitions with a new owner whose former one has yet to say what became of all it was sent; each at most once.
    unaccounted: Vec<Unaccounted>,
    containers: Containers,
    peers: Peers,
    counters: Counters,
    /// Number of the last message towards a container.
    order: u64,
    random: u64,
    /// What upstreams are told of overload, as of the last heartbeat.
    overload: OverloadControl,
    buffer: Vec<u8>,
    next_heartbeat: Instant,
    /// Number of the last one. It runs through all links: a container that has two of them after one another cannot take one's for the other's.
    heartbeat: u64,
}

impl Forwarder {
    /// A worker that knows no container yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let limits = config.limits;
        Self {
            core: Core {
                own: Own::new(&config),
                routing: RoutingTable::new(config.keyring.partitions()),
                balancer: Balancer::default(),
                transactions: TransactionTable::new(limits.transactions),
                hold: Hold::new(limits.hold_bytes, limits.hold_count, limits.hold_age),
                early: Early::default(),
                ahead: Ahead::default(),
                island: Island::default(),
                returned: Vec::new(),
                unaccounted: Vec::new(),
                containers: Containers::default(),
                peers: Peers::default(),
                counters: Counters::default(),
                order: 0,
                random: config.entropy | 1,
                overload: OverloadControl {
                    percent: 0,
                    validity: TOLD,
                    sequence: config.started.as_millis() as u64,
                },
                buffer: Vec::new(),
                next_heartbeat: Instant::default(),
                heartbeat: 0,
                config,
            },
            index: Index::new(),
            edit: Edit::new(),
        }
    }

    /// Does as if it were never cut off, for simulations: so that they prove that their checks can fail.
    #[doc(hidden)]
    pub fn ignore_islands(&mut self) {
        self.core.island.ignored = true;
    }

    /// A message of a client: a datagram, or one message of a stream. `source.held` is set for streams. If it belongs to
    /// another worker's calls, the effect is [`Effect::Pass`].
    pub fn handle_client(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        self.client(now, source, bytes, effects, true);
    }

    /// A message that another worker has passed on by [`Effect::Pass`].
    pub fn handle_passed(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        self.client(now, source, bytes, effects, false);
    }

    fn client(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects, may_pass: bool) {
        match self.index.scan(bytes, &EDGE) {
            Ok(()) => (),
            // A keep-alive (RFC 5626 s3.5.1).
            Err(ScanError::Empty) => return,
            Err(ScanError::TooLong | ScanError::LineTooLong | ScanError::TooManyHeaders) => {
                return self.too_large(source, bytes, effects);
            }
            Err(_) => return self.core.counters.drop(DropReason::Malformed),
        }
        let message = &Message::new(bytes, &self.index);
        if may_pass && let Some(worker) = self.core.other_worker(message) {
            let source = *source;
            let write = |out: &mut Vec<u8>| out.extend_from_slice(message.as_bytes());
            return effects.push_message(write, |message| Effect::Pass {
                worker,
                source,
                message,
            });
        }
        let arrival = Arrival { now, message };
        self.core.client(arrival, source, &mut self.edit, effects);
    }

    /// More than the edge takes: refused where it can be read and answered at all.
    fn too_large(&mut self, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        let core = &mut self.core;
        if self.index.scan(bytes, &INNER).is_err() {
            return core.counters.drop(DropReason::Malformed);
        }
        let message = &Message::new(bytes, &self.index);
        if message.is_response() || sip::check(message).is_err() {
            return core.counters.drop(DropReason::Malformed);
        }
        let refusal = Refusal::TOO_LARGE;
        core.refuse(Kind::NewRequest, refusal, message, source, &mut self.edit, effects);
    }

    /// A message that could not be sent, because there is no connection to be had with the peer. A container's request is answered at once, as
    /// if the peer had said 503 (RFC 3261 s16.9).
    pub fn handle_unsent(&mut self, now: Instant, to: &Flow, bytes: &[u8], effects: &mut Effects) {
        let refusal = Refusal::NO_FLOW;
        match self.core.answer_to(refusal, bytes) {
            Some(answer) => {
                self.core.counters.answer(refusal.status);
                self.client(now, to, &answer, effects, true);
            }
            None => self.core.counters.drop(refusal.drop),
        }
    }

    /// One whole message from a container's SIP connection.
    pub fn handle_container(&mut self, now: Instant, link: LinkId, bytes: &[u8], effects: &mut Effects) {
        let Some(slot) = self.core.heard(now, link) else { return };
        if self.index.scan(bytes, &INNER).is_err() {
            return self.core.counters.drop(DropReason::Malformed);
        }
        let message = &Message::new(bytes, &self.index);
        let arrival = Arrival { now, message };
        self.core.container(arrival, (slot, link), &mut self.edit, effects);
    }

    /// The same for one that the connection's framer has scanned already.
    pub fn handle_container_message(
        &mut self,
        now: Instant,
        link: LinkId,
        message: &Message<'_>,
        effects: &mut Effects,
    ) {
        let Some(slot) = self.core.heard(now, link) else { return };
        let arrival = Arrival { now, message };
        self.core.container(arrival, (slot, link), &mut self.edit, effects);
    }

    /// Both connections to a container stand; `hello` is what it said of itself. None if it cannot be one of this cluster, or
    /// if there are too many: the driver closes both.
    pub fn link_up(&mut self, now: Instant, hello: &Hello, effects: &mut Effects) -> Option<LinkId> {
        self.core.link_up(now, hello, effects)
    }

    /// The connection with another proxy of the cluster stands; `hello` is what it said of itself. None if it is none, or ourselves.
    pub fn peer_up(&mut self, now: Instant, hello: &Hello) -> Option<LinkId> {
        self.core.peer_up(now, hello)
    }

    /// Either connection has closed; the driver closes the other one. What was unconfirmed goes to the new owners.
    pub fn link_down(&mut self, now: Instant, link: LinkId, effects: &mut Effects) {
        if let Some(slot) = self.core.containers.slot(link) {
            self.core.fallen(now, slot, effects);
        } else {
            self.core.peer_down(now, link, effects);
        }
    }

    /// A frame from a container's UCF connection, or another proxy's.
    pub fn handle_frame(&mut self, now: Instant, link: LinkId, body: &Body, effects: &mut Effects) {
        if let Some(slot) = self.core.heard(now, link) {
            self.core.frame(now, slot, body, effects);
        } else {
            self.core.peer_frame(now, link, body, effects);
        }
    }

    /// What is to be written to the container's SIP connection, up to `slices.len()` pieces; returns how many.
    pub fn outgoing<'a>(&'a self, link: LinkId, slices: &mut [IoSlice<'a>]) -> usize {
        let containers = &self.core.containers;
        let link = containers.slot(link).and_then(|slot| containers.link(slot));
        link.map_or(0, |link| link.window.outgoing(slices))
    }

    /// So many bytes of [`Self::outgoing`] have been written.
    pub fn wrote(&mut self, link: LinkId, bytes: usize) {
        let containers = &mut self.core.containers;
        if let Some(link) = containers.slot(link).and_then(|slot| containers.link_mut(slot)) {
            link.window.wrote(bytes);
        }
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        let word = self.core.unaccounted.iter().map(|one| one.due).min();
        let timeout = self.core.next_heartbeat.min(self.core.hold.poll_timeout());
        word.map_or(timeout, |word| word.min(timeout))
    }

    /// Heartbeats, and what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        self.core.expire_held(now, effects);
        self.core.hear_word(now, effects);
        if now >= self.core.next_heartbeat {
            self.core.forgive_pause(now);
            self.core.next_heartbeat = now + HEARTBEAT;
            self.core.no_news(now, effects);
            self.core.fall_silent(now, effects);
            self.core.look_around(now, effects);
            self.core.settle_output(now, effects);
            self.core.ask_again(now, effects);
            self.core.beat(now, effects);
            self.core.expire(now);
        }
    }

    /// The containers that this worker is linked to, for health and the admin page.
    pub fn containers(&self) -> impl Iterator<Item = ContainerView<'_>> {
        self.core.containers.iter().filter_map(|(slot, container)| {
            let link = container.link.as_ref()?;
            Some(ContainerView {
                link: link.id,
                name: &container.name,
                incarnation: container.incarnation,
                state: self.core.balancer.state(slot).unwrap_or(MemberState::Joining),
                partitions: self.core.routing.owned(slot).len(),
                unconfirmed: link.window.bytes(),
            })
        })
    }

    /// The address that no other proxy of the cluster has, if each has one: other proxies are told it by `Hello::sip`.
    #[must_use]
    pub fn own_address(&self) -> Option<SocketAddr> {
        self.core.own.address()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> Counters {
        Counters {
            holding: self.core.hold.len(),
            transactions: self.core.transactions.len(),
            ..self.core.counters.clone()
        }
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.core.config
    }
}

impl Core {
    /// The worker whose calls the message belongs to, if that is another one.
    fn other_worker(&self, message: &Message<'_>) -> Option<u16> {
        let workers = u64::from(self.config.workers);
        if workers < 2 {
            return None;
        }
        let worker = (self.config.keyring.hash(message.call_id()?) % workers) as u16;
        (worker != self.config.me.worker).then_some(worker)
    }

    /// A container lives.
    fn heard(&mut self, now: Instant, link: LinkId) -> Option<Slot> {
        let slot = self.containers.slot(link)?;
        self.containers.get_mut(slot)?.heard = now;
        Some(slot)
    }

    fn link_up(&mut self, now: Instant, hello: &Hello, effects: &mut Effects) -> Option<LinkId> {
        let incarnation = Incarnation(hello.incarnation);
        if hello.cluster != self.config.cluster || hello.worker.is_some() || incarnation.0 == 0 {
            return None;
        }
        let slot = self.routing.enter(incarnation)?;
        // A link that the driver has not yet seen fall is replaced, and what it leaves goes on in the new one.
        self.fallen(now, slot, effects);
        let limits = &self.config.limits;
        let window = Window::new(limits.window_bytes, limits.window_age);
        let id = self.containers.up(now, slot, incarnation, &hello.name, window);
        self.release(now, effects);
        Some(id)
    }

    fn frame(&mut self, now: Instant, slot: Slot, body: &Body, effects: &mut Effects) {
        self.tell_peers(slot, body, effects);
        match body {
            Body::Report(report) => {
                self.containers.reported(slot, report);
                self.balancer.report(now, slot, report);
            }
            // No news: nothing waits for it.
            Body::Confirm(confirm) => return self.confirm(now, slot, confirm, effects),
            Body::Ownership(announced) => {
                self.tell_unheard(slot, announced, effects);
                self.ownership(now, announced, effects);
                self.settle_output(now, effects);
            }
            Body::Transactions(announced) => {
                let partitions = self.routing.partitions();
                // What begins on an island is no news of the others'.
                let anew = self.waits_for_others(now) && !self.containers.holds(slot);
                self.transactions.announced(now, announced, partitions, anew);
            }
            Body::KeepOpen(asked) => return self.keep_open(asked, effects),
            // Not for proxies, or of a later version.
            _ => return,
        }
        self.news(now, effects);
    }

    /// While this process was stopped, or had no processor, nobody was silent: what they sent lies unread in its sockets.
    fn forgive_pause(&mut self, now: Instant) {
        let pause = now.since(self.next_heartbeat);
        if pause >= PAUSE {
            self.containers.forgive(now, pause);
            self.peers.forgive(now, pause);
        }
    }

    fn beat(&mut self, now: Instant, effects: &mut Effects) {
        for (slot, link) in self.containers.links_with_slots_mut() {
            self.balancer.waited(now, slot, link.window.waited(now));
        }
        self.overload.percent = self.refused_percent(now);
        let clock = self.config.started + Duration::from_micros(now.as_micros());
        self.overload.sequence = clock.as_millis() as u64;
        self.heartbeat += 1;
        let heartbeat = Heartbeat {
            number: self.heartbeat,
            views: self.containers.views(now),
        };
        let mut tell = |link| {
            let body = Body::Heartbeat(heartbeat.clone());
            effects.push(Effect::Frame { link, body });
        };
        for link in self.containers.links_mut() {
            link.beat(now, heartbeat.number);
            tell(link.id);
        }
        self.peers.iter_mut().for_each(|peer| tell(peer.id));
        let island = self.is_cut_off();
        let silent = (self.containers).silent(now, island, |container| self.peers.reach(container));
        for (link, reason) in silent.chain(self.peers.silent(now)) {
            effects.push(Effect::Close { link, reason });
        }
    }

    fn expire(&mut self, now: Instant) {
        self.transactions.expire(now);
        for link in self.containers.links_mut() {
            link.window.expire(now);
        }
        while let Some(slot) = self.containers.forget(now) {
            self.routing.forget(slot);
            self.balancer.forget(slot);
        }
        let containers = &self.containers;
        // Of one that was reached by way of another proxy there may be reports.
        while let Some(slot) = self.routing.forget_idle(|slot| containers.get(slot).is_some()) {
            self.balancer.forget(slot);
        }
    }

    /// xorshift64: spreads choices; nothing secret hangs on it.
    fn random(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }
}

/// One linked container as this worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    /// Its link.
    pub link: LinkId,
    /// Its name.
    pub name: &'a str,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// As it last reported.
    pub state: MemberState,
    /// Partitions that it owns as far as this worker has heard.
    pub partitions: usize,
    /// Bytes sent and not yet confirmed.
    pub unconfirmed: usize,
}

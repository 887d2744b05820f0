//! The control task: the member, its links and its store, and what the workers and proxies hear of it.

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use crate::engine::{Announcement, ConnectionId, DueFlow};
use crate::records::{Key, Kind};
use admin::Takeover;
use bytes::Bytes;
use hashbrown::{HashMap, HashSet};
use sip::Instant;
use tokio::sync::mpsc::{Receiver, Sender, UnboundedReceiver, UnboundedSender};
use tracing::{info, warn};
use ucf::member::{Effect, Event, Gate, LinkEnd, Member, Notice};
use ucf::store::{StoreReply, StoreRequest};
use ucf::wire::{Body, Hello, KeepOpen, Report, Transactions};
use ucf::{Incarnation, PartitionId, ProxyId};

use super::links::{self, Identity, LinkEvent, LinkId};
use super::mail::{Directory, ToControl, ToWorker, Workers, worker_of};
use super::metrics::Shown;
use super::stats::Stats;
use super::store_task::{Ask, StoreEvent};

/// Transactions of one frame: twenty bytes each, far below the largest frame.
const PER_FRAME: usize = 4096;

/// What the control task is made of.
pub struct Parts {
    pub member: Member,
    pub identity: Identity,
    pub workers: Workers,
    pub stats: Vec<Arc<Stats>>,
    pub shown: Arc<Mutex<Shown>>,
    pub asks: UnboundedSender<Ask>,
    pub start: std::time::Instant,
    pub links: Sender<LinkEvent>,
    pub numbers: Rc<Cell<u64>>,
}

/// Where its inputs come from.
pub struct Inputs {
    pub links: Receiver<LinkEvent>,
    pub workers: UnboundedReceiver<ToControl>,
    pub store: UnboundedReceiver<StoreEvent>,
    /// SIGTERM.
    pub quiesce: Receiver<()>,
}

/// Why it ended.
#[derive(Debug, PartialEq, Eq)]
pub enum Ending {
    /// Everything is handed over, the list of members is left.
    Left,
    /// A worker ended by itself.
    Failed(String),
}

/// A proxy that has not been heard for as long takes no output while another can.
const SILENT: Duration = Duration::from_millis(700);

/// The control task.
pub struct Control {
    parts: Parts,
    links: HashMap<LinkId, Link>,
    /// Links of a member; the first one is written to.
    peers: HashMap<Incarnation, Vec<LinkId>>,
    proxies: HashMap<ProxyId, Proxy>,
    /// SIP connections by the peer's address, until and after a proxy names it.
    accepted: HashMap<String, ConnectionId>,
    /// Claims that are won, until their partitions are activated.
    won: HashMap<PartitionId, Won>,
    /// The round of `Reconcile`, and how many workers have not done with it.
    reconciling: Option<(u64, usize)>,
    /// Workers whose writes the store does not carry out.
    failing: HashSet<usize>,
    asking: Vec<(ucf::member::RequestId, StoreRequest)>,
    cpu: super::cpu::Cpu,
    /// How long the store took to answer last.
    store_took: Duration,
    /// Sessions in partitions that were claimed, since a takeover was told.
    taken_sessions: u64,
    ending: Option<Ending>,
}

/// What a claim has brought.
#[derive(Default)]
struct Won {
    records: Vec<(Bytes, Bytes)>,
    /// The former owner has named us, so it has stopped and written everything.
    handed_over: bool,
}

struct Link {
    out: Sender<Body>,
    whose: Whose,
}

#[derive(Clone, Copy)]
enum Whose {
    Proxy(ProxyId),
    Member(Incarnation),
}

struct Proxy {
    link: LinkId,
    sip: String,
    name: String,
    connection: Option<ConnectionId>,
    heard: Instant,
    /// It has not been heard for so long that what is for it goes through another one.
    is_silent: bool,
}

impl Control {
    pub fn new(parts: Parts) -> Self {
        Self {
            parts,
            links: HashMap::new(),
            peers: HashMap::new(),
            proxies: HashMap::new(),
            accepted: HashMap::new(),
            won: HashMap::new(),
            reconciling: None,
            failing: HashSet::new(),
            asking: Vec::new(),
            cpu: super::cpu::Cpu::default(),
            store_took: Duration::ZERO,
            taken_sessions: 0,
            ending: None,
        }
    }

    /// Runs until the member has left or something failed.
    pub async fn run(mut self, mut inputs: Inputs) -> Ending {
        loop {
            self.perform();
            if let Some(ending) = self.ending.take() {
                return ending;
            }
            let due = self.parts.member.poll_timeout().as_micros().min(1 << 50);
            let due = self.parts.start + Duration::from_micros(due);
            tokio::select! {
                Some(event) = inputs.links.recv() => {
                    self.on_link(event);
                    // What has gathered is fed first, then its effects are performed together.
                    for _ in 0..64 {
                        let Ok(event) = inputs.links.try_recv() else { break };
                        self.on_link(event);
                    }
                }
                Some(told) = inputs.workers.recv() => {
                    self.on_worker(told);
                    for _ in 0..256 {
                        let Ok(told) = inputs.workers.try_recv() else { break };
                        self.on_worker(told);
                    }
                }
                Some(event) = inputs.store.recv() => {
                    self.on_store(event);
                    for _ in 0..64 {
                        let Ok(event) = inputs.store.try_recv() else { break };
                        self.on_store(event);
                    }
                }
                Some(()) = inputs.quiesce.recv() => {
                    info!("told to end: handing everything over");
                    let now = self.now();
                    self.parts.member.quiesce(now);
                }
                () = tokio::time::sleep_until(due.into()) => {
                    let now = self.now();
                    self.parts.member.handle_timeout(now);
                }
            }
        }
    }

    fn now(&self) -> Instant {
        super::since(self.parts.start)
    }

    /// What the pages show.
    fn shown(&self) -> MutexGuard<'_, Shown> {
        self.parts.shown.lock().expect("nobody panics with it in hand")
    }

    /// Performs the member's effects, in order.
    fn perform(&mut self) {
        while let Some(effect) = self.parts.member.poll_effect() {
            self.perform_one(effect);
        }
        self.ask();
        let mut shown = self.shown();
        shown.state = self.parts.member.state();
        shown.replicated = self.parts.member.is_replicated();
        shown.from_memory = self.parts.member.acts_from_memory();
    }

    /// Requests of one batch go together; anything else in between sends them first, to keep the order.
    fn ask(&mut self) {
        if !self.asking.is_empty() {
            let _ = self.parts.asks.send(Ask::Requests(std::mem::take(&mut self.asking)));
        }
    }

    fn perform_one(&mut self, effect: Effect) {
        match effect {
            Effect::Store(id, request) => self.asking.push((id, request)),
            Effect::ResetStore(upto) => {
                self.ask();
                let _ = self.parts.asks.send(Ask::Reset(upto));
                let mut shown = self.shown();
                // What was said before says more.
                shown.store_trouble.get_or_insert_with(|| "no answer in time".into());
            }
            Effect::ToProxy(proxy, body) => self.tell_proxy(proxy, body),
            Effect::ToProxies(body) => self.tell_proxies(&body),
            Effect::Report {
                proxy,
                heartbeat,
                state,
            } => {
                let report = self.report(heartbeat, state);
                self.tell_proxy(proxy, Body::Report(report));
            }
            Effect::ToPeer(member, body) => {
                let link = self.peers.get(&member).and_then(|links| links.first()).copied();
                if let Some(link) = link {
                    self.push(link, body);
                }
            }
            Effect::Connect { member, address } => {
                let link = links::next(&self.parts.numbers);
                let (me, events) = (self.parts.identity.clone(), self.parts.links.clone());
                tokio::task::spawn_local(links::connect(member, address, link, me, events));
            }
            Effect::Activate { partition, epoch } => {
                let Won { records, handed_over } = self.won.remove(&partition).unwrap_or_default();
                if !handed_over {
                    let kinds = records.iter().filter_map(|(key, _)| Key::parse(key));
                    self.taken_sessions += kinds.filter(|key| key.kind == Kind::Session).count() as u64;
                }
                self.to_owner(
                    partition,
                    ToWorker::Activate {
                        partition,
                        epoch,
                        records,
                        handed_over,
                    },
                );
            }
            Effect::Freeze(partition) => self.to_owner(partition, ToWorker::Freeze(partition)),
            Effect::Thaw(partition) => self.to_owner(partition, ToWorker::Thaw(partition)),
            Effect::Drop { partition, why } => {
                self.won.remove(&partition);
                tracing::debug!(%partition, ?why, "partition dropped");
                self.to_owner(partition, ToWorker::Drop(partition));
            }
            Effect::Gate(gate) => {
                for worker in self.parts.workers.iter() {
                    let _ = worker.send(ToWorker::Gate(gate.clone()));
                }
            }
            Effect::Reconcile { round, partitions } => self.reconcile(round, partitions),
            Effect::Left => self.ending = Some(Ending::Left),
            Effect::Event(event) => self.tell(&event),
        }
    }

    fn reconcile(&mut self, round: u64, partitions: Vec<(PartitionId, ucf::Epoch)>) {
        let count = self.parts.workers.len();
        let mut shares = vec![Vec::new(); count];
        for (partition, epoch) in partitions {
            shares[usize::from(partition.0) % count].push((partition, epoch));
        }
        for (worker, partitions) in self.parts.workers.iter().zip(shares) {
            let _ = worker.send(ToWorker::Reconcile { round, partitions });
        }
        self.reconciling = Some((round, count));
    }

    fn to_owner(&self, partition: PartitionId, mail: ToWorker) {
        let worker = usize::from(partition.0) % self.parts.workers.len();
        let _ = self.parts.workers[worker].send(mail);
    }

    fn tell_proxy(&mut self, proxy: ProxyId, body: Body) {
        if let Some(link) = self.proxies.get(&proxy).map(|proxy| proxy.link) {
            self.push(link, body);
        }
    }

    fn tell_proxies(&mut self, body: &Body) {
        let links: Vec<LinkId> = self.proxies.values().map(|proxy| proxy.link).collect();
        for link in links {
            self.push(link, body.clone());
        }
    }

    /// A link that takes no more is cut off: it ends when the sender is gone.
    fn push(&mut self, link: LinkId, body: Body) {
        if let Some(at) = self.links.get(&link)
            && at.out.try_send(body).is_err()
        {
            warn!(link = link.0, "a UCF link takes no more frames: cut off");
            self.link_over(link, LinkEnd::Lost);
        }
    }

    fn on_link(&mut self, event: LinkEvent) {
        match event {
            LinkEvent::Up { link, hello, out } => self.link_up(link, &hello, out),
            LinkEvent::Frame { link, body } => {
                let now = self.now();
                match self.links.get(&link).map(|link| link.whose) {
                    Some(Whose::Proxy(proxy)) => {
                        if matches!(body, Body::Heartbeat(_)) {
                            self.heard(now, proxy);
                        }
                        self.parts.member.handle_proxy_frame(now, proxy, body);
                    }
                    Some(Whose::Member(member)) => self.parts.member.handle_peer_frame(now, member, body),
                    None => {}
                }
            }
            LinkEvent::Stranger { why } => self.stranger(&why),
            LinkEvent::End { link, end } => self.link_over(link, end),
            LinkEvent::NotMade { member, end } => {
                if !self.peers.contains_key(&member) {
                    let now = self.now();
                    self.parts.member.handle_peer_end(now, member, end);
                }
            }
        }
    }

    /// Counted, and told of now and then: anybody may knock.
    fn stranger(&mut self, why: &str) {
        let mut shown = self.shown();
        shown.events.strangers += 1;
        let refused = shown.events.strangers;
        if refused.is_power_of_two() {
            warn!(%why, refused, "link refused");
        }
    }

    /// A proxy has been heard. Those that have not been for long, while this one was, are behind a cut or frozen: nothing is sent on their
    /// connections, which would end by themselves only in minutes.
    fn heard(&mut self, now: Instant, id: ProxyId) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        proxy.heard = now;
        let mut changed = std::mem::take(&mut proxy.is_silent);
        for proxy in self.proxies.values_mut().filter(|proxy| !proxy.is_silent) {
            proxy.is_silent = now.since(proxy.heard) >= SILENT;
            if proxy.is_silent {
                info!(name = %proxy.name, "a proxy is silent: output goes through others");
            }
            changed |= proxy.is_silent;
        }
        if changed {
            self.spread_directory();
        }
    }

    fn link_up(&mut self, link: LinkId, hello: &Hello, out: Sender<Body>) {
        let now = self.now();
        let Some(worker) = hello.worker else {
            let member = Incarnation(hello.incarnation);
            self.links.insert(
                link,
                Link {
                    out,
                    whose: Whose::Member(member),
                },
            );
            let links = self.peers.entry(member).or_default();
            links.push(link);
            if links.len() == 1 {
                info!(name = %hello.name, %member, "linked with a container");
                self.parts.member.handle_peer_up(now, member);
            }
            return;
        };
        let Ok(worker) = u16::try_from(worker) else { return };
        let id = ProxyId {
            incarnation: hello.incarnation,
            worker,
        };
        if let Some(old) = self.proxies.get(&id).map(|proxy| proxy.link) {
            self.link_over(old, LinkEnd::Closed);
        }
        info!(name = %hello.name, proxy = %id, "linked with a proxy");
        self.links.insert(
            link,
            Link {
                out,
                whose: Whose::Proxy(id),
            },
        );
        let proxy = Proxy {
            link,
            sip: hello.sip.clone(),
            name: hello.name.clone(),
            connection: None,
            heard: now,
            is_silent: false,
        };
        self.proxies.insert(id, proxy);
        self.parts.member.handle_proxy_up(now, id);
        for worker in self.parts.workers.iter() {
            let _ = worker.send(ToWorker::Live(id));
        }
        self.tie(id);
    }

    /// Joins a proxy worker's two connections, once both are there.
    fn tie(&mut self, id: ProxyId) {
        let Some(proxy) = self.proxies.get_mut(&id) else { return };
        let Some(connection) = self.accepted.get(&proxy.sip).copied() else {
            return;
        };
        proxy.connection = Some(connection);
        self.spread_directory();
        let _ = self.parts.workers[worker_of(connection)].send(ToWorker::Tied { connection, proxy: id });
    }

    fn spread_directory(&self) {
        let all = self
            .proxies
            .iter()
            .filter(|(_, proxy)| !proxy.is_silent)
            .filter_map(|(id, proxy)| Some((*id, proxy.connection?)))
            .collect();
        let directory = Arc::new(Directory::new(all));
        for worker in self.parts.workers.iter() {
            let _ = worker.send(ToWorker::Directory(directory.clone()));
        }
    }

    fn link_over(&mut self, id: LinkId, end: LinkEnd) {
        let Some(link) = self.links.remove(&id) else { return };
        let now = self.now();
        match link.whose {
            Whose::Member(member) => {
                let Some(links) = self.peers.get_mut(&member) else {
                    return;
                };
                links.retain(|link| *link != id);
                if links.is_empty() {
                    self.peers.remove(&member);
                    info!(%member, ?end, "link with a container ended");
                    self.parts.member.handle_peer_end(now, member, end);
                }
            }
            Whose::Proxy(proxy_id) => {
                let Some(proxy) = self.proxies.remove(&proxy_id) else {
                    return;
                };
                info!(name = %proxy.name, proxy = %proxy_id, "link with a proxy ended");
                self.parts.member.handle_proxy_closed(now, proxy_id);
                if let Some(connection) = proxy.connection {
                    let _ = self.parts.workers[worker_of(connection)].send(ToWorker::Untied { connection });
                    self.spread_directory();
                }
            }
        }
    }

    fn on_worker(&mut self, told: ToControl) {
        match told {
            ToControl::Accepted { connection, peer } => {
                let peer = peer.to_string();
                let waiting = self
                    .proxies
                    .iter()
                    .find(|(_, proxy)| proxy.sip == peer)
                    .map(|(id, _)| *id);
                self.accepted.insert(peer, connection);
                if let Some(proxy) = waiting {
                    self.tie(proxy);
                }
            }
            ToControl::Ended { connection } => {
                self.accepted.retain(|_, other| *other != connection);
                let gone = self
                    .proxies
                    .values_mut()
                    .find(|proxy| proxy.connection == Some(connection));
                if let Some(proxy) = gone {
                    proxy.connection = None;
                    self.spread_directory();
                }
            }
            ToControl::Confirm { proxy, confirm } => self.tell_proxy(proxy, Body::Confirm(confirm)),
            ToControl::Announce { to, announcements } => self.announce(to, &announcements),
            ToControl::KeepOpen(flows) => self.keep_open(flows),
            ToControl::Notice { worker, notice } => self.on_notice(worker, notice),
            ToControl::Failed(why) => self.ending = Some(Ending::Failed(why)),
        }
    }

    fn announce(&mut self, to: Option<ProxyId>, announcements: &[Announcement]) {
        for chunk in announcements.chunks(PER_FRAME) {
            let begun = chunk.iter().filter(|a| !a.ended);
            let frame = Transactions {
                keys: begun.clone().map(|a| a.key).collect(),
                merged: begun.clone().map(|a| a.merged).collect(),
                partitions: begun.map(|a| u32::from(a.partition.0)).collect(),
                ended: chunk.iter().filter(|a| a.ended).map(|a| a.key).collect(),
            };
            match to {
                Some(proxy) => self.tell_proxy(proxy, Body::Transactions(frame)),
                None => self.tell_proxies(&Body::Transactions(frame)),
            }
        }
    }

    /// Asks the proxy through which each peer was last heard. Any other that is left shares its address, or knows who has that now.
    fn keep_open(&mut self, flows: Vec<DueFlow>) {
        let mut by_proxy: HashMap<ProxyId, Vec<Vec<u8>>> = HashMap::new();
        for (salt, flow) in flows.into_iter().enumerate() {
            if let Some(proxy) = self.stand_in(flow.proxy, salt) {
                by_proxy.entry(proxy).or_default().push(flow.token.into());
            }
        }
        for (proxy, tokens) in by_proxy {
            for flows in tokens.chunks(PER_FRAME) {
                let flows = flows.to_vec();
                self.tell_proxy(proxy, Body::KeepOpen(KeepOpen { flows }));
            }
        }
    }

    /// The proxy worker itself if it is linked, else one of the same process, else any, chosen by `salt`.
    fn stand_in(&self, proxy: ProxyId, salt: usize) -> Option<ProxyId> {
        if self.proxies.contains_key(&proxy) {
            return Some(proxy);
        }
        let same = |other: &&ProxyId| other.incarnation == proxy.incarnation;
        let any = || self.proxies.keys().nth(salt % self.proxies.len().max(1));
        self.proxies.keys().find(same).or_else(any).copied()
    }

    /// What all workers have to say is said with the last of them.
    fn on_notice(&mut self, worker: usize, notice: Notice) {
        let now = self.now();
        match notice {
            Notice::Reconciled(round) => match &mut self.reconciling {
                Some((current, left)) if *current == round => {
                    *left -= 1;
                    if *left > 0 {
                        return;
                    }
                    self.reconciling = None;
                }
                _ => return,
            },
            Notice::StoreSilent => _ = self.failing.insert(worker),
            Notice::StoreWrites => {
                self.failing.remove(&worker);
                if !self.failing.is_empty() {
                    return;
                }
            }
            _ => {}
        }
        self.parts.member.handle_engine(now, notice);
    }

    fn on_store(&mut self, event: StoreEvent) {
        let now = self.now();
        match event {
            StoreEvent::Took(took) => {
                self.store_took = took;
                self.shown().store_trouble = None;
            }
            StoreEvent::Clock { at, millis } => {
                for worker in self.parts.workers.iter() {
                    let _ = worker.send(ToWorker::Clock { at, millis });
                }
            }
            StoreEvent::Answer { id, answer, request } => {
                let claimed = match (&request, &answer.reply) {
                    (
                        StoreRequest::Claim {
                            partition, as_target, ..
                        },
                        StoreReply::Claimed { .. },
                    ) => Some((*partition, *as_target)),
                    _ => None,
                };
                if let Some((partition, handed_over)) = claimed {
                    let records = answer.records;
                    self.won.insert(partition, Won { records, handed_over });
                }
                self.parts.member.handle_store(now, id, answer.reply);
                // A claim that was given up meanwhile is won for nobody: no effect would ever ask for its records.
                if let Some((partition, _)) = claimed
                    && !self.parts.member.held().any(|(held, _)| held == partition)
                {
                    self.won.remove(&partition);
                }
            }
            StoreEvent::Lost(why) => {
                warn!(%why, "the store does not answer the control connection");
                self.shown().store_trouble = Some(why);
                self.parts.member.handle_store_lost(now);
            }
        }
    }

    fn report(&mut self, heartbeat: u64, state: ucf::wire::MemberState) -> Report {
        let now = self.now();
        let mut report = Report {
            heartbeat,
            state: state.into(),
            cpu_permille: self.cpu.permille(),
            store_us: u32::try_from(self.store_took.as_micros()).unwrap_or(u32::MAX),
            holds: *self.parts.member.gate() == Gate::Hold,
            ..Report::default()
        };
        for stats in &self.parts.stats {
            let (_, holdings) = stats.engine();
            report.open_transactions += holdings.open_transactions as u32;
            report.dialogs += holdings.dialogs as u32;
            let delay = stats.queue_delay(now).as_micros();
            report.queue_delay_us = report.queue_delay_us.max(u32::try_from(delay).unwrap_or(u32::MAX));
        }
        report
    }

    fn tell(&mut self, event: &Event) {
        let mut shown = self.parts.shown.lock().expect("nobody panics with it in hand");
        shown.events.count(event);
        if let Event::Takeover { partitions, took, .. } = event {
            let sessions = std::mem::take(&mut self.taken_sessions);
            let part = Takeover::ended(SystemTime::now(), *took, *partitions as u64, sessions);
            shown.takeover = Some(shown.takeover.map_or(part, |last| last.and(part)));
        }
        match event {
            Event::Joined { others } => info!(others, "joined the cluster"),
            Event::Admitted => info!("admitted by every member"),
            Event::State(state) => info!(?state, "state"),
            Event::StoreLost => warn!("the store is lost"),
            Event::StoreBack { after, forgot } => info!(?after, forgot, "the store is back"),
            Event::FromMemory => warn!("acting from memory: every other container has promised to claim nothing"),
            Event::MemoryOver => warn!("not acting from memory any more: output waits"),
            Event::Reconciled { after } => info!(?after, "memory and store are equal again"),
            Event::Suspected { member, why } => warn!(%member, ?why, "a container is taken for down"),
            Event::Recovered { member } => info!(%member, "a container is not down any more"),
            Event::Claiming { partition, from } => tracing::debug!(%partition, ?from, "claiming"),
            Event::ClaimRefused { partition } => tracing::debug!(%partition, "claim refused"),
            Event::Takeover { from, partitions, took } => info!(%from, partitions, ?took, "takeover"),
            Event::HandedOver { partition, to, took } => tracing::debug!(%partition, %to, ?took, "handed over"),
            Event::HandOverWithdrawn { partition, to } => info!(%partition, %to, "hand-over taken back"),
            Event::Removed { member } => info!(%member, "a container was taken off the list"),
        }
    }
}

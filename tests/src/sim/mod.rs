//! Generated runs in virtual time: callers, proxies, containers and a store over a faulty network, one event queue, one seed.
//!
//! Two kinds. The runs of this module are of the protocol of ownership: real are [`ucf::member::Member`] and the store's meaning
//! [`ucf::store::Model`] (which the Redis scripts are held against); the session engine, the proxy and the callers are small models that
//! also act from memory. The runs of [`real`] have the real proxy, the real engine and SIP between them. After every step nothing of
//! ARCHITECTURE.md's invariants may be violated ([`checks`]); when faults have ended, every partition has one owner, every call can be ended, and
//! the store equals memory.

pub mod caller;
pub mod checks;
pub mod container;
pub mod engine;
pub mod faults;
pub mod net;
pub mod proxy;
pub mod real;
pub mod rng;
pub mod store;

use caller::{Callers, Datagram};
use checks::{Call, Seen};
use container::Container;
use faults::{Fault, Kind};
use net::{Context, Happening, MS, Micros, Node};
use proxy::Proxy;
use std::time::Duration;
use store::StoreNode;
use ucf::member::Faults;
use ucf::store::{Era, Model};
use ucf::{Incarnation, PartitionId};

/// L in every run.
pub const LEASE: Duration = Duration::from_secs(3);

/// Few, so that each is in the midst of everything.
pub const PARTITIONS: u16 = 12;
const CONTAINERS: usize = 3;
/// One more, for the one that comes when there is to be one more.
const SLOTS: usize = CONTAINERS + 1;
const PROXIES: usize = 2;
const CALLS: u32 = 30;
/// Faults begin and end before this.
pub const STORM: Micros = 20_000 * MS;
/// And then all must come right.
const QUIET: Micros = 32_000 * MS;

/// The partition of a call: every proxy picks the same.
#[must_use]
pub fn partition_of(call: Call) -> PartitionId {
    PartitionId(u16::try_from(call.wrapping_mul(2_654_435_761) >> 8 & 0xffff).expect("masked") % PARTITIONS)
}

/// What is broken on purpose, to prove that the checks can fail.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Broken {
    /// Nothing.
    #[default]
    Nothing,
    /// The store compares no epochs.
    EpochComparison,
    /// Output leaves before its write.
    OutputFirst,
    /// Members act from memory without asking.
    MemoryUnasked,
    /// Hand-over without stopping, marking and raising the epoch.
    HandOverUnfenced,
    /// Members claim without letting those write first who acted from memory.
    ClaimsUnasked,
    /// A store's master answers although no replica has what it was told.
    AnswersAlone,
    /// Proxies do not see that they are cut off with a container.
    IslandsUnseen,
}

/// How a run ended.
pub struct Outcome {
    /// What must not be, if it was.
    pub violation: Option<String>,
    /// What happened.
    pub seen: Seen,
    /// To be read, if asked for.
    pub log: String,
}

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, broken: Broken, logging: bool) -> Outcome {
    let mut world = World::new(seed, broken, None, logging);
    world.run();
    Outcome {
        violation: world.ctx.oracle.violation.take(),
        seen: world.ctx.oracle.seen,
        log: world.ctx.take_log(),
    }
}

/// What was to be seen of a planned run.
pub struct Watched {
    /// Of the whole run.
    pub outcome: Outcome,
    /// Who took which partition up when.
    pub activations: Vec<(Micros, PartitionId, Incarnation)>,
    /// When callers heard an answer that they waited for.
    pub answers: Vec<Micros>,
}

/// Runs planned faults over a network that loses nothing.
#[must_use]
pub fn run_planned(seed: u64, faults: Vec<Fault>) -> Watched {
    let mut world = World::new(seed, Broken::Nothing, Some(faults), true);
    world.ctx.loss = 0;
    world.run();
    let oracle = &mut world.ctx.oracle;
    Watched {
        activations: std::mem::take(&mut oracle.activations),
        answers: std::mem::take(&mut oracle.answers_at),
        outcome: Outcome {
            violation: oracle.violation.take(),
            seen: oracle.seen,
            log: world.ctx.take_log(),
        },
    }
}

struct World {
    ctx: Context,
    store: StoreNode,
    containers: Vec<Container>,
    proxies: Vec<Proxy>,
    callers: Callers,
    faults: Vec<Fault>,
    era: u64,
    /// The store's data as a replica has it that follows no more.
    replica: Option<Model>,
}

impl World {
    fn new(seed: u64, broken: Broken, faults: Option<Vec<Fault>>, logging: bool) -> Self {
        let mut ctx = Context::new(seed, logging);
        ctx.loss = if ctx.rng.chance(50) { 0 } else { ctx.rng.range(1, 20) };
        let member_faults = Faults {
            acts_from_memory_unasked: broken == Broken::MemoryUnasked,
            hands_over_unfenced: broken == Broken::HandOverUnfenced,
            claims_unasked: broken == Broken::ClaimsUnasked,
        };
        let output_first = broken == Broken::OutputFirst;
        // The proxies' fence hides what the broken part does wrong.
        let fences = broken != Broken::MemoryUnasked;
        let mut store = StoreNode::new();
        store.answers_alone = broken == Broken::AnswersAlone;
        if matches!(broken, Broken::EpochComparison) {
            store.model.stop_comparing_epochs();
        }
        if matches!(broken, Broken::HandOverUnfenced) {
            store.model.stop_raising_epochs();
        }
        let callers = Callers::new(&mut ctx, CALLS, PROXIES, STORM - 2_000 * MS);
        let faults = faults.unwrap_or_else(|| faults::plan(&mut ctx.rng, CONTAINERS, PROXIES, STORM));
        let mut world = Self {
            containers: (0..SLOTS)
                .map(|i| Container::new(i, PARTITIONS, member_faults, output_first))
                .collect(),
            proxies: (0..PROXIES).map(|i| Proxy::new(i, SLOTS, fences)).collect(),
            store,
            callers,
            faults: Vec::new(),
            era: 1,
            replica: None,
            ctx,
        };
        world.ctx.start(Node::Store);
        world.proxies.iter_mut().for_each(|p| p.start(&mut world.ctx));
        for container in &mut world.containers[..CONTAINERS] {
            container.start(&mut world.ctx);
        }
        world.containers[CONTAINERS].away = true;
        world.plan(faults);
        world
    }

    fn plan(&mut self, faults: Vec<Fault>) {
        for (index, fault) in faults.iter().enumerate() {
            // Even numbers begin, odd ones end a fault.
            self.ctx.at(fault.at, Happening::Fault(index * 2));
            self.ctx.at(fault.until, Happening::Fault(index * 2 + 1));
        }
        self.faults = faults;
    }

    fn run(&mut self) {
        while let Some(happening) = self.ctx.next(STORM + QUIET) {
            if self.ctx.now > STORM {
                self.ctx.loss = 0;
            }
            self.step(happening);
            if self.ctx.oracle.violation.is_some() {
                return;
            }
        }
        self.check_end();
    }

    fn step(&mut self, happening: Happening) {
        let ctx = &mut self.ctx;
        match happening {
            Happening::Arrive(conn, end, message) => {
                let Some((node, message)) = ctx.arrival(conn, end, message) else {
                    return;
                };
                match node {
                    Node::Store => self.store.handle(ctx, conn, end, message),
                    Node::Proxy(i) => self.proxies[i].handle(ctx, conn, end, message),
                    Node::Container(i) => {
                        self.containers[i].handle(ctx, conn, end, message);
                        self.replace_if_left(i);
                    }
                    Node::Callers => {}
                }
            }
            Happening::Datagram(from, to, datagram) => match (to, datagram) {
                (Node::Proxy(i), datagram) => {
                    let i = in_their_group(i, |i| self.proxies[i].is_draining());
                    self.proxies[i].datagram(ctx, datagram);
                }
                (Node::Callers, Datagram::Said(call, said)) => self.callers.handle(ctx, from, call, &said),
                _ => {}
            },
            Happening::Wake(node) => {
                ctx.woken(node);
                match node {
                    Node::Callers => self.callers.wake(ctx),
                    Node::Proxy(i) => self.proxies[i].wake(ctx),
                    Node::Container(i) => self.containers[i].wake(ctx),
                    Node::Store => self.store.wake(ctx, everybody()),
                }
            }
            Happening::Fault(index) => {
                let fault = self.faults[index / 2].clone();
                ctx.log(|| format!("{} {:?}", if index % 2 == 0 { "FAULT" } else { "end of" }, fault.kind));
                if index % 2 == 0 {
                    self.begin(&fault.kind)
                } else {
                    self.end(&fault.kind)
                }
            }
        }
    }

    /// A container that has left starts anew, as a pod would.
    fn replace_if_left(&mut self, index: usize) {
        let container = &mut self.containers[index];
        if container.process.as_ref().is_some_and(|p| p.left) {
            container.crash(&mut self.ctx);
            container.start_if_empty(&mut self.ctx);
        }
    }

    fn begin(&mut self, kind: &Kind) {
        let ctx = &mut self.ctx;
        match kind {
            Kind::Crash(all) => all.iter().for_each(|i| self.containers[*i].crash(ctx)),
            Kind::Pause(i) => self.containers[*i].pause(),
            Kind::Cut(one, others) => others.iter().for_each(|other| ctx.block(*one, *other)),
            Kind::Isolate(i) => everybody_but(*i).for_each(|other| ctx.block(Node::Container(*i), other)),
            Kind::Island(i, proxy) => {
                island(*i, *proxy).for_each(|(one, other)| ctx.block(one, other));
                ctx.islands.push(*proxy);
            }
            Kind::StoreAway => (0..SLOTS).for_each(|i| ctx.block(Node::Container(i), Node::Store)),
            Kind::TwoMasters { apart, alone } => {
                self.era += 1;
                self.store.split(ctx, Node::Container(*apart), Era(self.era));
                others_if(*alone, *apart).for_each(|other| ctx.block(Node::Container(*apart), other));
            }
            Kind::StoreRestart => {
                self.store.unite(ctx, everybody());
                ctx.end(Node::Store);
            }
            Kind::StoreFlush => {
                ctx.end(Node::Store);
                self.forget(None);
            }
            Kind::StoreErased => self.forget(None),
            Kind::StoreClock(by) => ctx.store_clock += by,
            Kind::StorePromoted => self.replica = Some(self.store.model.clone()),
            Kind::StoreFull => self.store.model.set_full(true),
            // One serves, always.
            Kind::ProxyCrash(_) | Kind::ProxyDrain(_) if self.proxies.iter().filter(|p| p.serves()).count() < 2 => {}
            Kind::ProxyCrash(i) => self.proxies[*i].crash(ctx),
            Kind::ProxyDrain(i) => self.proxies[*i].drain(),
            Kind::ProxyPause(i) => self.proxies[*i].pause(),
            Kind::Quiesce(i) => self.containers[*i].quiesce(ctx),
            Kind::ScaleUp => {
                self.containers[CONTAINERS].away = false;
                self.containers[CONTAINERS].start_if_empty(ctx);
            }
            Kind::ScaleDown(i) => {
                if self.containers.iter().filter(|c| c.stays()).count() > 1 {
                    self.containers[*i].away = true;
                    self.containers[*i].quiesce(ctx);
                }
            }
            Kind::SlowNode(node, by) => *ctx.slow_nodes.entry(*node).or_default() += by,
            Kind::Slow(by) => ctx.slow += by,
        }
    }

    fn end(&mut self, kind: &Kind) {
        let ctx = &mut self.ctx;
        match kind {
            Kind::Crash(all) => all.iter().for_each(|i| self.containers[*i].start_if_empty(ctx)),
            Kind::Pause(i) => self.containers[*i].resume(ctx),
            Kind::Cut(one, others) => others.iter().for_each(|other| ctx.unblock(*one, *other)),
            Kind::Isolate(i) => everybody_but(*i).for_each(|other| ctx.unblock(Node::Container(*i), other)),
            Kind::Island(i, proxy) => {
                island(*i, *proxy).for_each(|(one, other)| ctx.unblock(one, other));
                ctx.islands.retain(|cut_off| cut_off != proxy);
            }
            Kind::StoreAway => (0..SLOTS).for_each(|i| ctx.unblock(Node::Container(i), Node::Store)),
            Kind::StoreRestart | Kind::StoreFlush => {
                if !ctx.lives(Node::Store) {
                    self.era += 1;
                    self.store.model.set_era(Era(self.era));
                    ctx.start(Node::Store);
                }
            }
            Kind::ProxyCrash(i) | Kind::ProxyDrain(i) => {
                if !self.proxies[*i].serves() {
                    self.proxies[*i].crash(ctx);
                    self.proxies[*i].start(ctx);
                }
            }
            Kind::StorePromoted => self.promote(),
            Kind::TwoMasters { apart, alone } => {
                self.store.unite(ctx, everybody());
                others_if(*alone, *apart).for_each(|other| ctx.unblock(Node::Container(*apart), other));
            }
            Kind::StoreErased => {}
            Kind::StoreClock(by) => ctx.store_clock -= by,
            Kind::ScaleUp => {
                self.containers[CONTAINERS].away = true;
                self.containers[CONTAINERS].quiesce(ctx);
            }
            Kind::ScaleDown(i) => {
                self.containers[*i].away = false;
                self.containers[*i].start_if_empty(ctx);
            }
            Kind::StoreFull => self.store.model.set_full(false),
            Kind::ProxyPause(i) => self.proxies[*i].resume(ctx),
            Kind::Quiesce(_) => {}
            Kind::SlowNode(node, by) => *ctx.slow_nodes.entry(*node).or_default() -= by,
            Kind::Slow(by) => ctx.slow -= by,
        }
        (0..SLOTS).for_each(|i| self.replace_if_left(i));
    }

    /// The store loses what the replica does not have, or everything. What is in no owner's memory either is lost.
    fn forget(&mut self, replica: Option<Model>) {
        self.store.unite(&mut self.ctx, everybody());
        let mut remembered = Vec::new();
        for container in &self.containers {
            let Some(process) = &container.process else { continue };
            for (partition, epoch) in process.engine.epochs() {
                // Only the present owner's memory is a copy.
                let stored = self.store.model.partition(partition);
                if stored.is_some_and(|s| s.owner == Some(process.member.incarnation()) && s.epoch == epoch) {
                    let calls = process
                        .engine
                        .records(partition)
                        .map(|r| engine::calls(r).collect())
                        .unwrap_or_default();
                    remembered.push((process.member.incarnation(), partition, calls));
                }
            }
        }
        let all = (0..PARTITIONS).map(PartitionId);
        let lost = all.filter(|p| !remembered.iter().any(|(_, r, _)| r == p));
        let lost: Vec<_> = lost
            .flat_map(|p| {
                [
                    self.store.model.partition(p),
                    replica.as_ref().and_then(|replica| replica.partition(p)),
                ]
            })
            .flatten()
            .flat_map(|p| engine::calls(&p.records))
            .collect();
        let living = self.containers.iter().filter_map(|c| c.process.as_ref());
        let living = living.map(|process| process.member.incarnation()).collect();
        self.ctx.oracle.on_flush_lost(lost.into_iter(), &living);
        self.ctx.oracle.on_flush(self.ctx.now, remembered.into_iter());
        self.era += 1;
        self.store.forget(replica, Era(self.era));
    }

    /// The replica becomes the store, if it is not one that was promoted or flushed before.
    fn promote(&mut self) {
        let Some(replica) = self.replica.take() else { return };
        let lives = self.ctx.lives(Node::Store);
        self.ctx.end(Node::Store);
        self.forget(Some(replica));
        if lives {
            self.ctx.start(Node::Store);
        }
    }

    /// Faults have ended a while ago: one owner each, the store equals memory, every call can be ended.
    fn check_end(&mut self) {
        let mut wrong = self.callers.unfinished(&self.ctx);
        for partition in (0..PARTITIONS).map(PartitionId) {
            let owners = self
                .containers
                .iter()
                .filter_map(|c| c.process.as_ref())
                .filter_map(|p| {
                    let (_, epoch) = p.member.held().find(|(held, _)| *held == partition)?;
                    Some((p, epoch))
                });
            let owners: Vec<_> = owners.collect();
            let [(owner, epoch)] = owners.as_slice() else {
                wrong.push(format!("{partition} has {} owners", owners.len()));
                continue;
            };
            let stored = self.store.model.partition(partition);
            let Some(stored) = stored.filter(|s| s.owner == Some(owner.member.incarnation()) && s.epoch == *epoch)
            else {
                wrong.push(format!(
                    "{partition}: the store knows another owner than {}",
                    owner.member.incarnation()
                ));
                continue;
            };
            if owner.engine.records(partition) != Some(&stored.records) {
                wrong.push(format!("{partition}: the store differs from memory"));
            }
        }
        if !wrong.is_empty() {
            self.ctx.oracle.fail(format!("at the end: {}", wrong.join("; ")));
        }
    }
}

/// The proxies share one address: what comes for one that has left their group comes to another.
fn in_their_group(proxy: usize, has_left: impl Fn(usize) -> bool) -> usize {
    let mut all = (proxy..proxy + PROXIES).map(|i| i % PROXIES);
    all.find(|i| !has_left(*i)).unwrap_or(proxy)
}

/// Every container's slot.
fn everybody() -> impl Iterator<Item = Node> {
    (0..SLOTS).map(Node::Container)
}

/// The other containers, if one is to be cut off from them.
fn others_if(alone: bool, container: usize) -> impl Iterator<Item = Node> {
    everybody().filter(move |node| alone && *node != Node::Container(container))
}

/// Who cannot reach whom while a container and a proxy are cut off together.
fn island(container: usize, proxy: usize) -> impl Iterator<Item = (Node, Node)> {
    let (here, there) = (Node::Container(container), Node::Proxy(proxy));
    let others = move || everybody_but(container).filter(move |other| *other != there);
    let of_container = others().map(move |other| (here, other));
    of_container.chain(others().map(move |other| (there, other)))
}

fn everybody_but(container: usize) -> impl Iterator<Item = Node> {
    let others = (0..SLOTS).filter(move |i| *i != container).map(Node::Container);
    others.chain((0..PROXIES).map(Node::Proxy)).chain([Node::Store])
}

//! The same runs with the real parts on the wire: `proxy::forward::Forwarder`, `container::engine::Engine` and SIP itself between
//! callers, proxies and containers, beside `ucf::member::Member`. Modelled are the store's process and the sockets.

pub mod application;
pub mod callee;
pub mod caller;
mod compare;
pub mod container;
pub mod proxy;

use super::caller::Datagram;
use super::faults::{self, Fault, Kind};
use super::net::{Context, Happening, Node};
use super::store::StoreNode;
use super::{
    Broken, CONTAINERS, MS, Micros, Outcome, PARTITIONS, PROXIES, SLOTS, STORM, everybody, everybody_but,
    in_their_group, island, others_if,
};
use ::container::application::{Application, from_json};
use ::container::engine::Settings;
use application::Counting;
use callee::Callees;
use caller::Callers;
use container::Container;
use proxy::Proxy;
use std::sync::Arc;
use ucf::PartitionId;
use ucf::member::Faults;
use ucf::store::{Era, Model};
use ucf::token::{Key, Keyring};

const CALLS: usize = 20;
/// Longer than RFC 3261's longest timer, so that every caller has its answer.
const QUIET: Micros = 50_000 * MS;
/// Writes of the end of that have this long.
const LAST_WRITES: Micros = 1_000 * MS;
/// Calls that are up then have this long to be ended: nothing is lost any more, so each is by its first BYE.
const LAST_CALLS: Micros = 5_000 * MS;

/// Runs one seed.
#[must_use]
pub fn run(seed: u64, broken: Broken, logging: bool) -> Outcome {
    let mut world = World::new(seed, broken, logging);
    world.run_until(STORM + QUIET);
    world.check_end();
    world.callers.hang_up(&mut world.ctx);
    world.run_until(STORM + QUIET + LAST_CALLS);
    world.check_end();
    Outcome {
        violation: world.ctx.oracle.violation.take(),
        seen: world.ctx.oracle.seen,
        log: world.ctx.take_log(),
    }
}

struct World {
    ctx: Context,
    store: StoreNode,
    containers: Vec<Container>,
    proxies: Vec<Proxy>,
    callers: Callers,
    callees: Callees,
    faults: Vec<Fault>,
    era: u64,
    /// The store's data as a replica has it that follows no more.
    replica: Option<Model>,
}

/// What handles the calls of a run: it answers them, or has two dialogs of each.
fn application(calls_out: bool) -> Arc<dyn Application> {
    if !calls_out {
        return Arc::new(Counting::new());
    }
    let routes = format!(r#"[{{"target": "sip:{}"}}]"#, callee::ADDRESS);
    // No deadline of a run is so far away that it could be taken for one in another time (`compare`).
    from_json(&format!(
        r#"{{"b2bua": {{"routes": {routes}, "sessionExpires": "10m"}}}}"#
    ))
    .expect("an application")
}

impl World {
    fn new(seed: u64, broken: Broken, logging: bool) -> Self {
        let mut ctx = Context::new(seed, logging);
        ctx.loss = if ctx.rng.chance(50) { 0 } else { ctx.rng.range(1, 20) };
        let key = Key {
            id: 1,
            secret: *b"simulated secret",
        };
        let keyring = Arc::new(Keyring::new(key, &[], u32::from(PARTITIONS)));
        let calls_out = ctx.rng.chance(40);
        ctx.log(|| format!("calls out: {calls_out}"));
        let settings = Settings {
            keyring: keyring.clone(),
            advertised: "192.0.2.1:5060".to_owned(),
            application: application(calls_out),
        };
        let callers = Callers::new(&mut ctx, CALLS, PROXIES, STORM - 2_000 * MS);
        let faults = faults::plan(&mut ctx.rng, CONTAINERS, PROXIES, STORM);
        let member_faults = Faults {
            acts_from_memory_unasked: broken == Broken::MemoryUnasked,
            hands_over_unfenced: broken == Broken::HandOverUnfenced,
            claims_unasked: broken == Broken::ClaimsUnasked,
        };
        let mut store = StoreNode::new();
        store.answers_alone = broken == Broken::AnswersAlone;
        if broken == Broken::EpochComparison {
            store.model.stop_comparing_epochs();
        }
        if broken == Broken::HandOverUnfenced {
            store.model.stop_raising_epochs();
        }
        let output_first = broken == Broken::OutputFirst;
        let mut world = Self {
            containers: (0..SLOTS)
                .map(|i| Container::new(i, settings.clone(), member_faults, output_first))
                .collect(),
            proxies: (0..PROXIES)
                .map(|i| {
                    let mut proxy = Proxy::new(i, SLOTS, PROXIES, keyring.clone());
                    proxy.ignores_islands = broken == Broken::IslandsUnseen;
                    proxy
                })
                .collect(),
            store,
            callers,
            callees: Callees::new(PROXIES),
            faults,
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
        for index in 0..world.faults.len() {
            // Even numbers begin, odd ones end a fault.
            let (at, until) = (world.faults[index].at, world.faults[index].until);
            world.ctx.at(at, Happening::Fault(index * 2));
            world.ctx.at(until, Happening::Fault(index * 2 + 1));
        }
        world
    }

    /// Runs until then, or until something is wrong.
    fn run_until(&mut self, end: Micros) {
        while self.ctx.oracle.violation.is_none() {
            // What is on its way to the store at the very end arrives.
            let end = if self.is_writing() { end + LAST_WRITES } else { end };
            let Some(happening) = self.ctx.next(end) else { return };
            if self.ctx.now > STORM {
                self.ctx.loss = 0;
            }
            self.step(happening);
        }
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
            Happening::Datagram(from, to, Datagram::Sip(address, bytes)) => match to {
                Node::Proxy(i) => {
                    let i = in_their_group(i, |i| self.proxies[i].is_draining());
                    self.proxies[i].datagram(ctx, address, bytes);
                }
                _ if address == callee::address() => self.callees.handle(ctx, from, bytes),
                _ => self.callers.handle(ctx, from, bytes),
            },
            Happening::Datagram(..) => {}
            Happening::Wake(node) => {
                ctx.woken(node);
                match node {
                    Node::Callers => {
                        self.callers.wake(ctx);
                        self.callees.wake(ctx);
                    }
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

    fn is_writing(&self) -> bool {
        let mut living = self.containers.iter().filter_map(|c| c.process.as_ref());
        living.any(container::Process::is_writing)
    }

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
            // One serves, always.
            Kind::ProxyCrash(_) | Kind::ProxyDrain(_) if self.proxies.iter().filter(|p| p.serves()).count() < 2 => {}
            Kind::ProxyCrash(i) => self.proxies[*i].crash(ctx),
            Kind::ProxyDrain(i) => self.proxies[*i].drain(ctx),
            Kind::Pause(i) => self.containers[*i].pause(),
            Kind::ProxyPause(i) => self.proxies[*i].pause(),
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
            Kind::ProxyCrash(i) | Kind::ProxyDrain(i) if !self.proxies[*i].serves() => {
                self.proxies[*i].crash(ctx);
                self.proxies[*i].start(ctx);
            }
            Kind::ProxyCrash(_) | Kind::ProxyDrain(_) | Kind::Quiesce(_) => {}
            Kind::Pause(i) => self.containers[*i].resume(ctx),
            Kind::ProxyPause(i) => self.proxies[*i].resume(ctx),
            Kind::Cut(one, others) => others.iter().for_each(|other| ctx.unblock(*one, *other)),
            Kind::Isolate(i) => everybody_but(*i).for_each(|other| ctx.unblock(Node::Container(*i), other)),
            Kind::Island(i, proxy) => {
                island(*i, *proxy).for_each(|(one, other)| ctx.unblock(one, other));
                ctx.islands.retain(|cut_off| cut_off != proxy);
            }
            Kind::StoreAway => (0..SLOTS).for_each(|i| ctx.unblock(Node::Container(i), Node::Store)),
            Kind::StoreRestart | Kind::StoreFlush if !ctx.lives(Node::Store) => {
                self.era += 1;
                self.store.model.set_era(Era(self.era));
                ctx.start(Node::Store);
            }
            Kind::StoreRestart | Kind::StoreFlush => {}
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
            Kind::SlowNode(node, by) => *ctx.slow_nodes.entry(*node).or_default() -= by,
            Kind::Slow(by) => ctx.slow -= by,
        }
        (0..SLOTS).for_each(|i| self.replace_if_left(i));
    }

    /// The store loses what the replica does not have, or everything. What is in no owner's memory either is lost.
    fn forget(&mut self, replica: Option<Model>) {
        self.store.unite(&mut self.ctx, everybody());
        let mut remembered = Vec::new();
        let mut lost = Vec::new();
        for partition in (0..PARTITIONS).map(PartitionId) {
            let Some(stored) = self.store.model.partition(partition) else {
                continue;
            };
            // Only the present owner's memory is a copy.
            let processes = self.containers.iter().filter_map(|c| c.process.as_ref());
            let owner = processes.filter(|p| stored.owner == Some(p.member.incarnation()));
            let copy = owner
                .filter_map(|p| Some((p.member.incarnation(), p.memory(&self.ctx, partition)?)))
                .find(|(_, (epoch, ..))| *epoch == stored.epoch);
            match copy {
                Some((owner, (_, records, _))) => {
                    let calls = compare::calls(records.into_iter());
                    remembered.push((owner, partition, calls.into_iter().collect()));
                }
                None => {
                    let old = replica.as_ref().and_then(|replica| replica.partition(partition));
                    for known in [Some(stored), old].into_iter().flatten() {
                        lost.extend(compare::calls(compare::parsed(&known.records)));
                    }
                }
            }
        }
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

    /// Faults have ended a while ago: one owner each, as stored, the store equals memory, and every call has ended or is up.
    fn check_end(&mut self) {
        if self.ctx.oracle.violation.is_some() {
            return;
        }
        let mut wrong = self.callers.unfinished(&self.ctx);
        wrong.extend(self.callees.forlorn(&self.ctx, &self.callers));
        let mut up = std::collections::BTreeSet::new();
        for partition in (0..PARTITIONS).map(PartitionId) {
            let living = self.containers.iter().filter_map(|c| c.process.as_ref());
            let owners = living.filter_map(|p| {
                let (_, epoch) = p.member.held().find(|(held, _)| *held == partition)?;
                Some((p, epoch))
            });
            let owners: Vec<_> = owners.collect();
            let stored = self.store.model.partition(partition);
            let ([(owner, epoch)], Some(stored)) = (owners.as_slice(), stored) else {
                wrong.push(format!("{partition} has {} owners, stored {stored:?}", owners.len()));
                continue;
            };
            let memory = owner.memory(&self.ctx, partition).filter(|(e, ..)| e == epoch);
            let Some((_, records, ripe)) = memory else {
                wrong.push(format!("{partition}: the engine does not know that it is its own"));
                continue;
            };
            if (stored.owner, stored.epoch) != (Some(owner.member.incarnation()), *epoch) {
                wrong.push(format!("{partition}: the store knows another owner or epoch"));
                continue;
            }
            let differences = compare::differences(&records, ripe, &stored.records);
            self.ctx.oracle.seen.compared += records.len() as u64;
            wrong.extend(differences.into_iter().map(|what| format!("{partition}: {what}")));
            up.extend(compare::calls(records.into_iter()));
        }
        let lost = self.callers.staying().filter(|call| !up.contains(call));
        let lost = lost.filter(|call| !self.ctx.oracle.excused.contains(call));
        wrong.extend(lost.map(|call| format!("call {call} is up, and nobody knows it")));
        if !wrong.is_empty() {
            self.ctx.oracle.fail(format!("at the end: {}", wrong.join("; ")));
        }
    }
}

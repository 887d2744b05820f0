//! What goes wrong in a run, drawn from its seed: with a beginning, and an end before the quiet time.

use super::net::{MS, Micros, Node};
use super::rng::Rng;

/// Something that goes wrong, and until when.
#[derive(Clone, Debug)]
pub struct Fault {
    /// When it begins.
    pub at: Micros,
    /// When it ends.
    pub until: Micros,
    /// What.
    pub kind: Kind,
}

/// What may go wrong.
#[derive(Clone, Debug, PartialEq)]
pub enum Kind {
    /// `kill -9` of containers, all at once; they start again at the end.
    Crash(Vec<usize>),
    /// A container stands still.
    Pause(usize),
    /// A place cannot reach these others.
    Cut(Node, Vec<Node>),
    /// A container reaches nobody, but its callers' proxies may be named.
    Isolate(usize),
    /// A container and a proxy reach nobody but one another and callers: their node is lost.
    Island(usize, usize),
    /// The store reaches nobody.
    StoreAway,
    /// The store's process ends, with its data kept, as a failover does; it starts again at the end.
    StoreRestart,
    /// The same, and all data is lost.
    StoreFlush,
    /// All data is lost while the process runs on and its connections stand. Not generated: who joins while an owner is silent hears of it from
    /// nobody.
    StoreErased,
    /// The store's clock is wrong by so many milliseconds.
    StoreClock(i64),
    /// A replica that has followed the store up to the beginning becomes the store at the end: the writes, claims and members between are gone.
    StorePromoted,
    /// The store's master is cut off from its replicas, and one of them is promoted: two masters, until the former follows the other.
    TwoMasters {
        /// The container that reaches only the former.
        apart: usize,
        /// Whether it reaches no other container either.
        alone: bool,
    },
    /// The store has no room for records: leases and claims run, writes fail.
    StoreFull,
    /// A proxy dies and starts again.
    ProxyCrash(usize),
    /// A proxy stands still.
    ProxyPause(usize),
    /// A proxy is told to end: it takes nothing more, has what it took confirmed, and ends; it starts again at the end.
    ProxyDrain(usize),
    /// A container is told to leave, then starts anew.
    Quiesce(usize),
    /// One more container starts; it is told to leave at the end.
    ScaleUp,
    /// A container is told to leave; another of its name starts at the end.
    ScaleDown(usize),
    /// A container or the store is slow: whatever it is sent and sends is late.
    SlowNode(Node, Micros),
    /// Everything is late.
    Slow(Micros),
}

const HOUR: i64 = 3_600_000;

const SECOND: Micros = 1_000 * MS;

/// A client has repeated a request twice by then (500 ms and 1 s after the last).
const REPEATED: Micros = 1_500 * MS;

/// The faults of a run that lasts until `end`.
pub fn plan(rng: &mut Rng, containers: usize, proxies: usize, end: Micros) -> Vec<Fault> {
    if rng.chance(8) {
        return vec![island(rng, containers, proxies, end)];
    }
    let mut faults = Vec::new();
    for _ in 0..rng.range(1, 6) {
        let at = rng.range(1_500 * MS, end - 500 * MS);
        let long = match rng.range(0, 3) {
            0 => rng.range(50 * MS, 700 * MS),
            1 => rng.range(500 * MS, 4_000 * MS),
            _ => rng.range(2_000 * MS, 9_000 * MS),
        };
        let until = (at + long).min(end);
        if rng.chance(75) {
            let kind = harm(rng, containers, proxies);
            faults.push(Fault { at, until, kind });
        }
        // Of those who plan a move nobody knows what goes wrong meanwhile.
        if rng.chance(40) {
            let at = rng.range(at, until);
            faults.extend(moves(rng, containers, proxies, at, until));
        }
    }
    faults.retain(|fault| fault.at < end);
    // Given up: a store that forgets while a container is silent and all who knew of it leave. Whoever comes then is told of nobody, and takes
    // what the silent one still has.
    let is_silent = |fault: &Fault| matches!(fault.kind, Kind::Pause(_) | Kind::Cut(..) | Kind::Isolate(_));
    let leave = |fault: &Fault| match &fault.kind {
        Kind::Quiesce(_) | Kind::ScaleDown(_) => 1,
        Kind::Crash(all) => all.len(),
        _ => 0,
    };
    if faults.iter().any(is_silent) && faults.iter().map(leave).sum::<usize>() + 1 >= containers {
        faults.retain(|fault| !matches!(fault.kind, Kind::StoreFlush | Kind::StorePromoted));
    }
    // Given up too: a proxy that ends while a cut keeps a container from all. Nobody else knows what it had given that container and what its clients
    // repeat elsewhere (docs/decisions/2026-11-islands.md).
    let cuts: Vec<_> = faults.iter().flat_map(|fault| cuts(fault, proxies)).collect();
    let is_cut = |container, proxy, begins: Micros, ends: Micros| {
        let mut between = cuts
            .iter()
            .filter(|cut| (cut.container, cut.proxy) == (container, proxy));
        between.any(|cut| cut.at <= ends && begins < cut.until + REPEATED)
    };
    let is_hidden = |begins, ends| {
        let reaches_none = |container| (0..proxies).all(|proxy| is_cut(container, proxy, begins, ends));
        (0..=containers).any(reaches_none)
    };
    faults.retain(|fault| match fault.kind {
        Kind::ProxyCrash(_) => !is_hidden(fault.at, fault.at),
        Kind::ProxyDrain(_) => !is_hidden(fault.at, fault.until),
        _ => true,
    });
    faults.sort_by_key(|f| f.at);
    faults
}

/// That a container and a proxy do not reach one another.
struct CutOff {
    container: usize,
    proxy: usize,
    at: Micros,
    until: Micros,
}

fn cuts(fault: &Fault, proxies: usize) -> Vec<CutOff> {
    let cut = |container, proxy| CutOff {
        container,
        proxy,
        at: fault.at,
        until: fault.until,
    };
    match &fault.kind {
        Kind::Isolate(container) => (0..proxies).map(|proxy| cut(*container, proxy)).collect(),
        Kind::Cut(Node::Container(container), from) => {
            let proxies = from.iter().filter_map(|node| match node {
                Node::Proxy(proxy) => Some(cut(*container, *proxy)),
                _ => None,
            });
            proxies.collect()
        }
        _ => Vec::new(),
    }
}

/// What nobody wants.
fn harm(rng: &mut Rng, containers: usize, proxies: usize) -> Kind {
    let container = rng.index(containers);
    match rng.range(0, 20) {
        0 | 1 => Kind::Crash(vec![container]),
        // The one more that there may be is among them.
        2 => Kind::Crash((0..=containers).collect()),
        3 => Kind::Crash((0..=containers).filter(|i| *i != container).collect()),
        4 | 5 => Kind::Pause(container),
        6..=9 => cut(rng, containers, proxies),
        10 => Kind::StoreAway,
        11..=14 => store(rng, containers),
        15 => Kind::ProxyCrash(rng.index(proxies)),
        16 => Kind::ProxyPause(rng.index(proxies)),
        17 => Kind::SlowNode(Node::Container(container), rng.range(MS, 60 * MS)),
        _ => Kind::Slow(rng.range(MS, 60 * MS)),
    }
}

fn cut(rng: &mut Rng, containers: usize, proxies: usize) -> Kind {
    let container = rng.index(containers);
    let all_proxies = || (0..proxies).map(Node::Proxy);
    let from = match rng.range(0, 7) {
        0 => vec![Node::Store],
        1 => vec![Node::Proxy(rng.index(proxies))],
        2 => vec![Node::Container((container + 1) % containers)],
        3 => all_proxies().collect(),
        4 => all_proxies().chain([Node::Store]).collect(),
        5 => return Kind::Cut(Node::Proxy(0), vec![Node::Proxy(1 % proxies)]),
        _ => return Kind::Isolate(container),
    };
    Kind::Cut(Node::Container(container), from)
}

fn store(rng: &mut Rng, containers: usize) -> Kind {
    match rng.range(0, 8) {
        0 => Kind::StoreFlush,
        1 => Kind::StoreFull,
        2 => Kind::StorePromoted,
        3 => Kind::StoreClock(if rng.chance(50) { HOUR } else { -HOUR }),
        // Twice that: a command takes longer than a turn, or than may be waited for it.
        4 => Kind::SlowNode(Node::Store, rng.range(20 * MS, 150 * MS)),
        5 => Kind::TwoMasters {
            apart: rng.index(containers + 1),
            alone: rng.chance(50),
        },
        _ => Kind::StoreRestart,
    }
}

/// What is done on purpose, one thing or one after the other.
fn moves(rng: &mut Rng, containers: usize, proxies: usize, at: Micros, until: Micros) -> Vec<Fault> {
    let container = rng.index(containers);
    let kind = match rng.range(0, 5) {
        0 => Kind::Quiesce(container),
        1 => Kind::ScaleUp,
        2 => Kind::ScaleDown(container),
        3 => Kind::ProxyDrain(rng.index(proxies)),
        _ => return rolling_restart(rng, containers, at),
    };
    vec![Fault { at, until, kind }]
}

/// Every container is told to leave and starts anew, in turn.
fn rolling_restart(rng: &mut Rng, containers: usize, begin: Micros) -> Vec<Fault> {
    let pause = rng.range(500 * MS, 3_000 * MS);
    let starts = (0..).map(|turn| begin + pause * turn).zip(0..containers);
    let quiesce = |(at, container)| Fault {
        at,
        until: at,
        kind: Kind::Quiesce(container),
    };
    starts.map(quiesce).collect()
}

/// An island, and nothing else: beside other faults a call may be doubled, because what one side has begun is lost with whoever could have told the
/// other. So it may if it is short: its container may still own what it owned, and nobody heard of what began there.
fn island(rng: &mut Rng, containers: usize, proxies: usize, end: Micros) -> Fault {
    let long = rng.range(4 * SECOND, 9 * SECOND);
    let at = rng.range(1_500 * MS, end - long);
    Fault {
        at,
        until: at + long,
        kind: Kind::Island(rng.index(containers), rng.index(proxies)),
    }
}

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
    /// `kill -9` of a container; it starts again at the end.
    Crash(usize),
    /// A container stands still.
    Pause(usize),
    /// Two places cannot reach one another.
    Cut(Node, Node),
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
    /// A container is told to leave, then starts anew.
    Quiesce(usize),
    /// One more container starts; it is told to leave at the end.
    ScaleUp,
    /// A container is told to leave; another of its name starts at the end.
    ScaleDown(usize),
    /// A container is slow: whatever it is sent and sends is late.
    SlowContainer(usize, Micros),
    /// Everything is late.
    Slow(Micros),
}

const HOUR: i64 = 3_600_000;

const SECOND: Micros = 1_000 * MS;

/// The faults of a run that lasts until `end`.
pub fn plan(rng: &mut Rng, containers: usize, proxies: usize, end: Micros) -> Vec<Fault> {
    if rng.chance(8) {
        return vec![island(rng, containers, proxies, end)];
    }
    let count = rng.range(1, 6);
    let mut faults = Vec::new();
    for _ in 0..count {
        let at = rng.range(1_500 * MS, end - 500 * MS);
        let long = match rng.range(0, 3) {
            0 => rng.range(50 * MS, 700 * MS),
            1 => rng.range(500 * MS, 4_000 * MS),
            _ => rng.range(2_000 * MS, 9_000 * MS),
        };
        let container = rng.index(containers);
        let node = Node::Container(container);
        let kind = match rng.range(0, 23) {
            0..=2 => Kind::Crash(container),
            3 | 4 => Kind::Pause(container),
            5 => Kind::Cut(node, Node::Store),
            6 => Kind::Cut(node, Node::Proxy(rng.index(proxies))),
            7 => Kind::Cut(node, Node::Container((container + 1) % containers)),
            8 => Kind::Isolate(container),
            9 | 10 => Kind::StoreAway,
            11 | 15 | 18 => match rng.range(0, 5) {
                0 => Kind::StoreFlush,
                1 => Kind::StoreFull,
                2 => Kind::StorePromoted,
                3 => Kind::StoreClock(if rng.chance(50) { HOUR } else { -HOUR }),
                _ => Kind::StoreRestart,
            },
            12 => Kind::ProxyCrash(rng.index(proxies)),
            13 => Kind::ProxyPause(rng.index(proxies)),
            14 => Kind::Quiesce(container),
            19 => Kind::ScaleUp,
            20 => Kind::ScaleDown(container),
            21 => Kind::Cut(Node::Proxy(0), Node::Proxy(1 % proxies)),
            22 => Kind::TwoMasters {
                apart: rng.index(containers + 1),
                alone: rng.chance(50),
            },
            16 => Kind::SlowContainer(container, rng.range(MS, 60 * MS)),
            _ => Kind::Slow(rng.range(MS, 60 * MS)),
        };
        faults.push(Fault {
            at,
            until: (at + long).min(end),
            kind,
        });
    }
    faults.sort_by_key(|f| f.at);
    faults
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

//! Every fault under every application, with calls up: a cell each, one table of all.
//!
//! A [`Cell`] names its application and its fault and is run by [`Cell::run`]: a cluster is started, [`traffic`] stands and rings, the fault
//! happens while new calls come, the cluster is whole again, everything is asked. [`cells`] is the list.

mod cuts;
mod faults;
mod planned;
mod store;
mod table;
mod traffic;

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::callee::Callees;
use super::caller::{Caller, Transport};
use super::cluster::{Cluster, External, Manifest};
use super::network::Network;
use super::redis::Watched;
pub use table::{main, report};
pub use traffic::{Load, Tally, Traffic};

/// Longer than any cluster needs to be whole again, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(40);

/// What handles the calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Application {
    /// Rings, answers, holds.
    Answer,
    /// Calls a callee and connects both; the callee rings and answers.
    B2bua,
}

impl Application {
    /// As the manifest names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Answer => "answer",
            Self::B2bua => "b2bua",
        }
    }
}

/// What happens, and where.
#[derive(Clone, Copy)]
pub enum Fault {
    /// To processes of one machine, which `sipcluster up` starts again.
    Machine(fn(&Cluster) -> anyhow::Result<()>),
    /// The same with a Redis whose clock can be set.
    Clock(fn(&Cluster, &faults::Clock) -> anyhow::Result<()>),
    /// The same with a Redis that can be harmed.
    Store(fn(&Cluster, &mut store::Store, Load) -> anyhow::Result<()>),
    /// The same with two of it, a master that has a replica.
    Replicated(fn(&Cluster, &mut store::Store, Load) -> anyhow::Result<()>),
    /// The same with three of it that Sentinels watch.
    Watched(fn(&Cluster, &mut Watched, Load) -> anyhow::Result<()>),
    /// To the network between nodes.
    Network(fn(&mut Network) -> anyhow::Result<()>),
    /// The same, and a balancer sends each repetition of a datagram to another proxy than the one before.
    Balanced(fn(&mut Network) -> anyhow::Result<()>),
}

/// What is asked of a cell.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Today {
    /// Nothing is lost, and nothing is refused.
    Holds,
    /// Nothing is lost, but new calls are refused while no container is there to take them.
    Refuses,
}

/// One row of the table.
#[derive(Clone, Copy)]
pub struct Cell {
    /// Who handles the calls.
    pub application: Application,
    /// The fault in a few words; with the application's name it is the cell's.
    pub name: &'static str,
    /// What makes it.
    pub fault: Fault,
    /// What is expected.
    pub today: Today,
    /// The longest wait for an answer that is accepted, debug builds on a busy machine included.
    pub worst: Duration,
}

/// What came out of a cell.
#[derive(Clone, Debug)]
pub struct Row {
    /// Of the calls.
    pub tally: Tally,
    /// From the fault's beginning until the cluster was whole again.
    pub whole: Duration,
}

/// A cluster that a cell's fault happens to.
enum Site {
    Machine(Cluster, Beside),
    Network(Network),
}

/// What a test runs beside a cluster of one machine.
enum Beside {
    Nothing,
    Clock(faults::Clock),
    Store(Box<store::Store>),
    Watched(Watched),
}

impl Cell {
    /// The cell's name.
    #[must_use]
    pub fn title(&self) -> String {
        format!("{}: {}", self.application.name(), self.name)
    }

    /// Runs it; the `number`th of the list has addresses of its own.
    pub fn run(&self, number: u8, load: Load, transport: Transport) -> anyhow::Result<Row> {
        let name = format!("matrix-{number}");
        let callees = self.callees(number);
        let manifest = Manifest {
            // A handful of names in the life of a test.
            name: name.leak(),
            address: [130, number + 1],
            ring: "3s",
            // Nobody refreshes; none shall end by itself.
            session: "30m",
            b2bua: (self.application == Application::B2bua).then(|| callees.to_string()),
            ..Manifest::default()
        };
        let mut site = Site::start(self.fault, manifest)?;
        // With `answer` nobody calls them.
        let _callees = site.callees(callees, load.ring)?;
        let traffic = site.traffic(load, transport, matches!(self.fault, Fault::Balanced(_)))?;
        let begun = Instant::now();
        self.happen(&mut site, load)?;
        site.settle().context("whole again")?;
        let whole = begun.elapsed();
        site.two_copies().with_context(|| site.logs())?;
        let tally = traffic.finish().with_context(|| site.logs())?;
        site.is_empty().with_context(|| format!("{tally:?}"))?;
        let row = Row { tally, whole };
        self.judge(&row).with_context(|| site.logs())?;
        Ok(row)
    }

    /// Where this cell's callees are.
    fn callees(&self, number: u8) -> SocketAddr {
        match self.fault {
            Fault::Network(_) | Fault::Balanced(_) => SocketAddr::from((Network::CALLERS, 5070)),
            _ => SocketAddr::from((Ipv4Addr::new(127, 0, 133, number + 1), 5070)),
        }
    }

    fn happen(&self, site: &mut Site, load: Load) -> anyhow::Result<()> {
        match (self.fault, site) {
            (Fault::Machine(happen), Site::Machine(cluster, _)) => happen(cluster),
            (Fault::Clock(happen), Site::Machine(cluster, Beside::Clock(clock))) => happen(cluster, clock),
            (Fault::Store(happen) | Fault::Replicated(happen), Site::Machine(cluster, Beside::Store(store))) => {
                happen(cluster, store, load)
            }
            (Fault::Watched(happen), Site::Machine(cluster, Beside::Watched(redis))) => happen(cluster, redis, load),
            (Fault::Network(happen) | Fault::Balanced(happen), Site::Network(network)) => happen(network),
            _ => unreachable!("the site is made for the fault"),
        }
    }

    fn judge(&self, Row { tally, .. }: &Row) -> anyhow::Result<()> {
        let (worst, method) = tally.worst;
        let late = worst > self.worst;
        let holds = tally.lost == 0 && tally.refused == 0 && tally.deferred == 0 && !late;
        match self.today {
            Today::Holds => ensure!(holds, "{method} answered after {worst:?} at worst; {tally:?}"),
            Today::Refuses => ensure!(
                tally.lost == 0 && !late,
                "{method} answered after {worst:?} at worst; {tally:?}"
            ),
        }
        Ok(())
    }
}

impl Site {
    fn start(fault: Fault, manifest: Manifest) -> anyhow::Result<Self> {
        let (beside, redis) = match fault {
            Fault::Network(_) | Fault::Balanced(_) => return Ok(Self::Network(Network::start(manifest)?)),
            Fault::Machine(_) => (Beside::Nothing, None),
            Fault::Clock(_) => {
                let clock = faults::Clock::start(&manifest)?;
                let redis = clock.redis();
                (Beside::Clock(clock), Some(redis.into()))
            }
            Fault::Store(_) | Fault::Replicated(_) => {
                let store = store::Store::start(&manifest, matches!(fault, Fault::Replicated(_)))?;
                let redis = store.external();
                (Beside::Store(Box::new(store)), Some(redis))
            }
            Fault::Watched(_) => {
                let watched = store::watched(&manifest)?;
                let (url, instances) = (watched.url(), watched.instances());
                (
                    Beside::Watched(watched),
                    Some(External {
                        url,
                        instances,
                        ca: None,
                    }),
                )
            }
        };
        Ok(Self::Machine(Cluster::start(Manifest { redis, ..manifest })?, beside))
    }

    fn traffic(&self, load: Load, transport: Transport, balanced: bool) -> anyhow::Result<Traffic> {
        // As many ports as make both proxies and all workers of each have their part.
        const SLOTS: usize = 32;
        match self {
            Self::Machine(cluster, _) => {
                let (local, target) = (cluster.caller_address(), cluster.address());
                Traffic::start(load, move || Caller::new(transport, local, target, SLOTS))
            }
            Self::Network(network) => {
                let (place, proxies, target) = (network.callers(), network.proxies(), network.address());
                Traffic::start(load, move || {
                    place.enter()?;
                    let mut caller = Caller::through(&proxies, transport, place.address.into(), target, SLOTS)?;
                    if balanced {
                        caller.balance_repetitions();
                    }
                    Ok(caller)
                })
            }
        }
    }

    fn callees(&self, at: SocketAddr, ring: Duration) -> anyhow::Result<Callees> {
        match self {
            Self::Machine(..) => Callees::start(at, ring),
            Self::Network(network) => network.callers().within(|| Callees::start(at, ring)),
        }
    }

    fn settle(&self) -> anyhow::Result<()> {
        match self {
            Self::Machine(cluster, _) => cluster.settle(LIMIT).map(drop),
            Self::Network(network) => network.settle(LIMIT).map(drop),
        }
    }

    /// Redis has again what the containers hold, so that the next fault loses nothing either.
    fn two_copies(&self) -> anyhow::Result<()> {
        match self {
            Self::Machine(cluster, _) => cluster.copies()?.until_equal(LIMIT).map(drop),
            Self::Network(network) => network.two_copies(LIMIT).map(drop),
        }
    }

    /// Every call has been ended: a dialog that is left belongs to a call that was doubled.
    fn is_empty(&self) -> anyhow::Result<()> {
        let what = "no dialog is left";
        match self {
            Self::Machine(cluster, _) => cluster.until(what, LIMIT, |status| status.dialogs() == 0).map(drop),
            Self::Network(network) => network
                .until(what, LIMIT, |containers| {
                    containers.iter().all(|part| part.dialogs == Some(0))
                })
                .map(drop),
        }
    }

    fn logs(&self) -> String {
        match self {
            Self::Machine(cluster, _) => cluster.logs(),
            Self::Network(network) => network.logs(),
        }
    }
}

/// The applications that are put to it.
const APPLICATIONS: &[Application] = &[Application::Answer, Application::B2bua];

/// All cells, application by application.
pub fn cells() -> Vec<Cell> {
    let each = APPLICATIONS.iter();
    each.flat_map(|application| {
        let of = [faults::cells, cuts::cells, store::cells, planned::cells];
        of.map(|cells| cells(*application)).concat()
    })
    .collect()
}

/// Cells of `b2bua` in `make test`: one of each kind of fault.
const OF_B2BUA: &[&str] = &[
    "container killed",
    "container frozen past its lease",
    "proxy killed",
    "container cut off from Redis and all proxies",
    "Redis killed, back empty",
    "scaled from three containers to four and back",
];

impl Cell {
    /// Whether `make test` runs it; `make report` runs all. What befalls Redis and what is moved on purpose has tests of its own for `answer`.
    #[must_use]
    fn is_of_every_test(&self) -> bool {
        match self.application {
            Application::Answer => self.is_one_of(faults::cells) || self.is_one_of(cuts::cells),
            Application::B2bua => OF_B2BUA.contains(&self.name),
        }
    }

    fn is_one_of(&self, cells: fn(Application) -> Vec<Self>) -> bool {
        cells(self.application).iter().any(|cell| cell.name == self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_runs_cells_that_exist() {
        let of_every_test = |application| {
            let of = move |cell: &Cell| cell.application == application && cell.is_of_every_test();
            cells().into_iter().filter(of).count()
        };
        assert_eq!(of_every_test(Application::B2bua), OF_B2BUA.len());
        assert_eq!(of_every_test(Application::Answer), 22);
    }
}

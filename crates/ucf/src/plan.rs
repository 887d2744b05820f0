//! What to do next so that a cluster becomes what its manifest says: a pure function of what is wanted and what is observed.
//!
//! `sipcluster up` asks it about processes, the operator about pods; both perform its steps and ask again whenever an observation changed or
//! [`Plan::again`] has come. The planner remembers nothing, so it goes on from any state, whoever began.
//!
//! - What failed is started again as soon as it may: that is repair, not a planned move, and waits for no gate.
//! - The first containers of a cluster start together, for nobody has a call yet. Later ones come one at a time: each must be ready, admitted,
//!   handed its share, caught up in replication and settled before the next.
//! - Containers and proxies are taken away one at a time, and only while all others are settled and every partition has its owner: never is a
//!   second container away while one is not fully active. Scaling down takes the highest ordinal; a rollout takes an inactive one first.
//! - What is waited for is named ([`Gate`]), so that a stuck move can be shown.

use std::fmt;
use std::time::Duration;

pub use sip::Instant;

/// How long a container must have been active before it counts as settled: several load reports and a ramp-up of its share of new calls.
pub const SETTLE: Duration = Duration::from_secs(1);

/// What the manifest wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Wanted {
    /// Containers, with the ordinals below this.
    pub containers: u16,
    /// Proxies, with the ordinals below this.
    pub proxies: u16,
    /// Whether the cluster runs a Redis of its own.
    pub redis: bool,
    /// Changes with every change that needs a restart; what runs at another revision is replaced.
    pub revision: u64,
}

/// What is there; whoever is not listed does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The cluster's own Redis.
    pub redis: Option<Life>,
    /// Containers, in any order.
    pub containers: Vec<Part>,
    /// Proxies, in any order.
    pub proxies: Vec<Part>,
    /// Partitions that no container says it owns: they are being handed over or claimed.
    pub unowned: u32,
}

/// A container or a proxy as it is observed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its number; names are `<cluster>-<ordinal>`.
    pub ordinal: u16,
    /// The revision it was started at.
    pub revision: u64,
    /// Where it stands.
    pub life: Life,
}

/// Where a part stands between its start and its end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Life {
    /// It ended by itself and may be started again from then on (backoff).
    Failed {
        /// When.
        again: Instant,
    },
    /// It was started and does not answer yet, or no more.
    Unready,
    /// It answers, and is not yet admitted or not yet handed its share. Proxies and Redis pass over this.
    Joining,
    /// It works.
    Active {
        /// Since when without a break.
        since: Instant,
        /// All that it holds has its second copy.
        replicated: bool,
    },
    /// It was told to leave: it hands over what it has, then ends.
    Leaving,
}

/// Something to do now.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Step {
    /// Start the cluster's own Redis.
    StartRedis,
    /// Start the proxy of this ordinal.
    StartProxy(u16),
    /// Start the container of this ordinal.
    StartContainer(u16),
    /// Tell this container to hand everything over and to leave.
    QuiesceContainer(u16),
    /// Tell this proxy to drain and to leave.
    DrainProxy(u16),
}

/// What the next step waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gate {
    /// Redis must answer.
    Redis,
    /// This part must answer.
    Ready(Who),
    /// This container must be admitted and handed its share of the partitions.
    Share(Who),
    /// All that this container holds must have its second copy.
    Replication(Who),
    /// This container must have been active for [`SETTLE`].
    Settled(Who),
    /// Every partition must have an owner.
    Owners {
        /// How many have none.
        unowned: u32,
    },
    /// This part must have handed over what it has, and ended.
    Gone(Who),
    /// This part ended by itself and will be started again.
    Backoff(Who),
}

/// A part by its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Who {
    /// The cluster's own Redis.
    Redis,
    /// A proxy.
    Proxy(u16),
    /// A container.
    Container(u16),
}

/// The answer.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// To be done now, in this order.
    pub steps: Vec<Step>,
    /// What the cluster waits for; `None` if it is as wanted, or will be when the steps are done.
    pub gate: Option<Gate>,
    /// When to ask again even if nothing changes.
    pub again: Option<Instant>,
}

/// Computes what comes next.
#[must_use]
pub fn plan(now: Instant, wanted: &Wanted, observed: &Observed) -> Plan {
    let mut plan = Plan::default();
    let redis_serves = plan.redis(now, wanted, observed);
    plan.start_proxies(now, wanted, observed);
    plan.start_containers(now, wanted, observed, redis_serves);
    plan.take_away(now, wanted, observed);
    plan
}

impl Plan {
    /// Whether nothing is left to do or to wait for.
    #[must_use]
    pub fn is_done(&self) -> bool {
        self.steps.is_empty() && self.gate.is_none()
    }

    /// Redis comes first: a container cannot join without it. One that serves calls from memory meanwhile is left alone.
    fn redis(&mut self, now: Instant, wanted: &Wanted, observed: &Observed) -> bool {
        if !wanted.redis {
            return true;
        }
        match observed.redis {
            Some(Life::Active { .. }) => return true,
            Some(Life::Failed { again }) if again > now => {
                self.wait(Gate::Backoff(Who::Redis));
                self.ask_again(again);
            }
            Some(Life::Failed { .. }) | None => {
                self.steps.push(Step::StartRedis);
                self.wait(Gate::Redis);
            }
            Some(Life::Unready | Life::Joining | Life::Leaving) => self.wait(Gate::Redis),
        }
        false
    }

    /// A proxy that starts holds nothing yet, so all that are missing start at once.
    fn start_proxies(&mut self, now: Instant, wanted: &Wanted, observed: &Observed) {
        for ordinal in 0..wanted.proxies {
            let life = observed
                .proxies
                .iter()
                .find(|part| part.ordinal == ordinal)
                .map(|part| part.life);
            match life {
                None => self.steps.push(Step::StartProxy(ordinal)),
                Some(Life::Failed { again }) => self.restart(now, again, Who::Proxy(ordinal)),
                Some(_) => {}
            }
        }
    }

    fn start_containers(&mut self, now: Instant, wanted: &Wanted, observed: &Observed, redis_serves: bool) {
        if !redis_serves {
            return;
        }
        let life = |ordinal| {
            observed
                .containers
                .iter()
                .find(|part| part.ordinal == ordinal)
                .map(|part| part.life)
        };
        for ordinal in 0..wanted.containers {
            if let Some(Life::Failed { again }) = life(ordinal) {
                self.restart(now, again, Who::Container(ordinal));
            }
        }
        let mut missing = (0..wanted.containers).filter(|ordinal| life(*ordinal).is_none());
        let somebody_is_active = observed
            .containers
            .iter()
            .any(|part| matches!(part.life, Life::Active { .. }));
        if !somebody_is_active {
            self.steps.extend(missing.map(Step::StartContainer));
        } else if let Some(ordinal) = missing.next() {
            match self.unsettled_container(now, wanted, observed, None) {
                Some(gate) => self.wait(gate),
                None => self.steps.push(Step::StartContainer(ordinal)),
            }
        }
    }

    /// At most one part at a time. One that does not answer may go at once, since it is away already: otherwise a manifest that repairs what
    /// keeps parts from working could not be rolled out. Any other waits until nothing is missing and all the rest is settled.
    fn take_away(&mut self, now: Instant, wanted: &Wanted, observed: &Observed) {
        let parts = || observed.containers.iter().chain(&observed.proxies);
        let someone_leaves = parts().any(|part| part.life == Life::Leaving);
        let container = superfluous(&observed.containers, wanted.containers, wanted.revision);
        let proxy = superfluous(&observed.proxies, wanted.proxies, wanted.revision);
        let step = match (container, proxy) {
            (Some(part), _) if part.life == Life::Unready => Some(Step::QuiesceContainer(part.ordinal)),
            (_, Some(part)) if part.life == Life::Unready => Some(Step::DrainProxy(part.ordinal)),
            _ => None,
        };
        if let (Some(step), false) = (step, someone_leaves) {
            self.steps.push(step);
            return;
        }
        if self.gate.is_some() || !self.steps.is_empty() {
            return;
        }
        let leaving = container.or(proxy);
        let unsettled = self
            .unsettled_container(now, wanted, observed, container)
            .or_else(|| unsettled_proxy(wanted, observed, if container.is_none() { proxy } else { None }));
        match (unsettled, leaving) {
            (Some(gate), _) => self.wait(gate),
            (None, None) => {}
            (None, Some(part)) if container.is_some() => self.steps.push(Step::QuiesceContainer(part.ordinal)),
            (None, Some(part)) => self.steps.push(Step::DrainProxy(part.ordinal)),
        }
    }

    fn restart(&mut self, now: Instant, again: Instant, who: Who) {
        if again > now {
            self.wait(Gate::Backoff(who));
            self.ask_again(again);
            return;
        }
        match who {
            Who::Redis => self.steps.push(Step::StartRedis),
            Who::Proxy(ordinal) => self.steps.push(Step::StartProxy(ordinal)),
            Who::Container(ordinal) => self.steps.push(Step::StartContainer(ordinal)),
        }
    }

    /// The gate of the first container, other than `except`, that is not fully active; or that of partitions without an owner.
    fn unsettled_container(
        &mut self,
        now: Instant,
        wanted: &Wanted,
        observed: &Observed,
        except: Option<&Part>,
    ) -> Option<Gate> {
        let others = observed
            .containers
            .iter()
            .filter(|part| Some(*part) != except && !part.is_over(wanted.containers));
        for part in others {
            let who = Who::Container(part.ordinal);
            let gate = match part.life {
                Life::Failed { .. } => Gate::Backoff(who),
                Life::Unready => Gate::Ready(who),
                Life::Joining => Gate::Share(who),
                Life::Leaving => Gate::Gone(who),
                Life::Active { replicated: false, .. } => Gate::Replication(who),
                Life::Active { since, .. } if since + SETTLE > now => {
                    self.ask_again(since + SETTLE);
                    Gate::Settled(who)
                }
                Life::Active { .. } => continue,
            };
            return Some(gate);
        }
        let unowned = observed.unowned;
        (unowned > 0).then_some(Gate::Owners { unowned })
    }

    /// The first thing that is waited for is the one that is named.
    fn wait(&mut self, gate: Gate) {
        self.gate.get_or_insert(gate);
    }

    fn ask_again(&mut self, at: Instant) {
        self.again = Some(self.again.map_or(at, |earlier| earlier.min(at)));
    }
}

impl Part {
    /// It ended, and nobody wants it back.
    fn is_over(&self, wanted: u16) -> bool {
        self.ordinal >= wanted && matches!(self.life, Life::Failed { .. })
    }
}

/// The part to be taken away next: of those that are not wanted or of another revision, one that does not answer; else the highest that is
/// not wanted; else the highest of another revision, an inactive one first.
fn superfluous(parts: &[Part], wanted: u16, revision: u64) -> Option<&Part> {
    let living = parts
        .iter()
        .filter(|part| !matches!(part.life, Life::Failed { .. } | Life::Leaving));
    let candidates = living.filter(|part| part.ordinal >= wanted || part.revision != revision);
    candidates.max_by_key(|part| {
        let inactive = !matches!(part.life, Life::Active { .. });
        (
            part.life == Life::Unready,
            part.ordinal >= wanted,
            inactive,
            part.ordinal,
        )
    })
}

/// The gate of the first proxy, other than `except`, that does not work.
fn unsettled_proxy(wanted: &Wanted, observed: &Observed, except: Option<&Part>) -> Option<Gate> {
    let mut others = observed
        .proxies
        .iter()
        .filter(|part| Some(*part) != except && !part.is_over(wanted.proxies));
    others.find_map(|part| {
        let who = Who::Proxy(part.ordinal);
        match part.life {
            Life::Failed { .. } => Some(Gate::Backoff(who)),
            Life::Unready | Life::Joining => Some(Gate::Ready(who)),
            Life::Leaving => Some(Gate::Gone(who)),
            Life::Active { .. } => None,
        }
    })
}

impl fmt::Display for Who {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis => f.write_str("redis"),
            Self::Proxy(ordinal) => write!(f, "proxy-{ordinal}"),
            Self::Container(ordinal) => write!(f, "container-{ordinal}"),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match *self {
            Self::StartRedis => write!(f, "{} is being started", Who::Redis),
            Self::StartProxy(ordinal) => write!(f, "{} is being started", Who::Proxy(ordinal)),
            Self::StartContainer(ordinal) => write!(f, "{} is being started", Who::Container(ordinal)),
            Self::QuiesceContainer(ordinal) => {
                write!(f, "{} is told to hand over and to leave", Who::Container(ordinal))
            }
            Self::DrainProxy(ordinal) => write!(f, "{} is told to drain and to leave", Who::Proxy(ordinal)),
        }
    }
}

impl fmt::Display for Gate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Redis => write!(f, "redis does not answer yet"),
            Self::Ready(who) => write!(f, "{who} does not answer"),
            Self::Share(who) => write!(f, "{who} is being handed its share of the partitions"),
            Self::Replication(who) => write!(f, "{who} is catching up in replication"),
            Self::Settled(who) => write!(f, "{who} is settling"),
            Self::Owners { unowned } => write!(f, "{unowned} partitions have no owner yet"),
            Self::Gone(who) => write!(f, "{who} is handing over what it has"),
            Self::Backoff(who) => write!(f, "{who} ended by itself and will be started again"),
        }
    }
}

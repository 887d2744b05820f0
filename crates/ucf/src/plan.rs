//! What to do next so that a cluster becomes what its manifest says: a pure function of what is wanted and what is observed.
//!
//! `sipcluster up` asks it about processes, the operator about pods; both perform its steps and ask again whenever an observation changed or
//! [`Plan::again`] has come. The planner remembers nothing, so it goes on from any state, whoever began.
//!
//! - What failed is started again as soon as it may: that is repair, not a planned move, and waits for no gate.
//! - The first containers of a cluster start together, for nobody has a call yet. Later ones come one at a time: each must be ready, admitted,
//!   handed its share, caught up in replication and settled before the next.
//! - Containers, proxies and the cluster's own Redis are taken away one at a time, and only while all others are settled and every partition has
//!   its owner: never is a second container away while one is not fully active. Scaling down takes the highest ordinal; a rollout takes an
//!   inactive one first.
//! - A restart is a rollout to a new revision of one kind ([`Revisions`]), whatever the reason.
//! - What is waited for is named ([`Gate`]), so that a stuck move can be shown.

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
    /// What runs at another revision of its kind is replaced.
    pub revisions: Revisions,
}

/// A revision for each kind of part: it changes with every change that this kind must be restarted for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Revisions {
    /// Of containers.
    pub containers: u64,
    /// Of proxies.
    pub proxies: u64,
    /// Of the cluster's own Redis.
    pub redis: u64,
}

/// What is there; whoever is not listed does not exist.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Observed {
    /// The cluster's own Redis, of ordinal 0.
    pub redis: Option<Part>,
    /// Containers, in any order.
    pub containers: Vec<Part>,
    /// Proxies, in any order.
    pub proxies: Vec<Part>,
    /// Partitions that no container says it owns: they are being handed over or claimed.
    pub unowned: u32,
}

/// A part as it is observed.
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
    /// Tell the cluster's own Redis to end; the containers hold the other copy.
    StopRedis,
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
    /// This container must have been active for [`SETTLE`] before another move.
    Settled(Who),
    /// Every partition must have an owner.
    Owners {
        /// How many have none.
        unowned: u32,
    },
    /// This part was told to leave and must have ended.
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
        match observed.redis.map(|part| part.life) {
            Some(Life::Active { .. }) => return true,
            Some(Life::Failed { again }) if again > now => {
                self.wait(Gate::Backoff(Who::Redis));
                self.ask_again(again);
            }
            Some(Life::Failed { .. }) | None => {
                self.steps.push(Step::StartRedis);
                self.wait(Gate::Redis);
            }
            Some(Life::Unready | Life::Joining) => self.wait(Gate::Redis),
            Some(Life::Leaving) => self.wait(Gate::Gone(Who::Redis)),
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
            let gate = unsettled_container(wanted, observed, None);
            match gate.or_else(|| self.settling(now, wanted, observed, None)) {
                Some(gate) => self.wait(gate),
                None => self.steps.push(Step::StartContainer(ordinal)),
            }
        }
    }

    /// At most one part at a time. One that does not answer may go at once, since it is away already: otherwise a manifest that repairs what
    /// keeps parts from working could not be rolled out. Any other waits until nothing is missing and all the rest is settled.
    fn take_away(&mut self, now: Instant, wanted: &Wanted, observed: &Observed) {
        let revisions = wanted.revisions;
        let container = superfluous(&observed.containers, wanted.containers, revisions.containers);
        let proxy = superfluous(&observed.proxies, wanted.proxies, revisions.proxies);
        let redis = superfluous(own_redis(wanted, observed), 1, revisions.redis);
        let candidates = [
            container.map(|part| (part, Step::QuiesceContainer(part.ordinal))),
            proxy.map(|part| (part, Step::DrainProxy(part.ordinal))),
            redis.map(|part| (part, Step::StopRedis)),
        ];
        let mut candidates = candidates.into_iter().flatten();
        let mut parts = observed
            .containers
            .iter()
            .chain(&observed.proxies)
            .chain(&observed.redis);
        let away = candidates.clone().find(|(part, _)| part.life == Life::Unready);
        if let Some((_, step)) = away
            && parts.all(|part| part.life != Life::Leaving)
        {
            self.steps.push(step);
            return;
        }
        if self.gate.is_some() || !self.steps.is_empty() {
            return;
        }
        let next = candidates.next();
        let except = next.map(|(part, _)| part);
        let gate = unsettled_container(wanted, observed, except).or_else(|| unsettled_proxy(wanted, observed, except));
        match (gate, next) {
            (Some(gate), _) => self.wait(gate),
            (None, None) => {}
            (None, Some((_, step))) => match self.settling(now, wanted, observed, except) {
                Some(gate) => self.wait(gate),
                None => self.steps.push(step),
            },
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

    /// The gate of the first part, other than `except`, that works but has not settled: before a move only, for nothing else waits for it.
    fn settling(&mut self, now: Instant, wanted: &Wanted, observed: &Observed, except: Option<&Part>) -> Option<Gate> {
        let containers = observed.containers.iter();
        let containers = containers.map(|part| (part, Who::Container(part.ordinal)));
        // Containers notice within that time that they have to write a Redis anew.
        let redis = own_redis(wanted, observed).map(|part| (part, Who::Redis));
        let gate = containers.chain(redis).find_map(|(part, who)| match part.life {
            Life::Active { since, .. } if since + SETTLE > now && !is_same(part, except) => {
                Some((since + SETTLE, Gate::Settled(who)))
            }
            _ => None,
        });
        let (settled, gate) = gate?;
        self.ask_again(settled);
        Some(gate)
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
fn superfluous<'a>(parts: impl IntoIterator<Item = &'a Part>, wanted: u16, revision: u64) -> Option<&'a Part> {
    let living = parts
        .into_iter()
        .filter(|part| !matches!(part.life, Life::Failed { .. } | Life::Leaving));
    let candidates = living.filter(|part| part.ordinal >= wanted || part.revision != revision);
    candidates.max_by_key(|part| {
        let is_over = part.ordinal >= wanted;
        let inactive = !matches!(part.life, Life::Active { .. });
        (part.life == Life::Unready, is_over, !is_over && inactive, part.ordinal)
    })
}

/// The gate of the first container, other than `except`, that is not fully active; or that of partitions without an owner. Of what `except` holds, too,
/// there have to be two copies before it goes.
fn unsettled_container(wanted: &Wanted, observed: &Observed, except: Option<&Part>) -> Option<Gate> {
    let is_single_copy = |part: &Part| matches!(part.life, Life::Active { replicated: false, .. });
    let mut others = observed
        .containers
        .iter()
        .filter(|part| (!is_same(part, except) || is_single_copy(part)) && !part.is_over(wanted.containers));
    let gate = others.find_map(|part| {
        let who = Who::Container(part.ordinal);
        match part.life {
            Life::Failed { .. } => Some(Gate::Backoff(who)),
            Life::Unready => Some(Gate::Ready(who)),
            Life::Joining => Some(Gate::Share(who)),
            Life::Leaving => Some(Gate::Gone(who)),
            Life::Active { replicated: false, .. } => Some(Gate::Replication(who)),
            Life::Active { .. } => None,
        }
    });
    let unowned = observed.unowned;
    gate.or_else(|| (unowned > 0).then_some(Gate::Owners { unowned }))
}

/// The gate of the first proxy, other than `except`, that does not work.
fn unsettled_proxy(wanted: &Wanted, observed: &Observed, except: Option<&Part>) -> Option<Gate> {
    let mut others = observed
        .proxies
        .iter()
        .filter(|part| !is_same(part, except) && !part.is_over(wanted.proxies));
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

/// The Redis that the cluster runs, if it does.
fn own_redis<'a>(wanted: &Wanted, observed: &'a Observed) -> impl Iterator<Item = &'a Part> {
    observed.redis.iter().filter(|_| wanted.redis)
}

/// Whether it is that very part: parts of two kinds may look alike.
fn is_same(part: &Part, other: Option<&Part>) -> bool {
    other.is_some_and(|other| std::ptr::eq(part, other))
}

impl Step {
    /// What is being done, for people; `name` names the parts as they do.
    #[must_use]
    pub fn describe(self, name: impl Fn(Who) -> String) -> String {
        match self {
            Self::StartRedis => format!("{} is being started", name(Who::Redis)),
            Self::StartProxy(ordinal) => format!("{} is being started", name(Who::Proxy(ordinal))),
            Self::StartContainer(ordinal) => format!("{} is being started", name(Who::Container(ordinal))),
            Self::QuiesceContainer(ordinal) => {
                format!("{} is told to hand over and to leave", name(Who::Container(ordinal)))
            }
            Self::DrainProxy(ordinal) => format!("{} is told to drain and to leave", name(Who::Proxy(ordinal))),
            Self::StopRedis => format!("{} is told to end", name(Who::Redis)),
        }
    }
}

impl Gate {
    /// What is waited for, for people; `name` names the parts as they do.
    #[must_use]
    pub fn describe(self, name: impl Fn(Who) -> String) -> String {
        match self {
            Self::Redis => format!("{} does not answer yet", name(Who::Redis)),
            Self::Ready(who) => format!("{} does not answer", name(who)),
            Self::Share(who) => format!("{} is being handed its share of the partitions", name(who)),
            Self::Replication(who) => format!("{} is catching up in replication", name(who)),
            Self::Settled(who) => format!("{} is settling", name(who)),
            Self::Owners { unowned } => format!("{unowned} partitions have no owner yet"),
            Self::Gone(who @ Who::Container(_)) => format!("{} is handing over what it has", name(who)),
            Self::Gone(who @ Who::Proxy(_)) => format!("{} is draining", name(who)),
            Self::Gone(who @ Who::Redis) => format!("{} is ending", name(who)),
            Self::Backoff(who) => format!("{} ended by itself and will be started again", name(who)),
        }
    }
}

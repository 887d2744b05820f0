//! The supervisor: observes its children, asks the planner, performs its steps, until it is told to stop.
//!
//! One task on the main thread does all of it; a probe per child asks the child's admin port and reports over a channel. What the other
//! commands want stands in the state directory ([`Desired`]) and is taken up within a tick.

mod journal;
mod part;
mod start;
mod stop;
mod welcome;

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::time::Duration;

use crds::SipCluster;
use crds::change::{Effect, settings};
use crds::status::{Answer, State};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use ucf::plan::{self, Gate, Observed, Plan, Revisions, Step, Wanted, Who};

use crate::child;
use crate::detach::Audience;
use crate::failure::Failure;
use crate::preflight::{self, Binaries, Ports};
use crate::redis::Redis;
use crate::state_dir::{Desired, Record, StateDir};

use journal::Journal;
use part::Part;

/// How often the children are looked at without being asked to by a signal or an answer.
const TICK: Duration = Duration::from_millis(100);

/// A start that takes longer than this says what it waits for.
const USUAL_START: Duration = Duration::from_secs(3);

/// A command that waits for the start gives up after this; in the foreground a person decides.
const LONGEST_START: Duration = Duration::from_secs(60);

/// How often a part may end by itself before the cluster has worked for the first time.
const TRIES: u32 = 3;

/// Answers of probes that wait to be heard; each probe has one under way.
const ANSWERS: usize = 256;

/// An answer, or silence, of the process `pid` of a part.
type Heard = (Who, u32, Option<Answer>);

/// A running cluster.
pub struct Supervisor<'a> {
    directory: &'a StateDir,
    desired: Desired,
    /// Of `desired`.
    revisions: Revisions,
    journal: Journal<'a>,
    binaries: Binaries,
    /// The affinity key; it lives as long as the cluster.
    key: String,
    redis: Redis,
    ports: Ports,
    parts: BTreeMap<Who, Part>,
    clock: std::time::Instant,
    heard: (mpsc::Sender<Heard>, mpsc::Receiver<Heard>),
    written: Option<Record>,
    endpoints: Vec<u8>,
    ready: bool,
}

/// What ends the supervisor's waiting.
enum Wake {
    Tick,
    Heard(Heard),
    Stop,
}

impl<'a> Supervisor<'a> {
    /// Runs the cluster until SIGINT or SIGTERM; then nothing of it is left but files.
    pub async fn run(
        directory: &'a StateDir,
        manifest: SipCluster,
        binaries: Binaries,
        audience: &'a mut Audience,
    ) -> Result<(), Failure> {
        let system = |error: std::io::Error| Failure::system("the supervisor", error);
        let mut ports = Ports::starting_at(u64::from_ne_bytes(preflight::entropy().map_err(system)?));
        let redis = Redis::new(manifest.spec.external_redis_url(), ports.take().map_err(system)?);
        let key: [u8; 16] = preflight::entropy().map_err(system)?;
        let desired = Desired::new(manifest);
        let mut supervisor = Self {
            directory,
            revisions: revisions(&desired),
            desired,
            journal: Journal::new(audience),
            binaries,
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            redis,
            ports,
            parts: BTreeMap::new(),
            clock: std::time::Instant::now(),
            heard: mpsc::channel(ANSWERS),
            written: None,
            endpoints: Vec::new(),
            ready: false,
        };
        let mut stop = [SignalKind::interrupt(), SignalKind::terminate(), SignalKind::hangup()]
            .into_iter()
            .map(signal)
            .collect::<Result<Vec<_>, _>>()
            .map_err(system)?;
        let outcome = supervisor.supervise(&mut stop).await;
        supervisor.stop(&mut stop).await;
        outcome
    }

    async fn supervise(&mut self, stop: &mut [Signal]) -> Result<(), Failure> {
        self.prepare().await?;
        let mut ended = signal(SignalKind::child()).map_err(|error| Failure::system("SIGCHLD", error))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut said = None;
        loop {
            self.reap()?;
            let plan = plan::plan(self.now(), &self.wanted(), &self.observe());
            for step in &plan.steps {
                self.perform(*step)?;
            }
            self.say_gate(plan.gate, &mut said);
            self.publish(&plan)?;
            if self.is_whole() && !self.ready {
                self.ready = true;
                self.publish(&plan)?;
                let welcome = self.welcome();
                self.journal.audience().works(&welcome);
            }
            self.give_up_a_start_that_takes_too_long(plan.gate)?;
            let wake = tokio::select! {
                () = any(stop) => Wake::Stop,
                Some(heard) = self.heard.1.recv() => Wake::Heard(heard),
                _ = ended.recv() => Wake::Tick,
                _ = tick.tick() => Wake::Tick,
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Tick => self.take_up_what_commands_want(),
                Wake::Heard((who, pid, answer)) => self.hear(who, pid, answer),
            }
        }
    }

    /// A new generation of what is desired holds from now on.
    fn take_up_what_commands_want(&mut self) {
        if let Some(desired) = self.directory.desired()
            && desired.generation != self.desired.generation
        {
            self.revisions = revisions(&desired);
            self.desired = desired;
        }
    }

    /// Says what is waited for, once; during a usual start nobody wants to know.
    fn say_gate(&mut self, gate: Option<Gate>, said: &mut Option<Gate>) {
        if *said == gate || !(self.ready || self.clock.elapsed() > USUAL_START) {
            return;
        }
        if let Some(gate) = gate {
            self.journal.say(&format!("waits: {}", self.in_words(gate)));
        }
        *said = gate;
    }

    fn give_up_a_start_that_takes_too_long(&mut self, gate: Option<Gate>) -> Result<(), Failure> {
        if self.ready || self.clock.elapsed() <= LONGEST_START || !self.journal.audience().waits_for_the_start() {
            return Ok(());
        }
        Err(Failure::here(format!(
            "the cluster does not work after {LONGEST_START:?}: {}; its logs: {}",
            gate.map_or_else(|| "a part does not answer".to_owned(), |gate| self.in_words(gate)),
            self.directory.file("log").display()
        )))
    }

    fn now(&self) -> plan::Instant {
        plan::Instant::from_micros(u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wanted(&self) -> Wanted {
        let spec = &self.desired.manifest.spec;
        Wanted {
            // The manifest allows 64 of each.
            containers: spec.replicas as u16,
            proxies: spec.proxies.replicas as u16,
            redis: matches!(self.redis, Redis::Managed(_)),
            revisions: self.revisions,
        }
    }

    fn observe(&self) -> Observed {
        let mut observed = Observed {
            unowned: self.unowned(),
            ..Observed::default()
        };
        let redis = self.parts.get(&Who::Redis);
        let served_since = redis.and_then(Part::active_since).unwrap_or_default();
        for (who, part) in &self.parts {
            let seen = |ordinal| plan::Part {
                ordinal,
                revision: part.revision,
                life: part.life(self.now(), served_since),
            };
            match who {
                Who::Redis => observed.redis = Some(seen(0)),
                Who::Proxy(ordinal) => observed.proxies.push(seen(*ordinal)),
                Who::Container(ordinal) => observed.containers.push(seen(*ordinal)),
            }
        }
        observed
    }

    /// Partitions that no container says it owns.
    fn unowned(&self) -> u32 {
        let owned: u64 = self.parts.values().map(Part::partitions).sum();
        self.desired
            .manifest
            .spec
            .partitions
            .saturating_sub(u32::try_from(owned).unwrap_or(u32::MAX))
    }

    fn perform(&mut self, step: Step) -> Result<(), Failure> {
        if self.ready {
            self.journal.say(&step.describe(|who| self.name_of(who)));
        }
        match step {
            Step::StartRedis => self.start(Who::Redis)?,
            Step::StartProxy(ordinal) => self.start(Who::Proxy(ordinal))?,
            Step::StartContainer(ordinal) => self.start(Who::Container(ordinal))?,
            Step::QuiesceContainer(ordinal) => self.tell_to_leave(Who::Container(ordinal)),
            Step::DrainProxy(ordinal) => self.tell_to_leave(Who::Proxy(ordinal)),
            Step::StopRedis => self.tell_to_leave(Who::Redis),
        }
        Ok(())
    }

    /// SIGTERM means: hand over what you have, then end. Who has not ended when its own time is over will not.
    fn tell_to_leave(&mut self, who: Who) {
        let now = self.now();
        if let Some(part) = self.parts.get_mut(&who) {
            part.leave_by = Some(now + part.leave_within);
            if let Some(pid) = part.pid() {
                child::signal(pid, libc::SIGTERM);
            }
        }
    }

    fn hear(&mut self, who: Who, pid: u32, answer: Option<Answer>) {
        let now = self.now();
        if let Some(part) = self.parts.get_mut(&who)
            && part.pid() == Some(pid)
            && let Some(answer) = answer
        {
            let before = part.state(now);
            part.hear(now, answer);
            if self.ready && before != State::Active && part.state(now) == State::Active {
                self.journal.say(&format!("{} is active (pid {pid})", part.name));
            }
        }
    }

    /// Notes which children have ended, and ends those that were to have left.
    fn reap(&mut self) -> Result<(), Failure> {
        let now = self.now();
        let mut gone = Vec::new();
        for (who, part) in &mut self.parts {
            let Some((pid, status)) = part.reap(now) else {
                if let Some(pid) = part.overstays(now) {
                    self.journal
                        .say(&format!("{} has not left in time and is killed (pid {pid})", part.name));
                    child::signal(pid, libc::SIGKILL);
                }
                continue;
            };
            let ending = child::ending(status);
            let log = self.directory.log(&part.name);
            if part.leave_by.is_some() {
                self.journal
                    .say(&format!("{} has left (pid {pid} {ending})", part.name));
                gone.push(*who);
            } else if !self.ready && (part.restarts >= TRIES || status.code() == Some(64)) {
                let tail = child::log_tail(&log);
                return Err(Failure::here(format!(
                    "{} {ending} before the cluster worked; the end of its log, {}:{tail}",
                    part.name,
                    log.display()
                )));
            } else {
                self.journal.say(&format!(
                    "{} {ending} (pid {pid}) and will be started again; its log: {}",
                    part.name,
                    log.display()
                ));
            }
        }
        let wanted = self.wanted();
        let over = |who: &Who| match who {
            Who::Container(ordinal) => *ordinal >= wanted.containers,
            Who::Proxy(ordinal) => *ordinal >= wanted.proxies,
            Who::Redis => false,
        };
        let ended = self
            .parts
            .iter()
            .filter(|(who, part)| part.pid().is_none() && over(who));
        gone.extend(ended.map(|(who, _)| *who));
        for who in gone {
            if let Some(part) = self.parts.remove(&who) {
                part.ports().for_each(|address| self.ports.give_back(address));
            }
        }
        Ok(())
    }

    /// Whether all that the manifest wants works.
    fn is_whole(&self) -> bool {
        let wanted = self.wanted();
        let count = usize::from(wanted.containers) + usize::from(wanted.proxies) + usize::from(wanted.redis);
        self.parts.len() == count && self.parts.values().all(|part| part.state(self.now()) == State::Active)
    }

    /// Tells the other commands and the proxies what is there, if that has changed.
    fn publish(&mut self, plan: &Plan) -> Result<(), Failure> {
        let system = |error: std::io::Error| Failure::system("the state directory", error);
        let endpoints = self.endpoints();
        if endpoints != self.endpoints {
            self.directory.write("endpoints.json", &endpoints).map_err(system)?;
            self.endpoints = endpoints;
        }
        let record = self.record(plan);
        if self.written.as_ref() != Some(&record) {
            let text = serde_json::to_vec_pretty(&record).expect("a record is JSON");
            self.directory.write("cluster.json", &text).map_err(system)?;
            self.written = Some(record);
        }
        Ok(())
    }

    fn record(&self, plan: &Plan) -> Record {
        let now = self.now();
        let spec = &self.desired.manifest.spec;
        let of = |wanted: fn(&Who) -> bool| {
            let parts = self.parts.iter().filter(move |(who, _)| wanted(who));
            parts.map(|(_, part)| part.record(now)).collect::<Vec<_>>()
        };
        Record {
            name: self.name().to_owned(),
            address: spec.advertised().to_string(),
            pid: std::process::id(),
            generation: self.desired.generation,
            replicas: self.wanted().containers,
            partitions: spec.partitions,
            // A step that has just been done is waited for from now on.
            gate: plan.gate.map(|gate| self.in_words(gate)).or_else(|| {
                let step = plan.steps.first();
                step.map(|step| step.describe(|who| self.name_of(who)))
            }),
            done: plan.is_done() && self.is_whole(),
            ready: self.ready,
            journal: self.journal.entries().to_vec(),
            containers: of(|who| matches!(who, Who::Container(_))),
            proxies: of(|who| matches!(who, Who::Proxy(_))),
            redis: self.redis_record(now),
        }
    }

    fn in_words(&self, gate: Gate) -> String {
        gate.describe(|who| self.name_of(who))
    }

    fn name_of(&self, who: Who) -> String {
        let name = self.name();
        match who {
            Who::Redis => format!("{name}-redis"),
            Who::Proxy(ordinal) => format!("{name}-proxy-{ordinal}"),
            Who::Container(ordinal) => format!("{name}-{ordinal}"),
        }
    }

    fn name(&self) -> &str {
        self.desired.manifest.metadata.name.as_deref().unwrap_or("sipcluster")
    }
}

/// A kind's revision stands for all that its processes are started with, and for how often a restart was asked for.
fn revisions(desired: &Desired) -> Revisions {
    let revision = |effect, restarts: u64| {
        let mut hasher = DefaultHasher::new();
        (settings(&desired.manifest, effect), restarts).hash(&mut hasher);
        hasher.finish()
    };
    Revisions {
        containers: revision(Effect::RollsContainers, desired.restarts.containers),
        proxies: revision(Effect::RollsProxies, desired.restarts.proxies),
        // Nothing of the manifest is a setting of the Redis that the cluster runs.
        redis: desired.restarts.redis,
    }
}

/// Any of some signals.
async fn any(signals: &mut [Signal]) {
    std::future::poll_fn(|context| {
        let arrived = signals.iter_mut().any(|signal| signal.poll_recv(context).is_ready());
        if arrived {
            std::task::Poll::Ready(())
        } else {
            std::task::Poll::Pending
        }
    })
    .await;
}

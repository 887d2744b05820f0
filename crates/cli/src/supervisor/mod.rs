//! The supervisor: observes its children, asks the planner, performs its steps, until it is told to stop.
//!
//! One task on the main thread does all of it; a probe per child asks the child's admin port and reports over a channel.

mod part;
mod start;
mod stop;

use std::collections::BTreeMap;
use std::time::Duration;

use crds::SipCluster;
use crds::status::State;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;
use tokio::time::MissedTickBehavior;
use ucf::plan::{self, Observed, Plan, Step, Wanted, Who};

use crate::child;
use crate::detach::Audience;
use crate::failure::Failure;
use crate::preflight::{self, Binaries, Ports};
use crate::probe::Answer;
use crate::redis::Redis;
use crate::state_dir::{Record, StateDir};

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
    cluster: &'a SipCluster,
    binaries: Binaries,
    /// The affinity key; it lives as long as the cluster.
    key: String,
    redis: Redis,
    ports: Ports,
    parts: BTreeMap<Who, Part>,
    replicas: u16,
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
        cluster: &'a SipCluster,
        binaries: Binaries,
        audience: &mut Audience,
    ) -> Result<(), Failure> {
        let system = |error: std::io::Error| Failure::system("the supervisor", error);
        let mut ports = Ports::starting_at(u64::from_ne_bytes(preflight::entropy().map_err(system)?));
        let redis = Redis::new(cluster.spec.external_redis(), ports.take().map_err(system)?);
        let key: [u8; 16] = preflight::entropy().map_err(system)?;
        let mut supervisor = Self {
            directory,
            cluster,
            binaries,
            key: key.iter().map(|byte| format!("{byte:02x}")).collect(),
            redis,
            ports,
            parts: BTreeMap::new(),
            // The manifest allows 64.
            replicas: cluster.spec.replicas as u16,
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
        let outcome = supervisor.supervise(&mut stop, audience).await;
        supervisor.stop(&mut stop, audience).await;
        outcome
    }

    async fn supervise(&mut self, stop: &mut [Signal], audience: &mut Audience) -> Result<(), Failure> {
        self.prepare().await?;
        let mut ended = signal(SignalKind::child()).map_err(|error| Failure::system("SIGCHLD", error))?;
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut said = None;
        loop {
            self.reap(audience)?;
            let plan = plan::plan(self.now(), &self.wanted(), &self.observe());
            for step in &plan.steps {
                self.perform(*step, audience)?;
            }
            self.publish(&plan)?;
            if self.is_whole() && !self.ready {
                self.ready = true;
                self.publish(&plan)?;
                audience.works(&self.welcome(audience));
            }
            let gate = plan.gate.map(|gate| self.in_names(gate));
            let slow = self.clock.elapsed() > USUAL_START;
            if (self.ready || slow) && gate != said {
                // Settling takes a second and says nothing to anybody who only watches.
                if let (Some(gate), false) = (&gate, matches!(plan.gate, Some(plan::Gate::Settled(_)))) {
                    audience.say(&format!("waits: {gate}"));
                }
                said.clone_from(&gate);
            }
            if !self.ready && self.clock.elapsed() > LONGEST_START && audience.waits_for_the_start() {
                return Err(Failure::here(format!(
                    "the cluster does not work after {LONGEST_START:?}: {}; its logs: {}",
                    gate.unwrap_or_else(|| "a part does not answer".to_owned()),
                    self.directory.file("log").display()
                )));
            }
            let wake = tokio::select! {
                () = any(stop) => Wake::Stop,
                Some(heard) = self.heard.1.recv() => Wake::Heard(heard),
                _ = ended.recv() => Wake::Tick,
                _ = tick.tick() => Wake::Tick,
            };
            match wake {
                Wake::Stop => return Ok(()),
                Wake::Tick => {}
                Wake::Heard((who, pid, answer)) => self.hear(who, pid, answer, audience),
            }
            self.replicas = self.directory.scaled_to().unwrap_or(self.replicas);
        }
    }

    fn now(&self) -> plan::Instant {
        plan::Instant::from_micros(u64::try_from(self.clock.elapsed().as_micros()).unwrap_or(u64::MAX))
    }

    fn wanted(&self) -> Wanted {
        Wanted {
            containers: self.replicas,
            // The manifest allows 64.
            proxies: self.cluster.spec.proxies.replicas as u16,
            redis: matches!(self.redis, Redis::Managed(_)),
            revision: 1,
        }
    }

    fn observe(&self) -> Observed {
        let mut observed = Observed {
            unowned: self.unowned(),
            ..Observed::default()
        };
        for (who, part) in &self.parts {
            let life = part.life(self.now());
            match who {
                Who::Redis => observed.redis = Some(life),
                Who::Proxy(ordinal) => observed.proxies.push(plan::Part {
                    ordinal: *ordinal,
                    revision: 1,
                    life,
                }),
                Who::Container(ordinal) => observed.containers.push(plan::Part {
                    ordinal: *ordinal,
                    revision: 1,
                    life,
                }),
            }
        }
        observed
    }

    /// Partitions that no container says it owns.
    fn unowned(&self) -> u32 {
        let owned: u64 = self.parts.values().map(Part::partitions).sum();
        self.cluster
            .spec
            .partitions
            .saturating_sub(u32::try_from(owned).unwrap_or(u32::MAX))
    }

    fn perform(&mut self, step: Step, audience: &mut Audience) -> Result<(), Failure> {
        match step {
            Step::StartRedis => self.start(Who::Redis),
            Step::StartProxy(ordinal) => self.start(Who::Proxy(ordinal)),
            Step::StartContainer(ordinal) => self.start(Who::Container(ordinal)),
            Step::QuiesceContainer(ordinal) => {
                self.tell_to_leave(Who::Container(ordinal), audience);
                Ok(())
            }
            Step::DrainProxy(ordinal) => {
                self.tell_to_leave(Who::Proxy(ordinal), audience);
                Ok(())
            }
        }
    }

    /// SIGTERM means: hand over what you have, then end.
    fn tell_to_leave(&mut self, who: Who, audience: &mut Audience) {
        if let Some(part) = self.parts.get_mut(&who) {
            audience.say(&format!("{} is told to hand over and to leave", part.name));
            part.told_to_leave = true;
            if let Some(pid) = part.pid() {
                child::signal(pid, libc::SIGTERM);
            }
        }
    }

    fn hear(&mut self, who: Who, pid: u32, answer: Option<Answer>, audience: &mut Audience) {
        let now = self.now();
        if let Some(part) = self.parts.get_mut(&who)
            && part.pid() == Some(pid)
            && let Some(answer) = answer
        {
            let before = part.state(now);
            part.hear(now, answer);
            if self.ready && before != State::Active && part.state(now) == State::Active {
                audience.say(&format!("{} is active (pid {pid})", part.name));
            }
        }
    }

    /// Notes which children have ended.
    fn reap(&mut self, audience: &mut Audience) -> Result<(), Failure> {
        let now = self.now();
        let mut gone = Vec::new();
        for (who, part) in &mut self.parts {
            let Some((pid, status)) = part.reap(now) else {
                continue;
            };
            let ending = child::ending(status);
            let log = self.directory.log(&part.name);
            if part.told_to_leave {
                audience.say(&format!("{} has left (pid {pid} {ending})", part.name));
                gone.push(*who);
            } else if !self.ready && (part.restarts >= TRIES || status.code() == Some(64)) {
                let tail = child::log_tail(&log);
                return Err(Failure::here(format!(
                    "{} {ending} before the cluster worked; the end of its log, {}:{tail}",
                    part.name,
                    log.display()
                )));
            } else {
                audience.say(&format!(
                    "{} {ending} (pid {pid}) and will be started again; its log: {}",
                    part.name,
                    log.display()
                ));
            }
        }
        let over = |who: &Who, replicas| matches!(who, Who::Container(ordinal) if *ordinal >= replicas);
        gone.extend(
            self.parts
                .iter()
                .filter(|(who, part)| part.pid().is_none() && over(who, self.replicas))
                .map(|(who, _)| *who),
        );
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
        let of = |wanted: fn(&Who) -> bool| {
            let parts = self.parts.iter().filter(move |(who, _)| wanted(who));
            parts.map(|(_, part)| part.record(now)).collect::<Vec<_>>()
        };
        Record {
            name: self.name().to_owned(),
            address: self.cluster.spec.advertised().to_string(),
            pid: std::process::id(),
            replicas: self.replicas,
            partitions: self.cluster.spec.partitions,
            // A step that has just been done is waited for from now on.
            gate: plan
                .gate
                .map(|gate| self.in_names(gate))
                .or_else(|| plan.steps.first().map(|step| self.in_names(step))),
            ready: self.ready,
            containers: of(|who| matches!(who, Who::Container(_))),
            proxies: of(|who| matches!(who, Who::Proxy(_))),
            redis: self.redis_record(now),
        }
    }

    /// A gate or a step in the names of this cluster.
    fn in_names(&self, planned: impl std::fmt::Display) -> String {
        let name = self.name();
        let text = planned.to_string();
        text.replace("container-", &format!("{name}-"))
            .replace("proxy-", &format!("{name}-proxy-"))
    }

    fn name(&self) -> &str {
        self.cluster.metadata.name.as_deref().unwrap_or("sipcluster")
    }

    /// What to do with a cluster that works.
    fn welcome(&self, audience: &Audience) -> String {
        let address = self.cluster.spec.advertised();
        let victim = self
            .parts
            .get(&Who::Container(0))
            .and_then(Part::pid)
            .unwrap_or_default();
        let (status, down, scale) = (
            self.directory.command("status --watch"),
            self.directory.command("down"),
            self.directory.command(&format!("scale {}", self.replicas + 1)),
        );
        let more = match std::env::current_exe() {
            Ok(path) => path
                .parent()
                .map(|directory| directory.display().to_string())
                .unwrap_or_default(),
            Err(_) => String::new(),
        };
        format!(
            "\n{name} works: {containers} containers behind {proxies} proxies at {address}\n\n  \
             call         sip:anyone@{address} (UDP, TCP)\n  \
             state        {more}/{status}\n  \
             logs         {logs}\n\n\
             try next\n  \
             a call       sipp -sn uac {address} -m 10 -r 2 -d 20000\n  \
             a loss       kill -9 {victim}    (a container; its calls go on)\n  \
             growth       {more}/{scale}\n  \
             the end      {end}",
            name = self.name(),
            containers = self.replicas,
            proxies = self.cluster.spec.proxies.replicas,
            logs = self.directory.file("log").display(),
            end = if matches!(audience, Audience::Command(_)) {
                format!("{more}/{down}")
            } else {
                "Ctrl-C".into()
            },
        )
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

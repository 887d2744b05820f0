//! A child over its lives: what runs, what it said, when it may be started again.

use std::net::SocketAddr;
use std::process::{Child, ExitStatus};
use std::time::Duration;

use crds::status::{Answer, State};
use tokio::task::JoinHandle;
use ucf::plan::{Instant, Life};

use crate::state_dir::PartRecord;

/// A part that has said nothing for this long is silent. Answers come every [`super::start::PROBE`].
const SILENCE: Duration = Duration::from_secs(2);

/// The pause before the first start after an end, so that the takeover is over when the new member joins.
const FIRST_PAUSE: Duration = Duration::from_secs(1);

/// The longest pause.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

/// A part that lived this long has recovered: the next pause is the first one again.
const RECOVERED: Duration = Duration::from_secs(30);

/// A container, a proxy or the Redis.
pub struct Part {
    pub name: String,
    /// What it was started at.
    pub revision: u64,
    /// How long it may take to leave, once it is told to.
    pub leave_within: Duration,
    /// It was told to leave, and is to have ended by then.
    pub leave_by: Option<Instant>,
    pub restarts: u32,
    /// Of a container: where proxies reach it. This and the next stay when it is started again, as a pod's address does.
    pub sip: Option<SocketAddr>,
    /// Of a container or a proxy: where proxies and containers link.
    pub ucf: Option<SocketAddr>,
    pub admin: Option<SocketAddr>,
    pub url: Option<String>,
    running: Option<Running>,
    again: Instant,
    pause: Duration,
}

/// A process of a part.
struct Running {
    child: Child,
    probe: JoinHandle<()>,
    started: Instant,
    answer: Option<(Instant, Answer)>,
    active_since: Option<Instant>,
}

impl Part {
    /// A part that has not been started yet.
    pub fn new(name: String) -> Self {
        Self {
            name,
            revision: 0,
            leave_within: Duration::ZERO,
            leave_by: None,
            restarts: 0,
            sip: None,
            ucf: None,
            admin: None,
            url: None,
            running: None,
            again: Instant::default(),
            pause: FIRST_PAUSE,
        }
    }

    /// The running process.
    pub fn pid(&self) -> Option<u32> {
        self.running.as_ref().map(|running| running.child.id())
    }

    /// It was started, and `probe` asks it.
    pub fn started(&mut self, now: Instant, child: Child, probe: JoinHandle<()>) {
        self.running = Some(Running {
            child,
            probe,
            started: now,
            answer: None,
            active_since: None,
        });
    }

    /// It answered.
    pub fn hear(&mut self, now: Instant, answer: Answer) {
        if let Some(running) = &mut self.running {
            let was_silent = running.answer.is_some_and(|(at, _)| now.since(at) > SILENCE);
            running.answer = Some((now, answer));
            running.active_since = match answer.state {
                State::Active => running.active_since.filter(|_| !was_silent).or(Some(now)),
                _ => None,
            };
        }
    }

    /// If it has just ended: which process, and how. Then it has its pause.
    pub fn reap(&mut self, now: Instant) -> Option<(u32, ExitStatus)> {
        let running = self.running.as_mut()?;
        let status = running.child.try_wait().ok().flatten()?;
        let pid = running.child.id();
        running.probe.abort();
        if now.since(running.started) > RECOVERED {
            self.pause = FIRST_PAUSE;
        }
        self.again = now + self.pause;
        self.pause = (self.pause * 2).min(LONGEST_PAUSE);
        self.restarts += 1;
        self.running = None;
        Some((pid, status))
    }

    /// The process, if it was told to leave and has not in time.
    pub fn overstays(&mut self, now: Instant) -> Option<u32> {
        let late = self.leave_by.is_some_and(|by| now >= by);
        let pid = self.pid().filter(|_| late)?;
        // Told once; the end of a killed process comes soon.
        self.leave_by = Some(Instant::MAX);
        Some(pid)
    }

    /// Since when it works without a break.
    pub fn active_since(&self) -> Option<Instant> {
        self.running.as_ref()?.active_since
    }

    /// For the planner. What a container said of its second copy before Redis served, `served_since`, was about another Redis.
    pub fn life(&self, now: Instant, served_since: Instant) -> Life {
        match self.state(now) {
            State::Failed => Life::Failed { again: self.again },
            State::Starting | State::Silent => Life::Unready,
            State::Joining => Life::Joining,
            State::Quiescing | State::Stopping => Life::Leaving,
            State::Active => Life::Active {
                since: self.active_since().unwrap_or(now),
                // Whoever owns nothing has nothing that could be lost.
                replicated: self
                    .answer()
                    .is_none_or(|(at, answer)| answer.partitions == 0 || answer.replicated && at >= served_since),
            },
        }
    }

    /// For people.
    pub fn state(&self, now: Instant) -> State {
        let Some(running) = &self.running else {
            return State::Failed;
        };
        match running.answer {
            Some((_, answer)) if self.leave_by.is_some() && answer.state == State::Quiescing => State::Quiescing,
            _ if self.leave_by.is_some() => State::Stopping,
            None => State::Starting,
            Some((at, _)) if now.since(at) > SILENCE => State::Silent,
            Some((_, answer)) => answer.state,
        }
    }

    /// For the other commands.
    pub fn record(&self, now: Instant) -> PartRecord {
        PartRecord {
            name: self.name.clone(),
            pid: self.pid(),
            state: self.state(now),
            admin: self.admin,
            restarts: self.restarts,
            url: self.url.clone(),
        }
    }

    /// The ports it was given.
    pub fn ports(&self) -> impl Iterator<Item = SocketAddr> {
        [self.sip, self.ucf, self.admin].into_iter().flatten()
    }

    /// Partitions that it last said it owned.
    pub fn partitions(&self) -> u64 {
        self.answer().map_or(0, |(_, answer)| answer.partitions)
    }

    fn answer(&self) -> Option<(Instant, Answer)> {
        self.running.as_ref()?.answer
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        if let Some(running) = &self.running {
            running.probe.abort();
        }
    }
}

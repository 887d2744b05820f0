//! How each part is started.

use std::io;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crds::status::{Answer, State};
use crds::{Period, SipClusterSpec, Transport};
use serde_json::json;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use ucf::plan::{Instant, Who};

use super::part::Part;
use super::{Heard, Supervisor};
use crate::failure::Failure;
use crate::probe;
use crate::redis::{self, Redis};
use crate::state_dir::PartRecord;
use crate::{child, custom};

/// How often a part is asked.
pub const PROBE: Duration = Duration::from_millis(100);

/// What a part has to end in, after the time that it may take to hand over or to drain.
const LEAVING: Duration = Duration::from_secs(5);

/// The variable in which processes find the affinity key: a command line can be read by everyone.
const KEY: &str = "SIPCLUSTER_KEY";

/// The variable that says how many replicas stand behind the Redis of others.
const REDIS_REPLICAS: &str = "SIPCLUSTER_REDIS_REPLICAS";

impl Supervisor<'_> {
    /// Before the first step: what the proxies read, and a Redis of others that must be there.
    pub(super) async fn prepare(&mut self) -> Result<(), Failure> {
        let endpoints = self.endpoints();
        self.directory
            .write("endpoints.json", &endpoints)
            .map_err(|error| Failure::system("endpoints.json", error))?;
        self.endpoints = endpoints;
        self.directory
            .desire(&self.desired)
            .map_err(|error| Failure::system("desired.json", error))?;
        let instances = self.desired.manifest.spec.redis_instances();
        if matches!(self.redis, Redis::Managed(_)) && instances > 1 {
            self.journal.say(&format!(
                "one Redis is run on one machine; the {instances} of spec.redis.managed.instances are for Kubernetes"
            ));
        }
        let Redis::External { address, .. } = &self.redis else {
            return Ok(());
        };
        // A container knows all ways in which it can be wrong.
        let mut container = Command::new(self.container_program());
        self.redis
            .tell(&mut container, self.desired.manifest.spec.external_redis());
        container.env("SIPCLUSTER_CLUSTER", self.name());
        let why = match custom::ask(container.arg("--check-redis")) {
            Ok((Some(0), _)) => return Ok(()),
            Ok((_, said)) => said.trim().to_owned(),
            Err(why) => why,
        };
        Err(Failure::here(format!(
            "no Redis answers at {address} (spec.redis.external.url): {why}; start it, correct the URL, or leave spec.redis out to have one started"
        )))
    }

    /// Starts the process of a part, for the first time or again.
    pub(super) fn start(&mut self, who: Who) -> Result<(), Failure> {
        let mut part = match self.parts.remove(&who) {
            Some(part) => part,
            None => self
                .new_part(who)
                .map_err(|error| Failure::system("ports between the parts", error))?,
        };
        let mut command = match who {
            Who::Redis => redis::command(self.redis_address(), self.directory),
            Who::Proxy(_) => self.proxy(&part),
            Who::Container(_) => self.container(&part),
        };
        let started = child::start(&mut command, &self.directory.log(&part.name));
        let child = started.map_err(|error| match (who, error.kind()) {
            (Who::Redis, io::ErrorKind::NotFound) => redis::missing(),
            _ => Failure::system(
                format!("{} cannot be started: {:?}", part.name, command.get_program()),
                error,
            ),
        })?;
        let probe = self.probe(who, child.id(), &part);
        (part.revision, part.leave_within) = self.terms(who);
        part.started(self.now(), child, probe);
        self.parts.insert(who, part);
        Ok(())
    }

    fn new_part(&mut self, who: Who) -> io::Result<Part> {
        let mut part = Part::new(self.name_of(who));
        match who {
            Who::Redis => part.url = Some(self.redis.url()),
            Who::Proxy(_) => {
                part.admin = Some(self.ports.take()?);
                part.ucf = Some(self.ports.take()?);
            }
            Who::Container(_) => {
                part.admin = Some(self.ports.take()?);
                part.sip = Some(self.ports.take()?);
                part.ucf = Some(self.ports.take()?);
            }
        }
        Ok(part)
    }

    /// The revision at which a part is started now, and how long it may take to leave later.
    fn terms(&self, who: Who) -> (u64, Duration) {
        let spec = &self.desired.manifest.spec;
        let (revision, within) = match who {
            Who::Redis => (self.revisions.redis, Duration::ZERO),
            Who::Proxy(_) => (self.revisions.proxies, spec.proxies.drain.duration()),
            Who::Container(_) => (self.revisions.containers, spec.containers.quiesce.duration()),
        };
        (revision, within + LEAVING)
    }

    fn proxy(&self, part: &Part) -> Command {
        let SipClusterSpec {
            dispatcher, proxies, ..
        } = &self.desired.manifest.spec;
        let listen = SocketAddr::new(dispatcher.address, dispatcher.port);
        let mut command = self.common(&self.binaries.proxy, part);
        for transport in &dispatcher.transports {
            command.arg("--listen").arg(match transport {
                Transport::Udp => format!("udp:{listen}"),
                Transport::Tcp => format!("tcp:{listen}"),
            });
        }
        command.arg("--endpoints").arg(self.directory.file("endpoints.json"));
        command.args(["--ucf", &part.ucf.expect("a proxy has ports").to_string()]);
        command.args(["--drain-ms", &millis(proxies.drain)]);
        command.args(proxies.emergency.iter().map(|named| format!("--emergency={named}")));
        if let Some(workers) = proxies.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command
    }

    fn container(&self, part: &Part) -> Command {
        let mut command = self.common(self.container_program(), part);
        self.redis
            .tell(&mut command, self.desired.manifest.spec.external_redis());
        if matches!(self.redis, Redis::External { .. }) {
            let replicas = self.desired.manifest.spec.redis_instances() - 1;
            command.env(REDIS_REPLICAS, replicas.to_string());
        }
        command.args(["--quiesce-ms", &millis(self.desired.manifest.spec.containers.quiesce)]);
        for (option, address) in [("--sip", part.sip), ("--ucf", part.ucf)] {
            command.args([option, &address.expect("a container has ports").to_string()]);
        }
        // The container speaks the manifest's words.
        let application =
            serde_json::to_string(&self.desired.manifest.spec.application).expect("an application is JSON");
        command.args(["--application", &application]);
        if let Some(workers) = self.desired.manifest.spec.containers.workers {
            command.args(["--workers", &workers.to_string()]);
        }
        command
    }

    fn container_program(&self) -> &std::path::Path {
        let custom = self.desired.manifest.spec.application.custom.as_ref();
        custom.map_or(&self.binaries.container, |custom| &custom.command)
    }

    /// What both kinds of process are told.
    fn common(&self, program: &std::path::Path, part: &Part) -> Command {
        let mut command = Command::new(program);
        command.args(["--cluster", self.name(), "--name", &part.name]);
        command.args(["--admin", &part.admin.expect("it has an admin port").to_string()]);
        command.args(["--partitions", &self.desired.manifest.spec.partitions.to_string()]);
        command.args(["--advertised", &self.desired.manifest.spec.advertised().to_string()]);
        command.args(["--lease-ms", &millis(self.desired.manifest.spec.replication.lease)]);
        command.env(KEY, &self.key);
        command
    }

    fn redis_address(&self) -> SocketAddr {
        match self.redis {
            Redis::Managed(address) => address,
            Redis::External { .. } => unreachable!("the planner does not start a Redis of others"),
        }
    }

    /// Asks a process again and again, until it is aborted.
    fn probe(&self, who: Who, pid: u32, part: &Part) -> JoinHandle<()> {
        let heard: mpsc::Sender<Heard> = self.heard.0.clone();
        let admin = part.admin;
        let name = part.name.clone();
        let redis = self.redis.address();
        tokio::spawn(async move {
            loop {
                let answer = match admin {
                    Some(admin) => probe::ask(admin, &name).await,
                    None => probe::redis_serves(&redis).await.then_some(SERVING_REDIS),
                };
                if heard.send((who, pid, answer)).await.is_err() {
                    return;
                }
                tokio::time::sleep(PROBE).await;
            }
        })
    }

    /// The containers and, without `sip`, the proxies that proxies are to reach, as EndpointSlices list them on Kubernetes: addresses, not
    /// liveness.
    pub(super) fn endpoints(&self) -> Vec<u8> {
        let parts = self.parts.values().filter_map(|part| {
            let ucf = part.ucf?;
            Some(match part.sip {
                Some(sip) => json!({ "name": part.name, "sip": sip, "ucf": ucf }),
                None => json!({ "name": part.name, "ucf": ucf }),
            })
        });
        serde_json::to_vec_pretty(&parts.collect::<Vec<_>>()).expect("endpoints are JSON")
    }

    pub(super) fn redis_record(&self, now: Instant) -> PartRecord {
        self.parts.get(&Who::Redis).map_or_else(
            || PartRecord {
                name: format!("{}-redis", self.name()),
                pid: None,
                state: match self.redis {
                    Redis::Managed(_) => State::Starting,
                    Redis::External { .. } => State::Active,
                },
                admin: None,
                restarts: 0,
                url: Some(self.redis.url()),
            },
            |part| part.record(now),
        )
    }
}

fn millis(period: Period) -> String {
    period.duration().as_millis().to_string()
}

const SERVING_REDIS: Answer = Answer {
    state: State::Active,
    replicated: true,
    from_memory: false,
    partitions: 0,
    dialogs: 0,
    load: 0,
};

//! The SipCluster under test.

use std::collections::BTreeSet;
use std::io::ErrorKind;
use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use serde_json::Value;

use super::kubernetes::Kubernetes;
use super::silent::Silent;
use crate::interop::process::wait_every;

/// How often objects are looked at.
const LOOK: Duration = Duration::from_millis(300);

/// What every move has to be over in.
pub const LIMIT: Duration = Duration::from_secs(150);

/// Of a Redis that nobody has given another.
pub const REPLICA_PRIORITY: u8 = 100;

/// The cluster's name.
pub const NAME: &str = "demo";

/// Instances of its Redis, as its manifest has them.
const REDIS_INSTANCES: u16 = 3;

/// Everything that scenarios use.
pub struct World {
    /// The Kubernetes.
    pub kubernetes: Kubernetes,
    /// Where files go.
    pub scratch: PathBuf,
    /// The callers that say nothing, each until its scenario has its turn.
    pub silent: Mutex<Vec<Silent>>,
}

/// Containers as the status has them.
#[derive(Clone, Debug)]
pub struct Status(Value);

impl Status {
    /// Of this object.
    pub fn of(object: Value) -> Self {
        Self(object)
    }

    /// A condition's status and message.
    pub fn condition(&self, kind: &str) -> Option<(&str, &str)> {
        let conditions = self.0["status"]["conditions"].as_array()?;
        let condition = conditions.iter().find(|condition| condition["type"] == kind)?;
        Some((condition["status"].as_str()?, condition["message"].as_str()?))
    }

    /// Ready, by the newest manifest.
    pub fn is_current(&self) -> bool {
        self.0["status"]["observedGeneration"] == self.0["metadata"]["generation"]
            && self.condition("Ready").is_some_and(|(status, _)| status == "True")
    }

    /// All that it says of itself is well, by the newest manifest.
    pub fn is_whole(&self) -> bool {
        let conditions = self.0["status"]["conditions"].as_array();
        let says = |kind: &str, status: &str| {
            conditions.into_iter().flatten().any(|condition| {
                condition["type"] == kind
                    && condition["status"] == status
                    && condition["observedGeneration"] == self.0["metadata"]["generation"]
            })
        };
        self.is_current()
            && ["Ready", "Available", "ReplicationHealthy", "EgressAddress"]
                .iter()
                .all(|kind| says(kind, "True"))
            && ["Progressing", "Degraded"].iter().all(|kind| says(kind, "False"))
    }

    /// The newest manifest has been seen, and not all is as it says.
    pub fn is_on_its_way(&self) -> bool {
        self.0["status"]["observedGeneration"] == self.0["metadata"]["generation"] && !self.is_current()
    }

    /// The newest manifest has been seen, and nothing of it is carried out, for it is paused.
    pub fn is_paused(&self) -> bool {
        self.is_on_its_way()
            && self
                .condition("Progressing")
                .is_some_and(|(_, why)| why.starts_with("it is paused"))
    }

    /// So many containers are there, and active.
    pub fn is_counted(&self, containers: u64) -> bool {
        self.0["status"]["readyReplicas"] == containers && self.0["status"]["replicas"] == containers
    }

    /// Ready, by the newest manifest, with so many containers.
    pub fn is_ready(&self, containers: u64) -> bool {
        self.is_current() && self.is_counted(containers)
    }

    /// The key that all issue with.
    pub fn issuing(&self) -> Option<u64> {
        self.0["status"]["keys"]["issuing"].as_u64()
    }

    /// The number of the password of its Redis, as the manifest has it.
    pub fn redis_password(&self) -> u64 {
        self.0["spec"]["redis"]["managed"]["password"].as_u64().unwrap_or(1)
    }

    /// The cluster's address.
    pub fn address(&self) -> Option<SocketAddr> {
        self.0["status"]["address"].as_str()?.parse().ok()
    }

    /// The addresses of its proxies, if each has one of its own.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let addresses = self.0["status"]["addresses"].as_array();
        let addresses = addresses.into_iter().flatten();
        addresses.filter_map(|address| address.as_str()?.parse().ok()).collect()
    }

    /// Dialogs of a container, as they were last counted.
    pub fn dialogs(&self, container: &str) -> u64 {
        let containers = self.0["status"]["containers"].as_array();
        let mut containers = containers.into_iter().flatten();
        let found = containers.find(|one| one["name"] == container);
        found.and_then(|one| one["dialogs"].as_u64()).unwrap_or(0)
    }

    /// Containers that are not active, each with its state.
    pub fn away(&self) -> Vec<String> {
        let containers = self.0["status"]["containers"].as_array();
        let containers = containers.into_iter().flatten();
        let away = containers.filter(|container| container["state"] != "Active");
        away.map(|container| format!("{} {}", container["name"], container["state"]))
            .collect()
    }
}

impl World {
    /// The SipCluster as it stands.
    pub fn status(&self) -> anyhow::Result<Status> {
        self.kubernetes.get(&["sipcluster", NAME]).map(Status)
    }

    /// Waits until all that is wanted works; how long it took.
    pub fn ready(&self, containers: u64) -> anyhow::Result<Duration> {
        let begun = Instant::now();
        self.until("the SipCluster is Ready", |status| status.is_ready(containers))?;
        Ok(begun.elapsed())
    }

    /// Containers that do not work.
    pub fn away(&self) -> anyhow::Result<Away> {
        let selector = format!("app.kubernetes.io/instance={NAME}");
        let there = self.kubernetes.get(&["sipcluster,statefulset,pods", "-l", &selector])?;
        Ok(away(there["items"].as_array().context("a list")?))
    }

    /// Waits for a state of the SipCluster.
    pub fn until(&self, what: &str, condition: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        self.until_within(LIMIT, what, condition)
    }

    /// The same for one of several moves.
    pub fn until_within(&self, limit: Duration, what: &str, condition: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        let mut last = None;
        wait_every(LOOK, what, limit, || {
            let status = self.status().ok()?;
            let holds = condition(&status).then_some(());
            last = Some(status);
            holds
        })
        .with_context(|| format!("the last status: {last:?}"))
    }

    /// The pods of a kind, and the node that each is on: nothing if it has none yet.
    pub fn pods(&self, component: &str) -> anyhow::Result<Vec<(String, String)>> {
        let pods = self.list(&format!(",app.kubernetes.io/component={component}"))?;
        let placed = pods.iter().map(|pod| {
            let name = pod["metadata"]["name"].as_str().unwrap_or_default().to_owned();
            (name, pod["spec"]["nodeName"].as_str().unwrap_or_default().to_owned())
        });
        Ok(placed.collect())
    }

    /// The proxies that have been told to end.
    pub fn ending_proxies(&self) -> anyhow::Result<Vec<String>> {
        let pods = self.list(",app.kubernetes.io/component=proxy")?;
        let ending = pods.iter().map(|pod| &pod["metadata"]);
        let ending = ending.filter(|metadata| !metadata["deletionTimestamp"].is_null());
        Ok(ending
            .filter_map(|metadata| Some(metadata["name"].as_str()?.to_owned()))
            .collect())
    }

    /// The uids of all its pods.
    pub fn uids(&self) -> anyhow::Result<BTreeSet<String>> {
        let pods = self.list("")?;
        let uids = pods.iter().filter_map(|pod| pod["metadata"]["uid"].as_str());
        Ok(uids.map(str::to_owned).collect())
    }

    /// Its pods that have these labels besides.
    fn list(&self, labels: &str) -> anyhow::Result<Vec<Value>> {
        let selector = format!("app.kubernetes.io/instance={NAME}{labels}");
        let pods = self.kubernetes.get(&["pods", "-l", &selector])?;
        Ok(pods["items"].as_array().context("a list")?.clone())
    }

    /// The uid of a pod; nothing if it is not there.
    pub fn uid(&self, pod: &str) -> Option<String> {
        Some(
            self.kubernetes.get(&["pod", pod]).ok()?["metadata"]["uid"]
                .as_str()?
                .to_owned(),
        )
    }

    /// Waits until another pod of this name is there.
    pub fn replaced(&self, pod: &str, uid: &str) -> anyhow::Result<()> {
        wait_every(LOOK, &format!("{pod} is replaced"), LIMIT, || {
            self.uid(pod).filter(|other| other != uid).map(drop)
        })
    }

    /// Changes a field of the SipCluster's spec.
    pub fn patch(&self, patch: &str) -> anyhow::Result<()> {
        self.kubernetes
            .kubectl(&["patch", "sipcluster", NAME, "--type=merge", "-p", patch])
            .map(drop)
    }

    /// The processes that run as this part, on whatever node: one, unless a lost node has another still.
    pub fn processes(&self, part: &str) -> anyhow::Result<Vec<i32>> {
        let is_part = |arguments: &[u8]| {
            let mut arguments = arguments.split(|byte| *byte == 0);
            let is_ours = arguments
                .next()
                .is_some_and(|program| program.starts_with(b"/sipcluster-"));
            is_ours && arguments.any(|argument| argument == format!("--name={part}").as_bytes())
        };
        let mut found = Vec::new();
        for entry in std::fs::read_dir("/proc")? {
            let path = entry?.path();
            let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
            if let Some(pid) = pid
                && std::fs::read(path.join("cmdline")).is_ok_and(|arguments| is_part(&arguments))
            {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Connections that are up at a port of a part, in its pod's network; none in a cluster that is not ours, whose processes are elsewhere.
    pub fn connections(&self, part: &str, port: u16) -> anyhow::Result<usize> {
        const ESTABLISHED: &str = "01";
        let local = format!(":{port:04X}");
        let is_up = |line: &&str| {
            // Its number, its own address, the other's, its state.
            let fields: Vec<_> = line.split_whitespace().take(4).collect();
            matches!(fields[..], [_, own, _, ESTABLISHED] if own.ends_with(&local))
        };
        let mut up = 0;
        for pid in self.processes(part)? {
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/tcp"))?;
            up += table.lines().filter(is_up).count();
        }
        Ok(up)
    }

    /// Signals the process of a part.
    pub fn signal(&self, part: &str, signal: i32) -> anyhow::Result<()> {
        let found = self.processes(part)?;
        let pid = *found.first().with_context(|| format!("no process of {part}"))?;
        // SAFETY: a signal to a process that runs in a pod of ours.
        ensure!(unsafe { libc::kill(pid, signal) } == 0, "{part} has just ended");
        Ok(())
    }

    /// The pods of Redis, by number.
    pub fn redis_pods(&self) -> impl Iterator<Item = String> {
        (0..REDIS_INSTANCES).map(|ordinal| format!("{NAME}-redis-{ordinal}"))
    }

    /// Waits until a majority of the Sentinels names a Redis master: nobody is named while fewer have heard of the latest promotion.
    pub fn redis_master(&self) -> anyhow::Result<String> {
        let what = "a majority of the Sentinels names a Redis master";
        wait_every(LOOK, what, LIMIT, || self.named_redis_master())
    }

    /// The pod of the Redis master, if a majority of the Sentinels names one now.
    pub fn named_redis_master(&self) -> Option<String> {
        self.redis_pods().find_map(|pod| {
            let ask = [
                "exec",
                &pod,
                "-c",
                "sentinel",
                "--",
                "/usr/bin/redis-instance",
                "master",
            ];
            let ordinal = self.kubernetes.kubectl(&ask).ok()?;
            let ordinal: u16 = ordinal.trim().parse().ok()?;
            Some(format!("{NAME}-redis-{ordinal}"))
        })
    }

    /// Waits until every instance of Redis is the master, or in sync with it.
    pub fn redis_in_sync(&self) -> anyhow::Result<()> {
        wait_every(LOOK, "all instances of Redis are in sync", LIMIT, || {
            self.redis_pods().all(|pod| self.is_ready(&pod)).then_some(())
        })
    }

    fn is_ready(&self, pod: &str) -> bool {
        is_ready(&self.kubernetes.get(&["pod", pod]).unwrap_or_default())
    }

    /// Makes this the instance that Sentinels promote next.
    pub fn prefer_redis(&self, wanted: &str) -> anyhow::Result<()> {
        const FIRST: u8 = 1;
        self.set_redis_priority(wanted, FIRST)?;
        // Sentinels ask every ten seconds.
        wait_every(LOOK, "all Sentinels know whom to prefer", LIMIT, || {
            let ask = format!("-p 26379 SENTINEL REPLICAS {NAME}");
            self.redis_pods()
                .all(|pod| {
                    let replicas = self.redis_cli(&pod, &ask).unwrap_or_default();
                    let words: Vec<_> = replicas.split_whitespace().collect();
                    words.windows(2).any(|pair| pair == ["slave-priority", "1"])
                })
                .then_some(())
        })
    }

    /// Sets an instance's place among those that may be promoted: the lowest comes first.
    pub fn set_redis_priority(&self, pod: &str, priority: u8) -> anyhow::Result<()> {
        let said = self.redis_cli(pod, &format!("CONFIG SET replica-priority {priority}"))?;
        ensure!(said.trim() == "OK", "{pod} says {said:?}");
        Ok(())
    }

    /// The password of Redis of this number.
    pub fn redis_password(&self, number: u64) -> anyhow::Result<String> {
        let secret = match number {
            1 => format!("{NAME}-keys"),
            _ => format!("{NAME}-redis-password-{number}"),
        };
        let of = r#"-o=go-template={{index .data "redis-password" | base64decode}}"#;
        self.kubernetes.kubectl(&["get", "secret", &secret, of])
    }

    /// Whether a port of an instance of Redis is opened by this password.
    pub fn redis_opens(&self, pod: &str, port: &str, password: &str) -> anyhow::Result<bool> {
        let said = self.redis_cli_as(pod, password, &format!("-p {port} PING"))?;
        Ok(said.trim() == "PONG")
    }

    fn redis_cli(&self, pod: &str, words: &str) -> anyhow::Result<String> {
        self.redis_cli_as(pod, "$REDIS_PASSWORD", words)
    }

    fn redis_cli_as(&self, pod: &str, password: &str, words: &str) -> anyhow::Result<String> {
        let line = format!("REDISCLI_AUTH={password} exec redis-cli {words}");
        self.kubernetes
            .kubectl(&["exec", pod, "-c", "redis", "--", "/bin/sh", "-c", &line])
    }

    /// Kills the server of an instance of Redis, not its Sentinel.
    pub fn kill_redis(&self, pod: &str) -> anyhow::Result<()> {
        let uid = self.uid(pod).context("it is there")?;
        kill(&uid, |title| {
            title.starts_with("redis-server") && !title.contains("[sentinel]")
        })
    }

    /// Kills a replica of the operator, and takes its pod away before it could begin anew there.
    pub fn kill_operator(&self, pod: &str) -> anyhow::Result<()> {
        let found = self.kubernetes.get(&["pod", "-n", "sipcluster", pod])?;
        let uid = found["metadata"]["uid"].as_str().context("it has one")?;
        kill(uid, |title| title.starts_with("/sipcluster-operator"))?;
        let at_once = ["--grace-period=0", "--force", "--wait=false"];
        let delete = [&["delete", "pod", "-n", "sipcluster", pod], &at_once[..]].concat();
        self.kubernetes.kubectl(&delete).map(drop)
    }

    /// The node on which a pod runs.
    pub fn node_of(&self, pod: &str) -> anyhow::Result<String> {
        let pod = self.kubernetes.get(&["pod", pod])?;
        let node = pod["spec"]["nodeName"].as_str().context("it has no node")?;
        Ok(node.trim_start_matches("node").to_owned())
    }

    /// The operator's pod that leads.
    pub fn leader(&self) -> anyhow::Result<String> {
        let lease = self
            .kubernetes
            .get(&["lease", "sipcluster-operator", "-n", "sipcluster"])?;
        Ok(lease["spec"]["holderIdentity"]
            .as_str()
            .context("nobody leads")?
            .to_owned())
    }

    /// `helm test`: what each SipCluster has answered.
    ///
    /// # Errors
    /// One has not, or there is none.
    pub fn helm_test(&self) -> anyhow::Result<String> {
        self.kubernetes
            .run(&["helm", "test", "sipcluster", "-n", "sipcluster", "--timeout=60s"])?;
        self.check_log()
    }

    /// What the pod of the last `helm test` said.
    pub fn check_log(&self) -> anyhow::Result<String> {
        self.kubernetes
            .kubectl(&["logs", "-n", "sipcluster", "sipcluster-operator-check"])
    }

    /// Takes what was installed away again, if the cluster is not ours. The resource stays, as the chart has it.
    pub fn leave(&self) -> anyhow::Result<()> {
        if self.kubernetes.outside().is_some() {
            return Ok(());
        }
        self.kubernetes
            .kubectl(&["delete", "sipcluster", NAME, "--timeout=120s"])?;
        self.kubernetes
            .run(&["helm", "uninstall", "sipcluster", "-n", "sipcluster", "--wait"])?;
        self.kubernetes
            .kubectl(&["delete", "namespace", "sipcluster"])
            .map(drop)
    }

    /// What explains a failure, on one screen of 50 lines: the last ones of each, so many.
    pub fn explain(&self) -> String {
        // More than a terminal is wide, for the messages of conditions.
        const WIDTH: usize = 200;
        let tails: [(usize, &[&str]); 5] = [
            (
                12,
                &[
                    "get",
                    "sipcluster,statefulset,deployment,pods",
                    "-o",
                    "wide",
                    "--show-kind",
                    "--no-headers",
                ],
            ),
            (
                6,
                &[
                    "get",
                    "sipcluster",
                    NAME,
                    "-o",
                    "jsonpath={range .status.conditions[*]}{.type}={.status} {.message}{\"\\n\"}{end}",
                ],
            ),
            (
                9,
                &[
                    "get",
                    "events",
                    "--sort-by=.lastTimestamp",
                    "-o",
                    "custom-columns=OF:.involvedObject.name,WHY:.reason,WHAT:.message",
                ],
            ),
            (
                6,
                &[
                    "logs",
                    "-n",
                    "sipcluster",
                    "-l",
                    "app.kubernetes.io/name=sipcluster-operator",
                    "--tail=3",
                    "--prefix",
                ],
            ),
            (
                10,
                &[
                    "logs",
                    "-l",
                    "app.kubernetes.io/name=sipcluster",
                    "--tail=1",
                    "--prefix",
                    "--all-containers",
                ],
            ),
        ];
        let shown = tails
            .iter()
            .map(|(most, arguments)| match self.kubernetes.kubectl(arguments) {
                Ok(text) => {
                    let lines: Vec<String> = text.lines().map(|line| line.chars().take(WIDTH).collect()).collect();
                    let from = lines.len().saturating_sub(*most);
                    format!("--- kubectl {}\n{}\n", arguments.join(" "), lines[from..].join("\n"))
                }
                Err(error) => format!("--- {error:#}\n"),
            });
        shown.collect()
    }

    /// Keeps the logs of all pods that are there now, those of pods that will be gone soon too: a file that has a second name stays.
    pub fn keep_logs(&self) {
        let _ = std::fs::create_dir_all(self.logs());
        let entries = |directory: &Path| std::fs::read_dir(directory).into_iter().flatten().flatten();
        for pod in self.kubernetes.pods() {
            for container in entries(&pod) {
                for log in entries(&container.path()) {
                    let pod = pod.file_name().unwrap_or_default().to_string_lossy();
                    let (container, life) = (container.file_name(), log.file_name());
                    // A log that is full goes on in another file of this name.
                    let number = log.metadata().map_or(0, |data| data.ino());
                    let name = format!("{pod}.{}.{}.{number}", container.display(), life.display());
                    if let Err(error) = std::fs::hard_link(log.path(), self.logs().join(name))
                        && !matches!(error.kind(), ErrorKind::AlreadyExists | ErrorKind::NotFound)
                    {
                        eprintln!("{} is not kept: {error}", log.path().display());
                    }
                }
            }
        }
    }

    /// Where those logs are.
    #[must_use]
    pub fn logs(&self) -> PathBuf {
        self.scratch.join("logs")
    }

    /// Where scratch files lie.
    pub fn scratch(&self) -> &Path {
        &self.scratch
    }
}

/// Whether a pod serves, and goes on to.
fn is_ready(pod: &Value) -> bool {
    let conditions = pod["status"]["conditions"].as_array();
    let mut conditions = conditions.into_iter().flatten();
    pod["metadata"]["deletionTimestamp"].is_null()
        && conditions.any(|condition| condition["type"] == "Ready" && condition["status"] == "True")
}

/// Containers that do not work.
#[derive(Debug, Default, PartialEq)]
pub struct Away {
    /// As Kubernetes has it: those that are not ready or are ending, and those that the StatefulSet has and no pod is there of.
    pub seen: BTreeSet<String>,
    /// As the operator has it: those that are silent, of which Kubernetes does not know for a while; or that had no processor for a moment.
    pub silent: BTreeSet<String>,
}

/// Of a SipCluster, its StatefulSets and its pods.
fn away(there: &[Value]) -> Away {
    let name = |object: &Value| object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    let set = there
        .iter()
        .find(|object| object["kind"] == "StatefulSet" && name(object) == NAME);
    let count = set.and_then(|set| set["spec"]["replicas"].as_u64()).unwrap_or(0);
    let pods: Vec<_> = there
        .iter()
        .filter(|object| object["metadata"]["labels"]["app.kubernetes.io/component"] == "container")
        .collect();
    let missing = (0..count)
        .map(|ordinal| format!("{NAME}-{ordinal}"))
        .filter(|wanted| pods.iter().all(|pod| name(pod) != *wanted));
    let idle = pods.iter().filter(|pod| !is_ready(pod)).map(|pod| name(pod));
    let told = there.iter().filter(|object| object["kind"] == "SipCluster");
    let told = told.flat_map(|object| object["status"]["containers"].as_array().into_iter().flatten());
    let silent = told.filter(|container| container["state"] == "Silent");
    let silent = silent.filter_map(|container| Some(container["name"].as_str()?.to_owned()));
    Away {
        seen: idle.chain(missing).collect(),
        silent: silent.collect(),
    }
}

/// Kills the process of the pod of this uid whose command line is such.
fn kill(uid: &str, is_it: impl Fn(&str) -> bool) -> anyhow::Result<()> {
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let read = |file: &str| std::fs::read_to_string(path.join(file)).unwrap_or_default();
        let pid = path.file_name().and_then(|name| name.to_str()?.parse().ok());
        if let Some(pid) = pid
            && is_it(&read("cmdline"))
            && read("cgroup").contains(uid)
        {
            // SAFETY: a signal to a process that runs in a pod of ours.
            ensure!(unsafe { libc::kill(pid, libc::SIGKILL) } == 0, "it has just ended");
            return Ok(());
        }
    }
    anyhow::bail!("no such process in pod {uid}")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_container_that_is_not_ready_or_ends_or_is_missing_is_away() {
        let set = |name: &str, replicas: u64| json!({ "kind": "StatefulSet", "metadata": { "name": name }, "spec": { "replicas": replicas } });
        let pod = |name: &str, component: &str, ready: &str| {
            json!({
                "kind": "Pod",
                "metadata": { "name": name, "labels": { "app.kubernetes.io/component": component } },
                "status": { "conditions": [{ "type": "Ready", "status": ready }] },
            })
        };
        let mut there = vec![
            set("demo", 3),
            set("demo-redis", 5),
            pod("demo-0", "container", "True"),
            pod("demo-1", "container", "True"),
            pod("demo-2", "container", "True"),
            pod("demo-redis-0", "redis", "False"),
            json!({ "kind": "SipCluster", "metadata": { "name": "demo" }, "status": { "containers": [
                { "name": "demo-0", "state": "Active" }, { "name": "demo-1", "state": "Leaving" },
            ] } }),
        ];
        let is_away = |there: &[Value], seen: &[&str], silent: &[&str]| {
            let away = away(there);
            away.seen.iter().eq(seen) && away.silent.iter().eq(silent)
        };
        assert!(is_away(&there, &[], &[]));
        there[3]["metadata"]["deletionTimestamp"] = json!("2026-11-30T18:00:00Z");
        there[4] = pod("demo-2", "container", "False");
        assert!(is_away(&there, &["demo-1", "demo-2"], &[]));
        there[6]["status"]["containers"][0]["state"] = json!("Silent");
        assert!(is_away(&there, &["demo-1", "demo-2"], &["demo-0"]));
        there.remove(3);
        assert!(is_away(&there, &["demo-1", "demo-2"], &["demo-0"]), "one is missing");
        there.remove(0);
        assert!(
            is_away(&there, &["demo-2"], &["demo-0"]),
            "nobody says how many there should be"
        );
    }

    #[test]
    fn one_condition_that_is_not_well_or_is_of_an_older_manifest_is_enough() {
        let well = || {
            let condition = |kind: &str, status: &str| json!({ "type": kind, "status": status, "message": "", "observedGeneration": 2 });
            json!({ "metadata": { "generation": 2 }, "status": { "observedGeneration": 2, "conditions": [
                condition("Ready", "True"), condition("Available", "True"), condition("ReplicationHealthy", "True"),
                condition("EgressAddress", "True"), condition("Progressing", "False"), condition("Degraded", "False"),
            ] } })
        };
        assert!(Status::of(well()).is_whole());
        for at in 0..6 {
            let mut status = well();
            let condition = &mut status["status"]["conditions"][at];
            condition["status"] = json!(if condition["status"] == "True" { "False" } else { "True" });
            assert!(!Status::of(status).is_whole(), "{at}");
            let mut status = well();
            status["status"]["conditions"][at]["observedGeneration"] = json!(1);
            assert!(!Status::of(status).is_whole(), "{at}");
        }
    }
}

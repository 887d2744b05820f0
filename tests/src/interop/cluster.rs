//! A cluster under test: made by `sipcluster up --detach` from a manifest, seen by `sipcluster status`, ended by `sipcluster down`.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};

use super::copies::Copies;
use super::http;
use super::process::{binaries, lives, scratch, signal, tail, wait_every};
use super::redis;

/// How long a cluster may take to stand, on a machine that also compiles.
const START: Duration = Duration::from_secs(60);

/// How often the command is asked for the status: it is a process each time.
const ASK: Duration = Duration::from_millis(40);

/// What stands in the manifest of a cluster under test.
#[derive(Clone, Debug)]
pub struct Manifest {
    /// Name of the test; of the cluster too.
    pub name: &'static str,
    /// Third and fourth octet of the cluster's own address in 127.0.0.0/8.
    pub address: [u8; 2],
    /// Containers.
    pub containers: u32,
    /// Proxies.
    pub proxies: u32,
    /// Worker threads of each proxy.
    pub proxy_workers: u32,
    /// Worker threads of each container.
    pub container_workers: u32,
    /// Partitions.
    pub partitions: u32,
    /// How long `answer` rings.
    pub ring: &'static str,
    /// After how long `answer` ends the call.
    pub hold: &'static str,
    /// After how long `answer` refreshes or ends a session.
    pub session: &'static str,
    /// `spec.application.custom`, in place of `answer`.
    pub custom: Option<Value>,
    /// Where `b2bua`, in place of `answer`, calls out to: the part of a SIP URI behind its user.
    pub b2bua: Option<String>,
    /// Its routes, in place of one to `b2bua`.
    pub routes: Option<Value>,
    /// The instances of rtpengine through which `b2bua` leads media.
    pub media: Vec<SocketAddr>,
    /// A Redis that the test runs itself; else the cluster runs one.
    pub redis: Option<External>,
}

/// A Redis that is there already, as `spec.redis.external` names it.
#[derive(Clone, Debug)]
pub struct External {
    /// Of the server, or of Sentinels.
    pub url: String,
    /// How many servers hold the data.
    pub instances: u8,
    /// The file of the CA of their certificates, where the URL is one for TLS.
    pub ca: Option<PathBuf>,
}

impl From<SocketAddr> for External {
    /// One server.
    fn from(address: SocketAddr) -> Self {
        Self {
            url: format!("redis://{address}/"),
            instances: 1,
            ca: None,
        }
    }
}

impl Default for Manifest {
    fn default() -> Self {
        Self {
            name: "interop",
            address: [80, 1],
            containers: 3,
            proxies: 2,
            proxy_workers: 2,
            container_workers: 2,
            partitions: 1024,
            ring: "0s",
            hold: "0s",
            session: "90s",
            custom: None,
            b2bua: None,
            routes: None,
            media: Vec::new(),
            redis: None,
        }
    }
}

impl Manifest {
    /// The address where calls go.
    #[must_use]
    pub fn dispatcher(&self) -> SocketAddr {
        let [third, fourth] = self.address;
        SocketAddr::from((Ipv4Addr::new(127, 0, third, fourth), 5060))
    }

    /// The least share of the partitions that a container of a settled cluster owns, and all of them.
    #[must_use]
    pub fn shares(&self) -> (u64, u64) {
        // Rendezvous assignment spreads by chance; half of an equal part is far outside of that chance.
        ((self.partitions / self.containers / 2).into(), self.partitions.into())
    }

    /// The application as a container is told it.
    #[must_use]
    pub fn application(&self) -> Value {
        let target = self.b2bua.as_ref();
        let one = target.map(|target| json!([{ "target": format!("sip:{target}") }]));
        match (&self.custom, self.routes.clone().or(one)) {
            (Some(custom), _) => json!({ "custom": custom }),
            (None, Some(routes)) => {
                let mut b2bua = json!({ "sessionExpires": self.session, "routes": routes });
                if !self.media.is_empty() {
                    b2bua["media"] = json!({ "rtpengine": self.media });
                }
                json!({ "b2bua": b2bua })
            }
            (None, None) => json!({
                "answer": { "ring": self.ring, "hold": self.hold, "sessionExpires": self.session }
            }),
        }
    }

    fn text(&self) -> String {
        let address = self.dispatcher();
        let redis = match &self.redis {
            Some(External {
                url,
                instances,
                ca: None,
            }) => json!({ "external": { "url": url, "instances": instances } }),
            Some(External { url, instances, ca }) => {
                json!({ "external": { "url": url, "instances": instances, "caFile": ca } })
            }
            None => json!({ "managed": {} }),
        };
        // JSON is YAML.
        let manifest = json!({
            "apiVersion": "sipcluster.dev/v1alpha1",
            "kind": "SipCluster",
            "metadata": { "name": self.name },
            "spec": {
                "replicas": self.containers,
                "partitions": self.partitions,
                "application": self.application(),
                "containers": { "workers": self.container_workers },
                "proxies": { "replicas": self.proxies, "workers": self.proxy_workers },
                "dispatcher": { "address": address.ip(), "port": address.port(), "transports": ["udp", "tcp"] },
                "redis": redis,
            },
        });
        format!("{manifest:#}")
    }
}

/// `sipcluster status -o json`, as far as tests read it.
#[derive(Clone, Debug, Deserialize)]
pub struct Status {
    /// Where calls go.
    pub address: String,
    /// Containers in order of their names.
    pub containers: Vec<Part>,
    /// Proxies in order of their names.
    pub proxies: Vec<Part>,
    /// The redis-server.
    pub redis: Part,
}

/// A process of the cluster.
#[derive(Clone, Debug, Deserialize)]
pub struct Part {
    /// Its name, such as `demo-0`.
    pub name: String,
    /// Its process id; 0 or nothing while it is not running.
    #[serde(default)]
    pub pid: Option<u32>,
    /// A word of the resource's status.
    pub state: String,
    /// Partitions owned, of a container.
    #[serde(default)]
    pub partitions: Option<u64>,
    /// Dialogs held, of a container.
    #[serde(default)]
    pub dialogs: Option<u64>,
    /// Open transactions, of a container.
    #[serde(default)]
    pub load: Option<u64>,
    /// Whether all that it holds is in Redis, of a container.
    #[serde(default)]
    pub replicated: Option<bool>,
    /// Whether it answers before it has written, of a container.
    #[serde(default, rename = "fromMemory")]
    pub from_memory: Option<bool>,
    /// Where it can be reached, of Redis.
    #[serde(default)]
    pub url: Option<String>,
    /// The admin port.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
}

impl Part {
    /// One that does not answer.
    #[must_use]
    pub fn silent(name: &str) -> Self {
        Self {
            name: name.to_owned(),
            pid: None,
            state: "Silent".into(),
            partitions: None,
            dialogs: None,
            load: None,
            replicated: None,
            from_memory: None,
            url: None,
            admin: None,
        }
    }

    /// The pid of a process that runs.
    pub fn running(&self) -> anyhow::Result<u32> {
        let pid = self.pid.filter(|pid| *pid > 1);
        pid.with_context(|| format!("{} does not run: {self:?}", self.name))
    }
}

impl Status {
    /// Dialogs of all containers.
    #[must_use]
    pub fn dialogs(&self) -> u64 {
        self.containers.iter().filter_map(|part| part.dialogs).sum()
    }

    /// Partitions that have an owner.
    #[must_use]
    pub fn partitions(&self) -> u64 {
        self.containers.iter().filter_map(|part| part.partitions).sum()
    }

    /// All processes.
    pub fn parts(&self) -> impl Iterator<Item = &Part> {
        self.containers.iter().chain(&self.proxies).chain([&self.redis])
    }
}

/// A running cluster; ended when dropped.
#[derive(Debug)]
pub struct Cluster {
    manifest: Manifest,
    files: PathBuf,
    binaries: PathBuf,
}

impl Cluster {
    /// Starts a cluster and waits until every part is active and the partitions are shared out.
    pub fn start(manifest: Manifest) -> anyhow::Result<Self> {
        let files = scratch(manifest.name)?;
        std::fs::write(files.join("sipcluster.yaml"), manifest.text())?;
        let cluster = Self {
            manifest,
            files,
            binaries: binaries()?,
        };
        let up = cluster.run(&["up", "--detach", "-f", "sipcluster.yaml"])?;
        ensure!(up.status.success(), "sipcluster up: {}\n{}", text(&up), cluster.logs());
        cluster.settle(START)?;
        Ok(cluster)
    }

    /// `sipcluster` with these arguments, about this cluster.
    #[must_use]
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.binaries.join("sipcluster"));
        command.current_dir(&self.files).args(arguments);
        command.arg("--state-dir").arg(self.files.join("state"));
        command
    }

    fn run(&self, arguments: &[&str]) -> anyhow::Result<std::process::Output> {
        self.command(arguments).output().context("sipcluster does not start")
    }

    /// Writes a manifest of this cluster, with changes, for `sipcluster apply -f FILE`.
    pub fn write_changed(&self, file: &str, change: impl FnOnce(&mut Value)) -> anyhow::Result<()> {
        let mut manifest: Value = serde_json::from_str(&self.manifest.text())?;
        change(&mut manifest["spec"]);
        Ok(std::fs::write(self.files.join(file), manifest.to_string())?)
    }

    /// What this cluster was made from.
    #[must_use]
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Files of this test.
    #[must_use]
    pub fn files(&self) -> &Path {
        &self.files
    }

    /// Where calls go.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.manifest.dispatcher()
    }

    /// An address of the same test for callers.
    #[must_use]
    pub fn caller_address(&self) -> IpAddr {
        let [third, fourth] = self.manifest.address;
        Ipv4Addr::new(127, 0, third, fourth + 100).into()
    }

    /// What `sipcluster status -o json` says.
    pub fn status(&self) -> anyhow::Result<Status> {
        let output = self.run(&["status", "-o", "json"])?;
        ensure!(output.status.success(), "sipcluster status: {}", text(&output));
        serde_json::from_slice(&output.stdout).with_context(|| format!("status: {}", text(&output)))
    }

    /// Waits for a condition on the status.
    pub fn until(&self, what: &str, limit: Duration, condition: impl Fn(&Status) -> bool) -> anyhow::Result<Status> {
        let found = wait_every(ASK, what, limit, || self.status().ok().filter(&condition));
        found.with_context(|| format!("{:?}\n{}", self.status(), self.logs()))
    }

    /// Waits until every part is active and every container has its share of the partitions.
    pub fn settle(&self, limit: Duration) -> anyhow::Result<Status> {
        let (containers, proxies) = (self.manifest.containers, self.manifest.proxies);
        let (least, all) = self.manifest.shares();
        let wanted = (containers as usize, proxies as usize);
        self.until("every part active", limit, |status| {
            (status.containers.len(), status.proxies.len()) == wanted
                && status.parts().all(|part| part.state == "Active")
                && status.containers.iter().all(|part| part.partitions >= Some(least))
                && status.partitions() == all
        })
    }

    /// What the containers hold, and what Redis has.
    pub fn copies(&self) -> anyhow::Result<Copies> {
        let status = self.status()?;
        let admin = |part: &Part| part.admin.with_context(|| format!("{} has an admin port", part.name));
        let url = status.redis.url.as_deref().context("Redis has an address")?;
        Ok(Copies {
            cluster: self.manifest.name.to_owned(),
            partitions: self.manifest.partitions,
            containers: status.containers.iter().map(admin).collect::<Result<_, _>>()?,
            redis: redis::named_master(url, &format!("sc:{{{}}}", self.manifest.name))?,
            redis_cluster: url.starts_with("redis-cluster://"),
        })
    }

    /// `sipcluster` with these arguments, until what it asks for is done; what it said.
    pub fn carry_out(&self, arguments: &[&str]) -> anyhow::Result<String> {
        let output = self.run(arguments)?;
        ensure!(
            output.status.success(),
            "sipcluster {}: {}",
            arguments.join(" "),
            text(&output)
        );
        Ok(text(&output))
    }

    /// The log of a part, of all its lives.
    pub fn log(&self, name: &str) -> anyhow::Result<String> {
        let path = self.files.join("state/log").join(format!("{name}.log"));
        std::fs::read_to_string(&path).with_context(|| path.display().to_string())
    }

    /// The supervisor's process.
    pub fn supervisor(&self) -> anyhow::Result<u32> {
        let record: Value = serde_json::from_slice(&std::fs::read(self.files.join("state/cluster.json"))?)?;
        let pid = record["pid"].as_u64().context("a pid")?;
        Ok(pid.try_into()?)
    }

    /// `kill -9` of a process by its name; gives the pid it had.
    pub fn kill(&self, name: &str) -> anyhow::Result<u32> {
        let status = self.status()?;
        let part = status.parts().find(|part| part.name == name);
        let pid = part.with_context(|| format!("{name} in {status:?}"))?.running()?;
        signal(pid, libc::SIGKILL)?;
        Ok(pid)
    }

    /// What every part counts and logs, for a test that failed.
    #[must_use]
    pub fn report(&self) -> String {
        let mut all = String::new();
        let status = self.status().ok();
        for part in status.iter().flat_map(Status::parts) {
            let metrics = part.admin.and_then(|admin| http::get(admin, "/metrics").ok());
            let metrics = metrics.unwrap_or_default();
            all.push_str(&format!("{part:?}\n"));
            for line in metrics
                .lines()
                .filter(|line| !line.starts_with('#') && !line.ends_with(" 0"))
            {
                all.push_str(&format!("  {line}\n"));
            }
        }
        all + &self.logs()
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let mut all = String::new();
        let mut directories = vec![self.files.clone()];
        while let Some(directory) = directories.pop() {
            for entry in std::fs::read_dir(directory).into_iter().flatten().flatten() {
                let path = entry.path();
                if path.is_dir() {
                    directories.push(path);
                } else if path.extension().is_some_and(|extension| extension == "log") {
                    all.push_str(&tail(&path));
                    all.push('\n');
                }
            }
        }
        all
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let state = self.files.join("state");
        // `down` leaves nothing behind; the logs of a test are worth keeping.
        for entry in std::fs::read_dir(state.join("log")).into_iter().flatten().flatten() {
            let _ = std::fs::copy(entry.path(), self.files.join(entry.file_name()));
        }
        let record = std::fs::read(state.join("cluster.json")).unwrap_or_default();
        if self.run(&["down"]).is_ok_and(|output| output.status.success()) {
            return;
        }
        // The kernel ends all that the supervisor started together with it.
        let record: Value = serde_json::from_slice(&record).unwrap_or_default();
        if let Some(pid) = record["pid"]
            .as_u64()
            .and_then(|pid| u32::try_from(pid).ok())
            .filter(|pid| lives(*pid))
        {
            let _ = signal(pid, libc::SIGKILL);
        }
    }
}

/// What a container or proxy says of itself on its admin port, without the command in between.
pub fn state(admin: SocketAddr) -> anyhow::Result<Value> {
    Ok(serde_json::from_str(&http::get(admin, "/state")?)?)
}

/// A container's partitions and dialogs.
pub fn counts(admin: SocketAddr) -> anyhow::Result<(u64, u64)> {
    let state = state(admin)?;
    let count = |name: &str| state[name].as_u64().with_context(|| format!("{name} in {state}"));
    Ok((count("partitions")?, count("dialogs")?))
}

fn text(output: &std::process::Output) -> String {
    let (out, err) = (
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr),
    );
    format!("{out}{err}({})", output.status)
}

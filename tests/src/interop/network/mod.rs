//! A cluster whose parts have a node each, as pods do: a network namespace with an address in 198.18.0.0/15, all of them at one bridge. Nothing
//! of the machine's own network is touched. Any two can be [cut](Network::cut) off from one another: packets are dropped without a word.
//!
//! The processes are started as `sipcluster up` does, without anybody who would start them again.

mod namespace;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::cluster::{Manifest, Part};
use super::copies::Copies;
use super::http;
use super::process::{Process, binaries, scratch, signal, tail, wait_every};
pub(super) use namespace::Made;
pub use namespace::{Namespace, ip};

/// The cluster's name.
const CLUSTER: &str = "network";

/// The port of every proxy.
const SIP: u16 = 5060;
const ADMIN: u16 = 9090;
const REDIS: u16 = 6379;

/// How often containers are asked.
const ASK: Duration = Duration::from_millis(40);

/// How long the whole may take to stand.
const START: Duration = Duration::from_secs(60);

/// Names of namespaces begin like this, and go on with the pid.
const PREFIX: &str = "sipcluster-";

/// A running cluster; ended when dropped, processes before their namespaces.
#[derive(Debug)]
pub struct Network {
    manifest: Manifest,
    files: PathBuf,
    nodes: Vec<Node>,
    callers: Made,
    _switch: Made,
}

#[derive(Debug)]
struct Node {
    name: String,
    process: Option<Process>,
    place: Made,
}

impl Network {
    /// Where the phones are.
    pub const CALLERS: Ipv4Addr = Ipv4Addr::new(198, 18, 0, 1);

    /// Makes the nodes, starts everything and waits until every container has its share of the partitions, and every proxy knows.
    pub fn start(manifest: Manifest) -> anyhow::Result<Self> {
        let (prefix, switch) = switch()?;
        let mut names = vec!["redis".to_owned()];
        names.extend((0..manifest.proxies).map(|ordinal| format!("proxy-{ordinal}")));
        names.extend((0..manifest.containers).map(|ordinal| format!("container-{ordinal}")));
        let mut network = Self {
            files: scratch(manifest.name)?,
            manifest,
            nodes: Vec::new(),
            callers: node(&prefix, "callers", &switch.0, 1)?,
            _switch: switch,
        };
        for (name, last) in names.into_iter().zip(2..) {
            let place = node(&prefix, &name, &network._switch.0, last)?;
            network.nodes.push(Node {
                name,
                process: None,
                place,
            });
        }
        network.write_endpoints()?;
        for at in 0..network.nodes.len() {
            network.launch(at)?;
        }
        network.settle(START)?;
        network.until_known(START)?;
        Ok(network)
    }

    fn write_endpoints(&self) -> anyhow::Result<()> {
        let endpoints = self.nodes.iter().filter_map(|node| {
            let (name, address) = (&node.name, node.place.0.address);
            match name.split('-').next() {
                Some("container") => {
                    Some(json!({ "name": name, "sip": format!("{address}:6060"), "ucf": format!("{address}:6061") }))
                }
                Some("proxy") => Some(json!({ "name": name, "ucf": format!("{address}:6062") })),
                _ => None,
            }
        });
        let text = serde_json::to_vec(&endpoints.collect::<Vec<_>>())?;
        Ok(std::fs::write(self.files.join("endpoints.json"), text)?)
    }

    fn launch(&mut self, at: usize) -> anyhow::Result<()> {
        let node = &self.nodes[at];
        let mut command = match node.name.split('-').next() {
            Some("redis") => self.redis(node),
            Some("proxy") => self.proxy(node)?,
            _ => self.container(node)?,
        };
        let log = self.files.join(format!("{}.log", node.name));
        let process = node.place.0.within(|| Process::start(&mut command, &log))?;
        self.nodes[at].process = Some(process);
        Ok(())
    }

    fn redis(&self, node: &Node) -> Command {
        let mut command = Command::new("redis-server");
        command.args([
            "--bind",
            &node.place.0.address.to_string(),
            "--port",
            &REDIS.to_string(),
        ]);
        command.args(["--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        command.current_dir(&self.files);
        command
    }

    fn common(&self, program: &str, node: &Node) -> anyhow::Result<Command> {
        let mut command = Command::new(binaries()?.join(program));
        command.args(["--cluster", CLUSTER, "--name", &node.name]);
        command.args(["--admin", &format!("{}:{ADMIN}", node.place.0.address)]);
        command.args(["--partitions", &self.manifest.partitions.to_string()]);
        command.args(["--advertised", &self.address().to_string()]);
        command.env("SIPCLUSTER_KEY", "000102030405060708090a0b0c0d0e0f");
        Ok(command)
    }

    fn proxy(&self, node: &Node) -> anyhow::Result<Command> {
        let mut command = self.common("sipcluster-proxy", node)?;
        let address = node.place.0.address;
        command.args([
            "--listen",
            &format!("udp:{address}:{SIP}"),
            "--listen",
            &format!("tcp:{address}:{SIP}"),
            "--ucf",
            &format!("{address}:6062"),
        ]);
        command.arg("--endpoints").arg(self.files.join("endpoints.json"));
        command.args(["--workers", &self.manifest.proxy_workers.to_string()]);
        Ok(command)
    }

    fn container(&self, node: &Node) -> anyhow::Result<Command> {
        let mut command = self.common("sipcluster-container", node)?;
        let (address, redis) = (node.place.0.address, self.nodes[0].place.0.address);
        command.args(["--redis", &format!("redis://{redis}:{REDIS}/")]);
        command.args(["--sip", &format!("{address}:6060"), "--ucf", &format!("{address}:6061")]);
        command.args(["--application", &self.manifest.application().to_string()]);
        command.args(["--workers", &self.manifest.container_workers.to_string()]);
        Ok(command)
    }

    /// Where calls go: a name for the whole, at which nobody listens. Phones send through a proxy.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        SocketAddr::from((Ipv4Addr::new(198, 18, 0, 200), SIP))
    }

    /// The proxies.
    #[must_use]
    pub fn proxies(&self) -> Vec<SocketAddr> {
        let proxies = self.nodes.iter().filter(|node| node.name.starts_with("proxy"));
        proxies
            .map(|node| SocketAddr::from((node.place.0.address, SIP)))
            .collect()
    }

    /// Where the phones are.
    #[must_use]
    pub fn callers(&self) -> Namespace {
        self.callers.0.clone()
    }

    /// Partitions of the cluster.
    #[must_use]
    pub fn partitions(&self) -> u64 {
        self.manifest.partitions.into()
    }

    fn node(&self, name: &str) -> anyhow::Result<&Node> {
        let found = self.nodes.iter().find(|node| node.name == name);
        found.with_context(|| format!("a node {name}"))
    }

    /// Drops whatever goes from `one` to one of `others` or back, from now on.
    pub fn cut(&self, one: &str, others: &[&str]) -> anyhow::Result<()> {
        let one = &self.node(one)?.place.0;
        for other in others {
            let other = &self.node(other)?.place.0;
            for (here, there) in [(one, other), (other, one)] {
                here.nft(&format!("add element ip cut peers {{ {} }}", there.address))?;
            }
        }
        Ok(())
    }

    /// Drops whatever `one` sends to one of `others`, from now on; it goes on hearing them.
    pub fn mute(&self, one: &str, others: &[&str]) -> anyhow::Result<()> {
        let address = self.node(one)?.place.0.address;
        for other in others {
            let other = &self.node(other)?.place.0;
            other.nft(&format!("add element ip cut peers {{ {address} }}"))?;
        }
        Ok(())
    }

    /// `kill -9` of a node's process; nobody starts it again.
    pub fn kill(&self, name: &str) -> anyhow::Result<()> {
        let process = self.node(name)?.process.as_ref();
        signal(process.with_context(|| format!("{name} runs"))?.pid(), libc::SIGKILL)
    }

    /// `kill -9` of a node's process, and another one in its place.
    pub fn restart(&mut self, name: &str) -> anyhow::Result<()> {
        let found = self.nodes.iter().position(|node| node.name == name);
        let at = found.with_context(|| format!("a node {name}"))?;
        // Killed and waited for, so that its ports are free.
        drop(self.nodes[at].process.take());
        self.launch(at)
    }

    /// Takes every cut away.
    pub fn heal(&self) -> anyhow::Result<()> {
        let mut nodes = self.nodes.iter();
        nodes.try_for_each(|node| node.place.0.nft("flush set ip cut peers"))
    }

    /// What each container says of itself, asked on its own node; of one that does not answer, nothing but its name.
    #[must_use]
    pub fn containers(&self) -> Vec<Part> {
        let containers = self.nodes.iter().filter(|node| node.name.starts_with("container"));
        let ask = |node: &Node| {
            let place = &node.place.0;
            let said = place.within(|| http::get((place.address, ADMIN).into(), "/state"));
            said.and_then(|text| Ok(serde_json::from_str::<Part>(&text)?))
        };
        containers
            .map(|node| ask(node).unwrap_or_else(|_| Part::silent(&node.name)))
            .collect()
    }

    /// Waits for a condition on the containers.
    pub fn until(&self, what: &str, limit: Duration, condition: impl Fn(&[Part]) -> bool) -> anyhow::Result<Vec<Part>> {
        let found = wait_every(ASK, what, limit, || {
            Some(self.containers()).filter(|all| condition(all))
        });
        found.with_context(|| format!("{:?}\n{}", self.containers(), self.logs()))
    }

    /// Waits until every container is active and has its share of the partitions.
    pub fn settle(&self, limit: Duration) -> anyhow::Result<Vec<Part>> {
        let (least, all) = self.manifest.shares();
        self.until("every container active", limit, |containers| {
            let whole = |part: &Part| part.state == "Active" && part.partitions >= Some(least);
            let owned: u64 = containers.iter().filter_map(|part| part.partitions).sum();
            containers.iter().all(whole) && owned == all
        })
    }

    /// Waits until every worker of the proxies has heard that all containers are active and who owns each partition: of a container that is cut
    /// off before, it hears no more.
    fn until_known(&self, limit: Duration) -> anyhow::Result<()> {
        let (_, all) = self.manifest.shares();
        let knows = |worker: &Value| {
            let containers = worker["containers"].as_array()?;
            let are_active = containers.iter().all(|container| container["state"] == "Active");
            let owned: Option<u64> = containers
                .iter()
                .map(|container| container["partitions"].as_u64())
                .sum();
            let is_known = are_active && containers.len() as u32 == self.manifest.containers && owned == Some(all);
            is_known.then_some(())
        };
        for node in self.nodes.iter().filter(|node| node.name.starts_with("proxy")) {
            let place = &node.place.0;
            let asked = || {
                let text = place
                    .within(|| http::get((place.address, ADMIN).into(), "/state"))
                    .ok()?;
                let state: Value = serde_json::from_str(&text).ok()?;
                state["workers"].as_array()?.iter().try_for_each(knows)
            };
            wait_every(ASK, "the proxy knows whose everything is", limit, asked).with_context(|| node.name.clone())?;
        }
        Ok(())
    }

    /// Waits until so many containers are on the list of members in Redis.
    pub fn until_listed(&self, count: usize, limit: Duration) -> anyhow::Result<()> {
        let place = &self.node("redis")?.place.0;
        let client = redis::Client::open(format!("redis://{}:{REDIS}/", place.address))?;
        let members = format!("sc:{{{CLUSTER}:m}}:members");
        let listed = || -> anyhow::Result<usize> {
            let mut connection = client.get_connection()?;
            Ok(redis::cmd("HLEN").arg(&members).query(&mut connection)?)
        };
        place.within(|| {
            wait_every(ASK, "members are listed", limit, || {
                listed().is_ok_and(|found| found == count).then_some(())
            })
        })
    }

    /// Waits until Redis has what the containers hold.
    pub fn two_copies(&self, limit: Duration) -> anyhow::Result<usize> {
        let containers = self.nodes.iter().filter(|node| node.name.starts_with("container"));
        let place = &self.node("redis")?.place.0;
        let copies = Copies {
            cluster: CLUSTER.to_owned(),
            partitions: self.manifest.partitions,
            containers: containers.map(|node| (node.place.0.address, ADMIN).into()).collect(),
            redis: (place.address, REDIS).into(),
            redis_cluster: false,
        };
        place.within(|| copies.until_equal(limit))
    }

    /// A container's or a proxy's metrics.
    pub fn metrics(&self, name: &str) -> anyhow::Result<String> {
        let place = &self.node(name)?.place.0;
        place.within(|| http::get((place.address, ADMIN).into(), "/metrics"))
    }

    /// The ends of all logs.
    #[must_use]
    pub fn logs(&self) -> String {
        let logs = self
            .nodes
            .iter()
            .map(|node| tail(&self.files.join(format!("{}.log", node.name))));
        logs.collect::<Vec<_>>().join("\n")
    }
}

/// A switch, and how the names of its nodes begin.
pub(super) fn switch() -> anyhow::Result<(String, Made)> {
    static MADE: AtomicU32 = AtomicU32::new(0);
    namespace::sweep(PREFIX);
    let prefix = format!(
        "{PREFIX}{}-{}",
        std::process::id(),
        MADE.fetch_add(1, Ordering::Relaxed)
    );
    let switch = Made::new(format!("{prefix}-switch"), Ipv4Addr::UNSPECIFIED)?;
    ip(&["-n", &switch.0.name, "link", "add", "bridge", "type", "bridge"])?;
    ip(&["-n", &switch.0.name, "link", "set", "bridge", "up"])?;
    Ok((prefix, switch))
}

/// A node at the switch, with the address 198.18.0.`last`.
pub(super) fn node(prefix: &str, name: &str, switch: &Namespace, last: u8) -> anyhow::Result<Made> {
    let made = Made::new(format!("{prefix}-{name}"), Ipv4Addr::new(198, 18, 0, last))?;
    let (there, port) = (made.0.name.as_str(), format!("port{last}"));
    let link = [
        "link", "add", &port, "type", "veth", "peer", "name", "eth0", "netns", there,
    ];
    ip(&[&["-n", &switch.name], &link[..]].concat())?;
    ip(&["-n", &switch.name, "link", "set", &port, "master", "bridge", "up"])?;
    ip(&[
        "-n",
        there,
        "address",
        "add",
        &format!("{}/15", made.0.address),
        "dev",
        "eth0",
    ])?;
    ip(&["-n", there, "link", "set", "eth0", "up"])?;
    made.0.nft("add table ip cut")?;
    made.0.nft("add set ip cut peers { type ipv4_addr; }")?;
    made.0
        .nft("add chain ip cut input { type filter hook input priority 0; }")?;
    made.0.nft("add rule ip cut input ip saddr @peers drop")?;
    ensure!(last < 200, "addresses for nodes are left");
    Ok(made)
}

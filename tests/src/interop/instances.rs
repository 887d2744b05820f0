//! A Redis of several instances, as on Kubernetes: each runs `charts/images/redis/redis-instance`, server and Sentinel, on a node of its own.

use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::network::{Made, node, switch};
use super::process::{Process, cpu_time, scratch, source_root, wait_every};

/// How many there are.
pub const INSTANCES: usize = 3;

/// How long anything may take: a Sentinel tries a failed promotion again after ten seconds.
const LIMIT: Duration = Duration::from_secs(30);

const LOOK: Duration = Duration::from_millis(100);

const PASSWORD: &str = "secret";

const SENTINEL: &str = "26379";

/// The instances; ended when dropped, processes before their nodes.
#[derive(Debug)]
pub struct Instances {
    nodes: Vec<Node>,
    files: PathBuf,
    _switch: Made,
}

#[derive(Debug)]
struct Node {
    server: Option<Process>,
    sentinel: Option<Process>,
    place: Made,
    passwords: Passwords,
}

/// Those of an instance.
#[derive(Clone, Copy, Debug)]
pub struct Passwords {
    /// The one that it presents, and accepts.
    pub presents: &'static str,
    /// What it accepts besides.
    pub others: &'static str,
}

impl Instances {
    /// Starts all of them at once, without a master.
    pub fn start(name: &str) -> anyhow::Result<Self> {
        let (prefix, switch) = switch()?;
        let mut instances = Self {
            nodes: Vec::new(),
            files: scratch(name)?,
            _switch: switch,
        };
        instances.stage()?;
        for ordinal in 0..INSTANCES {
            let place = node(&prefix, &ordinal.to_string(), &instances._switch.0, 10 + ordinal as u8)?;
            instances.nodes.push(Node {
                server: None,
                sentinel: None,
                place,
                passwords: Passwords {
                    presents: PASSWORD,
                    others: "",
                },
            });
        }
        for ordinal in 0..INSTANCES {
            instances.start_server(ordinal)?;
            instances.start_sentinel(ordinal)?;
        }
        Ok(instances)
    }

    /// Starts a server, as the kubelet does once it has ended.
    pub fn start_server(&mut self, ordinal: usize) -> anyhow::Result<()> {
        let process = self.launch(ordinal, "server")?;
        self.nodes[ordinal].server = Some(process);
        Ok(())
    }

    /// Starts a Sentinel with what it has written, if it has.
    pub fn start_sentinel(&mut self, ordinal: usize) -> anyhow::Result<()> {
        let process = self.launch(ordinal, "sentinel")?;
        self.nodes[ordinal].sentinel = Some(process);
        Ok(())
    }

    /// kill -9 of the server.
    pub fn kill_server(&mut self, ordinal: usize) {
        self.nodes[ordinal].server = None;
    }

    /// kill -9 of both, and all that the Sentinel knew is gone, as with a pod that is replaced.
    pub fn lose_pod(&mut self, ordinal: usize) -> anyhow::Result<()> {
        self.nodes[ordinal].server = None;
        self.nodes[ordinal].sentinel = None;
        Ok(std::fs::remove_file(self.data(ordinal).join("sentinel.conf"))?)
    }

    /// Ends a Sentinel; when started again, it has heard of this promotion last. It knows of no other instance any more, so none will hear of that promotion from it.
    pub fn believe(&mut self, ordinal: usize, master: usize, epoch: u64) -> anyhow::Result<()> {
        self.nodes[ordinal].sentinel = None;
        let file = self.data(ordinal).join("sentinel.conf");
        let master = self.address(master);
        let mut conf = String::new();
        for line in std::fs::read_to_string(&file)?.lines() {
            match line.split(' ').collect::<Vec<_>>()[..] {
                ["sentinel", "known-replica" | "known-sentinel", ..] => continue,
                ["sentinel", "monitor", name, _, port, quorum] => {
                    conf += &format!("sentinel monitor {name} {master} {port} {quorum}");
                }
                ["sentinel", "config-epoch", name, _] => conf += &format!("sentinel config-epoch {name} {epoch}"),
                _ => conf += line,
            }
            conf.push('\n');
        }
        Ok(std::fs::write(file, conf)?)
    }

    /// Where an instance is.
    pub fn address(&self, ordinal: usize) -> Ipv4Addr {
        self.nodes[ordinal].place.0.address
    }

    /// Its pod is replaced by one with these passwords, as in a rollout: a master hands over first.
    pub fn replace(&mut self, ordinal: usize, passwords: Passwords) -> anyhow::Result<()> {
        self.run(ordinal, "leave")?;
        self.lose_pod(ordinal)?;
        self.nodes[ordinal].passwords = passwords;
        self.start_server(ordinal)?;
        self.start_sentinel(ordinal)
    }

    /// Whether a server and its Sentinel are opened by this password.
    pub fn accepts(&self, ordinal: usize, password: &str) -> anyhow::Result<bool> {
        let server = self.redis_cli(ordinal, password, &["PING"])?;
        let sentinel = self.redis_cli(ordinal, password, &["-p", SENTINEL, "PING"])?;
        ensure!(
            (server == "PONG") == (sentinel == "PONG"),
            "the server says {server:?}, its Sentinel {sentinel:?}"
        );
        Ok(server == "PONG")
    }

    /// What a server and its Sentinel have noted of passwords that they did not accept.
    pub fn refused(&self, ordinal: usize) -> anyhow::Result<String> {
        let server = self.ask(ordinal, &["ACL", "LOG"])?;
        let sentinel = self.ask(ordinal, &["-p", SENTINEL, "ACL", "LOG"])?;
        Ok(server + &sentinel)
    }

    /// As where its Service has no pod: who connects to a server is refused by ICMP.
    pub fn refuse(&self, ordinal: usize) -> anyhow::Result<()> {
        let place = &self.nodes[ordinal].place.0;
        place.nft("add chain ip cut refused { type filter hook input priority 1; }")?;
        place.nft(r#"add rule ip cut refused iifname != "lo" tcp dport 6379 reject"#)
    }

    /// And its pod is there again.
    pub fn accept(&self, ordinal: usize) -> anyhow::Result<()> {
        self.nodes[ordinal].place.0.nft("flush chain ip cut refused")
    }

    /// Nothing comes to an instance from the others any more, nor to them from it.
    pub fn cut(&self, ordinal: usize) -> anyhow::Result<()> {
        let one = &self.nodes[ordinal].place.0;
        for (number, other) in self.nodes.iter().enumerate() {
            if number != ordinal {
                let other = &other.place.0;
                one.nft(&format!("add element ip cut peers {{ {} }}", other.address))?;
                other.nft(&format!("add element ip cut peers {{ {} }}", one.address))?;
            }
        }
        Ok(())
    }

    /// Takes every cut away.
    pub fn mend(&self) -> anyhow::Result<()> {
        let mut nodes = self.nodes.iter();
        nodes.try_for_each(|node| node.place.0.nft("flush set ip cut peers"))
    }

    /// The time that a Sentinel has used of a processor so far, and the end of what it has said.
    pub fn sentinel(&self, ordinal: usize) -> (Duration, String) {
        let sentinel = self.nodes[ordinal].sentinel.as_ref();
        sentinel.map_or_else(Default::default, |process| {
            (cpu_time(process.pid()), process.log_tail())
        })
    }

    /// The end of what a server has said.
    pub fn server(&self, ordinal: usize) -> String {
        let server = self.nodes[ordinal].server.as_ref();
        server.map_or_else(Default::default, Process::log_tail)
    }

    /// The master, as a majority of the Sentinels has it; an error if a majority names none.
    pub fn master(&self) -> anyhow::Result<usize> {
        self.master_for(0)
    }

    /// The same, asked from an instance's node.
    pub fn master_for(&self, ordinal: usize) -> anyhow::Result<usize> {
        let text = self.run(ordinal, "master")?;
        text.trim().parse().with_context(|| format!("a number: {text:?}"))
    }

    /// What the script says on an instance's node; an error if it fails.
    pub fn run(&self, ordinal: usize, what: &str) -> anyhow::Result<String> {
        let output = self.nodes[ordinal]
            .place
            .0
            .within(|| Ok(self.script(ordinal, what).output()?))?;
        let why = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{what} of {ordinal}: {}: {why}", output.status);
        Ok(String::from_utf8(output.stdout)?)
    }

    /// Waits until all are in sync, and a majority of the Sentinels has heard with whom; the master then.
    pub fn in_sync(&self) -> anyhow::Result<usize> {
        let synced = || {
            let are_ready = (0..INSTANCES).all(|ordinal| self.run(ordinal, "ready").is_ok());
            are_ready.then(|| self.master().ok())?
        };
        let what = "all instances are in sync, and a majority names their master";
        wait_every(LOOK, what, LIMIT, synced).with_context(|| self.logs())
    }

    /// A command to a server; its answer.
    pub fn ask(&self, ordinal: usize, command: &[&str]) -> anyhow::Result<String> {
        self.redis_cli(ordinal, self.nodes[ordinal].passwords.presents, command)
    }

    fn redis_cli(&self, ordinal: usize, password: &str, command: &[&str]) -> anyhow::Result<String> {
        let mut client = Command::new("redis-cli");
        client.args(command).env("REDISCLI_AUTH", password);
        let output = self.nodes[ordinal].place.0.within(|| Ok(client.output()?))?;
        Ok(String::from_utf8(output.stdout)?.trim().to_owned())
    }

    /// How many keys a server holds; nothing if it does not answer.
    pub fn keys(&self, ordinal: usize) -> Option<usize> {
        self.ask(ordinal, &["DBSIZE"]).ok()?.parse().ok()
    }

    fn launch(&self, ordinal: usize, what: &str) -> anyhow::Result<Process> {
        std::fs::create_dir_all(self.data(ordinal))?;
        let log = self.data(ordinal).join(format!("{what}.log"));
        let mut command = self.script(ordinal, what);
        self.nodes[ordinal]
            .place
            .0
            .within(|| Process::start(&mut command, &log))
    }

    fn script(&self, ordinal: usize, what: &str) -> Command {
        let addresses = (0..INSTANCES).map(|ordinal| self.address(ordinal).to_string());
        let Passwords { presents, others } = self.nodes[ordinal].passwords;
        let mut command = Command::new(source_root().join("charts/images/redis/redis-instance"));
        if !others.is_empty() {
            command.arg("accepting");
        }
        command
            .arg(what)
            .env("POD_NAME", format!("demo-redis-{ordinal}"))
            .env("REDIS_CLUSTER", "demo")
            .env("REDIS_INSTANCES", addresses.collect::<Vec<_>>().join(" "))
            .env("REDIS_PASSWORD", presents)
            .env("REDIS_OTHER_PASSWORDS", others)
            .env("REDIS_DATA", self.data(ordinal))
            .env("PATH", self.programs());
        command
    }

    /// No program can be found but those that the image has.
    fn stage(&self) -> anyhow::Result<()> {
        let stage = std::fs::read_to_string(source_root().join("charts/images/stage"))?;
        let mut lines = stage.lines();
        let listed = lines.find_map(|line| line.strip_prefix("for program in ")?.strip_suffix("; do"));
        let everywhere = std::env::var_os("PATH").context("PATH is set")?;
        std::fs::create_dir_all(self.programs())?;
        for program in listed.context("charts/images/stage lists programs")?.split(' ') {
            let found = std::env::split_paths(&everywhere)
                .map(|path| path.join(program))
                .find(|path| path.exists())
                .with_context(|| format!("{program} is not installed"))?;
            std::os::unix::fs::symlink(found, self.programs().join(program))?;
        }
        Ok(())
    }

    fn programs(&self) -> PathBuf {
        self.files.join("programs")
    }

    fn data(&self, ordinal: usize) -> PathBuf {
        self.files.join(ordinal.to_string())
    }

    /// The ends of all logs.
    pub fn logs(&self) -> String {
        let processes = self.nodes.iter().flat_map(|node| [&node.server, &node.sentinel]);
        let tails = processes.flatten().map(Process::log_tail);
        tails.collect::<Vec<_>>().join("\n")
    }
}

//! Redis of the test's own, to be harmed in every way: a server, one with replicas and Sentinels, a Redis Cluster, a relay in front of a server.

use std::collections::HashMap;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, ensure};

use super::certificates::Certificate;
use super::process::{Process, signal, wait_for};

/// How long a server may take to start or to answer.
const PATIENCE: Duration = Duration::from_secs(10);

/// A redis-server; killed when dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    files: PathBuf,
    /// A Sentinel's configuration, which it rewrites itself.
    sentinel: Option<PathBuf>,
    /// More words of its command line.
    words: Vec<String>,
    process: Option<Process>,
}

impl Server {
    /// Starts one at `address` with its files under `files`.
    pub fn start(address: SocketAddr, files: &Path) -> anyhow::Result<Self> {
        Self::start_as(address, files, None, Vec::new())
    }

    /// Starts one that listens for TLS besides, and shows this certificate there.
    pub fn start_over_tls(address: SocketAddr, port: u16, own: &Certificate, files: &Path) -> anyhow::Result<Self> {
        Self::start_as(address, files, None, tls(port, own))
    }

    /// Starts a Sentinel that listens for TLS besides, and watches a master by TLS.
    pub fn sentinel_over_tls(
        address: SocketAddr,
        port: u16,
        own: &Certificate,
        files: &Path,
        master: SocketAddr,
    ) -> anyhow::Result<Self> {
        let mut words = tls(port, own);
        words.extend(["--tls-replication", "yes"].map(Into::into));
        Self::sentinel(address, files, master, 1, words)
    }

    /// Starts a Sentinel of a master that is called [`MASTER`].
    fn sentinel(
        address: SocketAddr,
        files: &Path,
        master: SocketAddr,
        quorum: usize,
        words: Vec<String>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(files)?;
        let file = files.join("sentinel.conf");
        let (ip, port) = (master.ip(), master.port());
        let lines = format!(
            "sentinel monitor {MASTER} {ip} {port} {quorum}\nsentinel down-after-milliseconds {MASTER} 1000\n\
             sentinel failover-timeout {MASTER} 10000\nsentinel announce-ip {}\n",
            address.ip()
        );
        std::fs::write(&file, lines)?;
        Self::start_as(address, files, Some(file), words)
    }

    fn start_as(
        address: SocketAddr,
        files: &Path,
        sentinel: Option<PathBuf>,
        words: Vec<String>,
    ) -> anyhow::Result<Self> {
        std::fs::create_dir_all(files)?;
        let mut server = Self {
            address,
            files: files.to_owned(),
            sentinel,
            words,
            process: None,
        };
        server.start_again()?;
        Ok(server)
    }

    /// Starts it again after a kill, with the data that was saved last.
    pub fn start_again(&mut self) -> anyhow::Result<()> {
        let mut command = Command::new("redis-server");
        match &self.sentinel {
            Some(file) => command.arg(file).arg("--sentinel"),
            // It is seen to come from another address than the one where it listens.
            None => command.args(["--replica-announce-ip", &self.address.ip().to_string()]),
        };
        command.args(["--bind", &self.address.ip().to_string()]);
        command.args(["--port", &self.address.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--protected-mode", "no"]);
        command.arg("--dir").arg(&self.files).args(&self.words);
        self.process = Some(Process::start(&mut command, &self.files.join("redis.log"))?);
        wait_for("redis-server answers", PATIENCE, || self.ask(&["PING"]).ok())?;
        Ok(())
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Sends a command; an error if the answer is one.
    pub fn ask(&self, command: &[&str]) -> anyhow::Result<String> {
        let mut stream = TcpStream::connect_timeout(&self.address, PATIENCE)?;
        stream.set_read_timeout(Some(PATIENCE))?;
        let mut text = format!("*{}\r\n", command.len());
        for word in command {
            text.push_str(&format!("${}\r\n{word}\r\n", word.len()));
        }
        stream.write_all(text.as_bytes())?;
        let mut answer = Vec::new();
        let mut chunk = [0; 4096];
        while !answer.ends_with(b"\r\n") {
            let count = stream.read(&mut chunk)?;
            ensure!(count > 0, "redis-server closed while {command:?} was answered");
            answer.extend_from_slice(&chunk[..count]);
        }
        let answer = String::from_utf8_lossy(&answer).into_owned();
        ensure!(!answer.starts_with('-'), "{command:?}: {answer}");
        Ok(answer)
    }

    /// Sends a command and reads its answer.
    fn query<T: redis::FromRedisValue>(&self, command: &[&str]) -> anyhow::Result<T> {
        let mut connection = redis::Client::open(format!("redis://{}/", self.address))?.get_connection()?;
        Ok(redis::cmd(command[0]).arg(&command[1..]).query(&mut connection)?)
    }

    /// Follows another server from now on, and has what that one has before this returns.
    pub fn follow(&self, master: SocketAddr) -> anyhow::Result<()> {
        let port = master.port().to_string();
        self.ask(&["REPLICAOF", &master.ip().to_string(), &port])?;
        wait_for("the replica follows", PATIENCE, || {
            let role = self.ask(&["ROLE"]).ok()?;
            role.contains("connected").then_some(())
        })
    }

    /// How many bytes were written to it as a master, since it has had a replica.
    pub fn written(&self) -> anyhow::Result<u64> {
        let info: String = self.query(&["INFO", "replication"])?;
        let offset = info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"));
        Ok(offset.context("an offset")?.trim().parse()?)
    }

    /// Is a master from now on.
    pub fn promote(&self) -> anyhow::Result<()> {
        self.ask(&["REPLICAOF", "NO", "ONE"]).map(drop)
    }

    /// `kill -9`.
    pub fn kill(&mut self) {
        self.process = None;
    }

    /// Sends it a signal, such as SIGSTOP.
    pub fn signal(&self, number: i32) -> anyhow::Result<()> {
        signal(self.process.as_ref().context("a server that runs")?.pid(), number)
    }
}

/// What a server is told that listens for TLS, and asks nobody for a certificate.
fn tls(port: u16, own: &Certificate) -> Vec<String> {
    let file = |path: &Path| path.to_string_lossy().into_owned();
    let (certificate, key, authority) = (file(&own.certificate), file(&own.key), file(&own.authority));
    [
        ["--tls-port", &port.to_string()],
        ["--tls-cert-file", &certificate],
        ["--tls-key-file", &key],
        ["--tls-ca-cert-file", &authority],
        ["--tls-auth-clients", "no"],
    ]
    .concat()
    .into_iter()
    .map(Into::into)
    .collect()
}

/// What the Sentinels call the master.
pub const MASTER: &str = "calls";

/// A master, two replicas and three Sentinels.
pub struct Watched {
    servers: Vec<Server>,
    /// They end with it.
    sentinels: Vec<Server>,
}

impl Watched {
    /// Starts them at the ports from `first` on, and waits until all know one another.
    pub fn start(first: SocketAddr, files: &Path) -> anyhow::Result<Self> {
        const SERVERS: u16 = 3;
        let at = |number| SocketAddr::new(first.ip(), first.port() + number);
        let server = |number| Server::start(at(number), &files.join(format!("redis-{number}")));
        let servers = (0..SERVERS).map(server).collect::<Result<Vec<_>, _>>()?;
        for replica in &servers[1..] {
            replica.follow(first)?;
        }
        let sentinel = |number| {
            Server::sentinel(
                at(number),
                &files.join(format!("sentinel-{number}")),
                first,
                usize::from(SERVERS) / 2 + 1,
                Vec::new(),
            )
        };
        let sentinels = (SERVERS..2 * SERVERS).map(sentinel).collect::<Result<Vec<_>, _>>()?;
        let others = i64::from(SERVERS) - 1;
        wait_for("the Sentinels know one another and the replicas", PATIENCE * 3, || {
            let knows = |sentinel: &Server| {
                let fields: HashMap<String, String> = sentinel.query(&["SENTINEL", "MASTER", MASTER]).ok()?;
                let count = |field: &str| fields.get(field)?.parse::<i64>().ok();
                (count("num-slaves")? == others && count("num-other-sentinels")? == others).then_some(())
            };
            sentinels.iter().map(knows).collect::<Option<Vec<_>>>()
        })?;
        Ok(Self { servers, sentinels })
    }

    /// What containers are told.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self
            .sentinels
            .iter()
            .map(|sentinel| sentinel.address.to_string())
            .collect();
        format!("redis-sentinel://{}/#{MASTER}", hosts.join(","))
    }

    /// How many servers hold the data.
    #[must_use]
    pub fn instances(&self) -> u8 {
        self.servers.len() as u8
    }

    /// Whom the Sentinels name.
    pub fn master(&mut self) -> anyhow::Result<&mut Server> {
        self.server(named_master(&self.url(), "")?)
    }

    /// The one at this address.
    pub fn server(&mut self, address: SocketAddr) -> anyhow::Result<&mut Server> {
        let server = self.servers.iter_mut().find(|server| server.address == address);
        server.with_context(|| format!("a server of ours at {address}"))
    }
}

/// A Redis Cluster of three masters with a replica each.
pub struct RedisCluster {
    /// The masters first, then their replicas in the same order.
    nodes: Vec<Server>,
}

/// Slots of a Redis Cluster.
const SLOTS: u16 = 16_384;

impl RedisCluster {
    /// Starts it at the ports from `first` on, and waits until it serves and each replica has its master's data.
    pub fn start(first: SocketAddr, files: &Path) -> anyhow::Result<Self> {
        const MASTERS: u16 = 3;
        let node = |number| {
            let (ip, port) = (first.ip(), first.port() + number);
            let words = [
                ["--cluster-enabled", "yes"],
                ["--cluster-node-timeout", "3000"],
                ["--cluster-announce-ip", &ip.to_string()],
            ];
            let words = words.concat().into_iter().map(Into::into).collect();
            Server::start_as(
                SocketAddr::new(ip, port),
                &files.join(format!("node-{number}")),
                None,
                words,
            )
        };
        let nodes = (0..2 * MASTERS).map(node).collect::<Result<Vec<_>, _>>()?;
        let (masters, replicas) = nodes.split_at(MASTERS.into());
        for (number, master) in (0..).zip(masters) {
            let (from, to) = (SLOTS / MASTERS * number, SLOTS / MASTERS * (number + 1) - 1);
            let to = if number + 1 == MASTERS { SLOTS - 1 } else { to };
            master.ask(&["CLUSTER", "ADDSLOTSRANGE", &from.to_string(), &to.to_string()])?;
            master.ask(&["CLUSTER", "SET-CONFIG-EPOCH", &(number + 1).to_string()])?;
        }
        for other in &nodes[1..] {
            let (ip, port) = (other.address.ip().to_string(), other.address.port().to_string());
            nodes[0].ask(&["CLUSTER", "MEET", &ip, &port])?;
        }
        let all_say = |what: &str, line: &str| {
            wait_for(what, PATIENCE * 3, || {
                let says = |node: &Server| {
                    node.query::<String>(&["CLUSTER", "INFO"])
                        .is_ok_and(|info| info.contains(line))
                };
                nodes.iter().all(says).then_some(())
            })
        };
        all_say("the nodes know one another", "cluster_known_nodes:6\r")?;
        for (master, replica) in masters.iter().zip(replicas) {
            let id: String = master.query(&["CLUSTER", "MYID"])?;
            // Until it has heard that the other is a master.
            wait_for("a replica is one", PATIENCE, || {
                replica.ask(&["CLUSTER", "REPLICATE", &id]).ok()
            })?;
        }
        all_say("the Redis Cluster serves", "cluster_state:ok\r")?;
        wait_for("replicas have their masters' data", PATIENCE * 3, || {
            let follows = |replica: &Server| replica.ask(&["ROLE"]).is_ok_and(|role| role.contains("connected"));
            replicas.iter().all(follows).then_some(())
        })?;
        Ok(Self { nodes })
    }

    /// What containers are told: some nodes, the last one a replica.
    #[must_use]
    pub fn url(&self) -> String {
        let hosts: Vec<_> = self.nodes[1..4].iter().map(|node| node.address.to_string()).collect();
        format!("redis-cluster://{}", hosts.join(","))
    }

    /// The master that has this key.
    pub fn master_of(&mut self, key: &str) -> anyhow::Result<&mut Server> {
        self.node(cluster_master(&self.url(), key)?)
    }

    /// The one at this address.
    pub fn node(&mut self, address: SocketAddr) -> anyhow::Result<&mut Server> {
        let node = self.nodes.iter_mut().find(|node| node.address == address);
        node.with_context(|| format!("a node of ours at {address}"))
    }

    /// Begins to move the slot of this key to another master than the one that has it; nothing has moved yet.
    pub fn moving(&self, key: &str) -> anyhow::Result<Moving<'_>> {
        let from = cluster_master(&self.url(), key)?;
        let is_master = |node: &&Server| node.ask(&["ROLE"]).is_ok_and(|role| role.contains("master"));
        let (source, others): (Vec<_>, Vec<_>) =
            (self.nodes.iter().filter(is_master)).partition(|node| node.address == from);
        let (source, target) = (
            source.first().context("who has it")?,
            others.first().context("another master")?,
        );
        let slot = source.query::<u16>(&["CLUSTER", "KEYSLOT", key])?.to_string();
        let id = |master: &Server| master.query::<String>(&["CLUSTER", "MYID"]);
        let (from, to) = (id(source)?, id(target)?);
        target.ask(&["CLUSTER", "SETSLOT", &slot, "IMPORTING", &from])?;
        source.ask(&["CLUSTER", "SETSLOT", &slot, "MIGRATING", &to])?;
        Ok(Moving {
            source,
            target,
            to,
            slot,
        })
    }
}

/// A slot on its way from one master to another.
pub struct Moving<'a> {
    source: &'a Server,
    target: &'a Server,
    to: String,
    slot: String,
}

impl Moving<'_> {
    /// Moves these keys.
    pub fn take(&self, keys: &[String]) -> anyhow::Result<()> {
        let (ip, port) = (
            self.target.address.ip().to_string(),
            self.target.address.port().to_string(),
        );
        let keys = keys.iter().map(String::as_str);
        let words = ["MIGRATE", &ip, &port, "", "0", "5000", "KEYS"].into_iter().chain(keys);
        self.source.ask(&words.collect::<Vec<_>>()).map(drop)
    }

    /// Those that have not moved yet.
    pub fn left(&self) -> anyhow::Result<Vec<String>> {
        self.source.query(&["CLUSTER", "GETKEYSINSLOT", &self.slot, "1000"])
    }

    /// Moves the rest, and ends it.
    pub fn finish(self) -> anyhow::Result<()> {
        self.take(&self.left()?)?;
        for master in [self.target, self.source] {
            master.ask(&["CLUSTER", "SETSLOT", &self.slot, "NODE", &self.to])?;
        }
        Ok(())
    }
}

/// Where the master of a key is, by the first of the nodes in the URL that answers.
fn cluster_master(url: &str, key: &str) -> anyhow::Result<SocketAddr> {
    let hosts = url.strip_prefix("redis-cluster://").unwrap_or(url);
    for node in hosts.split(',') {
        let client = redis::Client::open(format!("redis://{node}/"))?;
        let Ok(mut connection) = client.get_connection_with_timeout(PATIENCE) else {
            continue;
        };
        let held: redis::RedisResult<i64> = redis::cmd("EXISTS").arg(key).query(&mut connection);
        return match held {
            Ok(_) => Ok(node.parse()?),
            Err(error) => match error.redirect_node() {
                Some((master, _)) => Ok(master.parse()?),
                None => Err(error.into()),
            },
        };
    }
    anyhow::bail!("no node of {url} answers")
}

/// Where the master is, of a Redis Cluster that of this key, by a URL as containers are told it.
pub fn named_master(url: &str, key: &str) -> anyhow::Result<SocketAddr> {
    if url.starts_with("redis-cluster://") {
        return cluster_master(url, key);
    }
    let Some(hosts) = url.strip_prefix("redis-sentinel://") else {
        let address = url.trim_start_matches("redis://").trim_end_matches('/');
        return address.parse().with_context(|| format!("an address: {url}"));
    };
    let first = hosts.split([',', '/']).next().unwrap_or(hosts);
    let mut connection = redis::Client::open(format!("redis://{first}/"))?.get_connection()?;
    let mut command = redis::cmd("SENTINEL");
    let command = command.arg("GET-MASTER-ADDR-BY-NAME").arg(MASTER);
    let (ip, port): (String, u16) = command.query(&mut connection)?;
    Ok(SocketAddr::new(ip.parse()?, port))
}

/// Passes bytes on to a server, late if asked to, and to another one once told so.
pub struct Relay {
    address: SocketAddr,
    shared: Arc<Shared>,
}

/// Where a connection is led, by who made it.
type Choice = Box<dyn Fn(SocketAddr) -> SocketAddr + Send>;

struct Shared {
    choice: Mutex<Choice>,
    /// Milliseconds by which everything on its way to the server is late.
    delay: AtomicU64,
    open: Mutex<Vec<TcpStream>>,
}

impl Relay {
    /// One at `address` that leads to `target`.
    pub fn start(address: SocketAddr, target: SocketAddr) -> anyhow::Result<Self> {
        let listener = TcpListener::bind(address)?;
        let shared = Arc::new(Shared {
            choice: Mutex::new(Box::new(move |_| target)),
            delay: AtomicU64::new(0),
            open: Mutex::default(),
        });
        let accepted = shared.clone();
        // Ends with the test's process.
        std::thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let _ = accepted.serve(client);
            }
        });
        Ok(Self { address, shared })
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on what goes to the server is as late as this.
    pub fn delay(&self, delay: Duration) {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.shared.delay.store(millis, Ordering::Relaxed);
    }

    /// Leads to another server, and closes what leads to the present one.
    pub fn lead_to(&self, target: SocketAddr) {
        self.lead(move |_| target);
    }

    /// Leads each connection to the server that is chosen by the address that it comes from, and closes those of now.
    pub fn lead(&self, choice: impl Fn(SocketAddr) -> SocketAddr + Send + 'static) {
        *self.shared.choice.lock().expect("nobody panics with it") = Box::new(choice);
        for stream in self.shared.open.lock().expect("nobody panics with it").drain(..) {
            let _ = stream.shutdown(std::net::Shutdown::Both);
        }
    }
}

impl Shared {
    fn serve(self: &Arc<Self>, client: TcpStream) -> std::io::Result<()> {
        let target = self.choice.lock().expect("nobody panics with it")(client.peer_addr()?);
        let server = TcpStream::connect(target)?;
        for stream in [&client, &server] {
            stream.set_nodelay(true)?;
            self.open
                .lock()
                .expect("nobody panics with it")
                .push(stream.try_clone()?);
        }
        let (shared, input, output) = (self.clone(), client.try_clone()?, server.try_clone()?);
        std::thread::spawn(move || {
            pass(input, output, || {
                std::thread::sleep(Duration::from_millis(shared.delay.load(Ordering::Relaxed)))
            })
        });
        std::thread::spawn(move || pass(server, client, || ()));
        Ok(())
    }
}

fn pass(mut from: TcpStream, mut to: TcpStream, wait: impl Fn()) {
    let mut chunk = vec![0; 64 << 10];
    while let Ok(count @ 1..) = from.read(&mut chunk) {
        wait();
        if to.write_all(&chunk[..count]).is_err() {
            break;
        }
    }
    let _ = to.shutdown(std::net::Shutdown::Both);
    let _ = from.shutdown(std::net::Shutdown::Both);
}

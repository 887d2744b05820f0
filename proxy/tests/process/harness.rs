//! The proxy's process, and a caller.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::{Duration, Instant};

use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fake::{CLUSTER, Container, PARTITIONS, header};

pub const PATIENCE: Duration = Duration::from_secs(20);
pub const KEY: &str = "000102030405060708090a0b0c0d0e0f";

/// The proxy, killed with the test.
pub struct Proxy {
    pub child: Child,
    pub address: SocketAddr,
    pub admin: SocketAddr,
    pub name: String,
    /// Where other proxies link.
    pub ucf: SocketAddr,
    endpoints: PathBuf,
}

pub fn binary() -> Command {
    Command::new(env!("CARGO_BIN_EXE_sipcluster-proxy"))
}

/// A loopback address that no other proxy of any test has: with SO_REUSEPORT two would share a port without noticing.
fn own_address() -> IpAddr {
    static NEXT: AtomicU8 = AtomicU8::new(1);
    let [.., high, low] = std::process::id().to_be_bytes();
    Ipv4Addr::new(127, 1 + high % 254, low, NEXT.fetch_add(1, Ordering::Relaxed)).into()
}

impl Proxy {
    /// One that has reached its containers.
    pub async fn start(workers: usize, containers: &[Container]) -> Self {
        let proxy = Self::spawn(workers, "proxy-0");
        proxy.containers(containers);
        proxy.until(|state| state["state"] == "Active").await;
        proxy
    }

    /// One that knows nobody yet.
    pub fn spawn(workers: usize, name: &str) -> Self {
        Self::spawn_with(workers, name, &[("SIPCLUSTER_KEY", KEY)])
    }

    /// The same with these variables.
    pub fn spawn_with(workers: usize, name: &str, variables: &[(&str, &str)]) -> Self {
        let ip = own_address();
        let (address, admin) = (SocketAddr::new(ip, 5060), SocketAddr::new(ip, 9090));
        let ucf = SocketAddr::new(ip, 5070);
        let endpoints = std::env::temp_dir().join(format!("proxy-{ip}.json"));
        let mut command = binary();
        command.args([
            "--cluster",
            CLUSTER,
            "--name",
            name,
            "--workers",
            &workers.to_string(),
            "--ucf",
            &ucf.to_string(),
        ]);
        command.args([
            "--listen",
            &format!("udp:{address}"),
            "--listen",
            &format!("tcp:{address}"),
        ]);
        command.args(["--partitions", &PARTITIONS.to_string(), "--admin", &admin.to_string()]);
        command
            .arg("--endpoints")
            .arg(&endpoints)
            .envs(variables.iter().copied())
            .env("SIPCLUSTER_LOG", "warn");
        std::fs::write(&endpoints, "[]").unwrap();
        Self {
            child: command.spawn().unwrap(),
            address,
            admin,
            name: name.to_owned(),
            ucf,
            endpoints,
        }
    }

    /// Changes the list of containers; it has no other proxies.
    pub fn containers(&self, containers: &[Container]) {
        self.reaches(containers, &[]);
    }

    /// Changes the list of containers and of proxies.
    pub fn reaches(&self, containers: &[Container], proxies: &[&Self]) {
        let containers = containers
            .iter()
            .map(|c| json!({"name": c.name, "sip": c.sip, "ucf": c.ucf}));
        let proxies = proxies.iter().map(|p| json!({"name": p.name, "ucf": p.ucf}));
        let text = serde_json::to_vec(&containers.chain(proxies).collect::<Vec<_>>()).unwrap();
        // As a careful writer does: nobody reads half of it.
        let beside = self.endpoints.with_extension("new");
        std::fs::write(&beside, text).unwrap();
        std::fs::rename(&beside, &self.endpoints).unwrap();
    }

    /// One page of the admin address.
    pub async fn page(&self, path: &str) -> std::io::Result<String> {
        let mut stream = TcpStream::connect(self.admin).await?;
        stream
            .write_all(format!("GET {path} HTTP/1.0\r\n\r\n").as_bytes())
            .await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        Ok(text)
    }

    /// The value of a metric, summed over its labels.
    pub async fn metric(&self, name: &str) -> f64 {
        let text = self.page("/metrics").await.unwrap();
        let lines = text.lines().filter(|line| line.split(['{', ' ']).next() == Some(name));
        lines
            .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
            .sum()
    }

    /// Waits until its state is as wanted.
    pub async fn until(&self, wanted: impl Fn(&serde_json::Value) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        loop {
            look.tick().await;
            let page = self.page("/state").await.unwrap_or_default();
            let state = page
                .split("\r\n\r\n")
                .nth(1)
                .and_then(|body| serde_json::from_str(body).ok());
            if state.as_ref().is_some_and(&wanted) {
                return;
            }
            assert!(Instant::now() < deadline, "the proxy's state stays {state:?}");
        }
    }

    /// Waits until a metric is as wanted.
    pub async fn until_metric(&self, name: &str, wanted: impl Fn(f64) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(Duration::from_millis(20));
        while !wanted(self.metric(name).await) {
            assert!(Instant::now() < deadline, "{name} stays {}", self.metric(name).await);
            look.tick().await;
        }
    }

    /// Waits for its end and says how it ended.
    pub async fn ended(&mut self) -> std::process::ExitStatus {
        let deadline = Instant::now() + PATIENCE;
        let mut look = tokio::time::interval(Duration::from_millis(10));
        loop {
            look.tick().await;
            if let Some(status) = self.child.try_wait().unwrap() {
                return status;
            }
            assert!(Instant::now() < deadline, "the proxy does not end");
        }
    }

    pub fn signal(&self, name: &str) {
        let pid = self.child.id().to_string();
        assert!(
            Command::new("kill")
                .args(["-s", name, &pid])
                .stdout(Stdio::null())
                .status()
                .unwrap()
                .success()
        );
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        let _ = std::fs::remove_file(&self.endpoints);
    }
}

/// What a caller sends: a new call's INVITE, then ACK and BYE made from the 200.
pub struct Call {
    pub id: String,
    transport: &'static str,
    sent_by: SocketAddr,
    proxy: SocketAddr,
}

impl Call {
    pub fn new(id: String, transport: &'static str, sent_by: SocketAddr, proxy: SocketAddr) -> Self {
        Self {
            id,
            transport,
            sent_by,
            proxy,
        }
    }

    pub fn invite(&self) -> String {
        self.request(
            "INVITE",
            1,
            &format!("sip:service@{}", self.proxy),
            "<sip:service@example.com>",
            "",
        )
    }

    /// ACK and BYE of the call that `answer` (a 200) began.
    pub fn ack_and_bye(&self, answer: &str) -> [String; 2] {
        let contact = header(answer, "Contact").unwrap().trim_matches(['<', '>']).to_owned();
        let to = header(answer, "To").unwrap();
        let route = header(answer, "Record-Route")
            .map(|value| format!("Route: {value}\r\n"))
            .unwrap_or_default();
        [
            self.request("ACK", 1, &contact, to, &route),
            self.request("BYE", 2, &contact, to, &route),
        ]
    }

    /// A request that nobody answers.
    pub fn wait(&self) -> String {
        let uri = format!("sip:service@{}", self.proxy);
        self.request("WAIT", 1, &uri, "<sip:service@example.com>", "")
    }

    /// Has the container ask whom `uri` names.
    pub fn dial(&self, uri: &str) -> String {
        self.request("DIAL", 1, uri, "<sip:service@example.com>", "")
    }

    fn request(&self, method: &str, cseq: u32, uri: &str, to: &str, route: &str) -> String {
        let Self {
            id, transport, sent_by, ..
        } = self;
        format!(
            "{method} {uri} SIP/2.0\r\nVia: SIP/2.0/{transport} {sent_by};branch=z9hG4bK-{id}-{method};rport\r\n{route}\
             Max-Forwards: 70\r\nFrom: <sip:caller@{sent_by}>;tag=f-{id}\r\nTo: {to}\r\nCall-ID: {id}\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:caller@{sent_by}>\r\nContent-Length: 0\r\n\r\n"
        )
    }
}

//! What containers say of themselves to the operator: one process answers for all of them, each at the address of its pod.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::{Value, json};

/// Where the operator asks containers.
const ADMIN: u16 = 9090;

/// Where the operator shows what it counts: containers answer at every address.
pub const OPERATOR: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), ADMIN + 1);

/// As a manifest that does not say it has them.
const PARTITIONS: usize = 1024;

/// Dialogs of a container, about.
const DIALOGS: u64 = 1000;

/// Requests that are answered at once.
const THREADS: usize = 2;

/// No request takes longer.
const PATIENCE: Duration = Duration::from_secs(1);

/// All containers.
pub struct Containers {
    all: Mutex<All>,
    /// Whether calls come and go.
    pub is_busy: AtomicBool,
    asked: AtomicU64,
    begun: Instant,
}

#[derive(Default)]
struct All {
    containers: HashMap<Ipv4Addr, Container>,
    /// Those of a SipCluster that share its partitions.
    active: HashMap<String, Vec<Ipv4Addr>>,
}

struct Container {
    cluster: String,
    name: String,
    state: &'static str,
}

impl Containers {
    /// None yet, but whoever asks is answered from now on, in the network of the calling thread.
    pub fn serve() -> anyhow::Result<Arc<Self>> {
        let listener = TcpListener::bind((Ipv4Addr::UNSPECIFIED, ADMIN)).context("the containers' pages")?;
        let containers = Arc::new(Self {
            all: Mutex::default(),
            is_busy: AtomicBool::new(false),
            asked: AtomicU64::new(0),
            begun: Instant::now(),
        });
        for _ in 0..THREADS {
            let (listener, containers) = (listener.try_clone()?, containers.clone());
            std::thread::spawn(move || {
                for stream in listener.incoming().flatten() {
                    // Whoever asked has gone, or asks one that is no more.
                    let _ = containers.answer(&stream);
                }
            });
        }
        Ok(containers)
    }

    /// The process of a pod has begun; it joins.
    pub fn join(&self, address: Ipv4Addr, cluster: String, name: String) {
        let container = Container {
            cluster,
            name,
            state: "Joining",
        };
        self.lock().containers.insert(address, container);
    }

    /// It is given its share.
    pub fn activate(&self, address: Ipv4Addr) {
        let mut all = self.lock();
        if let Some(cluster) = all.set(address, "Active") {
            all.active.entry(cluster).or_default().push(address);
        }
    }

    /// It hands over what it has.
    pub fn quiesce(&self, address: Ipv4Addr) {
        let mut all = self.lock();
        if let Some(cluster) = all.set(address, "Quiescing") {
            all.active.entry(cluster).or_default().retain(|other| *other != address);
        }
    }

    /// Its process has ended.
    pub fn end(&self, address: Ipv4Addr) {
        self.quiesce(address);
        self.lock().containers.remove(&address);
    }

    /// How often any was asked so far.
    pub fn asked(&self) -> u64 {
        self.asked.load(Ordering::Relaxed)
    }

    fn answer(&self, stream: &TcpStream) -> std::io::Result<()> {
        self.asked.fetch_add(1, Ordering::Relaxed);
        let IpAddr::V4(address) = stream.local_addr()?.ip() else {
            return Ok(());
        };
        let Some(page) = self.page(address) else { return Ok(()) };
        stream.set_read_timeout(Some(PATIENCE))?;
        // There is one page only.
        let request = BufReader::new(stream).lines().map_while(Result::ok);
        request.take_while(|line| !line.is_empty()).for_each(drop);
        let page = page.to_string();
        let mut stream = stream;
        stream.write_all(format!("HTTP/1.0 200 OK\r\nContent-Length: {}\r\n\r\n{page}", page.len()).as_bytes())
    }

    /// What the operator reads of `/state`.
    fn page(&self, address: Ipv4Addr) -> Option<Value> {
        let all = self.lock();
        let container = all.containers.get(&address)?;
        let active = all.active.get(&container.cluster).map_or(&[][..], Vec::as_slice);
        let place = active.iter().position(|other| *other == address);
        let partitions = place.map_or(0, |place| {
            PARTITIONS / active.len() + usize::from(place < PARTITIONS % active.len())
        });
        let moved = match self.is_busy.load(Ordering::Relaxed) {
            true => self.begun.elapsed().as_secs() + u64::from(address.octets()[3]),
            false => 0,
        };
        Some(json!({
            "name": container.name,
            "state": container.state,
            "replicated": true,
            "fromMemory": false,
            "partitions": partitions,
            "dialogs": place.map_or(0, |_| DIALOGS + moved % 10),
            "load": moved % 3,
            "lastTakeover": null,
            "storeTrouble": null,
        }))
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, All> {
        self.all.lock().expect("nobody panics with it in hand")
    }
}

impl All {
    /// Its cluster, if it is there.
    fn set(&mut self, address: Ipv4Addr, state: &'static str) -> Option<String> {
        let container = self.containers.get_mut(&address)?;
        container.state = state;
        Some(container.cluster.clone())
    }
}

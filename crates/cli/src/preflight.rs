//! What must be so before anything is started; each failure says what to do.

use std::collections::HashSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};

use crds::{Dispatcher, Transport};

use crate::failure::Failure;

/// Ports between the parts: below the range from which the system takes those of outgoing connections.
const INNER_PORTS: std::ops::Range<u16> = 20_000..32_000;

/// The processes that the cluster is made of.
#[derive(Clone, Debug)]
pub struct Binaries {
    /// `sipcluster-proxy`.
    pub proxy: PathBuf,
    /// `sipcluster-container`.
    pub container: PathBuf,
}

impl Binaries {
    /// Beside this executable, where a build puts them.
    pub fn find() -> Result<Self, Failure> {
        let executable = std::env::current_exe().map_err(|error| Failure::system("this executable", error))?;
        let directory = executable.parent().unwrap_or(Path::new("/"));
        let find = |name: &str| {
            let path = directory.join(name);
            path.is_file().then_some(path).ok_or_else(|| {
                Failure::here(format!(
                    "{name} is not in {}; build all of it (make build, or cargo build --release), or install the three executables side by side",
                    directory.display()
                ))
            })
        };
        Ok(Self {
            proxy: find("sipcluster-proxy")?,
            container: find("sipcluster-container")?,
        })
    }
}

/// Whether `name` is an executable in PATH.
pub fn is_installed(name: &str) -> bool {
    std::env::var_os("PATH")
        .is_some_and(|path| std::env::split_paths(&path).any(|directory| directory.join(name).is_file()))
}

/// Whether the cluster's address can be bound: without SO_REUSEPORT, so that a stranger who shares it is noticed.
pub fn address_is_free(dispatcher: &Dispatcher) -> Result<(), Failure> {
    let address = SocketAddr::new(dispatcher.address, dispatcher.port);
    for transport in &dispatcher.transports {
        let (word, bound) = match transport {
            Transport::Udp => ("udp", UdpSocket::bind(address).map(drop)),
            Transport::Tcp => ("tcp", TcpListener::bind(address).map(drop)),
        };
        bound.map_err(|error| cannot_bind(word, address, &error))?;
    }
    Ok(())
}

fn cannot_bind(transport: &str, address: SocketAddr, error: &io::Error) -> Failure {
    Failure::here(match error.kind() {
        io::ErrorKind::AddrInUse => format!(
            "{address}/{transport} is in use{}; end that, or choose another spec.dispatcher.port",
            user(transport, address)
                .map(|user| format!(" by {user}"))
                .unwrap_or_default()
        ),
        io::ErrorKind::AddrNotAvailable => {
            let ip = address.ip();
            format!(
                "this machine has no address {ip}; write one of its own in spec.dispatcher.address, such as 127.0.0.1"
            )
        }
        io::ErrorKind::PermissionDenied => format!(
            "{address}/{transport} may not be bound by this user; choose a spec.dispatcher.port above 1023, or run it with CAP_NET_BIND_SERVICE"
        ),
        _ => format!("{address}/{transport} cannot be bound: {error}; choose another spec.dispatcher.address"),
    })
}

/// Who uses a port, as `NAME (pid N)`; nothing if it cannot be seen.
fn user(transport: &str, address: SocketAddr) -> Option<String> {
    let listening = if transport == "tcp" { " 0A " } else { " 07 " };
    let ours = in_kernel_words(address);
    let any = SocketAddr::new(
        match address.ip() {
            IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
            IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        },
        address.port(),
    );
    let any = in_kernel_words(any);
    let tables = [format!("/proc/net/{transport}"), format!("/proc/net/{transport}6")];
    let lines: Vec<String> = tables
        .iter()
        .filter_map(|table| std::fs::read_to_string(table).ok())
        .flat_map(|t| t.lines().map(str::to_owned).collect::<Vec<_>>())
        .collect();
    let inode = lines.iter().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        let local = *columns.get(1)?;
        ((local == ours || local == any) && line.contains(listening))
            .then(|| columns.get(9).map(|inode| (*inode).to_owned()))?
    })?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    for process in std::fs::read_dir("/proc").ok()?.flatten() {
        let Ok(descriptors) = std::fs::read_dir(process.path().join("fd")) else {
            continue;
        };
        if descriptors
            .flatten()
            .any(|fd| std::fs::read_link(fd.path()).is_ok_and(|target| target == socket))
        {
            let name = program(&process.path())?;
            return Some(format!("{name} (pid {})", process.file_name().to_string_lossy()));
        }
    }
    None
}

/// The name of a process's program: of its executable, for what the process is called is cut off after 15 characters.
fn program(process: &Path) -> Option<String> {
    let executable = std::fs::read_link(process.join("exe")).ok();
    let name = executable.and_then(|path| Some(path.file_name()?.to_string_lossy().into_owned()));
    let name = name.or_else(|| std::fs::read_to_string(process.join("comm")).ok())?;
    Some(name.trim_end().trim_end_matches(" (deleted)").to_owned())
}

/// An address as `/proc/net/tcp` has it: words of four bytes in this machine's order.
fn in_kernel_words(address: SocketAddr) -> String {
    let words = |octets: &[u8]| -> String {
        octets
            .chunks_exact(4)
            .map(|word| format!("{:08X}", u32::from_ne_bytes([word[0], word[1], word[2], word[3]])))
            .collect()
    };
    let ip = match address.ip() {
        IpAddr::V4(ip) => words(&ip.octets()),
        IpAddr::V6(ip) => words(&ip.octets()),
    };
    format!("{ip}:{:04X}", address.port())
}

/// Hands out loopback ports for the links between the parts.
#[derive(Debug)]
pub struct Ports {
    next: u16,
    given: HashSet<u16>,
}

impl Ports {
    /// Starts anywhere, so that clusters side by side seldom try the same.
    pub fn starting_at(entropy: u64) -> Self {
        let span = u64::from(INNER_PORTS.end - INNER_PORTS.start);
        // Less than the span, which is less than a port.
        Self {
            next: INNER_PORTS.start + (entropy % span) as u16,
            given: HashSet::new(),
        }
    }

    /// A loopback address that nobody listens on.
    pub fn take(&mut self) -> io::Result<SocketAddr> {
        for _ in INNER_PORTS {
            let port = self.next;
            self.next = if port + 1 == INNER_PORTS.end {
                INNER_PORTS.start
            } else {
                port + 1
            };
            let address = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
            if !self.given.contains(&port) && TcpListener::bind(address).is_ok() {
                self.given.insert(port);
                return Ok(address);
            }
        }
        Err(io::Error::other(format!(
            "no free port from {} to {} on 127.0.0.1",
            INNER_PORTS.start, INNER_PORTS.end
        )))
    }

    /// Takes one back.
    pub fn give_back(&mut self, address: SocketAddr) {
        self.given.remove(&address.port());
    }
}

/// Random bytes of the system.
pub fn entropy<const N: usize>() -> io::Result<[u8; N]> {
    use std::io::Read;
    let mut bytes = [0; N];
    std::fs::File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes)
}

//! A network namespace: made, entered and removed; it is the node of one process.

use std::fs::File;
use std::net::Ipv4Addr;
use std::os::fd::AsRawFd;
use std::process::Command;

use anyhow::{Context, ensure};

/// What to do where namespaces cannot be made.
const REMEDY: &str = "network namespaces are needed for this test: run it as root (or with CAP_SYS_ADMIN and CAP_NET_ADMIN), \
                      with iproute2 and nftables installed (Debian: apt-get install iproute2 nftables)";

/// A namespace with an address; what was made is removed by [`Made`].
#[derive(Clone, Debug)]
pub struct Namespace {
    /// Its name, as `ip netns` knows it.
    pub name: String,
    /// Its address.
    pub address: Ipv4Addr,
}

/// A namespace of ours; removed when dropped, and with it all that was in it.
#[derive(Debug)]
pub struct Made(pub Namespace);

impl Made {
    /// Makes it, with nothing but its loopback.
    pub fn new(name: String, address: Ipv4Addr) -> anyhow::Result<Self> {
        ip(&["netns", "add", &name]).context(REMEDY)?;
        let made = Self(Namespace { name, address });
        ip(&["-n", &made.0.name, "link", "set", "lo", "up"])?;
        Ok(made)
    }
}

impl Drop for Made {
    fn drop(&mut self) {
        // It may be gone already.
        let _ = ip(&["netns", "del", &self.0.name]);
    }
}

impl Namespace {
    /// Takes the calling thread there for the rest of its life: its sockets, and the processes that it starts.
    pub fn enter(&self) -> anyhow::Result<()> {
        let path = format!("/run/netns/{}", self.name);
        let file = File::open(&path).with_context(|| path.clone())?;
        // SAFETY: setns(2) takes a descriptor that lives through the call; a network namespace is a thread's own.
        let result = unsafe { libc::setns(file.as_raw_fd(), libc::CLONE_NEWNET) };
        ensure!(result == 0, "{path}: {}", std::io::Error::last_os_error());
        Ok(())
    }

    /// Does `act` there.
    pub fn within<T: Send>(&self, act: impl FnOnce() -> anyhow::Result<T> + Send) -> anyhow::Result<T> {
        std::thread::scope(|scope| {
            let there = scope.spawn(|| {
                self.enter()?;
                act()
            });
            there.join().expect("it does not panic")
        })
    }

    /// Feeds commands to `nft` there.
    pub fn nft(&self, rules: &str) -> anyhow::Result<()> {
        run(Command::new("ip").args(["netns", "exec", &self.name, "nft", rules])).context(REMEDY)
    }
}

/// Runs `ip`.
pub fn ip(arguments: &[&str]) -> anyhow::Result<()> {
    run(Command::new("ip").args(arguments))
}

fn run(command: &mut Command) -> anyhow::Result<()> {
    let output = command.output().with_context(|| format!("{command:?}"))?;
    let text = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{command:?}: {}", text.trim());
    Ok(())
}

/// Removes what tests left behind that were killed: namespaces whose name holds the pid of a process that is no more.
pub fn sweep(prefix: &str) {
    let names = std::fs::read_dir("/run/netns").into_iter().flatten().flatten();
    for name in names.filter_map(|entry| entry.file_name().into_string().ok()) {
        let pid = name
            .strip_prefix(prefix)
            .and_then(|rest| rest.split('-').next()?.parse().ok());
        if pid.is_some_and(|pid: u32| !crate::interop::process::lives(pid)) {
            let _ = ip(&["netns", "del", &name]);
        }
    }
}

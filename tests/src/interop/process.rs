//! Processes that a test starts: found, built, logged, waited for and ended by pid.

use std::fs::File;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// When a condition is asked for again; short against every duration that is measured.
const POLL: Duration = Duration::from_millis(5);

/// Asks `condition` until it yields a value; an error that names `what` after `limit`.
pub fn wait_for<T>(what: &str, limit: Duration, condition: impl FnMut() -> Option<T>) -> anyhow::Result<T> {
    wait_every(POLL, what, limit, condition)
}

/// The same for a condition that is dear to ask for.
pub fn wait_every<T>(
    poll: Duration,
    what: &str,
    limit: Duration,
    mut condition: impl FnMut() -> Option<T>,
) -> anyhow::Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(value) = condition() {
            return Ok(value);
        }
        if Instant::now() >= deadline {
            bail!("not within {limit:?}: {what}");
        }
        std::thread::sleep(poll);
    }
}

/// The root of the source tree.
#[must_use]
pub fn source_root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// The directory of the product's binaries: `SIPCLUSTER_BIN_DIR`, else that of the running test, built once if cargo runs it.
pub fn binaries() -> anyhow::Result<PathBuf> {
    static BUILT: OnceLock<Result<PathBuf, String>> = OnceLock::new();
    BUILT
        .get_or_init(|| build_binaries().map_err(|error| format!("{error:#}")))
        .clone()
        .map_err(anyhow::Error::msg)
}

fn build_binaries() -> anyhow::Result<PathBuf> {
    if let Some(given) = std::env::var_os("SIPCLUSTER_BIN_DIR") {
        return Ok(given.into());
    }
    let test = std::env::current_exe()?;
    // target/PROFILE/deps/TEST-HASH or target/PROFILE/BIN
    let mut profile = test.parent().context("test binary without a directory")?;
    if profile.ends_with("deps") {
        profile = profile.parent().context("deps without a parent")?;
    }
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    build.current_dir(source_root());
    build.args([
        "build",
        "--quiet",
        "-p",
        "proxy",
        "-p",
        "container",
        "-p",
        "cli",
        "-p",
        "prepaid",
        "--bins",
    ]);
    build
        .arg("--target-dir")
        .arg(profile.parent().context("profile without a parent")?);
    if profile.ends_with("release") {
        build.arg("--release");
    }
    let status = build.status().context("cargo build of the binaries under test")?;
    ensure!(status.success(), "the binaries under test do not build");
    Ok(profile.to_owned())
}

/// A child process with its output in a file; killed when dropped.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts `command`, its output going to `log`.
    pub fn start(command: &mut Command, log: &Path) -> anyhow::Result<Self> {
        let out = File::create(log).with_context(|| format!("log {}", log.display()))?;
        let child = command
            .stdin(Stdio::null())
            .stdout(out.try_clone()?)
            .stderr(out)
            .spawn()
            .with_context(|| format!("{:?} does not start", command.get_program()))?;
        Ok(Self {
            child,
            log: log.to_owned(),
        })
    }

    /// The process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The exit status, if it has ended.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }

    /// Waits for its end; an error with the end of its log after `limit`.
    pub fn wait(&mut self, limit: Duration) -> anyhow::Result<std::process::ExitStatus> {
        let waited = wait_for("end of a process", limit, || self.child.try_wait().ok().flatten());
        waited.with_context(|| self.log_tail())
    }

    /// The last lines of its log.
    #[must_use]
    pub fn log_tail(&self) -> String {
        tail(&self.log)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Both fail only for a child that has ended and been reaped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// The last 4,000 bytes of a log.
#[must_use]
pub fn tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let mut from = text.len().saturating_sub(4_000);
    while !text.is_char_boundary(from) {
        from += 1;
    }
    format!("{}:\n{}", log.display(), &text[from..])
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: i32) -> anyhow::Result<()> {
    let pid = i32::try_from(pid).context("pid")?;
    ensure!(pid > 1, "a pid above 1, not a group");
    // SAFETY: kill(2) takes no pointers.
    let result = unsafe { libc::kill(pid, signal) };
    ensure!(
        result == 0,
        "signal {signal} to {pid}: {}",
        std::io::Error::last_os_error()
    );
    Ok(())
}

/// Whether a process lives (a zombie does not).
#[must_use]
pub fn lives(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .ok()
        .and_then(|stat| Some(!stat.rsplit_once(") ")?.1.starts_with(['Z', 'X'])))
        .unwrap_or(false)
}

/// Whether anybody on this machine listens on a TCP port: to connect would be to take the one connection that it waits for.
#[must_use]
pub fn listens(port: u16) -> bool {
    const LISTEN: &str = "0A";
    let table = std::fs::read_to_string("/proc/net/tcp").unwrap_or_default();
    let end = format!(":{port:04X}");
    table.lines().any(|line| {
        let mut columns = line.split_whitespace().skip(1);
        columns.next().is_some_and(|local| local.ends_with(&end)) && columns.nth(1) == Some(LISTEN)
    })
}

/// Which of these processes has made a TCP connection (IPv4) that comes from this address.
#[must_use]
pub fn who_comes_from(address: SocketAddr, among: &[u32]) -> Option<u32> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    // As the kernel writes it: the address as one number in the machine's order, then the port.
    let local = format!("{:08X}:{:04X}", u32::from_ne_bytes(ip.octets()), address.port());
    let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
    let inode = table.lines().find_map(|line| {
        let columns: Vec<_> = line.split_whitespace().collect();
        (columns.get(1) == Some(&local.as_str())).then(|| columns.get(9).copied())?
    })?;
    let socket = PathBuf::from(format!("socket:[{inode}]"));
    let has_it = |pid: &&u32| {
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd"))
            .into_iter()
            .flatten()
            .flatten();
        descriptors
            .filter_map(|entry| std::fs::read_link(entry.path()).ok())
            .any(|link| link == socket)
    };
    among.iter().find(has_it).copied()
}

/// CPU time that the scheduler gave to all threads of a process, dead threads not counted.
#[must_use]
pub fn cpu_time(pid: u32) -> Duration {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else {
        return Duration::ZERO;
    };
    let nanos = tasks
        .flatten()
        .filter_map(|task| std::fs::read_to_string(task.path().join("schedstat")).ok())
        .filter_map(|line| line.split(' ').next()?.parse::<u64>().ok())
        .sum();
    Duration::from_nanos(nanos)
}

/// Resident memory of a process, in bytes.
#[must_use]
pub fn resident(pid: u32) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    status
        .lines()
        .find_map(|line| {
            line.strip_prefix("VmRSS:")?
                .trim()
                .strip_suffix(" kB")?
                .parse::<u64>()
                .ok()
        })
        .unwrap_or(0)
        * 1024
}

/// Open descriptors of a process.
#[must_use]
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// Threads of a process.
#[must_use]
pub fn threads(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count)
}

/// A scratch directory of one test, emptied at the start; kept afterwards, so that its logs can be read.
pub fn scratch(name: &str) -> anyhow::Result<PathBuf> {
    let test = std::env::current_exe()?;
    let base = test
        .parent()
        .and_then(Path::parent)
        .context("test binary without a directory")?;
    let path = base.join("interop").join(name);
    match std::fs::remove_dir_all(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error.into()),
        _ => std::fs::create_dir_all(&path)?,
    }
    Ok(path)
}

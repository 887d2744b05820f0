//! What befalls the processes of one machine.

use std::io::Write;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::{Application, Cell, Fault, LIMIT, Today};
use crate::interop::cluster::{Cluster, Manifest, Status};
use crate::interop::process::{Process, scratch, signal, source_root, wait_for};

/// The lease of the clusters under test, the manifest's default.
const LEASE: Duration = Duration::from_secs(2);

/// The cells of an application.
pub fn cells(application: Application) -> Vec<Cell> {
    use Today::{Holds, Refuses};
    let machine = Fault::Machine;
    let seconds = Duration::from_secs;
    [
        ("container killed", machine(|c| kill(c, &[0])), Holds, seconds(3)),
        (
            "two containers killed in a row",
            machine(two_in_a_row),
            Holds,
            seconds(3),
        ),
        (
            "all containers but one killed at once",
            machine(|c| kill(c, &[0, 1])),
            Holds,
            seconds(3),
        ),
        (
            "all containers killed and started again",
            machine(|c| kill(c, &[0, 1, 2])),
            Refuses,
            seconds(10),
        ),
        (
            "container frozen for half a lease",
            machine(|c| freeze(c, LEASE / 2)),
            Holds,
            seconds(4),
        ),
        (
            "container frozen past its lease",
            machine(frozen_past_its_lease),
            Holds,
            seconds(4),
        ),
        (
            "container frozen past its lease, another killed when it goes on",
            machine(another_killed_when_it_goes_on),
            Holds,
            seconds(4),
        ),
        ("container at half speed", machine(half_speed), Holds, seconds(4)),
        (
            "proxy killed",
            machine(|c| signal(c.status()?.proxies[0].running()?, libc::SIGKILL)),
            Holds,
            seconds(3),
        ),
        (
            "proxy restarted",
            machine(|c| signal(c.status()?.proxies[0].running()?, libc::SIGTERM)),
            Holds,
            seconds(3),
        ),
        ("proxy frozen for two seconds", machine(frozen_proxy), Holds, seconds(6)),
        (
            "clock of Redis an hour forward and back, a kill each time",
            Fault::Clock(clock_set),
            Holds,
            seconds(3),
        ),
    ]
    .map(|(name, fault, today, worst)| Cell {
        application,
        name,
        fault,
        today,
        worst,
    })
    .into()
}

/// `kill -9` of containers, all at once; they are started again by themselves.
pub fn kill(cluster: &Cluster, which: &[usize]) -> anyhow::Result<()> {
    let status = cluster.status()?;
    for container in which {
        signal(status.containers[*container].running()?, libc::SIGKILL)?;
    }
    // Whole it was before as well: what is waited for is that the next lives of the killed are.
    let again = |now: &Status| which.iter().all(|at| started_again(&status, now, *at));
    cluster.until("the killed are started again", LIMIT, again).map(drop)
}

/// Whether container `at` has another process than `before`.
pub fn started_again(before: &Status, now: &Status, at: usize) -> bool {
    now.containers
        .get(at)
        .is_some_and(|part| part.pid.is_some() && part.pid != before.containers[at].pid)
}

/// Partitions that the others than `container` say they own.
fn elsewhere(status: &Status, container: usize) -> u64 {
    let others = status.containers.iter().enumerate().filter(|(at, _)| *at != container);
    others.filter_map(|(_, part)| part.partitions).sum()
}

/// The second one dies with the first one's calls, before that one is back.
fn two_in_a_row(cluster: &Cluster) -> anyhow::Result<()> {
    let status = cluster.status()?;
    let all = u64::from(cluster.manifest().partitions);
    signal(status.containers[0].running()?, libc::SIGKILL)?;
    cluster.until("the first is taken over", LIMIT, |status| elsewhere(status, 0) == all)?;
    signal(status.containers[1].running()?, libc::SIGKILL)?;
    let again = |now: &Status| (0..2).all(|at| started_again(&status, now, at));
    cluster.until("the killed are started again", LIMIT, again).map(drop)
}

/// SIGSTOP, and SIGCONT after `pause`.
fn freeze(cluster: &Cluster, pause: Duration) -> anyhow::Result<()> {
    let pid = cluster.status()?.containers[0].running()?;
    signal(pid, libc::SIGSTOP)?;
    std::thread::sleep(pause);
    signal(pid, libc::SIGCONT)
}

/// It learns that it is stale, drops what it lost and comes back with its share, in the same process.
fn frozen_past_its_lease(cluster: &Cluster) -> anyhow::Result<()> {
    let pid = freeze_past_its_lease(cluster)?;
    let all = u64::from(cluster.manifest().partitions);
    let dropped = cluster.until("it drops what it lost", LIMIT, |status| status.partitions() == all)?;
    ensure!(dropped.containers[0].pid == Some(pid), "the same process: {dropped:?}");
    Ok(())
}

/// One of those that have taken over dies before the first has learnt much.
fn another_killed_when_it_goes_on(cluster: &Cluster) -> anyhow::Result<()> {
    let pid = freeze_past_its_lease(cluster)?;
    kill(cluster, &[1])?;
    let now = cluster.status()?;
    ensure!(now.containers[0].pid == Some(pid), "the same process: {now:?}");
    Ok(())
}

/// SIGSTOP until the others have everything and its lease is gone, then SIGCONT; its process.
fn freeze_past_its_lease(cluster: &Cluster) -> anyhow::Result<u32> {
    let before = cluster.status()?;
    let pid = before.containers[0].running()?;
    let frozen = Instant::now();
    signal(pid, libc::SIGSTOP)?;
    let all = u64::from(cluster.manifest().partitions);
    cluster.until("the others have all", LIMIT, |status| elsewhere(status, 0) == all)?;
    let lease_is_gone = || (frozen.elapsed() > LEASE * 3 / 2).then_some(());
    wait_for("its lease is gone", LIMIT, lease_is_gone)?;
    signal(pid, libc::SIGCONT)?;
    Ok(pid)
}

/// Stopped for ten of twenty milliseconds, for five seconds.
fn half_speed(cluster: &Cluster) -> anyhow::Result<()> {
    let pid = cluster.status()?.containers[0].running()?;
    let step = Duration::from_millis(10);
    let until = Instant::now() + Duration::from_secs(5);
    while Instant::now() < until {
        signal(pid, libc::SIGSTOP)?;
        std::thread::sleep(step);
        signal(pid, libc::SIGCONT)?;
        std::thread::sleep(step);
    }
    Ok(())
}

fn frozen_proxy(cluster: &Cluster) -> anyhow::Result<()> {
    let pid = cluster.status()?.proxies[0].running()?;
    signal(pid, libc::SIGSTOP)?;
    std::thread::sleep(Duration::from_secs(2));
    signal(pid, libc::SIGCONT)
}

/// A redis-server whose wall clock is the test's to set; its monotonic clock runs on, as everywhere.
pub struct Clock {
    redis: SocketAddr,
    set: PathBuf,
    _server: Process,
}

impl Clock {
    /// Starts it beside a cluster's address.
    pub fn start(manifest: &Manifest) -> anyhow::Result<Self> {
        let files = scratch(&format!("{}-redis", manifest.name))?;
        let [third, fourth] = manifest.address;
        let redis = SocketAddr::from((Ipv4Addr::new(127, 0, third, fourth), 6379));
        let set = files.join("clock");
        std::fs::write(&set, 0_i64.to_ne_bytes())?;
        let library = files.join("clock.so");
        let source = source_root().join("tests/src/interop/matrix/clock.c");
        let mut compile = Command::new("cc");
        compile
            .args(["-shared", "-fPIC", "-O2", "-o"])
            .arg(&library)
            .arg(source);
        let compiled = compile.output().context("cc (Debian: gcc) is needed for this test")?;
        ensure!(
            compiled.status.success(),
            "{}",
            String::from_utf8_lossy(&compiled.stderr)
        );
        let mut command = Command::new("redis-server");
        command.args(["--bind", &redis.ip().to_string(), "--port", &redis.port().to_string()]);
        command.args(["--save", "", "--appendonly", "no", "--daemonize", "no"]);
        command.arg("--dir").arg(&files);
        command.env("LD_PRELOAD", &library).env("CLOCK_OFFSET", &set);
        let server = Process::start(&mut command, &files.join("redis.log"))?;
        wait_for("redis-server listens", LIMIT, || {
            std::net::TcpStream::connect(redis).ok()
        })
        .with_context(|| server.log_tail())?;
        Ok(Self {
            redis,
            set,
            _server: server,
        })
    }

    /// Where it listens.
    #[must_use]
    pub fn redis(&self) -> SocketAddr {
        self.redis
    }

    /// Sets it against the true time, and sees that it is so.
    fn set(&self, offset: i64) -> anyhow::Result<()> {
        // In place: the server has the file mapped.
        let mut file = std::fs::OpenOptions::new().write(true).open(&self.set)?;
        file.write_all(&offset.to_ne_bytes())?;
        let client = redis::Client::open(format!("redis://{}/", self.redis))?;
        let mut connection = client.get_connection()?;
        let (said, _): (i64, i64) = redis::cmd("TIME").query(&mut connection)?;
        let now = std::time::SystemTime::now()
            .duration_since(std::time::UNIX_EPOCH)?
            .as_secs() as i64;
        ensure!(
            (said - now - offset).abs() < 60,
            "Redis says {said}, it should be {now} and {offset} s"
        );
        Ok(())
    }
}

/// Deadlines are kept in Redis's time: calls that ring when it jumps are answered in time all the same, by a successor too.
fn clock_set(cluster: &Cluster, clock: &Clock) -> anyhow::Result<()> {
    for (offset, container) in [(3_600, 0), (0, 1)] {
        clock.set(offset)?;
        // Long enough for every container to have asked for the time again.
        std::thread::sleep(LEASE);
        kill(cluster, &[container])?;
        cluster.settle(LIMIT)?;
    }
    Ok(())
}

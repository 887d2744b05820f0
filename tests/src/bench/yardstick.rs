//! Forwarder, Kamailio and our proxy: each alone on one CPU, the load on the other, the same six-message calls.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, ensure};

use ucf::token::{Key, Keyring};

use super::load::{Container, Load, Outcome, run};
use super::machine::{LOAD, MEASURED, cpu_of, family, pin, pin_self};
use super::profile;
use crate::interop::process::{Process, binaries, signal, source_root, wait_for};

/// Where the proxy listens; Kamailio's configuration says so too.
pub const PROXY: SocketAddr = at(1);
const CALLER: SocketAddr = at(2);
const CALLEES: [SocketAddr; 2] = [at(21), at(22)];

const fn at(last: u8) -> SocketAddr {
    SocketAddr::V4(std::net::SocketAddrV4::new(Ipv4Addr::new(127, 0, 10, last), 5060))
}

/// How much is measured.
#[derive(Clone, Copy, Debug)]
pub struct Effort {
    /// Calls of one trial.
    pub calls: u64,
    /// Trials; the median counts.
    pub trials: usize,
    /// Calls in progress.
    pub window: usize,
}

/// One trial.
#[derive(Clone, Debug)]
pub struct Trial {
    /// CPU of the measured processes for one call, in microseconds; in order of the groups given.
    pub cpu_per_call: Vec<f64>,
    /// What the load saw.
    pub outcome: Outcome,
}

/// Several trials of one subject.
#[derive(Clone, Debug, Default)]
pub struct Measured {
    /// All trials.
    pub trials: Vec<Trial>,
    /// The costliest symbols of one group, in a trial beyond those that count.
    pub profile: Vec<String>,
}

impl Measured {
    /// Median CPU for one call of a group, in microseconds.
    #[must_use]
    pub fn cpu(&self, group: usize) -> f64 {
        self.median(|trial| trial.cpu_per_call.get(group).copied().unwrap_or(f64::NAN))
    }

    /// Median of anything.
    #[must_use]
    pub fn median(&self, value: impl Fn(&Trial) -> f64) -> f64 {
        let mut all: Vec<f64> = self.trials.iter().map(value).collect();
        all.sort_unstable_by(f64::total_cmp);
        all.get(all.len() / 2).copied().unwrap_or(f64::NAN)
    }

    /// Calls lost or refused in all trials.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.trials
            .iter()
            .map(|trial| trial.outcome.lost + trial.outcome.refused)
            .sum()
    }
}

/// Warms up, then runs the trials; CPU is counted for each group of processes, and one group is profiled in a run of its own.
pub fn measure(
    load: &Load,
    groups: &[Vec<u32>],
    trials: usize,
    profiled: Option<(usize, &Path)>,
) -> anyhow::Result<Measured> {
    let warm = Load {
        calls: load.calls.min(2_000),
        ..load.clone()
    };
    on_load_cpu(&warm)?;
    let mut measured = Measured::default();
    for _ in 0..trials {
        let before: Vec<Duration> = groups.iter().map(|pids| cpu_of(pids)).collect();
        let outcome = on_load_cpu(load)?;
        settle(groups);
        let calls = (outcome.done + outcome.lost + outcome.refused).max(1) as f64;
        let used = groups
            .iter()
            .zip(before)
            .map(|(pids, before)| cpu_of(pids).saturating_sub(before));
        measured.trials.push(Trial {
            cpu_per_call: used.map(|used| used.as_secs_f64() * 1e6 / calls).collect(),
            outcome,
        });
    }
    if let Some((group, files)) = profiled {
        let (outcome, symbols) = profile::during(&groups[group], files, || on_load_cpu(load));
        outcome?;
        measured.profile = symbols;
    }
    Ok(measured)
}

/// Runs a load on its CPU.
pub fn on_load_cpu(load: &Load) -> anyhow::Result<Outcome> {
    std::thread::scope(|scope| {
        let thread = scope.spawn(|| {
            pin_self(LOAD);
            run(load)
        });
        thread.join().expect("the load does not panic").context("load")
    })
}

/// Waits until the processes have done what is left to do: no CPU used for a while (timers tick on, so a little is nothing).
fn settle(groups: &[Vec<u32>]) {
    let all: Vec<u32> = groups.concat();
    let mut last = cpu_of(&all);
    let mut since = std::time::Instant::now();
    let _ = wait_for("quiet", Duration::from_secs(2), || {
        if since.elapsed() < Duration::from_millis(100) {
            return None;
        }
        let now = cpu_of(&all);
        let quiet = now.saturating_sub(last) < Duration::from_millis(5);
        (last, since) = (now, std::time::Instant::now());
        quiet.then_some(())
    });
}

fn load(effort: Effort, callees: &[SocketAddr]) -> Load {
    Load {
        proxy: PROXY,
        callers: vec![CALLER],
        callees: callees.to_vec(),
        window: effort.window,
        calls: effort.calls,
        rate: None,
        options: 0,
        keep: false,
        targets: Vec::new(),
    }
}

/// A UDP proxy that is one command, measured between caller and callees.
fn subject(command: &mut Command, log: &Path, effort: Effort, callees: &[SocketAddr]) -> anyhow::Result<Measured> {
    let mut process = Process::start(command, log)?;
    let ready = wait_for("the proxy listens", Duration::from_secs(10), || {
        process.ended().map(Err).or_else(|| listens(PROXY).then_some(Ok(())))
    })?;
    ensure!(ready.is_ok(), "ended at once: {}", process.log_tail());
    // Kamailio forks its workers after it has bound its socket.
    let _ = wait_for("its workers", Duration::from_millis(500), || {
        (family(process.pid()).len() > 4).then_some(())
    });
    let pids = family(process.pid());
    pin(&pids, MEASURED);
    let one = Load {
        calls: 1,
        window: 1,
        ..load(effort, callees)
    };
    wait_for("a call is answered", Duration::from_secs(10), || {
        on_load_cpu(&one).ok().filter(|seen| seen.done == 1)
    })
    .with_context(|| process.log_tail())?;
    let measured = measure(
        &load(effort, callees),
        std::slice::from_ref(&pids),
        effort.trials,
        log.parent().map(|files| (0, files)),
    )?;
    drop(process);
    for pid in pids.into_iter().skip(1) {
        // Workers that outlive their parent would hold the socket.
        let _ = signal(pid, libc::SIGKILL);
    }
    // A process with gigabytes of memory takes its time to go.
    wait_for("the socket is free again", Duration::from_secs(10), || {
        (!listens(PROXY)).then_some(())
    })?;
    Ok(measured)
}

/// Our proxy with one worker, in front of a stand-in container that the load's CPU runs.
pub fn ours(files: &Path, effort: Effort) -> anyhow::Result<Measured> {
    const SECRET: &str = "000102030405060708090a0b0c0d0e0f";
    const PARTITIONS: u32 = 1024;
    let (sip, ucf) = (CALLEES[0], CALLEES[1]);
    let endpoints = files.join("endpoints.json");
    std::fs::write(
        &endpoints,
        format!(r#"[{{"name":"stand-in","sip":"{sip}","ucf":"{ucf}"}}]"#),
    )?;
    let key = Key {
        id: 0,
        secret: std::array::from_fn(|at| at as u8),
    };
    let container = Container::listen("bench", Keyring::new(key, &[], PARTITIONS), PROXY, sip, ucf)?;
    let mut command = Command::new(binaries()?.join("sipcluster-proxy"));
    command.args([
        "--cluster",
        "bench",
        "--name",
        "proxy-0",
        "--workers",
        "1",
        "--key",
        SECRET,
    ]);
    command.args([
        "--partitions",
        &PARTITIONS.to_string(),
        "--listen",
        &format!("udp:{PROXY}"),
        "--endpoints",
    ]);
    command.arg(&endpoints);
    let stop = AtomicBool::new(false);
    std::thread::scope(|scope| {
        scope.spawn(|| {
            pin_self(LOAD);
            container.run(&stop);
        });
        let measured = subject(&mut command, &files.join("proxy.log"), effort, &[]);
        stop.store(true, Ordering::Relaxed);
        measured
    })
}

/// Whether a UDP socket is bound there: by the kernel's list, because a bind of our own would be in the way of the proxy's.
fn listens(address: SocketAddr) -> bool {
    let SocketAddr::V4(address) = address else { return false };
    let wanted = format!(
        "{:08X}:{:04X}",
        u32::from_ne_bytes(address.ip().octets()),
        address.port()
    );
    let sockets = std::fs::read_to_string("/proc/net/udp").unwrap_or_default();
    sockets
        .lines()
        .any(|line| line.split_whitespace().nth(1) == Some(&wanted))
}

/// The floor.
pub fn forwarder(files: &Path, effort: Effort) -> anyhow::Result<Measured> {
    let mut command = Command::new(std::env::current_exe()?);
    command
        .arg("forward")
        .args([PROXY, CALLER, CALLEES[0]].map(|address| address.to_string()));
    subject(&mut command, &files.join("forwarder.log"), effort, &CALLEES[..1])
}

/// Kamailio with one of our configurations; `None` if it is not installed.
pub fn kamailio(files: &Path, configuration: &str, effort: Effort) -> anyhow::Result<Option<Measured>> {
    if super::machine::version("kamailio", "-v").is_none() {
        return Ok(None);
    }
    let run = files.join("kamailio");
    std::fs::create_dir_all(&run)?;
    let mut command = Command::new("kamailio");
    command.current_dir(source_root().join("tests/bench/kamailio"));
    // The stateful one holds a transaction for five seconds after its end.
    command
        .args([
            "-DD",
            "-E",
            "-w",
            ".",
            "-m",
            "3072",
            "-M",
            "8",
            "-f",
            configuration,
            "-Y",
        ])
        .arg(&run);
    subject(
        &mut command,
        &files.join(format!("{configuration}.log")),
        effort,
        &CALLEES,
    )
    .map(Some)
}

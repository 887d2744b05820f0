//! Faults and planned moves under many dialogs: when does each of them answer again?

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::calls::load;
use super::load::Load;
use super::planned::{self, HandOver};
use super::profile;
use super::redis::Info;
use super::yardstick::{Effort, on_load_cpu};
use crate::interop::caller::{Caller, State, Transport};
use crate::interop::cluster::{Cluster, Manifest, counts};
use crate::interop::figures::Spread;
use crate::interop::network::Network;
use crate::interop::process::{resident, signal, wait_for};

pub(super) const LIMIT: Duration = Duration::from_secs(60);

/// Longer than a transaction is kept, and its record waits for a write that takes it along.
const LINGER: Duration = Duration::from_secs(60);

/// What happens to a container.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// `kill -9`: its connections close.
    Crash,
    /// SIGSTOP: it says nothing any more, and nothing closes. It goes on once all have answered.
    Freeze,
}

/// From the fault to the first answer of each of the container's dialogs, over several rounds.
pub fn fault_to_answer(fault: Fault, rounds: usize) -> anyhow::Result<Spread> {
    const DIALOGS: usize = 900;
    let (name, address) = match fault {
        Fault::Crash => ("bench-crash", [12, 1]),
        Fault::Freeze => ("bench-freeze", [12, 3]),
    };
    let cluster = Cluster::start(Manifest {
        name,
        address,
        session: "3600s",
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    dialogs(&mut caller, DIALOGS)?;
    let mut gaps = Vec::new();
    for round in 0..rounds {
        let status = cluster.until("the dialogs are counted", LIMIT, |status| {
            status.dialogs() == DIALOGS as u64
        })?;
        let victim = &status.containers[round % status.containers.len()];
        let (pid, struck) = (victim.running()?, Instant::now());
        match fault {
            Fault::Crash => signal(pid, libc::SIGKILL)?,
            Fault::Freeze => signal(pid, libc::SIGSTOP)?,
        }
        let answers = probe(&mut caller, struck);
        if fault == Fault::Freeze {
            signal(pid, libc::SIGCONT)?;
        }
        let answers = answers?;
        // The lost one's dialogs are those that took longest: all others have an owner that answers at once.
        let lost = usize::try_from(victim.dialogs.unwrap_or(0))?;
        gaps.extend_from_slice(&answers[answers.len().saturating_sub(lost)..]);
        cluster.settle(LIMIT)?;
    }
    Ok(Spread::of(gaps))
}

/// From the moment at which nothing comes to a container or from it any more to the first answer of each of its dialogs, over several rounds.
pub fn cut_to_answer(rounds: usize) -> anyhow::Result<Spread> {
    const DIALOGS: usize = 900;
    let network = Network::start(Manifest {
        name: "bench-cut",
        session: "3600s",
        ..Manifest::default()
    })?;
    let gaps = network.callers().within(|| {
        let (proxies, local) = (network.proxies(), Network::CALLERS.into());
        let mut caller = Caller::through(&proxies, Transport::Udp, local, network.address(), 16)?;
        dialogs(&mut caller, DIALOGS)?;
        let mut gaps = Vec::new();
        for round in 0..rounds {
            let containers = network.until("the dialogs are counted", LIMIT, |containers| {
                containers.iter().filter_map(|part| part.dialogs).sum::<u64>() == DIALOGS as u64
            })?;
            let victim = &containers[round % containers.len()];
            let others = [
                "redis",
                "proxy-0",
                "proxy-1",
                "container-0",
                "container-1",
                "container-2",
            ];
            let others: Vec<_> = others.into_iter().filter(|name| *name != victim.name).collect();
            let struck = Instant::now();
            network.cut(&victim.name, &others)?;
            let answers = probe(&mut caller, struck);
            network.heal()?;
            let answers = answers?;
            let lost = usize::try_from(victim.dialogs.unwrap_or(0))?;
            gaps.extend_from_slice(&answers[answers.len().saturating_sub(lost)..]);
            network.settle(LIMIT)?;
        }
        Ok(gaps)
    })?;
    Ok(Spread::of(gaps))
}

/// Asks every dialog at once; how long after `killed` each answered, sorted.
fn probe(caller: &mut Caller, killed: Instant) -> anyhow::Result<Vec<Duration>> {
    let since = caller.outcomes.len();
    let all = caller.indices(State::Confirmed);
    let count = all.len();
    caller.paced(50_000, all, |caller, dialog| caller.request(dialog, "OPTIONS"));
    caller.settle(LIMIT)?;
    caller.expect_all_ok("OPTIONS", since, count)?;
    let mut answers: Vec<Duration> = caller
        .outcomes_of("OPTIONS", since)
        .map(|outcome| (outcome.sent + outcome.took).duration_since(killed))
        .collect();
    answers.sort_unstable();
    Ok(answers)
}

pub(super) fn dialogs(caller: &mut Caller, count: usize) -> anyhow::Result<()> {
    caller.paced(500, 0..count, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, count)
}

/// A large cluster's memory and takeover.
#[derive(Clone, Debug)]
pub struct Mass {
    /// Dialogs in all.
    pub dialogs: u64,
    /// Dialogs of the killed container.
    pub lost: u64,
    /// The containers' resident memory for one dialog after its transactions had ended; bytes.
    pub container_bytes: f64,
    /// The same while the transactions of the last 32 s were still kept; bytes.
    pub container_bytes_filling: f64,
    /// Redis's memory for one dialog after its transactions had ended; bytes.
    pub redis_bytes: f64,
    /// Planned: one container hands all it has over and leaves.
    pub hand_over: HandOver,
    /// From the kill until the survivors said that they own everything; nothing if the killed one was back before.
    pub owned: Option<Duration>,
    /// From the kill to the answers of sampled dialogs in all partitions.
    pub answers: Spread,
    /// What the survivors logged of it.
    pub logged: Vec<String>,
    /// The costliest symbols of the survivors meanwhile.
    pub profile: Vec<String>,
}

/// Fills three containers with `total` dialogs, measures memory, lets one hand over and leave, then kills one and times the takeover by
/// the two others.
pub fn mass(total: u64, window: usize) -> anyhow::Result<Mass> {
    const SAMPLE: usize = 3_000;
    let cluster = Cluster::start(Manifest {
        name: "bench-mass",
        address: [12, 2],
        proxies: 1,
        session: "3600s",
        ..Manifest::default()
    })?;
    let status = cluster.status()?;
    let pids = super::calls::pids(&status.containers)?;
    let memory = || pids.iter().map(|pid| resident(*pid)).sum::<u64>();
    let url = status.redis.url.clone().unwrap_or_default();
    let empty = Info::of(&url)?.number("used_memory");
    let empty_containers = memory();
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    dialogs(&mut caller, SAMPLE)?;
    let effort = Effort {
        calls: total,
        trials: 1,
        window,
    };
    let fill = on_load_cpu(&Load {
        keep: true,
        ..load(&cluster, 4, effort)
    })?;
    ensure!(fill.lost + fill.refused == 0, "calls lost in filling: {fill:?}");
    let stand = fill.done + SAMPLE as u64;
    let per_dialog = || memory().saturating_sub(empty_containers) as f64 / stand as f64;
    let container_bytes_filling = per_dialog();
    // Server transactions are kept with their last response for 32 s; what is left afterwards is the dialogs.
    let filled = Instant::now();
    let ended = || (filled.elapsed() > LINGER).then_some(());
    wait_for("transactions end", LINGER * 2, ended)?;
    let status = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == stand && status.containers.iter().all(|part| part.load == Some(0))
    })?;
    let redis_bytes = Info::of(&url)?.number("used_memory").saturating_sub(empty) as f64 / stand as f64;
    let container_bytes = per_dialog();
    let leaver = &status.containers[1];
    let hand_over = planned::leave(leaver.running()?, leaver.dialogs.unwrap_or(0), &mut caller)?;
    cluster.settle(LIMIT)?;
    let status = cluster.until("the dialogs are counted", LIMIT, |status| status.dialogs() == stand)?;
    let victim = &status.containers[0];
    let survivors: Vec<_> = status.containers[1..].iter().filter_map(|part| part.admin).collect();
    let partitions = u64::from(cluster.manifest().partitions);
    let all_owned = || {
        let each = survivors
            .iter()
            .map(|admin| counts(*admin).map(|(partitions, _)| partitions));
        each.sum::<anyhow::Result<u64>>()
            .ok()
            .filter(|owned| *owned == partitions)
    };
    let victim_pid = victim.running()?;
    let survivor_pids = super::calls::pids(&status.containers[1..])?;
    let (taken_over, profile) = profile::during(&survivor_pids, cluster.files(), || {
        // The recording has begun by the time these are answered.
        probe(&mut caller, Instant::now())?;
        let killed = Instant::now();
        signal(victim_pid, libc::SIGKILL)?;
        // Watched while the dialogs are asked: soon afterwards the killed one is back and is handed its share.
        std::thread::scope(|scope| {
            let watch = scope.spawn(|| {
                let seen = wait_for("the survivors own everything", Duration::from_secs(5), all_owned);
                seen.ok().map(|_| killed.elapsed())
            });
            let answers = probe(&mut caller, killed)?;
            let owned = watch.join().expect("it does not panic");
            anyhow::Ok((answers, owned))
        })
    });
    let (answers, owned) = taken_over?;
    let logged = cluster
        .logs()
        .lines()
        .filter(|line| line.contains("takeover"))
        .map(str::to_owned)
        .collect();
    Ok(Mass {
        dialogs: stand,
        lost: victim.dialogs.unwrap_or(0),
        container_bytes,
        container_bytes_filling,
        redis_bytes,
        hand_over,
        owned,
        answers: Spread::of(answers),
        logged,
        profile,
    })
}

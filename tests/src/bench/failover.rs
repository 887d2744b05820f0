//! `kill -9` of a container under many dialogs: when does each of its dialogs answer again?

use std::time::{Duration, Instant};

use anyhow::ensure;

use super::calls::load;
use super::load::Load;
use super::redis::Info;
use super::yardstick::{Effort, on_load_cpu};
use crate::interop::caller::{Caller, State, Transport};
use crate::interop::cluster::{Cluster, Manifest, counts};
use crate::interop::figures::Spread;
use crate::interop::process::{resident, signal, wait_for};

const LIMIT: Duration = Duration::from_secs(60);

/// Longer than a transaction is kept, and its record waits for a write that takes it along.
const LINGER: Duration = Duration::from_secs(60);

/// From the kill to the first answer of each of the killed container's dialogs, over several rounds.
pub fn kill_to_answer(rounds: usize) -> anyhow::Result<Spread> {
    const DIALOGS: usize = 900;
    let cluster = Cluster::start(Manifest {
        name: "bench-failover",
        address: [12, 1],
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
        let killed = Instant::now();
        signal(victim.running()?, libc::SIGKILL)?;
        let answers = probe(&mut caller, killed)?;
        // The killed one's dialogs are those that took longest: all others have an owner that answers at once.
        let lost = usize::try_from(victim.dialogs.unwrap_or(0))?;
        gaps.extend_from_slice(&answers[answers.len().saturating_sub(lost)..]);
        cluster.settle(LIMIT)?;
    }
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

fn dialogs(caller: &mut Caller, count: usize) -> anyhow::Result<()> {
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
    /// Growth of the containers' resident memory for one more dialog, while transactions came and went evenly; bytes.
    pub container_bytes: f64,
    /// Redis's memory for one dialog after its transactions had ended; bytes.
    pub redis_bytes: f64,
    /// From the kill until the survivors said that they own everything; nothing if the killed one was back before.
    pub owned: Option<Duration>,
    /// From the kill to the answers of sampled dialogs in all partitions.
    pub answers: Spread,
    /// What the survivors logged of it.
    pub logged: Vec<String>,
}

/// Fills three containers with `total` dialogs, measures memory, kills one and times the takeover by the two others.
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
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    dialogs(&mut caller, SAMPLE)?;
    // Two thirds first: by then transactions end as fast as others begin, and what grows is dialogs.
    let part = |calls: u64| Load {
        keep: true,
        ..load(
            &cluster,
            4,
            Effort {
                calls,
                trials: 1,
                window,
            },
        )
    };
    let first = on_load_cpu(&part(total * 2 / 3))?;
    let early = memory();
    let second = on_load_cpu(&part(total - total * 2 / 3))?;
    let container_bytes = memory().saturating_sub(early) as f64 / second.done as f64;
    let stand = first.done + second.done + SAMPLE as u64;
    ensure!(
        first.lost + first.refused + second.lost + second.refused == 0,
        "calls lost in filling: {first:?} {second:?}"
    );
    // Server transactions are kept with their last response for 32 s; what is left afterwards is the dialogs.
    let filled = Instant::now();
    let ended = || (filled.elapsed() > LINGER).then_some(());
    wait_for("transactions end", LINGER * 2, ended)?;
    let status = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == stand && status.containers.iter().all(|part| part.load == Some(0))
    })?;
    let redis_bytes = Info::of(&url)?.number("used_memory").saturating_sub(empty) as f64 / stand as f64;
    let victim = &status.containers[0];
    let survivors: Vec<_> = status.containers[1..].iter().filter_map(|part| part.admin).collect();
    let all_owned = || {
        let each = survivors
            .iter()
            .map(|admin| counts(*admin).map(|(partitions, _)| partitions));
        each.sum::<anyhow::Result<u64>>()
            .ok()
            .filter(|partitions| *partitions == 1024)
    };
    let killed = Instant::now();
    signal(victim.running()?, libc::SIGKILL)?;
    // Watched while the dialogs are asked: soon afterwards the killed one is back and is handed its share.
    let (answers, owned) = std::thread::scope(|scope| {
        let watch = scope.spawn(|| {
            let seen = wait_for("the survivors own everything", Duration::from_secs(5), all_owned);
            seen.ok().map(|_| killed.elapsed())
        });
        let answers = probe(&mut caller, killed)?;
        let owned = watch.join().expect("it does not panic");
        anyhow::Ok((answers, owned))
    })?;
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
        redis_bytes,
        owned,
        answers: Spread::of(answers),
        logged,
    })
}

//! `make soak`: calls for minutes with a fault every ten seconds. In the end every call has been ended, nothing has leaked, and what the processes
//! counted is what the callers did, ours and SIPp.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::caller::{Caller, State, Transport};
use super::cluster::{Cluster, Manifest, Part, Status};
use super::http;
use super::process::{descriptors, resident, signal, threads, wait_every};
use super::sipp::{Run, Sipp};

const LIMIT: Duration = Duration::from_secs(60);

/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(10);

/// New calls a second, and how long each lasts: in balance there are rate x length of them.
const RATE: u32 = 20;
const LENGTH: Duration = Duration::from_secs(20);

/// Growth of a process's memory from the first to the second half that is not taken for a leak: what an allocator keeps to itself.
const SLACK: f64 = 1.15;
const SLACK_BYTES: u64 = 4 << 20;

/// Container 0, proxy 0, Redis and the supervisor are never killed, so that they live through everything: if anybody leaks, it shows with them. Of the
/// others each life holds what the one before did.
type Fault = fn(&Status) -> anyhow::Result<()>;

const FAULTS: [(&str, Fault); 6] = [
    ("container 1 killed", |status| kill(&status.containers[1])),
    ("container 0 frozen for a second", |status| {
        freeze(&status.containers[0])
    }),
    ("proxy 1 killed", |status| kill(&status.proxies[1])),
    ("container 2 killed", |status| kill(&status.containers[2])),
    ("proxy 0 frozen for a second", |status| freeze(&status.proxies[0])),
    ("containers 1 and 2 killed at once", |status| {
        kill(&status.containers[1])?;
        kill(&status.containers[2])
    }),
];

fn kill(part: &Part) -> anyhow::Result<()> {
    // Between two lives there is nothing to kill.
    part.running().map_or(Ok(()), |pid| signal(pid, libc::SIGKILL))
}

fn freeze(part: &Part) -> anyhow::Result<()> {
    let pid = part.running()?;
    signal(pid, libc::SIGSTOP)?;
    std::thread::spawn(move || {
        // The fault's own length; the calls go on meanwhile.
        std::thread::sleep(Duration::from_secs(1));
        signal(pid, libc::SIGCONT)
    });
    Ok(())
}

/// What a process holds.
#[derive(Clone, Copy, Debug)]
struct Holding {
    resident: u64,
    descriptors: usize,
    threads: usize,
}

impl Holding {
    fn of(pid: u32) -> Self {
        Self {
            resident: resident(pid),
            descriptors: descriptors(pid),
            threads: threads(pid),
        }
    }
}

/// Every process by its name, those between two lives left out.
fn holdings(cluster: &Cluster, status: &Status) -> anyhow::Result<BTreeMap<String, Holding>> {
    let parts = status
        .parts()
        .filter_map(|part| Some((part.name.clone(), part.running().ok()?)));
    let all = parts.chain([("supervisor".to_owned(), cluster.supervisor()?)]);
    Ok(all.map(|(name, pid)| (name, Holding::of(pid))).collect())
}

/// Runs for `length`.
pub fn run(length: Duration) -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "soak",
        address: [131, 1],
        ring: "1s",
        session: "30m",
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 32)?;
    let fresh = holdings(&cluster, &cluster.status()?)?;
    let mut seen: Vec<BTreeMap<String, Holding>> = Vec::new();
    let (begun, mut next_fault) = (Instant::now(), Instant::now() + EVERY);
    let mut faults = FAULTS.iter().cycle();
    let mut hung_up = 0;
    let calls = std::iter::repeat(()).take_while(|()| begun.elapsed() < length);
    let mut outcome = Ok(());
    caller.paced(RATE, calls, |caller, ()| {
        caller.invite();
        hang_up(caller, &mut hung_up);
        if Instant::now() >= next_fault && outcome.is_ok() {
            next_fault += EVERY;
            outcome = cluster.status().and_then(|status| {
                let (name, fault) = faults.next().expect("it goes round");
                seen.push(holdings(&cluster, &status)?);
                println!("{:4} s: {}; {name}", begun.elapsed().as_secs(), caller.summary());
                fault(&status)
            });
        }
    });
    outcome?;
    cluster.settle(LIMIT)?;
    end_all(&mut caller)?;
    counters_agree(&cluster, &mut caller)?;
    counters_agree_with_sipp(&cluster)?;
    let after = cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    let after = holdings(&cluster, &after)?;
    for (name, was) in fresh {
        let is = after.get(&name).with_context(|| format!("{name} runs in the end"))?;
        let series: Vec<u64> = seen.iter().filter_map(|all| Some(all.get(&name)?.resident)).collect();
        println!("{name}: {was:?}, in the end {is:?}; resident every {EVERY:?}: {series:?}");
        level(&name, &series, was, *is)?;
    }
    Ok(())
}

/// BYE in every call that has lasted its time, in the order of the calls.
fn hang_up(caller: &mut Caller, next: &mut usize) {
    while let Some(dialog) = caller.dialogs.get(*next) {
        match dialog.answered_at {
            Some(at) if at.elapsed() < LENGTH => return,
            Some(_) => caller.request(*next, "BYE"),
            // It still rings; those behind it wait.
            None if dialog.state != State::Failed => return,
            None => {}
        }
        *next += 1;
    }
}

fn end_all(caller: &mut Caller) -> anyhow::Result<()> {
    caller.all_answered(LIMIT)?;
    caller.settle(LIMIT)?;
    let left = caller.indices(State::Confirmed);
    caller.paced(500, left, |caller, dialog| caller.request(dialog, "BYE"));
    caller.settle(LIMIT)?;
    let calls = caller.dialogs.len();
    caller.expect_all_ok("INVITE", 0, calls)?;
    caller.expect_all_ok("BYE", 0, calls)?;
    caller.expect_no_call_doubled()?;
    println!(
        "{calls} calls, none lost, refused or doubled; set-up {}",
        caller.spread("INVITE", 0)
    );
    Ok(())
}

/// What is compared, of proxies and of containers.
const COUNTED: [(&str, &str); 7] = [
    ("sipcluster_proxy_messages_total", "kind=\"new_request\""),
    ("sipcluster_proxy_messages_total", "kind=\"in_dialog_request\""),
    ("sipcluster_proxy_messages_total", "kind=\"container_response\""),
    (
        "sipcluster_container_messages_total",
        "kind=\"proxy_request\",result=\"handled\"",
    ),
    (
        "sipcluster_container_messages_total",
        "kind=\"own_response\",result=\"sent\"",
    ),
    ("sipcluster_container_sessions_total", ""),
    ("sipcluster_container_dialogs_ended_total", ""),
];

/// The sums of [`COUNTED`] over all processes, once they stand still: workers publish what they have counted now and then.
fn counted(cluster: &Cluster) -> anyhow::Result<[u64; 7]> {
    let all = || -> anyhow::Result<[u64; 7]> {
        let status = cluster.status()?;
        let mut sums = [0; 7];
        for part in status.containers.iter().chain(&status.proxies) {
            let text = http::get(part.admin.context("an admin port")?, "/metrics")?;
            for (sum, (name, labels)) in sums.iter_mut().zip(COUNTED) {
                *sum += http::metric_where(&text, name, labels).unwrap_or(0.0) as u64;
            }
        }
        Ok(sums)
    };
    let (mut last, mut since) = (all()?, Instant::now());
    wait_every(EVERY / 100, "the counters stand still", LIMIT, || {
        let now = all().ok()?;
        if now != last {
            (last, since) = (now, Instant::now());
        }
        (since.elapsed() > Duration::from_secs(1)).then_some(last)
    })
}

/// By how much they have grown must be what the callers did.
fn expect_grown(before: [u64; 7], after: [u64; 7], expected: [usize; 7]) -> anyhow::Result<()> {
    let grown: Vec<_> = after
        .iter()
        .zip(before)
        .map(|(now, before)| now.saturating_sub(before))
        .collect();
    for (((name, labels), grown), expected) in COUNTED.iter().zip(grown).zip(expected) {
        ensure!(
            grown == expected as u64,
            "{name} {labels} grew by {grown}, the callers say {expected}"
        );
    }
    Ok(())
}

/// A thousand calls without a fault: requests, responses, sessions and ends of dialogs that are counted are those that were sent and heard.
fn counters_agree(cluster: &Cluster, caller: &mut Caller) -> anyhow::Result<()> {
    const CALLS: usize = 1_000;
    let before = counted(cluster)?;
    let (first, since) = (caller.dialogs.len(), caller.outcomes.len());
    caller.paced(200, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    for dialog in caller.indices(State::Confirmed) {
        caller.request(dialog, "BYE");
    }
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", since, CALLS)?;
    let repeats: u32 = caller.outcomes[since..].iter().map(|outcome| outcome.repeats).sum();
    ensure!(
        repeats == 0,
        "{repeats} requests were sent again: the machine was too busy to compare"
    );
    let heard: usize = caller.dialogs[first..].iter().map(|dialog| dialog.heard.len()).sum();
    // ACK and BYE in each; each BYE has one response.
    let answers = heard + CALLS;
    let expected = [CALLS, 2 * CALLS, answers, 3 * CALLS, answers, CALLS, CALLS];
    expect_grown(before, counted(cluster)?, expected)?;
    println!("{CALLS} calls: {expected:?} counted by caller, proxies and containers alike");
    Ok(())
}

/// The same by SIPp's own count, which does not say what it heard: sessions and ends of dialogs.
fn counters_agree_with_sipp(cluster: &Cluster) -> anyhow::Result<()> {
    let before = counted(cluster)?;
    let run = Run {
        target: Some(cluster.address()),
        local: (cluster.caller_address(), 7060).into(),
        rate: 50,
        calls: 300,
        ..Run::default()
    };
    let seen = Sipp::start(cluster.files(), "sipp", &run)?.finish(LIMIT)?;
    let (begun, ended) = (seen.begun(), seen.successful());
    let after = counted(cluster)?;
    let grown = [5, 6].map(|at| after[at] - before[at]);
    ensure!(
        grown == [begun, ended] && begun == u64::from(run.calls),
        "SIPp counts {begun} calls and {ended} to their end, the containers {grown:?}"
    );
    println!("SIPp and containers count {begun} calls and {ended} ends");
    Ok(())
}

/// Memory of the second half against the first, descriptors and threads against the beginning.
fn level(name: &str, series: &[u64], was: Holding, is: Holding) -> anyhow::Result<()> {
    // Links to the lives of others come and go: a few more or fewer are no leak, one for every fault is.
    ensure!(
        is.descriptors <= was.descriptors + 8,
        "{name} leaks descriptors: {was:?}, {is:?}"
    );
    ensure!(is.threads <= was.threads + 2, "{name} leaks threads: {was:?}, {is:?}");
    let (early, late) = series.split_at(series.len() / 2);
    let most = |half: &[u64]| half.iter().copied().max().unwrap_or_default();
    let end = most(late).max(is.resident);
    let bound = (most(early) as f64 * SLACK) as u64 + SLACK_BYTES;
    ensure!(
        early.is_empty() || end <= bound,
        "{name} grows: {series:?}, {}",
        is.resident
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_grows_is_told() {
        const MEGABYTE: u64 = 1 << 20;
        let holding = |megabytes: u64, descriptors, threads| Holding {
            resident: megabytes * MEGABYTE,
            descriptors,
            threads,
        };
        let series = |all: &[u64]| all.iter().map(|megabytes| megabytes * MEGABYTE).collect::<Vec<_>>();
        let level = |all: &[u64], is| level("it", &series(all), holding(20, 30, 4), is);
        let flat = [40, 50, 45, 50];
        assert!(level(&flat, holding(50, 38, 6)).is_ok());
        assert!(
            level(&flat, holding(50, 39, 4)).is_err(),
            "a descriptor for every fault"
        );
        assert!(level(&flat, holding(50, 30, 7)).is_err(), "a thread for every fault");
        assert!(level(&flat, holding(70, 30, 4)).is_err(), "memory in the end");
        assert!(
            level(&[40, 50, 60, 70], holding(50, 30, 4)).is_err(),
            "memory all the time"
        );
    }

    #[test]
    fn what_is_miscounted_is_told() {
        let expected = [10, 20, 30, 30, 30, 10, 10];
        let after = expected.map(|count| count as u64 + 5);
        assert!(expect_grown([5; 7], after, expected).is_ok());
        for at in 0..7 {
            let mut wrong = after;
            wrong[at] += 1;
            assert!(expect_grown([5; 7], wrong, expected).is_err(), "{:?}", COUNTED[at]);
        }
    }
}

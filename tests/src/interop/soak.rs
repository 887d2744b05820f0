//! `make soak`: calls for minutes with a fault every ten seconds. In the end every call has been ended, nothing has leaked, and what the proxies
//! counted is what the caller did.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::caller::{Caller, State, Transport};
use super::cluster::{Cluster, Manifest, Part, Status};
use super::http;
use super::process::{descriptors, resident, signal, threads, wait_every};

const LIMIT: Duration = Duration::from_secs(60);

/// From one fault to the next.
const EVERY: Duration = Duration::from_secs(10);

/// New calls a second, and how long each lasts: in balance there are rate x length of them.
const RATE: u32 = 20;
const LENGTH: Duration = Duration::from_secs(20);

/// Growth of a process's memory from the first to the second half that is not taken for a leak: what an allocator keeps to itself.
const SLACK: f64 = 1.15;
const SLACK_BYTES: u64 = 4 << 20;

/// Container 0 and proxy 0 are never killed, so that they live through everything: if anybody leaks, it shows with them.
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
    fn of(part: &Part) -> anyhow::Result<Self> {
        let pid = part.running()?;
        Ok(Self {
            resident: resident(pid),
            descriptors: descriptors(pid),
            threads: threads(pid),
        })
    }
}

/// The processes that live through everything.
fn survivors(status: &Status) -> [&Part; 3] {
    [&status.containers[0], &status.proxies[0], &status.redis]
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
    let before = cluster.status()?;
    let fresh = survivors(&before).map(Holding::of);
    let mut memory: Vec<[u64; 3]> = Vec::new();
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
                memory.push(survivors(&status).map(|part| part.pid.map_or(0, resident)));
                println!("{:4} s: {}; {name}", begun.elapsed().as_secs(), caller.summary());
                fault(&status)
            });
        }
    });
    outcome?;
    cluster.settle(LIMIT)?;
    end_all(&mut caller)?;
    counters_agree(&cluster, &mut caller)?;
    let after = cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    for (at, (part, was)) in survivors(&after).into_iter().zip(fresh).enumerate() {
        let (was, is) = (was?, Holding::of(part)?);
        let series: Vec<u64> = memory.iter().map(|row| row[at]).collect();
        level(part, &series, was, is)?;
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

/// A thousand calls without a fault: new requests, requests in dialogs and responses that the proxies count are those that were sent and heard.
fn counters_agree(cluster: &Cluster, caller: &mut Caller) -> anyhow::Result<()> {
    const CALLS: usize = 1_000;
    let counted = |kind: &str| -> anyhow::Result<u64> {
        let status = cluster.status()?;
        let mut sum = 0.0;
        for proxy in &status.proxies {
            let text = http::get(proxy.admin.context("an admin port")?, "/metrics")?;
            let label = format!("kind=\"{kind}\"");
            sum += http::metric_where(&text, "sipcluster_proxy_messages_total", &label)
                .with_context(|| format!("{label} in {text}"))?;
        }
        Ok(sum as u64)
    };
    let kinds = ["new_request", "in_dialog_request", "container_response"];
    let all = || -> anyhow::Result<Vec<u64>> { kinds.into_iter().map(counted).collect() };
    // Workers publish what they have counted now and then.
    let steady = || {
        let mut last = all()?;
        let mut since = Instant::now();
        wait_every(EVERY / 100, "the counters stand still", LIMIT, || {
            let now = all().ok()?;
            if now != last {
                (last, since) = (now, Instant::now());
            }
            (since.elapsed() > Duration::from_secs(1)).then(|| last.clone())
        })
    };
    let before = steady()?;
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
    let expected = [CALLS, 2 * CALLS, heard + CALLS];
    let grown: Vec<usize> = steady()?
        .iter()
        .zip(before)
        .map(|(now, before)| (now - before) as usize)
        .collect();
    ensure!(
        grown == expected,
        "the proxies count {grown:?} of {kinds:?}, the caller {expected:?}"
    );
    println!("{CALLS} calls: {expected:?} of {kinds:?}, counted by caller and proxies alike");
    Ok(())
}

/// Memory of the second half against the first, descriptors and threads against the beginning.
fn level(part: &Part, series: &[u64], was: Holding, is: Holding) -> anyhow::Result<()> {
    let name = &part.name;
    println!("{name}: {was:?}, in the end {is:?}; resident every {EVERY:?}: {series:?}");
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
    ensure!(early.is_empty() || end <= bound, "{name} grows: {series:?}");
    Ok(())
}

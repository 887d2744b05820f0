//! Planned moves under calls: scale, restart, apply, a container told to end. No dialog is lost, no call refused. Real processes, a real
//! redis-server, real sockets.

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Status};
use tests::interop::http;
use tests::interop::process::{Process, signal};

/// Longer than any move, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// No answer may take longer, retransmissions over UDP included. On a machine at leisure the worst are a fifth of a second.
const LONGEST: Duration = Duration::from_secs(4);

/// How long a call rings.
const RING: Duration = Duration::from_secs(1);

/// Dialogs that stand through all moves.
const DIALOGS: usize = 300;

/// Runs a command, and `meanwhile` again and again until it has ended; what it said.
fn run(cluster: &Cluster, arguments: &[&str], mut meanwhile: impl FnMut()) -> anyhow::Result<String> {
    let log = cluster.files().join("command.log");
    let mut process = Process::start(&mut cluster.command(arguments), &log)?;
    let deadline = Instant::now() + LIMIT;
    let status = loop {
        meanwhile();
        if let Some(status) = process.ended() {
            break status;
        }
        ensure!(
            Instant::now() < deadline,
            "{arguments:?} does not end\n{}",
            cluster.logs()
        );
    };
    let said = std::fs::read_to_string(&log)?;
    ensure!(status.success(), "{arguments:?}: {said}\n{}", cluster.logs());
    for left in said.lines().filter(|line| line.contains(" has left ")) {
        ensure!(
            left.contains("ended with status 0"),
            "it did not leave in peace: {left}"
        );
    }
    Ok(said)
}

/// Calls that come, ring, talk and end, all at once.
struct Load {
    caller: Caller,
    /// Dialogs from here on are those that come and go.
    next_to_end: usize,
    next_to_ask: usize,
    due: Instant,
}

impl Load {
    /// Makes the calls that stand.
    fn start(cluster: &Cluster) -> anyhow::Result<Self> {
        let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 32)?;
        caller.paced(400, 0..DIALOGS, |caller, _| {
            caller.invite();
        });
        caller.all_answered(LIMIT)?;
        caller.expect_all_ok("INVITE", 0, DIALOGS)?;
        Ok(Self {
            caller,
            next_to_end: DIALOGS,
            next_to_ask: 0,
            due: Instant::now(),
        })
    }

    /// Every 20 ms a new call, a request in two of the dialogs that stand, and the end of a call that was answered.
    fn go_on(&mut self) {
        let caller = &mut self.caller;
        caller.pump(Duration::from_millis(5));
        if Instant::now() < self.due {
            return;
        }
        self.due += Duration::from_millis(20);
        caller.invite();
        for _ in 0..2 {
            caller.request(self.next_to_ask, "OPTIONS");
            self.next_to_ask = (self.next_to_ask + 1) % DIALOGS;
        }
        if caller
            .dialogs
            .get(self.next_to_end)
            .is_some_and(|dialog| dialog.state == State::Confirmed)
        {
            caller.request(self.next_to_end, "BYE");
            self.next_to_end += 1;
        }
    }

    /// Lets what is under way end; all of it since the `since`th outcome must have gone well, within the ceiling.
    fn expect_well(&mut self, what: &str, since: usize) -> anyhow::Result<()> {
        self.caller.settle(LIMIT)?;
        let outcomes = &self.caller.outcomes[since..];
        ensure!(
            outcomes.len() > 50,
            "{what}: only {} requests were made",
            outcomes.len()
        );
        let bad: Vec<_> = outcomes.iter().filter(|outcome| outcome.status != 200).collect();
        ensure!(
            bad.is_empty(),
            "{what}: {} of {} went wrong, first {:?}",
            bad.len(),
            outcomes.len(),
            bad[0]
        );
        // An INVITE rings: its first answer is the one that counts, and the last after it has rung.
        let late = |outcome: &&tests::interop::caller::Outcome| match outcome.method {
            "INVITE" => outcome.first.max(outcome.took.saturating_sub(RING)),
            _ => outcome.took,
        };
        let worst = outcomes.iter().max_by_key(late).context("an outcome")?;
        let took = late(&worst);
        println!(
            "{what}: {} requests, 0 lost, 0 refused, worst {took:?} ({})",
            outcomes.len(),
            worst.method
        );
        ensure!(took < LONGEST, "{what}: {worst:?}");
        self.caller.expect_no_call_doubled()
    }

    /// A command under calls.
    fn during(&mut self, cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<String> {
        let since = self.caller.outcomes.len();
        let begun = Instant::now();
        self.due = begun;
        let said = run(cluster, arguments, || self.go_on())?;
        let what = format!("{} ({:.1} s)", arguments.join(" "), begun.elapsed().as_secs_f64());
        self.expect_well(&what, since)?;
        expect_no_takeover(cluster)?;
        Ok(said)
    }
}

/// A planned move hands over; nobody takes anything from anybody.
fn expect_no_takeover(cluster: &Cluster) -> anyhow::Result<()> {
    for part in cluster.status()?.containers {
        let metrics = http::get(part.admin.context("an admin port")?, "/metrics")?;
        let line = metrics
            .lines()
            .find(|line| line.starts_with("sipcluster_container_takeover_seconds_count"));
        let count = line.context("takeovers are counted")?.rsplit(' ').next();
        ensure!(count == Some("0"), "{}: {line:?}\n{}", part.name, cluster.logs());
    }
    Ok(())
}

fn pids(parts: &[tests::interop::cluster::Part]) -> Vec<Option<u32>> {
    parts.iter().map(|part| part.pid).collect()
}

/// How many of the processes that were there are still.
fn kept(before: &[tests::interop::cluster::Part], after: &[tests::interop::cluster::Part]) -> usize {
    let before = pids(before);
    pids(after).iter().filter(|pid| before.contains(pid)).count()
}

fn sizes(status: &Status) -> (usize, usize) {
    (status.containers.len(), status.proxies.len())
}

#[test]
fn no_planned_move_loses_or_refuses_a_call() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "planned",
        address: [88, 1],
        ring: "1s",
        ..Manifest::default()
    })?;
    let mut load = Load::start(&cluster)?;

    load.during(&cluster, &["scale", "5"])?;
    assert_eq!(sizes(&cluster.status()?), (5, 2));
    let said = load.during(&cluster, &["scale", "2"])?;
    assert_eq!(sizes(&cluster.status()?), (2, 2));
    let told = |name: &str| {
        said.find(&format!("planned-{name} is told to hand over"))
            .context(name.to_owned())
    };
    assert!(
        told("4")? < told("3")? && told("3")? < told("2")?,
        "the highest first: {said}"
    );

    let before = cluster.status()?;
    load.during(&cluster, &["restart", "containers"])?;
    let after = cluster.status()?;
    assert_eq!(
        (
            kept(&before.containers, &after.containers),
            kept(&before.proxies, &after.proxies)
        ),
        (0, 2)
    );

    let before = after;
    load.during(&cluster, &["restart", "proxies"])?;
    let after = cluster.status()?;
    assert_eq!(
        (
            kept(&before.containers, &after.containers),
            kept(&before.proxies, &after.proxies)
        ),
        (2, 0)
    );

    let before = after;
    cluster.write_changed("changed.yaml", |spec| {
        spec["application"]["answer"]["ring"] = "900ms".into();
        spec["proxies"]["replicas"] = 3.into();
    })?;
    load.during(&cluster, &["apply", "-f", "changed.yaml"])?;
    let after = cluster.status()?;
    assert_eq!(sizes(&after), (3, 3));
    assert_eq!(
        (
            kept(&before.containers, &after.containers),
            kept(&before.proxies, &after.proxies)
        ),
        (0, 2)
    );

    let before = after;
    load.during(&cluster, &["restart", "redis"])?;
    assert_ne!(cluster.status()?.redis.pid, before.redis.pid);

    leaves_when_told(&cluster, &mut load)?;
    ends_well(&cluster, &mut load.caller)
}

/// SIGTERM from outside: the container hands all over before it ends.
fn leaves_when_told(cluster: &Cluster, load: &mut Load) -> anyhow::Result<()> {
    let since = load.caller.outcomes.len();
    let before = cluster.status()?;
    let victim = &before.containers[1];
    assert!(victim.dialogs > Some(0), "it has something to hand over: {victim:?}");
    signal(victim.running()?, libc::SIGTERM)?;
    let deadline = Instant::now() + LIMIT;
    let mut looked = Instant::now();
    load.due = looked;
    loop {
        load.go_on();
        // A process each time: not with every turn.
        if looked.elapsed() > Duration::from_millis(200) {
            looked = Instant::now();
            let status = cluster.status()?;
            let part = &status.containers[1];
            if part.state == "Active" && part.pid != victim.pid && part.partitions > Some(0) {
                break;
            }
        }
        ensure!(
            Instant::now() < deadline,
            "the container does not come back\n{}",
            cluster.logs()
        );
    }
    load.expect_well("SIGTERM of a container", since)?;
    let log = std::fs::read_to_string(cluster.files().join("state/log").join(format!("{}.log", victim.name)))?;
    assert!(log.contains("told to end: handing everything over"), "{log}");
    assert!(!log.contains("not everything is handed over"), "{log}");
    Ok(())
}

/// Every call can still be changed and ended, and then nothing is left.
fn ends_well(cluster: &Cluster, caller: &mut Caller) -> anyhow::Result<()> {
    for method in ["INVITE", "BYE"] {
        let (dialogs, since) = (caller.indices(State::Confirmed), caller.outcomes.len());
        assert!(dialogs.len() >= DIALOGS, "{}", caller.summary());
        let count = dialogs.len();
        caller.paced(500, dialogs, |caller, dialog| caller.request(dialog, method));
        caller.settle(LIMIT)?;
        caller.expect_all_ok(method, since, count)?;
    }
    caller.expect_no_call_doubled()?;
    assert_eq!(caller.count(State::Failed), 0, "{}", caller.summary());
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

/// Phones whose connections are closed at rest open others and go on with their calls.
#[test]
fn calls_over_tcp_go_on_after_all_proxies_were_restarted() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "planned-tcp",
        address: [88, 2],
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Tcp, cluster.caller_address(), cluster.address(), 16)?;
    caller.paced(400, 0..DIALOGS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, DIALOGS)?;
    let begun = Instant::now();
    run(&cluster, &["restart", "proxies"], || {
        caller.pump(Duration::from_millis(5))
    })?;
    let took = begun.elapsed();
    assert_eq!(
        caller.broken(),
        16,
        "each connection was closed once, none was reset in the midst of something"
    );
    ends_well(&cluster, &mut caller)?;
    println!(
        "restart proxies ({:.1} s): {DIALOGS} dialogs over TCP, 0 lost",
        took.as_secs_f64()
    );
    Ok(())
}

/// A container that finds nobody to take its calls in time says what it leaves.
#[test]
fn a_container_that_cannot_hand_over_says_at_its_deadline_what_is_left() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "planned-stuck",
        address: [88, 3],
        containers: 2,
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 4)?;
    caller.paced(400, 0..50, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    cluster.write_changed("short.yaml", |spec| spec["containers"]["quiesce"] = "100ms".into())?;
    run(&cluster, &["apply", "-f", "short.yaml"], || {
        caller.pump(Duration::from_millis(5))
    })?;
    let status = cluster.status()?;
    // The other one does not answer: nobody can be handed anything.
    let (leaving, other) = (&status.containers[0], status.containers[1].running()?);
    let pid = leaving.running()?;
    signal(other, libc::SIGSTOP)?;
    signal(pid, libc::SIGTERM)?;
    let log = cluster.files().join("state/log").join(format!("{}.log", leaving.name));
    let said = tests::interop::process::wait_for("the container says what is left", LIMIT, || {
        let log = std::fs::read_to_string(&log).ok()?;
        let line = log
            .lines()
            .find(|line| line.contains("not everything is handed over"))?;
        Some(line.to_owned())
    });
    signal(other, libc::SIGCONT)?;
    let said = said?;
    assert!(
        said.contains("partitions=") && said.contains("dialogs=") && !said.contains("partitions=0"),
        "{said}"
    );
    // Nothing is lost all the same.
    cluster.settle(LIMIT)?;
    for call in caller.indices(State::Confirmed) {
        caller.request(call, "BYE");
    }
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", 0, 50)
}

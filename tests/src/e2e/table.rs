//! Runs the scenarios and prints them as a table; all of them, if all went well, as the page `docs/e2e.md`.

use std::collections::BTreeSet;
use std::fmt::{self, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::beside::UNRESTRICTED;
use super::calls::{Calls, Outcome};
use super::kubernetes::{IMAGES, Kubernetes, image};
use super::scenarios::{ALL, CONTAINERS, Scenario};
use super::silent;
use super::world::{Status, World};
use crate::bench::machine;
use crate::interop::process::{source_root, wait_every};

/// The SipCluster under test. The load balancer's nodes hand on with the true source (`Local`).
pub const MANIFEST: &str = "
apiVersion: sipcluster.dev/v1alpha1
kind: SipCluster
metadata: {name: demo, labels: {app.kubernetes.io/instance: demo}}
spec:
  replicas: 2
  application: {answer: {}}
  containers: {workers: 1, quiesce: 10s}
  proxies: {replicas: 2, workers: 1, drain: 3s}
  redis: {managed: {instances: 3}}
";

/// How often it is looked how many containers are away.
const WATCH: Duration = Duration::from_millis(500);

/// Longer than any scenario.
pub const FOREVER: Duration = Duration::from_secs(3600);

/// What stands above the rows.
const HEAD: &str =
    "| with calls up | lost | refused | calls | over after | worst answer |\n| --- | --- | --- | --- | --- | --- |";

/// A scenario that was run.
struct Row {
    title: &'static str,
    took: Duration,
    outcome: Outcome,
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Outcome {
            made,
            lost,
            refused,
            worst,
        } = self.outcome;
        let (title, took, worst) = (self.title, self.took.as_secs_f64(), worst.as_millis());
        write!(
            f,
            "| {title} | {lost} | {refused} | {made} | {took:.1} s | {worst} ms |"
        )
    }
}

/// `make e2e`: arguments choose scenarios whose title contains one of them.
#[must_use]
pub fn main() -> ExitCode {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    let chosen = ALL
        .iter()
        .filter(|scenario| wanted.is_empty() || wanted.iter().any(|word| scenario.title.contains(word)));
    let named = Kubernetes::named();
    let (left_out, chosen): (Vec<_>, Vec<_>) = chosen.partition(|scenario| named.is_some() && scenario.takes_nodes);
    for scenario in left_out {
        println!("left out, of a cluster that KUBECONFIG names: {}", scenario.title);
    }
    match run(named, &chosen) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// By which a person speaks to a cluster of ours.
const CLUSTER: &str = "tests/e2e/cluster/cluster";

/// `make kubernetes`: a cluster to play with.
///
/// # Errors
/// It does not come up.
pub fn play() -> anyhow::Result<()> {
    let mut world = world(ours()?)?;
    let address = world.status()?.address().context("the SipCluster has an address")?;
    world.kubernetes.keep();
    println!(
        "It stays up.\n\n  \
         {CLUSTER} kubectl get sipcluster demo --watch\n  \
         {CLUSTER} kubectl scale sipcluster demo --replicas=3\n  \
         {CLUSTER} client sipp -sn uac {address} -m 10 -r 2 -d 20000    # ten calls, from a host outside of it\n  \
         {CLUSTER} down                                                 # ends it"
    );
    Ok(())
}

/// In the cluster that is named, or in one of our own.
fn run(named: Option<Kubernetes>, scenarios: &[&Scenario]) -> anyhow::Result<()> {
    let begun = Instant::now();
    let world = world(match named {
        Some(named) => named,
        None => ours()?,
    })?;
    let made = begun.elapsed();
    println!(
        "helm install to Ready: {:.1} s with the nodes' start",
        made.as_secs_f64()
    );
    println!("{}", world.helm_test()?.trim());
    let refusals = super::refusals::all(&world.kubernetes, world.scratch())?;
    println!("{refusals} wrong manifests and changes refused by the API server");
    println!("{HEAD}");
    let mut rows = Vec::new();
    let is_of = |caller: &silent::Caller, scenario: &Scenario| scenario.title == caller.title;
    let is_chosen = |caller: &&silent::Caller| scenarios.iter().any(|scenario| is_of(caller, scenario));
    let callers: Vec<_> = silent::CALLERS.iter().filter(is_chosen).collect();
    let mut ahead = scenarios
        .iter()
        .filter(|scenario| scenario.title == silent::AHEAD || callers.iter().any(|caller| is_of(caller, scenario)));
    let ahead = ahead
        .next()
        .map(|scenario| scenario.title)
        .filter(|_| !callers.is_empty());
    let mut failed = Vec::new();
    for (port, scenario) in (7000..).step_by(10).zip(scenarios) {
        if ahead == Some(scenario.title)
            && let Err(error) = silent::begin(&world, &callers)
        {
            // Their own scenarios will miss them.
            eprintln!("callers behind a NAT: {error:#}\n{}", world.explain());
        }
        match one(&world, scenario, port) {
            Ok(row) => {
                println!("{row}");
                rows.push(row);
            }
            Err(error) => {
                println!("| {} | **failed** | | | | |", scenario.title);
                let logs = world.logs();
                eprintln!(
                    "{}: {error:#}\n{}all logs: {}",
                    scenario.title,
                    world.explain(),
                    logs.display()
                );
                failed.push(scenario.title);
                // What is left of it would be the next one's fault.
                let _ = world.ready(CONTAINERS);
            }
        }
    }
    world.leave()?;
    ensure!(failed.is_empty(), "failed: {}", failed.join(", "));
    if rows.len() == ALL.len() {
        let file = source_root().join("docs/e2e.md");
        std::fs::write(&file, page(made, refusals, &rows)).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// The page of a run of all scenarios, which all went well.
fn page(made: Duration, refusals: usize, rows: &[Row]) -> String {
    let mut page = format!(
        "# Scenarios on Kubernetes\n\n\
         Written by `make e2e` when all of them have passed in one run: two containers, two proxies, three instances of Redis and two operators, \
         on three nodes; SIPp\ncalls from outside the whole time, ten new ones a second, each with a re-INVITE after six seconds and a BYE. *Refused* are new calls (503). \
         A scenario passes if\nno call is lost, none is refused (but where a container and the Redis master are lost at once), \
         no answer is later than its limit, never more than one container was\nseen away, looking twice a second, \
         and at the end all of the SipCluster's conditions are well.\n\n\
         Machine: {}, with everything on it; programs built without the last of optimisations. From nothing to Ready, with the start of the nodes: {:.1} s. \
         {refusals} wrong\nmanifests and changes were refused by the API server.\n\n{HEAD}\n",
        machine::description(),
        made.as_secs_f64()
    );
    for row in rows {
        writeln!(page, "{row}").expect("a string takes all");
    }
    page
}

fn one(world: &World, scenario: &Scenario, port: u16) -> anyhow::Result<Row> {
    let address = world.status()?.address().context("the SipCluster has an address")?;
    let calls = Calls::start(world, address, port)?;
    let begun = Instant::now();
    let over = AtomicBool::new(false);
    let (acted, away) = std::thread::scope(|threads| {
        let watch = threads.spawn(|| most_away(world, &over));
        let acted = (scenario.act)(world);
        let acted = acted.and_then(|()| world.until("all conditions are well", Status::is_whole));
        over.store(true, Ordering::Relaxed);
        (acted, watch.join().expect("the watch does not panic"))
    });
    acted?;
    let took = begun.elapsed();
    let outcome = calls.finish()?;
    let away = Vec::from_iter(away?);
    ensure!(away.len() <= 1, "away at once: {}", away.join(", "));
    ensure!(
        outcome.lost == 0,
        "{} of {} calls were lost",
        outcome.lost,
        outcome.made
    );
    ensure!(
        outcome.refused == 0 || scenario.may_refuse,
        "{} of {} calls were refused",
        outcome.refused,
        outcome.made
    );
    ensure!(
        outcome.worst <= scenario.limit,
        "an answer took {:?}, more than {:?}",
        outcome.worst,
        scenario.limit
    );
    Ok(Row {
        title: scenario.title,
        took,
        outcome,
    })
}

/// The containers that were seen away at once, when there were most of them, until `over`; an error if nobody could tell all the while.
fn most_away(world: &World, over: &AtomicBool) -> anyhow::Result<BTreeSet<String>> {
    let mut most: Option<BTreeSet<String>> = None;
    let mut silent = BTreeSet::new();
    let mut look = || {
        // Without the API server nobody can tell, and nothing is done on purpose.
        if let Ok(now) = world.away() {
            let long: BTreeSet<_> = silent.intersection(&now.silent).cloned().collect();
            let away: BTreeSet<_> = now.seen.union(&long).cloned().collect();
            let is_more = most.as_ref().is_none_or(|most| away.len() > most.len());
            most = is_more.then_some(away).or(most.take());
            silent = now.silent;
        }
        world.keep_logs();
        over.load(Ordering::Relaxed).then_some(())
    };
    // The scenario ends it.
    let _ = wait_every(WATCH, "the scenario's end", FOREVER, &mut look);
    most.context("nobody could tell which containers were away")
}

/// A Kubernetes of our own, which has the images.
fn ours() -> anyhow::Result<Kubernetes> {
    let images = images()?;
    let kubernetes = Kubernetes::up()?;
    for part in IMAGES {
        kubernetes
            .load(&image(part), &images.join(part))
            .with_context(|| format!("the image of the {part}"))?;
    }
    kubernetes
        .load(&next_image(), &images.join("container"))
        .context("the image that containers are upgraded to")?;
    Ok(kubernetes)
}

/// This Kubernetes with the chart installed and a SipCluster that is Ready.
fn world(kubernetes: Kubernetes) -> anyhow::Result<World> {
    let scratch = std::env::temp_dir().join(format!("sipcluster-e2e-{}", std::process::id()));
    std::fs::create_dir_all(&scratch)?;
    let world = World {
        kubernetes,
        scratch,
        silent: Mutex::default(),
    };
    let ready = || -> anyhow::Result<()> {
        world.kubernetes.install(&["--wait", "--timeout=120s"])?;
        ensure!(world.helm_test().is_err(), "helm test finds that nothing answers");
        let told = world.check_log()?;
        ensure!(told.contains("there is no SipCluster yet"), "{told}");
        if world.kubernetes.outside().is_some() {
            restrict(&world.kubernetes)?;
        }
        world.kubernetes.apply(MANIFEST, world.scratch())?;
        world.ready(CONTAINERS)?;
        Ok(())
    };
    ready().map_err(|error| error.context(world.explain()))?;
    Ok(world)
}

/// Whatever scenarios make is under the pod security standard `restricted`, but for what is in the network of nodes.
fn restrict(kubernetes: &Kubernetes) -> anyhow::Result<()> {
    const RESTRICTED: &str = "pod-security.kubernetes.io/enforce=restricted";
    kubernetes.kubectl(&["label", "namespace", "default", RESTRICTED])?;
    kubernetes.kubectl(&["create", "namespace", UNRESTRICTED]).map(drop)
}

/// Another image of the container, which a cluster of our own has.
pub fn next_image() -> String {
    format!("{}-next", image("container"))
}

fn images() -> anyhow::Result<PathBuf> {
    let given = std::env::var_os("SIPCLUSTER_IMAGES");
    let images = given.map_or_else(|| source_root().join("target/images"), PathBuf::from);
    ensure!(
        images.is_dir(),
        "{} is missing; `make images` makes it",
        images.display()
    );
    Ok(images)
}

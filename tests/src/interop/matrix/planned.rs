//! What is moved on purpose: `sipcluster scale`, `restart` and `apply` under calls, and a container that is told to stop.

use std::time::Duration;

use anyhow::{Context, ensure};

use super::{Application, Cell, Fault, LIMIT, Today, faults};
use crate::interop::cluster::{Cluster, Part, Status};
use crate::interop::http;
use crate::interop::process::{signal, wait_for};

/// The cells of an application.
pub fn cells(application: Application) -> Vec<Cell> {
    let machine = Fault::Machine;
    [
        (
            "scaled from three containers to four and back",
            machine(|c| run(c, &["scale", "4"]).and_then(|()| run(c, &["scale", "3"]))),
        ),
        (
            "containers restarted one by one",
            machine(|c| run(c, &["restart", "containers"])),
        ),
        (
            "proxies restarted one by one",
            machine(|c| run(c, &["restart", "proxies"])),
        ),
        ("Redis restarted", machine(|c| run(c, &["restart", "redis"]))),
        (
            "a change applied that containers are replaced for",
            machine(applied_by_rolling),
        ),
        ("a change applied that nothing is replaced for", machine(applied_live)),
        ("container told to stop", machine(told_to_stop)),
        (
            "container told to stop while nobody takes its calls",
            machine(stopped_at_its_deadline),
        ),
    ]
    .map(|(name, fault)| Cell {
        application,
        name,
        fault,
        today: Today::Holds,
        worst: Duration::from_secs(4),
    })
    .into()
}

/// Each command waits until what it asks for is done.
fn run(cluster: &Cluster, arguments: &[&str]) -> anyhow::Result<()> {
    cluster.carry_out(arguments).map(drop)
}

/// How many of the processes that were there are still, containers and proxies.
fn kept(before: &Status, after: &Status) -> (usize, usize) {
    let count = |before: &[Part], after: &[Part]| {
        let is_kept = |part: &&Part| after.iter().any(|other| other.pid == part.pid);
        before.iter().filter(is_kept).count()
    };
    (
        count(&before.containers, &after.containers),
        count(&before.proxies, &after.proxies),
    )
}

fn applied_by_rolling(cluster: &Cluster) -> anyhow::Result<()> {
    let before = cluster.status()?;
    cluster.write_changed("changed.yaml", |spec| spec["containers"]["quiesce"] = "25s".into())?;
    run(cluster, &["apply", "-f", "changed.yaml"])?;
    let kept = kept(&before, &cluster.status()?);
    ensure!(
        kept == (0, before.proxies.len()),
        "every container is another: {kept:?}"
    );
    Ok(())
}

/// One container and one proxy more, and back.
fn applied_live(cluster: &Cluster) -> anyhow::Result<()> {
    let before = cluster.status()?;
    cluster.write_changed("more.yaml", |spec| {
        spec["replicas"] = (before.containers.len() + 1).into();
        spec["proxies"]["replicas"] = (before.proxies.len() + 1).into();
    })?;
    run(cluster, &["apply", "-f", "more.yaml"])?;
    let more = cluster.status()?;
    run(cluster, &["apply", "-f", "sipcluster.yaml"])?;
    let all = (before.containers.len(), before.proxies.len());
    let kept = [kept(&before, &more), kept(&before, &cluster.status()?)];
    ensure!(kept == [all, all], "nothing is replaced: {kept:?} of {all:?}");
    ensure!(
        (more.containers.len(), more.proxies.len()) == (all.0 + 1, all.1 + 1),
        "{more:?}"
    );
    Ok(())
}

/// SIGTERM from outside: it hands everything over and leaves; nobody takes anything from it.
fn told_to_stop(cluster: &Cluster) -> anyhow::Result<()> {
    let before = cluster.status()?;
    let leaving = &before.containers[0];
    signal(leaving.running()?, libc::SIGTERM)?;
    cluster.until("it is started again", LIMIT, |now| {
        faults::started_again(&before, now, 0)
    })?;
    let log = cluster.log(&leaving.name)?;
    ensure!(log.contains("told to end: handing everything over"), "{log}");
    ensure!(!log.contains("not everything is handed over"), "{log}");
    for part in &cluster.status()?.containers {
        let metrics = http::get(part.admin.context("an admin port")?, "/metrics")?;
        let takeovers = http::metric(&metrics, "sipcluster_container_takeover_seconds_count");
        ensure!(takeovers == Some(0.0), "{}: {takeovers:?} takeovers", part.name);
    }
    Ok(())
}

/// The others stand still until its deadline has come: it says what is left, and ends. They claim that.
fn stopped_at_its_deadline(cluster: &Cluster) -> anyhow::Result<()> {
    cluster.write_changed("short.yaml", |spec| spec["containers"]["quiesce"] = "100ms".into())?;
    run(cluster, &["apply", "-f", "short.yaml"])?;
    let before = cluster.status()?;
    let leaving = &before.containers[0];
    let others = before.containers[1..].iter().map(Part::running);
    let others = others.collect::<anyhow::Result<Vec<_>>>()?;
    let all = |number| others.iter().try_for_each(|pid| signal(*pid, number));
    all(libc::SIGSTOP)?;
    signal(leaving.running()?, libc::SIGTERM)?;
    let said = wait_for("it says what is left", LIMIT, || {
        let log = cluster.log(&leaving.name).ok()?;
        let line = log
            .lines()
            .find(|line| line.contains("not everything is handed over"))?;
        Some(line.to_owned())
    });
    all(libc::SIGCONT)?;
    let said = said?;
    ensure!(said.contains("dialogs=") && !said.contains("partitions=0 "), "{said}");
    let again = |now: &Status| faults::started_again(&before, now, 0);
    cluster.until("it is started again", LIMIT, again).map(drop)
}

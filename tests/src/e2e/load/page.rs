//! What was measured, as a page of documentation.

use std::collections::BTreeSet;
use std::fmt::Write;
use std::time::Duration;

use super::audit::{Requests, Who};
use super::{ENOUGH, TOGETHER};
use crate::bench::machine;

/// Fewer requests than this, a second, share a line.
const FEW: f64 = 0.1;

/// Some time, and what was done in it.
pub struct Measured {
    /// What happened.
    pub title: &'static str,
    /// How long it was.
    pub took: Duration,
    /// SipClusters of which every container was replaced.
    pub rolled_out: usize,
    /// By the API server's log.
    pub requests: Requests,
    /// By the API server's own count.
    pub counted: f64,
    /// Looks of the operator at a SipCluster.
    pub looks: f64,
    /// Pages of containers that it asked for.
    pub asked: f64,
    /// What each process used.
    pub used: Vec<Used>,
}

/// What a process used.
pub struct Used {
    /// Which.
    pub name: &'static str,
    /// In that time.
    pub cpu: Duration,
    /// At the end of it.
    pub resident: u64,
}

/// How much was measured.
#[derive(Clone, Copy)]
pub struct Size {
    /// SipClusters.
    pub clusters: usize,
    /// Containers of each.
    pub containers: usize,
}

/// The page.
#[must_use]
pub fn page(Size { clusters, containers }: Size, version: &str, made: Duration, all: &[Measured]) -> String {
    let mut text = format!(
        "# The load on the API server

Written by `make apiload CLUSTERS={clusters} CONTAINERS={containers}`: what {clusters} SipClusters of {containers} containers and two proxies each, {TOGETHER} to
a namespace, ask of an API server.

Real are etcd, the API server and the controller manager ({version}, with their defaults; etcd does not wait for a disk), and the operator, which has the
chart's rights and its Lease, and runs beside them. Nothing runs in the pods: a stand-in puts them on nodes, writes their status as a kubelet does (0.5 s
to a pod's process, another second to its readiness, one from its signal to its end), confirms their end, and answers the operator for the containers.
What a scheduler and kubelets ask besides is left out. Requests are those of the API server's audit log; a watch counts when it begins.

They were made {TOGETHER} at a time, a namespace's, each time once those before were Ready: {made:.0} s from the first to the last that was Ready. At rest are all
{clusters}. For the rollout a field was changed for which every container has to be replaced: in the {TOGETHER} of a namespace at once, while all others
were at rest, then in those of the next once these were Ready. As none are begun after {enough} s, it is the rollout of {rolled_out} of the {clusters}.

Machine: {machine}; all of it at once.
",
        machine = machine::description(),
        made = made.as_secs_f64(),
        enough = ENOUGH.as_secs(),
        rolled_out = all.iter().map(|measured| measured.rolled_out).sum::<usize>(),
    );
    let columns: Vec<_> = all
        .iter()
        .map(|measured| (measured.title, measured.took.as_secs_f64()))
        .collect();
    let heads = columns
        .iter()
        .map(|(title, seconds)| format!("{title}, {seconds:.0} s"));
    table(&mut text, "requests of the operator, a second", heads.clone());
    let resources: BTreeSet<&String> = all
        .iter()
        .flat_map(|measured| measured.requests.counts.keys())
        .filter(|(who, _)| *who == Who::Operator)
        .map(|(_, what)| what)
        .collect();
    let rate = |measured: &Measured, count: u64| count as f64 / measured.took.as_secs_f64();
    let of_one = |measured: &Measured, what: &String| {
        let count = measured.requests.counts.get(&(Who::Operator, what.clone()));
        rate(measured, count.copied().unwrap_or(0))
    };
    let (many, few): (Vec<_>, Vec<_>) = resources
        .into_iter()
        .partition(|what| all.iter().any(|measured| of_one(measured, what) >= FEW));
    for what in many {
        row(
            &mut text,
            what,
            all.iter().map(|measured| shown(of_one(measured, what))),
        );
    }
    let rest = all
        .iter()
        .map(|measured| shown(few.iter().map(|what| of_one(measured, what)).sum()));
    row(&mut text, &format!("{} others", few.len()), rest);
    let all_of = |who| {
        all.iter()
            .map(move |measured| shown(rate(measured, measured.requests.of_all(who))))
    };
    row(&mut text, "**all**", all_of(Who::Operator));
    let most = all.iter().map(|measured| measured.requests.most.to_string());
    row(&mut text, "in the second that had most", most);
    let refused = all.iter().map(|measured| {
        let kinds = measured.requests.refused.iter();
        let kinds: Vec<_> = kinds.map(|(what, count)| format!("{count} {what}")).collect();
        if kinds.is_empty() {
            "0".into()
        } else {
            kinds.join("<br>")
        }
    });
    row(&mut text, "refused, in all", refused);
    let replaced = all.iter().map(|measured| match measured.rolled_out * containers {
        0 => String::new(),
        replaced => shown(measured.requests.of_all(Who::Operator) as f64 / replaced as f64),
    });
    row(&mut text, "for each container that was replaced, in all", replaced);

    table(&mut text, "requests of all, a second", heads.clone());
    for (who, name) in [
        (Who::Operator, "the operator"),
        (Who::Controllers, "controllers of Kubernetes"),
        (Who::Kubelets, "the stand-in for scheduler and kubelets"),
        (Who::Others, "the API server itself, and this measurement"),
    ] {
        row(&mut text, name, all_of(who));
    }
    let total = all
        .iter()
        .map(|measured| shown(rate(measured, measured.requests.total())));
    row(&mut text, "**all**", total);
    let counted = all
        .iter()
        .map(|measured| shown(measured.counted / measured.took.as_secs_f64()));
    row(&mut text, "by the API server's own count", counted);

    table(&mut text, "what it takes", heads);
    for (at, used) in all.first().map_or(&[][..], |first| &first.used).iter().enumerate() {
        let cells = all.iter().map(|measured| {
            let used = &measured.used[at];
            let share = 100.0 * used.cpu.as_secs_f64() / measured.took.as_secs_f64();
            format!(
                "{:.1} s CPU ({share:.0} % of one), {} MiB",
                used.cpu.as_secs_f64(),
                used.resident >> 20
            )
        });
        row(&mut text, used.name, cells);
    }
    let per_second = |count: fn(&Measured) -> f64| {
        all.iter()
            .map(move |measured| shown(count(measured) / measured.took.as_secs_f64()))
    };
    row(
        &mut text,
        "looks at a SipCluster, a second",
        per_second(|measured| measured.looks),
    );
    row(
        &mut text,
        "pages of containers, a second",
        per_second(|measured| measured.asked),
    );
    text
}

fn table(text: &mut String, what: &str, heads: impl Iterator<Item = String>) {
    let heads: Vec<_> = heads.collect();
    let lines = "| --- ".repeat(heads.len() + 1);
    let _ = writeln!(text, "\n| {what} | {} |\n{lines}|", heads.join(" | "));
}

fn row(text: &mut String, what: &str, cells: impl Iterator<Item = String>) {
    let cells: Vec<_> = cells.collect();
    let _ = writeln!(text, "| {what} | {} |", cells.join(" | "));
}

fn shown(rate: f64) -> String {
    match rate {
        0.0 => "0".into(),
        rate if rate < 10.0 => format!("{rate:.2}"),
        rate => format!("{rate:.0}"),
    }
}

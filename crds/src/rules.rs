//! Rules that a structural schema cannot say. Those that CEL can are also stated at the types, for the API server.

use crate::{Application, Period, Problem, Redis, SipCluster};

/// RFC 4028 s4: a session interval is never below this.
const SHORTEST_SESSION: std::time::Duration = std::time::Duration::from_secs(90);

/// The header field's number has 32 bits (RFC 4028 s4); anything near that is a mistake.
const LONGEST_SESSION: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

/// What the resource breaks.
pub(crate) fn broken(cluster: &SipCluster) -> Vec<Problem> {
    let spec = &cluster.spec;
    let mut problems = Vec::new();
    problems.extend(application(&spec.application));
    problems.extend(redis(&spec.redis));
    problems.extend(transports(cluster));
    problems.extend(advertised(cluster));
    problems.extend(outside("spec.containers.quiesce", spec.containers.quiesce, "0s", "24h"));
    problems.extend(outside(
        "spec.replication.lease",
        spec.replication.lease,
        "100ms",
        "10m",
    ));
    if spec.replicas > spec.partitions {
        problems.push(Problem {
            field: "spec.partitions".into(),
            value: spec.partitions.to_string(),
            wrong: format!(
                "fewer partitions than the {} containers: some would have nothing to do",
                spec.replicas
            ),
            remedy: "leave it out (1024), or write several hundred per container".into(),
        });
    }
    problems
}

fn application(application: &Application) -> Option<Problem> {
    let Application { answer, custom } = application;
    let wrong = |value: &str, wrong: &str, remedy: &str| Problem {
        field: "spec.application".into(),
        value: value.into(),
        wrong: wrong.into(),
        remedy: remedy.into(),
    };
    let answer = match (answer, custom) {
        (Some(answer), None) => answer,
        (None, Some(_)) => return None,
        (Some(_), Some(_)) => {
            return Some(wrong("answer and custom", "they exclude one another", "leave one out"));
        }
        (None, None) => return Some(wrong("{}", "no application is named", "write `answer: {}`")),
    };
    let (wrong, remedy) = match answer.session_expires.duration() {
        interval if interval < SHORTEST_SESSION => (
            "RFC 4028 allows no session timer below 90s",
            "write 90s or more; 30m is usual",
        ),
        interval if interval > LONGEST_SESSION => (
            "a lost peer would be noticed after more than a day",
            "write 24h or less; 30m is usual",
        ),
        _ => return None,
    };
    Some(Problem {
        field: "spec.application.answer.sessionExpires".into(),
        value: answer.session_expires.to_string(),
        wrong: wrong.into(),
        remedy: remedy.into(),
    })
}

/// A period outside of what the processes accept.
fn outside(field: &str, period: Period, least: &str, most: &str) -> Option<Problem> {
    let bound = |text: &str| text.parse::<Period>().expect("a period of ours");
    let wrong = match period {
        period if period < bound(least) => "this is too short",
        period if period > bound(most) => "this is too long",
        _ => return None,
    };
    Some(Problem {
        field: field.into(),
        value: period.to_string(),
        wrong: wrong.into(),
        remedy: format!("write a period from {least} to {most}"),
    })
}

fn redis(redis: &Redis) -> Option<Problem> {
    let Redis { managed, external } = redis;
    (managed.is_some() && external.is_some()).then(|| Problem {
        field: "spec.redis".into(),
        value: "managed and external".into(),
        wrong: "they exclude one another".into(),
        remedy: "leave one out".into(),
    })
}

fn transports(cluster: &SipCluster) -> Option<Problem> {
    let transports = &cluster.spec.dispatcher.transports;
    let twice = transports
        .iter()
        .enumerate()
        .any(|(at, transport)| transports[..at].contains(transport));
    twice.then(|| Problem {
        field: "spec.dispatcher.transports".into(),
        value: format!("{transports:?}").to_lowercase(),
        wrong: "a transport stands there twice".into(),
        remedy: "write [udp, tcp]".into(),
    })
}

/// A wildcard is a place to listen, but nobody can answer to it.
fn advertised(cluster: &SipCluster) -> Option<Problem> {
    let advertised = cluster.spec.advertised();
    advertised.ip().is_unspecified().then(|| Problem {
        field: match cluster.spec.dispatcher.advertised {
            Some(_) => "spec.dispatcher.advertised".into(),
            None => "spec.dispatcher.address".into(),
        },
        value: advertised.ip().to_string(),
        wrong: "peers cannot send to it, and it would stand in Via, Record-Route and Contact".into(),
        remedy: "set spec.dispatcher.advertised to the address by which peers reach this cluster".into(),
    })
}

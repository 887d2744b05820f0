//! What people see: conditions, counts, events.

use std::collections::{BTreeSet, HashMap};
use std::net::SocketAddr;
use std::sync::{Mutex, MutexGuard};
use std::time::{Duration, Instant};

use admin::Takeover;
use crds::status::{ContainerStatus, Failover, KeysInUse};
use crds::{HostNetwork, Problem, SipCluster, SipClusterStatus};
use k8s_openapi::api::core::v1::ObjectReference;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, Patch, PatchParams};
use kube::runtime::events::{Event, EventType, Recorder};
use kube::{Client, Resource as _, ResourceExt as _};
use serde_json::json;
use ucf::plan::Life;

use super::keys::Keys;
use super::names::{Component, MANAGER, Names};
use super::observe::Observation;
use super::plan::Decision;
use super::pods::trouble;
use super::validate::Valid;

/// Counts alone are written no oftener than this; states at once.
const COUNTS: Duration = Duration::from_secs(10);

/// Characters of an event's action, at most (the API server's rule).
const ACTION: usize = 128;

/// When each status was written last, and what events have said, by the SipCluster's uid.
#[derive(Default)]
pub struct Written(Mutex<HashMap<String, Last>>);

#[derive(Clone, Default)]
struct Last {
    at: Option<Instant>,
    said: Vec<String>,
}

/// Writes status and events.
pub struct Writer<'a> {
    /// The API server.
    pub client: &'a Client,
    /// Where events go.
    pub recorder: &'a Recorder,
    /// What was written before.
    pub written: &'a Written,
}

impl Writer<'_> {
    /// Writes the status, if it says anything new.
    ///
    /// # Errors
    /// The API server refused, or did not answer.
    pub async fn write(&self, cluster: &SipCluster, status: SipClusterStatus) -> Result<(), kube::Error> {
        let before = cluster.status.clone().unwrap_or_default();
        let last = self.last(cluster, |last| last.at.map(|at| at.elapsed()));
        if !is_worth_writing(&before, &status, last) {
            return Ok(());
        }
        let namespace = cluster.namespace().unwrap_or_default();
        let api: Api<SipCluster> = Api::namespaced(self.client.clone(), &namespace);
        let patch = json!({
            "apiVersion": SipCluster::api_version(&()),
            "kind": SipCluster::kind(&()),
            "status": status,
        });
        api.patch_status(
            &cluster.name_any(),
            &PatchParams::apply(MANAGER).force(),
            &Patch::Apply(&patch),
        )
        .await?;
        self.last(cluster, |last| last.at = Some(Instant::now()));
        Ok(())
    }

    /// Tells what is new: steps that are taken, and what is waited for.
    pub async fn say(&self, cluster: &SipCluster, decision: &Decision) {
        let waits = decision
            .gate
            .iter()
            .map(|gate| (EventType::Normal, "Waiting", gate.clone()));
        let steps = decision
            .steps
            .iter()
            .map(|step| (EventType::Normal, "Step", step.clone()));
        self.publish(cluster, steps.chain(waits).collect()).await;
    }

    /// Tells what is wrong.
    pub async fn complain(&self, cluster: &SipCluster, reason: &'static str, wrong: &str) {
        self.publish(cluster, vec![(EventType::Warning, reason, wrong.to_owned())])
            .await;
    }

    async fn publish(&self, cluster: &SipCluster, events: Vec<(EventType, &'static str, String)>) {
        let said: Vec<_> = events.iter().map(|(_, _, note)| note.clone()).collect();
        let before = self.last(cluster, |last| std::mem::replace(&mut last.said, said));
        let reference: ObjectReference = cluster.object_ref(&());
        for (type_, reason, note) in events {
            if before.contains(&note) {
                continue;
            }
            let event = Event {
                type_,
                reason: reason.into(),
                note: Some(note.chars().take(1000).collect()),
                // Events of one reason and action are one for minutes, with the text of the first.
                action: note.chars().take(ACTION).collect(),
                secondary: None,
            };
            // An event that is lost is no reason to stop.
            if let Err(error) = self.recorder.publish(&event, &reference).await {
                tracing::debug!(%error, "an event was not taken");
            }
        }
    }

    fn last<T>(&self, cluster: &SipCluster, with: impl FnOnce(&mut Last) -> T) -> T {
        let mut all = self.written.lock();
        with(all.entry(cluster.uid().unwrap_or_default()).or_default())
    }
}

impl Written {
    /// Keeps what concerns these SipClusters, by uid, and forgets the rest.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, Last>> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

/// The status of a cluster whose manifest is good.
#[must_use]
pub fn status(
    now: Timestamp,
    cluster: &SipCluster,
    valid: &Valid,
    observation: &Observation,
    decision: &Decision,
    failure: Option<&str>,
) -> SipClusterStatus {
    let before = cluster.status.clone().unwrap_or_default();
    let answers = observation.by_name();
    let lives: Vec<Life> = observation
        .containers
        .iter()
        .map(super::observe::Container::life)
        .collect();
    let active = lives.iter().filter(|life| matches!(life, Life::Active { .. })).count() as u32;
    let containers = observation.containers.iter().map(|container| {
        let name = container.pod.name_any();
        let answer = answers.get(name.as_str());
        ContainerStatus {
            state: container.state(),
            partitions: answer.map_or(0, |answer| answer.partitions as u32),
            dialogs: answer.map_or(0, |answer| answer.dialogs),
            load: answer.map_or(0, |answer| answer.load as u32),
            name,
        }
    });
    let addresses = addresses(valid, observation);
    SipClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: conditions(now, cluster, &facts(valid, observation, decision, active, failure)),
        replicas: observation.containers.len() as u32,
        ready_replicas: active,
        dialogs: answers.values().map(|answer| answer.dialogs).sum(),
        selector: Some(selector(&valid.names)),
        address: match valid.host_network() {
            Some(HostNetwork { host: None, .. }) => addresses.first().cloned(),
            _ => valid.advertised.clone(),
        },
        addresses,
        containers: containers.collect(),
        gate: decision.gate.clone(),
        keys: Some(keys_in_use(now, &decision.keys_in_use, before.keys)),
        last_failover: last_failover(observation, before.last_failover),
    }
}

/// The address of each proxy that serves, if each has one of its own.
fn addresses(valid: &Valid, observation: &Observation) -> Vec<String> {
    let nodes = observation
        .proxy_nodes
        .iter()
        .filter(|_| valid.host_network().is_some());
    nodes
        .map(|node| SocketAddr::new(*node, valid.spec.dispatcher.port).to_string())
        .collect()
}

/// The time changes with the key that issues only.
fn keys_in_use(now: Timestamp, keys: &Keys, before: Option<KeysInUse>) -> KeysInUse {
    let before = before.filter(|before| before.issuing == keys.issues);
    KeysInUse {
        issuing: keys.issues,
        verifying: keys.verifies.iter().copied().collect(),
        since: before.map_or(Time(now), |before| before.since),
    }
}

/// What those who took over tell, as long as they live; what was written before, once one of them has ended.
fn last_failover(observation: &Observation, before: Option<Failover>) -> Option<Failover> {
    let parts = observation.containers.iter().filter_map(|container| container.takeover);
    let takeover = parts.reduce(Takeover::and);
    let is_new = |takeover: &Takeover| {
        before.as_ref().is_none_or(|before| {
            let then = u64::try_from(before.time.0.as_millisecond()).unwrap_or(0);
            // Of the same takeover another survivor may tell its part later, and that it began sooner.
            takeover.begun_ms > then || takeover.ended_ms >= then && takeover.partitions > before.partitions.into()
        })
    };
    takeover.filter(is_new).and_then(failover).or(before)
}

fn failover(takeover: Takeover) -> Option<Failover> {
    Some(Failover {
        time: Time(Timestamp::from_millisecond(i64::try_from(takeover.begun_ms).ok()?).ok()?),
        partitions: u32::try_from(takeover.partitions).unwrap_or(u32::MAX),
        sessions: takeover.sessions,
        duration_ms: takeover.ended_ms.saturating_sub(takeover.begun_ms),
    })
}

/// The status of one whose manifest is wrong: what runs goes on as it was.
#[must_use]
pub fn refused(now: Timestamp, cluster: &SipCluster, problems: &[Problem]) -> SipClusterStatus {
    let wrong: Vec<_> = problems.iter().map(ToString::to_string).collect();
    let ready = Fact {
        kind: "Ready",
        holds: false,
        reason: "Invalid",
        message: wrong.join("; "),
    };
    SipClusterStatus {
        observed_generation: cluster.metadata.generation,
        conditions: conditions(now, cluster, &[ready]),
        ..cluster.status.clone().unwrap_or_default()
    }
}

/// What a condition is to say.
struct Fact {
    kind: &'static str,
    holds: bool,
    reason: &'static str,
    message: String,
}

fn facts(
    valid: &Valid,
    observation: &Observation,
    decision: &Decision,
    active: u32,
    failure: Option<&str>,
) -> Vec<Fact> {
    let wanted = valid.spec.replicas;
    let moving = decision.gate.clone().or_else(|| decision.steps.first().cloned());
    // Where the cluster's own Redis does not serve yet, that is what is waited for.
    let redis_serves = !valid.has_own_redis() || matches!(observation.redis.life, Life::Active { .. });
    let troubled = observation.containers.iter().find_map(|container| {
        let alone = || {
            container
                .store_trouble
                .as_ref()
                .filter(|_| redis_serves && container.life() == Life::Joining)
        };
        let why = trouble(&container.pod).or_else(|| Some(format!("it does not reach Redis: {}", alone()?)))?;
        Some(format!("{}: {why}", container.pod.name_any()))
    });
    let troubled = troubled
        .or_else(|| observation.unmade.clone())
        .or_else(|| observation.proxy_trouble.clone())
        .or_else(|| observation.redis.trouble.clone());
    let troubled = failure.map(str::to_owned).or(troubled);
    let memory = observation
        .containers
        .iter()
        .filter_map(|container| container.answer)
        .any(|answer| answer.from_memory);
    let replicated = active > 0
        && observation
            .containers
            .iter()
            .all(|container| container.answer.is_none_or(|answer| answer.replicated));
    let is_settled = observation.is_current && observation.proxies_settled;
    let is_whole = active == wanted && is_settled && moving.is_none() && failure.is_none();
    let serves = active > 0 && observation.proxies_ready > 0;
    let fact = |kind, holds, reason, message: String| Fact {
        kind,
        holds,
        reason,
        message,
    };
    let unless = |holds: bool, yes: &'static str, no: &'static str| if holds { yes } else { no };
    vec![
        fact(
            "Ready",
            is_whole,
            unless(is_whole, "AsWanted", unless(failure.is_some(), "Failed", "Moving")),
            match (&troubled, &moving) {
                _ if is_whole => format!("{active} containers are active"),
                (Some(trouble), _) => trouble.clone(),
                (None, Some(moving)) => moving.clone(),
                (None, None) if !is_settled => "what was applied is being taken up".into(),
                (None, None) => format!("{active} of {wanted} containers are active"),
            },
        ),
        fact(
            "Available",
            serves,
            unless(serves, "Serving", "NotServing"),
            format!("{active} containers and {} proxies serve", observation.proxies_ready),
        ),
        fact(
            "Progressing",
            moving.is_some() && !valid.spec.paused,
            unless(
                valid.spec.paused,
                "Paused",
                unless(moving.is_some(), "Moving", "AsWanted"),
            ),
            moving.unwrap_or_else(|| "nothing is waited for".into()),
        ),
        fact(
            "Degraded",
            troubled.is_some() || memory,
            unless(troubled.is_some(), "Trouble", unless(memory, "FromMemory", "None")),
            troubled.unwrap_or_else(|| {
                unless(
                    memory,
                    "Redis is away; calls go on from memory",
                    "no part is in trouble",
                )
                .into()
            }),
        ),
        fact(
            "ReplicationHealthy",
            replicated,
            unless(replicated, "TwoCopies", unless(memory, "FromMemory", "OneCopy")),
            unless(
                replicated,
                "every call is held by its container and by Redis",
                "some calls are held by their container alone",
            )
            .into(),
        ),
        egress_address(valid, observation),
    ]
}

/// Where what the cluster sends leaves from.
fn egress_address(valid: &Valid, observation: &Observation) -> Fact {
    let (holds, reason, message) = match valid.host_network() {
        None => (
            valid.advertised.is_some(),
            "Service",
            "answers leave by the flow of the request; calls that the cluster itself makes leave from a node's address"
                .into(),
        ),
        Some(_) => {
            let addresses = addresses(valid, observation);
            let message = match addresses[..] {
                [] => "no proxy serves yet, so no node has an address of the cluster".into(),
                _ => format!(
                    "all that the cluster sends leaves from the addresses of its proxies' nodes: {}",
                    addresses.join(", ")
                ),
            };
            (!addresses.is_empty(), "HostNetwork", message)
        }
    };
    Fact {
        kind: "EgressAddress",
        holds,
        reason: if holds { reason } else { "NoAddress" },
        message,
    }
}

/// Conditions as the API conventions have them: a time changes with the status only.
fn conditions(now: Timestamp, cluster: &SipCluster, facts: &[Fact]) -> Vec<Condition> {
    let before = cluster
        .status
        .as_ref()
        .map(|status| status.conditions.clone())
        .unwrap_or_default();
    let mut conditions: Vec<_> = before
        .iter()
        .filter(|old| facts.iter().all(|fact| fact.kind != old.type_))
        .cloned()
        .collect();
    for fact in facts {
        let status = if fact.holds { "True" } else { "False" };
        let old = before.iter().find(|old| old.type_ == fact.kind && old.status == status);
        conditions.push(Condition {
            type_: fact.kind.into(),
            status: status.into(),
            observed_generation: cluster.metadata.generation,
            last_transition_time: old.map_or(Time(now), |old| old.last_transition_time.clone()),
            reason: fact.reason.into(),
            message: fact.message.clone(),
        });
    }
    conditions.sort_by(|one, other| one.type_.cmp(&other.type_));
    conditions
}

/// The containers' pods, for the scale subresource.
fn selector(names: &Names) -> String {
    let labels = names.part(Component::Container);
    labels
        .iter()
        .map(|(key, value)| format!("{key}={value}"))
        .collect::<Vec<_>>()
        .join(",")
}

/// Changed states are written at once; changed counts alone if the last write is long enough ago.
fn is_worth_writing(before: &SipClusterStatus, status: &SipClusterStatus, last: Option<Duration>) -> bool {
    let is_due = last.is_none_or(|ago| ago >= COUNTS);
    before != status && (is_due || without_counts(before) != without_counts(status))
}

fn without_counts(status: &SipClusterStatus) -> SipClusterStatus {
    let mut status = status.clone();
    status.dialogs = 0;
    for container in &mut status.containers {
        container.dialogs = 0;
        container.load = 0;
        // While partitions move, one count in ten seconds is enough as well.
        container.partitions = 0;
    }
    for condition in &mut status.conditions {
        condition.last_transition_time = Time(Timestamp::UNIX_EPOCH);
    }
    status
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// A status with this in the place of a field.
    fn with(field: &str, value: Value) -> SipClusterStatus {
        let mut status = json!({
            "observedGeneration": 1, "replicas": 2, "readyReplicas": 1, "dialogs": 7,
            "address": "203.0.113.7:5060", "gate": "demo-1 does not answer",
            "containers": [
                { "name": "demo-0", "state": "Active", "partitions": 1024, "dialogs": 7, "load": 2 },
                { "name": "demo-1", "state": "Starting", "partitions": 0, "dialogs": 0, "load": 0 },
            ],
            "conditions": [{
                "type": "Ready", "status": "False", "reason": "Moving", "message": "demo-1 does not answer",
                "observedGeneration": 1, "lastTransitionTime": "2026-11-01T00:00:00Z",
            }],
        });
        *status.pointer_mut(field).expect("it is there") = value;
        serde_json::from_value(status).expect("a status")
    }

    /// Whether a change of this field is written so many seconds after the last one.
    fn is_written(field: &str, value: Value, seconds: u64) -> bool {
        let before = with("/dialogs", json!(7));
        let after = with(field, value);
        is_worth_writing(&before, &after, Some(Duration::from_secs(seconds)))
    }

    #[test]
    fn counts_alone_are_written_every_ten_seconds() {
        for count in [
            "/dialogs",
            "/containers/0/dialogs",
            "/containers/0/load",
            "/containers/0/partitions",
        ] {
            assert!(!is_written(count, json!(9), 9), "{count}");
            assert!(is_written(count, json!(9), 10), "{count}");
        }
        assert!(!is_written("/dialogs", json!(7), 60), "nothing has changed");
        let (before, after) = (with("/dialogs", json!(7)), with("/dialogs", json!(9)));
        assert!(
            is_worth_writing(&before, &after, None),
            "nothing was ever written of it"
        );
    }

    #[test]
    fn states_are_written_at_once() {
        for (state, value) in [
            ("/conditions/0/status", json!("True")),
            ("/conditions/0/reason", json!("Failed")),
            ("/conditions/0/message", json!("demo-1: ImagePullBackOff")),
            ("/conditions/0/observedGeneration", json!(2)),
            ("/observedGeneration", json!(2)),
            ("/gate", json!("demo-1 is being handed its share of the partitions")),
            ("/gate", Value::Null),
            ("/readyReplicas", json!(2)),
            ("/replicas", json!(3)),
            ("/containers/1/state", json!("Joining")),
            ("/address", json!("203.0.113.8:5060")),
        ] {
            assert!(is_written(state, value, 0), "{state}");
        }
    }
}

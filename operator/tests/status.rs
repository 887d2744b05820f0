//! Conditions as the API conventions have them: of which generation they are, and since when.

mod support;

use crds::SipCluster;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Condition;
use k8s_openapi::jiff::Timestamp;
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::observe::Observation;
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::status::{refused, status};
use operator::sip_cluster::validate::validate;
use serde_json::{Value, json};
use support::{Model, cluster, images, valid};

/// All that a status has, in its order.
const KINDS: [&str; 6] = [
    "Available",
    "Degraded",
    "EgressAddress",
    "Progressing",
    "Ready",
    "ReplicationHealthy",
];

fn two() -> Value {
    json!({ "replicas": 2 })
}

fn at(second: i64) -> Timestamp {
    Timestamp::from_second(second).expect("a time")
}

/// Takes the status at this second over into the cluster.
fn look(cluster: &mut SipCluster, second: i64, observation: &Observation, failure: Option<&str>) {
    let decision = Decision::default();
    let status = status(at(second), cluster, &valid(&two()), observation, &decision, failure);
    cluster.status = Some(status);
}

/// The same of a manifest that is wrong in this.
fn refuse(cluster: &mut SipCluster, second: i64, spec: &Value) {
    let problems = validate(&support::cluster(spec), &Found::default(), &images()).expect_err("it is wrong");
    cluster.status = Some(refused(at(second), cluster, &problems));
}

fn condition<'a>(cluster: &'a SipCluster, kind: &str) -> &'a Condition {
    let mut conditions = cluster.status.iter().flat_map(|status| &status.conditions);
    conditions
        .find(|condition| condition.type_ == kind)
        .expect("it is there")
}

/// Status, reason, message, and the second since which it holds.
fn told<'a>(cluster: &'a SipCluster, kind: &str) -> (&'a str, &'a str, &'a str, i64) {
    let condition = condition(cluster, kind);
    let since = condition.last_transition_time.0.as_second();
    (&condition.status, &condition.reason, &condition.message, since)
}

#[test]
fn every_condition_is_of_the_generation_that_was_observed() {
    let mut cluster = cluster(&two());
    for generation in [1, 2, 7] {
        cluster.metadata.generation = Some(generation);
        look(&mut cluster, 1, &Observation::default(), None);
        let status = cluster.status.as_ref().expect("it was taken over");
        assert_eq!(status.observed_generation, Some(generation));
        let conditions = status.conditions.iter();
        let of: Vec<_> = conditions
            .map(|condition| (condition.type_.as_str(), condition.observed_generation))
            .collect();
        assert_eq!(of, KINDS.map(|kind| (kind, Some(generation))));
    }
}

#[test]
fn a_condition_keeps_its_time_until_its_status_changes() {
    let (mut cluster, observation) = (cluster(&two()), Observation::default());
    look(&mut cluster, 1, &observation, None);
    assert_eq!(
        told(&cluster, "Degraded"),
        ("False", "None", "no part is in trouble", 1)
    );
    let waits = ("False", "Moving", "what was applied is being taken up", 1);
    assert_eq!(told(&cluster, "Ready"), waits);

    look(&mut cluster, 2, &observation, Some("one"));
    assert_eq!(told(&cluster, "Degraded"), ("True", "Trouble", "one", 2));
    assert_eq!(told(&cluster, "Ready"), ("False", "Failed", "one", 1));

    cluster.metadata.generation = Some(2);
    look(&mut cluster, 3, &observation, Some("another"));
    assert_eq!(told(&cluster, "Degraded"), ("True", "Trouble", "another", 2));
    assert_eq!(told(&cluster, "Ready"), ("False", "Failed", "another", 1));

    look(&mut cluster, 4, &observation, None);
    assert_eq!(
        told(&cluster, "Degraded"),
        ("False", "None", "no part is in trouble", 4)
    );
    assert_eq!(told(&cluster, "Ready"), waits);
}

/// What runs goes on by the manifest before: nobody has looked at it by the new one.
#[test]
fn of_a_manifest_that_is_refused_ready_alone_is_new() {
    let mut model = Model::new(valid(&two()));
    for _ in 0..20 {
        let decision = model.decide();
        model.perform(&decision);
        (0..2).for_each(|ordinal| model.advance(ordinal));
        model.wait(5_000);
    }
    let observation = model.observation();
    let mut cluster = cluster(&two());
    look(&mut cluster, 1, &observation, None);
    let is_whole = ("True", "AsWanted", "2 containers are active", 1);
    assert_eq!(told(&cluster, "Ready"), is_whole);
    let before = cluster.status.clone().expect("it was taken over");

    cluster.metadata.generation = Some(2);
    let wrong = |url: &str| json!({ "redis": { "external": { "url": url, "caFile": "ca.crt" } } });
    let mut messages = Vec::new();
    for (second, url) in [(2, "rediss://10.0.0.7"), (3, "10.0.0.7")] {
        refuse(&mut cluster, second, &wrong(url));
        let (status, reason, message, since) = told(&cluster, "Ready");
        assert_eq!((status, reason, since), ("False", "Invalid", 2), "{message}");
        messages.push(message.to_owned());
        let mut after = cluster.status.clone().expect("it was taken over");
        assert_eq!(after.observed_generation, Some(2));
        let ready = condition(&cluster, "Ready");
        assert_eq!(ready.observed_generation, Some(2));
        // All else is as it was, and says of which generation.
        after.observed_generation = before.observed_generation;
        for (after, before) in after.conditions.iter_mut().zip(&before.conditions) {
            if before.type_ == "Ready" {
                after.clone_from(before);
            }
        }
        assert_eq!(after, before);
    }
    assert_ne!(messages[0], messages[1]);

    cluster.metadata.generation = Some(3);
    look(&mut cluster, 4, &observation, None);
    assert_eq!(told(&cluster, "Ready").3, 4);
    assert_eq!(told(&cluster, "Available").3, 1);
    for kind in KINDS {
        assert_eq!(condition(&cluster, kind).observed_generation, Some(3), "{kind}");
    }
}

//! The cluster's own Redis of several instances: what is built of it, and that a rollout never takes what others need.

mod support;

use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use k8s_openapi::jiff::SignedDuration;
use operator::sip_cluster::build::{Children, build};
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::redis::Redis;
use operator::sip_cluster::validate::{Valid, validate};
use serde_json::{Value, json};
use support::{Model, cluster, images, redis_service, service, valid};
use ucf::plan::Life;

fn three() -> Value {
    json!({ "replicas": 2, "redis": { "managed": { "instances": 3 } } })
}

fn children(valid: &Valid) -> Children {
    let decision = Decision {
        replicas: Some(2),
        ..Decision::default()
    };
    build(valid, &decision)
}

/// A model whose containers work.
fn working(spec: &Value) -> Model {
    let mut model = Model::new(valid(spec));
    for _ in 0..20 {
        let decision = model.decide();
        model.perform(&decision);
        (0..3).for_each(|ordinal| model.advance(ordinal));
        model.wait(5_000);
    }
    assert!(model.is_as_wanted(), "{:?}", model.members);
    model
}

/// The variable of a container in a StatefulSet's pods.
fn variable(set: &StatefulSet, name: &str) -> Option<String> {
    let set = serde_json::to_value(set).expect("JSON");
    let variables = set.pointer("/spec/template/spec/containers/0/env")?.as_array()?;
    let variable = variables.iter().find(|variable| variable["name"] == name)?;
    variable["value"].as_str().map(str::to_owned)
}

#[test]
fn containers_and_instances_are_told_addresses_and_no_names() {
    let children = children(&valid(&three()));
    let redis = children.redis.expect("a Redis of its own");
    let set = redis.set.expect("all addresses are known");
    assert_eq!(
        variable(&set, "REDIS_INSTANCES").as_deref(),
        Some("10.96.0.1 10.96.0.2 10.96.0.3")
    );
    let containers = children.workload.map(|workload| workload.containers);
    let containers = containers.expect("containers");
    assert_eq!(
        variable(&containers, "SIPCLUSTER_REDIS").as_deref(),
        Some("redis-sentinel://:$(REDIS_PASSWORD)@10.96.0.1:26379,10.96.0.2:26379,10.96.0.3:26379#demo")
    );
    assert_eq!(variable(&containers, "SIPCLUSTER_REDIS_REPLICAS").as_deref(), Some("2"));
    assert_eq!((redis.services.len(), redis.budget.is_some()), (4, true));
}

#[test]
fn the_url_of_another_redis_comes_from_the_manifest_or_from_a_secret() {
    let told = |external: Value| {
        let children = children(&valid(&json!({ "redis": { "external": external } })));
        assert!(children.redis.is_none(), "it is not ours");
        let containers = children.workload.map(|workload| workload.containers);
        let set = serde_json::to_value(containers.expect("containers")).expect("JSON");
        let variables = set.pointer("/spec/template/spec/containers/0/env").expect("variables");
        let mut variables = variables.as_array().expect("a list").iter();
        variables.find(|one| one["name"] == "SIPCLUSTER_REDIS").cloned()
    };
    let url = "redis://:p$w@10.0.0.7:6379/0";
    assert_eq!(
        told(json!({ "url": url })),
        Some(json!({ "name": "SIPCLUSTER_REDIS", "value": url.replace('$', "$$") }))
    );
    let from = |key: &str| json!({ "secretKeyRef": { "name": "calls", "key": key } });
    for (secret, key) in [
        (json!({ "name": "calls" }), "url"),
        (json!({ "name": "calls", "key": "redis" }), "redis"),
    ] {
        assert_eq!(
            told(json!({ "secret": secret })),
            Some(json!({ "name": "SIPCLUSTER_REDIS", "valueFrom": from(key) }))
        );
    }
}

#[test]
fn the_ca_of_another_redis_is_a_file_out_of_its_secret() {
    let pod = |external: Value| {
        let children = children(&valid(&json!({ "redis": { "external": external } })));
        let containers = children.workload.map(|workload| workload.containers);
        let set = serde_json::to_value(containers.expect("containers")).expect("JSON");
        set.pointer("/spec/template/spec").expect("a pod").clone()
    };
    let url = "rediss://10.0.0.7:6380";
    for (secret, key) in [
        (json!({ "name": "redis-tls" }), "ca.crt"),
        (json!({ "name": "redis-tls", "key": "root.pem" }), "root.pem"),
    ] {
        let pod = pod(json!({ "url": url, "caSecret": secret }));
        let items = json!([{ "key": key, "path": "ca.crt" }]);
        assert_eq!(
            pod["volumes"],
            json!([{ "name": "redis-ca", "secret": { "secretName": "redis-tls", "items": items } }])
        );
        let container = &pod["containers"][0];
        assert_eq!(
            container["volumeMounts"],
            json!([{ "name": "redis-ca", "mountPath": "/etc/sipcluster/redis", "readOnly": true }])
        );
        let told = json!({ "name": "SIPCLUSTER_REDIS_CA", "value": "/etc/sipcluster/redis/ca.crt" });
        assert!(container["env"].as_array().is_some_and(|all| all.contains(&told)));
    }
    let plain = pod(json!({ "url": "redis://10.0.0.7" }));
    assert!(plain["volumes"].is_null() && !plain.to_string().contains("SIPCLUSTER_REDIS_CA"));
}

#[test]
fn a_file_that_pods_do_not_have_is_refused() {
    let spec = json!({ "redis": { "external": { "url": "rediss://10.0.0.7", "caFile": "ca.crt" } } });
    let problems = validate(&cluster(&spec), &Found::default(), &images()).expect_err("no pod has it");
    assert_eq!(
        problems.iter().map(ToString::to_string).collect::<Vec<_>>(),
        [
            "spec.redis.external.caFile: ca.crt: pods have none of your files; put it into a Secret, and name that (spec.redis.external.caSecret)"
        ]
    );
}

#[test]
fn a_single_redis_has_neither_sentinel_nor_budget() {
    let children = children(&valid(&json!({})));
    let redis = children.redis.expect("a Redis of its own");
    assert_eq!((redis.services.len(), redis.budget.is_some()), (1, false));
    let pod = redis.set.and_then(|set| set.spec?.template.spec).expect("a pod");
    assert_eq!(pod.containers.len(), 1);
    let containers = children.workload.map(|workload| workload.containers);
    let containers = containers.expect("containers");
    assert_eq!(variable(&containers, "SIPCLUSTER_REDIS_REPLICAS"), None);
}

/// Required, not preferred: with two on a node, its loss would take a majority along.
#[test]
fn no_two_instances_are_on_one_node() {
    let template = |managed: &Value| {
        let redis = children(&valid(&json!({ "redis": { "managed": managed } }))).redis;
        let set = redis
            .and_then(|redis| redis.set?.spec)
            .expect("all addresses are known");
        let template = serde_json::to_value(set.template).expect("JSON");
        (set.replicas, template)
    };
    let required = |template: &Value| {
        let apart = &template["spec"]["affinity"]["podAntiAffinity"];
        apart["requiredDuringSchedulingIgnoredDuringExecution"].clone()
    };
    for instances in [3, 5] {
        let (replicas, template) = template(&json!({ "instances": instances }));
        assert_eq!(replicas, Some(instances));
        let its_own = json!({
            "app.kubernetes.io/name": "sipcluster",
            "app.kubernetes.io/instance": "demo",
            "app.kubernetes.io/component": "redis",
        });
        // All that the term says: of the same namespace, and at once.
        assert_eq!(
            required(&template),
            json!([{ "topologyKey": "kubernetes.io/hostname", "labelSelector": { "matchLabels": its_own } }])
        );
        let labels = &template["metadata"]["labels"];
        for (name, value) in its_own.as_object().into_iter().flatten() {
            assert_eq!(&labels[name], value, "{name}: else the term is about others");
        }
    }
    let (replicas, template) = template(&json!({}));
    assert_eq!((replicas, required(&template)), (Some(1), Value::Null));
}

#[test]
fn nothing_starts_before_every_instance_has_its_address() {
    let mut found = Found {
        dispatcher: Some(Arc::new(service())),
        redis_services: vec![Arc::new(redis_service(1)), Arc::new(redis_service(2))],
        ..Found::default()
    };
    let valid = validate(&cluster(&three()), &found, &images()).expect("a good manifest");
    let children = children(&valid);
    assert!(children.workload.is_none() && children.redis.is_some_and(|redis| redis.set.is_none()));
    let model = Model::new(valid);
    let decision = model.decide();
    assert_eq!(
        (decision.replicas, decision.gate.as_deref()),
        (
            Some(0),
            Some("not every instance of demo-redis has the address of its Service yet")
        )
    );
    found.redis_services.push(Arc::new(redis_service(3)));
    let valid = validate(&cluster(&three()), &found, &images()).expect("a good manifest");
    let decision = Decision {
        replicas: Some(2),
        ..Decision::default()
    };
    assert!(build(&valid, &decision).workload.is_some());
}

#[test]
fn a_service_that_was_deleted_gets_back_the_address_that_others_know() {
    let before = children(&valid(&three())).redis.and_then(|redis| redis.set);
    let found = Found {
        dispatcher: Some(Arc::new(service())),
        redis: before.map(Arc::new),
        ..Found::default()
    };
    let valid = validate(&cluster(&three()), &found, &images()).expect("a good manifest");
    let services = children(&valid).redis.expect("a Redis of its own").services;
    let addresses: Vec<_> = services
        .iter()
        .map(|service| service.spec.as_ref()?.cluster_ip.as_deref())
        .collect();
    assert_eq!(
        addresses,
        [Some("None"), Some("10.96.0.1"), Some("10.96.0.2"), Some("10.96.0.3")]
    );
}

#[test]
fn a_rollout_takes_one_instance_at_a_time_and_waits_until_all_are_in_sync() {
    let mut model = working(&three());
    model.redis_revision = 2;
    let mut order = Vec::new();
    for _ in 0..40 {
        let decision = model.decide();
        let gone = model.replace_redis(&decision, false);
        let away = model.redis.values().filter(|instance| !instance.in_sync).count();
        assert!(away <= 1, "{:?}", model.redis);
        order.extend(gone.iter().copied());
        if gone.is_empty()
            && let Some((ordinal, instance)) = model.redis.iter_mut().find(|(_, instance)| !instance.in_sync)
        {
            assert_eq!(decision.gate, Some(format!("demo-redis-{ordinal} does not answer yet")));
            instance.in_sync = true;
        }
        model.wait(2_000);
    }
    assert_eq!(order, [2, 1, 0]);
    assert_eq!(model.decide().gate, None);
}

#[test]
fn an_instance_that_cannot_run_stops_the_rollout_and_the_next_template_replaces_it_first() {
    let mut model = working(&three());
    model.redis_revision = 2;
    let decision = model.decide();
    assert_eq!(model.replace_redis(&decision, true), [2]);
    for _ in 0..10 {
        model.wait(2_000);
        let decision = model.decide();
        assert!(decision.leave.is_empty(), "{decision:?}");
        assert_eq!(decision.gate.as_deref(), Some("demo-redis-2: ImagePullBackOff"));
    }
    model.redis_revision = 3;
    let decision = model.decide();
    assert_eq!(model.replace_redis(&decision, false), [2]);
}

#[test]
fn of_five_in_a_rollout_none_is_taken_beside_one_that_is_being_filled() {
    let mut model = working(&json!({ "replicas": 2, "redis": { "managed": { "instances": 5 } } }));
    model.redis_revision = 2;
    let decision = model.decide();
    assert_eq!(model.replace_redis(&decision, false), [4]);
    // The next one's probe fails while the first is away.
    model.redis.get_mut(&3).expect("it is there").in_sync = false;
    for _ in 0..5 {
        model.wait(2_000);
        let decision = model.decide();
        assert!(decision.leave.is_empty(), "{decision:?}");
    }
}

#[test]
fn while_most_are_out_of_sync_none_that_runs_is_taken() {
    let mut model = working(&three());
    model.redis_revision = 2;
    for lost in [vec![0, 1], vec![0, 1, 2]] {
        for ordinal in lost {
            model.redis.get_mut(&ordinal).expect("it is there").in_sync = false;
        }
        let decision = model.decide();
        assert!(decision.leave.is_empty(), "{decision:?}");
        assert!(decision.gate.is_some(), "it says what it waits for");
    }
}

/// Of the last one nothing else tells that the rollout is not over.
#[test]
fn an_instance_that_ends_for_a_rollout_is_waited_for_unless_it_should_have_ended() {
    let mut model = working(&three());
    let life_of = |model: &Model, now| {
        let mut found = model.found();
        let first = Arc::make_mut(&mut found.redis_pods[0]);
        first.metadata.deletion_timestamp = Some(Time(model.now));
        Redis::seen(now, &model.valid, &found).life
    };
    let later = model.now + SignedDuration::from_secs(1);
    assert!(matches!(life_of(&model, model.now), Life::Active { .. }), "no rollout");
    model.redis_revision = 2;
    for ordinal in [1, 2] {
        model.redis.get_mut(&ordinal).expect("it is there").revision = 2;
    }
    assert_eq!(life_of(&model, model.now), Life::Joining);
    assert!(
        matches!(life_of(&model, later), Life::Active { .. }),
        "its node is lost"
    );
}

#[test]
fn a_lost_instance_keeps_nobody_waiting_while_the_others_are_in_sync() {
    let mut model = working(&three());
    model.redis.remove(&1);
    assert_eq!(model.decide().gate, None);
    assert_eq!(
        model.observation().redis.trouble.as_deref(),
        Some("demo-redis-1 is not there, or not in sync")
    );
    model.redis.remove(&2);
    assert_eq!(model.decide().gate.as_deref(), Some("demo-redis-1 does not answer yet"));
}

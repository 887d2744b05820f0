//! The pod security standard `restricted`, and a root file system that nobody writes, of every pod that is made.

mod support;

use operator::sip_cluster::build::build;
use operator::sip_cluster::passwords::Passwords;
use operator::sip_cluster::plan::Decision;
use serde_json::{Value, json};
use support::valid;

/// The pods of a spec: of containers, proxies and its own Redis, if it has one.
fn pods(spec: &Value, passwords: &Passwords) -> Vec<Value> {
    let decision = Decision {
        replicas: Some(2),
        passwords: passwords.clone(),
        ..Decision::default()
    };
    let children = build(&valid(spec), &decision);
    let workload = children.workload.expect("its addresses are known");
    let redis = children.redis.map(|redis| redis.set.expect("its addresses are known"));
    let mut made = vec![
        serde_json::to_value(workload.containers).expect("an object is JSON"),
        serde_json::to_value(workload.proxies).expect("an object is JSON"),
    ];
    made.extend(redis.map(|set| serde_json::to_value(set).expect("an object is JSON")));
    made.into_iter()
        .map(|workload| workload["spec"]["template"]["spec"].clone())
        .collect()
}

/// That it meets the standard in all but the network of its node.
fn restricted(pod: &Value, what: &str) {
    let own = &pod["securityContext"];
    let profile = json!({ "type": "RuntimeDefault" });
    assert_eq!(
        (&own["runAsNonRoot"], &own["seccompProfile"]),
        (&json!(true), &profile),
        "{what}"
    );
    assert!(pod["hostPID"].is_null() && pod["hostIPC"].is_null(), "{what}");
    for volume in pod["volumes"].as_array().into_iter().flatten() {
        assert!(
            volume.get("emptyDir").or(volume.get("secret")).is_some(),
            "{what}: {volume}"
        );
    }
    let lists = ["initContainers", "containers", "ephemeralContainers"];
    for container in lists.iter().filter_map(|list| pod[list].as_array()).flatten() {
        // All that one says: what it does not say is as the pod has it.
        let own = json!({
            "allowPrivilegeEscalation": false,
            "capabilities": { "drop": ["ALL"] },
            "readOnlyRootFilesystem": true,
        });
        assert_eq!(container["securityContext"], own, "{} of {what}", container["name"]);
    }
}

#[test]
fn every_container_of_every_pod_is_restricted() {
    let one = Passwords::default();
    let two = Passwords {
        accepts: [1, 2].into(),
        ..Passwords::default()
    };
    let external = json!({ "external": { "url": "rediss://10.0.0.7", "caSecret": { "name": "ca" } } });
    // And what each pod consists of: that of containers, of proxies, of Redis.
    let cases: [(Value, &Passwords, &[usize]); 6] = [
        (json!({}), &one, &[1, 1, 1]),
        (json!({}), &two, &[1, 1, 1]),
        (json!({ "redis": { "managed": { "instances": 3 } } }), &one, &[1, 1, 2]),
        (json!({ "redis": { "managed": { "instances": 3 } } }), &two, &[1, 1, 2]),
        (json!({ "redis": external }), &one, &[1, 1]),
        (json!({ "dispatcher": { "hostNetwork": {} } }), &one, &[1, 1, 1]),
    ];
    for (spec, passwords, counts) in cases {
        let pods = pods(&spec, passwords);
        let count = |pod: &Value| pod["containers"].as_array().map_or(0, Vec::len);
        assert_eq!(pods.iter().map(count).collect::<Vec<_>>(), counts, "{spec}");
        for (at, pod) in pods.iter().enumerate() {
            let what = format!("pod {at} of {spec}");
            restricted(pod, &what);
            // The standard forbids that network, and its ports: proxies are in it where the manifest asks for it, and nobody else.
            let is_asked = at == 1 && !spec["dispatcher"].is_null();
            let has_ports = pod["containers"].to_string().contains("hostPort");
            assert_eq!((pod["hostNetwork"] == true, has_ports), (is_asked, is_asked), "{what}");
        }
    }
}

//! What the manifest says of proxies reaches their pods.

mod support;

use operator::sip_cluster::build::build;
use operator::sip_cluster::plan::Decision;
use serde_json::{Value, json};
use support::valid;

/// The command line of the proxies of a cluster with this spec.
fn arguments(spec: &Value) -> Vec<String> {
    let decision = Decision {
        replicas: Some(2),
        ..Decision::default()
    };
    let workload = build(&valid(spec), &decision).workload;
    let deployment = workload.expect("its addresses are known").proxies;
    let pod = deployment.spec.and_then(|spec| spec.template.spec).expect("a pod");
    pod.containers[0].args.clone().expect("arguments")
}

#[test]
fn emergency_calls_are_what_the_manifest_says() {
    let named = arguments(&json!({ "proxies": { "emergency": ["112", "urn:service:police"] } }));
    assert!(
        named.contains(&"--emergency=112,urn:service:police".to_owned()),
        "{named:?}"
    );
    // A cluster that names none is not rolled for it.
    let plain = arguments(&json!({}));
    assert!(
        !plain.iter().any(|argument| argument.contains("emergency")),
        "{plain:?}"
    );
}

//! What the manifest says of proxies reaches their pods.

mod support;

use k8s_openapi::api::apps::v1::Deployment;
use operator::sip_cluster::build::{build, of_account};
use operator::sip_cluster::keys::Keys;
use operator::sip_cluster::plan::Decision;
use serde_json::{Value, json};
use support::valid;

/// The proxies of a cluster with this spec, and with these keys.
fn deployment(spec: &Value, keys: Keys) -> Deployment {
    let decision = Decision {
        replicas: Some(2),
        keys,
        ..Decision::default()
    };
    let workload = build(&valid(spec), &decision).workload;
    workload.expect("its addresses are known").proxies
}

/// Their command line.
fn arguments(spec: &Value) -> Vec<String> {
    let deployment = deployment(spec, Keys::default());
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

/// What was given to those of an account that was deleted opens nothing, although another has its name.
#[test]
fn they_are_replaced_once_their_account_is_another() {
    let keys: Keys = "3 of 2,3,4".parse().expect("keys");
    let told = |keys: &Keys, uid: &str| {
        let deployment = of_account(deployment(&json!({}), keys.clone()), uid);
        let metadata = deployment.spec.and_then(|spec| spec.template.metadata);
        json!(metadata.and_then(|metadata| metadata.annotations))
    };
    let account = "sipcluster.dev/service-account";
    assert_eq!(told(&Keys::default(), "7"), json!({ account: "7" }));
    assert_eq!(told(&Keys::default(), "8"), json!({ account: "8" }));
    let of_keys = json!(keys.annotations())["sipcluster.dev/keys"].clone();
    assert_eq!(
        told(&keys, "8"),
        json!({ account: "8", "sipcluster.dev/keys": of_keys })
    );
}

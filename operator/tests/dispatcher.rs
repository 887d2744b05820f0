//! The Service in front of the proxies.

mod support;

use std::sync::Arc;

use operator::sip_cluster::build::build;
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::validate::validate;
use serde_json::{Value, json};
use support::{cluster, images, service, valid};

/// The protocols of the Service that is made for this spec, and the Service.
fn protocols(spec: &Value, found: &Found) -> Vec<String> {
    let valid = validate(&cluster(spec), found, &images()).expect("a good manifest");
    let spec = build(&valid, &Decision::default()).dispatcher.spec;
    let ports = spec.and_then(|spec| spec.ports).expect("it has ports");
    ports.into_iter().filter_map(|port| port.protocol).collect()
}

fn with(dispatcher: &Value) -> Found {
    let mut service = serde_json::to_value(service()).expect("JSON");
    for (field, value) in dispatcher.as_object().expect("fields") {
        service[field] = value.clone();
    }
    Found {
        dispatcher: Some(Arc::new(serde_json::from_value(service).expect("a Service"))),
        ..Found::default()
    }
}

#[test]
fn no_datagram_comes_in_before_the_address_is_known() {
    let none = Found::default();
    assert_eq!(protocols(&json!({}), &none), ["TCP"]);
    assert_eq!(protocols(&json!({}), &with(&json!({ "status": {} }))), ["TCP"]);
    assert_eq!(protocols(&json!({}), &with(&json!({}))), ["UDP", "TCP"]);
    let advertised = json!({ "dispatcher": { "advertised": "203.0.113.7" } });
    assert_eq!(protocols(&advertised, &none), ["UDP", "TCP"]);
    // A Service without any port cannot be.
    let alone = json!({ "dispatcher": { "transports": ["udp"] } });
    assert_eq!(protocols(&alone, &none), ["UDP"]);
}

#[test]
fn an_address_that_is_gone_for_a_moment_closes_nothing() {
    let open = json!({ "type": "LoadBalancer", "ports": [{ "port": 5060, "protocol": "UDP" }] });
    let found = with(&json!({ "spec": open, "status": {} }));
    assert_eq!(protocols(&json!({}), &found), ["UDP", "TCP"]);
}

#[test]
fn of_several_addresses_calls_keep_the_one_that_they_have() {
    let at = |addresses: &[&str]| {
        let ingress: Vec<_> = addresses.iter().map(|address| json!({ "ip": address })).collect();
        with(&json!({ "status": { "loadBalancer": { "ingress": ingress } } }))
    };
    let mut cluster = cluster(&json!({}));
    let mut advertised = |found: &Found| {
        let valid = validate(&cluster, found, &images()).expect("a good manifest");
        cluster.status = Some(crds::SipClusterStatus {
            address: valid.advertised.clone(),
            ..Default::default()
        });
        valid.advertised
    };
    let (one, other) = ("203.0.113.7", "203.0.113.8");
    let told = |address: &str| Some(format!("{address}:5060"));
    assert_eq!(advertised(&at(&[one])), told(one));
    assert_eq!(advertised(&at(&[other, one])), told(one));
    assert_eq!(advertised(&at(&[other])), told(other), "it is gone");
}

#[test]
fn what_the_manifest_says_of_the_service_is_said_of_the_service() {
    let made = |wanted: &Value| {
        let spec = json!({ "dispatcher": { "port": 5160, "advertised": "203.0.113.7", "service": wanted } });
        let service = build(&valid(&spec), &Decision::default()).dispatcher;
        let service = serde_json::to_value(service).expect("an object is JSON");
        let (spec, annotations) = (&service["spec"], &service["metadata"]["annotations"]);
        let [kind, class] = [&spec["type"], &spec["loadBalancerClass"]];
        json!([kind, class, spec["externalTrafficPolicy"], annotations, spec["ports"]])
    };
    // The nodes' port is one number for both protocols. Left out, Kubernetes chooses one for each.
    let ports = |node_port: Option<u16>| {
        [("sip-udp", "UDP"), ("sip-tcp", "TCP")].map(|(name, protocol)| {
            let mut port = json!({ "name": name, "port": 5160, "protocol": protocol, "targetPort": name });
            if let Some(number) = node_port {
                port["nodePort"] = number.into();
            }
            port
        })
    };
    let (balancer, chosen) = ("example.com/balancer", ports(Some(30060)));
    assert_eq!(
        made(&json!({})),
        json!(["LoadBalancer", null, "Local", null, ports(None)])
    );
    assert_eq!(
        made(&json!({ "type": "NodePort", "nodePort": 30060 })),
        json!(["NodePort", null, "Local", null, chosen])
    );
    assert_eq!(
        made(&json!({ "type": "NodePort", "nodePort": 30060, "externalTrafficPolicy": "Cluster" })),
        json!(["NodePort", null, "Cluster", null, chosen])
    );
    let annotations = json!({ "example.com/pool": "sip", "example.com/weight": "3" });
    assert_eq!(
        made(&json!({
            "type": "LoadBalancer", "class": balancer, "nodePort": 30060, "externalTrafficPolicy": "Cluster",
            "annotations": annotations,
        })),
        json!(["LoadBalancer", balancer, "Cluster", annotations, chosen])
    );
    assert_eq!(
        made(&json!({ "class": balancer, "nodePort": 30060, "externalTrafficPolicy": "Local" })),
        json!(["LoadBalancer", balancer, "Local", null, chosen])
    );
    // Of a Service that is reached from inside alone Kubernetes takes nothing of it but annotations.
    assert_eq!(
        made(&json!({ "type": "ClusterIP", "class": balancer, "nodePort": 30060, "annotations": { "a": "b" } })),
        json!(["ClusterIP", null, null, { "a": "b" }, ports(None)])
    );
}

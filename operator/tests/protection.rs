//! Who may reach which port, by the NetworkPolicies of a SipCluster behind a Service.

mod support;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use operator::sip_cluster::build::{Children, build};
use operator::sip_cluster::names::{ADMIN, CONTAINER_SIP, REDIS, SENTINEL, UCF};
use operator::sip_cluster::plan::Decision;
use serde_json::{Value, json};
use support::valid;

type Labels = BTreeMap<String, String>;

/// What a policy knows of whoever sends.
#[derive(Clone, Copy)]
enum Peer<'a> {
    /// A pod: whether it is in the SipCluster's namespace, and its labels.
    Pod(bool, &'a Labels),
    Outside,
}

/// The peers, in the order of the table's columns.
const PEERS: [&str; 7] = [
    "container",
    "proxy",
    "redis",
    "another SipCluster's container",
    "its like in another namespace",
    "any pod",
    "outside",
];

fn children(spec: &Value) -> Children {
    let decision = Decision {
        replicas: Some(2),
        ..Decision::default()
    };
    build(&valid(spec), &decision)
}

/// The labels of pods of this template.
fn labels(template: PodTemplateSpec) -> Labels {
    template.metadata.and_then(|metadata| metadata.labels).expect("labels")
}

/// No selector of ours has expressions.
fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    assert!(selector.match_expressions.is_none(), "{selector:?}");
    let wanted = selector.match_labels.iter().flatten();
    wanted.into_iter().all(|(name, value)| labels.get(name) == Some(value))
}

fn is_meant(meant: &NetworkPolicyPeer, peer: Peer<'_>) -> bool {
    assert!(meant.ip_block.is_none(), "{meant:?}");
    let Peer::Pod(is_here, labels) = peer else {
        return false;
    };
    let is_there = match &meant.namespace_selector {
        // Any namespace: what labels these have is nothing to it.
        Some(namespaces) => *namespaces == LabelSelector::default(),
        None => is_here,
    };
    is_there && meant.pod_selector.as_ref().is_none_or(|pods| selects(pods, labels))
}

fn lets_in(rule: &NetworkPolicyIngressRule, peer: Peer<'_>, protocol: &str, number: i32) -> bool {
    let is_port = rule.ports.as_ref().is_none_or(|ports| {
        ports.iter().any(|port| {
            port.end_port.is_none()
                && port.port == Some(IntOrString::Int(number))
                && port.protocol.as_deref() == Some(protocol)
        })
    });
    is_port
        && rule
            .from
            .as_ref()
            .is_none_or(|from| from.iter().any(|meant| is_meant(meant, peer)))
}

/// Whether a peer reaches this port of a pod: one that no policy selects would be open to all.
fn reaches(policies: &[NetworkPolicy], peer: Peer<'_>, pod: &Labels, protocol: &str, number: i32) -> bool {
    let specs = policies.iter().filter_map(|policy| policy.spec.as_ref());
    let mut of_pod = specs
        .filter(|spec| spec.pod_selector.as_ref().is_some_and(|pods| selects(pods, pod)))
        .peekable();
    let is_isolated = of_pod.peek().is_some();
    let mut rules = of_pod.flat_map(|spec| spec.ingress.iter().flatten());
    !is_isolated || rules.any(|rule| lets_in(rule, peer, protocol, number))
}

#[test]
fn each_port_is_open_to_whom_it_is_for() {
    let spec = json!({ "dispatcher": { "port": 5160 }, "redis": { "managed": { "instances": 3 } } });
    let children = children(&spec);
    let workload = children.workload.expect("its addresses are known");
    let redis = children.redis.expect("a Redis of its own");
    let set = redis.set.and_then(|set| set.spec).expect("its addresses are known");
    let container = labels(workload.containers.spec.expect("a spec").template);
    let proxy = labels(workload.proxies.spec.expect("a spec").template);
    let redis_pod = labels(set.template);
    let policies = [children.container_policy, children.proxy_policy, redis.policy];

    let mut of_another = container.clone();
    of_another.insert("app.kubernetes.io/instance".into(), "another".into());
    let any = Labels::new();
    let peers = [
        Peer::Pod(true, &container),
        Peer::Pod(true, &proxy),
        Peer::Pod(true, &redis_pod),
        Peer::Pod(true, &of_another),
        Peer::Pod(false, &container),
        Peer::Pod(true, &any),
        Peer::Outside,
    ];
    let (yes, no) = (true, false);
    let inside = [yes, yes, yes, yes, yes, yes, no];
    let nobody = [no; 7];
    let table = [
        (&container, "TCP", CONTAINER_SIP, [no, yes, no, no, no, no, no]),
        (&container, "TCP", UCF, [yes, yes, no, no, no, no, no]),
        (&container, "TCP", ADMIN, inside),
        (&container, "UDP", CONTAINER_SIP, nobody),
        (&container, "TCP", 5160, nobody),
        (&proxy, "UDP", 5160, [yes; 7]),
        (&proxy, "TCP", 5160, [yes; 7]),
        (&proxy, "TCP", UCF, [no, yes, no, no, no, no, no]),
        (&proxy, "TCP", ADMIN, inside),
        (&proxy, "TCP", 22, nobody),
        (&redis_pod, "TCP", REDIS, [yes, no, yes, no, no, no, no]),
        (&redis_pod, "TCP", SENTINEL, [yes, no, yes, no, no, no, no]),
        (&redis_pod, "TCP", ADMIN, nobody),
    ];
    for (pod, protocol, number, expected) in table {
        let kind = &pod["app.kubernetes.io/component"];
        for ((name, peer), expected) in PEERS.iter().zip(peers).zip(expected) {
            let reached = reaches(&policies, peer, pod, protocol, number);
            assert_eq!(reached, expected, "{name} to {kind}, {protocol} {number}");
        }
    }
}

#[test]
fn a_redis_of_one_instance_is_reached_by_containers_alone() {
    let children = children(&json!({}));
    let redis = children.redis.expect("a Redis of its own");
    let workload = children.workload.expect("its addresses are known");
    let container = labels(workload.containers.spec.expect("a spec").template);
    let pod = labels(redis.set.and_then(|set| set.spec).expect("a Redis").template);
    for (peer, number, expected) in [
        (&container, REDIS, true),
        (&container, SENTINEL, false),
        (&pod, REDIS, false),
    ] {
        let reached = reaches(
            std::slice::from_ref(&redis.policy),
            Peer::Pod(true, peer),
            &pod,
            "TCP",
            number,
        );
        assert_eq!(reached, expected, "{peer:?} to {number}");
    }
}

//! Proxies in the network of their nodes: what is made for it, and what the status says.

mod support;

use std::sync::Arc;

use crds::SipClusterStatus;
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use operator::sip_cluster::build::{Children, build};
use operator::sip_cluster::dereference::Found;
use operator::sip_cluster::observe::{self, Observation, proxy_nodes, proxy_trouble};
use operator::sip_cluster::plan::Decision;
use operator::sip_cluster::status::status;
use serde_json::{Value, json};
use support::{cluster, valid};

/// What is made of a spec.
fn children(spec: &Value) -> Children {
    let decision = Decision {
        replicas: Some(2),
        ..Decision::default()
    };
    build(&valid(spec), &decision)
}

/// The Deployment of its proxies.
fn proxies(spec: &Value) -> Value {
    let workload = children(spec).workload.expect("its addresses are known");
    serde_json::to_value(workload.proxies).expect("an object is JSON")
}

/// The arguments of its containers.
fn container_arguments(spec: &Value) -> Vec<String> {
    let workload = children(spec).workload.expect("its addresses are known");
    let pod = workload.containers.spec.and_then(|set| set.template.spec);
    pod.expect("a pod").containers[0].args.clone().expect("arguments")
}

fn arguments(deployment: &Value) -> Vec<&str> {
    let arguments = &deployment["spec"]["template"]["spec"]["containers"][0]["args"];
    let arguments = arguments.as_array().expect("arguments");
    arguments.iter().filter_map(Value::as_str).collect()
}

#[test]
fn each_node_has_one_proxy_at_most_and_it_listens_at_the_nodes_address() {
    let deployment = proxies(&json!({
        "proxies": { "nodeSelector": { "example.com/edge": "true" } },
        "dispatcher": { "port": 5160, "hostNetwork": { "ucfPort": 5171, "adminPort": 9190 } },
    }));
    let pod = &deployment["spec"]["template"]["spec"];
    assert_eq!(
        (&pod["hostNetwork"], &pod["dnsPolicy"]),
        (&json!(true), &json!("ClusterFirstWithHostNet"))
    );
    assert_eq!(pod["nodeSelector"], json!({ "example.com/edge": "true" }));
    let never = &pod["affinity"]["podAntiAffinity"]["requiredDuringSchedulingIgnoredDuringExecution"];
    assert_eq!(never[0]["topologyKey"], "kubernetes.io/hostname");
    assert_eq!(
        never[0]["labelSelector"]["matchLabels"]["app.kubernetes.io/component"],
        "proxy"
    );
    // There is no room for a successor beside the one that goes.
    assert_eq!(
        deployment["spec"]["strategy"]["rollingUpdate"],
        json!({ "maxSurge": 0, "maxUnavailable": 1 })
    );
    let ports = pod["containers"][0]["ports"].as_array().expect("ports");
    let ports: Vec<_> = ports
        .iter()
        .map(|port| (port["name"].as_str().unwrap_or_default(), port["hostPort"].as_i64()))
        .collect();
    assert_eq!(
        ports,
        [
            ("sip-udp", Some(5160)),
            ("sip-tcp", Some(5160)),
            ("ucf", Some(5171)),
            ("admin", Some(9190))
        ]
    );
    let address = &pod["containers"][0]["env"][1];
    assert_eq!(
        (&address["name"], &address["valueFrom"]["fieldRef"]["fieldPath"]),
        (&json!("POD_IP"), &json!("status.hostIP"))
    );
    let arguments = arguments(&deployment);
    for argument in [
        "--listen=udp:$(POD_IP):5160",
        "--listen=tcp:$(POD_IP):5160",
        "--ucf=$(POD_IP):5171",
        "--admin=$(POD_IP):9190",
        "--stand-in=sipcluster.invalid",
    ] {
        assert!(arguments.contains(&argument), "{argument}: {arguments:?}");
    }
    assert!(
        !arguments.iter().any(|one| one.starts_with("--advertised")),
        "{arguments:?}"
    );
}

#[test]
fn behind_a_service_nothing_of_it_is_there() {
    let deployment = proxies(&json!({}));
    let pod = &deployment["spec"]["template"]["spec"];
    for field in ["hostNetwork", "dnsPolicy", "nodeSelector"] {
        assert!(pod[field].is_null(), "{field}: {}", pod[field]);
    }
    assert_eq!(
        deployment["spec"]["strategy"]["rollingUpdate"],
        json!({ "maxSurge": 1, "maxUnavailable": 0 })
    );
    assert_eq!(
        arguments(&deployment)[..7],
        [
            "--cluster=demo",
            "--name=$(POD_NAME)",
            "--ucf=$(POD_IP):5071",
            "--admin=$(POD_IP):9090",
            "--advertised=203.0.113.7:5060",
            "--partitions=1024",
            "--lease-ms=2000",
        ]
    );
}

#[test]
fn calls_have_the_name_of_all_nodes_if_there_is_one() {
    let named = json!({ "dispatcher": { "hostNetwork": { "host": "sip.example.com" } } });
    let deployment = proxies(&named);
    let told = arguments(&deployment);
    assert!(told.contains(&"--route-host=sip.example.com"), "{told:?}");
    assert!(!told.iter().any(|one| one.starts_with("--stand-in")), "{told:?}");
    let told = container_arguments(&named);
    assert!(
        told.contains(&"--advertised=sip.example.com:5060".to_owned()),
        "{told:?}"
    );
    let told = container_arguments(&json!({ "dispatcher": { "hostNetwork": {} } }));
    assert!(
        told.contains(&"--advertised=sipcluster.invalid:5060".to_owned()),
        "{told:?}"
    );
}

#[test]
fn the_dispatcher_is_a_list_of_nodes_with_the_srv_record_of_sip() {
    let service = |spec: &Value| serde_json::to_value(children(spec).dispatcher).expect("an object is JSON");
    let spec = &service(&json!({ "dispatcher": { "hostNetwork": {} } }))["spec"];
    assert_eq!((&spec["clusterIP"], &spec["type"]), (&json!("None"), &Value::Null));
    let ports = json!([
        { "name": "sip", "port": 5060, "protocol": "UDP" },
        { "name": "sip-tcp", "port": 5060, "protocol": "TCP" },
    ]);
    assert_eq!(spec["ports"], ports);
    // New callers do not find one that drains.
    assert!(spec["publishNotReadyAddresses"].is_null());
    let spec = &service(&json!({ "dispatcher": { "hostNetwork": {}, "transports": ["tcp"] } }))["spec"];
    let port = json!([{ "name": "sip", "port": 5060, "protocol": "TCP" }]);
    assert_eq!(spec["ports"], port);
    let list = children(&json!({ "dispatcher": { "hostNetwork": { "ucfPort": 5171 } } })).proxy_service;
    let list = serde_json::to_value(list).expect("an object is JSON");
    assert_eq!(list["spec"]["ports"][0]["port"], 5171);
}

#[test]
fn nodes_may_link_with_containers() {
    let rules = |spec: &Value| {
        let policy = children(spec).container_policy.spec.and_then(|spec| spec.ingress);
        let policy = policy.expect("rules");
        let open = policy.iter().filter(|rule| rule.from.is_none());
        let ports = open.flat_map(|rule| rule.ports.clone().unwrap_or_default());
        serde_json::to_value(ports.map(|port| port.port).collect::<Vec<_>>()).expect("numbers")
    };
    assert_eq!(rules(&json!({})), json!([]));
    assert_eq!(
        rules(&json!({ "dispatcher": { "hostNetwork": {} } })),
        json!([5070, 5071])
    );
}

/// A proxy's pod on the node of this address.
fn pod(node: &str, ready: bool, leaving: bool) -> Arc<Pod> {
    let mut pod = json!({
        "metadata": { "name": format!("demo-proxy-{node}") },
        "status": {
            "hostIP": node,
            "conditions": [{ "type": "Ready", "status": if ready { "True" } else { "False" }, "lastTransitionTime": Timestamp::UNIX_EPOCH }],
        },
    });
    if leaving {
        pod["metadata"]["deletionTimestamp"] = json!(Timestamp::UNIX_EPOCH);
    }
    Arc::new(serde_json::from_value(pod).expect("a Pod"))
}

/// One that finds no node.
fn unplaced() -> Arc<Pod> {
    let pod = json!({
        "metadata": { "name": "demo-proxy-x" },
        "status": { "conditions": [{
            "type": "PodScheduled", "status": "False",
            "message": "0/3 nodes are available: 3 node(s) didn't have free ports for the requested pod ports.",
        }] },
    });
    Arc::new(serde_json::from_value(pod).expect("a Pod"))
}

fn told(spec: &Value, observation: &Observation) -> SipClusterStatus {
    let cluster = cluster(spec);
    status(
        Timestamp::UNIX_EPOCH,
        &cluster,
        &valid(spec),
        observation,
        &Decision::default(),
        None,
    )
}

fn condition(status: &SipClusterStatus, kind: &str) -> (String, String, String) {
    let condition = status.conditions.iter().find(|condition| condition.type_ == kind);
    let condition = condition.expect("it is there").clone();
    (condition.status, condition.reason, condition.message)
}

#[test]
fn the_status_says_at_which_nodes_it_is() {
    let plain = json!({ "dispatcher": { "hostNetwork": {} } });
    let named = json!({ "dispatcher": { "hostNetwork": { "host": "sip.example.com" } } });
    let pods = [
        pod("10.0.0.12", true, false),
        pod("10.0.0.11", true, false),
        pod("10.0.0.13", false, false),
        pod("10.0.0.14", true, true),
    ];
    let observation = Observation {
        proxy_nodes: proxy_nodes(&pods),
        ..Observation::default()
    };
    let status = told(&plain, &observation);
    assert_eq!(status.addresses, ["10.0.0.11:5060", "10.0.0.12:5060"]);
    assert_eq!(status.address.as_deref(), Some("10.0.0.11:5060"));
    let (holds, reason, message) = condition(&status, "EgressAddress");
    assert_eq!((holds.as_str(), reason.as_str()), ("True", "HostNetwork"));
    assert!(message.ends_with("10.0.0.11:5060, 10.0.0.12:5060"), "{message}");
    assert_eq!(
        told(&named, &observation).address.as_deref(),
        Some("sip.example.com:5060")
    );

    let none = Observation::default();
    assert_eq!(told(&plain, &none).address, None);
    let (holds, reason, _) = condition(&told(&plain, &none), "EgressAddress");
    assert_eq!((holds.as_str(), reason.as_str()), ("False", "NoAddress"));

    let behind = told(&json!({}), &observation);
    assert_eq!(
        (behind.address.as_deref(), behind.addresses.len()),
        (Some("203.0.113.7:5060"), 0)
    );
    assert_eq!(condition(&behind, "EgressAddress").1, "Service");
}

#[test]
fn a_proxy_that_finds_no_node_is_told_of_unless_one_is_about_to_make_room() {
    let pods = [pod("10.0.0.11", true, false), unplaced()];
    let trouble = proxy_trouble(Timestamp::UNIX_EPOCH, &pods).expect("trouble");
    assert!(
        trouble.starts_with("demo-proxy-x: 0/3 nodes are available"),
        "{trouble}"
    );
    let observation = Observation {
        proxy_trouble: Some(trouble.clone()),
        ..Observation::default()
    };
    let status = told(&json!({ "dispatcher": { "hostNetwork": {} } }), &observation);
    assert_eq!(condition(&status, "Degraded").2, trouble);
    assert_eq!(
        proxy_trouble(Timestamp::UNIX_EPOCH, &[pod("10.0.0.11", true, true), unplaced()]),
        None
    );
    let later = Timestamp::UNIX_EPOCH + SignedDuration::from_secs(1);
    let overdue = proxy_trouble(later, &[pod("10.0.0.11", false, true), unplaced()]);
    assert_eq!(overdue.as_deref(), Some(trouble.as_str()), "its node is lost");
    assert_eq!(
        proxy_trouble(Timestamp::UNIX_EPOCH, &[pod("10.0.0.11", true, false)]),
        None
    );
}

#[test]
fn for_a_proxy_that_finds_no_node_nobody_waits_while_the_others_serve() {
    let found = |available: u32, updated: u32, pods: Vec<Arc<Pod>>| {
        let deployment = json!({
            "metadata": { "generation": 1 },
            "spec": { "replicas": 2, "selector": {}, "template": {} },
            "status": { "observedGeneration": 1, "replicas": 2, "updatedReplicas": updated, "availableReplicas": available },
        });
        Found {
            proxies: Some(Arc::new(serde_json::from_value(deployment).expect("a Deployment"))),
            proxy_pods: pods,
            ..Found::default()
        }
    };
    let serves = || pod("10.0.0.11", true, false);
    let gone = || pod("10.0.0.12", false, true);
    let count = |found: &Found| observe::unplaced(found);
    assert_eq!(count(&found(1, 2, vec![serves(), gone(), unplaced()])), 1);
    assert_eq!(count(&found(0, 2, vec![unplaced(), unplaced()])), 0, "nobody serves");
    assert_eq!(count(&found(0, 2, vec![pod("10.0.0.11", false, false), unplaced()])), 0);
    assert_eq!(
        count(&found(1, 1, vec![serves(), unplaced()])),
        0,
        "a rollout is under way"
    );
    assert_eq!(count(&found(2, 2, vec![serves(), serves()])), 0);

    let spec = json!({ "replicas": 2, "proxies": { "replicas": 2 }, "dispatcher": { "hostNetwork": {} } });
    let works = |proxies_unplaced| {
        let observation = Observation {
            proxies_unplaced,
            ..Observation::default()
        };
        let planned = observation.planned(&valid(&spec), ucf::plan::Instant::default());
        planned
            .proxies
            .iter()
            .all(|proxy| matches!(proxy.life, ucf::plan::Life::Active { .. }))
    };
    assert!(works(1) && !works(0));
}

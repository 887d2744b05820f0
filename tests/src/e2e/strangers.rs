//! Who is no part of a SipCluster reaches what is for everybody, and no more: its NetworkPolicies say who that is, and the network of ours holds them.

use std::collections::BTreeSet;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::kubernetes::image;
use super::world::{NAME, World};

/// A stranger's pod, and the policy that lets strangers in for a while.
const STRANGER: &str = "stranger";

/// The ports of a kind of pod: those for everybody, those for all pods of whatever namespace, and those for other parts of the SipCluster.
type Ports = (&'static str, [&'static [u16]; 3]);

const PORTS: [Ports; 3] = [
    ("container", [&[], &[9090], &[5070, 5071]]),
    ("proxy", [&[5060], &[9090], &[5071]]),
    ("redis", [&[], &[], &[6379, 26379]]),
];

/// Names those of the addresses where somebody takes a connection, asked all at once: he answers, or closes. No port of ours takes this for a message,
/// and containers close what has proved nothing after five seconds.
const WHO_TAKES: &str = r#"
    for at; do {
        said=$(timeout 10 redis-cli -h "${at%:*}" -p "${at#*:}" "$(printf '?\r\n\r\n?')" 2>&1)
        case $?$said in 124* | *"Could not connect"*) ;; *) echo "$at" ;; esac
    } & done
    wait"#;

/// A pod in the same namespace and a host outside reach no more than they should, until a policy lets them.
pub fn kept_out(world: &World) -> anyhow::Result<()> {
    let kept_out = are_kept_out(world);
    for kind in ["networkpolicy", "pod"] {
        world
            .kubernetes
            .kubectl(&["delete", kind, STRANGER, "--ignore-not-found"])?;
    }
    kept_out
}

fn are_kept_out(world: &World) -> anyhow::Result<()> {
    let [everybody, pods, parts] = addresses(world)?;
    let pods = &everybody | &pods;
    let all = &pods | &parts;
    run(world)?;
    let (within, outside): (&[&str], &[&str]) = (&["kubectl", "exec", STRANGER, "--"], &["client"]);
    reached(world, within, &all, &pods)?;
    reached(world, outside, &all, &everybody)?;
    // What they did not reach is there: they do once a policy lets them.
    let of_all = json!({
        "podSelector": {"matchLabels": {"app.kubernetes.io/instance": NAME}},
        "policyTypes": ["Ingress"],
        "ingress": [{}],
    });
    apply(world, "networking.k8s.io/v1", "NetworkPolicy", &of_all)?;
    reached(world, within, &all, &all)?;
    reached(world, outside, &all, &all)
}

/// The addresses of the SipCluster's pods with their ports, by whom they are for.
fn addresses(world: &World) -> anyhow::Result<[BTreeSet<String>; 3]> {
    let mut addresses = [const { BTreeSet::new() }; 3];
    for (component, ports) in PORTS {
        for (pod, _) in world.pods(component)? {
            let pod = world.kubernetes.get(&["pod", &pod])?;
            let ip = pod["status"]["podIP"].as_str().context("it has an address")?;
            for (addresses, ports) in addresses.iter_mut().zip(ports) {
                addresses.extend(ports.iter().map(|port| format!("{ip}:{port}")));
            }
        }
    }
    Ok(addresses)
}

/// Runs a pod that has nothing to do with the SipCluster, but for being in its namespace.
fn run(world: &World) -> anyhow::Result<()> {
    let spec = json!({
        "terminationGracePeriodSeconds": 1,
        "automountServiceAccountToken": false,
        "securityContext": {"runAsNonRoot": true, "seccompProfile": {"type": "RuntimeDefault"}},
        "containers": [{
            "name": STRANGER,
            "image": image("redis"),
            "command": ["/usr/bin/sleep", "infinity"],
            "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
        }],
    });
    apply(world, "v1", "Pod", &spec)?;
    let is_ready = ["wait", "--for=condition=Ready", "pod", STRANGER, "--timeout=60s"];
    world.kubernetes.kubectl(&is_ready).map(drop)
}

fn apply(world: &World, version: &str, kind: &str, spec: &Value) -> anyhow::Result<()> {
    let object = json!({"apiVersion": version, "kind": kind, "metadata": {"name": STRANGER}, "spec": spec});
    world.kubernetes.apply(&object.to_string(), world.scratch()).map(drop)
}

/// Of all addresses those that should be are reached from there, and no others.
fn reached(world: &World, from: &[&str], all: &BTreeSet<String>, should: &BTreeSet<String>) -> anyhow::Result<()> {
    let all: Vec<_> = all.iter().map(String::as_str).collect();
    let ask = [from, &["/bin/sh", "-c", WHO_TAKES, "sh"], &all].concat();
    let said = world.kubernetes.run(&ask)?;
    let reached: BTreeSet<String> = said.lines().map(Into::into).collect();
    ensure!(reached == *should, "{from:?} reaches {reached:?}, not {should:?}");
    Ok(())
}

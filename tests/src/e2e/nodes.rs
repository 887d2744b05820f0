//! SipClusters at the addresses of nodes, whose proxies go and are succeeded with calls up: one with its proxies in the network of two nodes, and one
//! at a port of a node.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::json;

use super::beside::{Beside, UNRESTRICTED};
use super::calls::Calls;
use super::world::{Status, World};

const NAME: &str = "nodes";

/// As many nodes as proxies, so that each proxy's successor has its address.
const NODES: [&str; 2] = ["node0", "node1"];

/// What those nodes are called.
const LABEL: &str = "example.com/edge";

/// Other ports than anything else has on a node.
const SPEC: &str = r#"{
    "replicas": 2,
    "containers": {"workers": 1},
    "proxies": {"replicas": 2, "workers": 1, "drain": "3s", "nodeSelector": {"example.com/edge": "true"}},
    "dispatcher": {"port": 5160, "hostNetwork": {"ucfPort": 5171, "adminPort": 9190}}
}"#;

/// One more of them, which no node has room for.
const ONE_MORE: &str = r#"{
    "replicas": 1,
    "proxies": {"replicas": 1, "nodeSelector": {"example.com/edge": "true"}},
    "dispatcher": {"port": 5160, "hostNetwork": {"ucfPort": 5181, "adminPort": 9191}}
}"#;

/// One at a port of a node where both its proxies are.
const AT_A_PORT: &str = "node-port";

/// Of those that Kubernetes lets Services have.
const NODE_PORT: u16 = 30560;

/// What all proxies are replaced for.
const DRAIN: &str = r#"{"spec": {"proxies": {"drain": "2s"}}}"#;

/// SIPp's port at the first address, and what is between it and that at the second.
const PORTS: (u16, usize) = (8000, 10);

/// The longest answer: a proxy drains, its pod is gone from the node, its successor starts there, and the request is repeated after 4 s.
const LATEST: Duration = Duration::from_secs(20);

/// Where another proxy is there to take it, a datagram that a proxy took with it is repeated soon.
const SOON: Duration = Duration::from_secs(4);

/// A proxy's pod is deleted, then all are replaced, with calls at both addresses.
pub fn replaced(world: &World) -> anyhow::Result<()> {
    for node in NODES {
        world
            .kubernetes
            .kubectl(&["label", "node", node, "--overwrite", &format!("{LABEL}=true")])?;
    }
    let nodes = Beside::create(world, UNRESTRICTED, NAME, SPEC)?;
    nodes.until("it is Ready at two addresses", |status| {
        status.is_current() && status.addresses().len() == NODES.len()
    })?;
    let addresses = nodes.status()?.addresses();
    told(world, &nodes.status()?, &addresses)?;
    collides(world)?;
    let mut calls = Vec::new();
    for (address, port) in addresses.iter().zip((PORTS.0..).step_by(PORTS.1)) {
        calls.push((*address, Calls::start(world, *address, port)?));
    }

    let deleted = nodes.proxies()?.into_iter().next().context("a proxy")?;
    world
        .kubernetes
        .kubectl(&["delete", "pod", "-n", UNRESTRICTED, &deleted, "--wait=false"])?;
    back(&nodes, &[deleted], &addresses)?;
    let rolled = nodes.proxies()?;
    nodes.patch(DRAIN)?;
    back(&nodes, &rolled, &addresses)?;

    for (address, calls) in calls {
        none_lost(address, calls, LATEST)?;
    }
    nodes.delete()?;
    for node in NODES {
        world
            .kubernetes
            .kubectl(&["label", "node", node, &format!("{LABEL}-")])?;
    }
    Ok(())
}

/// The same without a load balancer: a Service of the type NodePort, at the address of a node. One container more comes, then the proxies are replaced.
pub fn at_a_port(world: &World) -> anyhow::Result<()> {
    let node = world.kubernetes.get(&["node", NODES[0]])?;
    let addresses = node["status"]["addresses"].as_array().context("a node has addresses")?;
    let internal = addresses.iter().find(|address| address["type"] == "InternalIP");
    let address: IpAddr = internal
        .and_then(|address| address["address"].as_str())
        .context("it is internal")?
        .parse()?;
    let spec = json!({
        "replicas": 1,
        "containers": {"workers": 1},
        "proxies": {"replicas": 2, "workers": 1, "drain": "3s", "nodeSelector": {"kubernetes.io/hostname": NODES[0]}},
        "dispatcher": {"advertised": address, "service": {"type": "NodePort", "nodePort": NODE_PORT}},
    });
    let beside = Beside::create(world, "default", AT_A_PORT, &spec.to_string())?;
    let address = SocketAddr::new(address, NODE_PORT);
    beside.until("it is Ready at the node's port", |status| {
        status.is_current() && status.address() == Some(address)
    })?;
    let answered = world.helm_test()?;
    for transport in ["UDP", "TCP"] {
        let said = format!("default/{AT_A_PORT}, {transport}: 200");
        ensure!(answered.contains(&said), "not {said:?}: {answered}");
    }
    let calls = Calls::start(world, address, PORTS.0)?;
    world
        .kubernetes
        .kubectl(&["scale", "sipcluster", AT_A_PORT, "--replicas=2"])?;
    beside.until("it has two containers", |status| {
        status.is_current() && status.is_counted(2)
    })?;
    let replaced = beside.proxies()?;
    beside.patch(DRAIN)?;
    beside.until_proxies_replaced(&replaced, 2)?;
    beside.until("it is as wanted", Status::is_current)?;
    none_lost(address, calls, SOON)?;
    beside.delete()
}

/// Waits for the last of the calls: each went well, and was answered in time.
pub fn none_lost(at: SocketAddr, calls: Calls, latest: Duration) -> anyhow::Result<()> {
    let outcome = calls.finish()?;
    ensure!(
        outcome.lost == 0 && outcome.refused == 0 && outcome.worst <= latest,
        "at {at}: {outcome:?}"
    );
    Ok(())
}

/// The status says where it is, and it answers there.
fn told(world: &World, status: &Status, addresses: &[SocketAddr]) -> anyhow::Result<()> {
    let egress = status.condition("EgressAddress").context("it has the condition")?;
    let answered = world.helm_test()?;
    for address in addresses {
        ensure!(
            egress.0 == "True" && egress.1.contains(&address.to_string()),
            "EgressAddress does not name {address}: {egress:?}"
        );
        for transport in ["UDP", "TCP"] {
            let said = format!("{UNRESTRICTED}/{NAME}, {transport} at {address}: 200");
            ensure!(answered.contains(&said), "not {said:?}: {answered}");
        }
    }
    Ok(())
}

/// Another one with the same port does not share a node with it unnoticed: its proxy is not placed, and its status says why.
fn collides(world: &World) -> anyhow::Result<()> {
    let more = Beside::create(world, UNRESTRICTED, "one-more", ONE_MORE)?;
    more.until("its status says that no node has its ports free", |status| {
        status
            .condition("Degraded")
            .is_some_and(|(status, why)| status == "True" && why.contains("free ports"))
    })?;
    more.delete()
}

/// Waits until none of those that are to go is left, and their successors serve at the same addresses.
fn back(nodes: &Beside<'_>, gone: &[String], addresses: &[SocketAddr]) -> anyhow::Result<()> {
    nodes.until_proxies_replaced(gone, NODES.len())?;
    nodes.until("proxies serve at the same addresses", |status| {
        status.is_current() && status.addresses() == addresses
    })
}

//! A SipCluster whose proxies are in the network of their nodes: calls at the addresses of two, while proxies go and their successors come.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context, ensure};

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

/// SIPp's port at the first address, and what is between it and that at the second.
const PORTS: (u16, usize) = (8000, 10);

/// The longest answer: a proxy drains, its pod is gone from the node, its successor starts there, and the request is repeated after 4 s.
const LATEST: Duration = Duration::from_secs(20);

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
    let change = r#"{"spec": {"proxies": {"drain": "2s"}}}"#;
    let patch = [
        "patch",
        "sipcluster",
        "-n",
        UNRESTRICTED,
        NAME,
        "--type=merge",
        "-p",
        change,
    ];
    world.kubernetes.kubectl(&patch)?;
    back(&nodes, &rolled, &addresses)?;

    for (address, calls) in calls {
        let outcome = calls.finish()?;
        ensure!(
            outcome.lost == 0 && outcome.refused == 0 && outcome.worst <= LATEST,
            "at {address}: {outcome:?}"
        );
    }
    nodes.delete()?;
    for node in NODES {
        world
            .kubernetes
            .kubectl(&["label", "node", node, &format!("{LABEL}-")])?;
    }
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

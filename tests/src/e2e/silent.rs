//! Callers behind a NAT that say nothing for longer than NAT and nodes remember a flow, and are sent a BYE all the same.
//!
//! It takes as long as it takes, so they begin some scenarios ahead, with a SipCluster each, and end in turns of their own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::beside::{Beside, UNRESTRICTED};
use super::world::{Status, World};
use crate::interop::process::wait_every;
use crate::interop::sipp::{Run, Sipp};

/// A caller, and the SipCluster that it calls.
pub struct Caller {
    /// The scenario in which its call ends.
    pub title: &'static str,
    name: &'static str,
    spec: &'static str,
    way: Way,
    /// The phone's port.
    port: u16,
}

/// What the SipCluster sends by itself, and how that reaches the caller.
enum Way {
    /// Through the entry of the Service that the call has left at its proxy's node.
    Entry,
    /// From the Service's address, whichever proxy sends it: the one that took the call is deleted.
    Egress,
    /// From a node's address: the proxy that has it is replaced.
    Node,
}

/// Before which scenario they begin: it and those up to their own take as long as they are silent.
pub const AHEAD: &str = "wrong SipClusters beside it";

/// All of them, in the order of their scenarios.
pub const CALLERS: [Caller; 3] = [
    Caller {
        title: "a caller behind a NAT, sent a BYE after 150 s of silence",
        name: "patient",
        spec: r#"{"replicas": 1, "proxies": {"replicas": 1}, "application": {"answer": {"hold": "150s"}}}"#,
        way: Way::Entry,
        port: 6000,
    },
    Caller {
        title: "the same with an egress address, from another proxy than its own, which was deleted in the silence",
        name: "patient-elsewhere",
        // A port that nothing else in a pod sends from.
        spec: r#"{
            "replicas": 1,
            "containers": {"workers": 1},
            "proxies": {"replicas": 2, "workers": 1, "drain": "3s"},
            "application": {"answer": {"hold": "150s"}},
            "dispatcher": {"port": 5360}
        }"#,
        way: Way::Egress,
        port: 6010,
    },
    Caller {
        title: "the same at a node's address, its proxy there replaced in the silence",
        name: "patient-nodes",
        // As many nodes as proxies, so that a proxy's successor has its address.
        spec: r#"{
            "replicas": 1,
            "containers": {"workers": 1},
            "proxies": {"replicas": 2, "workers": 1, "drain": "3s", "nodeSelector": {"example.com/patient": "true"}},
            "application": {"answer": {"hold": "150s"}},
            "dispatcher": {"port": 5260, "hostNetwork": {"ucfPort": 5271, "adminPort": 9290}}
        }"#,
        way: Way::Node,
        port: 6020,
    },
];

/// The network namespace that is the phones, and the NAT.
const BEHIND: &str = "e2e-nat";

/// The phones' own address, which nobody else knows.
const PHONE: [u8; 4] = [198, 18, 253, 2];

/// After how long a SipCluster ends a call. NAT and nodes forget a flow after 120 s.
const HOLD: Duration = Duration::from_secs(150);

/// The nodes, as the script that makes them has them.
const NODES: [&str; 3] = ["0", "1", "2"];

/// Those that the proxies are on which have their nodes' addresses.
const LABELLED: [&str; 2] = ["node0", "node1"];
const LABEL: &str = "example.com/patient";

/// What a proxy counts once it has had a call's ACK.
const ACK: &str = r#"sipcluster_proxy_messages_total{kind="in_dialog_request",result="forwarded"} "#;

const LOOK: Duration = Duration::from_millis(300);

/// A call that is up.
pub struct Silent {
    title: &'static str,
    sipp: Sipp,
    begun: Instant,
}

/// Begins the calls of these callers; proxies that are to go are gone when it returns, and their successors are there.
pub fn begin(world: &World, callers: &[&Caller]) -> anyhow::Result<()> {
    let mut besides = Vec::new();
    for caller in callers {
        if let Way::Node = caller.way {
            for node in LABELLED {
                let label = format!("{LABEL}=true");
                world
                    .kubernetes
                    .kubectl(&["label", "node", node, "--overwrite", &label])?;
            }
        }
        besides.push((
            caller,
            Beside::create(world, caller.namespace(), caller.name, caller.spec)?,
        ));
    }
    for (caller, beside) in &besides {
        beside.until("it is Ready", Status::is_current)?;
        let call = caller.call(world, beside)?;
        world.silent.lock().expect("nobody panics with it in hand").push(call);
    }
    for (caller, beside) in &besides {
        match caller.way {
            Way::Entry => {}
            Way::Egress => delete_proxy(world, beside, 9090)?,
            Way::Node => delete_proxy(world, beside, 9290)?,
        }
    }
    Ok(())
}

/// Waits for the call's end. Whatever came of it, nothing of it stays.
pub fn ended(world: &World, caller: &Caller) -> anyhow::Result<()> {
    let over = has_ended(world, caller);
    Beside::find(world, caller.namespace(), caller.name).delete()?;
    match caller.way {
        Way::Entry => {}
        Way::Egress => on_nodes(world, "delete table ip egress")?,
        Way::Node => {
            for node in LABELLED {
                world
                    .kubernetes
                    .kubectl(&["label", "node", node, &format!("{LABEL}-")])?;
            }
        }
    }
    over
}

fn has_ended(world: &World, caller: &Caller) -> anyhow::Result<()> {
    let call = {
        let mut calls = world.silent.lock().expect("nobody panics with it in hand");
        let at = calls.iter().position(|call| call.title == caller.title);
        calls.remove(at.context("the call was begun")?)
    };
    let left = (HOLD + Duration::from_secs(30)).saturating_sub(call.begun.elapsed());
    let statistics = call.sipp.finish(left)?;
    ensure!(statistics.successful() == 1, "no BYE has come: {statistics:?}");
    Ok(())
}

impl Caller {
    fn namespace(&self) -> &'static str {
        match self.way {
            Way::Entry | Way::Egress => "default",
            Way::Node => UNRESTRICTED,
        }
    }

    fn call(&self, world: &World, beside: &Beside<'_>) -> anyhow::Result<Silent> {
        let status = beside.status()?;
        let first = || status.addresses().first().copied();
        let target = status.address().or_else(first).context("it has an address")?;
        if let Way::Egress = self.way {
            give_egress_address(world, target)?;
        }
        let run = Run {
            scenario: "silent",
            target: Some(target),
            local: SocketAddr::from((PHONE, self.port)),
            network: Some(BEHIND),
            ..Run::default()
        };
        let mut sipp = Sipp::start(world.scratch(), self.name, &run)?;
        sipp.wait_until("the call is up", Duration::from_secs(10), |now| now.current() == 1)?;
        Ok(Silent {
            title: self.title,
            sipp,
            begun: Instant::now(),
        })
    }
}

/// What pods send by themselves from the port of this address leaves from the address, as by an egress gateway; each node is one. What they answer
/// leaves from it anyway, by the entry that the request has left.
fn give_egress_address(world: &World, address: SocketAddr) -> anyhow::Result<()> {
    let (pods, port) = ("198.18.0.0/20", address.port());
    let rule = format!("ip saddr {pods} udp sport {port} snat to {address}");
    on_nodes(
        world,
        &format!("table ip egress {{ chain out {{ type nat hook postrouting priority srcnat; {rule}; }}; }}"),
    )
}

fn on_nodes(world: &World, words: &str) -> anyhow::Result<()> {
    for node in NODES {
        world.kubernetes.run(&["node", node, "nft", words])?;
    }
    Ok(())
}

/// Deletes the pod of the proxy that has taken the only call, and waits for its successor: at the same address, if each has one.
fn delete_proxy(world: &World, beside: &Beside<'_>, admin: u16) -> anyhow::Result<()> {
    let namespace = beside.namespace;
    let addresses = beside.status()?.addresses();
    let proxies = beside.proxies()?;
    let has_call = |pod: &&String| {
        let page = metrics(world, namespace, pod, admin).unwrap_or_default();
        let mut counts = page.lines().filter_map(|line| line.strip_prefix(ACK));
        counts.any(|count| count != "0")
    };
    let its = wait_every(LOOK, "a proxy has the call", Duration::from_secs(10), || {
        proxies.iter().find(has_call)
    })?;
    let delete = ["delete", "pod", "-n", namespace, its, "--wait=false"];
    world.kubernetes.kubectl(&delete)?;
    beside.until_proxies_replaced(std::slice::from_ref(its), proxies.len())?;
    beside.until("another proxy serves", |status| {
        status.is_current() && status.addresses() == addresses
    })
}

/// The metrics of a proxy, asked from its node: the API server, which is no pod, is kept out by its NetworkPolicy.
fn metrics(world: &World, namespace: &str, pod: &str, admin: u16) -> anyhow::Result<String> {
    let pod = world.kubernetes.get(&["pod", "-n", namespace, pod])?;
    let node = pod["spec"]["nodeName"].as_str().context("it has a node")?;
    let ip = pod["status"]["podIP"].as_str().context("it has an address")?;
    let ask = format!("exec 3<>/dev/tcp/{ip}/{admin}; printf 'GET /metrics HTTP/1.0\\r\\n\\r\\n' >&3; cat <&3");
    let number = node.trim_start_matches("node");
    world
        .kubernetes
        .run(&["node", number, "timeout", "5", "bash", "-c", &ask])
}

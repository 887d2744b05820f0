//! Flows kept open: how a peer behind a NAT is told from others, and the pings that containers ask for.

mod support;

use proxy::forward::DropReason;
use support::{Proxy, config, config_of_node, fields, keyring, one, param, request, tcp, udp};
use ucf::flow::{Flow, Held};
use ucf::wire::{Body, KeepOpen};

const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];

/// The flow that the proxy names to the container for a client whose Via says `192.0.2.1:5060`.
fn named(source: Flow) -> Flow {
    named_by(Proxy::new(config(1)), source)
}

fn named_by(mut proxy: Proxy, source: Flow) -> Flow {
    let link = proxy.container(0xa, &ALL, 1);
    proxy.client(source, &request("INVITE", "sip:bob@192.0.2.10", "1", "", ""));
    let inner = one(proxy.arrived(link));
    let in_via = param(fields(&inner, "Via")[0], "fl").expect("a flow");
    let in_route = param(fields(&inner, "Record-Route")[0], "fl").expect("a flow");
    assert_eq!(in_via, in_route);
    Flow::decode(in_via.as_bytes(), &keyring()).expect("ours")
}

#[test]
fn a_peer_whose_via_is_its_source_is_behind_no_nat() {
    assert!(!named(udp("192.0.2.1:5060")).translated);
    assert!(named(udp("192.0.2.1:5061")).translated, "another port");
    assert!(named(udp("203.0.113.9:5060")).translated, "another address");
    assert!(
        !named(tcp("203.0.113.9:4711", 1, 0, 3)).translated,
        "a stream keeps itself"
    );
}

#[test]
fn a_proxy_that_is_known_by_another_address_is_behind_one_itself() {
    let behind = |local: &str| {
        let mut config = config(1);
        config.listeners[0].local = local.parse().unwrap();
        Proxy::new(config)
    };
    assert!(named_by(behind("10.244.0.7:5060"), udp("192.0.2.1:5060")).translated);
    assert!(named_by(behind("0.0.0.0:5060"), udp("192.0.2.1:5060")).translated);
    assert!(!named_by(behind("10.244.0.7:5060"), tcp("192.0.2.1:5060", 1, 0, 3)).translated);
}

#[test]
fn a_datagrams_flow_that_another_worker_has_named_leaves_here() {
    let config = config_of_node(1, "192.0.2.10");
    let worker = |worker| {
        let mut config = config.clone();
        config.me.worker = worker;
        Proxy::new(config)
    };
    let mut proxy = worker(0);
    let link = proxy.container(0xa, &ALL, 1);
    let flow = named_by(worker(1), udp("203.0.113.9:1024"));
    assert!(matches!(
        flow.held,
        Some(Held::Address {
            process: 1,
            place: Some(_)
        })
    ));
    // In an earlier version a flow named the worker too.
    let earlier = Flow {
        held: tcp("203.0.113.9:1025", 1, 1, 0).held,
        ..udp("203.0.113.9:1025")
    };
    for flow in [flow, earlier] {
        let flows = vec![flow.encode(&keyring()).as_bytes().to_vec()];
        proxy.frame(link, Body::KeepOpen(KeepOpen { flows }));
        let (to, ping) = proxy.sent();
        assert_eq!((to.remote, &*ping), (flow.remote, "\r\n\r\n"), "by its own socket");
    }
}

#[test]
fn flows_are_pinged_where_a_container_asks_for_it() {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(0xa, &ALL, 1);
    let natted = Flow {
        translated: true,
        ..udp("203.0.113.9:1024")
    };
    let token = |flow: &Flow| flow.encode(&keyring()).as_bytes().to_vec();
    let stream = tcp("203.0.113.9:1025", 1, 0, 3);
    let flows = vec![token(&natted), token(&stream), b"forged".to_vec()];
    proxy.frame(link, Body::KeepOpen(KeepOpen { flows }));
    assert_eq!(proxy.sent(), (natted, "\r\n\r\n".to_owned()));
    let counters = proxy.forwarder.counters();
    assert_eq!((counters.pings, counters.drops[DropReason::NoFlow as usize]), (1, 2));
}

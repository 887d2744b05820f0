//! The way of the messages of a call through one proxy and through another.

mod support;

use std::sync::Arc;
use std::time::Duration;

use proxy::forward::{Config, DropReason, Kind, LinkId, Outcome};
use support::{
    KEY, PARTITIONS, Proxy, begun, config, config_of_node, fields, keyring, one, param, partition, request, response,
    tag, tcp, udp,
};
use ucf::PartitionId;
use ucf::flow::{Flow, Transport};
use ucf::token::{Key, Keyring};
use ucf::transactions::Keys;
use ucf::wire::{Body, MemberState, Report, Transactions};

const A: u64 = 0xa;
const B: u64 = 0xb;
const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const CALLER: &str = "192.0.2.1:5062";
const URI: &str = "sip:bob@192.0.2.10";
const P: PartitionId = PartitionId(5);

fn proxy() -> (Proxy, LinkId) {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(A, &ALL, 1);
    (proxy, link)
}

fn invite(branch: &str, extra: &str) -> String {
    request("INVITE", URI, branch, "", extra)
}

#[test]
fn a_call_of_six_messages_passes() {
    let (mut proxy, link) = proxy();
    proxy.client(udp(CALLER), &invite("1", ""));
    let inner = one(proxy.arrived(link));
    let p = partition(&inner);
    let vias = fields(&inner, "Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK"));
    assert_eq!(
        vias[1],
        "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport=5062;received=192.0.2.1"
    );
    assert_eq!(fields(&inner, "Max-Forwards"), ["69"]);
    let route = fields(&inner, "Record-Route")[0];
    assert!(route.starts_with("<sip:192.0.2.10:5060;lr;a="), "{route}");
    assert!(proxy.out().clients.is_empty());

    for status in ["180 Ringing", "200 OK"] {
        proxy.container_says(link, &response(&inner, status, &tag(p)));
        let (to, answer) = proxy.sent();
        assert_eq!(to.remote, udp(CALLER).remote);
        assert_eq!(fields(&answer, "Via"), [vias[1]]);
    }

    let routed = format!("Route: {route}\r\n");
    for (method, branch) in [("ACK", "2"), ("BYE", "3")] {
        let in_dialog = request(method, "sip:bob@10.0.0.1", branch, &tag(p), &routed);
        proxy.client(udp("192.0.2.1:7777"), &in_dialog);
        let arrived = one(proxy.arrived(link));
        assert_eq!(partition(&arrived), p);
        assert!(fields(&arrived, "Route").is_empty() && fields(&arrived, "Record-Route").is_empty());
        if method == "BYE" {
            proxy.container_says(link, &response(&arrived, "200 OK", ""));
            let latest = udp("192.0.2.1:7777").remote;
            assert_eq!(proxy.sent().0.remote, latest, "where the latest message came from");
        }
    }
    let counters = proxy.forwarder.counters();
    assert_eq!(
        counters.messages[Kind::NewRequest as usize][Outcome::Forwarded as usize],
        1
    );
    assert_eq!(counters.drops.iter().sum::<u64>(), 0);
}

#[test]
fn in_dialog_requests_are_found_by_route_tag_or_target() {
    let (mut proxy, link) = proxy();
    let token = keyring().token(P).to_string();
    let requests = [
        request("BYE", URI, "1", &tag(P), ""),
        request(
            "BYE",
            URI,
            "2",
            "foreign",
            &format!("Route: <sip:192.0.2.10;lr;a={token}>\r\n"),
        ),
        request("BYE", &format!("sip:192.0.2.10;a={token}"), "3", "foreign", ""),
    ];
    for request in requests {
        proxy.client(udp(CALLER), &request);
        assert_eq!(partition(&one(proxy.arrived(link))), P);
    }
}

#[test]
fn new_requests_that_name_a_partition_go_there() {
    let (mut proxy, link) = proxy();
    let token = keyring().token(P).to_string();
    let named = tag(P);
    let requests = [
        request("INVITE", &format!("sip:192.0.2.10;a={token}"), "1", "", ""),
        invite("2", &format!("Replaces: other@host;to-tag={named};from-tag=x\r\n")),
        invite("3", &format!("Join: other@host;to-tag=x;from-tag={named}\r\n")),
        invite(
            "4",
            &format!("Target-Dialog: other@host;local-tag={named};remote-tag=x\r\n"),
        ),
    ];
    for (n, request) in requests.iter().enumerate() {
        let other_call = request.replace("call-1@", &format!("call-{n}@"));
        proxy.client(udp(CALLER), &other_call);
        assert_eq!(partition(&one(proxy.arrived(link))), P, "{request}");
    }
}

#[test]
fn what_is_forged_is_refused() {
    let (mut proxy, link) = proxy();
    let token = keyring().token(P).to_string();
    let forged = format!("{}{}", &token[..21], if token.ends_with('0') { '1' } else { '0' });
    let cases = [
        (request("BYE", URI, "1", &format!("{forged}-1"), ""), "481"),
        (request("BYE", URI, "2", "foreign", ""), "481"),
        (request("OPTIONS", &format!("{URI};a={forged}"), "4", "", ""), "403"),
        (
            invite("5", &format!("Route: <sip:192.0.2.10;lr;a={forged}>\r\n")),
            "403",
        ),
    ];
    for (request, status) in cases {
        proxy.client(udp(CALLER), &request);
        let (to, answer) = proxy.sent();
        assert!(answer.starts_with(&format!("SIP/2.0 {status} ")), "{answer}");
        assert_eq!(to, udp(CALLER));
        assert!(fields(&answer, "Via")[0].ends_with(";rport=5062;received=192.0.2.1"));
    }
    proxy.client(udp(CALLER), &request("ACK", URI, "6", "foreign", ""));
    assert!(proxy.out().clients.is_empty(), "an ACK is never answered");
    assert!(proxy.arrived(link).is_empty());
}

#[test]
fn hops_loops_and_extensions_are_checked() {
    let (mut proxy, link) = proxy();
    let no_hops = invite("1", "").replace("Max-Forwards: 70", "Max-Forwards: 0");
    proxy.client(udp(CALLER), &no_hops);
    assert!(proxy.sent().1.starts_with("SIP/2.0 483 "));
    proxy.client(udp(CALLER), &no_hops.replace("INVITE", "ACK"));
    assert!(proxy.out().clients.is_empty());

    proxy.client(udp(CALLER), &invite("2", "Proxy-Require: foo, bar\r\n"));
    let (_, answer) = proxy.sent();
    assert!(answer.starts_with("SIP/2.0 420 "));
    assert_eq!(fields(&answer, "Unsupported"), ["foo, bar"]);

    proxy.client(udp(CALLER), &invite("3", "").replace("Max-Forwards: 70\r\n", ""));
    let inner = one(proxy.arrived(link));
    assert_eq!(fields(&inner, "Max-Forwards"), ["70"]);
    proxy.client(udp(CALLER), &inner);
    assert!(proxy.sent().1.starts_with("SIP/2.0 482 "), "a loop");
    proxy.client(udp(CALLER), &inner.replace("bob@192.0.2.10", "carol@192.0.2.10"));
    // A spiral: no loop for a proxy, but for the user agent behind it the same request by another way (s8.2.2.2).
    assert!(proxy.sent().1.starts_with("SIP/2.0 482 Request Merged"));
}

#[test]
fn retransmission_cancel_and_ack_follow_the_first_request() {
    let (mut proxy, link) = proxy();
    proxy.client(udp(CALLER), &invite("1", ""));
    let first = one(proxy.arrived(link));
    proxy.client(udp(CALLER), &invite("1", ""));
    assert_eq!(one(proxy.arrived(link)), first, "the same bytes (RFC 3261 s16.11)");
    proxy.client(udp(CALLER), &request("CANCEL", URI, "1", "", ""));
    let cancel = one(proxy.arrived(link));
    let branch = |message: &str| param(fields(message, "Via")[0], "branch").map(str::to_owned);
    assert_eq!(
        (partition(&cancel), branch(&cancel)),
        (partition(&first), branch(&first))
    );
    proxy.container_says(
        link,
        &response(&first, "487 Request Terminated", &tag(partition(&first))),
    );
    proxy.client(udp(CALLER), &request("ACK", URI, "1", &tag(partition(&first)), ""));
    let ack = one(proxy.arrived(link));
    assert_eq!((partition(&ack), branch(&ack)), (partition(&first), branch(&first)));
}

#[test]
fn another_proxy_finds_the_call_once_it_is_announced() {
    let (mut first, link) = proxy();
    let mut second = Proxy::new(config(2));
    let other = second.container(A, &ALL, 1);
    let third = second.container(B, &[], 1);
    first.client(udp(CALLER), &invite("1", ""));
    let inner = one(first.arrived(link));
    let branch = param(fields(&inner, "Via")[0], "branch").unwrap();
    let (keys, _) = Keys::of_branch(branch.as_bytes()).expect("the keys stand in the branch");
    let announced = Transactions {
        keys: vec![keys.transaction],
        merged: vec![keys.merged],
        partitions: vec![u32::from(partition(&inner).0)],
        ended: vec![],
    };
    second.frame(other, Body::Transactions(announced));

    second.client(udp(CALLER), &invite("1", ""));
    let strip = |message: &str| {
        let via = fields(message, "Via")[0].to_owned();
        (message.replace(&via, ""), param(&via, "branch").map(str::to_owned))
    };
    let again = one(second.arrived(other));
    assert_eq!(strip(&again), strip(&inner), "the same but for nothing");
    second.client(udp(CALLER), &request("CANCEL", URI, "1", "", ""));
    assert_eq!(partition(&one(second.arrived(other))), partition(&inner));
    second.client(udp("192.0.2.3:5060"), &invite("other-way", ""));
    assert!(second.sent().1.starts_with("SIP/2.0 482 Request Merged"));
    assert!(second.arrived(third).is_empty());
}

/// A proxy that issues with the second key carries on what began through one with the first; one that has forgotten the first does not.
#[test]
fn a_call_survives_a_change_of_the_key() {
    let (first, second) = (KEY, Key { id: 2, secret: [2; 16] });
    let with = |incarnation, keyring| Config {
        keyring: Arc::new(keyring),
        ..config(incarnation)
    };
    let rotated = || Keyring::new(second, &[first], PARTITIONS).hashing_transactions_with(first);
    let mut old = Proxy::new(with(1, Keyring::new(first, &[second], PARTITIONS)));
    let mut new = Proxy::new(with(2, rotated()));
    let forgetful = Keyring::new(second, &[], PARTITIONS).hashing_transactions_with(first);
    let mut forgetful = Proxy::new(with(3, forgetful));
    let [at_old, at_new, at_forgetful] = [&mut old, &mut new, &mut forgetful].map(|proxy| proxy.container(A, &ALL, 1));

    old.client(udp(CALLER), &invite("1", ""));
    let inner = one(old.arrived(at_old));
    let p = partition(&inner);
    for (proxy, link) in [(&mut new, at_new), (&mut forgetful, at_forgetful)] {
        proxy.frame(link, begun(&invite("1", ""), p.0.into()));
    }
    new.client(udp(CALLER), &invite("1", ""));
    let again = one(new.arrived(at_new));
    let via = |message: &str, name: &str| param(fields(message, "Via")[0], name).map(str::to_owned);
    assert_eq!(
        via(&again, "branch"),
        via(&inner, "branch"),
        "it is the same request to the container"
    );
    assert_ne!(via(&again, "pt"), via(&inner, "pt"), "each issues with its own key");

    // What came through the old proxy is answered through the new one.
    new.container_says(at_new, &response(&inner, "200 OK", &tag(p)));
    let (to, answer) = new.sent();
    assert_eq!(to.remote, udp(CALLER).remote);
    let routed = format!("Route: {}\r\n", fields(&answer, "Record-Route")[0]);
    for (branch, route) in [("2", routed.as_str()), ("3", "")] {
        let bye = request("BYE", URI, branch, &tag(p), route);
        new.client(udp(CALLER), &bye);
        let arrived = one(new.arrived(at_new));
        let pt = via(&arrived, "pt").expect("the proxy names the partition");
        assert_eq!(rotated().verify(pt.as_bytes()).partition(), Some(p));
        forgetful.client(udp(CALLER), &bye);
        assert!(forgetful.sent().1.starts_with("SIP/2.0 481 "), "it was told too early");
    }
}

#[test]
fn a_cancel_that_comes_before_the_news_of_its_invite_waits_a_moment() {
    let (mut first, link) = proxy();
    let mut second = Proxy::new(config(2));
    let other = second.container(A, &ALL, 1);
    first.client(udp(CALLER), &invite("1", ""));
    let inner = one(first.arrived(link));
    let branch = param(fields(&inner, "Via")[0], "branch").unwrap();
    let (keys, _) = Keys::of_branch(branch.as_bytes()).unwrap();
    for branch in ["1", "unknown"] {
        second.client(udp(CALLER), &request("CANCEL", URI, branch, "", ""));
    }
    assert!(second.arrived(other).is_empty() && second.out().clients.is_empty());
    let announced = Transactions {
        keys: vec![keys.transaction],
        merged: vec![keys.merged],
        partitions: vec![u32::from(partition(&inner).0)],
        ended: vec![],
    };
    second.frame(other, Body::Transactions(announced));
    assert_eq!(partition(&one(second.arrived(other))), partition(&inner));
    second.wait(Duration::from_millis(500));
    let answers = second.out().clients;
    assert_eq!(answers.len(), 1);
    assert!(answers[0].1.starts_with("SIP/2.0 481 "));
}

#[test]
fn nobody_is_told_that_there_is_no_such_call_while_its_partition_may_be_without_an_owner() {
    let mut proxy = Proxy::new(config(1));
    let fallen = proxy.container(A, &[0, 1, 2, 3], 1);
    let survivor = proxy.container(B, &[4, 5, 6, 7], 1);
    proxy.down(fallen);
    for branch in ["1", "unknown"] {
        proxy.client(udp(CALLER), &request("CANCEL", URI, branch, "", ""));
    }
    proxy.wait(Duration::from_millis(600));
    assert!(proxy.out().clients.is_empty());
    proxy.owns(survivor, B, &[0, 1, 2, 3], 2);
    proxy.frame(survivor, support::begun(&invite("1", ""), 3));
    assert_eq!(
        one(proxy.arrived(survivor)).lines().next(),
        Some("CANCEL sip:bob@192.0.2.10 SIP/2.0")
    );
    proxy.wait(Duration::from_millis(500));
    assert!(proxy.sent().1.starts_with("SIP/2.0 500 "));
    proxy.client(udp(CALLER), &request("CANCEL", URI, "another", "", ""));
    proxy.wait(Duration::from_millis(400));
    assert!(proxy.sent().1.starts_with("SIP/2.0 481 "), "all are there");
}

#[test]
fn nobody_is_told_that_there_is_no_such_call_while_no_container_can_say_so() {
    let mut proxy = Proxy::new(config(1));
    for branch in ["1", "unknown"] {
        proxy.client(udp(CALLER), &request("CANCEL", URI, branch, "", ""));
    }
    proxy.wait(Duration::from_millis(900));
    assert!(proxy.out().clients.is_empty());
    // A container comes that has the one call from the store.
    let link = proxy.container(A, &ALL, 1);
    proxy.frame(link, support::begun(&invite("1", ""), 5));
    assert_eq!(partition(&one(proxy.arrived(link))), P);
    proxy.wait(Duration::from_millis(200));
    assert!(proxy.sent().1.starts_with("SIP/2.0 503 "));
}

#[test]
fn a_transaction_is_forgotten_32_seconds_after_its_end() {
    let (mut proxy, link) = proxy();
    proxy.client(udp(CALLER), &invite("1", ""));
    let inner = one(proxy.arrived(link));
    proxy.wait(Duration::from_secs(60));
    proxy.client(udp(CALLER), &request("CANCEL", URI, "1", "", ""));
    assert_eq!(proxy.arrived(link).len(), 1, "it still rings");
    proxy.container_says(link, &response(&inner, "486 Busy Here", &tag(partition(&inner))));
    proxy.wait(Duration::from_secs(31));
    assert_eq!(proxy.forwarder.counters().transactions, 1);
    proxy.wait(Duration::from_secs(2));
    assert_eq!(proxy.forwarder.counters().transactions, 0);
}

#[test]
fn responses_go_where_the_via_says() {
    let (mut proxy, link) = proxy();
    let asked = invite("1", "");
    let cases: [(Flow, String, &str); 4] = [
        (udp(CALLER), asked.clone(), "192.0.2.1:5062"),
        (udp(CALLER), asked.replace(";rport", ""), "192.0.2.1:5060"),
        (
            udp(CALLER),
            asked
                .replace("192.0.2.1:5060;", "phone.example.org;")
                .replace(";rport", ""),
            "192.0.2.1:5060",
        ),
        (
            tcp(CALLER, 1, 0, 9),
            asked.replace("SIP/2.0/UDP", "SIP/2.0/TCP"),
            "192.0.2.1:5060",
        ),
    ];
    for (n, (source, request, remote)) in cases.into_iter().enumerate() {
        proxy.client(
            source,
            &request
                .replace("call-1@", &format!("call-{n}@"))
                .replace("K1", &format!("K{n}")),
        );
        let inner = one(proxy.arrived(link));
        proxy.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
        let (to, _) = proxy.sent();
        assert_eq!((to.remote.to_string().as_str(), to.held), (remote, source.held));
    }
}

#[test]
fn a_stream_of_another_worker_or_of_a_dead_proxy_is_reached() {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(A, &ALL, 1);
    proxy.client(tcp(CALLER, 1, 3, 9), &invite("1", ""));
    let inner = one(proxy.arrived(link));
    assert!(fields(&inner, "Record-Route")[0].contains(";transport=tcp;lr;"));
    proxy.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
    let out = proxy.out();
    assert_eq!((out.clients.len(), out.workers.len(), out.workers[0].0), (0, 1, 3));

    let mut other = Proxy::new(config(2));
    let link = other.container(A, &ALL, 1);
    other.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
    let (to, _) = other.sent();
    assert_eq!(
        (to.held, to.remote.port()),
        (None, 5060),
        "to the sent-by, on a new connection"
    );
}

#[test]
fn ipv6_goes_all_the_way() {
    let (mut proxy, link) = proxy();
    let source = udp("[2001:db8::1]:5062");
    let asked = request("INVITE", "sip:bob@[2001:db8::10]", "1", "", "").replace("192.0.2.1:5060", "[2001:db8::1]");
    proxy.client(source, &asked);
    let inner = one(proxy.arrived(link));
    let vias = fields(&inner, "Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP [2001:db8::10]:5060;branch="));
    assert!(vias[1].ends_with(";rport=5062;received=2001:db8::1"), "{}", vias[1]);
    let route = fields(&inner, "Record-Route")[0].to_owned();
    proxy.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
    assert_eq!(proxy.sent().0.remote, source.remote);
    let spelt = route.replace("2001:db8::10", "2001:0DB8:0::10");
    let routed = format!("Route: {spelt}\r\n");
    proxy.client(
        source,
        &request("BYE", "sip:b@x", "2", &tag(partition(&inner)), &routed),
    );
    assert!(fields(&one(proxy.arrived(link)), "Route").is_empty());
}

#[test]
fn own_routes_are_stripped_also_double_ones_and_others_stay() {
    let (mut proxy, link) = proxy();
    let token = keyring().token(P).to_string();
    let routes = format!(
        "Route: <sip:192.0.2.10:5060;transport=tcp;lr;a={token}>, <sip:SIP.example.com;lr>\r\n\
         Route: <sip:192.0.2.10;lr>,<sip:192.0.2.99;lr>\r\n"
    );
    proxy.client(udp(CALLER), &request("BYE", URI, "1", &tag(P), &routes));
    assert_eq!(fields(&one(proxy.arrived(link)), "Route"), ["<sip:192.0.2.99;lr>"]);
}

#[test]
fn a_strict_router_is_understood() {
    let (mut proxy, link) = proxy();
    let token = keyring().token(P).to_string();
    let strict = request(
        "BYE",
        &format!("sip:192.0.2.10:5060;lr;a={token}"),
        "1",
        &tag(P),
        "Route: <sip:192.0.2.98;lr>, <sip:bob@10.0.0.1>\r\n",
    );
    proxy.client(udp(CALLER), &strict);
    let inner = one(proxy.arrived(link));
    assert!(inner.starts_with("BYE sip:bob@10.0.0.1 SIP/2.0\r\n"), "{inner}");
    assert_eq!(fields(&inner, "Route"), ["<sip:192.0.2.98;lr>"]);
}

/// A proxy that has its node's address.
fn of_node(address: &str, incarnation: u64, route_host: Option<&str>) -> (Proxy, LinkId) {
    let mut config = config_of_node(incarnation, address);
    config.route_host = route_host.map(Into::into);
    let mut proxy = Proxy::new(config);
    let link = proxy.container(A, &ALL, 1);
    (proxy, link)
}

#[test]
fn a_call_that_came_by_one_nodes_address_goes_on_by_anothers() {
    let (mut first, first_link) = of_node("192.0.2.10", 1, None);
    first.client(udp(CALLER), &invite("1", ""));
    let inner = one(first.arrived(first_link));
    let route = fields(&inner, "Record-Route")[0].to_owned();
    assert!(route.starts_with("<sip:192.0.2.10:5060;lr;a="), "{route}");
    let ok = response(&inner, "200 OK", &tag(partition(&inner)));
    let contact = "Contact: <sip:sipcluster.invalid:5060;a=x>\r\nContent-Length";
    first.container_says(first_link, &ok.replacen("Content-Length", contact, 1));
    let (_, answer) = first.sent();
    assert_eq!(fields(&answer, "Contact"), ["<sip:192.0.2.10:5060;a=x>"]);

    // The first one is gone with its node.
    let (mut second, link) = of_node("192.0.2.20", 2, None);
    let routed = format!("Route: {route}\r\n");
    second.client(udp(CALLER), &request("BYE", URI, "2", &tag(P), &routed));
    assert!(fields(&one(second.arrived(link)), "Route").is_empty());
    second.container_says(link, &from_container(&routed));
    let (to, bye) = second.sent();
    assert_eq!(to.remote, udp(CALLER).remote, "the flow that the Route names");
    assert!(fields(&bye, "Route").is_empty());
    assert!(fields(&bye, "Via")[0].starts_with("SIP/2.0/UDP 192.0.2.20:5060;"));
    // A request that has been here before, through the other one.
    first.client(udp(CALLER), &request("OPTIONS", URI, "3", "", ""));
    let looped = one(first.arrived(first_link));
    second.client(udp("192.0.2.10:5060"), &looped);
    assert!(second.sent().1.starts_with("SIP/2.0 482 "));
}

#[test]
fn a_name_of_all_proxies_stands_in_record_route_and_leads_here() {
    let (mut proxy, link) = of_node("192.0.2.10", 1, Some("sip.example.com"));
    proxy.client(udp(CALLER), &invite("1", ""));
    let inner = one(proxy.arrived(link));
    // Without a port, which would keep peers from looking for SRV records.
    let route = fields(&inner, "Record-Route")[0];
    assert!(route.starts_with("<sip:sip.example.com;lr;a="), "{route}");
    // Answers come back to this one.
    assert!(fields(&inner, "Via")[0].starts_with("SIP/2.0/UDP 192.0.2.10:5060;"));
    let plain = "Route: <sip:sip.example.com;lr>\r\n";
    proxy.client(udp(CALLER), &request("BYE", URI, "2", &tag(P), plain));
    assert!(fields(&one(proxy.arrived(link)), "Route").is_empty());
}

fn from_container(route: &str) -> String {
    let branch = format!("{}-1", keyring().token(P));
    request("BYE", "sip:alice@192.0.2.77:5070", &branch, "alice", route).replace("192.0.2.1:5060", "192.0.2.10:5060")
}

#[test]
fn a_containers_request_leaves_on_the_peers_flow_and_its_response_comes_back() {
    let (mut proxy, link) = proxy();
    let flow = udp("192.0.2.1:7777").encode(&keyring());
    let flow = std::str::from_utf8(flow.as_bytes()).unwrap();
    let route = format!("Route: <sip:192.0.2.10:5060;lr;a={};fl={flow}>\r\n", keyring().token(P));
    proxy.container_says(link, &from_container(&route));
    let (to, bye) = proxy.sent();
    assert_eq!(to, udp("192.0.2.1:7777"));
    assert!(fields(&bye, "Route").is_empty());
    assert_eq!(
        (fields(&bye, "Via").len(), fields(&bye, "Max-Forwards")),
        (2, vec!["69"])
    );
    assert!(fields(&bye, "Via")[0].ends_with(";rport"));

    // As a peer answers that saw it come from elsewhere (RFC 3581 s4).
    let answer = response(&bye, "200 OK", "").replacen(";rport", ";rport=40000;received=198.51.100.7", 1);
    proxy.client(udp("192.0.2.1:7777"), &answer);
    let answer = one(proxy.arrived(link));
    assert_eq!(fields(&answer, "Via"), fields(&from_container(""), "Via"));
}

#[test]
fn a_containers_request_without_flow_goes_to_the_next_hop() {
    let (mut proxy, link) = proxy();
    for (route, remote) in [
        ("", "192.0.2.77:5070"),
        ("Route: <sip:192.0.2.66;lr>\r\n", "192.0.2.66:5060"),
        ("Route: <sip:192.0.2.10;lr>, <sip:192.0.2.66:9;lr>\r\n", "192.0.2.66:9"),
    ] {
        proxy.container_says(link, &from_container(route));
        assert_eq!(proxy.sent().0, udp(remote));
    }
    for hop in ["no.address.example;lr", "192.0.2.10;lr;fl=forged"] {
        proxy.container_says(link, &from_container(&format!("Route: <sip:{hop}>\r\n")));
        assert!(proxy.out().clients.is_empty());
        assert!(
            one(proxy.arrived(link)).starts_with("SIP/2.0 503 "),
            "the container is told"
        );
    }
}

#[test]
fn a_containers_request_that_cannot_be_sent_is_answered_with_503_and_a_response_is_dropped() {
    let (mut proxy, link) = proxy();
    let asked = from_container("").replace("5070 SIP", "5070;transport=tcp SIP");
    proxy.container_says(link, &asked);
    let (to, outer) = proxy.sent();
    assert_eq!(to.transport, Transport::Tcp);
    proxy.unsent(to, &outer);
    let answer = one(proxy.arrived(link));
    assert!(answer.starts_with("SIP/2.0 503 Service Unavailable\r\n"), "{answer}");
    for name in ["Via", "Call-ID", "CSeq"] {
        assert_eq!(fields(&answer, name), fields(&asked, name));
    }
    for unanswered in [outer.replace("BYE", "ACK"), response(&outer, "200 OK", "")] {
        proxy.unsent(to, &unanswered);
    }
    assert!(proxy.arrived(link).is_empty() && proxy.out().clients.is_empty());
    assert_eq!(proxy.forwarder.counters().drops[DropReason::NoFlow as usize], 2);
}

#[test]
fn a_containers_call_is_record_routed_with_its_flow() {
    let (mut proxy, link) = proxy();
    let call = from_container("")
        .replace("BYE", "INVITE")
        .replace(";tag=alice\r\nCall", "\r\nCall");
    proxy.container_says(link, &call);
    let (_, invite) = proxy.sent();
    let route = fields(&invite, "Record-Route")[0];
    assert_eq!(
        keyring().verify(param(route, "a").unwrap().as_bytes()).partition(),
        Some(P)
    );
    let flow = Flow::decode(param(route, "fl").unwrap().as_bytes(), &keyring());
    assert_eq!(flow, Some(udp("192.0.2.77:5070")));
    // The cluster calls itself: no loop.
    proxy.client(udp("192.0.2.10:5060"), &invite);
    assert_eq!(proxy.arrived(link).len(), 1);
}

#[test]
fn the_clusters_own_header_fields_pass_neither_in_nor_out() {
    const OWN: &str = "UCF-Heartbeat: 1\r\nX-Other: stays\r\nucf-heartbeat: 2\r\nUCF-Later: 3\r\nUCFX: stays\r\n";
    let is_clean = |message: &str| {
        let fields = message
            .lines()
            .filter(|line| line.to_ascii_lowercase().starts_with("ucf-"));
        assert_eq!(fields.count(), 0, "{message}");
        assert!(message.contains("\r\nX-Other: stays\r\nUCFX: stays\r\n"), "{message}");
    };
    let (mut proxy, link) = proxy();
    proxy.client(udp(CALLER), &invite("1", OWN));
    let inner = one(proxy.arrived(link));
    is_clean(&inner);
    let others = OWN
        .replace("UCF-Heartbeat", "UCF-Else")
        .replace("ucf-heartbeat", "ucf-else");
    let answer = response(&inner, "200 OK", &tag(partition(&inner)));
    proxy.container_says(
        link,
        &answer.replace("Content-Length", &format!("{others}Content-Length")),
    );
    is_clean(&proxy.sent().1);
    let asked = from_container(&format!("Route: <sip:192.0.2.77;lr>\r\n{others}"));
    proxy.container_says(link, &asked);
    let (_, asked) = proxy.sent();
    is_clean(&asked);
    let answer = response(&asked, "200 OK", "");
    proxy.client(
        udp(CALLER),
        &answer.replace("Content-Length", &format!("{OWN}Content-Length")),
    );
    is_clean(&one(proxy.arrived(link)));
}

#[test]
fn stray_responses_are_dropped() {
    let (mut proxy, link) = proxy();
    let foreign = response(&request("BYE", URI, "1", "x", ""), "200 OK", "");
    proxy.client(udp(CALLER), &foreign);
    proxy.client(udp(CALLER), &foreign.replace("192.0.2.1:5060", "192.0.2.10:5060"));
    assert!(proxy.arrived(link).is_empty() && proxy.out().clients.is_empty());
    assert_eq!(proxy.forwarder.counters().drops.iter().sum::<u64>(), 2);
}

#[test]
fn without_a_container_that_takes_it_a_new_call_is_refused() {
    let mut proxy = Proxy::new(config(1));
    proxy.client(udp(CALLER), &invite("1", ""));
    proxy.wait(Duration::from_millis(1100));
    let (_, answer) = proxy.sent();
    assert!(answer.starts_with("SIP/2.0 503 "));
    assert_eq!(fields(&answer, "Retry-After").len(), 1);
    let link = proxy.container(A, &ALL, 1);
    let overloaded = Report {
        state: MemberState::Active as i32,
        queue_delay_us: 5_000_000,
        ..Report::default()
    };
    for _ in 0..12 {
        proxy.frame(link, Body::Report(overloaded.clone()));
        proxy.wait(Duration::from_millis(100));
    }
    proxy.out();
    proxy.client(udp(CALLER), &invite("2", ""));
    assert!(proxy.sent().1.starts_with("SIP/2.0 503 "), "at once");
}

#[test]
fn a_call_that_was_refused_after_waiting_is_not_begun_by_its_repetition() {
    let mut proxy = Proxy::new(config(1));
    let call = invite("1", "");
    proxy.client(udp(CALLER), &call);
    proxy.wait(Duration::from_millis(500));
    proxy.client(udp(CALLER), &call); // T1 is over
    proxy.wait(Duration::from_millis(600));
    assert!(proxy.sent().1.starts_with("SIP/2.0 503 "));
    let link = proxy.container(A, &ALL, 1);
    assert!(proxy.arrived(link).is_empty());
}

#[test]
fn a_proxy_that_has_just_started_lets_new_calls_wait_for_its_first_container() {
    let mut proxy = Proxy::new(config(1));
    for call in 0..3 {
        proxy.client(
            udp(CALLER),
            &invite("1", "")
                .replace("call-1", &format!("call-{call}"))
                .replace("K1", &format!("K{call}")),
        );
    }
    proxy.wait(Duration::from_millis(400));
    let link = proxy.link(A);
    proxy.active(link);
    assert!(proxy.arrived(link).is_empty());
    proxy.owns(link, A, &ALL, 1);
    assert_eq!(proxy.arrived(link).len(), 3);
    proxy.wait(Duration::from_secs(2));
    assert!(proxy.out().clients.is_empty());
}

#[test]
fn a_call_that_is_cancelled_while_it_waits_for_a_container_ends_there() {
    let mut proxy = Proxy::new(config(1));
    let (call, cancel) = (invite("1", ""), request("CANCEL", URI, "1", "", ""));
    for branch in ["1", "2"] {
        proxy.client(
            udp(CALLER),
            &invite(branch, "").replace("call-1@", &format!("call-{branch}@")),
        );
    }
    proxy.client(udp(CALLER), &cancel);
    let statuses = |proxy: &mut Proxy| -> Vec<String> {
        let answers = proxy.out().clients;
        answers
            .iter()
            .map(|(_, answer)| format!("{} {}", &answer[8..11], fields(answer, "CSeq")[0]))
            .collect()
    };
    assert_eq!(statuses(&mut proxy), ["487 1 INVITE", "200 1 CANCEL"]);
    let link = proxy.container(A, &ALL, 1);
    assert!(
        one(proxy.arrived(link)).contains("Call-ID: call-2@"),
        "the other one goes on"
    );
    // The answers were lost.
    proxy.client(udp(CALLER), &call);
    proxy.client(udp(CALLER), &cancel);
    assert_eq!(statuses(&mut proxy), ["487 1 INVITE", "200 1 CANCEL"]);
    proxy.client(udp(CALLER), &request("ACK", URI, "1", "of-the-487", ""));
    proxy.client(udp(CALLER), &call);
    assert_eq!(statuses(&mut proxy), ["487 1 INVITE"], "a late one begins no call");
    proxy.wait(Duration::from_secs(40));
    assert!(proxy.arrived(link).is_empty() && statuses(&mut proxy).is_empty());
}

/// Those that are over are remembered, but take no place of those that wait.
#[test]
fn cancelled_calls_take_no_place_of_calls_that_wait_for_a_container() {
    let mut proxy = Proxy::new(config(1));
    let of = |n: usize, message: String| {
        let message = message.replace("call-1@", &format!("call-{n}@"));
        message.replace("branch=z9hG4bK1;", &format!("branch=z9hG4bK{n};"))
    };
    for n in 0..5000 {
        proxy.client(udp(CALLER), &of(n, invite("1", "")));
        proxy.client(udp(CALLER), &of(n, request("CANCEL", URI, "1", "", "")));
        assert_eq!(proxy.out().clients.len(), 2);
    }
    proxy.client(udp(CALLER), &of(6000, invite("1", "")));
    // The last ones are still remembered.
    proxy.client(udp(CALLER), &of(4999, invite("1", "")));
    assert!(proxy.sent().1.starts_with("SIP/2.0 487 "));
    let link = proxy.container(A, &ALL, 1);
    assert!(one(proxy.arrived(link)).contains("Call-ID: call-6000@"));
}

/// Once, as what it is: when it goes on, or is answered. A repetition that is absorbed is held.
#[test]
fn a_call_that_waits_for_a_container_is_counted_as_a_new_one() {
    let mut proxy = Proxy::new(config(1));
    let counts = |proxy: &Proxy, kind: Kind| proxy.forwarder.counters().messages[kind as usize];
    let of = |outcomes: &[Outcome]| {
        let mut counts = [0; Outcome::NAMES.len()];
        outcomes.iter().for_each(|outcome| counts[*outcome as usize] += 1);
        counts
    };
    proxy.client(udp(CALLER), &invite("1", ""));
    assert_eq!(counts(&proxy, Kind::NewRequest), of(&[]));
    proxy.client(udp(CALLER), &invite("1", ""));
    assert_eq!(counts(&proxy, Kind::NewRequest), of(&[Outcome::Held]));
    proxy.container(A, &ALL, 1);
    assert_eq!(
        counts(&proxy, Kind::NewRequest),
        of(&[Outcome::Held, Outcome::Forwarded])
    );
    assert_eq!(counts(&proxy, Kind::InDialogRequest), of(&[]));

    let mut proxy = Proxy::new(config(1));
    proxy.client(udp(CALLER), &invite("1", ""));
    proxy.wait(Duration::from_secs(2));
    assert_eq!(counts(&proxy, Kind::NewRequest), of(&[Outcome::Answered]));
}

#[test]
fn each_call_stays_with_one_worker() {
    let mut workers: Vec<Proxy> = (0..4)
        .map(|worker| {
            let mut config = config(1);
            config.me.worker = worker;
            config.workers = 4;
            Proxy::new(config)
        })
        .collect();
    let links: Vec<LinkId> = workers.iter_mut().map(|proxy| proxy.container(A, &ALL, 1)).collect();
    let mut passed = 0;
    for call in 0..40 {
        let asked = invite(&call.to_string(), "").replace("call-1@", &format!("call-{call}@"));
        workers[0].client(udp(CALLER), &asked);
        let out = workers[0].out();
        let Some((worker, message)) = out.workers.first() else {
            assert_eq!(workers[0].arrived(links[0]).len(), 1);
            continue;
        };
        passed += 1;
        let other = &mut workers[usize::from(*worker)];
        other.passed(udp(CALLER), message);
        assert_eq!(other.arrived(links[usize::from(*worker)]).len(), 1);
    }
    assert!((20..40).contains(&passed), "{passed}");
}

#[test]
fn malformed_messages_are_refused_or_dropped_and_never_panic() {
    let (mut proxy, link) = proxy();
    proxy.client(
        udp(CALLER),
        &invite("1", "").replace("CSeq: 1 INVITE", "CSeq: x INVITE"),
    );
    assert!(proxy.sent().1.starts_with("SIP/2.0 400 "));
    let whole = invite("2", "Route: <sip:192.0.2.10;lr>\r\n").into_bytes();
    for cut in 0..whole.len() {
        proxy.client_bytes(udp(CALLER), &whole[..cut]);
    }
    let mut seed = 1_u64;
    for _ in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..1 + seed % 4 {
            seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            let at = (seed >> 33) as usize % bytes.len();
            bytes[at] = (seed >> 20) as u8;
        }
        proxy.client_bytes(udp(CALLER), &bytes);
        proxy.container_says_bytes(link, &bytes);
    }
    proxy.out();
}

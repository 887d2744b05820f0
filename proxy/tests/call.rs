//! The way of the messages of a call through one proxy and through another.

mod support;

use proxy::forward::{Kind, Outcome};
use support::{Proxy, config, fields, param, partition, request, response, tag, udp};

const A: u64 = 0xa;
const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const CALLER: &str = "192.0.2.1:5062";

fn proxy() -> (Proxy, proxy::forward::LinkId) {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(A, &ALL, 1);
    (proxy, link)
}

fn one(mut messages: Vec<String>) -> String {
    assert_eq!(messages.len(), 1, "{messages:#?}");
    messages.remove(0)
}

#[test]
fn a_call_of_six_messages_passes() {
    let (mut proxy, link) = proxy();
    proxy.client(udp(CALLER), &request("INVITE", "sip:bob@192.0.2.10", "1", "", ""));
    let invite = one(proxy.arrived(link));
    let p = partition(&invite);
    let vias = fields(&invite, "Via");
    assert!(vias[0].starts_with("SIP/2.0/UDP 192.0.2.10:5060;branch=z9hG4bK"));
    assert_eq!(
        vias[1],
        "SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport=5062;received=192.0.2.1"
    );
    assert_eq!(fields(&invite, "Max-Forwards"), ["69"]);
    let route = fields(&invite, "Record-Route")[0];
    assert!(route.starts_with("<sip:192.0.2.10:5060;lr;a="), "{route}");
    assert!(proxy.out().clients.is_empty());

    for status in ["180 Ringing", "200 OK"] {
        proxy.from_container(link, &response(&invite, status, &tag(p)));
        let (to, answer) = proxy.sent();
        assert_eq!(to, udp(CALLER));
        assert_eq!(fields(&answer, "Via"), [vias[1]]);
    }

    for (method, branch) in [("ACK", "2"), ("BYE", "3")] {
        let routed = request(
            method,
            "sip:bob@10.0.0.1",
            branch,
            &tag(p),
            &format!("Route: {route}\r\n"),
        );
        proxy.client(udp("192.0.2.1:7777"), &routed);
        let arrived = one(proxy.arrived(link));
        assert_eq!(partition(&arrived), p);
        assert!(fields(&arrived, "Route").is_empty() && fields(&arrived, "Record-Route").is_empty());
        if method == "BYE" {
            proxy.from_container(link, &response(&arrived, "200 OK", ""));
            assert_eq!(
                proxy.sent().0,
                udp("192.0.2.1:7777"),
                "where the latest message came from"
            );
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
fn an_in_dialog_request_without_route_is_found_by_its_tag() {
    let (mut proxy, link) = proxy();
    let p = ucf::PartitionId(5);
    proxy.client(udp(CALLER), &request("BYE", "sip:bob@192.0.2.10", "1", &tag(p), ""));
    assert_eq!(partition(&one(proxy.arrived(link))), p);
    let _ = param("a;b=c", "b");
}

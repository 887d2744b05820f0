//! The largest messages: what the edge takes can be read within, and what it does not take harms no link.

mod support;

use proxy::forward::LinkId;
use sip::{Index, Message};
use support::{Proxy, config, fields, one, param, request, response, tag, tcp, udp};
use transport::legs::{EDGE, INNER};
use ucf::PartitionId;

const CALLER: &str = "192.0.2.1:5060";

fn proxy() -> (Proxy, LinkId) {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    (proxy, link)
}

fn invite(extra: &str) -> String {
    request("INVITE", "sip:bob@192.0.2.10", "1", "", extra)
}

/// An INVITE with so many header fields, so long a Via line, or of so many bytes.
fn with_headers(count: usize) -> String {
    invite(&"X-More: 1\r\n".repeat(count - 7))
}

fn with_via_line(bytes: usize) -> String {
    let line = "Via: SIP/2.0/UDP 192.0.2.1:5060;branch=z9hG4bK1;rport";
    let padding = format!("{line};x={}", "x".repeat(bytes - line.len() - 5));
    invite("").replace(line, &padding)
}

fn with_bytes(count: usize) -> String {
    let bare = invite("").replace("Content-Length: 0", "Content-Length: 00000");
    let body = "b".repeat(count - bare.len());
    bare.replace("00000", &format!("{:05}", body.len())) + &body
}

#[test]
fn the_largest_messages_that_the_edge_takes_can_be_read_within() {
    let largest = [
        with_headers(EDGE.headers),
        with_via_line(EDGE.line),
        with_bytes(EDGE.message),
    ];
    for message in largest {
        let (mut proxy, link) = proxy();
        // Whatever can be added is: no Max-Forwards, and a name that differs from the source.
        let message = message.replace("Max-Forwards: 70", "X-Padding-----: ");
        proxy.client(udp("[2001:db8:1111:2222:3333:4444:5555:6666]:50600"), &message);
        let inner = one(proxy.arrived(link)); // reads as a container does
        assert_eq!(fields(&inner, "Max-Forwards").len(), 1);
        assert!(inner.contains("received=2001:db8:1111:2222:3333:4444:5555:6666"));
        proxy.container_says(link, &response(&inner, "200 OK", &tag(PartitionId(1))));
        let (_, answer) = proxy.sent();
        assert!(answer.starts_with("SIP/2.0 200 "));
    }
}

#[test]
fn what_is_beyond_is_answered_with_513_and_goes_to_no_container() {
    let beyond = [
        with_headers(EDGE.headers + 1),
        with_headers(INNER.headers),
        with_via_line(EDGE.line + 1),
        with_via_line(INNER.line - 100),
        with_bytes(EDGE.message + 1),
        with_bytes(INNER.message - 100),
    ];
    for message in beyond {
        for source in [udp(CALLER), tcp(CALLER, 1, 0, 7)] {
            let (mut proxy, link) = proxy();
            proxy.client(source, &message);
            let (to, answer) = proxy.sent();
            assert_eq!(to, source);
            assert!(answer.starts_with("SIP/2.0 513 "), "{answer:.100}");
            assert!(proxy.arrived(link).is_empty());
            // No answer to an ACK, nor to a response.
            proxy.client(source, &message.replace("INVITE", "ACK"));
            proxy.client(
                source,
                &message.replace("INVITE sip:bob@192.0.2.10 SIP/2.0", "SIP/2.0 200 OK"),
            );
            assert!(proxy.out().clients.is_empty() && proxy.arrived(link).is_empty());
        }
    }
}

#[test]
fn a_container_may_answer_with_as_many_vias_as_the_edge_takes_and_more_of_its_own() {
    let (mut proxy, link) = proxy();
    let vias = "Via: SIP/2.0/UDP 192.0.2.77;branch=z9hG4bKx\r\n".repeat(EDGE.headers - 7);
    proxy.client(udp(CALLER), &invite(&vias));
    let inner = one(proxy.arrived(link));
    let answer = response(&inner, "200 OK", &tag(PartitionId(1)));
    let answer = answer.replace("CSeq:", &("X-Own: 1\r\n".repeat(20) + "CSeq:"));
    let mut index = Index::new();
    index.scan(answer.as_bytes(), &INNER).unwrap();
    assert!(Message::new(answer.as_bytes(), &index).vias().count() > 100);
    proxy.container_says(link, &answer);
    let (_, answer) = proxy.sent();
    assert_eq!(param(fields(&answer, "Via")[0], "branch"), Some("z9hG4bK1"));
}

//! More calls than containers can take: new dialogs are refused first, what belongs to calls that are up never, emergency calls last.

mod support;

use std::time::Duration;

use proxy::forward::LinkId;
use support::{Proxy, STARTED, config, fields, one, param, partition, request, response, tag, udp};
use ucf::PartitionId;
use ucf::wire::{Body, Confirm, MemberState, Report};

const CALLER: &str = "192.0.2.1:5060";
const URI: &str = "sip:bob@192.0.2.10";
const TICK: Duration = Duration::from_millis(100);

/// A proxy with a container that owns everything and has not confirmed anything for so long.
fn waiting(time: Duration) -> (Proxy, LinkId) {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    proxy.client(udp(CALLER), &call(0, URI));
    assert_eq!(proxy.arrived(link).len(), 1);
    for _ in 0..(time.as_millis() / TICK.as_millis()) {
        proxy.wait(TICK);
        proxy.active(link);
    }
    proxy.out();
    (proxy, link)
}

/// What clients have been sent is 503.
fn assert_only_refusals(proxy: &mut Proxy) {
    let sent = proxy.out().clients;
    let is_refusal = |(_, answer): &(_, String)| answer.starts_with("SIP/2.0 503");
    assert!(!sent.is_empty() && sent.iter().all(is_refusal), "{sent:?}");
}

fn call(n: usize, uri: &str) -> String {
    request("INVITE", uri, &format!("c{n}"), "", "").replace("call-1@", &format!("call-{n}@"))
}

#[test]
fn new_calls_are_refused_with_a_time_to_come_back() {
    let (mut proxy, link) = waiting(Duration::from_secs(3));
    for n in 1..20 {
        proxy.client(udp(CALLER), &call(n, URI));
        let (_, answer) = proxy.sent();
        assert!(answer.starts_with("SIP/2.0 503 "), "{answer}");
        assert_eq!(fields(&answer, "Retry-After").len(), 1);
    }
    assert!(proxy.arrived(link).is_empty());
    proxy.confirm(link, 1, &[]);
    proxy.wait(TICK * 13);
    proxy.active(link);
    proxy.client(udp(CALLER), &call(20, URI));
    assert_eq!(proxy.arrived(link).len(), 1, "it has caught up");
}

/// Nothing is confirmed meanwhile, and new calls are not refused for the wait.
#[test]
fn new_calls_leave_half_of_the_window_to_those_that_are_up() {
    let mut config = config(1);
    config.limits.window_bytes = 512 << 10;
    let mut proxy = Proxy::new(config);
    let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    let holds = Report {
        state: MemberState::Active as i32,
        holds: true,
        ..Report::default()
    };
    proxy.frame(link, Body::Report(holds));
    let (mut taken, mut bytes) = (0, 0);
    for n in 0..2000 {
        proxy.client(udp(CALLER), &call(n, URI));
        let arrived = proxy.arrived(link);
        bytes += arrived.iter().map(String::len).sum::<usize>();
        taken += arrived.len();
    }
    assert!(
        (200 << 10..257 << 10).contains(&bytes),
        "{taken} calls of {bytes} bytes"
    );
    assert_only_refusals(&mut proxy);
    proxy.client(udp(CALLER), &call(2000, "urn:service:sos"));
    assert_eq!(proxy.arrived(link).len(), 1);
    for n in 0..taken {
        let bye = request("BYE", URI, &format!("b{n}"), &tag(PartitionId(2)), "");
        proxy.client(udp(CALLER), &bye);
        assert_eq!(proxy.arrived(link).len(), 1, "{n}");
    }
}

/// A call of an upstream that holds calls back if it is told to (RFC 7339 s4.1).
fn asking(n: usize) -> String {
    let asks = if n.is_multiple_of(2) {
        ";rport;oc;oc-algo=\"loss\""
    } else {
        ";rport;oc"
    };
    call(n, URI).replace(";rport", asks)
}

/// What it is told by a message: how many of a hundred calls, and when.
fn told(message: &str) -> (u32, f64) {
    let via = fields(message, "Via")[0];
    let param = |name| param(via, name).unwrap_or_default();
    assert_eq!(param("received"), "192.0.2.1");
    assert_eq!((param("oc-algo"), param("oc-validity")), ("\"loss\"", "500"));
    (param("oc").parse().unwrap(), param("oc-seq").parse().unwrap())
}

#[test]
fn an_upstream_that_asks_is_told_how_many_calls_to_hold_back() {
    let (mut proxy, link) = reporting(160);
    let mut last = STARTED.as_secs_f64();
    let mut seen = [false; 2];
    for n in 1..40 {
        proxy.client(udp(CALLER), &asking(n));
        let arrived = proxy.arrived(link);
        // By the container's answer, and by the refusal.
        seen[usize::from(arrived.is_empty())] = true;
        for inner in &arrived {
            proxy.container_says(link, &response(inner, "200 OK", &tag(partition(inner))));
        }
        let (_, answer) = proxy.sent();
        let (percent, sequence) = told(&answer);
        assert_eq!(percent, 50, "{answer}");
        assert!(sequence >= last, "{sequence} after {last}");
        last = sequence;
    }
    assert_eq!(seen, [true; 2]);
    assert!(last > STARTED.as_secs_f64());

    proxy.client(udp(CALLER), &call(50, URI));
    for inner in proxy.arrived(link) {
        proxy.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
    }
    assert!(!proxy.sent().1.contains("oc="), "nobody else is");
}

#[test]
fn an_upstream_is_told_of_no_overload_too() {
    let (mut proxy, link) = reporting(0);
    proxy.client(udp(CALLER), &asking(1));
    let inner = one(proxy.arrived(link));
    proxy.container_says(link, &response(&inner, "200 OK", &tag(partition(&inner))));
    assert_eq!(told(&proxy.sent().1).0, 0);
}

#[test]
fn a_moment_without_confirmations_refuses_nobody() {
    let (mut proxy, link) = waiting(Duration::from_millis(900));
    proxy.client(udp(CALLER), &call(1, URI));
    assert_eq!(proxy.arrived(link).len(), 1);
}

#[test]
fn what_a_container_keeps_for_a_partition_that_may_be_anothers_refuses_nobody() {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    proxy.client(udp(CALLER), &call(0, URI));
    let kept = Confirm {
        kept: vec![1],
        ..Confirm::default()
    };
    proxy.frame(link, Body::Confirm(kept));
    for n in 1..30 {
        proxy.client(udp(CALLER), &call(n, URI));
        assert_eq!(proxy.arrived(link).len(), if n == 1 { 2 } else { 1 }, "{n}");
        let kept = Confirm {
            kept: vec![n as u64 + 1],
            ..Confirm::default()
        };
        proxy.frame(link, Body::Confirm(kept));
        proxy.wait(TICK);
        proxy.active(link);
    }
    // What it keeps goes to whoever turns out to own the partition.
    let other = proxy.container(0xb, &[0, 1, 2, 3, 4, 5, 6, 7], 2);
    assert_eq!(proxy.arrived(other).len(), 30);
}

/// One that is kept for long, as its partition's owner is not known, holds up nothing else: with what follows it the window would be full.
#[test]
fn a_message_that_a_container_keeps_does_not_fill_the_window() {
    for named in [true, false] {
        let mut config = config(1);
        config.limits.window_bytes = 128 << 10;
        let mut proxy = Proxy::new(config);
        let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
        proxy.client(udp(CALLER), &call(0, URI));
        let first = one(proxy.arrived(link));
        let mut refused = 0;
        for n in 1..2000 {
            let info = request("INFO", URI, &format!("i{n}"), &tag(PartitionId(2)), "");
            proxy.client(udp(CALLER), &info);
            let arrived = proxy.arrived(link);
            refused += usize::from(arrived.is_empty());
            let confirm = Confirm {
                kept: vec![1],
                finished: if named { Confirm::runs(0, [n + 1]) } else { Vec::new() },
                ..Confirm::default()
            };
            proxy.frame(link, Body::Confirm(confirm));
        }
        assert_eq!(refused == 0, named, "{refused} refused");
        // A proxy of before waits, and both have what is kept.
        let other = proxy.container(0xb, &[0, 1, 2, 3, 4, 5, 6, 7], 2);
        let mut again = proxy.arrived(other);
        proxy.wait(Duration::from_millis(50));
        again.extend(proxy.arrived(other));
        assert_eq!(again[0], first);
        assert_eq!(again.len(), if named { 1 } else { 2000 - refused });
    }
}

#[test]
fn what_belongs_to_calls_that_are_up_is_never_refused() {
    let (mut proxy, link) = waiting(Duration::from_secs(5));
    for method in ["INVITE", "ACK", "BYE", "INFO"] {
        proxy.client(udp(CALLER), &request(method, URI, method, &tag(PartitionId(2)), ""));
        assert!(one(proxy.arrived(link)).starts_with(method));
    }
    proxy.client(
        udp(CALLER),
        &request("CANCEL", URI, "c0", "", "").replace("call-1@", "call-0@"),
    );
    assert!(one(proxy.arrived(link)).starts_with("CANCEL"), "of the call that waits");
}

/// A proxy with a container that says for more than a second that its input waits for so many milliseconds.
fn reporting(millis: u32) -> (Proxy, LinkId) {
    let mut proxy = Proxy::new(config(1));
    let link = proxy.container(0xa, &[0, 1, 2, 3, 4, 5, 6, 7], 1);
    for _ in 0..12 {
        let report = Report {
            state: MemberState::Active as i32,
            queue_delay_us: millis * 1000,
            ..Report::default()
        };
        proxy.frame(link, Body::Report(report));
        proxy.wait(TICK);
    }
    proxy.out();
    (proxy, link)
}

#[test]
fn emergency_calls_are_refused_last() {
    let emergencies = [
        "urn:service:sos",
        "URN:service:sos.fire",
        "sip:112@192.0.2.10",
        "tel:112",
        "urn:service:police",
        "URN:service:Police.municipal",
    ];
    let (mut proxy, link) = reporting(460);
    for (n, uri) in emergencies.iter().cycle().take(100).enumerate() {
        proxy.client(udp(CALLER), &call(n, uri));
        assert_eq!(proxy.arrived(link).len(), 1, "{uri}");
    }
    let others = [
        "urn:service:sosx",
        "urn:service:counseling",
        "urn:service:policeman",
        "sip:1123@192.0.2.10",
        "sip:192.0.2.10",
    ];
    for (n, uri) in others.iter().cycle().take(100).enumerate() {
        proxy.client(udp(CALLER), &call(100 + n, uri));
    }
    let taken = proxy.arrived(link).len();
    assert!(taken < 20, "{taken} of 100 that are none");
    assert_only_refusals(&mut proxy);
    let (mut proxy, link) = reporting(1260);
    proxy.client(udp(CALLER), &call(1, emergencies[0]));
    assert!(proxy.arrived(link).is_empty() && proxy.sent().1.starts_with("SIP/2.0 503"));
    proxy.client(udp(CALLER), &request("BYE", URI, "up", &tag(PartitionId(2)), ""));
    assert!(one(proxy.arrived(link)).starts_with("BYE"), "calls that are up go on");
}

#[test]
fn a_container_that_is_behind_leaves_new_calls_to_the_others() {
    let (mut proxy, slow) = waiting(Duration::from_secs(3));
    let other = proxy.container(0xb, &[0, 1, 2, 3], 2);
    for n in 1..20 {
        proxy.client(udp(CALLER), &call(n, URI));
        proxy.active(other);
    }
    assert!(proxy.arrived(slow).is_empty() && proxy.out().clients.is_empty());
    // What waits in a partition that moved came along.
    assert!(proxy.arrived(other).len() >= 19);
}

//! Two proxies, one of which does not reach a container: what is for it goes through the other.

mod support;

use std::time::Duration;

use proxy::forward::{Config, DropReason, LinkId};
use support::{
    Proxy, config, config_of_node, fields, keyring, one, param, partition, request, response, tag, tcp, udp,
};
use ucf::PartitionId;
use ucf::flow::{Flow, Held, Place};
use ucf::transactions::Keys;
use ucf::wire::{Body, Heartbeat, Hello, KeepOpen, MemberState, ToClient, Transactions, View};

const A: u64 = 0xa;
const B: u64 = 0xb;
const C: u64 = 0xc;
const ALL: [u32; 8] = [0, 1, 2, 3, 4, 5, 6, 7];
const CALLER: &str = "192.0.2.1:5060";
const URI: &str = "sip:bob@192.0.2.10";
const TICK: Duration = Duration::from_millis(50);

/// A message for a client, and where it goes.
type Sent = (Flow, String);

/// Two proxies that are linked with one another.
struct Pair {
    /// Does not reach every container.
    cut: Proxy,
    other: Proxy,
    /// The link, as each sees it.
    links: (LinkId, LinkId),
    /// What left for clients: through the first, and through the second.
    clients: (Vec<Sent>, Vec<Sent>),
    joined: bool,
    /// Links that the first wants closed.
    closed: Vec<LinkId>,
}

/// What a proxy says of itself to another.
fn hello(proxy: &Proxy) -> Hello {
    let incarnation = proxy.forwarder.config().me.incarnation;
    let own = proxy.forwarder.own_address();
    Hello {
        version: 1,
        cluster: "demo".to_owned(),
        name: format!("demo-proxy-{incarnation}"),
        incarnation,
        worker: Some(0),
        sip: own.map_or_else(String::new, |address| address.to_string()),
        ..Hello::default()
    }
}

/// The same of an earlier version, which does not say where it is.
fn earlier(proxy: &Proxy) -> Hello {
    Hello {
        sip: String::new(),
        ..hello(proxy)
    }
}

impl Pair {
    fn new() -> Self {
        Self::of(config(1), config(2))
    }

    fn of(cut: Config, other: Config) -> Self {
        let mut pair = Self {
            cut: Proxy::new(cut),
            other: Proxy::new(other),
            links: (LinkId(0), LinkId(0)),
            clients: (Vec::new(), Vec::new()),
            joined: true,
            closed: Vec::new(),
        };
        pair.link(hello);
        pair
    }

    /// Links the two, which say this of themselves.
    fn link(&mut self, hello: fn(&Proxy) -> Hello) {
        let (of_cut, of_other) = (hello(&self.cut), hello(&self.other));
        let up = |proxy: &mut Proxy, hello| proxy.forwarder.peer_up(proxy.now, hello).expect("a proxy of ours");
        self.links = (up(&mut self.cut, &of_other), up(&mut self.other, &of_cut));
    }

    /// The first process ends.
    fn end_first(&mut self) {
        self.joined = false;
        self.other.down(self.links.1);
    }

    /// Another one comes in its place.
    fn succeed_first(&mut self, config: Config, hello: fn(&Proxy) -> Hello) {
        self.cut = Proxy::new(config);
        self.cut.now = self.other.now;
        self.joined = true;
        self.link(hello);
    }

    /// Lets frames pass between the two until there are none.
    fn pump(&mut self) {
        loop {
            let (cut, other) = (self.cut.out(), self.other.out());
            self.clients.0.extend(cut.clients);
            self.closed.extend(cut.closed);
            self.clients.1.extend(other.clients);
            let of = |frames: Vec<(LinkId, Body)>, link| frames.into_iter().filter(move |(to, _)| *to == link);
            let to_other: Vec<_> = of(cut.frames, self.links.0).collect();
            let to_cut: Vec<_> = of(other.frames, self.links.1).collect();
            if to_other.is_empty() && to_cut.is_empty() {
                return;
            }
            if self.joined {
                to_other
                    .into_iter()
                    .for_each(|(_, body)| self.other.frame(self.links.1, body));
                to_cut
                    .into_iter()
                    .for_each(|(_, body)| self.cut.frame(self.links.0, body));
            }
        }
    }

    fn wait(&mut self, time: Duration) {
        for _ in 0..(time.as_millis() / TICK.as_millis()) {
            self.cut.wait(TICK);
            self.other.wait(TICK);
            self.pump();
        }
    }

    /// What has left for the only client since the last time: through which proxy, and what.
    fn answer(&mut self) -> (u64, Flow, String) {
        self.pump();
        let through = |number, all: &mut Vec<_>| {
            let drained: Vec<Sent> = std::mem::take(all);
            drained.into_iter().map(move |(to, message)| (number, to, message))
        };
        let mut all: Vec<_> = through(1, &mut self.clients.0)
            .chain(through(2, &mut self.clients.1))
            .collect();
        assert_eq!(all.len(), 1, "{all:#?}");
        all.remove(0)
    }
}

fn in_dialog(method: &str, n: u16) -> String {
    request(method, URI, &format!("i{n}"), &tag(PartitionId(n)), "")
}

#[test]
fn calls_of_a_container_out_of_reach_go_on_through_the_other_proxy_in_both_directions() {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    // In dialog, over a connection that the cut-off proxy holds.
    let source = tcp("192.0.2.1:4711", 1, 0, 3);
    pair.cut.client(source, &in_dialog("BYE", 2));
    pair.pump();
    let inner = one(pair.other.arrived(a));
    assert_eq!(partition(&inner), PartitionId(2));
    pair.other.container_says(a, &response(&inner, "200 OK", ""));
    let (through, to, answer) = pair.answer();
    assert_eq!((through, to.held), (1, source.held), "by the connection it came on");
    assert_eq!(fields(&answer, "Via").len(), 1);
    // A datagram leaves from the address that the proxies share.
    pair.cut.client(udp(CALLER), &in_dialog("INFO", 3));
    pair.pump();
    let inner = one(pair.other.arrived(a));
    pair.other.container_says(a, &response(&inner, "200 OK", ""));
    assert_eq!(pair.answer().1.remote, udp(CALLER).remote);
    // The container calls a client of the cut-off proxy, and the client's answer finds the container.
    let token = source.encode(&keyring());
    let route = format!(
        "Route: <sip:192.0.2.10:5060;lr;fl={}>\r\n",
        std::str::from_utf8(token.as_bytes()).expect("ASCII")
    );
    let branch = format!("{}-1", keyring().token(PartitionId(2)));
    pair.other
        .container_says(a, &request("BYE", "sip:alice@192.0.2.1", &branch, "alice", &route));
    let (through, to, bye) = pair.answer();
    assert_eq!((through, to.held), (1, source.held));
    pair.cut.client(source, &response(&bye, "200 OK", ""));
    pair.pump();
    assert!(one(pair.other.arrived(a)).starts_with("SIP/2.0 200 OK"));
    assert_eq!(pair.cut.forwarder.counters().relayed, 3);
}

#[test]
fn what_is_for_a_datagrams_flow_leaves_from_the_address_that_the_peer_knows() {
    let mut pair = Pair::of(config_of_node(1, "192.0.2.10"), config_of_node(2, "192.0.2.20"));
    let a = pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(100));
    pair.other.active(a);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &request("INVITE", URI, "1", "", ""));
    pair.pump();
    let inner = one(pair.other.arrived(a));
    pair.other
        .container_says(a, &response(&inner, "200 OK", &tag(PartitionId(2))));
    let (through, to, _) = pair.answer();
    assert_eq!((through, to.remote), (1, udp(CALLER).remote));
    // The container's own request, whose answer comes back there with the other's Via.
    let route = fields(&inner, "Record-Route")[0];
    let branch = format!("{}-1", keyring().token(PartitionId(2)));
    let bye = request(
        "BYE",
        "sip:alice@192.0.2.1",
        &branch,
        "alice",
        &format!("Route: {route}\r\n"),
    );
    pair.other.container_says(a, &bye);
    let (through, _, bye) = pair.answer();
    assert_eq!(through, 1);
    pair.cut.client(udp(CALLER), &response(&bye, "200 OK", ""));
    pair.pump();
    assert!(one(pair.other.arrived(a)).starts_with("SIP/2.0 200 OK"));
    // A ping as well.
    let flow = param(route, "fl").expect("a flow").as_bytes().to_vec();
    pair.other.frame(a, Body::KeepOpen(KeepOpen { flows: vec![flow] }));
    assert_eq!(pair.answer().0, 1);
}

/// A call that came by the first of two nodes' proxies: the Route to its caller, and the container, which only the second one reaches.
fn call_of_a_node(hello: fn(&Proxy) -> Hello) -> (Pair, LinkId, String) {
    let mut pair = Pair::of(config_of_node(1, "192.0.2.10"), config_of_node(2, "192.0.2.20"));
    pair.end_first();
    pair.succeed_first(config_of_node(1, "192.0.2.10"), hello);
    let a = pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &in_dialog("UPDATE", 2));
    pair.pump();
    let inner = one(pair.other.arrived(a));
    let flow = param(fields(&inner, "Via")[0], "fl").expect("a flow");
    let route = format!(
        "<sip:192.0.2.10:5060;lr;a={};fl={flow}>",
        keyring().token(PartitionId(2))
    );
    (pair, a, route)
}

/// A container's request to that caller.
fn to_caller(method: &str, route: &str) -> String {
    let branch = format!("{}-1", keyring().token(PartitionId(2)));
    let route = format!("Route: {route}\r\n");
    request(method, "sip:alice@192.0.2.1", &branch, "alice", &route)
}

fn keep_open(route: &str) -> Body {
    let flow = param(route, "fl").expect("a flow").as_bytes().to_vec();
    Body::KeepOpen(KeepOpen { flows: vec![flow] })
}

#[test]
fn a_successor_at_an_address_has_the_flows_of_its_predecessor() {
    let (mut pair, a, route) = call_of_a_node(hello);
    pair.other.frame(a, keep_open(&route));
    assert_eq!(pair.answer().0, 1, "it lives");
    // As long as nobody has the address, whoever has something sends it.
    pair.end_first();
    pair.other.container_says(a, &to_caller("INFO", &route));
    assert_eq!(pair.answer().0, 2);
    pair.other.frame(a, keep_open(&route));
    assert_eq!(pair.answer().0, 2);
    // A proxy at another address is none of those.
    pair.succeed_first(config_of_node(3, "192.0.2.30"), hello);
    pair.other.container_says(a, &to_caller("INFO", &route));
    assert_eq!(pair.answer().0, 2);
    pair.end_first();

    pair.succeed_first(config_of_node(4, "192.0.2.10"), hello);
    pair.other.active(a);
    pair.wait(Duration::from_millis(300));
    pair.other.frame(a, keep_open(&route));
    assert_eq!(pair.answer().0, 1);
    pair.other.container_says(a, &to_caller("BYE", &route));
    let (through, to, bye) = pair.answer();
    assert_eq!((through, to.remote), (1, udp(CALLER).remote));
    pair.cut.client(udp(CALLER), &response(&bye, "200 OK", ""));
    pair.pump();
    assert!(one(pair.other.arrived(a)).starts_with("SIP/2.0 200 OK"));
    // What its own containers have for the flow, it sends itself.
    let near = pair.cut.container(B, &[2], 2);
    pair.cut.container_says(near, &to_caller("INFO", &route));
    assert_eq!(pair.answer().0, 1);
    // One that is silent is not there.
    pair.joined = false;
    pair.wait(Duration::from_secs(1));
    pair.clients = (Vec::new(), Vec::new());
    pair.other.frame(a, keep_open(&route));
    assert_eq!(pair.answer().0, 2);
}

#[test]
fn proxies_of_an_earlier_version_are_known_by_their_process_alone() {
    let (mut pair, a, route) = call_of_a_node(earlier);
    pair.other.container_says(a, &to_caller("INFO", &route));
    assert_eq!(pair.answer().0, 1);
    pair.end_first();
    pair.succeed_first(config_of_node(3, "192.0.2.10"), earlier);
    pair.other.container_says(a, &to_caller("INFO", &route));
    assert_eq!(pair.answer().0, 2, "nobody is known to be there");
}

#[test]
fn a_message_for_another_address_goes_no_further() {
    let mut pair = Pair::of(config_of_node(1, "192.0.2.10"), config_of_node(2, "192.0.2.20"));
    let at = |address: &str| Flow {
        held: Some(Held::Address {
            process: 9,
            place: Some(Place::of(address.parse().expect("an address"))),
        }),
        ..udp(CALLER)
    };
    let given = |flow: Flow| {
        Body::ToClient(ToClient {
            flow: flow.encode(&keyring()).as_bytes().to_vec(),
            message: b"\r\n\r\n".to_vec(),
        })
    };
    // That of the very proxy that gives it, one of nobody's, and one without an address.
    for flow in [
        at("192.0.2.10:5060"),
        at("192.0.2.30:5060"),
        at("192.0.2.20:5061"),
        udp(CALLER),
    ] {
        pair.other.frame(pair.links.1, given(flow));
        let out = pair.other.out();
        assert!(out.clients.is_empty() && out.frames.is_empty(), "{out:?}");
    }
    let drops = pair.other.forwarder.counters().drops;
    assert_eq!(drops[DropReason::NoFlow as usize], 4);
    pair.other.frame(pair.links.1, given(at("192.0.2.20:5060")));
    assert_eq!(pair.other.sent().0.remote, udp(CALLER).remote);
}

/// A container that works is in reach of the other proxy alone.
fn out_of_reach() -> (Pair, LinkId) {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(100));
    pair.other.active(a);
    pair.wait(Duration::from_millis(300));
    (pair, a)
}

#[test]
fn new_calls_are_relayed_if_no_container_is_in_reach_and_never_doubled() {
    let (mut pair, a) = out_of_reach();
    let invite = request("INVITE", URI, "1", "", "");
    pair.cut.client(udp(CALLER), &invite);
    pair.pump();
    let first = one(pair.other.arrived(a));
    pair.cut.client(udp(CALLER), &invite);
    pair.pump();
    assert_eq!(one(pair.other.arrived(a)), first, "its retransmission");
    pair.cut.client(udp(CALLER), &request("CANCEL", URI, "1", "", ""));
    pair.pump();
    let cancel = one(pair.other.arrived(a));
    assert_eq!(partition(&cancel), partition(&first));
}

#[test]
fn who_has_the_place_of_a_container_that_was_reached_through_another_proxy_begins_anew() {
    let (mut pair, _) = out_of_reach();
    // It has lost all to one that this proxy reaches.
    pair.cut.container(B, &ALL, 2);
    pair.wait(Duration::from_millis(300));
    pair.joined = false;
    pair.wait(Duration::from_millis(100));
    pair.cut.link(C);
    let joins = pair
        .cut
        .forwarder
        .containers()
        .find(|container| container.incarnation.0 == C);
    assert_eq!(
        joins.expect("it is linked").state,
        MemberState::Joining,
        "it has reported nothing"
    );
}

#[test]
fn a_transaction_of_a_container_out_of_reach_is_known_all_the_same() {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    let near = pair.cut.container(B, &[], 1);
    pair.other.client(udp(CALLER), &request("INVITE", URI, "1", "", ""));
    let first = one(pair.other.arrived(a));
    // Another call, announced by its container only now.
    pair.wait(Duration::from_millis(300));
    let other = request("INVITE", URI, "2", "", "").replace("call-1@", "call-2@");
    pair.other.client(udp(CALLER), &other);
    let second = one(pair.other.arrived(a));
    let branch = |inner: &str| {
        let via = fields(inner, "Via")[0].to_owned();
        let branch = support::param(&via, "branch").expect("a branch").to_owned();
        Keys::of_branch(branch.as_bytes()).expect("ours").0
    };
    let keys = branch(&second);
    let announced = Transactions {
        keys: vec![keys.transaction],
        merged: vec![keys.merged],
        partitions: vec![u32::from(partition(&second).0)],
        ended: Vec::new(),
    };
    pair.other.frame(a, Body::Transactions(announced));
    pair.pump();
    for (repeated, inner) in [(request("INVITE", URI, "1", "", ""), first), (other, second)] {
        pair.cut.client(udp(CALLER), &repeated);
        pair.pump();
        assert_eq!(one(pair.other.arrived(a)), inner, "to the partition that has it");
        assert!(pair.cut.arrived(near).is_empty());
    }
}

#[test]
fn what_was_on_its_way_through_a_proxy_that_fell_goes_another_way() {
    let mut pair = Pair::new();
    pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 2));
    assert_eq!(pair.cut.forwarder.counters().relayed, 1);
    pair.cut.out();
    let link = pair.links.0;
    pair.cut
        .forwarder
        .link_down(pair.cut.now, link, &mut proxy::forward::Effects::default());
    assert_eq!(pair.cut.forwarder.counters().holding, 1);
    let b = pair.cut.container(B, &ALL, 2);
    assert!(one(pair.cut.arrived(b)).starts_with("BYE"), "the successor is in reach");
}

#[test]
fn a_peer_that_falls_silent_carries_nothing_more() {
    let mut pair = Pair::new();
    pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 2));
    pair.joined = false;
    pair.wait(Duration::from_secs(1));
    assert_eq!(pair.cut.forwarder.counters().holding, 1, "taken back");
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 3));
    assert_eq!(
        (
            pair.cut.forwarder.counters().holding,
            pair.cut.forwarder.counters().relayed
        ),
        (2, 1)
    );
}

/// Its packets are dropped: no connection ends by itself.
#[test]
fn a_container_that_is_silent_for_one_proxy_alone_is_reached_through_the_other() {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    let cut = pair.cut.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 2));
    let mut waited = Duration::ZERO;
    while waited < Duration::from_secs(2) {
        pair.other.active(a);
        pair.wait(TICK);
        waited += TICK;
        if pair.closed == [cut] {
            pair.closed.clear();
            pair.cut.down(cut);
        }
    }
    assert_eq!(pair.cut.forwarder.counters().relayed, 1);
    assert!(one(pair.other.arrived(a)).starts_with("BYE"));
}

/// What was sent to it meanwhile lies unread in its sockets: it is not silent for it alone.
#[test]
fn a_proxy_that_was_stopped_gives_up_no_link_for_that() {
    for stopped in [Duration::from_millis(1300), Duration::from_secs(20)] {
        let mut pair = Pair::new();
        let a = pair.other.container(A, &ALL, 1);
        let own = pair.cut.container(A, &ALL, 1);
        pair.wait(Duration::from_millis(300));
        pair.cut.active(own);
        let mut waited = Duration::ZERO;
        while waited < stopped {
            pair.other.active(a);
            pair.other.wait(TICK);
            waited += TICK;
        }
        pair.cut.now = pair.cut.now + stopped;
        // Its clock comes first: nothing of that has been read.
        pair.cut.wait(Duration::ZERO);
        let out = pair.cut.out();
        assert_eq!(out.closed, []);
        let beat = out.frames.iter().find_map(|(link, body)| match body {
            Body::Heartbeat(heartbeat) if *link == own => Some(heartbeat),
            _ => None,
        });
        let views = &beat.expect("it beats at once").views;
        assert!(
            views.iter().all(|view| view.silent_ms <= 100 && !view.closed),
            "it says of nobody that he was silent: {views:?}"
        );
        pair.pump();
        pair.cut.active(own);
        pair.wait(Duration::from_millis(800));
        assert_eq!(pair.closed, []);
        // Who falls silent from now on is found out as ever.
        let mut waited = Duration::ZERO;
        while pair.closed.is_empty() && waited < Duration::from_secs(2) {
            pair.other.active(a);
            pair.wait(TICK);
            waited += TICK;
        }
        assert_eq!(pair.closed, [own]);
        assert!(waited <= Duration::from_millis(400), "{waited:?}");
    }
}

#[test]
fn a_link_is_not_given_up_for_a_container_that_is_silent_for_all() {
    let mut pair = Pair::new();
    pair.other.container(A, &ALL, 1);
    pair.cut.container(A, &ALL, 1);
    pair.wait(Duration::from_secs(5));
    assert_eq!(pair.closed, []);
}

#[test]
fn a_container_that_died_is_not_looked_for_through_others() {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    let same = pair.cut.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.down(same);
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 2));
    pair.wait(Duration::from_millis(50));
    pair.other.down(a);
    pair.wait(Duration::from_millis(500));
    let counters = pair.cut.forwarder.counters();
    assert_eq!(
        (counters.relayed, counters.holding),
        (0, 1),
        "it waits for the successor here"
    );
}

#[test]
fn nothing_is_relayed_twice() {
    // Neither reaches the container, and each believes that the other does.
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    pair.wait(Duration::from_millis(300));
    pair.cut.client(udp(CALLER), &in_dialog("BYE", 2));
    pair.other.down(a);
    pair.pump();
    pair.other.wait(Duration::from_millis(500));
    let view = View {
        incarnation: A,
        silent_ms: 0,
        closed: false,
    };
    let heartbeat = Heartbeat {
        number: 9,
        views: vec![view],
    };
    pair.other.frame(pair.links.1, Body::Heartbeat(heartbeat));
    pair.other.client(udp(CALLER), &in_dialog("BYE", 3));
    let counters = pair.other.forwarder.counters();
    assert_eq!(
        (counters.holding, counters.relayed),
        (1, 1),
        "only its own client's goes on"
    );
}

#[test]
fn a_peer_cannot_write_anything_into_a_containers_stream() {
    let mut pair = Pair::new();
    let a = pair.other.container(A, &ALL, 1);
    for message in [
        "BYE sip:x SIP/2.0\r\nContent-Length: 5\r\n\r\n",
        "BYE sip:x SIP/2.0\r\nContent-Length: 0\r\n\r\nmore",
        "BYE sip:x SIP/2.0\r\n\r\n",
        "no SIP",
    ] {
        let relay = ucf::wire::Relay {
            partition: 2,
            message: message.into(),
        };
        pair.other.frame(pair.links.1, Body::Relay(relay));
    }
    assert!(pair.other.arrived(a).is_empty());
}

//! The proxy as a process, between a caller and containers that the test plays, over real sockets on loopback.

mod fake;
mod harness;

use std::collections::HashMap;
use std::net::SocketAddr;

use sip::{Frame, Framer, Limits, Side};
use tokio::net::UdpSocket;
use transport::tcp::{Connection, Read};
use transport::{InBuffer, OutBuffer, ucf_link};
use ucf::flow::{Flow, Held, Place, Transport};
use ucf::greeting::End;
use ucf::token::{Key, Keyring};
use ucf::wire::{Body, Heartbeat, Hello};

use fake::{CLUSTER, Container, PARTITIONS, header, keyring};
use harness::{Call, KEY, PATIENCE, Proxy, binary};

async fn within<T>(work: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, work)
        .await
        .expect("done within the test's patience")
}

async fn received(socket: &UdpSocket) -> String {
    let mut buffer = vec![0; 65_536];
    let (length, _) = within(socket.recv_from(&mut buffer)).await.unwrap();
    String::from_utf8(buffer[..length].to_vec()).unwrap()
}

/// A client's connection, message by message.
struct Stream {
    connection: Connection,
    framer: Framer,
    input: InBuffer,
}

impl Stream {
    async fn open(proxy: SocketAddr) -> Self {
        let connection = Connection::connect(proxy, PATIENCE).await.unwrap();
        Self {
            connection,
            framer: Framer::new(Side::Opened, Limits::default()),
            input: InBuffer::new(),
        }
    }

    async fn send(&self, bytes: &str) {
        let mut out = OutBuffer::new(1 << 20);
        out.push(bytes.as_bytes()).unwrap();
        self.connection.write(&mut out).await.unwrap();
    }

    /// The next message; nothing at the end of the stream, an empty one for a pong.
    async fn receive(&mut self) -> Option<String> {
        loop {
            let (consumed, frame) = self.framer.next(self.input.data()).unwrap();
            let message = match &frame {
                Some(Frame::Message(range)) => String::from_utf8(self.input.data()[range.clone()].to_vec()).unwrap(),
                _ => String::new(),
            };
            self.input.consume(consumed);
            match frame {
                Some(Frame::Message(_) | Frame::Pong) => return Some(message),
                Some(Frame::Ping) => {}
                None if consumed > 0 => {}
                None if within(self.connection.read(&mut self.input)).await.ok()? => {}
                None => return None,
            }
        }
    }
}

#[tokio::test]
async fn a_call_is_carried_over_udp() {
    let container = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(1, std::slice::from_ref(&container)).await;
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let call = Call::new("udp-call".into(), "UDP", caller.local_addr().unwrap(), proxy.address);

    caller.send_to(call.invite().as_bytes(), proxy.address).await.unwrap();
    assert!(received(&caller).await.starts_with("SIP/2.0 180 "));
    let answer = received(&caller).await;
    assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
    for request in call.ack_and_bye(&answer) {
        caller.send_to(request.as_bytes(), proxy.address).await.unwrap();
    }
    let ended = received(&caller).await;
    assert!(
        ended.starts_with("SIP/2.0 200 ") && ended.contains("CSeq: 2 BYE"),
        "{ended}"
    );
    let methods: Vec<String> = container.requests().into_iter().map(|(_, method)| method).collect();
    assert_eq!(methods, ["INVITE", "ACK", "BYE"]);
    proxy
        .until(|state| state["workers"][0]["containers"][0]["partitions"] == fake::PARTITIONS)
        .await;
    proxy
        .until_metric("sipcluster_proxy_datagrams_sent_total", |sent| sent == 3.0)
        .await;
    assert_eq!(proxy.metric("sipcluster_proxy_container_links").await, 1.0);
}

#[tokio::test]
async fn a_call_is_carried_over_tcp_through_any_worker_and_pings_are_answered() {
    let container = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(4, std::slice::from_ref(&container)).await;
    let mut stream = Stream::open(proxy.address).await;
    // Different calls belong to different workers, whichever of them holds the connection.
    for number in 0..20 {
        let call = Call::new(
            format!("tcp-{number}"),
            "TCP",
            stream.connection.local_addr(),
            proxy.address,
        );
        stream.send(&call.invite()).await;
        assert!(stream.receive().await.unwrap().starts_with("SIP/2.0 180 "));
        let answer = stream.receive().await.unwrap();
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        stream.send(&call.ack_and_bye(&answer).concat()).await;
        assert!(stream.receive().await.unwrap().contains("CSeq: 2 BYE"));
    }
    stream.send("\r\n\r\n").await;
    assert_eq!(stream.receive().await.as_deref(), Some(""));
}

#[tokio::test]
async fn a_stream_that_cannot_be_read_on_is_closed_alone() {
    let container = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(1, std::slice::from_ref(&container)).await;
    let mut good = Stream::open(proxy.address).await;
    for rubbish in [
        "GET / HTTP/1.1\r\nHost: proxy\r\n\r\n".to_owned(),
        format!("INVITE {}", "x".repeat(100_000)),
    ] {
        let mut bad = Stream::open(proxy.address).await;
        bad.send(&rubbish).await;
        assert_eq!(bad.receive().await, None);
    }
    let call = Call::new("good".into(), "TCP", good.connection.local_addr(), proxy.address);
    good.send(&call.invite()).await;
    assert!(good.receive().await.unwrap().starts_with("SIP/2.0 180 "));
}

#[tokio::test]
async fn four_workers_keep_the_order_of_one_calls_messages() {
    const CALLS: usize = 400;
    let container = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(4, std::slice::from_ref(&container)).await;
    // One socket: one trunk is one 5-tuple, so all arrive at one worker and are passed on. And some more beside it.
    let mut callers = Vec::new();
    for caller in 0..4 {
        let target = proxy.address;
        callers.push(tokio::spawn(async move {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            let local = socket.local_addr().unwrap();
            let calls: HashMap<String, Call> = (0..CALLS)
                .map(|number| format!("{caller}-{number}"))
                .map(|id| (id.clone(), Call::new(id, "UDP", local, target)))
                .collect();
            let mut waiting: Vec<&Call> = calls.values().collect();
            let mut under_way = 0;
            let mut ended = 0;
            while ended < CALLS {
                while under_way < 32
                    && let Some(call) = waiting.pop()
                {
                    socket.send_to(call.invite().as_bytes(), target).await.unwrap();
                    under_way += 1;
                }
                let answer = received(&socket).await;
                if answer.contains("CSeq: 2 BYE") {
                    under_way -= 1;
                    ended += 1;
                } else if answer.starts_with("SIP/2.0 200 ") {
                    for request in calls[header(&answer, "Call-ID").unwrap()].ack_and_bye(&answer) {
                        socket.send_to(request.as_bytes(), target).await.unwrap();
                    }
                }
            }
        }));
    }
    for caller in callers {
        caller.await.unwrap();
    }
    let mut seen: HashMap<String, Vec<String>> = HashMap::new();
    for (call, method) in container.requests() {
        seen.entry(call).or_default().push(method);
    }
    assert_eq!(seen.len(), 4 * CALLS);
    for (call, methods) in seen {
        assert_eq!(methods, ["INVITE", "ACK", "BYE"], "{call}");
    }
    // Else no message has met another worker, and this test shows nothing.
    proxy
        .until_metric("sipcluster_proxy_messages_passed_total", |passed| passed > 0.0)
        .await;
    assert_eq!(proxy.metric("sipcluster_proxy_mail_dropped_total").await, 0.0);
}

#[tokio::test]
async fn a_new_container_of_the_list_is_linked_and_takes_over() {
    let first = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(2, std::slice::from_ref(&first)).await;
    let second = Container::start("demo-1", 8, 2);
    proxy.containers(&[first.clone(), second.clone()]);
    proxy
        .until(|state| {
            let mut workers = state["workers"].as_array().unwrap().iter();
            workers.all(|worker| {
                let mut containers = worker["containers"].as_array().unwrap().iter();
                containers.any(|c| c["name"] == "demo-1" && c["partitions"] == fake::PARTITIONS)
            })
        })
        .await;
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let call = Call::new("later".into(), "UDP", caller.local_addr().unwrap(), proxy.address);
    caller.send_to(call.invite().as_bytes(), proxy.address).await.unwrap();
    assert!(received(&caller).await.starts_with("SIP/2.0 180 "));
    assert_eq!((first.requests().len(), second.requests().len()), (0, 1));
}

#[tokio::test]
async fn what_a_container_sent_before_it_ended_still_leaves() {
    let container = Container::start_dying("demo-0", 7, 1);
    let proxy = Proxy::start(1, std::slice::from_ref(&container)).await;
    let mut stream = Stream::open(proxy.address).await;
    let call = Call::new(
        "last-words".into(),
        "TCP",
        stream.connection.local_addr(),
        proxy.address,
    );
    stream.send(&call.invite()).await;
    for _ in 0..2 * (1 + fake::LAST_WORDS) {
        assert!(stream.receive().await.unwrap().starts_with("SIP/2.0 "));
    }
}

#[tokio::test]
async fn told_to_end_it_drains_and_ends_well() {
    let container = Container::start("demo-0", 7, 1);
    let mut proxy = Proxy::start(2, std::slice::from_ref(&container)).await;
    proxy.signal("TERM");
    let status = within(proxy.ended()).await;
    assert!(status.success(), "{status}");
}

#[tokio::test]
async fn draining_it_closes_connections_at_rest_and_serves_on_until_all_are() {
    let container = Container::start("demo-0", 7, 1);
    let mut proxy = Proxy::start(2, std::slice::from_ref(&container)).await;
    let (mut resting, mut busy) = (Stream::open(proxy.address).await, Stream::open(proxy.address).await);
    for stream in [&mut resting, &mut busy] {
        stream.send("\r\n\r\n").await;
        assert_eq!(stream.receive().await.as_deref(), Some(""));
    }
    let call = Call::new("busy".into(), "TCP", busy.connection.local_addr(), proxy.address);
    busy.send(&call.wait()).await;
    within(async {
        while container.requests().is_empty() {
            tokio::task::yield_now().await;
        }
    })
    .await;

    proxy.signal("TERM");
    assert_eq!(resting.receive().await, None);
    proxy.until(|state| state["state"] == "Stopping").await;
    assert!(
        Connection::connect(proxy.address, PATIENCE).await.is_err(),
        "no new connections"
    );
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let late = Call::new("late".into(), "UDP", caller.local_addr().unwrap(), proxy.address);
    caller.send_to(late.invite().as_bytes(), proxy.address).await.unwrap();
    assert!(received(&caller).await.starts_with("SIP/2.0 180 "));
    assert!(received(&caller).await.starts_with("SIP/2.0 200 "));
    busy.send("\r\n\r\n").await;
    assert_eq!(busy.receive().await.as_deref(), Some(""));
    assert!(proxy.child.try_wait().unwrap().is_none(), "a request is unanswered");

    // Told twice: now.
    proxy.signal("TERM");
    assert_eq!(busy.receive().await, None);
    assert!(within(proxy.ended()).await.success());
}

#[tokio::test]
async fn a_port_in_use_is_named() {
    let taken = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let listen = format!("udp:{}", taken.local_addr().unwrap());
    let mut command = binary();
    command.args([
        "--cluster",
        "demo",
        "--name",
        "p",
        "--endpoints",
        "/nonexistent",
        "--listen",
        &listen,
    ]);
    let output = command
        .env("SIPCLUSTER_KEY", "000102030405060708090a0b0c0d0e0f")
        .output()
        .unwrap();
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains(&listen), "{text}");
}

#[test]
fn a_wrong_configuration_ends_with_64_and_says_what_to_do() {
    let cases: [(&[&str], &str); 3] = [
        (
            &["--listen", "sctp:127.0.0.1:5060"],
            "--listen: \"sctp:127.0.0.1:5060\" is not valid; give udp:ADDRESS:PORT",
        ),
        (
            &["--listen", "udp:127.0.0.1:5060", "--workers", "many"],
            "--workers: \"many\" is not valid; give a number",
        ),
        (&["--listen", "udp:127.0.0.1:5060", "--no-such-flag"], "--no-such-flag"),
    ];
    for (arguments, said) in cases {
        let mut command = binary();
        command
            .args(["--cluster", "demo", "--name", "p", "--endpoints", "/nonexistent"])
            .args(arguments);
        let output = command
            .env("SIPCLUSTER_KEY", "000102030405060708090a0b0c0d0e0f")
            .output()
            .unwrap();
        let text = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{text}");
        assert!(text.contains(said), "{text}");
    }
}

/// One proxy reaches no container: the other carries its clients' calls, to the container and back to their connections.
#[tokio::test]
async fn calls_of_a_proxy_that_reaches_no_container_go_through_another() {
    let container = Container::start("demo-0", 7, 1);
    let near = Proxy::start(2, std::slice::from_ref(&container)).await;
    let cut_off = Proxy::spawn(2, "proxy-1");
    near.reaches(std::slice::from_ref(&container), &[&cut_off]);
    cut_off.reaches(&[], &[&near, &cut_off]);
    let deadline = std::time::Instant::now() + PATIENCE;
    let mut round = 0;
    let (mut stream, call, answer) = loop {
        round += 1;
        assert!(std::time::Instant::now() < deadline, "never answered with 200");
        // Not bound yet, most likely.
        let Ok(connection) = Connection::connect(cut_off.address, PATIENCE).await else {
            continue;
        };
        let local = connection.local_addr();
        let mut stream = Stream {
            connection,
            framer: Framer::new(Side::Opened, Limits::default()),
            input: InBuffer::new(),
        };
        let call = Call::new(format!("relayed-{round}"), "TCP", local, cut_off.address);
        stream.send(&call.invite()).await;
        // Before the proxies have found one another it is refused.
        let answer = loop {
            let answer = stream.receive().await.expect("an answer");
            if !answer.starts_with("SIP/2.0 1") {
                break answer;
            }
        };
        if answer.starts_with("SIP/2.0 200") {
            break (stream, call, answer);
        }
    };
    let [ack, bye] = call.ack_and_bye(&answer);
    stream.send(&ack).await;
    stream.send(&bye).await;
    let answer = stream.receive().await.expect("an answer");
    assert!(
        answer.starts_with("SIP/2.0 200") && header(&answer, "CSeq") == Some("2 BYE"),
        "{answer}"
    );
    cut_off
        .until_metric("sipcluster_proxy_relayed_total", |relayed| relayed >= 3.0)
        .await;
    let seen = container.requests();
    assert!(
        seen.iter().any(|(id, method)| *id == call.id && method == "ACK"),
        "{seen:?}"
    );
}

fn proxy_hello() -> Hello {
    Hello {
        version: ucf_link::VERSION,
        cluster: CLUSTER.into(),
        name: "proxy-9".into(),
        incarnation: 9,
        worker: Some(0),
        ..Hello::default()
    }
}

/// Each has an address of its own: what is for a flow at the other's is given to the other.
#[tokio::test]
async fn proxies_tell_one_another_where_they_are() {
    let container = Container::start("demo-0", 7, 1);
    let variables = [("SIPCLUSTER_KEY", KEY), ("SIPCLUSTER_STAND_IN", "sipcluster.invalid")];
    let proxy = Proxy::spawn_with(1, "proxy-0", &variables);
    proxy.containers(std::slice::from_ref(&container));
    proxy.until(|state| state["state"] == "Active").await;
    let other: SocketAddr = "192.0.2.9:5060".parse().unwrap();
    let connection = Connection::connect(proxy.ucf, PATIENCE).await.unwrap();
    let mut input = InBuffer::new();
    let ours = Hello {
        sip: other.to_string(),
        ..proxy_hello()
    };
    let greeted = within(ucf_link::hello(&connection, &mut input, &keyring(), End::Opened, ours)).await;
    assert_eq!(greeted.unwrap().sip, proxy.address.to_string());

    let flow = Flow {
        transport: Transport::Udp,
        listener: 0,
        remote: "198.51.100.7:1024".parse().unwrap(),
        translated: true,
        held: Some(Held::Address {
            // Another process than that which is linked.
            process: 8,
            place: Some(Place::of(other)),
        }),
    };
    let token = flow.encode(&keyring());
    let route = format!(
        "X-Route: <sip:{};lr;fl={}>\r\nContent-Length",
        proxy.address,
        std::str::from_utf8(token.as_bytes()).unwrap()
    );
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let given = async |round: u32| {
        // A proxy that is silent is not there.
        let mut out = OutBuffer::new(ucf_link::LINK_BOUND);
        let heartbeat = Heartbeat {
            number: round.into(),
            ..Heartbeat::default()
        };
        ucf_link::push(Body::Heartbeat(heartbeat), &mut out).unwrap();
        connection.write(&mut out).await.unwrap();
        let call = Call::new(
            format!("dialled-{round}"),
            "UDP",
            socket.local_addr().unwrap(),
            proxy.address,
        );
        let dial = call.dial("sip:phone@10.0.0.7").replace("Content-Length", &route);
        socket.send_to(dial.as_bytes(), proxy.address).await.unwrap();
        received(&socket).await;
    };
    let mut round = 0;
    let told = within(async {
        loop {
            round += 1;
            given(round).await;
            // Heartbeats, until the message comes.
            while let Ok(Some(body)) = ucf_link::next(&connection, &mut input).await {
                match body {
                    Body::ToClient(told) => return told,
                    Body::Heartbeat(_) => break,
                    _ => {}
                }
            }
        }
    })
    .await;
    assert_eq!(told.flow, token.as_bytes());
    assert!(told.message.starts_with(b"OPTIONS sip:phone@10.0.0.7 "));
}

#[tokio::test]
async fn a_proxy_without_the_clusters_key_is_refused_and_counted() {
    let proxy = Proxy::start(1, &[Container::start("demo-0", 7, 1)]).await;
    let other = Keyring::new(Key { id: 0, secret: [9; 16] }, &[], PARTITIONS);
    for (keyring, is_known) in [(keyring(), true), (other, false)] {
        let connection = Connection::connect(proxy.ucf, PATIENCE).await.unwrap();
        let mut input = InBuffer::new();
        let greeted = within(ucf_link::hello(
            &connection,
            &mut input,
            &keyring,
            End::Opened,
            proxy_hello(),
        ))
        .await;
        assert_eq!(greeted.is_ok(), is_known, "{greeted:?}");
        let next = within(ucf_link::next(&connection, &mut input)).await;
        assert_eq!(matches!(next, Ok(Some(Body::Heartbeat(_)))), is_known, "{next:?}");
    }
    proxy
        .until_metric("sipcluster_proxy_links_refused_total", |refused| refused == 1.0)
        .await;
}

/// In the midst of a rotation one proxy issues with the first key, and another with the second already.
#[tokio::test]
async fn a_call_that_began_with_one_key_is_ended_through_a_proxy_with_another() {
    const NEXT: &str = "1:11111111111111111111111111111111";
    let container = Container::start("demo-0", 7, 1);
    let old = Proxy::spawn_with(
        1,
        "proxy-0",
        &[("SIPCLUSTER_KEY", KEY), ("SIPCLUSTER_OTHER_KEYS", NEXT)],
    );
    let alias = old.address.ip().to_string();
    let keys = [
        ("SIPCLUSTER_KEY", NEXT),
        ("SIPCLUSTER_OTHER_KEYS", KEY),
        ("SIPCLUSTER_TRANSACTION_KEY", KEY),
        ("SIPCLUSTER_ALIASES", alias.as_str()),
    ];
    let new = Proxy::spawn_with(1, "proxy-1", &keys);
    for proxy in [&old, &new] {
        proxy.containers(std::slice::from_ref(&container));
        proxy.until(|state| state["state"] == "Active").await;
    }
    let caller = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    let local = caller.local_addr().unwrap();
    let begin = async |proxy: &Proxy, id: &str| {
        let call = Call::new(id.to_owned(), "UDP", local, proxy.address);
        caller.send_to(call.invite().as_bytes(), proxy.address).await.unwrap();
        assert!(received(&caller).await.starts_with("SIP/2.0 180 "));
        let answer = received(&caller).await;
        assert!(answer.starts_with("SIP/2.0 200 "), "{answer}");
        (call, answer)
    };
    let (call, answer) = begin(&old, "old").await;
    for request in call.ack_and_bye(&answer) {
        caller.send_to(request.as_bytes(), new.address).await.unwrap();
    }
    let ended = received(&caller).await;
    assert!(
        ended.starts_with("SIP/2.0 200 ") && ended.contains("CSeq: 2 BYE"),
        "{ended}"
    );
    let (_, later) = begin(&new, "new").await;
    let issued = |answer: &str| header(answer, "To").and_then(|to| to.split(";tag=1").nth(1)?.chars().next());
    assert_eq!((issued(&answer), issued(&later)), (Some('0'), Some('1')));
}

#[tokio::test]
async fn connections_that_do_not_say_hello_are_bounded_and_shut_out_nobody() {
    let proxy = Proxy::start(1, &[Container::start("demo-0", 7, 1)]).await;
    let mut silent = Vec::new();
    let mut input = InBuffer::new();
    let begun = std::time::Instant::now();
    for _ in 0..ucf_link::MAX_GREETING {
        let connection = Connection::connect(proxy.ucf, PATIENCE).await.unwrap();
        assert!(within(connection.read(&mut input)).await.unwrap(), "it is challenged");
        silent.push(connection);
    }
    // All places are taken. A peer of the cluster gets in all the same, and hears the heartbeat of a link; the oldest stranger makes room.
    let genuine = Connection::connect(proxy.ucf, PATIENCE).await.unwrap();
    let mut heard = InBuffer::new();
    let greeted = within(ucf_link::hello(
        &genuine,
        &mut heard,
        &keyring(),
        End::Opened,
        proxy_hello(),
    ))
    .await;
    assert!(greeted.is_ok(), "{greeted:?}");
    let beats = within(ucf_link::next(&genuine, &mut heard)).await;
    assert!(matches!(beats, Ok(Some(Body::Heartbeat(_)))), "{beats:?}");
    let is_open = |connection: &&Connection| matches!(connection.try_read(&mut InBuffer::new()), Ok(Read::Nothing));
    let open = silent[1..].iter().filter(is_open).count();
    // A machine that takes as long for all this as they may be silent has closed the first of them.
    if begun.elapsed() < ucf_link::HELLO_PATIENCE {
        assert_eq!(open, ucf_link::MAX_GREETING - 1, "they hold on all the while");
    }
    for connection in &silent {
        assert!(
            !within(connection.read(&mut input)).await.unwrap_or(false),
            "it is closed in the end"
        );
    }
}

/// A container asks a peer that accepts no connection, and hears at once that it cannot be reached.
#[tokio::test]
async fn a_container_hears_at_once_that_a_peer_takes_no_connection() {
    let container = Container::start("demo-0", 7, 1);
    let proxy = Proxy::start(2, std::slice::from_ref(&container)).await;
    let nobody = std::net::TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let mut stream = Stream::open(proxy.address).await;
    let local = stream.connection.local_addr();
    for n in 0..4 {
        let call = Call::new(format!("dial-{n}"), "TCP", local, proxy.address);
        stream
            .send(&call.dial(&format!("sip:nobody@{nobody};transport=tcp")))
            .await;
        let answer = stream.receive().await.expect("an answer");
        assert!(answer.starts_with("SIP/2.0 200"), "{answer}");
    }
    let heard = || {
        let requests = container.requests();
        requests
            .iter()
            .filter(|(id, status)| id.starts_with("dialled-dial-") && status == "503")
            .count()
    };
    let mut look = tokio::time::interval(std::time::Duration::from_millis(10));
    within(async {
        while heard() < 4 {
            look.tick().await;
        }
    })
    .await;
}

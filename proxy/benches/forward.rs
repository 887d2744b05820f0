//! Nanoseconds that the forwarder takes per message of a six-message call, by kind: `cargo bench -p proxy --bench forward`.

use std::io::IoSlice;
use std::sync::Arc;
use std::time::{Duration, Instant as Clock};

use proxy::forward::{Config, Effects, Forwarder, Limits, LinkId, Listener};
use sip::{Framer, Instant, Side};
use ucf::ProxyId;
use ucf::flow::{Flow, Transport};
use ucf::token::{Key, Keyring};
use ucf::wire::{Body, Confirm, Hello, MemberState, Ownership, Report};

const CALLS: usize = 64;
const PARTITIONS: u32 = 1024;
const SDP: &str = "v=0\r\no=alice 53655765 2353687637 IN IP4 192.0.2.1\r\ns=-\r\nc=IN IP4 192.0.2.1\r\nt=0 0\r\n\
                   m=audio 6000 RTP/AVP 0 8 101\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:101 telephone-event/8000\r\n";
const KINDS: [&str; 6] = ["INVITE", "180", "200", "ACK", "BYE", "200 to BYE"];

fn main() {
    let rounds = std::env::var("ROUNDS")
        .ok()
        .and_then(|n| n.parse().ok())
        .unwrap_or(3000);
    let mut bench = Bench::new();
    for round in 0..rounds / 10 {
        bench.round(round);
    }
    bench.spent = Default::default();
    for round in rounds / 10..rounds {
        bench.round(round);
    }
    // The median of the batches: other processes on the machine disturb some of them.
    let medians = bench.spent.map(|mut batches| {
        batches.sort();
        batches[batches.len() / 2].as_nanos() / CALLS as u128
    });
    for (kind, median) in KINDS.iter().zip(medians) {
        println!("{kind:>10} {median:>6} ns");
    }
    let call: u128 = medians.iter().sum();
    println!("{:>10} {call:>6} ns, {} ns per message", "call", call / 6);
}

fn number(variable: &str, default: usize) -> usize {
    let value = std::env::var(variable).ok();
    value.and_then(|n| n.parse().ok()).unwrap_or(default)
}

struct Bench {
    forwarder: Forwarder,
    effects: Effects,
    links: [LinkId; 3],
    confirmed: [u64; 3],
    now: Instant,
    source: Flow,
    spent: [Vec<Duration>; 6],
    keyring: Arc<Keyring>,
    repeat: usize,
}

impl Bench {
    fn new() -> Self {
        let key = Key { id: 1, secret: [7; 16] };
        let keyring = Arc::new(Keyring::new(key, &[], PARTITIONS));
        let config = Config {
            me: ProxyId {
                incarnation: 1,
                worker: 0,
            },
            workers: 1,
            cluster: "demo".to_owned(),
            keyring: Arc::clone(&keyring),
            listeners: vec![Listener {
                local: "127.0.0.1:5060".parse().expect("an address"),
                host: "127.0.0.1".to_owned(),
                port: 5060,
            }],
            aliases: vec![],
            route_host: None,
            stand_in: None,
            emergency: vec![],
            lease: Duration::from_secs(1),
            entropy: 7,
            started: std::time::Duration::ZERO,
            limits: Limits::default(),
        };
        let mut forwarder = Forwarder::new(config);
        let mut effects = Effects::default();
        let now = Instant::from_micros(1);
        let links = [1, 2, 3].map(|incarnation| {
            let hello = Hello {
                cluster: "demo".to_owned(),
                incarnation,
                ..Hello::default()
            };
            let link = forwarder.link_up(now, &hello, &mut effects).expect("it is ours");
            let report = Report {
                state: MemberState::Active as i32,
                ..Report::default()
            };
            forwarder.handle_frame(now, link, &Body::Report(report), &mut effects);
            let partitions: Vec<u32> = (0..PARTITIONS)
                .filter(|p| u64::from(p % 3) + 1 == incarnation)
                .collect();
            let owned = Ownership {
                owner: incarnation,
                epochs: vec![1; partitions.len()],
                partitions,
                ..Ownership::default()
            };
            forwarder.handle_frame(now, link, &Body::Ownership(owned), &mut effects);
            link
        });
        Self {
            forwarder,
            effects,
            links,
            confirmed: [0; 3],
            now,
            source: Flow {
                transport: Transport::Udp,
                listener: 0,
                remote: "127.0.0.1:5061".parse().expect("an address"),
                translated: false,
                held: None,
            },
            spent: Default::default(),
            keyring,
            repeat: number("REPEAT", 0),
        }
    }

    fn round(&mut self, round: usize) {
        // 10,000 calls a second.
        self.now = self.now + Duration::from_micros(100 * CALLS as u64);
        self.forwarder.handle_timeout(self.now, &mut self.effects);
        self.effects.clear();
        let invites: Vec<String> = (0..CALLS).map(|n| request("INVITE", round * CALLS + n, None)).collect();
        self.clients(0, &invites);
        let arrived = self.arrived();
        self.containers(1, &arrived, "180 Ringing");
        self.containers(2, &arrived, "200 OK");
        for (kind, method) in [(3, "ACK"), (4, "BYE")] {
            let requests: Vec<String> = arrived
                .iter()
                .enumerate()
                .map(|(n, (_, invite))| request(method, round * CALLS + n, Some((invite, &self.keyring))))
                .collect();
            self.clients(kind, &requests);
            let arrived = self.arrived();
            if method == "BYE" {
                self.containers(5, &arrived, "200 OK");
            }
        }
    }

    fn clients(&mut self, kind: usize, messages: &[String]) {
        let start = Clock::now();
        for message in messages {
            self.forwarder
                .handle_client(self.now, &self.source, message.as_bytes(), &mut self.effects);
        }
        self.spent[kind].push(start.elapsed());
        // For a profile in which the path outweighs what is around it; these are retransmissions.
        for _ in 0..self.repeat {
            for message in messages {
                self.forwarder
                    .handle_client(self.now, &self.source, message.as_bytes(), &mut self.effects);
            }
        }
        assert!(self.effects.is_empty(), "nothing is refused");
    }

    fn containers(&mut self, kind: usize, requests: &[(usize, String)], status: &str) {
        let answers: Vec<(LinkId, String)> = requests
            .iter()
            .map(|(at, request)| (self.links[*at], response(request, status, &self.keyring)))
            .collect();
        let start = Clock::now();
        for (link, answer) in &answers {
            self.forwarder
                .handle_container(self.now, *link, answer.as_bytes(), &mut self.effects);
        }
        self.spent[kind].push(start.elapsed());
        assert_eq!(self.effects.list().len(), CALLS);
        for _ in 0..self.repeat {
            self.effects.clear();
            for (link, answer) in &answers {
                self.forwarder
                    .handle_container(self.now, *link, answer.as_bytes(), &mut self.effects);
            }
        }
        self.effects.clear();
    }

    /// Takes what was sent to the containers, and confirms it.
    fn arrived(&mut self) -> Vec<(usize, String)> {
        let mut messages = Vec::new();
        for at in 0..self.links.len() {
            let link = self.links[at];
            let mut slices = [IoSlice::new(&[]); 64];
            let count = self.forwarder.outgoing(link, &mut slices);
            let stream: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
            self.forwarder.wrote(link, stream.len());
            let mut framer = Framer::new(Side::Accepted, sip::Limits::default());
            let mut rest = &stream[..];
            while let Ok((consumed, Some(sip::Frame::Message(range)))) = framer.next(rest) {
                if self.confirmed[at].is_multiple_of(1 + self.repeat as u64) {
                    messages.push((at, String::from_utf8_lossy(&rest[range]).into_owned()));
                }
                rest = &rest[consumed..];
                self.confirmed[at] += 1;
            }
            messages.truncate(CALLS);
            let confirm = Confirm {
                upto: self.confirmed[at],
                ..Confirm::default()
            };
            self.forwarder
                .handle_frame(self.now, link, &Body::Confirm(confirm), &mut self.effects);
        }
        assert_eq!(messages.len(), CALLS);
        messages
    }
}

fn field<'a>(message: &'a str, name: &str) -> &'a str {
    let line = message.lines().find(|line| line.starts_with(name)).unwrap_or_default();
    &line[name.len()..]
}

fn tag(inner: &str, keyring: &Keyring) -> String {
    let from = inner.find(";pt=").map_or(0, |at| at + 4);
    let partition = keyring
        .verify(&inner.as_bytes()[from..from + 22])
        .partition()
        .expect("pt");
    format!("{}-5f", keyring.token(partition))
}

fn request(method: &str, call: usize, invite: Option<(&String, &Keyring)>) -> String {
    let (route, to_tag) = match invite {
        Some((invite, keyring)) => (
            format!("Route: {}\r\n", field(invite, "Record-Route: ")),
            format!(";tag={}", tag(invite, keyring)),
        ),
        None => (String::new(), String::new()),
    };
    let body = if method == "INVITE" { SDP } else { "" };
    let number = if method == "BYE" { 2 } else { 1 };
    format!(
        "{method} sip:service@127.0.0.1:5060 SIP/2.0\r\n\
         Via: SIP/2.0/UDP 127.0.0.1:5061;branch=z9hG4bK-{call}-1-{number}{method};rport\r\n\
         {route}\
         From: sipp <sip:sipp@127.0.0.1:5061>;tag={call}SIPpTag001\r\n\
         To: service <sip:service@127.0.0.1:5060>{to_tag}\r\n\
         Call-ID: 1-{call}@127.0.0.1\r\n\
         CSeq: {number} {method}\r\n\
         Contact: sip:sipp@127.0.0.1:5061\r\n\
         Max-Forwards: 70\r\n\
         Subject: Performance Test\r\n\
         Content-Type: application/sdp\r\n\
         Content-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn response(request: &str, status: &str, keyring: &Keyring) -> String {
    let tag = tag(request, keyring);
    let mut text = format!("SIP/2.0 {status}\r\n");
    for line in request.lines().skip(1).take_while(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default();
        match name {
            "To" if !line.contains(";tag=") => text += &format!("{line};tag={tag}\r\n"),
            "Via" | "From" | "To" | "Call-ID" | "CSeq" | "Record-Route" => text += &format!("{line}\r\n"),
            _ => (),
        }
    }
    let body = if status == "200 OK" && request.starts_with("INVITE") {
        SDP
    } else {
        ""
    };
    text += &format!(
        "Contact: <sip:127.0.0.1:5060;a={}>\r\n",
        keyring.token(ucf::PartitionId(0))
    );
    text + &format!(
        "Content-Type: application/sdp\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

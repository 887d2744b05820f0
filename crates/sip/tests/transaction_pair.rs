//! A client and a server transaction over a link that loses, doubles, delays and reorders, in virtual time, thousands
//! of seeds. Machines may also die at any step and go on from their snapshot in another process.

mod support;

use bytes::Bytes;
use sip::Instant;
use sip::transaction::{ClientTransaction, Effect, Effects, Repeat, Response, ServerTransaction, Timers};
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use support::random::Random;

const INVITE: &[u8] = b"INVITE sip:b@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@a>;tag=1\r\n\
    To: <sip:b@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n";
const TO: &[u8] = b"<sip:b@b>;tag=2";

#[derive(Clone, Copy)]
struct Faults {
    loss: u64,
    doubling: u64,
    crash: u64,
}

/// Takeovers in one run. Each sends what is unanswered again, so without a bound they would feed themselves.
const MAX_CRASHES: u32 = 25;

/// What travels: told apart by its first word.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
struct Packet {
    to_server: bool,
    bytes: Bytes,
}

struct Pair {
    random: Random,
    faults: Faults,
    invite: bool,
    reliable: bool,
    now: Instant,
    client: Option<ClientTransaction>,
    server: Option<ServerTransaction>,
    server_was: bool,
    wire: BinaryHeap<Reverse<(Instant, u64, Packet)>>,
    sent: u64,
    /// When the user of the server transaction answers, and with what.
    answers: Vec<(Instant, u16)>,
    /// The user's own repeats of its 2xx until the ACK (RFC 3261 s13.3.1.4).
    accepted: Option<(Instant, Bytes)>,
    /// When the caller has heard enough ringing: it cancels (RFC 3261 s9.1 bounds the wait from then on).
    give_up: Option<Instant>,
    crashes: u32,
    // What the users saw.
    requests: u32,
    finals: Vec<String>,
    provisionals: u32,
    server_ended: bool,
}

impl Pair {
    fn new(seed: u64, invite: bool, reliable: bool, faults: Faults) -> Self {
        let faults = if reliable {
            Faults {
                loss: 0,
                doubling: 0,
                ..faults
            }
        } else {
            faults
        };
        Self {
            random: Random(seed),
            faults,
            invite,
            reliable,
            now: Instant::from_micros(1),
            client: None,
            server: None,
            server_was: false,
            wire: BinaryHeap::new(),
            sent: 0,
            answers: Vec::new(),
            accepted: None,
            give_up: invite.then_some(Instant::from_micros(120_000_000)),
            crashes: 0,
            requests: 0,
            finals: Vec::new(),
            provisionals: 0,
            server_ended: false,
        }
    }

    fn send(&mut self, to_server: bool, bytes: Bytes) {
        if self.random.chance(self.faults.loss) {
            return;
        }
        let copies = 1 + u64::from(self.random.chance(self.faults.doubling));
        for _ in 0..copies {
            // In order over a reliable transport, up to 300 ms late and in any order over UDP.
            let delay = if self.reliable {
                20_000
            } else {
                self.random.below(300_000)
            };
            self.sent += 1;
            let due = self.now + Duration::from_micros(delay);
            let packet = Packet {
                to_server,
                bytes: bytes.clone(),
            };
            self.wire.push(Reverse((due, self.sent, packet)));
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let wire = self.wire.peek().map(|Reverse((due, ..))| *due);
        let client = self.client.as_ref().and_then(ClientTransaction::poll_timeout);
        let server = self.server.as_ref().and_then(ServerTransaction::poll_timeout);
        let answer = self.answers.first().map(|(due, _)| *due);
        let repeat = self.accepted.as_ref().map(|(due, _)| *due);
        [wire, client, server, answer, repeat, self.give_up]
            .into_iter()
            .flatten()
            .min()
    }

    fn run(&mut self) {
        let mut out = Effects::new();
        let request = Bytes::from_static(INVITE);
        let timers = Timers::default();
        self.client = Some(ClientTransaction::start(
            self.now,
            timers,
            self.reliable,
            self.invite,
            request,
            &mut out,
        ));
        self.client_effects(out, b"");
        let mut steps = 0;
        while let Some(due) = self.next_event() {
            self.now = self.now.max(due);
            self.step();
            steps += 1;
            assert!(steps < 10_000, "it never ends");
        }
    }

    fn step(&mut self) {
        if self.crashes < MAX_CRASHES && self.random.chance(self.faults.crash) {
            self.crashes += 1;
            self.crash();
        }
        let due = |at: Option<Instant>, now| at.is_some_and(|at| at <= now);
        let now = self.now;
        let mut out = Effects::new();
        if self.wire.peek().is_some_and(|Reverse((at, ..))| *at <= now) {
            let Reverse((_, _, packet)) = self.wire.pop().expect("peeked");
            self.arrive(packet);
        } else if self.answers.first().is_some_and(|(at, _)| *at <= now) {
            let (_, status) = self.answers.remove(0);
            self.respond(status);
        } else if self.accepted.as_ref().is_some_and(|(at, _)| *at <= now) {
            self.repeat_2xx();
        } else if self.give_up.take_if(|at| *at <= now).is_some() {
            if let Some(ClientTransaction::Invite(client)) = &mut self.client {
                client.abandon(now);
            }
        } else if due(self.client.as_ref().and_then(ClientTransaction::poll_timeout), now) {
            self.client.as_mut().expect("polled").handle_timeout(now, &mut out);
            self.client_effects(out, b"");
        } else if let Some(server) = &mut self.server {
            server.handle_timeout(now, &mut out);
            self.server_effects(out);
        }
    }

    /// Both processes die; others go on with what was written.
    fn crash(&mut self) {
        let timers = Timers::default();
        let mut out = Effects::new();
        if let Some(old) = self.client.take() {
            let mut new = ClientTransaction::restore(self.now, timers, old.snapshot(self.now));
            new.resume(self.now, &mut out);
            self.client = Some(new);
            self.client_effects(std::mem::take(&mut out), b"");
        }
        if let Some(old) = self.server.take() {
            let mut new = ServerTransaction::restore(self.now, timers, old.snapshot(self.now));
            new.resume(self.now, &mut out);
            self.server = Some(new);
            self.server_effects(out);
        }
    }

    fn arrive(&mut self, packet: Packet) {
        let mut out = Effects::new();
        if packet.to_server {
            let ack = packet.bytes.starts_with(b"ACK");
            match &mut self.server {
                Some(server) => {
                    let repeat = if ack { Repeat::Ack } else { Repeat::Request };
                    server.handle_request(self.now, repeat, &mut out);
                    if ack {
                        self.accepted = None;
                    }
                    self.server_effects(out);
                }
                None if ack => {}
                // Delay is far below the 32 s that a server transaction stays, so what comes later is a second call.
                None => self.new_request(),
            }
        } else if let Some(client) = &mut self.client {
            let text = std::str::from_utf8(&packet.bytes).expect("a status");
            let status = text.parse().expect("a status");
            client.handle_response(self.now, Response { status, to: TO }, &mut out);
            self.client_effects(out, &packet.bytes);
        }
    }

    fn new_request(&mut self) {
        assert!(!self.server_was, "the request reached the user twice");
        self.requests += 1;
        self.server_was = true;
        self.server = Some(ServerTransaction::new(
            self.now,
            Timers::default(),
            self.reliable,
            self.invite,
        ));
        let mut due = self.now;
        if self.random.chance(50) {
            due = due + Duration::from_millis(self.random.below(300));
            self.answers.push((due, 180));
        }
        // A non-INVITE has to be answered soon, an INVITE may ring for a minute.
        let longest = if self.invite && !self.answers.is_empty() {
            60_000
        } else {
            2000
        };
        due = due + Duration::from_millis(self.random.below(longest));
        self.answers.push((due, if self.random.chance(50) { 200 } else { 486 }));
    }

    fn respond(&mut self, status: u16) {
        let response = Bytes::from(status.to_string());
        if self.invite && status == 200 {
            self.accepted = Some((self.now + Duration::from_millis(500), response.clone()));
        }
        let mut out = Effects::new();
        if let Some(server) = &mut self.server {
            server.respond(self.now, status, response, &mut out);
        }
        self.server_effects(out);
    }

    fn repeat_2xx(&mut self) {
        let (_, response) = self.accepted.take().expect("due");
        if self.server.is_some() {
            self.accepted = Some((self.now + Duration::from_secs(2), response.clone()));
            self.send(false, response);
        }
    }

    fn client_effects(&mut self, out: Effects, received: &[u8]) {
        for effect in out {
            match effect {
                Effect::Send(bytes) => self.send(true, bytes),
                Effect::Deliver => self.delivered(received),
                Effect::TimedOut => self.finals.push("408".into()),
                Effect::Terminated => self.client = None,
                Effect::Failed | Effect::TryingDue => unreachable!("not a client's here"),
            }
        }
    }

    fn delivered(&mut self, received: &[u8]) {
        let status = String::from_utf8_lossy(received).into_owned();
        if status.starts_with('1') {
            assert!(self.finals.is_empty(), "provisional after final");
            self.provisionals += 1;
            return;
        }
        let repeat = self.invite && status == "200" && self.finals == ["200"];
        if !repeat {
            self.finals.push(status.clone());
        }
        // The user acknowledges each 2xx.
        if self.invite && status == "200" {
            self.send(true, Bytes::from_static(b"ACK sip:b@b SIP/2.0"));
        }
    }

    fn server_effects(&mut self, out: Effects) {
        for effect in out {
            match effect {
                Effect::Send(bytes) => self.send(false, bytes),
                Effect::Deliver => assert!(self.invite, "only the ACK of a 2xx is delivered"),
                Effect::TryingDue => self.respond(100),
                Effect::Terminated => {
                    self.server = None;
                    self.server_ended = true;
                }
                Effect::TimedOut | Effect::Failed => {}
            }
        }
    }

    /// Every transaction has ended, each user saw one request and one final response.
    fn check(&self, seed: u64) {
        let context = format!("seed {seed} invite {} reliable {}", self.invite, self.reliable);
        assert!(self.client.is_none() && self.server.is_none(), "{context}: still alive");
        assert_eq!(self.finals.len(), 1, "{context}: {:?}", self.finals);
        assert!(self.requests <= 1, "{context}");
        assert_eq!(self.server_ended, self.server_was, "{context}");
        let harmless = self.faults.loss <= 20;
        if harmless {
            assert_eq!(self.requests, 1, "{context}");
            assert_ne!(self.finals, ["408"], "{context}");
        }
    }
}

fn run(seeds: std::ops::Range<u64>, faults: Faults) {
    for seed in seeds {
        for (invite, reliable) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut pair = Pair::new(seed, invite, reliable, faults);
            pair.run();
            pair.check(seed);
        }
    }
}

#[test]
fn over_a_lossy_link_each_user_sees_one_request_and_one_final_response() {
    let faults = Faults {
        loss: 20,
        doubling: 10,
        crash: 0,
    };
    run(0..3000, faults);
}

#[test]
fn even_when_most_is_lost_every_transaction_ends_with_one_verdict() {
    let faults = Faults {
        loss: 85,
        doubling: 5,
        crash: 0,
    };
    run(3000..5000, faults);
}

#[test]
fn a_takeover_at_any_step_changes_nothing_that_the_users_see() {
    let faults = Faults {
        loss: 20,
        doubling: 10,
        crash: 10,
    };
    run(5000..8000, faults);
}

#[test]
fn a_takeover_at_every_step_changes_nothing_that_the_users_see() {
    let faults = Faults {
        loss: 0,
        doubling: 0,
        crash: 100,
    };
    run(8000..8200, faults);
}

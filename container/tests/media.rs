//! Media led through rtpengine, in virtual time: every description of a call, instances that are silent, and successors that ask again.

#[path = "common/callee.rs"]
mod callee;
#[path = "common/world.rs"]
mod world;

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::time::Duration;

use callee::{Callee, SDP, response, value};
use container::application::{self, Outside};
use container::records::{Key, Record};
use container::rtpengine::bencode::{Dictionary, Writer};
use sip::{HeaderName, Instant};
use world::{Caller, Life, PARTITION, World, status, statuses, texts, to_tag};

const APPLICATION: &str = r#"{"b2bua": {"routes": [{"target": "sip:203.0.113.7:5090"}],
    "media": {"rtpengine": ["192.0.2.10:2223", "192.0.2.11:2223"]}}}"#;
const SECOND: Duration = Duration::from_secs(1);

/// An rtpengine as far as the protocol goes.
#[derive(Default)]
struct Instance {
    silent: bool,
    /// It has no ports left.
    full: bool,
    calls: BTreeSet<String>,
    /// What it was asked: command, offerer's side and answerer's side.
    asked: Vec<String>,
}

impl Instance {
    /// Its reply to a datagram, with what it makes of a description: the sides and what was given.
    fn reply(&mut self, datagram: &[u8]) -> Option<Vec<u8>> {
        let at = datagram.iter().position(|byte| *byte == b' ').expect("a cookie");
        let request = Dictionary::parse(&datagram[at + 1..]).expect("bencode");
        let get = |key: &str| String::from_utf8_lossy(request.string(key.as_bytes()).unwrap_or_default()).into_owned();
        let (command, call) = (get("command"), get("call-id"));
        let sides = format!("{}-{}", get("from-tag"), get("to-tag"));
        self.asked.push(format!("{command} {sides}"));
        if self.silent {
            return None;
        }
        let known = self.calls.contains(&call);
        let refusal = Writer::new().string("result", b"error");
        let reply = match command.as_str() {
            "ping" => Writer::new().string("result", b"pong"),
            "offer" | "answer" if self.full => refusal,
            "offer" | "answer" if command == "offer" || known => {
                self.calls.insert(call);
                let sdp = format!("v=0\r\nled {command} {sides}\r\n{}", get("sdp"));
                Writer::new().string("result", b"ok").string("sdp", sdp.as_bytes())
            }
            "delete" if known => {
                self.calls.remove(&call);
                Writer::new().string("result", b"ok")
            }
            _ => refusal,
        };
        Some([&datagram[..=at], &reply.finish()].concat())
    }
}

/// A call between two sides, and the instances that lead its media.
struct Call {
    world: World,
    life: Life,
    outside: Box<dyn Outside>,
    instances: BTreeMap<SocketAddr, Instance>,
    caller: Caller,
    callee: Callee,
}

fn outside(seed: u64) -> Box<dyn Outside> {
    let application = application::from_json(APPLICATION).expect("a good application");
    application.outside(seed).expect("it asks")
}

fn starts(messages: &[String]) -> Vec<String> {
    let word = |text: &String| {
        let mut words = text.split(' ');
        match words.next() {
            Some("SIP/2.0") => words.next().unwrap_or_default().to_owned(),
            word => word.unwrap_or_default().to_owned(),
        }
    };
    let mut starts: Vec<String> = messages.iter().map(word).collect();
    starts.sort_unstable();
    starts
}

fn find(messages: &[String], start: &str) -> String {
    let found = messages.iter().find(|text| text.starts_with(start));
    found.unwrap_or_else(|| panic!("no {start} in {messages:?}")).clone()
}

fn body(text: &str) -> &str {
    text.split_once("\r\n\r\n").map_or("", |(_, body)| body)
}

impl Call {
    /// Nothing has happened yet.
    fn new() -> Self {
        let mut world = World::new();
        let life = world.life(1, APPLICATION);
        let instances =
            ["192.0.2.10:2223", "192.0.2.11:2223"].map(|at| (at.parse().expect("an address"), Instance::default()));
        Self {
            world,
            life,
            outside: outside(1),
            instances: instances.into(),
            caller: Caller::new("one"),
            callee: Callee {
                invite: String::new(),
                tag: String::new(),
            },
        }
    }

    /// The caller's INVITE has reached the callee.
    fn begun() -> Self {
        let mut call = Self::new();
        let out = call.invite("");
        assert_eq!(starts(&out), ["INVITE"]);
        call.callee = Callee::new(&out[0], "b1");
        call
    }

    fn connected() -> Self {
        let mut call = Self::begun();
        let out = call.hear(200, SDP);
        call.accepted(&out);
        call
    }

    fn invite(&mut self, extra: &str) -> Vec<String> {
        let invite = self.caller.request(&self.world, "INVITE", 1, extra);
        self.give(&invite)
    }

    /// The caller has its 200, and acknowledges it.
    fn accepted(&mut self, out: &[String]) {
        let ok = find(out, "SIP/2.0 200");
        self.caller.to_tag = to_tag(&ok);
        let ack = self.caller.request(&self.world, "ACK", 1, "");
        assert_eq!(self.give(&ack), Vec::<String>::new());
    }

    fn give(&mut self, message: &str) -> Vec<String> {
        self.world.give(&mut self.life, message);
        self.turns()
    }

    fn hear(&mut self, status: u16, body: &str) -> Vec<String> {
        let response = self.callee.respond(&self.world, status, "", body);
        self.give(&response)
    }

    fn respond(&mut self, request: &str, status: u16, body: &str) -> Vec<String> {
        let response = response(&self.world, request, status, "x", "", body);
        self.give(&response)
    }

    /// Turns until all is quiet: what left for the peers.
    fn turns(&mut self) -> Vec<String> {
        let mut left = Vec::new();
        loop {
            let released = self.world.turn(&mut self.life);
            left.extend(texts(&released.outputs));
            for asking in released.asks {
                self.outside.ask(self.world.now, asking.id, asking.question);
            }
            if !self.exchange() {
                return left;
            }
        }
    }

    /// Datagrams go back and forth; `true` if an answer has come of it.
    fn exchange(&mut self) -> bool {
        let now = self.world.now;
        self.outside.handle_timeout(now);
        while let Some((to, datagram)) = self.outside.poll_transmit() {
            let instance = self.instances.get_mut(&to).expect("an instance of the manifest");
            if let Some(reply) = instance.reply(&datagram) {
                self.forge(now, to, &reply);
                self.outside.handle_datagram(now, to, &reply);
            }
        }
        let mut answered = false;
        while let Some((id, answer)) = self.outside.poll_answer() {
            answered = true;
            self.life.engine.handle_answer(now, id, answer);
        }
        answered
    }

    /// What others send first: none of it may count.
    fn forge(&mut self, now: Instant, to: SocketAddr, reply: &[u8]) {
        let cookie = &reply[..=reply.iter().position(|byte| *byte == b' ').expect("a cookie")];
        let forged = Writer::new().string("result", b"ok").string("sdp", b"forged").finish();
        let stranger = "198.51.100.66:2223".parse().expect("an address");
        self.outside.handle_datagram(now, stranger, &[cookie, &forged].concat());
        for wrong in [&b"0000000000000000_1 "[..], b"_1 ", b"1 ", b" ", b""] {
            self.outside.handle_datagram(now, to, &[wrong, &forged].concat());
        }
        for wrong in [&b"d6:result2:ok"[..], b"de", b"", b"d3:sdp6:forgede"] {
            self.outside.handle_datagram(now, to, &[cookie, wrong].concat());
        }
    }

    fn pass(&mut self, time: Duration) -> Vec<(Duration, String)> {
        let (start, end) = (self.world.now, self.world.now + time);
        let mut left = Vec::new();
        loop {
            let deadlines = [self.life.engine.poll_timeout(), self.outside.poll_timeout()];
            let next = deadlines.into_iter().flatten().min().unwrap_or(Instant::MAX);
            let next = next.max(self.world.now);
            self.world.now = next.min(end);
            if next > end {
                return left;
            }
            self.life.engine.handle_timeout(self.world.now);
            self.exchange();
            let since = self.world.now.since(start);
            left.extend(self.turns().into_iter().map(|text| (since, text)));
        }
    }

    /// The container dies, and another goes on from what is written.
    fn take_over(&mut self) -> Vec<String> {
        let member = self.life.member.0 + 1;
        self.life = self.world.life(member, APPLICATION);
        self.outside = outside(member);
        self.turns()
    }

    fn silence(&mut self, silent: bool) {
        for instance in self.instances.values_mut() {
            instance.silent = silent;
        }
    }

    /// Call-ID, our tag and the peer's of the dialog with one side.
    fn names_of(&self, callee: bool) -> (String, String, String) {
        if !callee {
            let of_caller = |text: &str| text.to_owned();
            return (
                of_caller("one@198.51.100.9"),
                self.caller.to_tag.clone(),
                of_caller("a-one"),
            );
        }
        let from = value(&self.callee.invite, HeaderName::From);
        let local = from.split(";tag=").nth(1).expect("a tag").to_owned();
        (
            value(&self.callee.invite, HeaderName::CallId),
            local,
            self.callee.tag.clone(),
        )
    }

    /// Where the instance is that was the last to lead a description.
    fn leading(&self) -> SocketAddr {
        let stored = &self.world.store.partition(PARTITION).expect("owned").records;
        let sessions = stored.iter().filter_map(|(key, value)| {
            let kind = Key::parse(key)?.kind;
            Record::decode(kind, value.clone().into()).ok()
        });
        let attributes = sessions.filter_map(|record| match record {
            Record::Session(session) => Some(session.attributes),
            _ => None,
        });
        let own = attributes.flatten().find(|attribute| attribute.name == "rtpengine");
        let own = String::from_utf8(own.expect("it is led").value.to_vec()).expect("an address");
        own.parse().expect("an address")
    }

    /// The instance that leads the call.
    fn own(&mut self) -> &mut Instance {
        let own = self.instances.values_mut().find(|instance| !instance.calls.is_empty());
        own.expect("one of them leads it")
    }

    fn asked(&self) -> Vec<&str> {
        let asked = self.instances.values().flat_map(|instance| &instance.asked);
        asked
            .map(String::as_str)
            .filter(|asked| !asked.starts_with("ping"))
            .collect()
    }

    fn end(mut self) {
        let bye = self.caller.next(&self.world, "BYE");
        let out = self.give(&bye);
        assert_eq!(starts(&out), ["200", "BYE"]);
        self.respond(&find(&out, "BYE "), 200, "");
        self.leaves_nothing();
    }

    fn leaves_nothing(mut self) {
        assert!(self.asked().contains(&"delete -"), "{:?}", self.asked());
        for instance in self.instances.values() {
            assert!(instance.silent || instance.calls.is_empty(), "{:?}", instance.asked);
        }
        self.pass(SECOND * 120);
        assert_eq!(self.life.engine.holdings().dialogs, 0);
        let left = &self.world.store.partition(PARTITION).expect("owned").records;
        assert!(left.is_empty(), "{left:?}");
    }
}

#[test]
fn descriptions_are_led_and_the_call_is_forgotten_at_its_end() {
    let mut call = Call::begun();
    assert_eq!(body(&call.callee.invite), "v=0\r\nled offer 0-\r\nv=0\r\n");
    let out = call.hear(180, "");
    assert_eq!(starts(&out), ["180"]);
    let out = call.hear(183, SDP);
    assert_eq!(
        body(&find(&out, "SIP/2.0 183")),
        format!("v=0\r\nled answer 0-1\r\n{SDP}")
    );
    let out = call.hear(200, SDP);
    assert_eq!(starts(&out), ["200", "ACK"]);
    assert_eq!(
        body(&find(&out, "SIP/2.0 200")),
        format!("v=0\r\nled answer 0-1\r\n{SDP}")
    );
    call.accepted(&out);
    assert_eq!(call.own().asked.len(), 3, "{:?}", call.own().asked);
    call.end();
}

#[test]
fn either_side_changes_the_session() {
    for method in ["INVITE", "UPDATE"] {
        let mut call = Call::connected();
        let change = call.callee.request(&call.world, method, 1, "", "v=0\r\nnew\r\n");
        let out = call.give(&change);
        let passed = find(&out, method);
        assert_eq!(body(&passed), "v=0\r\nled offer 1-0\r\nv=0\r\nnew\r\n");
        let out = call.respond(&passed, 200, SDP);
        assert_eq!(
            body(&find(&out, "SIP/2.0 200")),
            format!("v=0\r\nled answer 1-0\r\n{SDP}")
        );
        if method == "INVITE" {
            let ack = call.callee.request(&call.world, "ACK", 1, "", "");
            call.give(&ack);
        }
        // What is no description stays as it is.
        let info = call.callee.request(&call.world, "INFO", 2, "", "v=0\r\n");
        let out = call.give(&info);
        assert_eq!(body(&find(&out, "INFO")), "v=0\r\n");
        call.respond(&find(&out, "INFO"), 200, "");
        call.end();
    }
}

#[test]
fn an_offer_that_comes_late_is_led_and_so_is_its_answer() {
    let mut call = Call::new();
    let invite = call.caller.request(&call.world, "INVITE", 1, "");
    let invite = invite
        .replace("Content-Type: application/sdp\r\n", "")
        .replace("Content-Length: 5\r\n\r\nv=0\r\n", "Content-Length: 0\r\n\r\n");
    let out = call.give(&invite);
    assert!(call.asked().is_empty(), "there is nothing to be led yet");
    call.callee = Callee::new(&find(&out, "INVITE"), "b1");
    // It answers no offer, so it is none of an answer.
    let out = call.hear(183, SDP);
    assert_eq!(body(&find(&out, "SIP/2.0 183")), "");
    let out = call.hear(200, SDP);
    assert_eq!(starts(&out), ["200"], "the ACK waits for the caller's answer");
    assert_eq!(body(&out[0]), format!("v=0\r\nled offer 1-0\r\n{SDP}"));
    call.caller.to_tag = to_tag(&out[0]);
    let ack = call
        .caller
        .request(&call.world, "ACK", 1, "Content-Type: application/sdp\r\n");
    let ack = ack.replace("Content-Length: 0\r\n\r\n", "Content-Length: 8\r\n\r\nv=0\r\na\r\n");
    let out = call.give(&ack);
    assert_eq!(starts(&out), ["ACK"]);
    assert_eq!(body(&out[0]), "v=0\r\nled answer 1-0\r\nv=0\r\na\r\n");
    call.end();
}

/// The container dies after it has asked and before it hears; at each of the places where it asks.
#[test]
fn a_successor_asks_again_what_was_not_answered() {
    let mut call = Call::new();
    call.silence(true);
    assert!(call.invite("").is_empty(), "it waits for the answer");
    call.silence(false);
    let out = call.take_over();
    assert_eq!(starts(&out), ["INVITE"]);
    assert_eq!(body(&out[0]), "v=0\r\nled offer 0-\r\nv=0\r\n");
    assert_eq!(call.asked(), ["offer 0-", "offer 0-"]);
    call.callee = Callee::new(&out[0], "b1");

    call.silence(true);
    assert_eq!(starts(&call.hear(200, SDP)), ["ACK"]);
    call.silence(false);
    let out = call.take_over();
    assert_eq!(starts(&out), ["200"]);
    assert_eq!(body(&out[0]), format!("v=0\r\nled answer 0-1\r\n{SDP}"));
    call.accepted(&out);

    call.silence(true);
    let bye = call.caller.next(&call.world, "BYE");
    let bye = find(&call.give(&bye), "BYE ");
    call.respond(&bye, 200, "");
    call.silence(false);
    call.take_over();
    call.leaves_nothing();
}

#[test]
fn a_call_that_is_given_up_while_it_is_asked_for_goes_nowhere() {
    let mut call = Call::new();
    call.silence(true);
    call.invite("");
    let cancel = call.caller.request(&call.world, "CANCEL", 1, "");
    assert_eq!(starts(&call.give(&cancel)), ["200", "487"]);
    call.silence(false);
    let left = call.pass(SECOND);
    assert!(left.iter().all(|(_, text)| !text.starts_with("INVITE")), "{left:?}");
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.leaves_nothing();
}

#[test]
fn a_change_that_is_given_up_while_it_is_asked_for_goes_nowhere() {
    let mut call = Call::connected();
    call.silence(true);
    let change = call.caller.next(&call.world, "INVITE");
    assert!(call.give(&change).is_empty());
    let cancel = call.caller.request(&call.world, "CANCEL", 2, "");
    assert_eq!(starts(&call.give(&cancel)), ["200", "487"]);
    let ack = call.caller.request(&call.world, "ACK", 2, "");
    call.give(&ack);
    call.silence(false);
    let left = call.pass(SECOND);
    assert!(left.iter().all(|(_, text)| !text.starts_with("INVITE")), "{left:?}");
    assert_eq!(call.asked().last(), Some(&"offer 0-1"), "it was answered after all");
    call.end();
}

#[test]
fn an_answer_that_comes_during_a_hand_over_waits_for_its_end() {
    let mut call = Call::new();
    call.silence(true);
    call.invite("");
    call.life.engine.freeze(PARTITION);
    call.silence(false);
    assert_eq!(call.pass(SECOND), [], "turns have stopped");
    call.life.engine.thaw(call.world.now, PARTITION);
    let out = call.turns();
    assert!(out.iter().any(|text| text.starts_with("INVITE ")), "{out:?}");
}

#[test]
fn forks_are_one_side_whose_latest_answer_counts() {
    let mut call = Call::begun();
    let other = Callee::new(&call.callee.invite, "b2");
    let ringing = other.respond(&call.world, 183, "", SDP);
    let out = call.give(&ringing);
    assert_eq!(body(&out[0]), format!("v=0\r\nled answer 0-1\r\n{SDP}"));
    let out = call.hear(200, SDP);
    assert_eq!(
        body(&find(&out, "SIP/2.0 200")),
        format!("v=0\r\nled answer 0-1\r\n{SDP}")
    );
    call.accepted(&out);
    call.end();
}

#[test]
fn a_refused_or_cancelled_call_is_forgotten_too() {
    let mut call = Call::begun();
    assert_eq!(starts(&call.hear(486, "")), ["486", "ACK"]);
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.leaves_nothing();

    let mut call = Call::begun();
    call.hear(180, "");
    let cancel = call.caller.request(&call.world, "CANCEL", 1, "");
    let out = call.give(&cancel);
    call.respond(&find(&out, "CANCEL"), 200, "");
    call.hear(487, "");
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.leaves_nothing();
}

#[test]
fn a_silent_instance_is_passed_over_until_it_is_heard_again() {
    let mut call = Call::begun();
    let (own, other) = {
        let own = *call
            .instances
            .iter()
            .find(|(_, instance)| !instance.calls.is_empty())
            .expect("one")
            .0;
        (own, *call.instances.keys().find(|at| **at != own).expect("another"))
    };
    call.instances.get_mut(&own).expect("it").silent = true;
    assert_eq!(starts(&call.hear(486, "")), ["486", "ACK"]);
    call.pass(SECOND * 3);
    let asked = &call.instances[&own].asked;
    assert_eq!(
        asked.iter().filter(|asked| asked.starts_with("delete")).count(),
        4,
        "{asked:?}"
    );
    assert_eq!(call.outside.repeated(), 3, "pings do not count");
    // Now it is known to be silent: calls begin at the other, none waits.
    for number in 0..8 {
        call.caller = Caller::new(&format!("call-{number}"));
        assert_eq!(starts(&call.invite("")), ["INVITE"]);
    }
    assert_eq!(call.instances[&other].calls.len(), 8);
    call.instances.get_mut(&own).expect("it").silent = false;
    call.pass(SECOND);
    for number in 8..40 {
        call.caller = Caller::new(&format!("call-{number}"));
        call.invite("");
    }
    let counts: Vec<usize> = call.instances.values().map(|instance| instance.calls.len()).collect();
    assert!(counts.iter().all(|count| *count > 8 + 1), "both lead calls: {counts:?}");
}

#[test]
fn a_new_call_goes_to_the_next_instance_within_a_second() {
    // As sessions are spread over instances, some begin at the one that is silent.
    let mut call = Call::new();
    let first = *call.instances.keys().next().expect("one");
    call.instances.get_mut(&first).expect("it").silent = true;
    let mut waited = Vec::new();
    for number in 0..8 {
        call.caller = Caller::new(&format!("call-{number}"));
        let mark = format!("X-Number: {number}\r\n");
        if call.invite(&mark).is_empty() {
            let left = call.pass(SECOND * 2);
            let of_it = |(_, text): &&(Duration, String)| text.starts_with("INVITE ") && text.contains(&mark);
            waited.push(left.iter().find(of_it).expect("it goes out").0);
        }
    }
    assert_eq!(waited, [SECOND], "one call finds out, for all");
}

#[test]
fn without_any_instance_calls_are_refused_and_changes_too() {
    let mut call = Call::new();
    call.silence(true);
    assert!(call.invite("").is_empty());
    let left = call.pass(SECOND * 3);
    let refusal = left
        .iter()
        .find(|(_, text)| text.starts_with("SIP/2.0 500"))
        .expect("a refusal");
    assert_eq!(refusal.0, SECOND * 2, "both were asked");
    assert!(refusal.1.contains("\r\nRetry-After: "), "{}", refusal.1);

    let mut call = Call::connected();
    call.silence(true);
    let change = call.caller.next(&call.world, "INVITE");
    assert!(call.give(&change).is_empty());
    let left = call.pass(SECOND * 3);
    let left: Vec<String> = left.into_iter().map(|(_, text)| text).collect();
    assert!(statuses(&[find(&left, "SIP/2.0 500")]).contains(&500));
    let ack = call.caller.request(&call.world, "ACK", 2, "");
    call.give(&ack);
    assert_eq!(call.life.engine.holdings().dialogs, 1, "the call is up as before");
    call.silence(false);
    call.pass(SECOND * 2);
    call.end();
}

#[test]
fn a_call_whose_instance_is_lost_goes_on_with_another_when_it_is_changed() {
    let mut call = Call::connected();
    call.own().silent = true;
    let change = call.caller.next(&call.world, "INVITE");
    assert!(call.give(&change).is_empty());
    let left: Vec<String> = call.pass(SECOND * 2).into_iter().map(|(_, text)| text).collect();
    let passed = find(&left, "INVITE ");
    assert_eq!(body(&passed), "v=0\r\nled offer 0-1\r\nv=0\r\n");
    let out = call.respond(&passed, 200, SDP);
    assert_eq!(
        body(&find(&out, "SIP/2.0 200")),
        format!("v=0\r\nled answer 0-1\r\n{SDP}")
    );
    let ack = call.caller.request(&call.world, "ACK", 2, "");
    call.give(&ack);
    // The one that was lost is back by the end of the call, with what it had: both are told.
    call.silence(false);
    let with_it = call.instances.values().filter(|instance| !instance.calls.is_empty());
    assert_eq!(with_it.count(), 2);
    call.end();
}

#[test]
fn a_call_that_goes_from_instance_to_instance_is_forgotten_by_all_of_them_after_a_takeover_too() {
    let mut call = Call::connected();
    let own = call.own().asked.len();
    for cseq in 2..5 {
        // There, back and there again.
        let at = call.leading();
        call.instances.get_mut(&at).expect("it").silent = true;
        let change = call.caller.next(&call.world, "INVITE");
        call.give(&change);
        let left: Vec<String> = call.pass(SECOND * 2).into_iter().map(|(_, text)| text).collect();
        call.respond(&find(&left, "INVITE "), 200, SDP);
        let ack = call.caller.request(&call.world, "ACK", cseq, "");
        call.give(&ack);
        assert_ne!(call.leading(), at);
        call.silence(false);
        call.pass(SECOND * 2);
    }
    assert_eq!(call.take_over(), Vec::<String>::new());
    let deletes = |call: &Call| call.asked().iter().filter(|asked| **asked == "delete -").count();
    assert_eq!((own, deletes(&call)), (2, 0));
    let bye = call.caller.next(&call.world, "BYE");
    let bye = find(&call.give(&bye), "BYE ");
    call.respond(&bye, 200, "");
    assert_eq!(deletes(&call), 2, "each is told once");
    call.leaves_nothing();
}

/// An error says that the instance is there, and that the call goes on as it was.
#[test]
fn an_instance_that_refuses_a_change_keeps_the_call_and_one_that_refuses_a_new_call_does_not_get_it() {
    let mut call = Call::connected();
    let own = call.leading();
    call.instances.get_mut(&own).expect("it").full = true;
    let change = call.caller.next(&call.world, "INVITE");
    let out = call.give(&change);
    assert_eq!(statuses(&out), [500], "{out:?}");
    let ack = call.caller.request(&call.world, "ACK", 2, "");
    call.give(&ack);
    let asked = call
        .instances
        .iter()
        .filter(|(at, _)| **at != own)
        .map(|(_, other)| other.asked.len());
    assert_eq!(asked.sum::<usize>(), 0, "nobody else is asked");
    for number in 0..4 {
        let first = std::mem::replace(&mut call.caller, Caller::new(&format!("call-{number}")));
        assert_eq!(starts(&call.invite("")), ["INVITE"]);
        call.caller = first;
    }
    assert_eq!(call.instances[&own].calls.len(), 1);
    call.instances.get_mut(&own).expect("it").full = false;
    let change = call.caller.next(&call.world, "INVITE");
    let out = call.give(&change);
    assert_eq!(body(&find(&out, "INVITE ")), "v=0\r\nled offer 0-1\r\nv=0\r\n");
    assert_eq!(call.instances[&own].calls.len(), 1);
}

#[test]
fn who_takes_a_place_in_a_call_is_led_by_its_instance() {
    for callee_goes in [true, false] {
        let mut call = Call::connected();
        let (call_id, local, remote) = call.names_of(callee_goes);
        let mut third = Caller::new("third");
        let replaces = format!("Replaces: {call_id};to-tag={local};from-tag={remote}\r\nRequire: replaces\r\n");
        let invite = third.request(&call.world, "INVITE", 1, &replaces);
        // The container dies before it hears what the offer is led to.
        call.silence(true);
        assert!(call.give(&invite).is_empty());
        call.silence(false);
        let out = call.take_over();
        assert_eq!(starts(&out), ["INVITE"], "{out:?}");
        let other = if callee_goes { 0 } else { 1 };
        let led = format!("v=0\r\nled offer 3-{other}\r\nv=0\r\n");
        assert_eq!(body(&out[0]), led, "between the newcomer and the side that stays");
        let out = call.respond(&out[0], 200, SDP);
        assert_eq!(starts(&out), ["200", "ACK", "BYE"]);
        let (ok, bye) = (find(&out, "SIP/2.0 200"), find(&out, "BYE "));
        assert_eq!(body(&ok), format!("v=0\r\nled answer 3-{other}\r\n{SDP}"));
        call.respond(&bye, 200, "");
        third.to_tag = to_tag(&ok);
        let ack = third.request(&call.world, "ACK", 1, "");
        assert!(call.give(&ack).is_empty());
        assert_eq!(call.own().calls.len(), 1, "it is one call, and not over");
        assert!(!call.asked().contains(&"delete -"));
        let change = third.next(&call.world, "INVITE");
        let change = find(&call.give(&change), "INVITE ");
        assert_eq!(body(&change), led);
        call.respond(&change, 200, SDP);
        let ack = third.request(&call.world, "ACK", 2, "");
        call.give(&ack);
        let bye = third.next(&call.world, "BYE");
        let out = call.give(&bye);
        call.respond(&find(&out, "BYE "), 200, "");
        call.leaves_nothing();
    }
}

#[test]
fn an_answer_that_no_instance_leads_ends_the_call() {
    let mut call = Call::begun();
    call.silence(true);
    assert_eq!(starts(&call.hear(200, SDP)), ["ACK"]);
    let left: Vec<String> = call.pass(SECOND * 2).into_iter().map(|(_, text)| text).collect();
    assert_eq!(status(&find(&left, "SIP/2.0 500")), 500);
    let bye = find(&left, "BYE ");
    call.respond(&bye, 200, "");
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.leaves_nothing();
}

#[test]
fn nothing_is_asked_before_it_is_written_nor_by_whoever_has_lost_the_call() {
    let mut call = Call::new();
    let invite = call.caller.request(&call.world, "INVITE", 1, "");
    call.world.give(&mut call.life, &invite);
    let turn = call.life.engine.end_turn(call.world.now).expect("a turn");
    assert!(call.world.released(&mut call.life).asks.is_empty());
    // Another has claimed the partition before the write comes to the store.
    let successor = call.world.life(2, APPLICATION);
    call.world.write(&mut call.life, &turn);
    assert!(call.world.released(&mut call.life).asks.is_empty());
    call.life = successor;
    assert_eq!(starts(&call.give(&invite)), ["INVITE"]);
}

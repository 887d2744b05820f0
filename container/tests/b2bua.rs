//! The back-to-back user agent in virtual time: a call on both its sides, what collides, what forks, and successors.

#[path = "common/callee.rs"]
mod callee;
#[path = "common/world.rs"]
mod world;

use std::time::Duration;

use callee::{Callee, SDP, response, value};
use sip::HeaderName;
use world::{Caller, Life, PARTITION, World, status, statuses, texts, to_tag};

const ROUTES: &str = r#"{"b2bua": {"routes": [
    {"user": "nobody", "domain": "elsewhere", "target": "sip:203.0.113.1"},
    {"source": "198.51.100.0/24", "target": "sip:203.0.113.7:5090"}
]}}"#;
const SECOND: Duration = Duration::from_secs(1);

/// A call from the caller's INVITE on.
struct Call {
    world: World,
    life: Life,
    caller: Caller,
    callee: Callee,
}

/// What starts each message: method or status.
fn starts(messages: &[String]) -> Vec<&str> {
    messages
        .iter()
        .map(|text| {
            let mut words = text.split(' ');
            match words.next() {
                Some("SIP/2.0") => words.next().unwrap_or_default(),
                word => word.unwrap_or_default(),
            }
        })
        .collect()
}

/// The same where the order is nobody's affair: the two sides hear of it on different ways.
fn sorted(messages: &[String]) -> Vec<&str> {
    let mut starts = starts(messages);
    starts.sort_unstable();
    starts
}

/// The one of these messages that starts so.
fn find<'a>(messages: &'a [String], start: &str) -> &'a String {
    let found = messages.iter().find(|text| text.starts_with(start));
    found.unwrap_or_else(|| panic!("no {start} in {messages:?}"))
}

impl Call {
    /// The caller's INVITE has reached the callee.
    fn begin(extra: &str) -> Self {
        let mut world = World::new();
        let mut life = world.life(1, ROUTES);
        let caller = Caller::new("one");
        let invite = caller.request(&world, "INVITE", 1, extra);
        let out = world.exchange(&mut life, &invite);
        assert_eq!(starts(&out), ["INVITE"]);
        let callee = Callee::new(&out[0], "b1");
        Self {
            world,
            life,
            caller,
            callee,
        }
    }

    /// The callee rings, answers, and both sides have their ACK.
    fn connected() -> Self {
        let mut call = Self::begin("");
        let out = call.hear(180, "");
        assert_eq!(starts(&out), ["180"]);
        call.answer();
        call
    }

    fn answer(&mut self) {
        let out = self.hear(200, SDP);
        assert_eq!(sorted(&out), ["200", "ACK"]);
        let ok = out.iter().find(|text| text.starts_with("SIP/2.0 200")).expect("a 200");
        assert!(ok.ends_with(SDP), "{ok}");
        self.caller.to_tag = to_tag(ok);
        let ack = self.caller.request(&self.world, "ACK", 1, "");
        assert!(self.give(&ack).is_empty());
    }

    fn give(&mut self, message: &str) -> Vec<String> {
        self.world.exchange(&mut self.life, message)
    }

    fn hear(&mut self, status: u16, body: &str) -> Vec<String> {
        let response = self.callee.respond(&self.world, status, "", body);
        self.give(&response)
    }

    /// The container dies, and another goes on from what is written.
    fn take_over(&mut self) -> Vec<String> {
        let member = self.life.member.0 + 1;
        self.life = self.world.life(member, ROUTES);
        texts(&self.world.turn(&mut self.life).outputs)
    }

    /// A request of ours is answered with this status.
    fn respond(&mut self, request: &str, status: u16, body: &str) -> Vec<String> {
        let response = response(&self.world, request, status, "x", "", body);
        self.give(&response)
    }

    /// BYE of the caller reaches the callee, and nothing is left of the call, in memory nor in the store.
    fn end(mut self) {
        let bye = self.caller.next(&self.world, "BYE");
        let out = self.give(&bye);
        assert_eq!(sorted(&out), ["200", "BYE"]);
        let bye = out.iter().find(|text| text.starts_with("BYE ")).expect("a BYE");
        let bye = bye.clone();
        assert!(bye.starts_with("BYE sip:b1@203.0.113.7:5090 "), "{bye}");
        self.respond(&bye, 200, "");
        self.leaves_nothing();
    }

    fn leaves_nothing(mut self) {
        assert_eq!(self.life.engine.holdings().dialogs, 0);
        self.world.pass(&mut self.life, SECOND * 120);
        let left = &self.world.store.partition(PARTITION).expect("owned").records;
        assert!(left.is_empty(), "{left:?}");
        assert_eq!(self.life.engine.holdings().open_transactions, 0);
    }
}

#[test]
fn a_call_goes_out_again_and_either_side_ends_it() {
    let mut call = Call::begin("X-Account: 7\r\nSubject: hello\r\nAllow-Events: talk\r\n");
    let invite = &call.callee.invite;
    assert!(
        invite.starts_with("INVITE sip:bob@203.0.113.7:5090 SIP/2.0\r\n"),
        "{invite}"
    );
    assert!(
        invite.contains("\r\nX-Account: 7\r\n") && invite.contains("\r\nSubject: hello\r\n"),
        "{invite}"
    );
    assert!(
        !invite.contains("Allow-Events") && !invite.contains("a-one"),
        "{invite}"
    );
    assert!(
        invite.contains("\r\nMax-Forwards: 68\r\n") && invite.ends_with("\r\n\r\nv=0\r\n"),
        "{invite}"
    );
    assert!(
        invite.contains("\r\nFrom: \"Alice\" <sip:alice@198.51.100.9>;tag="),
        "{invite}"
    );
    assert!(call.hear(100, "").is_empty(), "100 is for one hop");
    let ringing = call.hear(180, "");
    assert_eq!(starts(&ringing), ["180"]);
    assert!(ringing[0].starts_with("SIP/2.0 180 Because\r\n"), "{}", ringing[0]);
    call.answer();
    call.end();

    let mut call = Call::connected();
    let bye = call.callee.request(&call.world, "BYE", 1, "", "");
    let out = call.give(&bye);
    assert_eq!(sorted(&out), ["200", "BYE"]);
    let bye = out.into_iter().find(|text| text.starts_with("BYE ")).expect("a BYE");
    assert!(bye.starts_with("BYE sip:alice@198.51.100.9:5080 "), "{bye}");
    call.respond(&bye, 200, "");
    call.leaves_nothing();
}

#[test]
fn a_call_without_a_route_or_without_hops_is_refused() {
    let mut world = World::new();
    let mut life = world.life(
        1,
        r#"{"b2bua": {"routes": [{"domain": "elsewhere", "target": "sip:203.0.113.1"}]}}"#,
    );
    let caller = Caller::new("one");
    let invite = caller.request(&world, "INVITE", 1, "");
    assert_eq!(statuses(&world.exchange(&mut life, &invite)), [404]);
    let mut life = world.life(2, ROUTES);
    world.turn(&mut life);
    let invite = Caller::new("two").request(&world, "INVITE", 1, "");
    let invite = invite.replace("Max-Forwards: 69", "Max-Forwards: 0");
    assert_eq!(statuses(&world.exchange(&mut life, &invite)), [483]);
    let options = Caller::new("three").request(&world, "OPTIONS", 1, "");
    assert_eq!(statuses(&world.exchange(&mut life, &options)), [200]);
    let refer = Caller::new("four").request(&world, "REFER", 1, "");
    assert_eq!(statuses(&world.exchange(&mut life, &refer)), [405]);
}

#[test]
fn a_refusal_is_passed_on_in_words_for_the_other_side() {
    for (said, heard) in [(486, 486), (603, 603), (404, 404), (302, 302), (503, 500), (420, 500)] {
        let mut call = Call::begin("");
        call.hear(180, "");
        let refusal = call.callee.respond(&call.world, said, "Retry-After: 5\r\n", "");
        let out = call.give(&refusal);
        assert_eq!(
            starts(&out).iter().filter(|start| **start == "ACK").count(),
            1,
            "{out:?}"
        );
        let to_caller = out.iter().find(|text| text.starts_with("SIP/2.0")).expect("a refusal");
        assert_eq!(status(to_caller), heard);
        assert_eq!(to_caller.contains("Retry-After"), said == heard);
        assert_eq!(to_caller.contains("\r\nContact: <sip:b1@"), said == 302, "{to_caller}");
        let ack = call.caller.request(&call.world, "ACK", 1, "");
        call.give(&ack);
        call.leaves_nothing();
    }
}

#[test]
fn silence_is_passed_on_as_408_and_endless_ringing_as_480() {
    let mut call = Call::begin("");
    let left = call.world.pass(&mut call.life, SECOND * 33);
    let final_ = left
        .iter()
        .find(|(_, text)| text.starts_with("SIP/2.0 4"))
        .expect("a refusal");
    assert_eq!((final_.0, status(&final_.1)), (SECOND * 32, 408));
    let repeats = left.iter().filter(|(_, text)| text.starts_with("INVITE ")).count();
    assert_eq!(repeats, 6, "timer A");

    let mut call = Call::begin("");
    call.hear(180, "");
    let left = call.world.pass(&mut call.life, SECOND * 181);
    let at = |start: &str| left.iter().find(|(_, text)| text.starts_with(start)).map(|(at, _)| *at);
    assert_eq!(at("SIP/2.0 480"), Some(SECOND * 180));
    assert_eq!(at("CANCEL "), Some(SECOND * 180));
}

#[test]
fn a_cancel_waits_for_the_callee_to_be_heard_of() {
    let mut call = Call::begin("");
    let cancel = call.caller.request(&call.world, "CANCEL", 1, "");
    assert_eq!(starts(&call.give(&cancel)), ["200", "487"]);
    let out = call.hear(100, "");
    assert_eq!(starts(&out), ["CANCEL"]);
    assert_eq!(
        value(&out[0], HeaderName::Via),
        value(&call.callee.invite, HeaderName::Via),
        "the same branch"
    );
    assert!(call.hear(180, "").is_empty(), "the caller has its answer");
    let cancel = out[0].clone();
    assert!(call.respond(&cancel, 200, "").is_empty());
    assert_eq!(starts(&call.hear(487, "")), ["ACK"]);
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.leaves_nothing();
}

#[test]
fn an_answer_that_crosses_the_cancel_is_acknowledged_and_ended() {
    // Once before and once after the CANCEL has left, and by a successor.
    for (heard, dies) in [(false, false), (true, false), (false, true), (true, true)] {
        let mut call = Call::begin("");
        if heard {
            call.hear(180, "");
        }
        let cancel = call.caller.request(&call.world, "CANCEL", 1, "");
        call.give(&cancel);
        if dies {
            call.take_over();
        }
        let out = call.hear(200, SDP);
        assert_eq!(starts(&out), ["ACK", "BYE"], "{heard} {dies}");
        assert!(out[0].ends_with("Content-Length: 0\r\n\r\n"));
        let bye = out[1].clone();
        let again = call.hear(200, SDP);
        assert_eq!(again, [out[0].clone()], "a repeat gets the same ACK");
        call.respond(&bye, 200, "");
        let ack = call.caller.request(&call.world, "ACK", 1, "");
        call.give(&ack);
        assert_eq!(
            call.life.engine.holdings().dialogs,
            usize::from(heard),
            "only the CANCEL's transaction is left"
        );
    }
}

#[test]
fn the_first_fork_that_answers_is_connected_and_the_others_are_ended() {
    let mut call = Call::begin("");
    let other = Callee::new(&call.callee.invite, "b2");
    call.hear(180, "");
    let ringing = other.respond(&call.world, 183, "", SDP);
    assert_eq!(starts(&call.give(&ringing)), ["183"]);
    // Another container goes on in the middle of it.
    call.take_over();
    call.answer();
    let late = other.respond(&call.world, 200, "", SDP);
    let out = call.give(&late);
    assert_eq!(starts(&out), ["ACK", "BYE"]);
    assert!(out[1].starts_with("BYE sip:b2@203.0.113.7:5090 "), "{}", out[1]);
    let bye = out[1].clone();
    call.respond(&bye, 200, "");
    // And one that answers when the call is over.
    let third = Callee::new(&call.callee.invite, "b3").respond(&call.world, 200, "", SDP);
    let bye = call.caller.next(&call.world, "BYE");
    let out = call.give(&bye);
    let bye = out.into_iter().find(|text| text.starts_with("BYE ")).expect("a BYE");
    call.respond(&bye, 200, "");
    let out = call.give(&third);
    assert_eq!(starts(&out), ["ACK", "BYE"]);
    let bye = out[1].clone();
    call.respond(&bye, 200, "");
    call.leaves_nothing();
}

#[test]
fn reliable_responses_are_acknowledged_on_each_side_by_itself() {
    let mut call = Call::begin("Supported: 100rel\r\n");
    assert!(call.callee.invite.contains("100rel"), "{}", call.callee.invite);
    let progress = call
        .callee
        .respond(&call.world, 183, "Require: 100rel\r\nRSeq: 70\r\n", SDP);
    let out = call.give(&progress);
    assert_eq!(starts(&out), ["PRACK", "183"]);
    assert!(out[0].contains("\r\nRAck: 70 1 INVITE\r\n"), "{}", out[0]);
    let rseq = value(&out[1], HeaderName::Rseq);
    assert!(out[1].contains("\r\nRequire: 100rel\r\n") && rseq != "70", "{}", out[1]);
    let prack = out[0].clone();
    assert!(call.respond(&prack, 200, "").is_empty());
    // The 200 waits for the caller's PRACK, over the death of the container.
    call.caller.to_tag = to_tag(&out[1]);
    let answered = call.callee.respond(&call.world, 200, "", "");
    assert_eq!(starts(&call.give(&answered)), ["ACK"]);
    let repeated = call.take_over();
    assert!(starts(&repeated).contains(&"183"), "{repeated:?}");
    let prack = call
        .caller
        .request(&call.world, "PRACK", 2, &format!("RAck: {rseq} 1 INVITE\r\n"));
    let out = call.give(&prack);
    assert_eq!(statuses(&out), [200, 200]);
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    call.give(&ack);
    call.caller.cseq = 2;
    call.end();
}

#[test]
fn a_caller_that_demands_reliable_responses_gets_them() {
    let mut call = Call::begin("Require: 100rel\r\n");
    let out = call.hear(180, "");
    assert!(out[0].contains("\r\nRSeq: "), "{}", out[0]);
    let left = call.world.pass(&mut call.life, SECOND * 33);
    assert!(left.iter().any(|(_, text)| text.starts_with("SIP/2.0 504")), "no PRACK");
    assert!(left.iter().any(|(_, text)| text.starts_with("CANCEL ")), "no PRACK");
}

#[test]
fn what_one_side_asks_the_other_answers() {
    let mut call = Call::connected();
    for (cseq, method) in [
        (1, "INVITE"),
        (2, "UPDATE"),
        (3, "INFO"),
        (4, "REFER"),
        (5, "NOTIFY"),
        (6, "MESSAGE"),
    ] {
        let request = call
            .callee
            .request(&call.world, method, cseq, "X-Of: callee\r\n", "v=0\r\no=1\r\n");
        let out = call.give(&request);
        assert_eq!(starts(&out), [method]);
        assert!(
            out[0].contains("\r\nX-Of: callee\r\n") && out[0].ends_with("\r\n\r\nv=0\r\no=1\r\n"),
            "{}",
            out[0]
        );
        assert!(
            out[0].starts_with(&format!("{method} sip:alice@198.51.100.9:5080 ")),
            "{}",
            out[0]
        );
        let asked = out[0].clone();
        let out = call.respond(&asked, 202, SDP);
        let answer = out.iter().find(|text| text.starts_with("SIP/2.0")).expect("an answer");
        assert_eq!(status(answer), 202);
        assert!(
            answer.contains("\r\nVia: SIP/2.0/UDP 203.0.113.7:5090") && answer.ends_with(SDP),
            "{answer}"
        );
        if method == "INVITE" {
            assert!(out.iter().any(|text| text.starts_with("ACK ")), "{out:?}");
            let ack = call.callee.request(&call.world, "ACK", cseq, "", "");
            assert!(call.give(&ack).is_empty());
        }
    }
    let update = call.caller.next(&call.world, "UPDATE");
    assert_eq!(
        statuses(&call.give(&update)),
        [200],
        "without an offer it is for this side alone"
    );
    let info = call.caller.next(&call.world, "INFO");
    let out = call.give(&info);
    let asked = out[0].clone();
    assert!(asked.starts_with("INFO sip:b1@203.0.113.7:5090 "), "{asked}");
    assert!(
        starts(&call.take_over()).contains(&"INFO"),
        "a successor sends it again"
    );
    assert_eq!(statuses(&call.respond(&asked, 415, "")), [415]);
    call.end();
}

#[test]
fn a_late_offer_is_answered_by_the_ack_of_the_other_side() {
    let mut call = Call::begin("");
    let mut world = World::new();
    let mut life = world.life(1, ROUTES);
    let invite = call.caller.request(&world, "INVITE", 1, "");
    let invite = invite.replace(
        "Content-Type: application/sdp\r\nContent-Length: 5\r\n\r\nv=0\r\n",
        "Content-Length: 0\r\n\r\n",
    );
    let out = world.exchange(&mut life, &invite);
    assert!(
        out[0].ends_with("Content-Length: 0\r\n\r\n") && !out[0].contains("100rel"),
        "{}",
        out[0]
    );
    call.callee = Callee::new(&out[0], "b1");
    (call.world, call.life) = (world, life);
    let out = call.hear(200, SDP);
    assert_eq!(starts(&out), ["200"], "the ACK waits for the answer");
    call.caller.to_tag = to_tag(&out[0]);
    call.take_over();
    let ack = call
        .caller
        .request(&call.world, "ACK", 1, "Content-Type: application/sdp\r\n");
    let ack = ack.replace("Content-Length: 0\r\n\r\n", "Content-Length: 7\r\n\r\nanswer!");
    let out = call.give(&ack);
    assert_eq!(starts(&out), ["ACK"]);
    assert!(
        out[0].ends_with("\r\nContent-Type: application/sdp\r\nContent-Length: 7\r\n\r\nanswer!"),
        "{}",
        out[0]
    );
    // The callee repeats its 200 to a successor: the ACK was lost.
    call.take_over();
    assert_eq!(call.hear(200, SDP), out);
    call.end();
}

#[test]
fn re_invites_that_meet_are_refused_and_the_call_goes_on() {
    for dies in [false, true] {
        let mut call = Call::connected();
        let theirs = call.callee.request(&call.world, "INVITE", 1, "", SDP);
        let out = call.give(&theirs);
        assert_eq!(starts(&out), ["INVITE"]);
        let to_caller = out[0].clone();
        if dies {
            let again = call.take_over();
            assert!(
                again.contains(&to_caller),
                "unanswered, so sent again unchanged: {again:?}"
            );
        }
        let ours = call.caller.next(&call.world, "INVITE");
        assert_eq!(statuses(&call.give(&ours)), [491]);
        let ack = call.caller.request(&call.world, "ACK", 2, "");
        call.give(&ack);
        let out = call.respond(&to_caller, 491, "");
        assert_eq!(sorted(&out), ["491", "ACK"]);
        let ack = call.callee.request(&call.world, "ACK", 1, "", "");
        call.give(&ack);
        // Who tries again first gets through.
        let again = call.callee.request(&call.world, "INVITE", 2, "", SDP);
        let out = call.give(&again);
        let to_caller = out[0].clone();
        let out = call.respond(&to_caller, 200, SDP);
        assert_eq!(sorted(&out), ["200", "ACK"]);
        let ack = call.callee.request(&call.world, "ACK", 2, "", "");
        call.give(&ack);
        call.end();
    }
}

#[test]
fn a_cancelled_re_invite_is_cancelled_on_the_other_side_too() {
    let mut call = Call::connected();
    let re_invite = call.caller.next(&call.world, "INVITE");
    let out = call.give(&re_invite);
    let asked = out[0].clone();
    assert!(call.respond(&asked, 180, "").is_empty());
    let cancel = call.caller.request(&call.world, "CANCEL", 2, "");
    let out = call.give(&cancel);
    assert_eq!(starts(&out), ["200", "487", "CANCEL"]);
    let cancel = out[2].clone();
    call.respond(&cancel, 200, "");
    assert_eq!(starts(&call.respond(&asked, 487, "")), ["ACK"]);
    let ack = call.caller.request(&call.world, "ACK", 2, "");
    call.give(&ack);
    call.end();
}

#[test]
fn a_longer_session_interval_is_granted_once() {
    let mut call = Call::begin("");
    assert!(
        call.callee.invite.contains("\r\nSession-Expires: 1800\r\n"),
        "{}",
        call.callee.invite
    );
    let refusal = call.callee.respond(&call.world, 422, "Min-SE: 3600\r\n", "");
    let out = call.give(&refusal);
    assert_eq!(sorted(&out), ["ACK", "INVITE"]);
    let again = find(&out, "INVITE");
    assert!(
        again.contains("\r\nSession-Expires: 3600\r\n") && again.contains("\r\nMin-SE: 3600\r\n"),
        "{again}"
    );
    assert!(
        again.contains("\r\nCSeq: 2 INVITE\r\n") && again.ends_with("\r\n\r\nv=0\r\n"),
        "{again}"
    );
    let call_id = value(again, HeaderName::CallId);
    assert_eq!(call_id, value(&call.callee.invite, HeaderName::CallId));
    call.callee = Callee::new(again, "b1");
    let refusal = call.callee.respond(&call.world, 422, "Min-SE: 7200\r\n", "");
    assert_eq!(sorted(&call.give(&refusal)), ["500", "ACK"]);

    let mut call = Call::begin("");
    let refusal = call.callee.respond(&call.world, 422, "Min-SE: 3600\r\n", "");
    let out = call.give(&refusal);
    call.callee = Callee::new(find(&out, "INVITE"), "b1");
    let sent_again = call.take_over();
    assert!(sent_again.contains(&call.callee.invite), "{sent_again:?}");
    call.answer();
    call.end();
}

/// The callee's side is refreshed by this container, the caller's by the caller, who falls silent: his side ends, and with it the other.
#[test]
fn each_side_has_a_session_timer_of_its_own_and_the_silence_of_one_ends_both() {
    const CALLER_REFRESHES: &str = "Supported: timer\r\nSession-Expires: 3600;refresher=uac\r\n";
    for dies in [false, true] {
        let mut call = Call::begin(CALLER_REFRESHES);
        let ok = "Require: timer\r\nSession-Expires: 1800;refresher=uac\r\n";
        let ok = call.callee.respond(&call.world, 200, ok, SDP);
        let out = call.give(&ok);
        let to_caller = find(&out, "SIP/2.0 200");
        assert!(
            to_caller.contains("\r\nSession-Expires: 1800;refresher=uac\r\n"),
            "no longer than this side wants: {to_caller}"
        );
        call.caller.to_tag = to_tag(to_caller);
        let ack = call.caller.request(&call.world, "ACK", 1, "");
        call.give(&ack);
        if dies {
            call.take_over();
        }
        // Half of it: RFC 4028 s7.4.
        let left = call.world.pass(&mut call.life, SECOND * 901);
        let asked: Vec<_> = left.iter().filter(|(_, text)| !text.starts_with("SIP/2.0")).collect();
        let (at, refresh) = asked.first().expect("a refresh");
        assert_eq!(*at, SECOND * 900, "{asked:?}");
        assert!(
            asked.iter().all(|(_, text)| text == refresh) && refresh.contains(" sip:b1@203.0.113.7:5090 "),
            "of the callee alone: {asked:?}"
        );
        assert!(
            refresh.contains("\r\nSession-Expires: 1800;refresher=uac\r\n"),
            "{refresh}"
        );
        let ok = "Require: timer\r\nSession-Expires: 1800;refresher=uac\r\n";
        let ok = response(&call.world, refresh, 200, "x", ok, "");
        call.give(&ok);
        // 1800 s without the caller's refresh, less 32 s: s10.
        let left = call.world.pass(&mut call.life, SECOND * 890);
        let mut byes: Vec<_> = left.iter().filter(|(_, text)| text.starts_with("BYE ")).collect();
        byes.dedup_by_key(|(_, text)| text.clone());
        let targets: Vec<&str> = byes.iter().filter_map(|(_, text)| text.split(' ').nth(1)).collect();
        assert!(
            targets.contains(&"sip:alice@198.51.100.9:5080") && targets.contains(&"sip:b1@203.0.113.7:5090"),
            "{left:?}"
        );
    }
}

/// The first one that matches is taken, whatever follows.
#[test]
fn calls_take_the_first_route_whose_every_word_matches() {
    const OVERLAPPING: &str = r#"{"b2bua": {"routes": [
        {"user": "bob", "source": "203.0.113.0/24", "target": "sip:203.0.113.1"},
        {"user": "bob", "domain": "elsewhere", "target": "sip:203.0.113.2"},
        {"method": "INVITE", "user": "b*b", "target": "sip:203.0.113.3"},
        {"user": "bob", "target": "sip:203.0.113.4"},
        {"source": "198.51.100.9", "target": "sip:203.0.113.5"},
        {"target": "sip:203.0.113.6"}
    ]}}"#;
    for (called, goes_to) in [
        ("sip:bob@192.0.2.1", "sip:bob@203.0.113.3"),
        ("sip:bob@elsewhere", "sip:bob@203.0.113.2"),
        ("sip:bobby@elsewhere", "sip:bobby@203.0.113.5"),
    ] {
        let mut world = World::new();
        let mut life = world.life(1, OVERLAPPING);
        let invite = Caller::new("one").request(&world, "INVITE", 1, "");
        let (line, rest) = invite.split_once("\r\n").expect("lines");
        assert!(line.starts_with("INVITE sip:bob@"), "{line}");
        let invite = format!("INVITE {called} SIP/2.0\r\n{rest}");
        let out = world.exchange(&mut life, &invite);
        assert!(
            out[0].starts_with(&format!("INVITE {goes_to} SIP/2.0\r\n")),
            "{called}: {}",
            out[0]
        );
    }
}

#[test]
fn a_call_survives_its_container_while_it_is_set_up() {
    // The INVITE has left and nothing came: the successor sends the same INVITE, and no second one.
    let mut call = Call::begin("");
    let out = call.take_over();
    assert_eq!(
        out.iter()
            .filter(|text| text.starts_with("INVITE "))
            .collect::<Vec<_>>(),
        [&call.callee.invite]
    );
    assert_eq!(starts(&call.hear(180, "")), ["180"]);
    // It rings: the answer reaches the next one.
    let out = call.take_over();
    assert!(!out.iter().any(|text| text.starts_with("INVITE ")), "{out:?}");
    call.answer();
    // The 200 has come and the ACK is lost with the container: a repeat is acknowledged.
    call.take_over();
    assert_eq!(starts(&call.hear(200, SDP)), ["ACK"]);
    call.end();
}

#[test]
fn the_caller_that_hangs_up_before_its_ack_has_come_is_not_overtaken_by_a_bye() {
    let mut call = Call::begin("");
    let out = call.hear(200, SDP);
    call.caller.to_tag = to_tag(out.iter().find(|text| text.starts_with("SIP/2.0")).expect("a 200"));
    let bye = call.callee.request(&call.world, "BYE", 1, "", "");
    assert_eq!(starts(&call.give(&bye)), ["200"], "RFC 3261 s15: not before the ACK");
    let ack = call.caller.request(&call.world, "ACK", 1, "");
    let out = call.give(&ack);
    assert_eq!(starts(&out), ["BYE"]);
    let bye = out[0].clone();
    call.respond(&bye, 200, "");
    call.leaves_nothing();

    // Nor is it forgotten when no ACK comes, or the container dies.
    let mut call = Call::begin("");
    call.hear(200, SDP);
    let bye = call.callee.request(&call.world, "BYE", 1, "", "");
    call.give(&bye);
    let left = call.world.pass(&mut call.life, SECOND * 33);
    let byes: Vec<_> = left.iter().filter(|(_, text)| text.starts_with("BYE ")).collect();
    assert_eq!(byes.first().map(|(at, _)| *at), Some(SECOND * 32));
    let mut call = Call::begin("");
    call.hear(200, SDP);
    let bye = call.callee.request(&call.world, "BYE", 1, "", "");
    call.give(&bye);
    assert!(starts(&call.take_over()).contains(&"BYE"));
}

#[test]
fn a_transferred_call_goes_on_with_whoever_takes_the_place() {
    // The callee's place is taken, or the caller's, by a third who has been told of the dialog (RFC 3515, RFC 3891).
    for callee_goes in [true, false] {
        let mut call = Call::connected();
        let third = Caller::new("third");
        let (call_id, local, remote) = if callee_goes {
            let from = value(&call.callee.invite, HeaderName::From);
            let local = from.split(";tag=").nth(1).expect("a tag").to_owned();
            (value(&call.callee.invite, HeaderName::CallId), local, "b1".to_owned())
        } else {
            (
                "one@198.51.100.9".to_owned(),
                call.caller.to_tag.clone(),
                "a-one".to_owned(),
            )
        };
        let replaces = format!("Replaces: {call_id};to-tag={local};from-tag={remote}\r\nRequire: replaces\r\n");
        let invite = third.request(&call.world, "INVITE", 1, &replaces);
        let out = call.give(&invite);
        assert_eq!(starts(&out), ["INVITE"], "{out:?}");
        let asked = out[0].clone();
        let other = if callee_goes {
            "INVITE sip:alice@198.51.100.9:5080 "
        } else {
            "INVITE sip:b1@203.0.113.7:5090 "
        };
        assert!(asked.starts_with(other) && !asked.contains("Replaces"), "{asked}");
        let again = call.take_over();
        assert!(again.contains(&asked), "{again:?}");
        let out = call.respond(&asked, 200, SDP);
        assert_eq!(sorted(&out), ["200", "ACK", "BYE"]);
        let gone = if callee_goes {
            "BYE sip:b1@203.0.113.7:5090 "
        } else {
            "BYE sip:alice@198.51.100.9:5080 "
        };
        let (ok, bye) = (find(&out, "SIP/2.0 200").clone(), find(&out, "BYE ").clone());
        assert!(bye.starts_with(gone), "{bye}");
        call.respond(&bye, 200, "");
        let mut third = third;
        third.to_tag = to_tag(&ok);
        let ack = third.request(&call.world, "ACK", 1, "");
        assert!(call.give(&ack).is_empty());
        // What the newcomer says reaches the other side, and its BYE ends the call.
        let bye = third.next(&call.world, "BYE");
        let out = call.give(&bye);
        let bye = out.into_iter().find(|text| text.starts_with("BYE ")).expect("a BYE");
        assert!(bye.starts_with(&other.replace("INVITE", "BYE")), "{bye}");
        call.respond(&bye, 200, "");
        call.leaves_nothing();
    }
}

#[test]
fn a_place_that_nobody_has_cannot_be_taken() {
    let mut call = Call::connected();
    let third = Caller::new("third");
    let ask = |call: &mut Call, cseq, replaces: &str| {
        let invite = third.request(&call.world, "INVITE", cseq, &format!("Replaces: {replaces}\r\n"));
        let out = call.give(&invite);
        assert_eq!(out.len(), 1, "{out:?}");
        status(&out[0])
    };
    let tag = call.caller.to_tag.clone();
    assert_eq!(
        ask(&mut call, 1, &format!("one@198.51.100.9;to-tag={tag};from-tag=wrong")),
        481
    );
    assert_eq!(ask(&mut call, 2, "one@198.51.100.9;to-tag=x;from-tag=a-one"), 481);
    assert_eq!(
        ask(
            &mut call,
            3,
            &format!("one@198.51.100.9;to-tag={tag};from-tag=a-one;early-only")
        ),
        486
    );
    call.end();
}

#[test]
fn a_stranger_takes_no_place_even_if_it_knows_the_names_of_the_dialog() {
    // Who may call, and who is called: a transferred party is either. Anybody else is refused, and the call goes on.
    // That one route (of others' calls) takes everybody does not help.
    for (source, welcome) in [("198.51.100.77", true), ("203.0.113.7", true), ("203.0.113.8", false)] {
        let mut call = Call::connected();
        let replaces = format!(
            "Replaces: one@198.51.100.9;to-tag={};from-tag=a-one\r\n",
            call.caller.to_tag
        );
        let third = Caller::new("third");
        let invite = third.request(&call.world, "INVITE", 1, &replaces);
        let out = call.give(&invite.replace("UDP 198.51.100.9:5080;", &format!("UDP {source}:5080;")));
        if welcome {
            assert_eq!(starts(&out), ["INVITE"], "{source}");
            continue;
        }
        assert_eq!(statuses(&out), [403], "{source}");
        let ack = third.request(&call.world, "ACK", 1, "");
        assert!(call.give(&ack).is_empty());
        call.end();
    }
}

#[test]
fn a_callee_that_leaves_the_proxy_out_aims_nothing_at_others() {
    let mut call = Call::begin("");
    let ok = call.callee.respond(&call.world, 200, "", SDP);
    let start = ok.find("Record-Route: ").expect("the proxy's");
    let end = start + ok[start..].find("\r\n").expect("a line") + 2;
    for nearest in [
        "",
        "Record-Route: <sip:192.0.2.1:5060;lr>\r\n",
        "Record-Route: <sip:198.51.100.9;lr;fl=flow2>\r\n",
        "Record-Route: <sip:198.51.100.9;lr;a=00000000000000000000;fl=flow2>\r\n",
    ] {
        let mut call = Call::begin("");
        let hostile = call.callee.respond(&call.world, 200, "", SDP);
        let hostile = [&hostile[..start], nearest, &hostile[end..]].concat();
        let hostile = hostile.replace(
            "Contact: <sip:b1@203.0.113.7:5090>",
            "Contact: <sip:b1@127.0.0.1:6379;transport=tcp>",
        );
        let out = call.give(&hostile);
        let ack = find(&out, "ACK sip:b1@127.0.0.1:6379");
        assert_eq!(
            value(ack, HeaderName::Route),
            "<sip:203.0.113.7:5090;lr>",
            "{nearest}: {ack}"
        );
    }
    let out = call.give(&ok);
    assert!(value(find(&out, "ACK"), HeaderName::Route).contains("fl=flow2"));

    // Where each proxy has an address of its own, the token tells that it is one of ours.
    let mut call = Call::begin("");
    let ok = call.callee.respond(&call.world, 200, "", SDP);
    let elsewhere = ok.replace("Record-Route: <sip:192.0.2.1:", "Record-Route: <sip:192.0.2.20:");
    let out = call.give(&elsewhere);
    let route = value(find(&out, "ACK"), HeaderName::Route);
    assert!(route.starts_with("<sip:192.0.2.20:5060;lr;a="), "{route}");
}

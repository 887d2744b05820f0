//! The calling side: forks, CANCEL, ACK, reliable responses, glare, in virtual time.

mod support;

use sip::dialog::{Dialog, DialogState, DialogText, Facts, NewRequest, OutgoingInvite, Reaction, UacEvent, Verdict};
use sip::transaction::Timers;
use sip::{Method, OwnedMessage};
use std::time::Duration;
use support::*;

const RINGING: &str = "Contact: <sip:alice@192.0.2.1>\r\n";
const SDP: &str = "Contact: <sip:alice@192.0.2.1>\r\nContent-Type: application/sdp\r\n";

/// An INVITE of ours with its early dialogs.
struct Call {
    invite: OutgoingInvite,
    early: Vec<Dialog>,
}

fn call() -> Call {
    let text = DialogText {
        call_id: b"out1",
        local: b"<sip:bob@biloxi.example>;tag=b0b",
        local_tag: b"b0b",
        remote: b"<sip:alice@atlanta.example>",
        remote_tag: b"",
        contact: b"<sip:bob@192.0.2.4>",
        target: b"sip:alice@atlanta.example",
        routes: b"",
    };
    Call {
        invite: OutgoingInvite::new(&text, 7, true, Timers::default()).expect("fits"),
        early: Vec::new(),
    }
}

/// What a driver does with a response: finds the early dialog, and keeps a new one.
fn hear(call: &mut Call, millis: u64, response: &OwnedMessage) -> UacEvent {
    let wire = response.as_message();
    let facts = Facts::of(&wire);
    let known = call
        .early
        .iter_mut()
        .find(|early| early.id().remote_tag == facts.to_tag);
    let event = call.invite.handle_response(at(millis), &facts, known);
    if let UacEvent::Early { new: Some(new), .. } = &event {
        call.early.push((**new).clone());
    }
    event
}

/// The dialog of the first 2xx.
fn answer(call: &mut Call, millis: u64, response: &OwnedMessage) -> Dialog {
    let wire = response.as_message();
    let tag = wire.to().and_then(|to| to.tag()).expect("a tag").to_vec();
    match hear(call, millis, response) {
        UacEvent::Answered { new: Some(new) } => *new,
        UacEvent::Answered { new: None } => {
            let at = call.early.iter().position(|early| early.id().remote_tag == tag);
            call.early.remove(at.expect("it was handed in"))
        }
        other => panic!("{other:?}"),
    }
}

fn hears(dialog: &mut Dialog, millis: u64, response: &OwnedMessage) -> Reaction {
    dialog.handle_response(at(millis), &Facts::of(&response.as_message()), 100)
}

fn confirmed() -> Dialog {
    let mut dialog = answer(&mut call(), 0, &response(200, "INVITE", 7, "a1", RINGING));
    let _ = dialog.ack(at(0), 7, &NewRequest::new(Method::Ack, b"v"));
    dialog
}

#[test]
fn each_fork_has_an_early_dialog_and_the_2xx_confirms_its_own() {
    let mut call = call();
    assert!(matches!(
        hear(&mut call, 0, &response(100, "INVITE", 7, "", "")),
        UacEvent::Trying
    ));
    let early = |event: UacEvent| match event {
        UacEvent::Early { new, prack: None } => new.is_some(),
        other => panic!("{other:?}"),
    };
    assert!(early(hear(&mut call, 0, &response(180, "INVITE", 7, "a1", RINGING))));
    assert!(early(hear(&mut call, 0, &response(180, "INVITE", 7, "a2", RINGING))));
    assert!(!early(hear(&mut call, 0, &response(183, "INVITE", 7, "a1", RINGING))));
    let dialog = answer(&mut call, 0, &response(200, "INVITE", 7, "a2", RINGING));
    assert_eq!(dialog.id().remote_tag, b"a2");
    assert_eq!(dialog.state(), DialogState::Confirmed);
}

#[test]
fn the_answer_of_another_fork_makes_a_dialog_that_can_be_ended() {
    let late = response(200, "INVITE", 7, "a3", RINGING);
    let wire = late.as_message();
    let contact = b"<sip:bob@192.0.2.4>";
    let dialog = OutgoingInvite::late_answer(at(0), &Facts::of(&wire), contact, Timers::default());
    let mut dialog = dialog.expect("a dialog");
    assert_eq!(dialog.state(), DialogState::Confirmed);
    let ack = text(&dialog.ack(at(0), 7, &NewRequest::new(Method::Ack, b"v")));
    assert!(
        ack.contains("\r\nRoute: <sip:p1.example;lr>, <sip:p2.example;lr>\r\n") && ack.contains(";tag=a3\r\n"),
        "{ack}"
    );
    assert!(ack.contains("\r\nCSeq: 7 ACK\r\n"), "{ack}");
    let bye = text(&dialog.request(&NewRequest::new(Method::Bye, b"v")));
    assert!(bye.contains("\r\nCSeq: 8 BYE\r\n"), "{bye}");
}

#[test]
fn a_refusal_of_any_fork_refuses_the_invite() {
    let mut call = call();
    hear(&mut call, 0, &response(180, "INVITE", 7, "a1", RINGING));
    hear(&mut call, 0, &response(180, "INVITE", 7, "a2", RINGING));
    assert!(matches!(
        hear(&mut call, 0, &response(603, "INVITE", 7, "a9", "")),
        UacEvent::Refused
    ));
}

#[test]
fn silence_is_a_refusal() {
    let failure = Facts::failure(Method::Invite, 7, 408);
    let event = call().invite.handle_response(at(0), &failure, None);
    assert!(matches!(event, UacEvent::Refused));
}

#[test]
fn the_route_set_is_the_reversed_record_route_of_the_2xx() {
    let mut call = call();
    let ringing = text(response(180, "INVITE", 7, "a1", RINGING).bytes()).replace("p1.example", "old.example");
    hear(&mut call, 0, &scan(ringing));
    assert_eq!(
        call.early[0].text().routes,
        b"<sip:old.example;lr>, <sip:p2.example;lr>"
    );
    let mut dialog = answer(&mut call, 0, &response(200, "INVITE", 7, "a1", RINGING));
    let ack = text(&dialog.ack(
        at(0),
        7,
        &NewRequest::new(Method::Ack, b"SIP/2.0/UDP b;branch=z9hG4bKack"),
    ));
    let expected = "ACK sip:alice@192.0.2.1 SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bKack\r\n\
        Route: <sip:p1.example;lr>, <sip:p2.example;lr>\r\nMax-Forwards: 70\r\nFrom: <sip:bob@biloxi.example>;tag=b0b\r\n\
        To: <sip:alice@atlanta.example>;tag=a1\r\nCall-ID: out1\r\nCSeq: 7 ACK\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(ack, expected);
    let next = text(&dialog.request(&NewRequest::new(Method::Info, b"v")));
    assert!(next.contains("\r\nCSeq: 8 INFO\r\n"), "{next}");
}

#[test]
fn a_repeated_2xx_gets_the_same_ack_for_64_t1() {
    let mut dialog = answer(&mut call(), 0, &response(200, "INVITE", 7, "a1", RINGING));
    let again = response(200, "INVITE", 7, "a1", RINGING);
    assert_eq!(
        hears(&mut dialog, 10, &again),
        Reaction::Drop,
        "the application has not acknowledged yet"
    );
    let ack = dialog.ack(at(20), 7, &NewRequest::new(Method::Ack, b"v"));
    assert_eq!(hears(&mut dialog, 30, &again), Reaction::Repeat(ack.clone()));
    let mut successor = Dialog::from_parts(at(5000), Timers::default(), dialog.to_parts(at(40))).expect("whole");
    assert_eq!(hears(&mut successor, 5000, &again), Reaction::Repeat(ack));
    assert_eq!(tick(&mut dialog, 32_020), []);
    assert_eq!(dialog.poll_timeout(), None);
    assert_eq!(hears(&mut dialog, 32_030, &again), Reaction::Drop);
}

#[test]
fn a_late_offer_waits_for_the_ack_that_answers_it() {
    let mut dialog = confirmed();
    assert_eq!(dialog.late_offer(), None, "the INVITE brought the offer");
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    assert_eq!(
        hears(&mut dialog, 0, &response(200, "INVITE", 8, "a1", SDP)),
        Reaction::Acknowledge
    );
    assert_eq!(dialog.late_offer(), Some(8));
    assert!(!dialog.may_reinvite(), "one offer at a time");
    let mut dialog = Dialog::from_parts(at(0), Timers::default(), dialog.to_parts(at(0))).expect("whole");
    assert_eq!(dialog.late_offer(), Some(8));
    let _ = dialog.ack(at(0), 8, &NewRequest::new(Method::Ack, b"v"));
    assert_eq!(dialog.late_offer(), None);
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    hears(&mut dialog, 0, &response(488, "INVITE", 9, "a1", ""));
    assert_eq!(dialog.late_offer(), None);
}

#[test]
fn reliable_responses_are_taken_in_order_per_fork() {
    let mut call = call();
    let reliable = |tag, rseq| {
        response(
            183,
            "INVITE",
            7,
            tag,
            &format!("{SDP}Require: 100rel\r\nRSeq: {rseq}\r\n"),
        )
    };
    let expected = [
        ("a1", 900, Some(900)),
        ("a1", 900, None),
        ("a1", 902, None),
        ("a1", 901, Some(901)),
        ("a1", 902, Some(902)),
        ("a2", 4, Some(4)),
    ];
    for (tag, rseq, wanted) in expected {
        match (hear(&mut call, 0, &reliable(tag, rseq)), wanted) {
            (UacEvent::Early { prack, .. }, Some(_)) => assert_eq!(prack, wanted),
            (UacEvent::Drop, None) => {}
            (event, _) => panic!("{tag} {rseq}: {event:?}"),
        }
    }
    let dialog = &mut call.early[0];
    let rack = Dialog::rack_line(901, 7);
    let prack = NewRequest {
        headers: rack.as_bytes(),
        ..NewRequest::new(Method::Prack, b"v")
    };
    let prack = text(&dialog.request(&prack));
    assert!(
        prack.contains("\r\nCSeq: 8 PRACK\r\n") && prack.contains("\r\nRAck: 901 7 INVITE\r\n"),
        "{prack}"
    );
}

#[test]
fn a_call_under_way_survives_a_takeover() {
    let mut before = call();
    hear(
        &mut before,
        0,
        &response(183, "INVITE", 7, "a1", &format!("{SDP}Require: 100rel\r\nRSeq: 5\r\n")),
    );
    let early = Dialog::from_parts(at(9000), Timers::default(), before.early[0].to_parts(at(0))).expect("whole");
    let mut call = Call {
        invite: OutgoingInvite::from_parts(Timers::default(), &before.invite.to_parts()).expect("whole"),
        early: vec![early],
    };
    assert!(matches!(
        hear(
            &mut call,
            9000,
            &response(183, "INVITE", 7, "a1", &format!("{SDP}Require: 100rel\r\nRSeq: 5\r\n"))
        ),
        UacEvent::Drop
    ));
    let dialog = answer(&mut call, 9000, &response(200, "INVITE", 7, "a1", RINGING));
    assert_eq!(dialog.id().remote_tag, b"a1");
}

#[test]
fn glare_is_retried_later_by_the_one_who_chose_the_call_id() {
    let mut ours = confirmed();
    let mut theirs = talking();
    for entropy in [0, 77, 100_000, u64::MAX] {
        let refused = |dialog: &mut Dialog| {
            let invite = dialog.request(&NewRequest::new(Method::Invite, b"v"));
            let cseq = scan(invite).as_message().cseq().expect("CSeq").number;
            let refused = response(491, "INVITE", cseq, "a1", "");
            dialog.handle_response(at(0), &Facts::of(&refused.as_message()), entropy)
        };
        let Reaction::Retry(long) = refused(&mut ours) else {
            panic!("no retry")
        };
        assert!((2100..=4000).contains(&long.as_millis()), "{long:?}");
        let Reaction::Retry(short) = refused(&mut theirs) else {
            panic!("no retry")
        };
        assert!(short <= Duration::from_secs(2), "{short:?}");
        assert_eq!(long.as_millis() % 10 + short.as_millis() % 10, 0, "steps of 10 ms");
    }
}

#[test]
fn a_reinvite_refreshes_the_target_and_wants_an_ack() {
    let mut dialog = confirmed();
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    assert_eq!(dialog.outstanding_invite(), Some(8));
    let moved = "Contact: <sip:alice@198.51.100.9>\r\n";
    assert_eq!(
        hears(&mut dialog, 0, &response(180, "INVITE", 8, "a1", "")),
        Reaction::Pass
    );
    assert_eq!(
        hears(&mut dialog, 0, &response(200, "INVITE", 8, "a1", moved)),
        Reaction::Acknowledge
    );
    assert_eq!(dialog.outstanding_invite(), None);
    let ack = text(&dialog.ack(at(0), 8, &NewRequest::new(Method::Ack, b"v")));
    assert!(ack.starts_with("ACK sip:alice@198.51.100.9 SIP/2.0\r\n"), "{ack}");
    // Refused, the dialog and its target stay.
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    assert_eq!(
        hears(&mut dialog, 0, &response(488, "INVITE", 9, "a1", RINGING)),
        Reaction::Pass
    );
    assert_eq!(dialog.state(), DialogState::Confirmed);
    assert_eq!(dialog.text().target, b"sip:alice@198.51.100.9");
}

#[test]
fn a_peer_that_knows_the_dialog_no_more_ends_it() {
    for (method, status) in [("INVITE", 481), ("UPDATE", 408), ("INFO", 481)] {
        let mut dialog = confirmed();
        let _ = dialog.request(&NewRequest::new(Method::recognize(method.as_bytes()), b"v"));
        assert_eq!(
            hears(&mut dialog, 0, &response(status, method, 8, "a1", "")),
            Reaction::Ended,
            "{method}"
        );
        assert_eq!(dialog.poll_timeout().filter(|due| *due < at(32_000)), None);
    }
}

#[test]
fn after_our_bye_only_what_was_under_way_matters() {
    let mut dialog = confirmed();
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    let _ = dialog.request(&NewRequest::new(Method::Bye, b"v"));
    assert_eq!(dialog.state(), DialogState::Ending);
    let mut dialog = Dialog::from_parts(at(0), Timers::default(), dialog.to_parts(at(0))).expect("whole");
    assert_eq!(
        hears(&mut dialog, 0, &response(491, "INVITE", 8, "a1", "")),
        Reaction::Pass,
        "no retry"
    );
    let mut dialog = confirmed();
    let _ = dialog.request(&NewRequest::new(Method::Invite, b"v"));
    let _ = dialog.request(&NewRequest::new(Method::Bye, b"v"));
    let accepted = response(200, "INVITE", 8, "a1", "Session-Expires: 90;refresher=uac\r\n");
    assert_eq!(hears(&mut dialog, 0, &accepted), Reaction::Acknowledge);
    assert_eq!(dialog.state(), DialogState::Ending);
    assert_eq!(dialog.session().expires(), None);
    assert_eq!(
        hears(&mut dialog, 0, &response(200, "BYE", 9, "a1", "")),
        Reaction::Ended
    );
    // On the other side: their requests are late, their BYE is not.
    let mut dialog = talking();
    let _ = dialog.request(&NewRequest::new(Method::Bye, b"v"));
    assert_eq!(
        receive(&mut dialog, 0, &request("INVITE", 2, Some("b0b"), "")).0,
        rejects(481)
    );
    assert_eq!(
        receive(&mut dialog, 0, &request("BYE", 3, Some("b0b"), "")).0,
        Verdict::Process
    );
    assert_eq!(respond(&mut dialog, 0, Method::Bye, 3, 200), [gives(false, 3, 200)]);
    assert!(dialog.is_terminated());
}

#[test]
fn the_answer_to_our_bye_ends_it_whatever_it_says() {
    for status in [200, 481, 408, 500] {
        let mut dialog = confirmed();
        let _ = dialog.request(&NewRequest::new(Method::Bye, b"v"));
        assert_eq!(
            hears(&mut dialog, 0, &response(100, "BYE", 8, "a1", "")),
            Reaction::Pass
        );
        assert_eq!(
            hears(&mut dialog, 0, &response(status, "BYE", 8, "a1", "")),
            Reaction::Ended
        );
        assert!(dialog.is_terminated());
    }
}

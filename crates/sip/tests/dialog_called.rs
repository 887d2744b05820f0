//! The called side of a dialog: what each request of the peer gets, in virtual time.

mod support;

use bytes::Bytes;
use sip::Method;
use sip::dialog::{Answer, Dialog, DialogEffect, DialogId, DialogState, Facts, NewRequest, Refusal, Verdict};
use sip::transaction::Timers;
use support::*;

const SDP: &str = "Content-Type: application/sdp\r\n";

#[test]
fn an_invite_makes_an_early_dialog_and_its_2xx_confirms_it() {
    let mut dialog = early();
    let id = DialogId {
        call_id: b"a84b4c",
        local_tag: b"b0b",
        remote_tag: b"1928",
    };
    assert_eq!(dialog.id(), id);
    assert_eq!(dialog.text().target, b"sip:alice@pc33.atlanta.example");
    assert_eq!(dialog.text().routes, b"<sip:p2.example;lr>, <sip:p1.example;lr>");
    assert_eq!(respond(&mut dialog, 0, Method::Invite, 1, 180), [gives(true, 1, 180)]);
    assert_eq!(dialog.state(), DialogState::Early);
    assert_eq!(respond(&mut dialog, 0, Method::Invite, 1, 200), [gives(true, 1, 200)]);
    assert_eq!(dialog.state(), DialogState::Confirmed);
}

#[test]
fn a_refused_invite_ends_its_early_dialog_and_a_later_200_is_never_sent() {
    let mut dialog = early();
    assert_eq!(respond(&mut dialog, 0, Method::Invite, 1, 487), [gives(true, 1, 487)]);
    assert!(dialog.is_terminated());
    assert_eq!(respond(&mut dialog, 0, Method::Invite, 1, 200), []);
    assert_eq!(dialog.poll_timeout(), None);
}

#[test]
fn an_invite_without_contact_makes_no_dialog() {
    let invite = scan(
        &b"INVITE sip:b@b SIP/2.0\r\nFrom: <sip:a@a>;tag=1\r\nTo: <sip:b@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n"[..],
    );
    let facts = Facts::of(&invite.as_message());
    let refused = Dialog::from_invite(&facts, b"x", b"<sip:b@c>", &QUIET, Timers::default());
    assert_eq!(refused.expect_err("refused"), Refusal::BadRequest);
}

#[test]
fn a_contact_that_would_break_our_request_line_counts_as_none() {
    let update = text(request("UPDATE", 2, Some("b0b"), "").bytes()).replace("pc33", "pc 33");
    let mut dialog = talking();
    assert_eq!(receive(&mut dialog, 0, &scan(update)).0, Verdict::Process);
    assert_eq!(dialog.text().target, b"sip:alice@pc33.atlanta.example");
}

#[test]
fn a_2xx_is_repeated_until_its_ack() {
    let mut dialog = early();
    respond(&mut dialog, 0, Method::Invite, 1, 200);
    for due in [500, 1500, 3500, 7500, 11_500] {
        assert_eq!(dialog.poll_timeout(), Some(at(due)));
        assert_eq!(tick(&mut dialog, due), [DialogEffect::Send(Bytes::from_static(b"200"))]);
    }
    let ack = request("ACK", 1, Some("b0b"), "");
    let first = Verdict::Acknowledged { cseq: 1, first: true };
    assert_eq!(receive(&mut dialog, 12_000, &ack).0, first);
    let again = Verdict::Acknowledged { cseq: 1, first: false };
    assert_eq!(receive(&mut dialog, 12_001, &ack).0, again);
    assert_eq!(dialog.poll_timeout(), None);
}

#[test]
fn a_2xx_that_nobody_acknowledges_ends_the_session_after_64_t1() {
    let mut dialog = early();
    respond(&mut dialog, 0, Method::Invite, 1, 200);
    assert_eq!(tick(&mut dialog, 32_000), [DialogEffect::AckMissing { cseq: 1 }]);
    assert_eq!(dialog.poll_timeout(), None);
}

#[test]
fn an_ack_that_a_successor_has_not_seen_never_ends_a_call() {
    let mut before = early();
    respond(&mut before, 0, Method::Invite, 1, 200);
    let mut dialog = Dialog::from_parts(at(0), Timers::default(), before.to_parts(at(0))).expect("whole");
    let left = std::time::Duration::from_secs(20);
    dialog.resume_answer(at(0), 1, Bytes::from_static(b"200"), left);
    assert_eq!(dialog.poll_timeout(), Some(at(0)), "at once: the last response again");
    let mut sent = 0;
    while let Some(due) = dialog.poll_timeout() {
        let mut out = Vec::new();
        dialog.handle_timeout(due, &mut out);
        assert!(
            out.iter().all(|effect| matches!(effect, DialogEffect::Send(_))),
            "{out:?}"
        );
        sent += out.len();
        assert!(due <= at(20_000));
    }
    assert!(sent > 4);
    assert_eq!(dialog.state(), DialogState::Confirmed);
}

#[test]
fn a_request_out_of_order_gets_500_and_gaps_are_welcome() {
    let mut dialog = talking();
    assert_eq!(
        receive(&mut dialog, 0, &request("INFO", 5, Some("b0b"), "")).0,
        Verdict::Process
    );
    assert_eq!(
        receive(&mut dialog, 0, &request("INFO", 4, Some("b0b"), "")).0,
        rejects(500)
    );
    assert_eq!(
        receive(&mut dialog, 0, &request("INFO", 5, Some("b0b"), "")).0,
        rejects(500)
    );
    assert_eq!(
        receive(&mut dialog, 0, &request("INFO", 900, Some("b0b"), "")).0,
        Verdict::Process
    );
}

#[test]
fn a_second_invite_before_the_first_is_answered_gets_500_with_retry_after() {
    let mut dialog = early();
    let (verdict, _) = receive(&mut dialog, 0, &request("INVITE", 2, Some("b0b"), SDP));
    let busy = Verdict::Reject {
        status: 500,
        retry_after: Some(7),
        min_se: None,
    };
    assert_eq!(verdict, busy);
    respond(&mut dialog, 0, Method::Invite, 1, 200);
    assert_eq!(
        receive(&mut dialog, 0, &request("INVITE", 3, Some("b0b"), SDP)).0,
        Verdict::Process
    );
}

#[test]
fn an_invite_that_meets_ours_gets_491() {
    let mut dialog = talking();
    let ours = dialog.request(&NewRequest::new(Method::Invite, b"SIP/2.0/UDP b;branch=z9hG4bKout"));
    assert!(text(&ours).contains("\r\nCSeq: 1 INVITE\r\n"));
    assert_eq!(
        receive(&mut dialog, 0, &request("INVITE", 2, Some("b0b"), SDP)).0,
        rejects(491)
    );
    // An UPDATE with an offer is no better if ours has one; ours had none.
    assert_eq!(
        receive(&mut dialog, 0, &request("UPDATE", 3, Some("b0b"), SDP)).0,
        Verdict::Process
    );
}

#[test]
fn offers_do_not_overlap() {
    // The INVITE's offer is unanswered: RFC 3311 s5.2 wants 500 for another.
    let mut dialog = called(SDP, &QUIET);
    let (verdict, _) = receive(&mut dialog, 0, &request("UPDATE", 2, Some("b0b"), SDP));
    assert!(
        matches!(
            verdict,
            Verdict::Reject {
                status: 500,
                retry_after: Some(_),
                ..
            }
        ),
        "{verdict:?}"
    );
    // Without an offer it may refresh the target meanwhile.
    assert_eq!(
        receive(&mut dialog, 0, &request("UPDATE", 3, Some("b0b"), "")).0,
        Verdict::Process
    );
    assert_eq!(respond(&mut dialog, 0, Method::Update, 3, 200), [gives(false, 3, 200)]);
    // Two UPDATEs at a time.
    assert_eq!(
        receive(&mut dialog, 0, &request("UPDATE", 4, Some("b0b"), "")).0,
        Verdict::Process
    );
    let (verdict, _) = receive(&mut dialog, 0, &request("UPDATE", 5, Some("b0b"), ""));
    assert!(matches!(verdict, Verdict::Reject { status: 500, .. }), "{verdict:?}");
    // Ours is under way.
    let mut dialog = talking();
    let offer = NewRequest {
        sdp: true,
        ..NewRequest::new(Method::Invite, b"v")
    };
    let _ = dialog.request(&offer);
    assert_eq!(
        receive(&mut dialog, 0, &request("UPDATE", 3, Some("b0b"), SDP)).0,
        rejects(491)
    );
}

#[test]
fn a_target_refresh_moves_the_next_request() {
    let mut dialog = talking();
    let moved = "Contact: <sip:alice@192.0.2.77:5070;transport=tcp>\r\n";
    let update = text(request("UPDATE", 2, Some("b0b"), "").bytes())
        .replace("Contact: <sip:alice@pc33.atlanta.example>\r\n", moved);
    assert_eq!(receive(&mut dialog, 0, &scan(update)).0, Verdict::Process);
    respond(&mut dialog, 0, Method::Update, 2, 200);
    let bye = text(&dialog.request(&NewRequest::new(Method::Bye, b"SIP/2.0/UDP b;branch=z9hG4bKbye")));
    let expected = "BYE sip:alice@192.0.2.77:5070;transport=tcp SIP/2.0\r\nVia: SIP/2.0/UDP b;branch=z9hG4bKbye\r\n\
        Route: <sip:p2.example;lr>, <sip:p1.example;lr>\r\nMax-Forwards: 70\r\nFrom: Bob <sip:bob@biloxi.example>;tag=b0b\r\n\
        To: Alice <sip:alice@atlanta.example>;tag=1928\r\nCall-ID: a84b4c\r\nCSeq: 1 BYE\r\nContent-Length: 0\r\n\r\n";
    assert_eq!(bye, expected);
}

#[test]
fn a_bye_ends_it_even_while_it_rings() {
    let mut dialog = early();
    assert_eq!(
        receive(&mut dialog, 0, &request("BYE", 2, Some("b0b"), "")).0,
        Verdict::Process
    );
    assert_eq!(respond(&mut dialog, 0, Method::Bye, 2, 200), [gives(false, 2, 200)]);
    assert!(dialog.is_terminated());
    assert_eq!(dialog.unanswered_invite(), Some(1), "it still has to be refused");
    assert_eq!(
        respond(&mut dialog, 0, Method::Invite, 1, 200),
        [],
        "it cannot be accepted any more"
    );
    assert_eq!(respond(&mut dialog, 0, Method::Invite, 1, 487), [gives(true, 1, 487)]);
    assert_eq!(dialog.unanswered_invite(), None);
    assert_eq!(
        receive(&mut dialog, 0, &request("INFO", 3, Some("b0b"), "")).0,
        rejects(481)
    );
}

fn reliably(dialog: &mut Dialog, millis: u64, status: u16, sdp: bool) -> (u32, Vec<DialogEffect>) {
    let rseq = dialog.next_rseq(41).expect("room");
    let answer = Answer {
        method: Method::Invite,
        cseq: 1,
        status,
        rseq: Some(rseq),
        sdp,
    };
    let mut out = Vec::new();
    dialog.respond(at(millis), answer, Bytes::from(status.to_string()), &mut out);
    (rseq, out)
}

fn prack(dialog: &mut Dialog, millis: u64, cseq: u32, rack: &str) -> (Verdict, Vec<DialogEffect>) {
    let rack = format!("RAck: {rack}\r\n");
    receive(dialog, millis, &request("PRACK", cseq, Some("b0b"), &rack))
}

#[test]
fn reliable_responses_leave_one_after_the_other_and_the_2xx_last() {
    let mut dialog = called(SDP, &QUIET);
    let (first, out) = reliably(&mut dialog, 0, 183, true);
    assert_eq!((first, out), (42, vec![gives(true, 1, 183)]));
    let (second, out) = reliably(&mut dialog, 10, 180, false);
    assert_eq!((second, out), (43, vec![]), "the first waits for its PRACK");
    assert_eq!(
        respond(&mut dialog, 20, Method::Invite, 1, 200),
        [],
        "no 2xx before the description is acknowledged"
    );
    assert_eq!(tick(&mut dialog, 500), [DialogEffect::Send(Bytes::from_static(b"183"))]);
    assert_eq!(prack(&mut dialog, 600, 2, "41 1 INVITE"), (rejects(481), vec![]));
    assert_eq!(prack(&mut dialog, 600, 3, "42 2 INVITE"), (rejects(481), vec![]));
    assert_eq!(
        prack(&mut dialog, 600, 4, "42 1 INVITE"),
        (Verdict::Process, vec![gives(true, 1, 180)])
    );
    assert_eq!(
        prack(&mut dialog, 600, 5, "42 1 INVITE"),
        (rejects(481), vec![]),
        "once"
    );
    assert_eq!(
        prack(&mut dialog, 700, 6, "43 1 INVITE"),
        (Verdict::Process, vec![gives(true, 1, 200)])
    );
    assert_eq!(dialog.state(), DialogState::Confirmed);
    assert_eq!(dialog.poll_timeout(), Some(at(1200)), "the 2xx waits for its ACK");
}

#[test]
fn a_2xx_does_not_wait_for_a_response_without_description_whose_prack_may_come_late() {
    let mut dialog = early();
    let (rseq, _) = reliably(&mut dialog, 0, 180, false);
    assert_eq!(respond(&mut dialog, 10, Method::Invite, 1, 200), [gives(true, 1, 200)]);
    assert_eq!(
        tick(&mut dialog, 510),
        [DialogEffect::Send(Bytes::from_static(b"200"))],
        "the 180 no more"
    );
    assert_eq!(
        prack(&mut dialog, 600, 2, &format!("{rseq} 1 INVITE")).0,
        Verdict::Process
    );
}

#[test]
fn a_reliable_response_without_prack_ends_the_invite_after_64_t1() {
    let mut dialog = early();
    reliably(&mut dialog, 0, 180, false);
    let mut times = Vec::new();
    let end = loop {
        let due = dialog.poll_timeout().expect("waiting");
        let mut out = Vec::new();
        dialog.handle_timeout(due, &mut out);
        match &out[..] {
            [DialogEffect::Send(_)] => times.push(due.since(at(0)).as_millis()),
            other => break (due, other.to_vec()),
        }
    };
    assert_eq!(times, [500, 1500, 3500, 7500, 15_500, 31_500], "no longest pause");
    assert_eq!(end, (at(32_000), vec![DialogEffect::PrackMissing { cseq: 1 }]));
    assert_eq!(
        respond(&mut dialog, 32_000, Method::Invite, 1, 504),
        [gives(true, 1, 504)]
    );
    assert!(dialog.is_terminated());
}

#[test]
fn what_waits_for_a_prack_survives_a_takeover() {
    let mut before = called(SDP, &QUIET);
    let (rseq, _) = reliably(&mut before, 0, 183, true);
    reliably(&mut before, 0, 180, false);
    respond(&mut before, 0, Method::Invite, 1, 200);
    let mut dialog = Dialog::from_parts(at(9000), Timers::default(), before.to_parts(at(100))).expect("whole");
    assert_eq!(
        tick(&mut dialog, 9000),
        [DialogEffect::Send(Bytes::from_static(b"183"))]
    );
    assert_eq!(
        prack(&mut dialog, 9100, 2, &format!("{rseq} 1 INVITE")).1,
        [gives(true, 1, 180)]
    );
    assert_eq!(
        prack(&mut dialog, 9200, 3, &format!("{} 1 INVITE", rseq + 1)).1,
        [gives(true, 1, 200)]
    );
}

#[test]
fn responses_that_wait_for_a_prack_are_few() {
    let mut dialog = early();
    for _ in 0..8 {
        reliably(&mut dialog, 0, 183, false);
    }
    assert_eq!(dialog.next_rseq(1), None);
    assert_eq!(
        respond(&mut dialog, 0, Method::Invite, 1, 180),
        [gives(true, 1, 180)],
        "unreliable ones pass"
    );
}

#[test]
fn a_dialog_that_merely_talks_costs_well_under_a_kilobyte() {
    let dialog = talking();
    let cost = size_of::<Dialog>() + dialog.heap_size();
    println!(
        "a confirmed dialog: {} bytes and {} on the heap",
        size_of::<Dialog>(),
        dialog.heap_size()
    );
    assert!(cost < 512, "{cost} bytes");
    assert_eq!(
        dialog.heap_size(),
        dialog.text().call_id.len() + text_size(&dialog),
        "one allocation"
    );
}

fn text_size(dialog: &Dialog) -> usize {
    let text = dialog.text();
    let parts = [text.local, text.remote, text.contact, text.target, text.routes];
    parts.iter().map(|part| part.len()).sum()
}

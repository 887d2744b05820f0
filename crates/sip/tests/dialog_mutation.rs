//! Whatever a peer makes of its messages, transactions and dialogs neither panic nor lose their own promises.

mod support;

use bytes::Bytes;
use sip::dialog::{Dialog, DialogText, Facts, OutgoingInvite, UacEvent, Verdict};
use sip::transaction::{Timers, TransactionKey, ack_of_refused, cancel_of};
use sip::{Limits, Method, OwnedMessage};
use support::random::Random;
use support::*;

const SDP: &str = "Content-Type: application/sdp\r\nSupported: timer, 100rel\r\nSession-Expires: 300;refresher=uac\r\n";

/// A few bytes changed, cut or doubled; `None` if that is no message any more.
fn mutated(random: &mut Random, message: &OwnedMessage) -> Option<OwnedMessage> {
    let mut bytes = message.bytes().to_vec();
    for _ in 0..1 + random.below(6) {
        let at = random.below(bytes.len() as u64) as usize;
        match random.below(4) {
            0 => bytes[at] = random.next() as u8,
            1 => bytes[at] = b"\r\n ;,<>\"=:0"[random.below(11) as usize],
            2 => drop(bytes.remove(at)),
            _ => {
                let end = (at + random.below(40) as usize).min(bytes.len());
                let piece = bytes[at..end].to_vec();
                bytes.splice(at..at, piece);
            }
        }
    }
    OwnedMessage::scan(Bytes::from(bytes), &Limits::default()).ok()
}

#[test]
fn a_called_dialog_takes_any_request() {
    let mut random = Random(1);
    let messages = [
        request("INVITE", 2, Some("b0b"), SDP),
        request("UPDATE", 3, Some("b0b"), SDP),
        request("PRACK", 4, Some("b0b"), "RAck: 42 1 INVITE\r\n"),
        request("ACK", 1, Some("b0b"), ""),
        request("BYE", 5, Some("b0b"), ""),
    ];
    let mut processed = 0;
    for round in 0..20_000 {
        if let Some(invite) = mutated(&mut random, &request("INVITE", 1, None, SDP)) {
            let message = invite.as_message();
            let _ = TransactionKey::of(&message);
            let facts = Facts::of(&message);
            let made = Dialog::from_invite(&facts, b"b0b", b"<sip:b@c>", &QUIET, Timers::default());
            if let Ok(mut dialog) = made {
                let copy = Dialog::from_parts(at(0), Timers::default(), dialog.to_parts(at(0)));
                assert_eq!(copy.expect("whole").text(), dialog.text());
                respond(&mut dialog, 0, Method::Invite, facts.cseq, 200);
                assert!(
                    !dialog.text().remote.contains(&b'\n'),
                    "nothing of the peer ends a line of ours"
                );
            }
        }
        let mut dialog = talking();
        for _ in 0..4 {
            let message = &messages[random.below(5) as usize];
            let Some(message) = mutated(&mut random, message) else {
                continue;
            };
            let (verdict, _) = receive(&mut dialog, round, &message);
            processed += u32::from(verdict == Verdict::Process);
            tick(&mut dialog, round);
        }
    }
    assert!(processed > 10_000, "{processed}: most mutations leave something to do");
}

#[test]
fn a_calling_dialog_takes_any_response() {
    let mut random = Random(2);
    let reliable = "Contact: <sip:a@b>\r\nRequire: 100rel\r\nRSeq: 1\r\n";
    let accepted = "Contact: <sip:a@b>\r\nSession-Expires: 300;refresher=uas\r\n";
    let text = DialogText {
        call_id: b"out1",
        local: b"<sip:bob@biloxi.example>;tag=b0b",
        local_tag: b"b0b",
        remote: b"<sip:alice@atlanta.example>",
        target: b"sip:alice@atlanta.example",
        ..DialogText::default()
    };
    let messages = [
        response(183, "INVITE", 7, "a1", reliable),
        response(200, "INVITE", 7, "a1", accepted),
        response(486, "INVITE", 7, "a1", ""),
    ];
    let mut answered = 0;
    for round in 0..20_000 {
        let mut call = OutgoingInvite::new(&text, 7, true, Timers::default()).expect("fits");
        for _ in 0..4 {
            let message = &messages[random.below(3) as usize];
            let Some(message) = mutated(&mut random, message) else {
                continue;
            };
            let wire = message.as_message();
            let to = wire.header(sip::HeaderName::To).unwrap_or_default();
            let ack = ack_of_refused(message.bytes(), to);
            assert!(ack.ends_with(b"\r\n\r\n"));
            let _ = cancel_of(message.bytes());
            let event = call.handle_response(at(round), &Facts::of(&wire), None);
            if let UacEvent::Answered { new: Some(mut dialog) } = event {
                answered += 1;
                dialog.handle_response(at(round), &Facts::of(&wire), round);
                let parts = dialog.to_parts(at(round));
                assert!(Dialog::from_parts(at(round), Timers::default(), parts).is_some());
            }
        }
    }
    assert!(answered > 5000, "{answered}");
}

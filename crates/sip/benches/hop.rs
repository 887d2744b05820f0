//! What one hop costs: `cargo bench -p sip` prints nanoseconds per message for a scan, for the checks, and for the
//! edits of a proxy, each the best of several rounds.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a benchmark looks at the clock"
)]

use std::hint::black_box;
use std::time::Instant;

use sip::{Edit, Framer, HeaderName, Index, Limits, Message, Side, check};

const INVITE: &[u8] = include_bytes!("../tests/support/invite.sip");
const OK: &[u8] = include_bytes!("../tests/support/ok.sip");

/// Rounds are shorter than a time slice, so that on a busy machine too the best one ran undisturbed.
fn measure(name: &str, mut work: impl FnMut()) {
    const MESSAGES: u32 = 500;
    let mut round = || {
        let start = Instant::now();
        (0..MESSAGES).for_each(|_| work());
        start.elapsed().as_nanos() as f64 / f64::from(MESSAGES)
    };
    let best = (0..2000).map(|_| round()).fold(f64::MAX, f64::min);
    println!("{name:<44} {best:8.1} ns/message");
}

fn main() {
    let limits = Limits::default();
    let mut index = Index::new();
    for (name, bytes) in [("INVITE", INVITE), ("200 OK", OK)] {
        measure(&format!("{name} ({} bytes): scan", bytes.len()), || {
            index.scan(black_box(bytes), &limits).expect("it is a message");
            black_box(&index);
        });
        measure(&format!("{name}: check"), || {
            let message = Message::new(black_box(bytes), &index);
            check(&message).expect("it is sound");
        });
        measure(&format!("{name}: Via, From, To, Call-ID, CSeq"), || {
            let message = Message::new(black_box(bytes), &index);
            black_box((
                message.via(),
                message.from(),
                message.to(),
                message.call_id(),
                message.cseq(),
            ));
        });
        let mut framer = Framer::new(Side::Accepted, limits);
        measure(&format!("{name}: framing"), || {
            black_box(framer.next(black_box(bytes)).expect("it is a message"));
        });
    }
    let (mut edit, mut out) = (Edit::new(), Vec::new());
    let source = "127.0.0.1:5061".parse().expect("an address");
    measure("INVITE: scan, edit and write", || {
        index.scan(black_box(INVITE), &limits).expect("it is a message");
        let message = Message::new(INVITE, &index);
        edit.clear();
        edit.pop(&message, HeaderName::Route, 1);
        edit.push_above_with(&message, HeaderName::Via, |out| {
            out.extend_from_slice(
                b"SIP/2.0/UDP 127.0.0.1:5060;branch=z9hG4bK0123456789abcdef;pt=1abc;fl=0123456789abcdef",
            );
        });
        edit.set_received(&message, source);
        edit.decrement_max_forwards(&message);
        edit.push_top(
            &message,
            HeaderName::RecordRoute,
            b"<sip:127.0.0.1:5060;lr;a=1abc;fl=0123456789abcdef>",
        );
        out.clear();
        edit.apply_into(&message, &mut out);
        black_box(&out);
    });
    measure("200 OK: scan, pop Via and write", || {
        index.scan(black_box(OK), &limits).expect("it is a message");
        let message = Message::new(OK, &index);
        edit.clear();
        edit.pop(&message, HeaderName::Via, 1);
        out.clear();
        edit.apply_into(&message, &mut out);
        black_box(&out);
    });
}

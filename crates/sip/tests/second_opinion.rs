//! rsip, where it accepts a message, sees the same message. It refuses much that is valid (compact and folded header
//! fields, unknown methods), so only what both accept is compared.

#[path = "support/corpus.rs"]
mod corpus;

use std::cell::Cell;

use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, TestRunner};
use rsip::prelude::{HasHeaders, HeadersExt, ToTypedHeader, UntypedHeader};
use sip::{Index, Limits, Message, Uri, check};

/// Whether both took it; panics where they differ.
fn both_agree(bytes: &[u8]) -> bool {
    let mut index = Index::new();
    if index.scan(bytes, &Limits::default()).is_err() {
        return false;
    }
    let ours = Message::new(bytes, &index);
    if check(&ours).is_err() {
        return false;
    }
    let Ok(theirs) = rsip::SipMessage::try_from(ours.as_bytes()) else {
        return false;
    };
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    match &theirs {
        rsip::SipMessage::Request(request) => {
            assert_eq!(
                text(ours.method().as_bytes()).to_uppercase(),
                request.method.to_string()
            );
        }
        rsip::SipMessage::Response(response) => assert_eq!(ours.status(), Some(response.status_code.code())),
    }
    let (Ok(call_id), Ok(cseq)) = (theirs.call_id_header(), theirs.cseq_header()) else {
        return false;
    };
    assert_eq!(text(ours.call_id().unwrap()), call_id.value().trim());
    let Ok(cseq) = cseq.typed() else {
        return false;
    };
    assert_eq!(ours.cseq().unwrap().number, cseq.seq);
    assert_eq!(
        text(ours.cseq().unwrap().method.as_bytes()).to_uppercase(),
        cseq.method.to_string()
    );
    assert_eq!(ours.index().header_count(), theirs.headers().iter().count());
    if let Ok(via) = theirs.via_header().and_then(|via| via.typed())
        && let Some(branch) = via.branch()
    {
        assert_eq!(ours.via().unwrap().branch().map(text), Some(branch.to_string()));
    }
    let from = ours.from().unwrap();
    // rsip takes the first bracket for the URI's, within quotes too, and the first semicolon for a parameter's.
    if let Ok(theirs) = theirs.from_header().and_then(|from| from.typed())
        && !from.display.iter().any(|b| matches!(b, b'<' | b'>' | b';'))
    {
        assert_eq!(from.tag().map(text), theirs.tag().map(ToString::to_string));
        let uri = theirs.uri.to_string();
        assert!(
            from.uri().unwrap().is_equivalent(&Uri::parse(uri.as_bytes()).unwrap()),
            "{uri}"
        );
    }
    true
}

fn any_message() -> impl Strategy<Value = Vec<u8>> {
    const METHODS: [&str; 10] = [
        "INVITE", "ACK", "BYE", "CANCEL", "OPTIONS", "REGISTER", "PRACK", "UPDATE", "INFO", "REFER",
    ];
    let ids = (
        "[a-zA-Z0-9.-]{1,20}(@[a-z0-9.]{1,12})?",
        "[a-zA-Z0-9.-]{1,16}",
        "[a-zA-Z0-9]{1,16}",
    );
    let parties = (
        "(\"[ -!#-\\[\\]-~]{0,8}\" )?<sip:[a-z0-9]{1,8}@[a-z]{1,8}\\.[a-z]{2,4}(:5060)?(;lr)?>",
        "[a-z]{1,8}",
    );
    let rest = (
        select(&METHODS[..]),
        0_u32..1 << 31,
        prop::option::of(100_u16..700),
        0_u8..=255,
        any::<u64>(),
    );
    let body = prop::collection::vec(any::<u8>(), 0..40);
    (ids, parties, rest, body).prop_map(
        |((call_id, branch, tag), (party, host), (method, cseq, status, hops, order), body)| {
            let first = match status {
                Some(status) => format!("SIP/2.0 {status} Reason"),
                None => format!("{method} sip:b@{host} SIP/2.0"),
            };
            let mut headers = [
                format!("Via: SIP/2.0/UDP {host}:5060;branch=z9hG4bK{branch};rport"),
                format!("From: {party};tag={tag}"),
                format!("To: {party}"),
                format!("Call-ID: {call_id}"),
                format!("CSeq: {cseq} {method}"),
                format!("Max-Forwards: {hops}"),
                format!("Content-Length: {}", body.len()),
                "X-Other: a, b;c".to_owned(),
            ];
            // An order out of a number, so that shrinking leads to the usual one.
            for place in (1..headers.len()).rev() {
                headers.swap(place, place - (order >> (place * 4)) as usize % (place + 1));
            }
            let mut bytes = format!("{first}\r\n{}\r\n\r\n", headers.join("\r\n")).into_bytes();
            bytes.extend_from_slice(&body);
            bytes
        },
    )
}

#[test]
fn rsip_sees_the_same_in_what_both_accept() {
    let mut runner = TestRunner::new_with_rng(
        Config {
            cases: 2000,
            failure_persistence: None,
            ..Config::default()
        },
        proptest::test_runner::TestRng::deterministic_rng(proptest::test_runner::RngAlgorithm::ChaCha),
    );
    let both = Cell::new(0);
    let outcome = runner.run(&any_message(), |bytes| {
        let mut index = Index::new();
        prop_assert_eq!(index.scan(&bytes, &Limits::default()), Ok(()));
        prop_assert_eq!(check(&Message::new(&bytes, &index)), Ok(()));
        both.set(both.get() + u32::from(both_agree(&bytes)));
        Ok(())
    });
    outcome.unwrap_or_else(|failure| panic!("{failure}"));
    assert!(both.get() > 1000, "only {} of 2000 were accepted by both", both.get());
}

#[test]
fn rsip_sees_the_same_in_the_torture_messages_that_it_accepts() {
    let both = corpus::torture().values().filter(|bytes| both_agree(bytes)).count();
    assert!(both >= 10, "only {both} were accepted by both");
}

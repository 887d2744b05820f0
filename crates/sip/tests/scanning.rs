//! What a scan finds, and where it stops.

use sip::{Fault, HeaderName, Host, Index, Limits, Message, Method, OwnedMessage, ScanError, Scheme};

fn scanned<T>(source: &[u8], look: impl FnOnce(&Message<'_>) -> T) -> T {
    let mut index = Index::new();
    index.scan(source, &Limits::default()).unwrap();
    look(&Message::new(source, &index))
}

fn fault(head: &str) -> Option<Fault> {
    scanned(format!("{head}\r\n\r\nbody").as_bytes(), |message| {
        message.index().fault()
    })
}

fn refusal(source: &[u8], limits: &Limits) -> Option<ScanError> {
    Index::new().scan(source, limits).err()
}

#[test]
fn compact_folded_and_repeated_fields_are_one_list() {
    let source = b"NOTIFY urn:service:sos SIP/2.0\nv: SIP/2.0/UDP [2001:db8::9]:5070;branch=z9hG4bKa,SIP/2.0/TLS b.example\r\n\
        O: presence\r\nVIA\t:\r\n\tSIP/2.0/WS c_d ; received=::1 ;maddr=224.2.0.1; rport=\r\nk: 100rel ,\r\n timer\r\nSupported: x\r\n\
        X-Y: z\r\n\r\n\0\r\n\r\n\xff";
    scanned(source, |message| {
        assert_eq!(message.method(), Method::Notify);
        assert_eq!(message.request_uri().unwrap().scheme, Scheme::Urn);
        let vias: Vec<_> = message.vias().collect();
        assert_eq!(vias[0].sent_by(), Some(Host::Address("2001:db8::9".parse().unwrap())));
        assert_eq!((vias[0].port, vias[0].transport), (Some(5070), &b"UDP"[..]));
        assert_eq!((vias[1].host, vias[1].port), (&b"b.example"[..], None));
        assert_eq!(vias[2].received(), Some("::1".parse().unwrap()));
        assert_eq!(vias[2].maddr(), Some(Host::Address("224.2.0.1".parse().unwrap())));
        assert_eq!((vias[2].rport(), vias[0].rport()), (Some(None), None));
        let options: Vec<_> = message.values(HeaderName::Supported).map(|value| value.bytes).collect();
        assert_eq!(options, [&b"100rel"[..], b"timer", b"x"]);
        assert!(message.supports(b"TIMER") && !message.requires(b"timer"));
        assert_eq!(
            (message.header(HeaderName::Event), message.other(b"x-y")),
            (Some(&b"presence"[..]), Some(&b"z"[..]))
        );
        assert_eq!(message.body(), b"\0\r\n\r\n\xff");
    });
}

#[test]
fn header_fields_of_extensions_have_their_meaning() {
    let source =
        b"PRACK tel:+1-201;phone-context=a SIP/2.0\r\nRAck: 776656 1  INVITE\r\nRSeq: 988789\r\nMin-SE: 60;x\r\n\
        x: 4000 ;Refresher=UAC\r\nReplaces: 425928@b;to-tag=7743;from-tag=6472;early-only\r\n\
        Target-Dialog: fa77as7dad8-sd98ajzz@h;local-tag=kkaz-;remote-tag=6544\r\nExpires: 7\r\n\r\n";
    scanned(source, |message| {
        let rack = message.rack().unwrap();
        assert_eq!(
            (rack.rseq, rack.cseq.number, rack.cseq.method),
            (776_656, 1, Method::Invite)
        );
        assert_eq!(
            (message.rseq(), message.min_se(), message.expires()),
            (Some(988_789), Some(60), Some(7))
        );
        let session = message.session_expires().unwrap();
        assert_eq!((session.seconds, session.refresher), (4000, Some(sip::Refresher::Uac)));
        let replaces = message.replaces().unwrap();
        assert_eq!(
            (replaces.local_tag, replaces.remote_tag, replaces.early_only),
            (&b"7743"[..], &b"6472"[..], true)
        );
        let target = message.target_dialog().unwrap();
        assert_eq!(
            (target.call_id, target.local_tag),
            (&b"fa77as7dad8-sd98ajzz@h"[..], &b"kkaz-"[..])
        );
        assert_eq!(message.request_uri().unwrap().user, Some(&b"+1-201"[..]));
    });
}

#[test]
fn the_first_fault_is_kept_and_the_rest_is_still_read() {
    const LINE: &str = "INVITE sip:a SIP/2.0";
    assert_eq!(fault(LINE), None);
    for (head, expected) in [
        ("INVITE sip:a b SIP/2.0", Fault::RequestLine),
        ("INVITE <sip:a> SIP/2.0", Fault::RequestLine),
        ("INVITE  SIP/2.0", Fault::RequestLine),
        ("INVITE sip:a SIP/2.1", Fault::Version),
        ("SIP/2.0 99 x", Fault::StatusLine),
        ("SIP/2.0 700", Fault::StatusLine),
        ("INVITE sip:a SIP/2.0\r\nno colon", Fault::HeaderLine),
        ("INVITE sip:a SIP/2.0\r\n: no name", Fault::HeaderLine),
        ("INVITE sip:a SIP/2.0\r\n folded: start line", Fault::HeaderLine),
        ("INVITE sip:a SIP/2.0\r\na: \rb", Fault::BareCr),
        ("INVITE sip:a SIP/2.0\r\nl: +4", Fault::ContentLength),
        ("INVITE sip:a SIP/2.0\r\nl: 4,4", Fault::ContentLength),
        ("INVITE sip:a SIP/2.0\r\nl:", Fault::ContentLength),
        (
            "INVITE sip:a SIP/2.0\r\nl: 4\r\nContent-Length: 4",
            Fault::DuplicateContentLength,
        ),
        ("INVITE sip:a SIP/2.0\r\nl: 5", Fault::ShortBody),
    ] {
        assert_eq!(fault(head), Some(expected), "{head}");
        scanned(format!("{head}\r\nCall-ID: 7\r\n\r\nbody").as_bytes(), |message| {
            assert_eq!(message.call_id(), Some(&b"7"[..]), "{head}");
        });
    }
}

#[test]
fn what_is_no_message_or_beyond_a_limit_is_refused() {
    let limits = Limits {
        message: 200,
        headers: 3,
        line: 40,
    };
    for (source, expected) in [
        (&b""[..], ScanError::Empty),
        (b"\r\n\r\n", ScanError::Empty),
        (b"INVITE sip:a SIP/2.0\r\na: b\r\n", ScanError::Incomplete),
        (b"\0\0\0\0", ScanError::Incomplete),
        (b"GET / HTTP/1.1\r\n\r\n", ScanError::NotSip),
        (b"INVITE\r\n\r\n", ScanError::NotSip),
        (b" INVITE sip:a SIP/2.0\r\n\r\n", ScanError::NotSip),
        (b"\x16\x03\x01\n\n", ScanError::NotSip),
        (
            b"INVITE sip:a SIP/2.0\r\na: b\r\na: b\r\na: b\r\na: b\r\n\r\n",
            ScanError::TooManyHeaders,
        ),
        (
            b"INVITE sip:a SIP/2.0\r\na: 0123456789\r\n 0123456789\r\n 0123456789\r\n\r\n",
            ScanError::LineTooLong,
        ),
        (&[b'a'; 100], ScanError::LineTooLong),
        (&[b'a'; 201], ScanError::TooLong),
    ] {
        assert_eq!(refusal(source, &limits), Some(expected), "{}", source.escape_ascii());
    }
    let full = b"INVITE sip:a SIP/2.0\r\na: 0123456789\r\n 0123456789\r\n 0123456\r\na: b\r\na: b\r\n\r\n";
    assert_eq!(refusal(full, &limits), None);
}

#[test]
fn the_largest_datagram_is_read() {
    let mut source = b"MESSAGE sip:a SIP/2.0\r\nCall-ID: 7\r\n\r\n".to_vec();
    source.resize(65_535, b'x');
    scanned(&source, |message| assert_eq!(message.as_bytes().len(), 65_535));
    source.push(b'x');
    assert_eq!(refusal(&source, &Limits::default()), Some(ScanError::TooLong));
}

#[test]
fn a_kept_message_is_small_and_can_be_sent_between_threads() {
    const fn is_send<T: Send + Sync + 'static>() {}
    is_send::<OwnedMessage>();
    assert!(size_of::<OwnedMessage>() <= 256, "{}", size_of::<OwnedMessage>());
    let bytes = bytes::Bytes::from_static(b"OPTIONS sip:a SIP/2.0\r\ni: 7\r\n\r\n");
    let kept = OwnedMessage::scan(bytes, &Limits::default()).unwrap();
    assert_eq!(
        OwnedMessage::from(kept.as_message()).as_message().call_id(),
        Some(&b"7"[..])
    );
}

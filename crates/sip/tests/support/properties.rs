//! What holds for any bytes whatever. The mutation test and the fuzz targets share these.

use std::net::SocketAddr;

use sip::{
    Edit, Frame, FrameError, Framer, HeaderName, Index, Limits, Message, ResponseBuilder, Side, Span, Uri, check,
    check_hops, check_scheme, unsupported,
};

/// Scanning bytes gives a message whose parts lie within it, or an error; all that can be read can be read.
pub fn scan_is_sound(bytes: &[u8]) {
    let mut index = Index::new();
    if index.scan(bytes, &Limits::default()).is_err() {
        return;
    }
    let message = Message::new(bytes, &index);
    spans_are_inside(&message);
    read_all(&message);
    identity_edit_changes_nothing(&message);
    hop_is_undone_by_its_opposite(&message);
    answer_is_sound(&message);
}

fn spans_are_inside(message: &Message<'_>) {
    let mut at = 0;
    for header in message.all_headers() {
        assert!(at <= header.line.start() && header.line.start() <= header.span.start());
        assert!(header.span.end() <= header.line.end() && header.line.end() <= message.blank_line());
        assert_eq!(header.span.of(message.buffer()), header.value);
        assert!(message.buffer()[header.line.start()..header.line.end()].ends_with(b"\n"));
        at = header.line.end();
        for value in message.values(header.name) {
            let line = message.header_at(value.ordinal).unwrap();
            assert!(line.span.start() <= value.span.start() && value.span.end() <= line.span.end());
            assert_eq!(message.span_of(value.bytes), Some(value.span));
        }
    }
    assert!(message.blank_line() <= message.buffer().len() - message.body().len());
}

fn read_all(message: &Message<'_>) {
    let _ = (
        message.method(),
        message.status(),
        message.reason(),
        message.call_id(),
        message.cseq(),
    );
    let _ = (
        message.max_forwards(),
        message.expires(),
        message.session_expires(),
        message.min_se(),
    );
    let _ = (
        message.rack(),
        message.rseq(),
        message.replaces(),
        message.join(),
        message.target_dialog(),
    );
    let _ = (
        check_scheme(message),
        check_hops(message),
        message.content_type(),
        message.other(b"x"),
    );
    let _ = unsupported(message, HeaderName::Require, &[b"timer"]).count();
    for via in message.vias() {
        let _ = (
            via.branch(),
            via.received(),
            via.rport(),
            via.maddr(),
            via.sent_by(),
            via.param(b"pt"),
        );
    }
    let lists = [
        HeaderName::Contact,
        HeaderName::Route,
        HeaderName::RecordRoute,
        HeaderName::Path,
    ];
    let addresses = lists.into_iter().flat_map(|name| message.addresses(name));
    let uris = addresses
        .chain(message.from())
        .chain(message.to())
        .filter_map(|address| {
            let _ = (address.tag(), address.params.iter().count());
            address.uri()
        });
    for uri in uris.chain(message.request_uri()) {
        let _ = (uri.host(), uri.params.get(b"a"), uri.is_sip());
        assert!(uri.is_equivalent(&Uri::parse(uri.raw).unwrap()), "a URI equals itself");
    }
}

fn rescan(bytes: &[u8]) -> Index {
    let mut index = Index::new();
    index
        .scan(bytes, &Limits::default())
        .expect("what was scanned and edited scans");
    index
}

/// Names and values, to compare two messages by.
fn fields<'a>(message: &Message<'a>) -> Vec<(&'a [u8], &'a [u8])> {
    message
        .all_headers()
        .map(|header| (header.name_bytes, header.value))
        .collect()
}

fn identity_edit_changes_nothing(message: &Message<'_>) {
    let mut out = Vec::new();
    Edit::new().apply_into(message, &mut out);
    assert_eq!(out, message.as_bytes());
    let index = rescan(&out);
    let again = Message::new(&out, &index);
    assert_eq!((fields(&again), again.body()), (fields(message), message.body()));
    // Without Content-Length and in a datagram alone, a short body is no longer noticed as such.
    assert_eq!(again.index().fault(), message.index().fault());
}

/// What a proxy does to a request, and what it does to the response, cancel out, but for what must remain.
fn hop_is_undone_by_its_opposite(message: &Message<'_>) {
    if check(message).is_err() || !message.is_request() || message.as_bytes().len() > 60_000 {
        return;
    }
    let source: SocketAddr = "198.51.100.7:4711".parse().unwrap();
    let via = b"SIP/2.0/UDP 203.0.113.1:5060;branch=z9hG4bKours;pt=token";
    let mut edit = Edit::new();
    edit.push_above_with(message, HeaderName::Via, |out| out.extend_from_slice(via));
    edit.set_received(message, source);
    edit.decrement_max_forwards(message);
    edit.ensure_content_length(message);
    let mut sent = Vec::new();
    edit.apply_into(message, &mut sent);

    let index = rescan(&sent);
    let there = Message::new(&sent, &index);
    assert_eq!(check(&there), Ok(()), "a hop keeps a message valid");
    assert_eq!(there.vias().next().unwrap().raw, via);
    assert_eq!(there.vias().count(), message.vias().count() + 1);
    let client = there.vias().nth(1).unwrap();
    assert_eq!(client.branch(), message.via().unwrap().branch());
    if client.sent_by() != message.via().and_then(|via| via.sent_by()) || client.received().is_some() {
        assert_eq!(client.received(), Some(source.ip()));
    }
    if client.rport().is_some() {
        assert_eq!(client.rport(), Some(Some(source.port())));
    }
    let hops = message.max_forwards().map_or(70, |hops| hops.saturating_sub(1));
    assert_eq!(there.max_forwards(), Some(hops));
    assert_eq!(there.content_length(), Some(message.body().len() as u32));
    assert_eq!((there.body(), there.call_id()), (message.body(), message.call_id()));
    let routes = |message: &Message<'_>| {
        message
            .values(HeaderName::Route)
            .map(|route| route.bytes.to_vec())
            .collect()
    };
    let before: Vec<_> = routes(&there);

    let mut edit = Edit::new();
    edit.pop(&there, HeaderName::Via, 1);
    edit.pop(&there, HeaderName::Route, 1);
    let mut back = Vec::new();
    edit.apply_into(&there, &mut back);
    let index = rescan(&back);
    let back = Message::new(&back, &index);
    assert_eq!(back.via().unwrap().raw, client.raw);
    assert_eq!(routes(&back), before.get(1..).unwrap_or_default());
    assert_eq!(back.body(), message.body());
}

fn answer_is_sound(message: &Message<'_>) {
    let verdict = check(message);
    if !message.is_request() || !verdict.map_or_else(|reject| reject.answer, |()| true) {
        return;
    }
    let mut out = Vec::new();
    ResponseBuilder::new(&mut out, message, 400, "Bad Request", Some(b"t")).finish();
    let limits = Limits {
        message: usize::MAX,
        ..Limits::default()
    };
    let mut index = Index::new();
    if out.len() <= 65_535 && index.scan(&out, &limits).is_ok() {
        let answer = Message::new(&out, &index);
        assert_eq!(answer.status(), Some(400));
        if verdict.is_ok() {
            let broadcast = "Via with a broadcast address";
            assert_eq!(
                check(&answer)
                    .map_err(|reject| reject.reason)
                    .or_else(|r| if r == broadcast { Ok(()) } else { Err(r) }),
                Ok(())
            );
            assert_eq!((answer.call_id(), answer.cseq()), (message.call_id(), message.cseq()));
            assert_eq!(answer.vias().count(), message.vias().count());
            assert!(answer.to().unwrap().tag().is_some());
        }
    }
}

/// The frames of a stream, or the error that ended it, given `chunk` bytes at a time (0: all at once).
fn frames(side: Side, stream: &[u8], mut chunk: impl FnMut() -> usize) -> (Vec<Vec<u8>>, Option<FrameError>) {
    let mut framer = Framer::new(side, Limits::default());
    let (mut found, mut start, mut end) = (Vec::new(), 0, 0);
    while end < stream.len() {
        end = (end + chunk().max(1)).min(stream.len());
        loop {
            let input = &stream[start..end];
            let (consumed, frame) = match framer.next(input) {
                Ok(next) => next,
                Err(error) => {
                    let _ = check(&framer.refused(input));
                    return (found, Some(error));
                }
            };
            match frame {
                None if consumed == 0 => break,
                None => {}
                Some(Frame::Ping) => found.push(b"ping".to_vec()),
                Some(Frame::Pong) => found.push(b"pong".to_vec()),
                Some(Frame::Message(range)) => {
                    assert_eq!(framer.message(input).as_bytes(), &input[range.clone()]);
                    let mut index = Index::new();
                    index
                        .scan(&input[range.clone()], &Limits::default())
                        .expect("a frame scans");
                    assert_eq!(
                        fields(&framer.message(input)),
                        fields(&Message::new(&input[range.clone()], &index)),
                        "framing and scanning see one message"
                    );
                    assert_eq!(range.end, consumed);
                    found.push(input[range].to_vec());
                }
            }
            start += consumed;
        }
    }
    (found, None)
}

/// How a stream is cut into pieces does not change what is found in it.
pub fn framing_is_independent_of_chunks(stream: &[u8], mut chunk: impl FnMut() -> usize) {
    for side in [Side::Accepted, Side::Opened] {
        let whole = frames(side, stream, || stream.len());
        let pieces = frames(side, stream, &mut chunk);
        assert_eq!(whole, pieces, "{side:?}");
    }
}

/// Splices in any order give what replacing from the back gives.
pub fn splices_agree_with_a_model(bytes: &[u8], mut random: impl FnMut(usize) -> usize) {
    let mut index = Index::new();
    if index.scan(bytes, &Limits::default()).is_err() {
        return;
    }
    let message = Message::new(bytes, &index);
    let start = message.span_of(message.as_bytes()).unwrap().start();
    let mut cuts: Vec<usize> = (0..8).map(|_| start + random(message.as_bytes().len() + 1)).collect();
    cuts.sort_unstable();
    let mut splices: Vec<(usize, usize, Vec<u8>)> = cuts
        .chunks(2)
        .map(|cut| (cut[0], cut[1], vec![b'x'; random(5)]))
        .collect();
    splices.dedup_by_key(|splice| splice.0);
    let mut expected = message.as_bytes().to_vec();
    for (from, to, text) in splices.iter().rev() {
        expected.splice(from - start..to - start, text.iter().copied());
    }
    let mut edit = Edit::new();
    while !splices.is_empty() {
        let (from, to, text) = splices.swap_remove(random(splices.len()));
        edit.replace(Span::new(from, to), &text);
    }
    let mut out = Vec::new();
    edit.apply_into(&message, &mut out);
    assert_eq!(out, expected);
}

//! RFC 4475: every message of it gets the outcome that the RFC asks for. `docs/torture.md` is the table below, and is
//! compared with it; `UPDATE_DOCS=1 cargo test -p sip --test torture` writes it.

#[path = "support/corpus.rs"]
mod corpus;

use std::fmt::Write;

use corpus::torture as messages;
use sip::{
    Edit, HeaderName, Host, Index, Limits, Message, Method, ResponseBuilder, Scheme, check, check_hops, check_scheme,
    unquoted, unsupported,
};

/// A message, its section, what happens to it here, and why.
struct Case {
    name: &'static str,
    section: &'static str,
    outcome: &'static str,
    why: &'static str,
}

const fn case(name: &'static str, section: &'static str, outcome: &'static str, why: &'static str) -> Case {
    Case {
        name,
        section,
        outcome,
        why,
    }
}

#[rustfmt::skip]
const CASES: [Case; 49] = [
    case("wsinv", "3.1.1.1", "accepted", "Folding, white space, quoting and header order are legal, however odd."),
    case("intmeth", "3.1.1.2", "accepted", "Every character stands where the grammar allows it; the unknown method is forwarded by a proxy, answered 501 by a user agent."),
    case("esc01", "3.1.1.3", "accepted", "Escapes are undone in comparisons only, and never twice."),
    case("escnull", "3.1.1.4", "accepted", "`%00` is a byte like any other: nothing ends at it."),
    case("esc02", "3.1.1.5", "accepted", "`%` is no escape in a method or a header name: the method is unknown, and there are two Contacts."),
    case("lwsdisp", "3.1.1.6", "accepted", "A display name may touch the bracket."),
    case("longreq", "3.1.1.7", "accepted", "Long values and 34 Vias are within the limits."),
    case("dblreq", "3.1.1.8", "accepted", "What follows the body in a datagram is not part of the message and is not forwarded."),
    case("semiuri", "3.1.1.9", "accepted", "A user part may hold semicolons."),
    case("transports", "3.1.1.10", "accepted", "A transport is a token; only that of the topmost Via matters."),
    case("mpart01", "3.1.1.11", "accepted", "A body is any octets."),
    case("unreason", "3.1.1.12", "accepted", "A reason phrase is any text."),
    case("noreason", "3.1.1.13", "accepted", "A reason phrase may be empty."),
    case("badinv01", "3.1.2.1", "400 Malformed Via", "`;;` and `,;,` are separators with nothing to separate."),
    case("clerr", "3.1.2.2", "400 Body shorter than Content-Length", "The datagram ends before its body; on a stream the rest would be waited for."),
    case("ncl", "3.1.2.3", "400 Malformed Content-Length", "A length is digits; on a stream the connection is closed."),
    case("scalar02", "3.1.2.4", "400 Malformed CSeq", "The CSeq number is not below 2^31."),
    case("scalarlg", "3.1.2.5", "dropped: Malformed CSeq", "A response cannot be answered, so it is discarded."),
    case("quotbal", "3.1.2.6", "400 Malformed To", "The quote does not end; nothing is guessed."),
    case("ltgtruri", "3.1.2.7", "400 Malformed request line", "A Request-URI has no brackets."),
    case("lwsruri", "3.1.2.8", "400 Malformed request line", "A Request-URI has no spaces."),
    case("lwsstart", "3.1.2.9", "400 Malformed request line", "One space stands between the parts; more must not be forwarded, so it is refused, as the RFC accepts."),
    case("trws", "3.1.2.10", "400 Malformed request line", "Nothing stands behind the version; more must not be forwarded, so it is refused, as the RFC accepts."),
    case("escruri", "3.1.2.11", "400 Request-URI with header parts", "Header parts are not allowed in a Request-URI (RFC 3261 s19.1.1)."),
    case("baddate", "3.1.2.12", "accepted", "Nobody needs the Date, so nobody refuses it: what the RFC recommends."),
    case("regbadct", "3.1.2.13", "400 Malformed Contact", "A URI with a question mark needs brackets."),
    case("badaspec", "3.1.2.14", "400 Malformed To", "A URI has no spaces."),
    case("baddn", "3.1.2.15", "400 Malformed From", "A display name with a comma needs quotes; the error must not be forwarded."),
    case("badvers", "3.1.2.16", "505 Version Not Supported", "The version is not 2.0."),
    case("mismatch01", "3.1.2.17", "400 CSeq does not fit the method", "CSeq names another method."),
    case("mismatch02", "3.1.2.18", "501 Not Implemented", "CSeq names another method and the method is unknown: the RFC prefers 501."),
    case("bigcode", "3.1.2.19", "dropped: Malformed status line", "A status code has three digits."),
    case("badbranch", "3.2.1", "400 Empty branch", "The cookie has no id behind it, so it tells no transaction from another."),
    case("insuf", "3.3.1", "400 No From", "From, To and Call-ID are missing; the answer leaves out what is not there."),
    case("unkscm", "3.3.2", "416 Unsupported URI Scheme", "Nobody knows the scheme of the Request-URI."),
    case("novelsc", "3.3.3", "416 Unsupported URI Scheme", "The scheme is known elsewhere, but not to SIP."),
    case("unksm2", "3.3.4", "accepted", "Schemes in To, From and Contact are the registrar's affair."),
    case("bext01", "3.3.5", "420 Bad Extension", "Require and Proxy-Require name options that nobody supports; the answer lists them."),
    case("invut", "3.3.6", "accepted", "The type of the body is the application's affair; it answers 415."),
    case("regaut01", "3.3.7", "accepted", "An unknown authorization scheme is the registrar's affair; it challenges or ignores it."),
    case("multi01", "3.3.8", "400 Several From", "Fields that may stand there once stand there twice."),
    case("mcl01", "3.3.9", "400 Several Content-Length", "Two lengths: nobody can know which holds; on a stream the connection is closed."),
    case("bcast", "3.3.10", "dropped: Via with a broadcast address", "Followed blindly, it would be sent to the whole network."),
    case("zeromf", "3.3.11", "accepted; 483 Too Many Hops by a proxy", "A user agent works on it, a proxy may not forward it."),
    case("cparam01", "3.3.12", "accepted", "Without brackets the parameter belongs to the Contact."),
    case("cparam02", "3.3.13", "accepted", "Within brackets the parameter belongs to the URI."),
    case("regescrt", "3.3.14", "accepted", "Within brackets a Contact may have header parts."),
    case("sdp01", "3.3.15", "accepted", "What the answer may hold is the application's affair; it answers 406 or leaves the body out."),
    case("inv2543", "3.4.1", "accepted", "RFC 2543 had no branch, no tag of the caller, no Max-Forwards and no Content-Length on UDP."),
];

/// What happens to a datagram on its way in.
fn outcome(bytes: &[u8]) -> String {
    let mut index = Index::new();
    if let Err(error) = index.scan(bytes, &Limits::default()) {
        return format!("dropped: {error}");
    }
    let message = Message::new(bytes, &index);
    if let Err(reject) = check(&message).and_then(|()| check_scheme(&message)) {
        return if reject.answer {
            let mut answer = Vec::new();
            ResponseBuilder::new(&mut answer, &message, reject.status, reject.reason, Some(b"t")).finish();
            assert_eq!(Index::new().scan(&answer, &Limits::default()), Ok(()));
            format!("{} {}", reject.status, reject.reason)
        } else {
            format!("dropped: {}", reject.reason)
        };
    }
    let knows_all = |name| unsupported(&message, name, &[b"100rel", b"timer"]).next().is_none();
    if !knows_all(HeaderName::Require) || !knows_all(HeaderName::ProxyRequire) {
        return "420 Bad Extension".into();
    }
    match check_hops(&message) {
        Err(reject) => format!("accepted; {} {} by a proxy", reject.status, reject.reason),
        Ok(()) => "accepted".into(),
    }
}

fn with<T>(name: &str, look: impl FnOnce(&Message<'_>) -> T) -> T {
    let bytes = &messages()[name];
    let mut index = Index::new();
    index.scan(bytes, &Limits::default()).unwrap();
    look(&Message::new(bytes, &index))
}

#[test]
fn every_message_gets_the_outcome_of_the_rfc() {
    let messages = messages();
    assert_eq!(messages.len(), CASES.len());
    for case in &CASES {
        assert_eq!(
            outcome(&messages[case.name]),
            case.outcome,
            "{} (RFC 4475 s{})",
            case.name,
            case.section
        );
    }
}

#[test]
fn the_table_in_the_docs_is_this_one() {
    let mut table = String::from(
        "# Torture messages\n\nWhat becomes of each message of [RFC 4475](https://www.rfc-editor.org/rfc/rfc4475). The messages stand bit by bit in\n\
         `crates/sip/tests/torture/messages.txt`; the test `torture` of the crate `sip` sends each through scan and checks, and compares\n\
         the outcome with this table. Where the RFC leaves a choice, refusing is chosen if the fault would otherwise be forwarded.\n\n\
         | message | section | outcome | why |\n| --- | --- | --- | --- |\n",
    );
    for case in &CASES {
        writeln!(
            table,
            "| {} | {} | {} | {} |",
            case.name, case.section, case.outcome, case.why
        )
        .unwrap();
    }
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/torture.md");
    if std::env::var_os("UPDATE_DOCS").is_some() {
        std::fs::write(path, &table).unwrap();
    }
    assert_eq!(
        std::fs::read_to_string(path).unwrap_or_default(),
        table,
        "write it anew with UPDATE_DOCS=1"
    );
}

#[test]
fn an_edit_without_splices_keeps_every_accepted_byte() {
    for (name, bytes) in messages() {
        let mut index = Index::new();
        index.scan(&bytes, &Limits::default()).unwrap();
        let message = Message::new(&bytes, &index);
        let mut out = Vec::new();
        Edit::new().apply_into(&message, &mut out);
        assert_eq!(out, message.as_bytes(), "{name}");
        assert!(bytes.starts_with(&out), "{name}");
    }
}

#[test]
fn wsinv_is_read_through_its_folds() {
    with("wsinv", |message| {
        assert_eq!(message.method(), Method::Invite);
        assert!(message.request_uri().unwrap().params.has(b"unknownparam"));
        assert_eq!(message.to().unwrap().tag(), Some(&b"1918181833n"[..]));
        let from = message.from().unwrap();
        assert_eq!(
            (unquoted(from.display), from.tag()),
            (&b"J Rosenberg \\\\\\\""[..], Some(&b"98asjd8"[..]))
        );
        assert_eq!((message.max_forwards(), message.cseq().unwrap().number), (Some(68), 9));
        let parts = |via: sip::Via<'_>| [via.transport, via.host, via.branch().unwrap()].map(<[u8]>::to_vec);
        let vias: Vec<_> = message.vias().map(parts).collect();
        let expected: [[&[u8]; 3]; 3] = [
            [b"UDP", b"192.0.2.2", b"390skdjuw"],
            [b"TCP", b"spindle.example.com", b"z9hG4bK9ikj8"],
            [b"UDP", b"192.168.255.111", b"z9hG4bK30239"],
        ];
        assert_eq!(vias, expected);
        assert_eq!(message.header(HeaderName::Subject), Some(&b""[..]));
        assert_eq!(message.other(b"unknownheaderwithunusualvalue"), Some(&b";;,,;;,;"[..]));
        assert!(message.routes().next().unwrap().uri().unwrap().params.has(b"lr"));
        let contact = message.contact().unwrap();
        assert_eq!(
            (contact.params.get(b"newparam"), contact.params.get(b"q")),
            (Some(&b"newvalue"[..]), Some(&b"0.33"[..]))
        );
        assert_eq!(message.body().len(), 150);
    });
}

#[test]
fn odd_characters_hide_nothing() {
    with("intmeth", |message| {
        let method = b"!interesting-Method0123456789_*+`.%indeed'~";
        assert_eq!(message.method(), Method::Other(method));
        assert_eq!(message.request_uri().unwrap().host, b"example.com");
        assert_eq!(
            message.request_uri().unwrap().password,
            Some(&b"&it+has=1,weird!*pas$wo~d_too.(doesn't-it)"[..])
        );
        assert_eq!(
            message.to().unwrap().uri().unwrap().host(),
            Some(Host::Name(b"example.com"))
        );
        assert_eq!(message.from().unwrap().tag(), Some(&b"_token~1'+`*%!-."[..]));
    });
    with("esc01", |message| {
        let uri = message.request_uri().unwrap();
        assert_eq!(
            (uri.scheme, uri.user),
            (Scheme::Sip, Some(&b"sips%3Auser%40example.com"[..]))
        );
        let to = message.to().unwrap().uri().unwrap();
        assert!(to.is_equivalent(&sip::Uri::parse(b"sip:user@example.com").unwrap()));
    });
    with("escnull", |message| {
        let contacts: Vec<_> = message
            .addresses(HeaderName::Contact)
            .filter_map(|contact| contact.uri())
            .collect();
        assert_eq!(contacts.len(), 2);
        assert!(!contacts[0].is_equivalent(&contacts[1]));
    });
    with("esc02", |message| {
        assert_ne!(message.method(), Method::Register);
        assert_eq!(message.addresses(HeaderName::Contact).count(), 2);
    });
    with("semiuri", |message| {
        assert_eq!(
            message.request_uri().unwrap().user,
            Some(&b"user;par=u%40example.net"[..])
        );
        assert_eq!(message.values(HeaderName::Accept).count(), 6);
    });
}

#[test]
fn parameters_belong_where_the_brackets_say() {
    with("cparam01", |message| {
        let contact = message.contact().unwrap();
        assert!(contact.params.has(b"unknownparam") && !contact.uri().unwrap().params.has(b"unknownparam"));
    });
    with("cparam02", |message| {
        let contact = message.contact().unwrap();
        assert!(!contact.params.has(b"unknownparam") && contact.uri().unwrap().params.has(b"unknownparam"));
    });
    with("regescrt", |message| {
        assert_eq!(
            message.contact().unwrap().uri().unwrap().headers,
            b"Route=%3Csip:sip.example.com%3E"
        );
    });
}

#[test]
fn bodies_and_ends_are_where_the_length_says() {
    with("dblreq", |message| {
        assert_eq!(message.body(), b"");
        assert!(message.as_bytes().ends_with(b"Content-Length: 0\r\n\r\n"));
    });
    with("mpart01", |message| assert_eq!(message.body().len(), 553));
    with("longreq", |message| {
        assert_eq!((message.vias().count(), message.body().len()), (34, 150))
    });
    with("inv2543", |message| assert_eq!(message.content_length(), None));
    with("noreason", |message| {
        assert_eq!((message.status(), message.reason()), (Some(100), &b""[..]))
    });
}

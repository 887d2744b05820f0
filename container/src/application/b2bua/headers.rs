//! Which header fields pass from one side of a call to the other.

use sip::{HeaderName, Message};
use ucf::routing::HEARTBEAT_HEADER;

/// Header fields of known names that stay on their side, and why; all others pass. `docs/b2bua.md` shows this table.
pub const STAY: &[(HeaderName, &str)] = &[
    (HeaderName::Via, "the way of one message"),
    (HeaderName::Route, "the way of one side"),
    (HeaderName::RecordRoute, "the way of one side"),
    (HeaderName::Path, "the way of one side"),
    (HeaderName::ServiceRoute, "the way of one side"),
    (HeaderName::MaxForwards, "counted down from side to side"),
    (HeaderName::MaxBreadth, "the forks of one request"),
    (HeaderName::From, "names a dialog by its tag; the address passes"),
    (HeaderName::To, "names a dialog by its tag; the address passes"),
    (HeaderName::CallId, "names a dialog"),
    (HeaderName::Cseq, "counts the requests of one dialog"),
    (HeaderName::Contact, "where one side is reached; passes in a 3xx"),
    (HeaderName::Replaces, "names a dialog of this side; taken here"),
    (HeaderName::Join, "names a dialog of this side"),
    (HeaderName::TargetDialog, "names a dialog of this side"),
    (HeaderName::InReplyTo, "names calls of this side"),
    (HeaderName::Allow, "what this cluster understands"),
    (HeaderName::Supported, "what this cluster understands"),
    (HeaderName::Require, "what this cluster understands"),
    (HeaderName::Unsupported, "what this cluster understands"),
    (HeaderName::ProxyRequire, "for the proxies of one side"),
    (HeaderName::AllowEvents, "what this cluster understands"),
    (HeaderName::SessionExpires, "each side has a session timer of its own"),
    (HeaderName::MinSe, "each side has a session timer of its own"),
    (HeaderName::Rseq, "each side has reliable responses of its own"),
    (HeaderName::Rack, "each side has reliable responses of its own"),
    (HeaderName::Timestamp, "the time of one hop"),
    (HeaderName::FlowTimer, "the connection of one side"),
    (HeaderName::ContentLength, "written anew"),
    (HeaderName::ContentType, "written anew with the body"),
    (HeaderName::Identity, "signs what is not passed on as it was"),
];

/// The header fields of a message that go with it to the other side, as name and value. `with_contact`: a redirection, whose Contact
/// is its content.
pub(super) fn passing<'a>(
    message: Message<'a>,
    with_contact: bool,
) -> impl Iterator<Item = (std::borrow::Cow<'a, str>, &'a [u8])> {
    let passes = move |name: HeaderName, written: &[u8]| match name {
        HeaderName::Contact if with_contact => true,
        HeaderName::Other => !written.eq_ignore_ascii_case(HEARTBEAT_HEADER.as_bytes()),
        _ => STAY.iter().all(|(stays, _)| *stays != name),
    };
    message
        .all_headers()
        .filter(move |header| passes(header.name, header.name_bytes))
        .map(|header| (String::from_utf8_lossy(header.name_bytes), header.value))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The names and values that go on from a request with these header fields.
    fn passed(fields: &[(&str, &str)], with_contact: bool) -> Vec<(String, String)> {
        let lines: String = fields
            .iter()
            .map(|(name, value)| format!("{name}: {value}\r\n"))
            .collect();
        let text = format!("INFO sip:bob@192.0.2.1 SIP/2.0\r\n{lines}\r\n");
        let mut index = sip::Index::new();
        index.scan(text.as_bytes(), &sip::Limits::default()).expect("a request");
        let message = Message::new(text.as_bytes(), &index);
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        let passing = passing(message, with_contact);
        passing.map(|(name, value)| (name.into_owned(), text(value))).collect()
    }

    #[test]
    fn what_stays_is_the_table_in_any_writing_and_all_else_passes() {
        for (name, _) in STAY {
            let (name, value) = (
                name.as_str(),
                if *name == HeaderName::ContentLength { "0" } else { "x" },
            );
            let upper = name.to_uppercase();
            let seen = passed(
                &[(name, value), (&upper, value), ("Subject", "hello"), ("X-Own", "7")],
                false,
            );
            let expected = [("Subject", "hello"), ("X-Own", "7")].map(|(name, value)| (name.into(), value.into()));
            assert_eq!(seen, expected, "{name}");
        }
        let compact = ["v", "f", "t", "i", "m", "l", "c", "k", "u", "x", "y"].map(|name| (name, "0"));
        assert_eq!(passed(&compact, false), []);
        let both = [("s", "hello"), ("m", "<sip:b@192.0.2.9>")];
        assert_eq!(
            passed(&both, true),
            both.map(|(name, value)| (name.into(), value.into()))
        );
        let refer = [("r", "<sip:c@192.0.2.7>"), ("b", "<sip:b@192.0.2.9>"), ("o", "talk")];
        assert_eq!(passed(&refer, false).len(), 3);
    }

    #[test]
    fn the_page_shows_the_table() {
        let page = include_str!("../../../../docs/b2bua.md");
        for (name, why) in STAY {
            let row = format!("| `{}` | {why} |\n", name.as_str());
            assert!(page.contains(&row), "docs/b2bua.md lacks: {row}");
        }
        let rows = page.lines().filter(|line| line.starts_with("| `")).count();
        assert_eq!(rows, STAY.len(), "docs/b2bua.md has rows that the table has not");
    }
}

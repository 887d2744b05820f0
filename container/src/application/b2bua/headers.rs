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

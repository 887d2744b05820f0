//! Session timers: RFC 4028's tables row by row, and their deadlines in virtual time.

mod support;

use sip::dialog::{Dialog, DialogEffect, Facts, NewRequest, Reaction, Refusal, SessionPolicy, Verdict};
use sip::transaction::Timers;
use sip::{Method, Refresher};
use support::*;

const POLICY: SessionPolicy = SessionPolicy {
    interval: Some(1800),
    min_se: 120,
    refresher: Refresher::Uac,
};

fn agreed(extra: &str, policy: &SessionPolicy) -> Option<String> {
    let dialog = called(extra, policy);
    dialog.agreed(Method::Invite).map(|agreed| agreed.header_lines())
}

#[test]
fn the_called_side_follows_table_2_of_rfc_4028() {
    let rows = [
        // Supported, refresher in the request -> refresher and Require in the response.
        ("Session-Expires: 900\r\n", "Session-Expires: 900;refresher=uas\r\n"),
        (
            "Supported: timer\r\nSession-Expires: 900\r\n",
            "Session-Expires: 900;refresher=uac\r\nRequire: timer\r\n",
        ),
        (
            "Supported: timer\r\nSession-Expires: 900;refresher=uac\r\n",
            "Session-Expires: 900;refresher=uac\r\nRequire: timer\r\n",
        ),
        (
            "Supported: timer\r\nx: 900 ; refresher=UAS\r\n",
            "Session-Expires: 900;refresher=uas\r\nRequire: timer\r\n",
        ),
        // Shortened to ours, never lengthened, never below Min-SE.
        (
            "Supported: timer\r\nSession-Expires: 7200\r\n",
            "Session-Expires: 1800;refresher=uac\r\nRequire: timer\r\n",
        ),
        (
            "Supported: timer\r\nSession-Expires: 7200\r\nMin-SE: 3600\r\n",
            "Session-Expires: 3600;refresher=uac\r\nRequire: timer\r\n",
        ),
        // Nobody asked.
        (
            "Supported: timer\r\n",
            "Session-Expires: 1800;refresher=uac\r\nRequire: timer\r\n",
        ),
        ("", "Session-Expires: 1800;refresher=uas\r\n"),
        // Too short, put in by a proxy for a caller that does not know timers: taken as it is.
        ("Session-Expires: 100\r\n", "Session-Expires: 100;refresher=uas\r\n"),
    ];
    for (request, response) in rows {
        assert_eq!(agreed(request, &POLICY).as_deref(), Some(response), "{request}");
    }
    assert_eq!(agreed("Supported: timer\r\n", &QUIET), None);
}

#[test]
fn an_interval_below_ours_gets_422_with_min_se() {
    let extra = "Supported: timer\r\nSession-Expires: 100\r\n";
    let invite = request("INVITE", 1, None, extra);
    let facts = Facts::of(&invite.as_message());
    let refused = Dialog::from_invite(&facts, b"t", b"<sip:b@c>", &POLICY, Timers::default());
    assert_eq!(
        refused.expect_err("too short"),
        Refusal::IntervalTooSmall { min_se: 120 }
    );
    let mut dialog = talking();
    let update = request("UPDATE", 2, Some("b0b"), "Supported: timer\r\nSession-Expires: 60\r\n");
    let too_small = Verdict::Reject {
        status: 422,
        retry_after: None,
        min_se: Some(90),
    };
    assert_eq!(receive(&mut dialog, 0, &update).0, too_small);
    assert_eq!(dialog.poll_timeout(), None, "and changes nothing");
}

fn timed(extra: &str) -> Dialog {
    let mut dialog = called(extra, &POLICY);
    respond(&mut dialog, 0, Method::Invite, 1, 200);
    receive(&mut dialog, 0, &request("ACK", 1, Some("b0b"), ""));
    dialog
}

#[test]
fn the_refresher_refreshes_at_half_and_gives_up_32_s_before_the_end() {
    let mut dialog = timed("Session-Expires: 800\r\n");
    assert_eq!(dialog.poll_timeout(), Some(at(400_000)));
    assert_eq!(tick(&mut dialog, 400_000), [DialogEffect::RefreshDue]);
    let lines = dialog.session().request_lines(&POLICY);
    assert_eq!(lines, "Supported: timer\r\nSession-Expires: 800;refresher=uac\r\n");
    // Unanswered, it is tried again, and then the session ends: once.
    for due in [500_000, 600_000, 700_000] {
        assert_eq!(dialog.poll_timeout(), Some(at(due)));
        assert_eq!(tick(&mut dialog, due), [DialogEffect::RefreshDue]);
    }
    assert_eq!(dialog.poll_timeout(), Some(at(768_000)));
    assert_eq!(tick(&mut dialog, 768_000), [DialogEffect::SessionExpired]);
    assert_eq!(dialog.poll_timeout(), None);
    assert_eq!(tick(&mut dialog, 900_000), []);
}

#[test]
fn an_answered_refresh_starts_the_interval_anew() {
    let mut dialog = timed("Session-Expires: 800\r\n");
    tick(&mut dialog, 400_000);
    let _ = dialog.request(&NewRequest::new(Method::Update, b"v"));
    let ok = response(200, "UPDATE", 1, "1928", "Session-Expires: 600;refresher=uac\r\n");
    let reaction = dialog.handle_response(at(401_000), &Facts::of(&ok.as_message()), 0);
    assert_eq!(reaction, Reaction::Pass);
    assert_eq!(dialog.poll_timeout(), Some(at(701_000)));
    assert_eq!(dialog.session().expires(), Some(at(1_001_000)));
    // Without Session-Expires in the 2xx there is no session timer any more (s7.2).
    let _ = dialog.request(&NewRequest::new(Method::Update, b"v"));
    let ok = response(200, "UPDATE", 2, "1928", "");
    dialog.handle_response(at(402_000), &Facts::of(&ok.as_message()), 0);
    assert_eq!(dialog.poll_timeout(), None);
}

#[test]
fn the_other_side_waits_and_ends_a_session_that_nobody_refreshes() {
    let mut dialog = timed("Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n");
    assert_eq!(
        dialog.poll_timeout(),
        Some(at(88_000)),
        "min(32 s, a third) before the end"
    );
    let refresh = request(
        "UPDATE",
        2,
        Some("b0b"),
        "Supported: timer\r\nSession-Expires: 90;refresher=uac\r\n",
    );
    assert_eq!(receive(&mut dialog, 60_000, &refresh).0, Verdict::Process);
    assert_eq!(dialog.poll_timeout(), Some(at(88_000)), "only the 2xx refreshes");
    respond(&mut dialog, 61_000, Method::Update, 2, 200);
    assert_eq!(dialog.poll_timeout(), Some(at(121_000)));
    assert_eq!(tick(&mut dialog, 121_000), [DialogEffect::SessionExpired]);
}

#[test]
fn the_role_stays_with_the_dialog_side_not_with_the_request() {
    // Alice refreshes; when Bob sends a re-INVITE for other reasons he says so: the refresher is the UAS of that
    // request.
    let dialog = timed("Supported: timer\r\nSession-Expires: 900;refresher=uac\r\n");
    assert!(!dialog.session().we_refresh());
    let lines = dialog.session().request_lines(&POLICY);
    assert_eq!(lines, "Supported: timer\r\nSession-Expires: 900;refresher=uas\r\n");
}

#[test]
fn a_422_raises_min_se_for_the_next_attempt() {
    let mut dialog = timed("Session-Expires: 200\r\n");
    let _ = dialog.request(&NewRequest::new(Method::Update, b"v"));
    let small = response(422, "UPDATE", 1, "1928", "Min-SE: 1000\r\n");
    let reaction = dialog.handle_response(at(0), &Facts::of(&small.as_message()), 0);
    assert_eq!(reaction, Reaction::IntervalTooSmall);
    let lines = dialog.session().request_lines(&POLICY);
    assert_eq!(
        lines,
        "Supported: timer\r\nSession-Expires: 1000;refresher=uac\r\nMin-SE: 1000\r\n"
    );
}

#[test]
fn a_session_that_expired_in_the_outage_ends_at_once_and_once() {
    let before = timed("Supported: timer\r\nSession-Expires: 120;refresher=uac\r\n");
    let parts = before.to_parts(at(0));
    let mut overdue = parts.clone();
    let session = overdue.session.as_mut().expect("a timer");
    session.left = session.left.saturating_sub(std::time::Duration::from_secs(100));
    let mut dialog = Dialog::from_parts(at(3_000_000), Timers::default(), overdue).expect("whole");
    assert!(dialog.poll_timeout().is_some_and(|due| due <= at(3_000_000)));
    assert_eq!(tick(&mut dialog, 3_000_000), [DialogEffect::SessionExpired]);
    assert_eq!(dialog.poll_timeout(), None);
    // In time, it goes on with what was left.
    let dialog = Dialog::from_parts(at(3_000_000), Timers::default(), parts).expect("whole");
    assert_eq!(dialog.poll_timeout(), Some(at(3_088_000)));
    assert_eq!(
        dialog.session(),
        &Dialog::from_parts(at(3_000_000), Timers::default(), before.to_parts(at(0)))
            .expect("whole")
            .session()
            .clone()
    );
}

//! The state tables of RFC 3261 s17 and RFC 6026 are the specification: these tests walk their rows in virtual time.

use bytes::Bytes;
use sip::Instant;
use sip::transaction::{
    ClientSnapshot, ClientState, ClientTransaction, Effect, Repeat, Response, ServerSnapshot, ServerState,
    ServerTransaction, Timers,
};
use std::time::Duration;

const INVITE: &[u8] = b"INVITE sip:b@b SIP/2.0\r\nVia: SIP/2.0/UDP a;branch=z9hG4bK1\r\nFrom: <sip:a@a>;tag=1\r\n\
    To: <sip:b@b>\r\nCall-ID: 1\r\nCSeq: 1 INVITE\r\n\r\n";
const UDP: bool = false;
const TCP: bool = true;

fn at(millis: u64) -> Instant {
    Instant::from_micros(1_000_000 + millis * 1000)
}

fn ms(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

fn bytes(text: &str) -> Bytes {
    Bytes::copy_from_slice(text.as_bytes())
}

/// What happens to a machine, with the time of it in milliseconds.
#[derive(Clone, Copy, Debug)]
enum Event {
    Request,
    Ack,
    Respond(u16),
    Response(u16),
    Broken,
    Time,
    Resume,
}
use Event::{Ack, Broken, Request, Respond, Response as Receive, Resume, Time};

/// Effects in one word each.
fn words(effects: &[Effect]) -> Vec<String> {
    let word = |effect: &Effect| match effect {
        Effect::Send(bytes) => {
            let text = String::from_utf8_lossy(bytes);
            format!("send {}", text.split(' ').next().unwrap_or_default())
        }
        Effect::Deliver => "deliver".into(),
        Effect::TryingDue => "trying".into(),
        Effect::TimedOut => "timeout".into(),
        Effect::Failed => "failed".into(),
        Effect::Terminated => "end".into(),
    };
    effects.iter().map(word).collect()
}

enum Machine {
    Server(ServerTransaction),
    Client(ClientTransaction),
}

impl Machine {
    fn apply(&mut self, now: Instant, event: Event) -> Vec<String> {
        let mut out = Vec::new();
        match (&mut *self, event) {
            (Self::Server(m), Request) => m.handle_request(now, Repeat::Request, &mut out),
            (Self::Server(m), Ack) => m.handle_request(now, Repeat::Ack, &mut out),
            (Self::Server(m), Respond(status)) => m.respond(now, status, bytes(&status.to_string()), &mut out),
            (Self::Client(m), Receive(status)) => {
                let response = Response {
                    status,
                    to: b"<sip:b@b>;tag=2",
                };
                m.handle_response(now, response, &mut out);
            }
            (Self::Server(m), Broken) => m.handle_transport_error(&mut out),
            (Self::Client(m), Broken) => m.handle_transport_error(&mut out),
            (Self::Server(m), Time) => m.handle_timeout(now, &mut out),
            (Self::Client(m), Time) => m.handle_timeout(now, &mut out),
            (Self::Server(m), Resume) => m.resume(now, &mut out),
            (Self::Client(m), Resume) => m.resume(now, &mut out),
            (_, event) => unreachable!("{event:?} is another machine's"),
        }
        words(&out)
    }

    fn poll_timeout(&self) -> Option<Instant> {
        match self {
            Self::Server(m) => m.poll_timeout(),
            Self::Client(m) => m.poll_timeout(),
        }
    }

    fn state(&self, now: Instant) -> String {
        match self {
            Self::Server(m) => format!("{:?}", m.snapshot(now).state),
            Self::Client(m) => format!("{:?}", m.snapshot(now).state),
        }
    }
}

/// One row: events that lead to a state, the event under test, its effects, the state after it.
type Row<'a> = (&'a [Event], Event, &'a [&'a str], &'a str);

/// Walks each row on a machine of its own, on UDP and TCP alike: rows are about what comes in, not about time.
fn walk(start: impl Fn(bool) -> Machine, rows: &[Row<'_>]) {
    for transport in [UDP, TCP] {
        for (path, event, effects, state) in rows {
            let mut machine = start(transport);
            for step in *path {
                machine.apply(at(0), *step);
            }
            let context = format!("reliable {transport}: {path:?} then {event:?}");
            let ended = effects.contains(&"end") || machine.poll_timeout().is_none() && state.is_empty();
            assert_eq!(machine.apply(at(10), *event), *effects, "{context}");
            if ended {
                assert_eq!(machine.poll_timeout(), None, "{context}");
            } else {
                assert_eq!(machine.state(at(10)), *state, "{context}");
            }
        }
    }
}

fn server(invite: bool) -> impl Fn(bool) -> Machine {
    move |reliable| Machine::Server(ServerTransaction::new(at(0), Timers::default(), reliable, invite))
}

fn client(invite: bool) -> impl Fn(bool) -> Machine {
    move |reliable| {
        let mut out = Vec::new();
        let request = Bytes::from_static(INVITE);
        let machine = ClientTransaction::start(at(0), Timers::default(), reliable, invite, request, &mut out);
        assert_eq!(words(&out), ["send INVITE"]);
        Machine::Client(machine)
    }
}

#[test]
fn invite_server_follows_its_table() {
    let rows: &[Row<'_>] = &[
        (&[], Request, &[], "Proceeding"),
        (&[], Ack, &[], "Proceeding"),
        (&[], Respond(100), &["send 100"], "Proceeding"),
        (&[], Respond(200), &["send 200"], "Accepted"),
        (&[], Respond(404), &["send 404"], "Completed"),
        (&[], Broken, &["failed"], "Proceeding"),
        (&[], Resume, &[], "Proceeding"),
        (&[Respond(180)], Request, &["send 180"], "Proceeding"),
        (&[Respond(180)], Respond(183), &["send 183"], "Proceeding"),
        (&[Respond(180), Respond(183)], Request, &["send 183"], "Proceeding"),
        (&[Respond(180)], Resume, &["send 180"], "Proceeding"),
        (&[Respond(180)], Respond(200), &["send 200"], "Accepted"),
        (&[Respond(180)], Respond(600), &["send 600"], "Completed"),
        (&[Respond(404)], Request, &["send 404"], "Completed"),
        (&[Respond(404)], Respond(200), &[], "Completed"),
        (&[Respond(404)], Respond(180), &[], "Completed"),
        (&[Respond(404)], Ack, &[], "Confirmed"),
        (&[Respond(404)], Resume, &["send 404"], "Completed"),
        (&[Respond(404)], Broken, &["failed"], "Completed"),
        (&[Respond(404), Ack], Request, &[], "Confirmed"),
        (&[Respond(404), Ack], Ack, &[], "Confirmed"),
        (&[Respond(404), Ack], Respond(200), &[], "Confirmed"),
        (&[Respond(404), Ack], Resume, &[], "Confirmed"),
        // RFC 6026 s7.1
        (&[Respond(200)], Request, &[], "Accepted"),
        (&[Respond(200)], Ack, &["deliver"], "Accepted"),
        (&[Respond(200)], Respond(200), &["send 200"], "Accepted"),
        (&[Respond(200)], Respond(486), &[], "Accepted"),
        (&[Respond(200)], Respond(180), &[], "Accepted"),
        (&[Respond(200)], Broken, &["failed"], "Accepted"),
        (&[Respond(200)], Resume, &[], "Accepted"),
    ];
    walk(server(true), rows);
}

#[test]
fn non_invite_server_follows_its_table() {
    let rows: &[Row<'_>] = &[
        (&[], Request, &[], "Proceeding"),
        (&[], Respond(100), &["send 100"], "Proceeding"),
        (&[], Respond(200), &["send 200"], "Completed"),
        (&[], Respond(481), &["send 481"], "Completed"),
        (&[], Resume, &[], "Proceeding"),
        (&[Respond(100)], Request, &["send 100"], "Proceeding"),
        (&[Respond(100)], Respond(182), &["send 182"], "Proceeding"),
        (&[Respond(100)], Respond(200), &["send 200"], "Completed"),
        (&[Respond(100)], Broken, &["failed"], "Proceeding"),
        (&[Respond(100)], Resume, &["send 100"], "Proceeding"),
        (&[Respond(200)], Request, &["send 200"], "Completed"),
        (&[Respond(200)], Respond(500), &[], "Completed"),
        (&[Respond(200)], Broken, &["failed"], "Completed"),
        (&[Respond(200)], Resume, &["send 200"], "Completed"),
    ];
    walk(server(false), rows);
}

#[test]
fn invite_client_follows_its_table() {
    let rows: &[Row<'_>] = &[
        (&[], Receive(100), &["deliver"], "Proceeding"),
        (&[], Receive(200), &["deliver"], "Accepted"),
        (&[], Broken, &["failed", "end"], ""),
        (&[], Resume, &["send INVITE"], "Calling"),
        (&[Receive(180)], Receive(183), &["deliver"], "Proceeding"),
        (&[Receive(180)], Receive(200), &["deliver"], "Accepted"),
        (&[Receive(180)], Resume, &[], "Proceeding"),
        (&[Receive(180)], Broken, &[], "Proceeding"),
        (&[Receive(200)], Receive(200), &["deliver"], "Accepted"),
        (&[Receive(200)], Receive(180), &[], "Accepted"),
        (&[Receive(200)], Receive(486), &[], "Accepted"),
        (&[Receive(200)], Resume, &[], "Accepted"),
    ];
    walk(client(true), rows);
}

#[test]
fn invite_client_acknowledges_each_refusal() {
    let mut udp = client(true)(UDP);
    assert_eq!(udp.apply(at(0), Receive(486)), ["deliver", "send ACK"]);
    assert_eq!(udp.apply(at(1), Receive(486)), ["send ACK"]);
    assert_eq!(udp.apply(at(2), Receive(200)), [""; 0]);
    assert_eq!(udp.apply(at(2), Resume), ["send ACK"]);
    assert_eq!(udp.poll_timeout(), Some(at(32_000)), "timer D");
    assert_eq!(udp.apply(at(32_000), Time), ["end"]);
    // Timer D is zero over a reliable transport.
    let mut tcp = client(true)(TCP);
    assert_eq!(tcp.apply(at(0), Receive(486)), ["deliver", "send ACK", "end"]);
}

#[test]
fn non_invite_client_follows_its_table() {
    let rows: &[Row<'_>] = &[
        (&[], Receive(100), &["deliver"], "Proceeding"),
        (&[], Broken, &["failed", "end"], ""),
        (&[], Resume, &["send INVITE"], "Calling"),
        (&[Receive(100)], Receive(100), &["deliver"], "Proceeding"),
        (&[Receive(100)], Broken, &["failed", "end"], ""),
        (&[Receive(100)], Resume, &[], "Proceeding"),
    ];
    walk(client(false), rows);
    for path in [&[][..], &[Receive(100)]] {
        let mut udp = client(false)(UDP);
        path.iter().for_each(|event| drop(udp.apply(at(0), *event)));
        assert_eq!(udp.apply(at(10), Receive(200)), ["deliver"]);
        assert_eq!(udp.apply(at(11), Receive(200)), [""; 0], "repeats stay here");
        assert_eq!(udp.poll_timeout(), Some(at(5010)), "timer K");
        assert_eq!(udp.apply(at(5010), Time), ["end"]);
        let mut tcp = client(false)(TCP);
        path.iter().for_each(|event| drop(tcp.apply(at(0), *event)));
        assert_eq!(tcp.apply(at(10), Receive(200)), ["deliver", "end"]);
    }
}

/// When the machine acts by itself until it ends or 70 s have passed, in milliseconds, and what it does.
fn schedule(machine: &mut Machine) -> Vec<(u64, String)> {
    let mut acts = Vec::new();
    while let Some(due) = machine.poll_timeout().filter(|due| *due <= at(70_000)) {
        let effects = machine.apply(due, Time);
        let millis = due.since(at(0)).as_millis() as u64;
        acts.extend(effects.into_iter().map(|word| (millis, word)));
    }
    acts
}

fn expect(machine: &mut Machine, times: &[u64], word: &str, last: &[(u64, &str)]) {
    let repeats = times.iter().map(|time| (*time, word.to_string()));
    let last = last.iter().map(|(time, word)| (*time, (*word).to_string()));
    assert_eq!(schedule(machine), repeats.chain(last).collect::<Vec<_>>());
}

#[test]
fn an_unanswered_invite_is_repeated_by_timer_a_and_given_up_by_timer_b() {
    let times = [500, 1500, 3500, 7500, 15_500, 31_500];
    let end = [(32_000, "timeout"), (32_000, "end")];
    expect(&mut client(true)(UDP), &times, "send INVITE", &end);
    expect(&mut client(true)(TCP), &[], "", &end);
}

#[test]
fn an_unanswered_request_is_repeated_by_timer_e_and_given_up_by_timer_f() {
    let times = [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    let end = [(32_000, "timeout"), (32_000, "end")];
    expect(&mut client(false)(UDP), &times, "send INVITE", &end);
    expect(&mut client(false)(TCP), &[], "", &end);
    // In Proceeding timer E is T2 from the first.
    let mut proceeding = client(false)(UDP);
    proceeding.apply(at(100), Receive(100));
    let times = [4100, 8100, 12_100, 16_100, 20_100, 24_100, 28_100];
    expect(&mut proceeding, &times, "send INVITE", &end);
}

#[test]
fn a_refusal_is_repeated_by_timer_g_until_timer_h_ends_it() {
    let times = [500, 1500, 3500, 7500, 11_500, 15_500, 19_500, 23_500, 27_500, 31_500];
    let end = [(32_000, "timeout"), (32_000, "end")];
    for (transport, times) in [(UDP, &times[..]), (TCP, &[])] {
        let mut machine = server(true)(transport);
        machine.apply(at(0), Respond(404));
        expect(&mut machine, times, "send 404", &end);
    }
}

#[test]
fn a_server_transaction_stays_64_t1_on_every_transport() {
    for transport in [UDP, TCP] {
        let mut confirmed = server(true)(transport);
        confirmed.apply(at(0), Respond(404));
        confirmed.apply(at(100), Ack);
        expect(&mut confirmed, &[], "", &[(32_000, "end")]);
        let mut late = server(true)(transport);
        late.apply(at(0), Respond(404));
        late.apply(at(31_000), Ack);
        expect(&mut late, &[], "", &[(36_000, "end")]);
        let mut accepted = server(true)(transport);
        accepted.apply(at(0), Respond(200));
        expect(&mut accepted, &[], "", &[(32_000, "end")]);
        let mut completed = server(false)(transport);
        completed.apply(at(0), Respond(200));
        expect(&mut completed, &[], "", &[(32_000, "end")]);
        let mut accepted = client(true)(transport);
        accepted.apply(at(0), Receive(200));
        expect(&mut accepted, &[], "", &[(32_000, "end")]);
    }
}

#[test]
fn a_silent_user_owes_a_100_after_200_ms_once() {
    let mut machine = server(true)(UDP);
    assert_eq!(machine.poll_timeout(), Some(at(200)));
    assert_eq!(machine.apply(at(200), Time), ["trying"]);
    assert_eq!(machine.apply(at(200), Respond(100)), ["send 100"]);
    assert_eq!(machine.poll_timeout(), None);
    let mut quick = server(true)(UDP);
    quick.apply(at(5), Respond(180));
    assert_eq!(quick.poll_timeout(), None);
}

#[test]
fn a_cancelled_invite_is_given_up_after_64_t1() {
    let Machine::Client(ClientTransaction::Invite(mut machine)) = client(true)(UDP) else {
        unreachable!("an INVITE")
    };
    assert!(!machine.may_cancel(), "nothing came yet");
    let mut out = Vec::new();
    let ringing = Response { status: 180, to: b"" };
    machine.handle_response(at(0), ringing, &mut out);
    assert!(machine.may_cancel());
    assert_eq!(machine.poll_timeout(), None);
    machine.abandon(at(1000));
    machine.abandon(at(9000));
    // A successor that comes after that end does not wait for ever.
    let snapshot = machine.snapshot(at(60_000));
    assert_eq!(
        (snapshot.state, snapshot.left),
        (ClientState::Cancelled, Duration::ZERO)
    );
    let successor = ClientTransaction::restore(at(70_000), Timers::default(), snapshot);
    assert_eq!(successor.poll_timeout(), Some(at(70_000)));
    assert_eq!(machine.poll_timeout(), Some(at(33_000)));
    out.clear();
    machine.handle_timeout(at(33_000), &mut out);
    assert_eq!(out, [Effect::TimedOut, Effect::Terminated]);
}

#[test]
fn a_restored_machine_is_where_the_old_one_was() {
    let paths: &[&[Event]] = &[
        &[],
        &[Respond(180)],
        &[Respond(200)],
        &[Respond(404)],
        &[Respond(404), Ack],
    ];
    for (invite, transport) in [(true, UDP), (true, TCP), (false, UDP), (false, TCP)] {
        for path in paths {
            let mut machine = server(invite)(transport);
            for event in *path {
                machine.apply(at(0), *event);
            }
            let Machine::Server(machine) = machine else { continue };
            let snapshot = machine.snapshot(at(700));
            // Another process, another clock.
            let copy = ServerTransaction::restore(at(100_000), Timers::default(), snapshot.clone());
            assert_eq!(copy.snapshot(at(100_000)), snapshot, "{path:?}");
        }
        for path in [&[][..], &[Receive(180)], &[Receive(200)], &[Receive(486)]] {
            let mut machine = client(invite)(transport);
            for event in path {
                machine.apply(at(0), *event);
            }
            let Machine::Client(machine) = machine else { continue };
            let snapshot = machine.snapshot(at(700));
            let copy = ClientTransaction::restore(at(100_000), Timers::default(), snapshot.clone());
            assert_eq!(copy.snapshot(at(100_000)), snapshot, "{path:?}");
        }
    }
}

#[test]
fn a_record_that_lacks_its_response_absorbs_repeats_and_ends() {
    for invite in [true, false] {
        for state in [ServerState::Completed, ServerState::Accepted, ServerState::Confirmed] {
            let snapshot = ServerSnapshot {
                invite,
                reliable: false,
                state,
                response: None,
                left: Duration::MAX,
            };
            let mut machine = Machine::Server(ServerTransaction::restore(at(0), Timers::default(), snapshot));
            assert_eq!(machine.apply(at(1), Request), [""; 0]);
            assert_eq!(machine.apply(at(1), Resume), [""; 0]);
            assert_eq!(schedule(&mut machine), [(32_000, "end".to_string())]);
        }
    }
    let snapshot = ClientSnapshot {
        invite: false,
        reliable: false,
        state: ClientState::Accepted,
        bytes: Bytes::new(),
        left: ms(5),
    };
    let mut machine = Machine::Client(ClientTransaction::restore(at(0), Timers::default(), snapshot));
    assert_eq!(schedule(&mut machine), [(5, "end".to_string())]);
}

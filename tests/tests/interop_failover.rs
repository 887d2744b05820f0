//! Containers killed with `kill -9` under calls: none is lost, doubled or ended twice. Real processes, a real redis-server, real sockets.

use std::time::{Duration, Instant};

use anyhow::ensure;
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest};
use tests::interop::figures::Spread;
use tests::interop::http;
use tests::interop::network::Network;
use tests::interop::process::{signal, wait_for};
use tests::interop::sipp::{Run, Sipp};

/// Longer than any takeover, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// The worst that anybody may wait for beyond what the call itself takes, a takeover included; a proxy holds no message longer than 8 s.
/// Measured on two cores: 20 to 400 ms, and 4.4 s where compilers leave Redis a sixth of them.
const WORST: Duration = Duration::from_secs(6);

fn at_most(limit: Duration, what: &str, spread: &Spread) -> anyhow::Result<()> {
    ensure!(spread.worst <= limit, "{what} took longer than {limit:?}: {spread}");
    Ok(())
}

fn caller(cluster: &Cluster, transport: Transport) -> anyhow::Result<Caller> {
    Caller::new(transport, cluster.caller_address(), cluster.address(), 16)
}

/// One request in every confirmed dialog, all of them answered 200 in time.
fn in_every_dialog(caller: &mut Caller, method: &'static str, rate: u32) -> anyhow::Result<Spread> {
    let spread = caller.in_every_dialog(method, rate, LIMIT)?;
    at_most(WORST, method, &spread)?;
    Ok(spread)
}

/// 2,000 dialogs, `kills` of three containers killed at once, then a re-INVITE and a BYE in each.
fn dialogs_survive(manifest: Manifest, transport: Transport, kills: usize) -> anyhow::Result<()> {
    const DIALOGS: usize = 2_000;
    let cluster = Cluster::start(manifest)?;
    let mut caller = caller(&cluster, transport)?;
    caller.raise(DIALOGS, 500, LIMIT)?;
    let status = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == DIALOGS as u64
    })?;
    let victims = &status.containers[..kills];
    let lost: u64 = victims.iter().filter_map(|part| part.dialogs).sum();
    assert!(lost > 100, "the victims hold their part of the dialogs: {status:?}");
    for victim in victims {
        signal(victim.running()?, libc::SIGKILL)?;
    }
    let re_invites = in_every_dialog(&mut caller, "INVITE", 1_000)?;
    cluster.settle(LIMIT)?;
    let byes = in_every_dialog(&mut caller, "BYE", 1_000)?;
    caller.expect_no_call_doubled()?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    let transport = transport.name();
    println!(
        "{transport}, {kills} of 3 killed, {lost} of {DIALOGS} dialogs taken over, 0 lost: re-INVITE {re_invites}; BYE {byes}"
    );
    Ok(())
}

#[test]
fn two_thousand_dialogs_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "one-killed",
        address: [81, 1],
        ..Manifest::default()
    };
    dialogs_survive(manifest, Transport::Udp, 1)
}

#[test]
fn two_thousand_dialogs_survive_the_death_of_two_containers_at_once() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "two-killed",
        address: [81, 2],
        ..Manifest::default()
    };
    dialogs_survive(manifest, Transport::Tcp, 2)
}

#[test]
fn two_thousand_dialogs_of_sipp_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "one-killed-sipp",
        address: [81, 3],
        ..Manifest::default()
    })?;
    let run = Run {
        scenario: "reinvite",
        target: Some(cluster.address()),
        local: (cluster.caller_address(), 6060).into(),
        rate: 500,
        calls: 2_000,
        // The pause between answer and re-INVITE: all calls stand before the first goes on.
        extra: &["-d", "12000", "-recv_timeout", "20000"],
        ..Run::default()
    };
    let mut sipp = Sipp::start(cluster.files(), "sipp", &run)?;
    let status = cluster.until("SIPp's dialogs stand", LIMIT, |status| status.dialogs() == 2_000)?;
    sipp.wait_until("SIPp has begun all calls", LIMIT, |seen| seen.begun() == 2_000)?;
    assert_eq!(sipp.statistics().current(), 2_000, "no call has gone on yet");
    signal(status.containers[1].running()?, libc::SIGKILL)?;
    let seen = sipp.finish(Duration::from_secs(60))?;
    assert_eq!((seen.successful(), seen.failed()), (2_000, 0), "{seen:?}");
    let (re_invite, bye) = (seen.response_time(2), seen.response_time(3));
    println!("SIPp: 2000 calls, 0 failed, mean re-INVITE {re_invite:?}, mean BYE {bye:?}");
    Ok(())
}

/// What of 500 ringing calls gets lost besides a container.
#[derive(PartialEq, Eq)]
enum Lost {
    Nothing,
    /// Every answer up to the kill.
    Answers,
}

/// 500 calls in progress when a container is killed: each is answered, by one callee.
fn ringing_calls_are_answered(manifest: Manifest, transport: Transport, lost: Lost) -> anyhow::Result<()> {
    const CALLS: usize = 500;
    const RING: Duration = Duration::from_secs(4);
    let cluster = Cluster::start(Manifest { ring: "4s", ..manifest })?;
    let mut caller = caller(&cluster, transport)?;
    caller.deaf = lost == Lost::Answers;
    caller.paced(1_000, 0..CALLS, |caller, _| {
        caller.invite();
    });
    if lost == Lost::Nothing {
        caller.until("all calls ring", LIMIT, |caller| caller.count(State::Ringing) == CALLS)?;
    }
    let status = cluster.until("all calls have reached a container", LIMIT, |status| {
        status.dialogs() == CALLS as u64
    })?;
    let victim = &status.containers[0];
    ensure!(
        victim.dialogs > Some(100),
        "the victim holds its part of the calls: {status:?}"
    );
    signal(victim.running()?, libc::SIGKILL)?;
    caller.deaf = false;
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    let setup = caller.spread("INVITE", 0);
    at_most(RING + WORST, "ring time and set-up", &setup)?;
    in_every_dialog(&mut caller, "BYE", 1_000)?;
    caller.expect_no_call_doubled()?;
    let (transport, answers) = (transport.name(), caller.lost);
    ensure!(
        (answers > 0) == (lost == Lost::Answers),
        "{answers} answers were lost before the kill"
    );
    println!(
        "{transport}: {CALLS} ringing calls answered, {answers} answers lost before the kill: ring time and set-up {setup}"
    );
    Ok(())
}

#[test]
fn ringing_calls_over_udp_are_answered_by_the_successor() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "ringing-udp",
        address: [82, 1],
        ..Manifest::default()
    };
    ringing_calls_are_answered(manifest, Transport::Udp, Lost::Nothing)
}

#[test]
fn ringing_calls_over_tcp_are_answered_by_the_successor() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "ringing-tcp",
        address: [82, 2],
        ..Manifest::default()
    };
    ringing_calls_are_answered(manifest, Transport::Tcp, Lost::Nothing)
}

#[test]
fn ringing_calls_whose_first_answer_was_lost_are_answered_by_the_successor() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "ringing-deaf",
        address: [82, 3],
        ..Manifest::default()
    };
    ringing_calls_are_answered(manifest, Transport::Udp, Lost::Answers)
}

/// Requests that lie unread, half done or unanswered in a container when it dies: over TCP nobody but the cluster can repeat them.
#[test]
fn calls_that_a_container_takes_with_it_unread_are_answered_by_the_successor() -> anyhow::Result<()> {
    const CALLS: usize = 500;
    let cluster = Cluster::start(Manifest {
        name: "unread-tcp",
        address: [82, 4],
        ..Manifest::default()
    })?;
    let victim = cluster.status()?.containers[2].running()?;
    let mut caller = caller(&cluster, Transport::Tcp)?;
    // A burst, the victim stopped in its midst: what was written to it stays in its sockets, what it did is unconfirmed.
    caller.paced(5_000, 0..CALLS, |caller, call| {
        if call == CALLS / 2 {
            signal(victim, libc::SIGSTOP).expect("the victim lives");
        }
        caller.invite();
    });
    signal(victim, libc::SIGKILL)?;
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    let setup = caller.spread("INVITE", 0);
    at_most(WORST, "set-up", &setup)?;
    in_every_dialog(&mut caller, "BYE", 1_000)?;
    caller.expect_no_call_doubled()?;
    println!("TCP: {CALLS} calls in a burst, a container dead in its midst: {setup}");
    Ok(())
}

/// What a container had answered, and written, and nobody heard: over TCP no client asks again, so the cluster has to.
#[test]
fn answers_that_never_left_their_container_come_from_its_successor() -> anyhow::Result<()> {
    const CALLS: usize = 500;
    let network = Network::start(Manifest {
        name: "unheard-tcp",
        address: [82, 5],
        // A window is ten segments, in the worst case of a message each, and each worker has a connection.
        proxy_workers: 4,
        ..Manifest::default()
    })?;
    let (place, proxies, target) = (network.callers(), network.proxies(), network.address());
    let (caller, unheard) = place.within(|| {
        let mut caller = Caller::through(&proxies, Transport::Tcp, place.address.into(), target, 16)?;
        // In the last moment: who is silent for 0.7 s is given no call.
        network.mute("container-0", &["proxy-0", "proxy-1"])?;
        caller.paced(5_000, 0..CALLS, |caller, _| {
            caller.invite();
        });
        // Nothing is acknowledged either, so no more reaches it than one window of each connection.
        const SOME: f64 = 40.0;
        let answers = r#"kind="own_response",result="sent""#;
        let said = || {
            let metrics = network.metrics("container-0").ok()?;
            http::metric_where(&metrics, "sipcluster_container_messages_total", answers).filter(|said| *said > SOME)
        };
        let unheard = wait_for("it has answered some of the calls", LIMIT, said)?;
        network.kill("container-0")?;
        caller.all_answered(LIMIT)?;
        Ok((caller, unheard))
    })?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    caller.expect_no_call_doubled()?;
    let setup = caller.spread("INVITE", 0);
    at_most(WORST, "set-up", &setup)?;
    println!("TCP: {CALLS} calls, {unheard} answers died with their container: {setup}");
    Ok(())
}

/// The kill comes this long before the first deadline: longer than a busy machine keeps the test from running, shorter than a takeover.
const JUST_BEFORE: Duration = Duration::from_millis(50);

/// No deadline of a call is earlier, however long its answer was on the way.
fn first_sent(caller: &Caller) -> Instant {
    let sent = caller.outcomes.iter().map(|outcome| outcome.sent);
    sent.min().expect("a call")
}

/// As many calls that two of three containers hold 200 of them.
const DUE_CALLS: usize = 400;

/// Kills two of three containers at `kill`; they hold at least 200 sessions, none of which has ended.
fn kill_two_with_200_sessions(cluster: &Cluster, caller: &mut Caller, kill: Instant) -> anyhow::Result<u64> {
    let status = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == DUE_CALLS as u64
    })?;
    let victims = &status.containers[..2];
    let sessions = victims.iter().filter_map(|part| part.dialogs).sum();
    ensure!(sessions >= 200, "the victims hold {sessions} sessions: {status:?}");
    caller.until("the moment of the kill", Duration::from_secs(60) + LIMIT, |_| {
        Instant::now() >= kill
    })?;
    ensure!(
        caller.count(State::Confirmed) == DUE_CALLS,
        "no session has ended before the kill"
    );
    for victim in victims {
        signal(victim.running()?, libc::SIGKILL)?;
    }
    Ok(sessions)
}

/// Calls that the application ends at a time within the outage.
#[test]
fn timers_that_fall_due_in_the_outage_end_each_session_once() -> anyhow::Result<()> {
    const HOLD: Duration = Duration::from_secs(4);
    let cluster = Cluster::start(Manifest {
        name: "timers",
        address: [83, 1],
        hold: "4s",
        ..Manifest::default()
    })?;
    let mut caller = caller(&cluster, Transport::Udp)?;
    // Within a tenth of a second: all fall due while nobody has taken over yet, or just afterwards.
    caller.raise(DUE_CALLS, 4_000, LIMIT)?;
    let kill = first_sent(&caller) + HOLD - JUST_BEFORE;
    let sessions = kill_two_with_200_sessions(&cluster, &mut caller, kill)?;
    caller.until("every session ended", LIMIT, |caller| {
        caller.count(State::Ended) == DUE_CALLS
    })?;
    // Twice is seen, if it happens, before the containers that were started again have settled.
    cluster.settle(LIMIT)?;
    caller.pump(Duration::from_millis(200));
    caller.expect_no_call_doubled()?;
    let late = caller
        .dialogs
        .iter()
        .filter_map(|dialog| Some(dialog.ended_at?.duration_since(dialog.answered_at? + HOLD)));
    let late = Spread::of(late);
    at_most(WORST, "the end after the deadline", &late)?;
    let repeated: u32 = caller.dialogs.iter().map(|dialog| dialog.repeated_byes).sum();
    println!(
        "{sessions} sessions due in the outage of their containers, 2 of 3, ended once each ({repeated} BYEs sent again); after the deadline: {late}"
    );
    Ok(())
}

/// RFC 4028 s10: without a refresh the callee sends BYE min(32 s, a third) before the interval ends; here after 60 of 90 seconds.
#[test]
fn session_timers_that_fall_due_in_the_outage_end_each_session_once() -> anyhow::Result<()> {
    const DUE: Duration = Duration::from_secs(60);
    let cluster = Cluster::start(Manifest {
        name: "session-timers",
        address: [83, 2],
        ..Manifest::default()
    })?;
    let mut caller = caller(&cluster, Transport::Udp)?;
    caller.session_expires = Some(90);
    caller.raise(DUE_CALLS, 4_000, LIMIT)?;
    assert!(
        caller.dialogs.iter().all(|dialog| dialog.granted == Some(90)),
        "Session-Expires: 90 is granted"
    );
    let kill = first_sent(&caller) + DUE - JUST_BEFORE;
    let sessions = kill_two_with_200_sessions(&cluster, &mut caller, kill)?;
    caller.until("every session ended", DUE, |caller| {
        caller.count(State::Ended) == DUE_CALLS
    })?;
    cluster.settle(LIMIT)?;
    caller.pump(Duration::from_millis(200));
    caller.expect_no_call_doubled()?;
    let late = caller
        .dialogs
        .iter()
        .filter_map(|dialog| Some(dialog.ended_at?.duration_since(dialog.answered_at? + DUE)));
    let late = Spread::of(late);
    at_most(WORST, "the end after the deadline", &late)?;
    println!(
        "{sessions} session timers due in the outage of their containers, each session ended once; after the deadline: {late}"
    );
    Ok(())
}

#[test]
fn no_new_call_is_refused_in_the_outage() -> anyhow::Result<()> {
    const CALLS: usize = 1_200;
    let cluster = Cluster::start(Manifest {
        name: "new-calls",
        address: [84, 1],
        ..Manifest::default()
    })?;
    let victim = cluster.status()?.containers[1].running()?;
    let mut caller = caller(&cluster, Transport::Udp)?;
    caller.paced(300, 0..CALLS, |caller, call| {
        if call == CALLS / 4 {
            signal(victim, libc::SIGKILL).expect("the victim lives");
        }
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    let repeats: u32 = caller.outcomes.iter().map(|outcome| outcome.repeats).sum();
    let setup = caller.spread("INVITE", 0);
    at_most(WORST, "set-up", &setup)?;
    in_every_dialog(&mut caller, "BYE", 1_000)?;
    caller.expect_no_call_doubled()?;
    println!("{CALLS} new calls through an outage, 0 refused, {repeats} INVITEs repeated: set-up {setup}");
    Ok(())
}

#[test]
fn a_container_that_comes_back_is_handed_its_share_with_live_dialogs() -> anyhow::Result<()> {
    const DIALOGS: usize = 600;
    let cluster = Cluster::start(Manifest {
        name: "comes-back",
        address: [85, 1],
        ..Manifest::default()
    })?;
    let mut caller = caller(&cluster, Transport::Udp)?;
    caller.raise(DIALOGS, 500, LIMIT)?;
    let before = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == DIALOGS as u64
    })?;
    let victim = &before.containers[0];
    let killed = Instant::now();
    signal(victim.running()?, libc::SIGKILL)?;
    let back = |part: &tests::interop::cluster::Part| {
        part.name == victim.name && part.pid != victim.pid && part.dialogs > Some(50)
    };
    cluster.until("the victim is back with live dialogs", LIMIT, |status| {
        status.containers.iter().any(back)
    })?;
    let took = killed.elapsed();
    // Calls go on while the rest of its share is on its way.
    let during = in_every_dialog(&mut caller, "INVITE", 1_000)?;
    let status = cluster.settle(LIMIT)?;
    let after = in_every_dialog(&mut caller, "BYE", 1_000)?;
    caller.expect_no_call_doubled()?;
    let returned = status
        .containers
        .iter()
        .find(|part| part.name == victim.name)
        .expect("it is there");
    println!(
        "killed, back with live dialogs after {took:?}, at last {:?} partitions; re-INVITE during hand-over {during}; BYE {after}",
        returned.partitions
    );
    Ok(())
}

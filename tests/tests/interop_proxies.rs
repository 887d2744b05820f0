//! Proxies killed, and input that nobody should send. Real processes, a real redis-server, real sockets.

use std::io::Write;
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Part, Status};
use tests::interop::http;
use tests::interop::process::{resident, signal, wait_for};
use tests::interop::sipp::{Run, Sipp};

const LIMIT: Duration = Duration::from_secs(30);

/// By how much a process may grow in the storm: calls that it held before it are the same as those beside it. Measured: 2 to 4 MB.
const MOST_GROWTH: u64 = 8 << 20;

/// Malformed messages after the calls: if each of them left a kilobyte, the two proxies would grow by more than that.
const FLOOD: usize = 40_000;

/// The longest set-up of a call beside the storm. Measured: 20 to 430 ms.
const WORST_SETUP: Duration = Duration::from_secs(4);

/// How long the calls ring that a proxy dies under.
const RING: Duration = Duration::from_secs(4);

fn ring(caller: &mut Caller, calls: usize) -> anyhow::Result<()> {
    caller.paced(1_000, 0..calls, |caller, _| {
        caller.invite();
    });
    caller.until("all calls ring", LIMIT, |caller| caller.count(State::Ringing) == calls)
}

/// Retransmissions and CANCELs reach the surviving proxy, which never saw the INVITE.
#[test]
fn a_killed_proxys_calls_go_on_through_the_other_and_none_is_doubled() -> anyhow::Result<()> {
    const CALLS: usize = 200;
    let cluster = Cluster::start(Manifest {
        name: "proxy-killed",
        address: [86, 1],
        ring: "4s",
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 64)?;
    ring(&mut caller, CALLS)?;
    let victim = &cluster.status()?.proxies[0];
    let admin = victim.admin.context("an admin port")?;
    // What it shows is a moment old.
    let carried = || {
        let metrics = http::get(admin, "/metrics").ok()?;
        http::metric(&metrics, "sipcluster_proxy_datagrams_received_total").filter(|count| *count > 20.0)
    };
    wait_for("the victim has carried its part of the calls", RING / 2, carried)?;
    signal(victim.running()?, libc::SIGKILL)?;
    for call in 0..CALLS {
        caller.repeat(call);
    }
    for call in 0..CALLS / 2 {
        caller.cancel(call);
    }
    caller.all_answered(LIMIT)?;
    caller.settle(LIMIT)?;
    caller.expect_all_ok("CANCEL", 0, CALLS / 2)?;
    let ended = caller
        .outcomes_of("INVITE", 0)
        .filter(|outcome| outcome.status == 487)
        .count();
    let answered = caller
        .outcomes_of("INVITE", 0)
        .filter(|outcome| outcome.status == 200)
        .count();
    assert_eq!((ended, answered), (CALLS / 2, CALLS / 2), "{}", caller.summary());
    caller.expect_no_call_doubled()?;
    cluster.until("one dialog for each call", LIMIT, |status| {
        status.dialogs() == CALLS as u64 / 2
    })?;
    let since = caller.outcomes.len();
    for call in caller.indices(State::Confirmed) {
        caller.request(call, "BYE");
    }
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", since, CALLS / 2)?;
    println!("a proxy killed under {CALLS} ringing calls: {ended} cancelled, {answered} answered, none doubled");
    Ok(())
}

/// A phone whose connection broke opens another and goes on with its calls.
#[test]
fn calls_over_tcp_go_on_after_their_proxy_died() -> anyhow::Result<()> {
    const CALLS: usize = 200;
    let cluster = Cluster::start(Manifest {
        name: "proxy-killed-tcp",
        address: [86, 2],
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Tcp, cluster.caller_address(), cluster.address(), 32)?;
    caller.paced(500, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    signal(cluster.status()?.proxies[1].running()?, libc::SIGKILL)?;
    let broken = all_broken(&mut caller)?;
    for method in ["INVITE", "BYE"] {
        let since = caller.outcomes.len();
        caller.paced(1_000, 0..CALLS, |caller, call| caller.request(call, method));
        caller.settle(LIMIT)?;
        caller.expect_all_ok(method, since, CALLS)?;
    }
    caller.expect_no_call_doubled()?;
    println!("{broken} of 32 connections broken with a proxy; re-INVITE and BYE answered in all {CALLS} calls");
    Ok(())
}

/// Waits until no more connections break: over TCP what is written to a dead one is lost, and nobody repeats it.
fn all_broken(caller: &mut Caller) -> anyhow::Result<u64> {
    caller.until("connections break", LIMIT, |caller| caller.broken() > 0)?;
    let (mut broken, mut since) = (caller.broken(), Instant::now());
    while since.elapsed() < Duration::from_millis(300) {
        caller.pump(Duration::from_millis(10));
        if caller.broken() > broken {
            (broken, since) = (caller.broken(), Instant::now());
        }
    }
    Ok(broken)
}

/// What is malformed, oversized, forged, cut short, or no SIP at all.
fn nasty(address: SocketAddr, round: usize) -> Vec<u8> {
    let head = format!("INVITE sip:x@{address} SIP/2.0\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bKn{round}\r\n");
    let rest = format!(
        "From: <sip:n@n>;tag={round}\r\nTo: <sip:x@x>\r\nCall-ID: n{round}\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\n"
    );
    match round % 12 {
        0 => vec![0; 1 + round % 1_400],
        1 => (0..1_200_usize).map(|at| (at * (round + 7) % 251) as u8).collect(),
        2 => b"\r\n\r\n".to_vec(),
        3 => format!("{head}{rest}Content-Length: 12\r\nContent-Length: 13\r\n\r\nx").into(),
        4 => format!("{head}{rest}Content-Length: -1\r\n\r\n").into(),
        5 => format!("{head}{rest}Content-Length: 99999999999999999999\r\n\r\n").into(),
        6 => format!("{head}{}", "X: y\r\n".repeat(5_000)).into(),
        7 => format!("{head}Subject: {}\r\n{rest}\r\n", "s".repeat(40_000)).into(),
        8 => format!("{head}Route: <sip:{address};lr;a=zzzzzzzzzzzzzzzzzzzzzzzzzz;fl=00000000000000>\r\n{rest}Content-Length: 0\r\n\r\n").into(),
        9 => format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/UDP {address};branch=z9hG4bKforged;pt=x;fl=x\r\n{rest}Content-Length: 0\r\n\r\n").into(),
        10 => head.as_bytes()[..20 + round % 40].to_vec(),
        _ => format!("{}{rest}CSeq: x INVITE\r\nTo:\r\n\r\n", head.replace("SIP/2.0\r\n", "SIP/9.9\r\n")).into(),
    }
}

/// Sends malformed input until told to stop; gives how many messages and bytes it sent.
fn storm(from: IpAddr, to: SocketAddr, calm: &AtomicBool) -> std::io::Result<(usize, usize)> {
    let socket = UdpSocket::bind((from, 0))?;
    let (mut round, mut bytes) = (0, 0);
    while !calm.load(Ordering::Relaxed) {
        let message = nasty(to, round);
        // Refused or full: the storm goes on.
        bytes += socket.send_to(&message, to).unwrap_or_default();
        if round % 50 == 0
            && let Ok(mut stream) = TcpStream::connect(to)
        {
            let _ = stream.write_all(&nasty(to, round / 50));
        }
        // Not to wait for anything: the storm's pace, so that it cannot take the processor from the calls beside it.
        if round % 20 == 0 {
            std::thread::sleep(Duration::from_millis(5));
        }
        round += 1;
    }
    Ok((round, bytes))
}

/// As many malformed messages as a socket takes, the largest left out; gives how many bytes they had.
fn flood(from: IpAddr, to: SocketAddr, messages: usize) -> std::io::Result<usize> {
    let socket = UdpSocket::bind((from, 0))?;
    let mut bytes = 0;
    for round in (0..).filter(|round| !matches!(round % 12, 6 | 7)).take(messages) {
        bytes += socket.send_to(&nasty(to, round), to).unwrap_or_default();
        // Not to wait for anything: a flood that is lost in a full socket would prove nothing.
        if round % 100 == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
    Ok(bytes)
}

/// Calls at 200 a second, each ended at once.
fn short_calls(caller: &mut Caller, calls: usize) -> anyhow::Result<()> {
    let since = caller.outcomes.len();
    caller.paced(200, 0..calls, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    for call in caller.indices(State::Confirmed) {
        caller.request(call, "BYE");
    }
    caller.settle(LIMIT)?;
    caller.expect_all_ok("INVITE", since, calls)?;
    caller.expect_all_ok("BYE", since, calls)
}

/// Resident bytes of every process.
fn memory(status: &Status) -> anyhow::Result<Vec<(String, u64)>> {
    let of = |part: &Part| Ok((part.name.clone(), resident(part.running()?)));
    status.parts().map(of).collect()
}

#[test]
fn a_storm_of_malformed_input_disturbs_no_call_and_stays_nowhere() -> anyhow::Result<()> {
    const CALLS: usize = 600;
    let cluster = Cluster::start(Manifest {
        name: "storm",
        address: [87, 1],
        ..Manifest::default()
    })?;
    let (address, local) = (cluster.address(), cluster.caller_address());
    let mut caller = Caller::new(Transport::Udp, local, address, 16)?;
    // What calls of this kind need is there before memory is measured.
    short_calls(&mut caller, CALLS)?;
    let (quiet, in_quiet) = (caller.outcomes.len(), caller.spread("INVITE", 0));
    let before = cluster.status()?;
    let memory_before = memory(&before)?;
    let calm = Arc::new(AtomicBool::new(false));
    let storm = std::thread::spawn({
        let calm = Arc::clone(&calm);
        move || storm(local, address, &calm)
    });
    let answered = short_calls(&mut caller, CALLS);
    calm.store(true, Ordering::Relaxed);
    let (sent, bytes) = storm.join().expect("the storm ends")?;
    answered?;
    let setup = caller.spread("INVITE", quiet);
    assert!(setup.worst <= WORST_SETUP, "set-up in the storm: {setup}");
    let flooded = flood(local, address, FLOOD)?;
    // The proxies have read all of it when they answer again.
    short_calls(&mut caller, 50)?;
    caller.expect_no_call_doubled()?;
    let after = cluster.status()?;
    let pids = |status: &Status| status.parts().map(|part| part.pid).collect::<Vec<_>>();
    assert_eq!(pids(&before), pids(&after), "every process lives on");
    let mut most = 0;
    for ((name, before), (_, after)) in memory_before.into_iter().zip(memory(&after)?) {
        let growth = after.saturating_sub(before);
        assert!(
            growth <= MOST_GROWTH,
            "{name} grew by {growth} bytes in a storm of {}",
            bytes + flooded
        );
        most = most.max(growth);
    }
    println!(
        "{sent} malformed messages ({} MB) beside {CALLS} calls, none disturbed: set-up {setup}, before it {in_quiet}; \
         {FLOOD} more ({} MB), no process grew by more than {} KB",
        bytes >> 20,
        flooded >> 20,
        most >> 10,
    );
    Ok(())
}

#[test]
fn sipps_own_caller_is_answered() -> anyhow::Result<()> {
    const CALLS: u32 = 50;
    let cluster = Cluster::start(Manifest {
        name: "basic",
        address: [87, 2],
        ..Manifest::default()
    })?;
    for (tcp, port) in [(false, 6060), (true, 6062)] {
        let run = Run {
            target: Some(cluster.address()),
            local: (cluster.caller_address(), port).into(),
            tcp,
            rate: 50,
            calls: CALLS,
            ..Run::default()
        };
        let seen = Sipp::start(cluster.files(), if tcp { "tcp" } else { "udp" }, &run)?.finish(LIMIT)?;
        assert_eq!((seen.successful(), seen.failed()), (u64::from(CALLS), 0), "{seen:?}");
    }
    Ok(())
}

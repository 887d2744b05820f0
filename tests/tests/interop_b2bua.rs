//! The back-to-back user agent between SIPp and SIPp: real processes, a real redis-server, `kill -9` in the middle of it.

use std::net::SocketAddr;
use std::time::Duration;

use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest};
use tests::interop::process::signal;
use tests::interop::sipp::{Run, Sipp};

/// Longer than any takeover, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// Where SIPp plays the callees of a cluster.
fn callees(manifest: &Manifest) -> SocketAddr {
    let [third, fourth] = manifest.address;
    SocketAddr::from(([127, 0, third, fourth + 50], 5070))
}

/// A cluster that calls out to a SIPp, and that SIPp.
fn cluster(
    mut manifest: Manifest,
    scenario: &str,
    transport: Transport,
    extra: &[&str],
) -> anyhow::Result<(Cluster, Sipp)> {
    let local = callees(&manifest);
    let tcp = transport == Transport::Tcp;
    manifest.b2bua = Some(format!("{local}{}", if tcp { ";transport=tcp" } else { "" }));
    let cluster = Cluster::start(manifest)?;
    let run = Run {
        scenario,
        local,
        tcp,
        extra,
        ..Run::default()
    };
    let sipp = Sipp::start(cluster.files(), "callees", &run)?;
    Ok((cluster, sipp))
}

fn caller(cluster: &Cluster, transport: Transport) -> anyhow::Result<Caller> {
    Caller::new(transport, cluster.caller_address(), cluster.address(), 16)
}

/// SIPp's own scenarios on both sides: neither notices that there is anything in between. Its `uas` takes a repeated INVITE for an
/// error, so it is called over TCP.
#[test]
fn calls_of_sipp_to_sipp_go_through() -> anyhow::Result<()> {
    const CALLS: u32 = 100;
    let manifest = Manifest {
        name: "b2bua-sipp",
        address: [86, 1],
        ..Manifest::default()
    };
    let (cluster, mut callees) = cluster(manifest, "uas", Transport::Tcp, &[])?;
    let run = Run {
        target: Some(cluster.address()),
        local: (cluster.caller_address(), 6060).into(),
        rate: 20,
        calls: CALLS,
        extra: &["-d", "1000", "-recv_timeout", "20000"],
        ..Run::default()
    };
    let seen = Sipp::start(cluster.files(), "callers", &run)?.finish(Duration::from_secs(60))?;
    assert_eq!((seen.successful(), seen.failed()), (u64::from(CALLS), 0), "{seen:?}");
    callees.wait_until("the callees have seen every call to its end", LIMIT, |seen| {
        seen.begun() == u64::from(CALLS) && seen.failed() == 0
    })?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

/// Half of the calls talk and half of them ring when a container dies: each is answered by its callee, and ended by its caller.
fn calls_survive(manifest: Manifest, transport: Transport) -> anyhow::Result<()> {
    const CALLS: usize = 300;
    let (cluster, mut callees) = cluster(manifest, "callee", Transport::Udp, &[])?;
    let mut caller = caller(&cluster, transport)?;
    caller.paced(300, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.paced(300, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.until("the second half rings", LIMIT, |caller| {
        caller.count(State::Ringing) == CALLS && caller.count(State::Confirmed) == CALLS
    })?;
    let status = cluster.until("the calls are counted", LIMIT, |status| {
        status.dialogs() == 2 * CALLS as u64
    })?;
    let lost = status.containers[1].dialogs.unwrap_or_default();
    assert!(lost > 50, "the victim holds its part of the calls: {status:?}");
    signal(status.containers[1].running()?, libc::SIGKILL)?;
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, 2 * CALLS)?;
    let since = caller.outcomes.len();
    caller.paced(300, caller.indices(State::Confirmed), |caller, dialog| {
        caller.request(dialog, "BYE")
    });
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", since, 2 * CALLS)?;
    caller.expect_no_call_doubled()?;
    callees.wait_until("each callee has got its BYE, and no other call", LIMIT, |seen| {
        (seen.begun(), seen.failed(), seen.successful()) == (2 * CALLS as u64, 0, 2 * CALLS as u64)
    })?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    let (byes, transport) = (caller.spread("BYE", since), transport.name());
    println!(
        "{transport}: {CALLS} talking and {CALLS} ringing b2bua calls, {lost} of them in the container that died, 0 lost; BYE {byes}"
    );
    Ok(())
}

#[test]
fn talking_and_ringing_calls_over_udp_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "b2bua-udp",
        address: [86, 2],
        ..Manifest::default()
    };
    calls_survive(manifest, Transport::Udp)
}

#[test]
fn talking_and_ringing_calls_over_tcp_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "b2bua-tcp",
        address: [86, 3],
        ..Manifest::default()
    };
    calls_survive(manifest, Transport::Tcp)
}

/// The callee's BYE reaches the caller by way of the successor.
#[test]
fn callees_end_their_calls_after_the_death_of_a_container() -> anyhow::Result<()> {
    const CALLS: usize = 300;
    let manifest = Manifest {
        name: "b2bua-ends",
        address: [86, 4],
        ..Manifest::default()
    };
    let (cluster, mut callees) = cluster(manifest, "callee_ends", Transport::Udp, &["-d", "6000"])?;
    let mut caller = caller(&cluster, Transport::Udp)?;
    caller.paced(300, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    let status = cluster.until("the calls are counted", LIMIT, |status| {
        status.dialogs() == CALLS as u64
    })?;
    let lost = status.containers[0].dialogs.unwrap_or_default();
    assert!(lost > 50, "the victim holds its part of the calls: {status:?}");
    signal(status.containers[0].running()?, libc::SIGKILL)?;
    caller.until("every call is ended by its callee", LIMIT, |caller| {
        caller.count(State::Ended) == CALLS
    })?;
    callees.wait_until("each callee has its answer", LIMIT, |seen| {
        (seen.successful(), seen.failed()) == (CALLS as u64, 0)
    })?;
    caller.expect_no_call_doubled()?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    println!("{CALLS} b2bua calls ended by their callees, {lost} of them in the container that died");
    Ok(())
}

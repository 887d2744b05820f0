//! Phones not of our making, through the death of a container: SIPp's built-in scenarios, as they are, sipsak, and the softphone baresip.

use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use tests::interop::baresip::Baresip;
use tests::interop::cluster::{Cluster, Manifest};
use tests::interop::process::{listens, signal, wait_for};
use tests::interop::sipp::{Run, Sipp};

const LIMIT: Duration = Duration::from_secs(60);

fn kill_a_container(cluster: &Cluster) -> anyhow::Result<()> {
    let status = cluster.status()?;
    let most = status.containers.iter().max_by_key(|part| part.dialogs);
    signal(most.context("a container")?.running()?, libc::SIGKILL)
}

#[test]
fn sipps_own_caller_talks_on_through_the_death_of_a_container() -> anyhow::Result<()> {
    const CALLS: u32 = 60;
    let cluster = Cluster::start(Manifest {
        name: "phones-uac",
        address: [132, 1],
        ring: "500ms",
        ..Manifest::default()
    })?;
    let run = Run {
        target: Some(cluster.address()),
        local: (cluster.caller_address(), 6060).into(),
        rate: 30,
        calls: CALLS,
        // Each call lasts five seconds: all stand before the first ends.
        extra: &["-d", "5000"],
        ..Run::default()
    };
    let sipp = Sipp::start(cluster.files(), "uac", &run)?;
    cluster.until("all calls stand", LIMIT, |status| status.dialogs() == u64::from(CALLS))?;
    kill_a_container(&cluster)?;
    let seen = sipp.finish(LIMIT)?;
    assert_eq!((seen.successful(), seen.failed()), (u64::from(CALLS), 0), "{seen:?}");
    Ok(())
}

/// Third-party call control (RFC 3725, flow I): SIPp calls A without an offer and B with A's, and gives A the answer of B in the ACK.
#[test]
fn a_third_party_connects_two_calls_through_the_death_of_a_container() -> anyhow::Result<()> {
    const CALLS: u32 = 40;
    let cluster = Cluster::start(Manifest {
        name: "phones-3pcc",
        address: [132, 2],
        ..Manifest::default()
    })?;
    let twin = SocketAddr::from((cluster.caller_address(), 6070)).to_string();
    let side = |scenario, port| Run {
        scenario,
        target: Some(cluster.address()),
        local: (cluster.caller_address(), port).into(),
        rate: 20,
        calls: CALLS,
        ..Run::default()
    };
    // A late answer to a repeated BYE belongs to a call that has been; SIPp would take it for the start of another.
    let extra = ["-3pcc", twin.as_str(), "-deadcall_wait", "30000"];
    let b = Run {
        extra: &extra,
        ..side("3pcc-C-B", 6062)
    };
    let b = Sipp::start(cluster.files(), "b", &b)?;
    wait_for("B waits for A's commands", LIMIT, || listens(6070).then_some(()))?;
    let a = Run {
        extra: &extra,
        ..side("3pcc-C-A", 6060)
    };
    let a = Sipp::start(cluster.files(), "a", &a)?;
    cluster.until("calls stand", LIMIT, |status| status.dialogs() >= u64::from(CALLS / 2))?;
    kill_a_container(&cluster)?;
    for side in [a, b] {
        let seen = side.finish(LIMIT)?;
        assert_eq!((seen.successful(), seen.failed()), (u64::from(CALLS), 0), "{seen:?}");
    }
    Ok(())
}

#[test]
fn sipsak_is_answered_whoever_dies() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "phones-sipsak",
        address: [132, 3],
        ..Manifest::default()
    })?;
    let ask = |round: u32| -> anyhow::Result<()> {
        let mut sipsak = Command::new("sipsak");
        sipsak.args(["-s", &format!("sip:service@{}", cluster.address())]);
        sipsak.args(["-H", &cluster.caller_address().to_string(), "-v"]);
        let output = sipsak
            .output()
            .context("sipsak (Debian: sipsak) is needed for this test")?;
        let text = String::from_utf8_lossy(&output.stdout);
        // By its manual: 0 for a 200.
        assert!(output.status.success(), "round {round}: {} {text}", output.status);
        Ok(())
    };
    for round in 0..20 {
        if round == 5 {
            kill_a_container(&cluster)?;
        }
        ask(round)?;
    }
    Ok(())
}

/// Two softphones talk through the back-to-back user agent; its container dies; the one that called hangs up, and the other hears it.
#[test]
fn two_softphones_talk_on_through_the_death_of_their_container() -> anyhow::Result<()> {
    let manifest = Manifest {
        name: "phones-baresip",
        address: [132, 4],
        ..Manifest::default()
    };
    let callee = SocketAddr::from(([127, 0, 132, 54], 5070));
    let cluster = Cluster::start(Manifest {
        b2bua: Some(callee.to_string()),
        ..manifest
    })?;
    let called = Baresip::start(&cluster, "called", callee, None)?;
    called.says("baresip is ready")?;
    let whom = format!("sip:called@{}", cluster.address());
    let mut calling = Baresip::start(
        &cluster,
        "calling",
        (cluster.caller_address(), 5070).into(),
        Some(&whom),
    )?;
    calling.says("Call established")?;
    called.says("Call established")?;
    let status = cluster.until("the call is counted", LIMIT, |status| status.dialogs() == 1)?;
    kill_a_container(&cluster)?;
    let victim = status.containers.iter().find(|part| part.dialogs == Some(1));
    let victim = victim.and_then(|part| part.pid).context("the call's container")?;
    cluster.until("another container has the call", LIMIT, |status| {
        status.dialogs() == 1 && status.containers.iter().all(|part| part.pid != Some(victim))
    })?;
    calling.end()?;
    called.says("session closed")?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

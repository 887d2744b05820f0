//! The tools of the interop tests against SIPp alone: what they cannot see here they would not see there.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use tests::interop::caller::{Caller, State, Transport};
use tests::interop::process::scratch;
use tests::interop::sipp::{Run, Sipp};

const LIMIT: Duration = Duration::from_secs(20);

fn at(last: u8, port: u16) -> SocketAddr {
    SocketAddr::from((Ipv4Addr::new(127, 0, 91, last), port))
}

/// A SIPp callee answers, hears our ACK and our BYE.
fn calls_to_sipp(transport: Transport, last: u8) -> anyhow::Result<()> {
    let files = scratch(&format!("harness-{}", transport.name()))?;
    let callee = at(last, 5060);
    let run = Run {
        scenario: "uas",
        local: callee,
        tcp: transport == Transport::Tcp,
        ..Run::default()
    };
    let _callee = Sipp::start(&files, "uas", &run)?;
    let open = || Caller::new(transport, IpAddr::V4(Ipv4Addr::new(127, 0, 91, last)), callee, 4).ok();
    let mut caller = tests::interop::process::wait_for("SIPp listens", LIMIT, open)?;
    caller.paced(200, 0..100, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, 100)?;
    for index in caller.indices(State::Confirmed) {
        caller.request(index, "BYE");
    }
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", 0, 100)?;
    caller.expect_no_call_doubled()?;
    println!(
        "{} calls to SIPp: set-up {}",
        transport.name(),
        caller.spread("INVITE", 0)
    );
    Ok(())
}

#[test]
fn the_caller_makes_calls_over_udp() -> anyhow::Result<()> {
    calls_to_sipp(Transport::Udp, 1)
}

#[test]
fn the_caller_makes_calls_over_tcp() -> anyhow::Result<()> {
    calls_to_sipp(Transport::Tcp, 2)
}

#[test]
fn sipp_calls_sipp_and_its_statistics_are_read() -> anyhow::Result<()> {
    let files = scratch("harness-sipp")?;
    let (callee, local) = (at(3, 5060), at(4, 5060));
    let uas = Run {
        scenario: "uas",
        local: callee,
        ..Run::default()
    };
    let _uas = Sipp::start(&files, "uas", &uas)?;
    let uac = Run {
        target: Some(callee),
        local,
        calls: 20,
        ..Run::default()
    };
    let seen = Sipp::start(&files, "uac", &uac)?.finish(LIMIT)?;
    assert_eq!((seen.successful(), seen.failed()), (20, 0), "{seen:?}");
    Ok(())
}

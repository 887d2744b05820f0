//! A caller behind a NAT that says nothing for longer than NAT and nodes remember a flow, and is sent a BYE all the same.
//!
//! It takes as long as it takes, so it begins ahead of all scenarios, with a SipCluster of its own, and ends in the turn of its own.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};

use super::beside::Beside;
use super::world::{Status, World};
use crate::interop::sipp::{Run, Sipp};

/// The scenario in which it ends.
pub const TITLE: &str = "a caller behind a NAT, sent a BYE after 150 s of silence";

/// The network namespace that is the phone, and the NAT.
const BEHIND: &str = "e2e-nat";

/// The phone's own address, which nobody else knows.
const PHONE: [u8; 4] = [198, 18, 253, 2];

/// After how long the SipCluster ends a call. NAT and nodes forget a flow after 120 s.
const HOLD: Duration = Duration::from_secs(150);

const NAME: &str = "patient";

/// A call that is up.
pub struct Silent {
    sipp: Sipp,
    begun: Instant,
}

/// Begins the call.
pub fn begin(world: &World) -> anyhow::Result<()> {
    let spec = r#"{"replicas": 1, "proxies": {"replicas": 1}, "application": {"answer": {"hold": "150s"}}}"#;
    let patient = Beside::create(world, "default", NAME, spec)?;
    patient.until("it is Ready", Status::is_current)?;
    let run = Run {
        scenario: "silent",
        target: Some(patient.status()?.address().context("it has an address")?),
        local: SocketAddr::from((PHONE, 6000)),
        network: Some(BEHIND),
        ..Run::default()
    };
    let mut sipp = Sipp::start(world.scratch(), "silent", &run)?;
    sipp.wait_until("the call is up", Duration::from_secs(10), |now| now.current() == 1)?;
    let call = Silent {
        sipp,
        begun: Instant::now(),
    };
    *world.silent.lock().expect("nobody panics with it in hand") = Some(call);
    Ok(())
}

/// Waits for the call's end.
pub fn ended(world: &World) -> anyhow::Result<()> {
    let call = world.silent.lock().expect("nobody panics with it in hand").take();
    let Silent { sipp, begun } = call.context("the call was begun")?;
    let left = (HOLD + Duration::from_secs(30)).saturating_sub(begun.elapsed());
    let statistics = sipp.finish(left)?;
    ensure!(statistics.successful() == 1, "no BYE has come: {statistics:?}");
    Beside::find(world, "default", NAME).delete()
}

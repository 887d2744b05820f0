//! Media through Debian's rtpengine: sound flows through the death of a container, and the successor has it end with the call.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::time::Duration;

use anyhow::{Context, ensure};
use tests::interop::baresip::Baresip;
use tests::interop::cluster::{Cluster, Manifest, Part, Status};
use tests::interop::http;
use tests::interop::process::{Process, signal, wait_for};
use tests::interop::rtpengine::Rtpengine;
use tests::interop::telephone::{Telephone, talk};

const LIMIT: Duration = Duration::from_secs(30);

/// A cluster that leads media through these instances, and a telephone on each side of it.
fn cluster(
    address: [u8; 2],
    name: &'static str,
    instances: &[u8],
) -> anyhow::Result<(Cluster, Vec<Rtpengine>, [Telephone; 2])> {
    let manifest = Manifest {
        name,
        address,
        ..Manifest::default()
    };
    let (cluster, started, callee) = led(manifest, instances)?;
    let caller = Telephone::new("alice", (cluster.caller_address(), 5060).into(), cluster.address())?;
    let callee = Telephone::new("bob", callee, cluster.address())?;
    Ok((cluster, started, [caller, callee]))
}

/// A cluster that leads media through these instances, and where it calls out to.
fn led(manifest: Manifest, instances: &[u8]) -> anyhow::Result<(Cluster, Vec<Rtpengine>, SocketAddr)> {
    let [third, fourth] = manifest.address;
    let at = |last: u8| Ipv4Addr::new(127, 0, third, fourth + last);
    let callee = SocketAddr::from((at(50), 5070));
    let cluster = Cluster::start(Manifest {
        b2bua: Some(callee.to_string()),
        media: instances.iter().map(|last| (at(*last), 2223).into()).collect(),
        ..manifest
    })?;
    let started = instances
        .iter()
        .map(|last| Rtpengine::start(cluster.files(), at(*last)));
    let started = started.collect::<anyhow::Result<_>>()?;
    Ok((cluster, started, callee))
}

/// The call, or a change of it, is answered.
fn answered(caller: &mut Telephone, callee: &mut Telephone) -> anyhow::Result<()> {
    // What the callee has answered is acknowledged by the cluster, the caller does so when it has heard of it.
    callee.accept()?;
    caller.accepted()
}

/// Both sides see an address of this instance, and talk through it.
fn talk_through(instance: &Rtpengine, caller: &mut Telephone, callee: &mut Telephone) -> anyhow::Result<()> {
    for phone in [&*caller, &*callee] {
        let hears = phone.hears.context("it has been told an address")?;
        ensure!(
            hears.ip() == instance.ip(),
            "{phone:?} is not led through {}",
            instance.ip()
        );
    }
    talk(caller, callee)
}

/// The one call that an instance leads.
fn led_call(instance: &Rtpengine) -> anyhow::Result<String> {
    let calls = instance.calls()?;
    let [call] = &calls[..] else {
        anyhow::bail!("one call is known, not {calls:?}")
    };
    Ok(call.clone())
}

/// The container that has the only call.
fn owner(cluster: &Cluster) -> anyhow::Result<Part> {
    let has_it = |part: &&Part| part.dialogs == Some(1);
    let one = |status: &Status| status.containers.iter().filter(has_it).count() == 1;
    let status = cluster.until("one container has the call", LIMIT, one)?;
    let owner = status.containers.into_iter().find(|part| has_it(&part));
    owner.context("it was just there")
}

/// `kill -9` of the container that has the only call; ends when another has it.
fn lose_the_owner(cluster: &Cluster) -> anyhow::Result<()> {
    let lost = owner(cluster)?.running()?;
    signal(lost, libc::SIGKILL)?;
    let what = "another container has the call";
    let has_it = |part: &Part| part.dialogs == Some(1) && part.pid != Some(lost);
    cluster
        .until(what, LIMIT, |status| status.containers.iter().any(has_it))
        .map(drop)
}

/// The call is ended by whatever container has it by now: the instance has it forgotten, and its ports are closed.
fn ends_with_the_call(
    cluster: &Cluster,
    instance: &Rtpengine,
    [mut alice, mut bob]: [Telephone; 2],
) -> anyhow::Result<()> {
    let call = led_call(instance)?;
    talk_through(instance, &mut alice, &mut bob)?;
    let ports = [alice.hears, bob.hears].map(|port| port.expect("talked through"));
    for port in ports {
        ensure!(UdpSocket::bind(port).is_err(), "{port} is rtpengine's");
    }
    alice.hang_up()?;
    bob.ended()?;
    is_forgotten(cluster, instance, &call)?;
    wait_for("its ports are closed", LIMIT, || {
        ports.iter().all(|port| UdpSocket::bind(port).is_ok()).then_some(())
    })?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

fn is_forgotten(cluster: &Cluster, instance: &Rtpengine, call: &str) -> anyhow::Result<()> {
    let forgotten = || {
        instance
            .query(call)
            .ok()
            .flatten()
            .filter(|reason| reason == "Unknown call-id")
    };
    wait_for("rtpengine forgets the call", LIMIT, forgotten).with_context(|| cluster.report())?;
    Ok(())
}

#[test]
fn sound_flows_through_the_death_of_a_container_and_ends_with_the_call() -> anyhow::Result<()> {
    let (cluster, instances, [mut alice, mut bob]) = cluster([93, 1], "media-kill", &[60])?;
    let instance = &instances[0];
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    talk_through(instance, &mut alice, &mut bob)?;
    let call = led_call(instance)?;
    signal(owner(&cluster)?.running()?, libc::SIGKILL)?;
    talk_through(instance, &mut alice, &mut bob)?;
    alice
        .change()
        .and_then(|()| answered(&mut alice, &mut bob))
        .with_context(|| cluster.report())?;
    ensure!(led_call(instance)? == call, "it is the same call to rtpengine");
    ends_with_the_call(&cluster, instance, [alice, bob])
}

/// The second container dies once it has the call of the first. Which instance leads it is known to the third by what is written alone: nobody
/// offers anything again.
#[test]
fn sound_flows_through_two_deaths_in_a_row_and_ends_with_the_call() -> anyhow::Result<()> {
    let (cluster, instances, [mut alice, mut bob]) = cluster([93, 6], "media-kills", &[60])?;
    let instance = &instances[0];
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    for _ in 0..2 {
        lose_the_owner(&cluster)?;
        talk_through(instance, &mut alice, &mut bob)?;
    }
    ends_with_the_call(&cluster, instance, [alice, bob])
}

/// `sipcluster restart containers`: each hands over what it has before it ends, so the call moves at least once.
#[test]
fn sound_flows_while_the_call_is_handed_over_and_ends_with_it() -> anyhow::Result<()> {
    let (cluster, instances, [mut alice, mut bob]) = cluster([93, 7], "media-handed", &[60])?;
    let instance = &instances[0];
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    let first = owner(&cluster)?;
    let log = cluster.files().join("restart.log");
    let mut restart = Process::start(&mut cluster.command(&["restart", "containers"]), &log)?;
    let ended = loop {
        talk_through(instance, &mut alice, &mut bob)?;
        if let Some(ended) = restart.ended() {
            break ended;
        }
    };
    ensure!(ended.success(), "{}", restart.log_tail());
    ensure!(owner(&cluster)?.pid != first.pid, "another process has the call");
    let handed = cluster.log(&first.name)?;
    ensure!(!handed.contains("not everything is handed over"), "{handed}");
    ends_with_the_call(&cluster, instance, [alice, bob])
}

/// The softphones' sound goes on through the death; the successor's BYE has rtpengine forget the call.
#[test]
fn sound_of_two_softphones_flows_through_the_death_of_a_container() -> anyhow::Result<()> {
    // Half a second of it (RFC 3551 s4.2).
    const WANTED: u64 = 25;
    let manifest = Manifest {
        name: "media-baresip",
        address: [93, 8],
        ..Manifest::default()
    };
    let (cluster, instances, callee) = led(manifest, &[60])?;
    let instance = &instances[0];
    let called = Baresip::start(&cluster, "called", callee, None)?;
    called.says("baresip is ready")?;
    let whom = format!("sip:called@{}", cluster.address());
    let caller = (cluster.caller_address(), 5070).into();
    let mut calling = Baresip::start(&cluster, "calling", caller, Some(&whom))?;
    calling.says("Call established")?;
    called.says("Call established")?;
    let call = led_call(instance)?;
    let flows = |what| {
        let before = instance.packets(&call)?;
        ensure!(before.len() == 2, "two sides: {before:?}");
        let are_heard = |now: Vec<u64>| now.iter().zip(&before).all(|(now, before)| *now >= before + WANTED);
        wait_for(what, LIMIT, || are_heard(instance.packets(&call).ok()?).then_some(()))
            .with_context(|| format!("{before:?}, then {:?}", instance.packets(&call)))
    };
    flows("sound comes from both")?;
    lose_the_owner(&cluster)?;
    flows("sound comes from both after the death")?;
    calling.end()?;
    called.says("session closed")?;
    is_forgotten(&cluster, instance, &call)?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

/// What the containers have asked: offers and answers of three negotiations, and to forget the call.
fn asks_are_counted(cluster: &Cluster) -> anyhow::Result<()> {
    wait_for("seven questions are asked and answered", LIMIT, || {
        let parts = cluster.status().ok()?.containers;
        let pages: Vec<String> = parts
            .iter()
            .map(|part| http::get(part.admin?, "/metrics").ok())
            .collect::<Option<_>>()?;
        let sum = |result: &str| -> Option<f64> {
            let labels = format!("result=\"{result}\"");
            let counts = pages
                .iter()
                .map(|page| http::metric_where(page, "sipcluster_container_asks_total", &labels));
            counts.sum()
        };
        (sum("asked")? == 7.0 && sum("answered")? == 7.0 && sum("given_up")? == 0.0).then_some(())
    })
}

/// Attended transfer, as the cluster sees it: whom the REFER names takes the place.
#[test]
fn sound_flows_between_who_takes_a_place_and_the_side_that_stays() -> anyhow::Result<()> {
    let (cluster, instances, [mut alice, mut bob]) = cluster([93, 5], "media-transfer", &[60])?;
    let instance = &instances[0];
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    talk_through(instance, &mut alice, &mut bob)?;
    let calls = instance.calls()?;
    let mut carol = Telephone::new("carol", (cluster.caller_address(), 5061).into(), cluster.address())?;
    carol.take_place(&alice, "bob")?;
    answered(&mut carol, &mut bob).with_context(|| cluster.report())?;
    alice.ended()?;
    talk_through(instance, &mut carol, &mut bob)?;
    ensure!(
        instance.calls()? == calls,
        "it is the same call to rtpengine: {calls:?}"
    );
    carol.change().and_then(|()| answered(&mut carol, &mut bob))?;
    talk_through(instance, &mut carol, &mut bob)?;
    carol.hang_up()?;
    bob.ended()?;
    asks_are_counted(&cluster)?;
    wait_for("rtpengine forgets the call", LIMIT, || {
        instance.calls().ok().filter(Vec::is_empty)
    })?;
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

#[test]
fn calls_go_to_the_instance_that_is_left_and_one_that_is_up_moves_with_its_next_offer() -> anyhow::Result<()> {
    let (cluster, mut instances, [mut alice, mut bob]) = cluster([93, 2], "media-instances", &[60, 61])?;
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    let hears = alice.hears.context("answered")?.ip();
    let own = instances.iter().position(|instance| instance.ip() == hears);
    let lost = instances.swap_remove(own.context("an instance leads the call")?);
    talk_through(&lost, &mut alice, &mut bob)?;
    let left = &instances[0];
    ensure!(left.calls()?.is_empty(), "one instance leads the call");
    signal(lost.pid(), libc::SIGKILL)?;

    alice
        .change()
        .and_then(|()| answered(&mut alice, &mut bob))
        .with_context(|| cluster.report())?;
    talk_through(left, &mut alice, &mut bob)?;
    alice.hang_up()?;
    bob.ended()?;
    for _ in 0..4 {
        alice.call("bob")?;
        answered(&mut alice, &mut bob).with_context(|| cluster.report())?;
        talk_through(left, &mut alice, &mut bob)?;
        alice.hang_up()?;
        bob.ended()?;
    }
    wait_for("rtpengine forgets all calls", LIMIT, || {
        left.calls().ok().filter(Vec::is_empty)
    })?;
    Ok(())
}

//! Media through Debian's rtpengine: sound flows through the death of a container, and the successor has it end with the call.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};
use container::rtpengine::bencode::{Dictionary, Writer};
use tests::interop::cluster::{Cluster, Manifest};
use tests::interop::http;
use tests::interop::process::{Process, signal, wait_for};
use tests::interop::telephone::{Telephone, talk};

const LIMIT: Duration = Duration::from_secs(30);

/// An rtpengine of the test's own, without its kernel module.
struct Rtpengine {
    process: Process,
    control: SocketAddr,
}

impl Rtpengine {
    fn start(files: &Path, at: Ipv4Addr) -> anyhow::Result<Self> {
        let control = SocketAddr::from((at, 2223));
        // Else it reads the one of the system, with more ports.
        let config = files.join("rtpengine.conf");
        std::fs::write(&config, "[rtpengine]\n")?;
        let mut command = Command::new("rtpengine");
        command.arg(format!("--config-file={}", config.display()));
        command.args(["--table=-1", "--foreground", "--log-stderr", "--log-level=6"]);
        command.arg(format!("--interface={at}"));
        command.arg(format!("--listen-ng={control}"));
        let log = files.join(format!("rtpengine-{at}.log"));
        let process = Process::start(&mut command, &log).context("rtpengine (Debian: rtpengine-daemon)")?;
        let rtpengine = Self { process, control };
        wait_for("rtpengine answers", LIMIT, || {
            rtpengine.ask(Writer::new().string("command", b"ping")).ok()
        })
        .with_context(|| rtpengine.process.log_tail())?;
        Ok(rtpengine)
    }

    fn ask(&self, request: Writer) -> anyhow::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let cookie = format!("{} ", socket.local_addr()?.port());
        socket.send_to(&[cookie.as_bytes(), &request.finish()].concat(), self.control)?;
        let mut buffer = vec![0; 65_536];
        let (length, _) = socket.recv_from(&mut buffer)?;
        let reply = buffer[..length].strip_prefix(cookie.as_bytes());
        Ok(reply.context("another cookie")?.to_vec())
    }

    /// The names of the calls that it knows.
    fn calls(&self) -> anyhow::Result<Vec<String>> {
        let reply = self.ask(Writer::new().string("command", b"list").integer("limit", 32))?;
        let reply = String::from_utf8(reply)?;
        let list = reply.split("5:callsl").nth(1).with_context(|| reply.clone())?;
        // Ours are sixteen digits long.
        Ok(list.split("16:").skip(1).map(|call| call[..16].to_owned()).collect())
    }

    /// What it says to a query of a call: its error, if there is one.
    fn query(&self, call: &str) -> anyhow::Result<Option<String>> {
        let reply = self.ask(
            Writer::new()
                .string("call-id", call.as_bytes())
                .string("command", b"query"),
        )?;
        let reply = Dictionary::parse(&reply).context("no dictionary")?;
        let reason = reply.string(b"error-reason");
        Ok(reason.map(|reason| String::from_utf8_lossy(reason).into_owned()))
    }
}

/// A cluster that leads media through these instances, and a telephone on each side of it.
fn cluster(
    address: [u8; 2],
    name: &'static str,
    instances: &[u8],
) -> anyhow::Result<(Cluster, Vec<Rtpengine>, [Telephone; 2])> {
    let [third, fourth] = address;
    let at = |last: u8| Ipv4Addr::new(127, 0, third, fourth + last);
    let callee = SocketAddr::from((at(50), 5070));
    let manifest = Manifest {
        name,
        address,
        b2bua: Some(callee.to_string()),
        media: instances.iter().map(|last| (at(*last), 2223).into()).collect(),
        ..Manifest::default()
    };
    let cluster = Cluster::start(manifest)?;
    let started = instances
        .iter()
        .map(|last| Rtpengine::start(cluster.files(), at(*last)));
    let started = started.collect::<anyhow::Result<_>>()?;
    let caller = Telephone::new("alice", (cluster.caller_address(), 5060).into(), cluster.address())?;
    let callee = Telephone::new("bob", callee, cluster.address())?;
    Ok((cluster, started, [caller, callee]))
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
            hears.ip() == instance.control.ip(),
            "{phone:?} is not led through {}",
            instance.control
        );
    }
    talk(caller, callee)
}

#[test]
fn sound_flows_through_the_death_of_a_container_and_ends_with_the_call() -> anyhow::Result<()> {
    let (cluster, instances, [mut alice, mut bob]) = cluster([93, 1], "media-kill", &[60])?;
    let instance = &instances[0];
    alice.call("bob")?;
    answered(&mut alice, &mut bob)?;
    talk_through(instance, &mut alice, &mut bob)?;
    let calls = instance.calls()?;
    let [call] = &calls[..] else {
        anyhow::bail!("one call is known, not {calls:?}")
    };

    let status = cluster.until("a container has the call", LIMIT, |status| status.dialogs() > 0)?;
    let owner = status.containers.iter().find(|part| part.dialogs > Some(0));
    let owner = owner.with_context(|| format!("a container has the call: {status:?}"))?;
    signal(owner.running()?, libc::SIGKILL)?;
    talk_through(instance, &mut alice, &mut bob)?;
    alice
        .change()
        .and_then(|()| answered(&mut alice, &mut bob))
        .with_context(|| cluster.report())?;
    talk_through(instance, &mut alice, &mut bob)?;
    ensure!(
        instance.calls()? == calls,
        "it is the same call to rtpengine: {:?}",
        instance.calls()
    );

    let ports = [alice.hears, bob.hears].map(|port| port.expect("talked through"));
    for port in ports {
        ensure!(UdpSocket::bind(port).is_err(), "{port} is rtpengine's");
    }
    alice.hang_up()?;
    bob.ended()?;
    let forgotten = || {
        instance
            .query(call)
            .ok()
            .flatten()
            .filter(|reason| reason == "Unknown call-id")
    };
    wait_for("rtpengine forgets the call", LIMIT, forgotten).with_context(|| cluster.report())?;
    wait_for("its ports are closed", LIMIT, || {
        ports.iter().all(|port| UdpSocket::bind(port).is_ok()).then_some(())
    })?;
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
    let own = instances.iter().position(|instance| instance.control.ip() == hears);
    let lost = instances.swap_remove(own.context("an instance leads the call")?);
    talk_through(&lost, &mut alice, &mut bob)?;
    let left = &instances[0];
    ensure!(left.calls()?.is_empty(), "one instance leads the call");
    signal(lost.process.pid(), libc::SIGKILL)?;

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

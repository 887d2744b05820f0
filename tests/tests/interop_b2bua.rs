//! The back-to-back user agent between SIPp and SIPp, and between phones that are played word by word: real processes, a real redis-server,
//! `kill -9` and hand-overs in the middle of it.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Part, Status, counts};
use tests::interop::phone::{Leg, Phone, T1};
use tests::interop::process::{Process, listens, signal, wait_for};
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

/// A scenario of SIPp's, and how long its pause is.
type Side<'a> = (&'a str, Duration);

/// SIPp calls SIPp, and a container dies while every call is in the same pause of its caller or its callee.
struct Paused {
    cluster: Cluster,
    callers: Sipp,
    callees: Sipp,
    begun: Instant,
}

impl Paused {
    const CALLS: u32 = 60;

    fn start(name: &'static str, last: u8, caller: Side, callee: Side) -> anyhow::Result<Self> {
        let manifest = Manifest {
            name,
            address: [135, last],
            ..Manifest::default()
        };
        let pauses = [caller.1, callee.1].map(|pause| pause.as_millis().to_string());
        // What a successor sends again has gone through another connection, and differs by that alone.
        let [caller_extra, callee_extra] = pauses.each_ref().map(|pause| ["-d", pause, "-rtcheck", "loose"]);
        let (cluster, callees) = cluster(manifest, callee.0, Transport::Udp, &callee_extra)?;
        let run = Run {
            scenario: caller.0,
            target: Some(cluster.address()),
            local: (cluster.caller_address(), 6060).into(),
            rate: Self::CALLS,
            calls: Self::CALLS,
            extra: &caller_extra,
            ..Run::default()
        };
        let begun = Instant::now();
        let callers = Sipp::start(cluster.files(), "callers", &run)?;
        let mut paused = Self {
            cluster,
            callers,
            callees,
            begun,
        };
        let all = u64::from(Self::CALLS);
        paused
            .callees
            .wait_until("every callee is called", LIMIT, |seen| seen.begun() == all)?;
        Ok(paused)
    }

    /// `kill -9` of the container that has most of what `counts`; whatever was begun more than `pause` after the first call is yet to come.
    fn kill(&self, counts: impl Fn(&Part) -> Option<u64>, pause: Duration) -> anyhow::Result<()> {
        self.cluster.settle(LIMIT)?;
        // A machine that is too slow for its Redis has one copy of everything, and that dies with its container.
        let has_two_copies = |part: &Part| part.replicated == Some(true) && part.from_memory == Some(false);
        let what = "there are two copies of everything";
        let status = self
            .cluster
            .until(what, LIMIT, |status| status.containers.iter().all(has_two_copies))?;
        let most = status.containers.iter().max_by_key(|part| counts(part));
        let most = most.context("a container")?;
        ensure!(
            counts(most) >= Some(u64::from(Self::CALLS) / 6),
            "it has its part: {status:?}"
        );
        signal(most.running()?, libc::SIGKILL)?;
        ensure!(
            self.begun.elapsed() < pause,
            "too late to find the calls in their pause"
        );
        Ok(())
    }

    /// Neither side has noticed anything.
    fn ends(mut self) -> anyhow::Result<()> {
        let all = u64::from(Self::CALLS);
        let report = || self.cluster.report();
        let seen = self.callers.finish(LIMIT * 2).with_context(report)?;
        assert_eq!((seen.successful(), seen.failed()), (all, 0), "{seen:?}");
        self.callees.wait_until("every callee is at its end", LIMIT, |seen| {
            (seen.begun(), seen.successful(), seen.failed()) == (all, all, 0)
        })?;
        self.cluster
            .until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
        Ok(())
    }
}

/// Longer than it takes until all calls have begun and a container is killed.
const PAUSE: Duration = Duration::from_secs(12);
const SHORT: Duration = Duration::from_secs(1);

/// Each side has a reliable response and its PRACK (RFC 3262). The caller's comes after the death.
#[test]
fn reliable_responses_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let paused = Paused::start(
        "b2bua-prack",
        1,
        ("reliable_caller", PAUSE),
        ("reliable_callee", PAUSE + SHORT * 2),
    )?;
    paused.kill(|part| part.dialogs, PAUSE)?;
    paused.ends()
}

/// A container dies while the calls ring; and another one when they are cancelled, but the callees have not said so yet.
#[test]
fn cancelled_calls_survive_the_death_of_two_containers() -> anyhow::Result<()> {
    let mut paused = Paused::start("b2bua-cancel", 2, ("cancel_caller", PAUSE), ("cancel_callee", PAUSE))?;
    paused.kill(|part| part.dialogs, PAUSE)?;
    paused.callers.wait_until("every caller has its 487", LIMIT, |seen| {
        seen.successful() == u64::from(Paused::CALLS)
    })?;
    paused.kill(|part| part.load, PAUSE * 2)?;
    paused.ends()
}

/// Two callees of each call ring. The first one answers, when the container has died; the caller is SIPp's own.
#[test]
fn the_first_fork_to_answer_is_connected_after_the_death_of_a_container() -> anyhow::Result<()> {
    let paused = Paused::start("b2bua-fork", 3, ("uac", SHORT), ("forking_callee", PAUSE))?;
    paused.kill(|part| part.dialogs, PAUSE)?;
    paused.ends()
}

/// INFO and UPDATE in both directions. Of either side one waits for its answer when the container dies.
#[test]
fn what_both_sides_ask_survives_the_death_of_a_container() -> anyhow::Result<()> {
    let paused = Paused::start("b2bua-asking", 4, ("asking_caller", PAUSE), ("asking_callee", SHORT))?;
    paused.kill(|part| part.dialogs, PAUSE)?;
    paused.ends()
}

/// A cluster between two phones; the second one is everybody who is called.
struct Scene {
    cluster: Cluster,
    caller: Phone,
    callee: Phone,
}

impl Scene {
    fn start(name: &'static str, last: u8, containers: u32) -> anyhow::Result<Self> {
        let mut manifest = Manifest {
            name,
            address: [89, last],
            containers,
            session: "30m",
            ..Manifest::default()
        };
        let local = callees(&manifest);
        manifest.b2bua = Some(local.to_string());
        let cluster = Cluster::start(manifest)?;
        let proxy = cluster.address();
        Ok(Self {
            caller: Phone::open((cluster.caller_address(), 5080).into(), proxy)?,
            callee: Phone::open(local, proxy)?,
            cluster,
        })
    }

    /// A call that is answered: the caller's side, which has asked twice (its CSeq is at 2), and the callee's.
    fn call(&mut self, user: &str) -> anyhow::Result<(Leg, Leg)> {
        let mut caller = Leg::calling(&self.caller, user, &format!("sip:{user}@{}", self.cluster.address()));
        let invite = caller.request("INVITE", 1, "");
        self.caller.say(&invite)?;
        let called = self.callee.hear_call(user)?;
        let callee = Leg::called(&self.callee, &called)?;
        self.callee.say(&callee.answer(&called, 200)?)?;
        caller.answered(&self.caller.hear_answer(&invite, 200)?)?;
        self.caller.say(&caller.ack(1))?;
        self.callee.hear_request(&callee, "ACK")?;
        // Each side has an ACK of its own: the caller's has come in when what it says next has, and a re-INVITE of the callee meets nothing.
        ask((&mut self.caller, &caller), (&mut self.callee, &callee), "INFO", 2)?;
        Ok((caller, callee))
    }

    /// `kill -9` of every container that holds a call; there are `calls`, and others remain.
    fn kill_the_owners(&self, calls: u64) -> anyhow::Result<()> {
        let counted = |status: &Status| status.dialogs() == calls;
        let status = self.cluster.until("the calls are counted", LIMIT, counted)?;
        let owners = status.containers.iter().filter(|part| part.dialogs > Some(0));
        for owner in owners {
            signal(owner.running()?, libc::SIGKILL)?;
        }
        Ok(())
    }

    fn ends(&self) -> anyhow::Result<()> {
        let what = "no dialog is left";
        self.cluster.until(what, LIMIT, |status| status.dialogs() == 0)?;
        Ok(())
    }
}

/// One phone asks in the dialog, the other answers 200; with the ACK of an INVITE, and an INFO behind that shows that it has come in.
fn ask(
    (asking, leg): (&mut Phone, &Leg),
    (asked, other): (&mut Phone, &Leg),
    method: &str,
    cseq: u32,
) -> anyhow::Result<()> {
    let request = leg.request(method, cseq, "");
    asking.say(&request)?;
    let heard = asked.hear_request(other, method)?;
    asked.say(&other.answer(&heard, 200)?)?;
    asking.hear_answer(&request, 200)?;
    if method == "INVITE" {
        asking.say(&leg.ack(cseq))?;
        asked.hear_request(other, "ACK")?;
        return ask((asking, leg), (asked, other), "INFO", cseq + 1);
    }
    Ok(())
}

/// Both sides re-INVITE at once, and the container dies before either has its answer: both get 491 (RFC 3261 s14.1), and who asks again
/// gets through.
#[test]
fn re_invites_that_meet_survive_the_death_of_a_container() -> anyhow::Result<()> {
    let mut scene = Scene::start("b2bua-glare", 1, 3)?;
    let (caller, callee) = scene.call("glare")?;
    let theirs = callee.request("INVITE", 1, "");
    scene.callee.say(&theirs)?;
    let passed_on = scene.caller.hear_request(&caller, "INVITE")?;
    let ours = caller.request("INVITE", 3, "");
    scene.kill_the_owners(1)?;
    scene.caller.say(&ours)?;
    scene.caller.hear_answer(&ours, 491)?;
    scene.caller.say(&caller.ack_refusal(3))?;
    // It has an INVITE of its own under way, so it refuses as well.
    scene.caller.say(&caller.answer(&passed_on, 491)?)?;
    scene.callee.hear_answer(&theirs, 491)?;
    scene.callee.say(&callee.ack_refusal(1))?;
    let Scene {
        caller: calling,
        callee: called,
        ..
    } = &mut scene;
    ask((called, &callee), (calling, &caller), "INVITE", 2)?;
    ask((calling, &caller), (called, &callee), "INVITE", 4)?;
    ask((calling, &caller), (called, &callee), "BYE", 6)?;
    scene.ends()
}

/// Calls move to a new container while a re-INVITE of either side waits for its answer.
#[test]
fn re_invites_under_way_are_handed_over() -> anyhow::Result<()> {
    const CALLS: usize = 16;
    let mut scene = Scene::start("b2bua-scaled", 2, 1)?;
    let legs = (0..CALLS)
        .map(|call| scene.call(&format!("moved{call}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let mut passed_on = Vec::new();
    for (call, (caller, callee)) in legs.iter().enumerate() {
        passed_on.push(if call % 2 == 0 {
            scene.caller.say(&caller.request("INVITE", 3, ""))?;
            scene.callee.hear_request(callee, "INVITE")?
        } else {
            scene.callee.say(&callee.request("INVITE", 1, ""))?;
            scene.caller.hear_request(caller, "INVITE")?
        });
    }
    let scaled = scene.cluster.command(&["scale", "2"]).output()?;
    assert!(scaled.status.success(), "{scaled:?}");
    let status = scene.cluster.until("calls have moved", LIMIT, |status| {
        let moved = status.containers.get(1).and_then(|part| part.dialogs);
        moved > Some(0) && status.dialogs() == CALLS as u64
    })?;
    let Scene {
        caller: calling,
        callee: called,
        ..
    } = &mut scene;
    for ((call, (caller, callee)), passed_on) in legs.iter().enumerate().zip(&passed_on) {
        let ((asking, leg, cseq), (asked, other)) = if call % 2 == 0 {
            ((&mut *calling, caller, 3), (&mut *called, callee))
        } else {
            ((&mut *called, callee, 1), (&mut *calling, caller))
        };
        asked.say(&other.answer(passed_on, 200)?)?;
        asking.hear_answer(&leg.request("INVITE", cseq, ""), 200)?;
        asking.say(&leg.ack(cseq))?;
        asked.hear_request(other, "ACK")?;
    }
    for (caller, callee) in &legs {
        ask((calling, caller), (called, callee), "BYE", 4)?;
    }
    println!(
        "{:?} of {CALLS} calls with a re-INVITE under way moved",
        status.containers[1].dialogs
    );
    scene.ends()
}

/// Both sides of a call re-INVITE at the same time.
struct Meeting<'a> {
    legs: &'a (Leg, Leg),
    requests: [String; 2],
    said: Instant,
}

impl<'a> Meeting<'a> {
    fn begin(scene: &Scene, legs: &'a (Leg, Leg), round: u32) -> anyhow::Result<Self> {
        let (caller, callee) = legs;
        let requests = [
            caller.request("INVITE", 3 + round, ""),
            callee.request("INVITE", 1 + round, ""),
        ];
        scene.caller.say(&requests[0])?;
        scene.callee.say(&requests[1])?;
        Ok(Self {
            legs,
            requests,
            said: Instant::now(),
        })
    }

    /// One of them reaches the other side, which refuses as it has its own under way; both get 491. Whether it took less than T1: then nobody
    /// had a reason to say anything twice.
    fn end(&self, scene: &mut Scene, round: u32) -> anyhow::Result<bool> {
        let (caller, callee) = self.legs;
        let (mut sides, what) = (
            [(&mut scene.caller, caller), (&mut scene.callee, callee)],
            "a re-INVITE passes",
        );
        let (side, passed_on) = wait_for(what, LIMIT, || {
            let mut sides = sides.iter_mut().enumerate();
            sides.find_map(|(side, (phone, leg))| Some((side, phone.has_heard(leg, "INVITE")?)))
        })?;
        let (phone, leg) = &mut sides[side];
        phone.say(&leg.answer(&passed_on, 491)?)?;
        phone.hear_request(leg, "ACK")?;
        for ((phone, leg), (request, cseq)) in sides.iter_mut().zip(self.requests.iter().zip([3 + round, 1 + round])) {
            phone.hear_answer(request, 491)?;
            phone.say(&leg.ack_refusal(cseq))?;
        }
        Ok(self.said.elapsed() < T1)
    }
}

/// `sipcluster scale`, and a call's re-INVITEs after the other from the first partition that moves on: how many of them met in the middle of it.
fn meet_while_partitions_move(
    scene: &mut Scene,
    containers: u32,
    legs: &[(Leg, Leg)],
    round: u32,
) -> anyhow::Result<(usize, Vec<bool>)> {
    let admin = scene.cluster.status()?.containers[0].admin.context("an admin port")?;
    let owned = || counts(admin).map(|(partitions, _)| partitions);
    let before = owned()?;
    let mut command = scene.cluster.command(&["scale", &containers.to_string()]);
    let mut scale = Process::start(&mut command, &scene.cluster.files().join("scale.log"))?;
    wait_for("partitions move", LIMIT, || {
        owned().is_ok_and(|now| now != before).then_some(())
    })?;
    let (mut meetings, mut seen) = (Vec::new(), Vec::new());
    for legs in legs {
        seen.push(owned()?);
        meetings.push(Meeting::begin(scene, legs, round)?);
    }
    let prompt = meetings.iter().map(|meeting| meeting.end(scene, round));
    let prompt = prompt
        .collect::<anyhow::Result<_>>()
        .with_context(|| scene.cluster.report())?;
    let ended = scale.wait(LIMIT)?;
    ensure!(ended.success(), "{}", scale.log_tail());
    let after = owned()?;
    Ok((seen.iter().filter(|now| **now != after).count(), prompt))
}

/// Re-INVITEs meet while their calls are handed over, to another container and back: each side has one answer to its own, 491, and who asks
/// again gets through.
#[test]
fn re_invites_that_meet_are_handed_over() -> anyhow::Result<()> {
    const CALLS: usize = 48;
    const WANTED: usize = 24;
    let mut scene = Scene::start("b2bua-met", 4, 1)?;
    let legs = (0..CALLS)
        .map(|call| scene.call(&format!("met{call}")))
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (mut met, mut rounds) = (0, Vec::new());
    while met < WANTED {
        let round = rounds.len() as u32;
        ensure!(
            round < 10,
            "{met} of {WANTED} re-INVITEs have met in the middle of a move"
        );
        let containers = 2 - round % 2;
        let (in_the_middle, prompt) = meet_while_partitions_move(&mut scene, containers, &legs, round)?;
        met += in_the_middle;
        rounds.push(prompt);
    }
    let rounds_before = rounds.len() as u32;
    let Scene {
        caller: calling,
        callee: called,
        ..
    } = &mut scene;
    for (caller, callee) in &legs {
        ask((called, callee), (calling, caller), "INVITE", 1 + rounds_before)?;
        ask((calling, caller), (called, callee), "INVITE", 3 + rounds_before)?;
        ask((calling, caller), (called, callee), "BYE", 5 + rounds_before)?;
    }
    for (round, prompt) in (0..).zip(&rounds) {
        for ((caller, callee), prompt) in legs.iter().zip(prompt) {
            for answers in [
                calling.answers(caller, "INVITE", 3 + round),
                called.answers(callee, "INVITE", 1 + round),
            ] {
                let [(491, times)] = answers[..] else {
                    anyhow::bail!("one answer, not {answers:?} in round {round}, {}", caller.call_id)
                };
                ensure!(
                    times == 1 || !prompt,
                    "491 came {times} times in round {round}, {}",
                    caller.call_id
                );
            }
        }
    }
    let unexpected = [calling.unexpected(), called.unexpected()].concat();
    ensure!(unexpected.is_empty(), "{unexpected:#?}");
    let prompt = rounds.iter().flatten().filter(|prompt| **prompt).count();
    println!(
        "{met} calls met in the middle of {rounds_before} moves; {prompt} of {} meetings took less than T1",
        CALLS * rounds.len()
    );
    scene.ends()
}

/// The name of the container that alone holds calls, and did not by `before`.
fn owner_since(scene: &Scene, before: &Status) -> anyhow::Result<String> {
    let what = "one more call is counted";
    let now = scene
        .cluster
        .until(what, LIMIT, |now| now.dialogs() == before.dialogs() + 1)?;
    let mut parts = now.containers.iter().zip(&before.containers);
    let owner = parts.find_map(|(now, before)| (now.dialogs > before.dialogs).then(|| now.name.clone()));
    owner.with_context(|| format!("an owner, {before:?}, {now:?}"))
}

/// Attended transfer (RFC 5589 s7): the caller talks to two, and tells the first one to take its place in the call with the second. The calls
/// are in different containers, to which something happens between the REFER and the INVITE that it leads to.
fn transfer(
    mut scene: Scene,
    meanwhile: impl FnOnce(&Scene) -> anyhow::Result<()>,
    afterwards: impl FnOnce(&Scene, [String; 2]) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let before = scene.cluster.status()?;
    let (to_first, first) = scene.call("first")?;
    let of_first = owner_since(&scene, &before)?;
    let mut call = 0;
    let (to_second, second, of_second) = loop {
        let before = scene.cluster.status()?;
        let (to_second, second) = scene.call(&format!("second{call}"))?;
        let owner = owner_since(&scene, &before)?;
        if owner != of_first {
            break (to_second, second, owner);
        }
        ensure!(call < 50, "every call is in {owner}");
        ask((&mut scene.caller, &to_second), (&mut scene.callee, &second), "BYE", 3)?;
        scene
            .cluster
            .until("it is ended", LIMIT, |status| status.dialogs() == 1)?;
        call += 1;
    };
    assert_ne!(of_first, of_second);
    // The Contact that the caller has of the second, which is the cluster's, names the partition.
    let whom = to_second.target.clone();
    let refer = format!(
        "Refer-To: <{whom}?Replaces={}>\r\n",
        to_second.replaces().replace(';', "%3B")
    );
    let refer = to_first.request("REFER", 3, &refer);
    scene.caller.say(&refer)?;
    let heard = scene.callee.hear_request(&first, "REFER")?;
    assert!(heard.contains(&format!("Refer-To: <{whom}?Replaces=")), "{heard}");
    scene.callee.say(&first.answer(&heard, 202)?)?;
    scene.caller.hear_answer(&refer, 202)?;
    meanwhile(&scene)?;

    let mut newcomer = Leg::calling(&scene.callee, "newcomer", &whom);
    let invite = newcomer.request("INVITE", 1, &format!("Replaces: {}\r\n", to_second.replaces()));
    scene.callee.say(&invite)?;
    let asked = scene.callee.hear_request(&second, "INVITE")?;
    scene.callee.say(&second.answer(&asked, 200)?)?;
    newcomer.answered(&scene.callee.hear_answer(&invite, 200)?)?;
    scene.callee.say(&newcomer.ack(1))?;
    let bye = scene.caller.hear_request(&to_second, "BYE")?;
    scene.caller.say(&to_second.answer(&bye, 200)?)?;
    afterwards(&scene, [of_first, of_second])?;

    // The two talk to one another, and the call with the first goes on until it is ended.
    let bye = second.request("BYE", 1, "");
    scene.callee.say(&bye)?;
    let heard = scene.callee.hear_request(&newcomer, "BYE")?;
    scene.callee.say(&newcomer.answer(&heard, 200)?)?;
    scene.callee.hear_answer(&bye, 200)?;
    ask((&mut scene.caller, &to_first), (&mut scene.callee, &first), "BYE", 4)?;
    scene.ends()
}

/// The newcomer is in the partition of the call whose side it has taken, though it was told so in a call of another container.
#[test]
fn a_transfer_reaches_the_partition_of_another_container() -> anyhow::Result<()> {
    let scene = Scene::start("b2bua-transfer", 3, 3)?;
    transfer(
        scene,
        |_| Ok(()),
        |scene, owners| {
            let has_one = |part: &Part| part.dialogs == Some(u64::from(owners.contains(&part.name)));
            let where_it_was = |status: &Status| status.containers.iter().all(has_one);
            scene.cluster.until("each has its call", LIMIT, where_it_was).map(drop)
        },
    )
}

#[test]
fn a_transfer_survives_the_death_of_the_containers() -> anyhow::Result<()> {
    let scene = Scene::start("b2bua-transfer-kill", 5, 3)?;
    transfer(scene, |scene| scene.kill_the_owners(2), |_, _| Ok(()))
}

/// Third-party call control (RFC 3725, flow I), all of it SIPp's: the controller calls A without an offer and B with A's, both of them callees
/// of the cluster; containers come and go meanwhile.
#[test]
fn a_third_party_of_sipp_connects_two_callees_of_sipp() -> anyhow::Result<()> {
    const CALLS: u32 = 60;
    let manifest = Manifest {
        name: "b2bua-3pcc",
        address: [86, 6],
        ..Manifest::default()
    };
    let host = callees(&manifest).ip();
    let at = |port| SocketAddr::from((host, port));
    let route =
        |user: &str, port| serde_json::json!({ "user": user, "target": format!("sip:{};transport=tcp", at(port)) });
    let (sides, twin) = ([("3pcc-A", "a", 5070), ("3pcc-B", "b", 5072)], at(6071).to_string());
    let routes = sides.map(|(_, user, port)| route(user, port)).into();
    let cluster = Cluster::start(Manifest {
        routes: Some(serde_json::Value::Array(routes)),
        ..manifest
    })?;
    let callee = |(scenario, _, port)| {
        let run = Run {
            scenario,
            local: at(port),
            tcp: true,
            ..Run::default()
        };
        Sipp::start(cluster.files(), scenario, &run)
    };
    let mut callees = [callee(sides[0])?, callee(sides[1])?];
    let controller = |scenario, user, port| {
        let run = Run {
            scenario,
            target: Some(cluster.address()),
            local: (cluster.caller_address(), port).into(),
            rate: 20,
            calls: CALLS,
            // A late answer to a repeated BYE belongs to a call that has been; SIPp would take it for the start of another.
            extra: &["-s", user, "-3pcc", &twin, "-deadcall_wait", "30000"],
            ..Run::default()
        };
        Sipp::start(cluster.files(), scenario, &run)
    };
    let b = controller("3pcc-C-B", "b", 6062)?;
    wait_for("B's controller waits for A's", LIMIT, || listens(6071).then_some(()))?;
    let a = controller("3pcc-C-A", "a", 6060)?;
    cluster.carry_out(&["scale", "4"])?;
    for controller in [a, b] {
        let seen = controller.finish(Duration::from_secs(60))?;
        assert_eq!((seen.successful(), seen.failed()), (u64::from(CALLS), 0), "{seen:?}");
    }
    for callee in &mut callees {
        callee.wait_until("the callee has seen every call to its end", LIMIT, |seen| {
            (seen.begun(), seen.failed()) == (u64::from(CALLS), 0)
        })?;
    }
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    Ok(())
}

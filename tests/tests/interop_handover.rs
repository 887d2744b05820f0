//! Live partitions that move to a named container, the one that bootstraps: nobody outside notices, and whoever dies meanwhile takes nothing with
//! it. Real processes, a real redis-server, real sockets, both applications.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::interop::callee::Callees;
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Status, counts, state};
use tests::interop::process::{Process, signal};

/// Longer than anything takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// How long a call rings: longer than the move that is to find it ringing.
const RING: Duration = Duration::from_secs(10);

/// Calls that stand, and calls that ring.
const DIALOGS: usize = 300;
const RINGING: usize = 60;

/// No answer may be later, on whatever machine: a client over UDP asks again three times until then.
const LATEST: Duration = Duration::from_secs(4);

#[derive(Clone, Copy, PartialEq, Eq)]
enum Application {
    Answer,
    B2bua,
}

/// Calls up in a cluster.
struct Scene {
    cluster: Cluster,
    callees: Callees,
    caller: Caller,
}

impl Scene {
    /// All calls but the ringing ones are answered.
    fn start(
        name: &'static str,
        last: u8,
        application: Application,
        containers: u32,
        transport: Transport,
    ) -> anyhow::Result<Self> {
        let at = SocketAddr::from(([127, 0, 134, last + 50], 5070));
        let callees = Callees::start(at, RING)?;
        let cluster = Cluster::start(Manifest {
            name,
            address: [134, last],
            containers,
            ring: "10s",
            session: "30m",
            b2bua: (application == Application::B2bua).then(|| at.to_string()),
            ..Manifest::default()
        })?;
        let mut caller = Caller::new(transport, cluster.caller_address(), cluster.address(), 32)?;
        caller.paced(400, 0..DIALOGS, |caller, _| {
            caller.invite();
        });
        caller.all_answered(LIMIT)?;
        caller.expect_all_ok("INVITE", 0, DIALOGS)?;
        Ok(Self {
            cluster,
            callees,
            caller,
        })
    }

    /// Transactions of every kind are there: calls that ring, and requests of standing dialogs that were just answered.
    fn transactions(&mut self) -> anyhow::Result<()> {
        self.caller.paced(400, 0..DIALOGS, |caller, dialog| {
            let method = if dialog % 2 == 0 { "INVITE" } else { "OPTIONS" };
            caller.request(dialog, method);
        });
        self.caller.settle(LIMIT)?;
        self.caller.paced(400, 0..RINGING, |caller, _| {
            caller.invite();
        });
        self.caller.until("the calls ring", RING / 2, |caller| {
            caller.count(State::Ringing) == RINGING
        })
    }

    /// Messages that came to anybody outside.
    fn heard(&self) -> u64 {
        self.caller.messages + self.callees.heard()
    }

    /// What is on its way comes.
    fn pump(&mut self, time: Duration) {
        let until = Instant::now() + time;
        while Instant::now() < until {
            self.caller.pump(Duration::from_millis(5));
        }
    }

    /// What a busy machine made somebody ask again is answered again; then nothing comes for longer than T1.
    fn comes_to_rest(&mut self) -> anyhow::Result<()> {
        let deadline = Instant::now() + RING / 2;
        loop {
            let before = self.heard();
            self.pump(Duration::from_millis(800));
            if self.heard() == before {
                return Ok(());
            }
            ensure!(Instant::now() < deadline, "messages come without end");
        }
    }

    /// `sipcluster scale` to so many containers, and `meanwhile` again and again.
    fn scale(
        &mut self,
        containers: usize,
        mut meanwhile: impl FnMut(&mut Self) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let log = self.cluster.files().join("scale.log");
        let mut command = self.cluster.command(&["scale", &containers.to_string()]);
        let mut scale = Process::start(&mut command, &log)?;
        let deadline = Instant::now() + LIMIT;
        let status = loop {
            meanwhile(self)?;
            if let Some(status) = scale.ended() {
                break status;
            }
            ensure!(Instant::now() < deadline, "scale does not end\n{}", self.cluster.logs());
        };
        ensure!(status.success(), "{}", scale.log_tail());
        Ok(())
    }

    /// Everything can be changed and ended, by one owner each, and then nothing is left.
    fn ends_well(mut self) -> anyhow::Result<()> {
        self.cluster.copies()?.until_equal(LIMIT)?;
        self.caller.all_answered(LIMIT)?;
        let calls = self.caller.dialogs.len();
        let answered = self
            .caller
            .outcomes_of("INVITE", 0)
            .filter(|outcome| outcome.status == 200);
        ensure!(answered.count() >= calls, "{}", self.caller.summary());
        for method in ["INVITE", "BYE"] {
            let (dialogs, since) = (self.caller.indices(State::Confirmed), self.caller.outcomes.len());
            assert_eq!(dialogs.len(), calls, "{}", self.caller.summary());
            self.caller
                .paced(500, dialogs, |caller, dialog| caller.request(dialog, method));
            self.caller.settle(LIMIT).with_context(|| self.cluster.report())?;
            self.caller.expect_all_ok(method, since, calls)?;
        }
        self.caller.expect_no_call_doubled()?;
        self.cluster
            .until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
        Ok(())
    }
}

/// Callers and callees count every message: at rest none comes because of a move; and of what is asked meanwhile everything is answered once.
fn moves_unnoticed(name: &'static str, last: u8, application: Application, transport: Transport) -> anyhow::Result<()> {
    let mut scene = Scene::start(name, last, application, 1, transport)?;
    scene.transactions()?;
    scene.comes_to_rest()?;
    let (before, ringing) = (scene.heard(), scene.caller.count(State::Ringing));
    scene.scale(2, |scene| {
        scene.pump(Duration::from_millis(5));
        Ok(())
    })?;
    scene.pump(Duration::from_millis(300));
    let heard = scene.heard() - before;
    let still = scene.caller.count(State::Ringing);
    assert_eq!((ringing, still), (RINGING, RINGING), "the calls ring while they move");
    let moved = scene.cluster.status()?.containers[1].dialogs;
    ensure!(moved > Some(DIALOGS as u64 / 4), "calls have moved: {moved:?}");
    let examples: Vec<_> = scene
        .caller
        .dialogs
        .iter()
        .flat_map(|dialog| dialog.heard.get(2..))
        .flatten()
        .take(3)
        .collect();
    assert_eq!(
        heard,
        0,
        "messages came because calls moved: {examples:?}, {}",
        scene.caller.summary()
    );

    scene.caller.all_answered(LIMIT)?;
    // The last ACK is still on its way to its callee.
    scene.comes_to_rest()?;
    let (before, since) = (scene.heard(), scene.caller.outcomes.len());
    let (mut due, mut next) = (Instant::now(), 0);
    scene.scale(3, |scene| {
        scene.caller.pump(Duration::from_millis(2));
        if Instant::now() >= due {
            due += Duration::from_millis(5);
            scene.caller.request(next % DIALOGS, "OPTIONS");
            next += 1;
        }
        Ok(())
    })?;
    scene.caller.settle(LIMIT)?;
    scene.pump(Duration::from_millis(300));
    scene.caller.expect_all_ok("OPTIONS", since, next)?;
    let spread = scene.caller.spread("OPTIONS", since);
    let repeats: u32 = scene.caller.outcomes[since..]
        .iter()
        .map(|outcome| outcome.repeats)
        .sum();
    println!(
        "{name}: {moved:?} of {DIALOGS} dialogs and {RINGING} ringing calls moved, 0 messages; {next} requests meanwhile, {repeats} asked again: {spread}"
    );
    let heard = scene.heard() - before;
    // What was asked again because the answer took longer than T1 may be answered again.
    ensure!(
        (next as u64..=next as u64 + u64::from(repeats)).contains(&heard),
        "{heard} messages came for {next} requests, {repeats} of them repeated"
    );
    ensure!(spread.worst < LATEST, "{spread}");
    scene.ends_well()
}

#[test]
fn calls_of_answer_move_unnoticed() -> anyhow::Result<()> {
    moves_unnoticed("handover-answer", 1, Application::Answer, Transport::Udp)
}

#[test]
fn calls_of_b2bua_move_unnoticed() -> anyhow::Result<()> {
    moves_unnoticed("handover-b2bua", 2, Application::B2bua, Transport::Udp)
}

/// Nobody asks again over a stream: an answer that a move swallows never comes.
#[test]
fn calls_over_streams_move_unnoticed() -> anyhow::Result<()> {
    moves_unnoticed("handover-streams", 7, Application::Answer, Transport::Tcp)
}

/// Which way partitions move; the third container is the one that they come to, or leave.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Move {
    /// It bootstraps.
    In,
    /// It was told to stop and quiesces.
    Out,
}

/// When the move is interrupted.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Moment {
    /// Some but not all of what is to leave has left the source.
    Middle,
    /// The last partitions of one that quiesces have not left it.
    Late,
    /// The container that bootstraps has its whole share and has just become active: the others have released it.
    Activated,
}

/// Whom it befalls.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Side {
    /// A container that hands over.
    Source,
    /// A container that is handed its share.
    Target,
}

/// What befalls it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fault {
    /// `kill -9`.
    Killed,
    /// SIGSTOP, and SIGCONT once its lease is gone and the others have everything.
    Frozen,
}

/// The lease of the clusters under test, the manifest's default.
const LEASE: Duration = Duration::from_secs(2);

#[derive(Clone, Copy)]
struct Interruption {
    moves: Move,
    moment: Moment,
    side: Side,
    fault: Fault,
}

/// What was interrupted, and when.
#[derive(Clone, Copy)]
struct Interrupted {
    victim: u32,
    /// Partitions that had left the source, of how many.
    gone: (u64, u64),
    at: Instant,
    /// It stands still.
    frozen: bool,
}

impl Interrupted {
    /// Lets a frozen container go on once everybody else does without it.
    fn go_on(&mut self, cluster: &Cluster) -> anyhow::Result<()> {
        if !self.frozen || self.at.elapsed() < LEASE * 3 / 2 {
            return Ok(());
        }
        let status = cluster.status()?;
        let others = status.containers.iter().filter(|part| part.pid != Some(self.victim));
        let owned: u64 = others.filter_map(|part| part.partitions).sum();
        if owned == cluster.manifest().shares().1 {
            self.frozen = false;
            signal(self.victim, libc::SIGCONT)?;
        }
        Ok(())
    }
}

impl Interruption {
    /// How many containers there are before the move and after it.
    fn containers(self) -> (u32, usize) {
        match self.moves {
            Move::In => (2, 3),
            Move::Out => (3, 2),
        }
    }

    /// One move; `None` if it was over before it could be interrupted.
    fn happen(self, scene: &mut Scene) -> anyhow::Result<Option<Interrupted>> {
        let before = scene.cluster.status()?.containers;
        let first = before[0].clone();
        let mut third = before.get(2).cloned();
        let source = third.as_ref().unwrap_or(&first);
        let admin = source.admin.context("an admin port")?;
        let owned = source.partitions.context("partitions")?;
        // As many are left in the middle, and late. Of three equal shares its own is two thirds of what it has; chance spreads them.
        let (middle, late) = match self.moves {
            Move::In => (owned * 3 / 4..owned, 0..0),
            Move::Out => (owned / 4..owned, 1..owned / 8),
        };
        let is_third = (self.moves == Move::In) == (self.side == Side::Target);
        let mut interrupted: Option<Interrupted> = None;
        scene.scale(self.containers().1, |scene| {
            scene.caller.pump(Duration::from_millis(1));
            if let Some(interrupted) = &mut interrupted {
                return interrupted.go_on(&scene.cluster);
            }
            if third.is_none() && (is_third || self.moment == Moment::Activated) {
                let started = scene.cluster.status()?.containers.into_iter().nth(2);
                third = started.filter(|part| part.running().is_ok() && part.admin.is_some());
                return Ok(());
            }
            let Ok((left, _)) = counts(admin) else { return Ok(()) };
            let is_time = match self.moment {
                Moment::Middle => middle.contains(&left),
                Moment::Late => late.contains(&left),
                Moment::Activated => {
                    let said = third.as_ref().and_then(|part| part.admin).map(state);
                    said.is_some_and(|said| said.is_ok_and(|said| said["state"] == "Active"))
                }
            };
            if is_time {
                let victim = if is_third {
                    third.as_ref().context("a third container")?
                } else {
                    &first
                };
                let (victim, frozen) = (victim.running()?, self.fault == Fault::Frozen);
                signal(victim, if frozen { libc::SIGSTOP } else { libc::SIGKILL })?;
                interrupted = Some(Interrupted {
                    victim,
                    gone: (owned - left, owned),
                    at: Instant::now(),
                    frozen,
                });
            }
            Ok(())
        })?;
        let deadline = Instant::now() + LIMIT;
        while let Some(interrupted) = interrupted.as_mut().filter(|interrupted| interrupted.frozen) {
            ensure!(
                Instant::now() < deadline,
                "nobody takes it over\n{}",
                scene.cluster.logs()
            );
            scene.pump(Duration::from_millis(20));
            interrupted.go_on(&scene.cluster)?;
        }
        Ok(interrupted)
    }
}

/// Whoever is killed or frozen while partitions move: each has one owner then, and no call is lost.
fn interrupted(name: &'static str, last: u8, application: Application, how: Interruption) -> anyhow::Result<()> {
    let (before, after) = how.containers();
    let mut scene = Scene::start(name, last, application, before, Transport::Udp)?;
    scene.transactions()?;
    let mut interrupted = None;
    for _ in 0..10 {
        interrupted = how.happen(&mut scene)?;
        if interrupted.is_some() {
            break;
        }
        // A busy machine did not let us look in time.
        scene.scale(before as usize, |scene| {
            scene.pump(Duration::from_millis(5));
            Ok(())
        })?;
    }
    let Interrupted { victim, gone, .. } = interrupted.context("the moment was never seen")?;
    let (least, all) = scene.cluster.manifest().shares();
    let may_be_there = how.fault == Fault::Frozen;
    let settled = |status: &Status| {
        status.containers.len() == after
            && status
                .parts()
                .all(|part| part.state == "Active" && (may_be_there || part.pid != Some(victim)))
            && status.containers.iter().all(|part| part.partitions >= Some(least / 2))
            && status.partitions() == all
    };
    scene.cluster.until("one owner each", LIMIT, settled)?;
    let side = if how.side == Side::Source { "source" } else { "target" };
    let what = if may_be_there { "frozen" } else { "killed" };
    println!(
        "{name}: the {side} {what} when {} of {} partitions had left the source",
        gone.0, gone.1
    );
    scene.ends_well()
}

#[test]
fn calls_of_answer_survive_the_source_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Source,
        fault: Fault::Killed,
    };
    interrupted("handover-source", 3, Application::Answer, how)
}

#[test]
fn calls_of_answer_survive_the_target_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Target,
        fault: Fault::Killed,
    };
    interrupted("handover-target", 4, Application::Answer, how)
}

#[test]
fn calls_of_b2bua_survive_the_source_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Source,
        fault: Fault::Killed,
    };
    interrupted("handover-b2bua-source", 5, Application::B2bua, how)
}

#[test]
fn calls_of_b2bua_survive_the_target_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Target,
        fault: Fault::Killed,
    };
    interrupted("handover-b2bua-target", 6, Application::B2bua, how)
}

#[test]
fn calls_survive_the_new_owner_that_has_just_become_active() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Activated,
        side: Side::Target,
        fault: Fault::Killed,
    };
    interrupted("handover-activated", 8, Application::B2bua, how)
}

#[test]
fn calls_survive_the_former_owner_that_has_just_released_them() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Activated,
        side: Side::Source,
        fault: Fault::Killed,
    };
    interrupted("handover-released", 9, Application::B2bua, how)
}

#[test]
fn calls_survive_a_source_that_freezes_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Source,
        fault: Fault::Frozen,
    };
    interrupted("handover-source-frozen", 10, Application::B2bua, how)
}

#[test]
fn calls_survive_a_target_that_freezes_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::In,
        moment: Moment::Middle,
        side: Side::Target,
        fault: Fault::Frozen,
    };
    interrupted("handover-target-frozen", 11, Application::Answer, how)
}

#[test]
fn calls_survive_a_container_that_is_killed_while_it_quiesces() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::Out,
        moment: Moment::Middle,
        side: Side::Source,
        fault: Fault::Killed,
    };
    interrupted("handover-quiescing", 12, Application::B2bua, how)
}

#[test]
fn calls_survive_a_container_that_is_killed_when_it_has_nearly_quiesced() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::Out,
        moment: Moment::Late,
        side: Side::Source,
        fault: Fault::Killed,
    };
    interrupted("handover-quiesced", 16, Application::B2bua, how)
}

#[test]
fn calls_survive_a_container_that_freezes_while_it_quiesces() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::Out,
        moment: Moment::Middle,
        side: Side::Source,
        fault: Fault::Frozen,
    };
    interrupted("handover-quiescing-frozen", 13, Application::Answer, how)
}

#[test]
fn calls_survive_one_that_is_killed_while_it_is_handed_what_another_leaves() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::Out,
        moment: Moment::Middle,
        side: Side::Target,
        fault: Fault::Killed,
    };
    interrupted("handover-left", 14, Application::Answer, how)
}

#[test]
fn calls_survive_one_that_freezes_while_it_is_handed_what_another_leaves() -> anyhow::Result<()> {
    let how = Interruption {
        moves: Move::Out,
        moment: Moment::Middle,
        side: Side::Target,
        fault: Fault::Frozen,
    };
    interrupted("handover-left-frozen", 15, Application::B2bua, how)
}

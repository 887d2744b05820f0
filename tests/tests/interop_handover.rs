//! Live partitions that move to a named container, the one that bootstraps: nobody outside notices, and whoever dies meanwhile takes nothing with
//! it. Real processes, a real redis-server, real sockets, both applications.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use tests::interop::callee::Callees;
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Status, counts};
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

/// Who dies in the middle of it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Dies {
    /// The container that hands over.
    Source,
    /// The container that is handed its share.
    Target,
}

/// A container bootstraps; some but not all of its share has come when either side is killed.
fn interrupted(name: &'static str, last: u8, application: Application, dies: Dies) -> anyhow::Result<()> {
    let mut scene = Scene::start(name, last, application, 2, Transport::Udp)?;
    scene.transactions()?;
    let before = scene.cluster.status()?;
    let source = before.containers[0].clone();
    let (admin, owned) = (
        source.admin.context("an admin port")?,
        source.partitions.context("partitions")?,
    );
    // Of three equal shares its own is two thirds of what it has; chance spreads them.
    let least = owned * 3 / 4;
    let mut killed = None;
    for _ in 0..10 {
        let mut victim = (dies == Dies::Source).then_some(source.running()?);
        let mut is_late = false;
        scene.scale(3, |scene| {
            scene.caller.pump(Duration::from_millis(1));
            let Some(victim) = victim else {
                let status = scene.cluster.status()?;
                victim = status.containers.get(2).and_then(|part| part.running().ok());
                return Ok(());
            };
            if let (None, false, Ok((left, _))) = (killed, is_late, counts(admin))
                && left < owned
            {
                is_late = left <= least;
                if !is_late {
                    signal(victim, libc::SIGKILL)?;
                    killed = Some((victim, owned - left));
                }
            }
            Ok(())
        })?;
        if killed.is_some() {
            break;
        }
        // A busy machine did not let us look in time.
        scene.scale(2, |scene| {
            scene.pump(Duration::from_millis(5));
            Ok(())
        })?;
    }
    let (victim, gone) = killed.context("the middle was never seen")?;
    let least = scene.cluster.manifest().shares().0 / 2;
    let all = scene.cluster.manifest().shares().1;
    let settled = |status: &Status| {
        status.containers.len() == 3
            && status
                .parts()
                .all(|part| part.state == "Active" && part.pid != Some(victim))
            && status.containers.iter().all(|part| part.partitions >= Some(least))
            && status.partitions() == all
    };
    scene.cluster.until("one owner each", LIMIT, settled)?;
    let side = if dies == Dies::Source { "source" } else { "target" };
    println!("{name}: the {side} killed when {gone} of {owned} partitions had left the source");
    scene.ends_well()
}

#[test]
fn calls_of_answer_survive_the_source_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    interrupted("handover-source", 3, Application::Answer, Dies::Source)
}

#[test]
fn calls_of_answer_survive_the_target_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    interrupted("handover-target", 4, Application::Answer, Dies::Target)
}

#[test]
fn calls_of_b2bua_survive_the_source_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    interrupted("handover-b2bua-source", 5, Application::B2bua, Dies::Source)
}

#[test]
fn calls_of_b2bua_survive_the_target_in_the_middle_of_a_hand_over() -> anyhow::Result<()> {
    interrupted("handover-b2bua-target", 6, Application::B2bua, Dies::Target)
}

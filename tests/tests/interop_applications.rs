//! An application of a user's own, in its own executable: its calls survive `kill -9` without a line of its own for that. Real processes, a
//! real redis-server, real sockets.

use std::process::Command;
use std::time::{Duration, Instant};

use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest};
use tests::interop::figures::Spread;
use tests::interop::process::{binaries, scratch, signal};

const LIMIT: Duration = Duration::from_secs(30);

/// Calls are warned after two seconds, and ended after four.
fn manifest(name: &'static str, address: [u8; 2]) -> anyhow::Result<Manifest> {
    let options = serde_json::json!({ "seconds": 4, "warningSeconds": 2 });
    let custom = serde_json::json!({ "command": binaries()?.join("prepaid"), "options": options });
    Ok(Manifest {
        name,
        address,
        custom: Some(custom),
        ..Manifest::default()
    })
}

/// Its worker takes ten milliseconds for each call: what has been done is to be answered before all that lies behind it is done.
#[test]
fn a_slow_application_lets_nobody_wait_for_the_calls_behind_his() -> anyhow::Result<()> {
    const CALLS: usize = 100;
    let options = serde_json::json!({ "microseconds": 10_000, "slow": [] });
    let cluster = Cluster::start(Manifest {
        name: "busy",
        address: [88, 4],
        containers: 1,
        proxies: 1,
        container_workers: 1,
        custom: Some(serde_json::json!({ "command": binaries()?.join("busy"), "options": options })),
        ..Manifest::default()
    })?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    for _ in 0..CALLS {
        caller.invite();
    }
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    let took: Vec<Duration> = caller.outcomes_of("INVITE", 0).map(|outcome| outcome.took).collect();
    let (first, last) = (took.iter().min().copied(), took.iter().max().copied());
    let (first, last) = (first.unwrap_or_default(), last.unwrap_or_default());
    assert!(last >= Duration::from_millis(800), "one after another: {last:?}");
    assert!(first < last / 3, "{first:?}, and the last {last:?}");
    Ok(())
}

#[test]
fn timers_and_attributes_of_a_users_application_survive_the_death_of_two_containers() -> anyhow::Result<()> {
    const CALLS: usize = 200;
    let cluster = Cluster::start(manifest("prepaid", [88, 1])?)?;
    let status = cluster.status()?;
    let pids: Vec<u32> = status
        .containers
        .iter()
        .map(|part| part.running())
        .collect::<Result<_, _>>()?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    caller.paced(2_000, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    let first = caller.outcomes.iter().map(|outcome| outcome.sent).min();
    let kill = first.expect("a call") + Duration::from_millis(1_950);
    caller.until("the moment of the kill", LIMIT, |_| Instant::now() >= kill)?;
    let warned = caller.dialogs.iter().filter(|dialog| !dialog.infos.is_empty()).count();
    assert_eq!(warned, 0, "no call was warned before the kill");
    for pid in &pids[..2] {
        signal(*pid, libc::SIGKILL)?;
    }
    caller.until("every call ended", LIMIT, |caller| caller.count(State::Ended) == CALLS)?;
    // A second warning or BYE is seen, if it comes, before the containers that were started again have settled.
    cluster.settle(LIMIT)?;
    caller.pump(Duration::from_millis(200));
    caller.expect_no_call_doubled()?;
    for (index, dialog) in caller.dialogs.iter().enumerate() {
        let bodies: Vec<&str> = dialog.infos.iter().map(|(_, body)| body.as_str()).collect();
        assert_eq!(bodies.len(), 1, "call {index} is warned once: {bodies:?}");
        let account = format!("2 seconds left for <sip:caller{index}@");
        assert!(
            bodies[0].starts_with(&account),
            "call {index} is told of its own account: {bodies:?}"
        );
    }
    cluster.until("no dialog is left", LIMIT, |status| status.dialogs() == 0)?;
    let late = caller.dialogs.iter().filter_map(|dialog| {
        Some(
            dialog
                .ended_at?
                .duration_since(dialog.answered_at? + Duration::from_secs(4)),
        )
    });
    let late = Spread::of(late);
    assert!(
        late.worst <= Duration::from_secs(6),
        "the end after the deadline: {late}"
    );
    println!(
        "{CALLS} prepaid calls warned and ended once each through the death of 2 of 3 containers; end after the deadline: {late}"
    );
    Ok(())
}

#[test]
fn a_users_application_that_cannot_run_is_refused_before_a_port_is_bound() -> anyhow::Result<()> {
    let files = scratch("prepaid-wrong")?;
    let binaries = binaries()?;
    let prepaid = binaries.join("prepaid").display().to_string();
    std::fs::write(files.join("text"), "no program")?;
    for (command, options, hint) in [
        (
            prepaid.as_str(),
            "{second: 4}",
            "unknown field `second`, expected `seconds` or `warningSeconds`",
        ),
        (
            &prepaid,
            "{seconds: 4, warningSeconds: 5}",
            "warningSeconds must be less than seconds",
        ),
        (
            "../nowhere/prepaid",
            "{}",
            "spec.application.custom.command: \"../nowhere/prepaid\": ",
        ),
        ("./text", "{}", "it is not an executable file"),
        ("/bin/false", "{}", "let its main call container::run"),
    ] {
        let manifest = format!(
            "apiVersion: sipcluster.dev/v1alpha1\nkind: SipCluster\nmetadata: {{name: wrong}}\nspec:\n  dispatcher: {{address: 127.0.88.2}}\n  \
             application: {{custom: {{command: {command}, options: {options}}}}}\n"
        );
        std::fs::write(files.join("sipcluster.yaml"), manifest)?;
        let state = files.join("state");
        let output = Command::new(binaries.join("sipcluster"))
            .current_dir(&files)
            .args(["up", "--detach", "-f", "sipcluster.yaml", "--state-dir"])
            .arg(&state)
            .output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(64), "{said}");
        assert!(said.contains(hint), "{said}");
        assert!(!state.exists(), "nothing was begun");
    }
    Ok(())
}

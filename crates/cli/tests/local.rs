//! The command with a real redis-server, and stand-ins for proxies and containers.

use std::io::{BufRead, BufReader};
use std::net::{SocketAddr, TcpListener, UdpSocket};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// Beyond what anything here takes, even on a machine that also compiles.
const LIMIT: Duration = Duration::from_secs(60);

/// A directory with the executables side by side, a manifest and a state directory.
struct Place {
    directory: PathBuf,
    address: SocketAddr,
}

impl Place {
    /// `number` makes the place's address its own.
    fn new(cluster: &str, number: u8) -> Self {
        let directory = Path::new(env!("CARGO_TARGET_TMPDIR")).join(format!("local-{}-{number}", std::process::id()));
        let command = Path::new(env!("CARGO_BIN_EXE_sipcluster"));
        let stand_in = command.parent().expect("a directory").join("examples/stand_in");
        assert!(
            stand_in.is_file(),
            "the stand-in is built by `cargo test -p cli` without --test"
        );
        std::fs::create_dir_all(&directory).expect("a directory");
        for (from, name) in [
            (command, "sipcluster"),
            (&stand_in, "sipcluster-proxy"),
            (&stand_in, "sipcluster-container"),
        ] {
            // A link: a copy could still be open for writing in a child that another test has just forked.
            std::fs::hard_link(from, directory.join(name)).expect("a link");
        }
        let place = Self {
            directory,
            address: address(number),
        };
        place.manifest(cluster, "");
        place
    }

    fn manifest(&self, cluster: &str, more: &str) {
        self.manifest_with(cluster, "[udp, tcp]", more);
    }

    fn manifest_with(&self, cluster: &str, transports: &str, more: &str) {
        let text = format!(
            "apiVersion: sipcluster.dev/v1alpha1\nkind: SipCluster\nmetadata: {{name: {cluster}}}\nspec:\n  replicas: 3\n  partitions: 14\n  \
             application: {{answer: {{}}}}\n  dispatcher: {{address: {}, transports: {transports}}}\n{more}",
            self.address.ip()
        );
        std::fs::write(self.directory.join("sipcluster.yaml"), text).expect("a file");
    }

    fn command(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(self.directory.join("sipcluster"));
        command
            .current_dir(&self.directory)
            .args(arguments)
            .args(["--state-dir", "state"]);
        command
    }

    /// Exit code, standard output and standard error.
    fn run(&self, arguments: &[&str]) -> (i32, String, String) {
        told(&self.command(arguments).output().expect("it starts"))
    }

    fn up(&self) -> (i32, String, String) {
        self.run(&["up", "--detach", "-f", "sipcluster.yaml"])
    }

    fn status(&self) -> Value {
        let (code, out, err) = self.run(&["status", "-o", "json"]);
        assert_eq!(code, 0, "{err}");
        serde_json::from_str(&out).expect("JSON")
    }

    /// The status, once it satisfies `condition`.
    fn until(&self, what: &str, condition: impl Fn(&Value) -> bool) -> Value {
        let mut last = Value::Null;
        wait(|| {
            last = self.status();
            condition(&last)
        })
        .unwrap_or_else(|()| panic!("{what}: {last:#}"));
        last
    }

    /// The supervisor's pid.
    fn supervisor(&self) -> u32 {
        let record = std::fs::read(self.directory.join("state/cluster.json")).expect("a record");
        let record: Value = serde_json::from_slice(&record).expect("JSON");
        record["pid"].as_u64().expect("a pid") as u32
    }

    fn state_is_gone(&self) -> bool {
        !self.directory.join("state").exists()
    }
}

/// An address that only this process uses.
fn address(number: u8) -> SocketAddr {
    let [.., high, low] = std::process::id().to_be_bytes();
    SocketAddr::from(([127, 64 + high % 64, low, number], 5060))
}

impl Drop for Place {
    fn drop(&mut self) {
        let _ = self.command(&["down"]).output();
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}

fn told(output: &Output) -> (i32, String, String) {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    (
        output.status.code().unwrap_or(-1),
        text(&output.stdout),
        text(&output.stderr),
    )
}

/// Asks until it is so.
fn wait(mut condition: impl FnMut() -> bool) -> Result<(), ()> {
    let deadline = Instant::now() + LIMIT;
    while !condition() {
        if Instant::now() > deadline {
            return Err(());
        }
        std::thread::yield_now();
    }
    Ok(())
}

fn pids(status: &Value) -> Vec<u32> {
    let parts = ["containers", "proxies"]
        .iter()
        .flat_map(|kind| status[kind].as_array().expect("a list"));
    parts
        .chain([&status["redis"]])
        .filter_map(|part| part["pid"].as_u64())
        .map(|pid| pid as u32)
        .collect()
}

fn lives(pid: u32) -> bool {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    stat.rsplit_once(") ")
        .is_some_and(|(_, rest)| !rest.starts_with(['Z', 'X']))
}

fn signal(pid: u32, signal: i32) {
    // SAFETY: kill(2) takes no pointers.
    assert_eq!(unsafe { libc::kill(pid as i32, signal) }, 0, "{pid} lives");
}

fn all_active(status: &Value) -> bool {
    let parts = ["containers", "proxies"]
        .iter()
        .flat_map(|kind| status[kind].as_array().expect("a list"));
    parts.chain([&status["redis"]]).all(|part| part["state"] == "Active")
}

fn containers(status: &Value) -> usize {
    status["containers"].as_array().expect("a list").len()
}

#[test]
fn cluster_comes_up_is_shown_heals_scales_and_goes_without_a_trace() {
    let place = Place::new("demo", 1);
    let (code, out, err) = place.up();
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains(&format!(
            "demo works: 3 containers behind 2 proxies at {}",
            place.address
        )),
        "{out}"
    );
    assert!(
        out.contains(&format!("sipp -sn uac {}", place.address)) && out.contains("kill -9 "),
        "{out}"
    );
    assert!(
        out.contains(&format!("sip:anyone@{} (UDP, TCP)", place.address)),
        "{out}"
    );

    let status = place.status();
    assert_eq!(status["address"], place.address.to_string());
    assert_eq!((containers(&status), all_active(&status)), (3, true), "{status:#}");
    assert_eq!(status["gate"], Value::Null, "nothing is waited for once it works");
    let first = &status["containers"][0];
    assert_eq!(
        (&first["name"], &first["partitions"], &first["dialogs"], &first["load"]),
        (&"demo-0".into(), &7.into(), &5.into(), &3.into())
    );
    assert!(
        status["redis"]["url"]
            .as_str()
            .expect("a URL")
            .starts_with("redis://127.0.0.1:")
    );
    let (_, table, _) = place.run(&["status"]);
    assert!(
        table.starts_with(&format!(
            "demo at {}: 3 of 3 containers and 2 of 2 proxies active, 21 of 14 partitions",
            place.address
        )),
        "{table}"
    );

    let victim = first["pid"].as_u64().expect("a pid") as u32;
    signal(victim, libc::SIGKILL);
    let healed = place.until("a new process", |status| {
        status["containers"][0]["restarts"] == 1 && all_active(status)
    });
    assert_ne!(healed["containers"][0]["pid"], victim);

    assert_eq!(place.run(&["scale", "5"]).0, 0);
    assert_eq!(containers(&place.status()), 5);
    assert_eq!(place.run(&["scale", "2"]).0, 0);
    let small = place.status();
    assert_eq!(
        (containers(&small), small["containers"][1]["name"].as_str()),
        (2, Some("demo-1"))
    );

    assert_eq!(lines_of_a_watch(&place, 2), 2);

    let running = pids(&small);
    assert_eq!(running.len(), 5);
    let (code, out, _) = place.run(&["down"]);
    assert_eq!((code, out.as_str()), (0, "demo is down\n"));
    assert_eq!(running.iter().filter(|pid| lives(**pid)).count(), 0);
    assert!(place.state_is_gone());
}

/// How many states `status --watch` shows, up to `wanted`.
fn lines_of_a_watch(place: &Place, wanted: usize) -> usize {
    let mut watch = place
        .command(&["status", "--watch", "-o", "json"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("it starts");
    let out = BufReader::new(watch.stdout.take().expect("its output"));
    let states = out.lines().map_while(Result::ok).take(wanted);
    let count = states
        .filter(|line| serde_json::from_str::<Value>(line).is_ok_and(|state| all_active(&state)))
        .count();
    watch.kill().expect("it watches until it is ended");
    watch.wait().expect("it has ended");
    count
}

#[test]
fn wrong_manifest_exits_64_before_anything_else_is_looked_at() {
    let place = Place::new("demo", 2);
    let _taken = UdpSocket::bind(place.address).expect("a free address");
    place.manifest("demo", "  replica: 3\n  proxies: {replicas: 0}\n");
    let (code, _, err) = place.up();
    assert_eq!(code, 64);
    assert_eq!(
        err,
        "sipcluster: sipcluster.yaml: spec.proxies.replicas: 0: this is too small; write a whole number from 1 to 64\n\
         sipcluster: sipcluster.yaml: spec.replica: this field is not known; did you mean replicas?\n"
    );
    assert!(place.state_is_gone());
    let (code, _, err) = place.run(&["up", "-f", "none.yaml"]);
    assert!(code == 64 && err.contains("name a manifest with -f"), "{code} {err}");
    assert_eq!(place.run(&["scale", "0"]).0, 64);
}

#[test]
fn port_in_use_says_by_whom_and_what_to_do() {
    let place = Place::new("demo", 3);
    let user = format!(
        "(pid {}); end that, or choose another spec.dispatcher.port",
        std::process::id()
    );
    for transport in ["udp", "tcp"] {
        let _udp = (transport == "udp").then(|| UdpSocket::bind(place.address).expect("a free address"));
        let _tcp = (transport == "tcp").then(|| TcpListener::bind(place.address).expect("a free address"));
        let (code, _, err) = place.up();
        assert!(
            code == 1 && err.contains(&format!("{}/{transport} is in use by ", place.address)),
            "{code} {err}"
        );
        assert!(err.contains(&user), "{err}");
        let program = std::env::current_exe().expect("this test");
        let program = program.file_name().expect("a name").to_string_lossy();
        assert!(program.len() > 15, "long enough to be cut off: {program}");
        assert!(err.contains(&format!(" is in use by {program} (pid")), "{err}");
        assert!(place.state_is_gone());
    }
    place.manifest("demo", "  redis: {external: {url: \"redis://:hidden@127.0.0.1:1\"}}\n");
    let (code, _, err) = place.up();
    assert!(
        code == 1 && err.contains("no Redis answers at 127.0.0.1:1 ") && err.contains("Connection refused"),
        "{code} {err}"
    );
    assert!(!err.contains("hidden"), "{err}");
    place.manifest(
        "demo",
        "  redis: {external: {url: \"rediss://127.0.0.1\", caSecret: {name: ca}}}\n",
    );
    let (code, _, err) = place.up();
    assert!(
        code == 64
            && err.contains("spec.redis.external.caSecret: there are no Secrets on one machine; write the file's name"),
        "{code} {err}"
    );
    place.manifest("demo", "  redis: {external: {secret: {name: \"redis\"}}}\n");
    let (code, _, err) = place.up();
    assert!(
        code == 64 && err.contains("spec.redis.external.secret: there are no Secrets on one machine; write the URL"),
        "{code} {err}"
    );
}

#[test]
fn keys_are_not_rotated_on_one_machine_and_it_says_so() {
    let place = Place::new("demo", 19);
    place.manifest("demo", "  keys: {current: 2}\n");
    let (code, _, err) = place.up();
    assert!(
        code == 64 && err.contains("spec.keys: keys are rotated on Kubernetes only; leave it out"),
        "{code} {err}"
    );
}

#[test]
fn nor_is_the_password_of_redis() {
    let place = Place::new("demo", 20);
    place.manifest("demo", "  redis: {managed: {password: 2}}\n");
    let (code, _, err) = place.up();
    assert!(
        code == 64
            && err.contains("spec.redis.managed.password: the password is rotated on Kubernetes only; leave it out"),
        "{code} {err}"
    );
}

#[test]
fn address_of_another_machine_says_what_to_do() {
    let mut place = Place::new("demo", 4);
    place.address = SocketAddr::from(([192, 0, 2, 1], 5060));
    place.manifest("demo", "");
    let (code, _, err) = place.up();
    assert!(
        code == 1 && err.contains("this machine has no address 192.0.2.1; write one of its own"),
        "{code} {err}"
    );
}

#[test]
fn missing_executables_say_what_to_do() {
    let place = Place::new("demo", 5);
    let without_path = place
        .command(&["up", "-f", "sipcluster.yaml"])
        .env("PATH", "/nowhere")
        .output()
        .expect("it starts");
    let (code, _, err) = told(&without_path);
    assert!(
        code == 1
            && err.contains("redis-server is not installed; install it (on Debian: apt-get install redis-server)"),
        "{err}"
    );
    std::fs::remove_file(place.directory.join("sipcluster-container")).expect("it was there");
    let (code, _, err) = place.up();
    assert!(
        code == 1 && err.contains("sipcluster-container is not in ") && err.contains("make build"),
        "{err}"
    );
}

#[test]
fn second_cluster_with_the_same_state_directory_is_told_so() {
    let place = Place::new("demo", 6);
    assert_eq!(place.up().0, 0);
    let (code, _, err) = place.up();
    assert!(
        code == 1 && err.contains("the cluster demo is running (pid "),
        "{code} {err}"
    );
    assert!(
        err.contains("down --state-dir") && err.contains("a directory of its own"),
        "{err}"
    );
    assert!(all_active(&place.status()));
}

#[test]
fn part_that_cannot_work_ends_the_start_with_its_words() {
    for (cluster, words) in [
        ("misled", "--workers: 0: nothing can be done by nobody"),
        ("broken", "an internal promise was broken"),
    ] {
        let place = Place::new(cluster, 7);
        let (code, _, err) = place.up();
        assert!(
            code == 1 && err.contains("before the cluster worked") && err.contains(words),
            "{code} {err}"
        );
        let (code, _, err) = place.run(&["status"]);
        assert!(code == 1 && err.contains("no cluster is running"), "{code} {err}");
    }
}

#[test]
fn nothing_outlives_a_killed_supervisor_and_the_next_one_starts_afresh() {
    let place = Place::new("demo", 8);
    assert_eq!(place.up().0, 0);
    let running = pids(&place.status());
    signal(place.supervisor(), libc::SIGKILL);
    wait(|| !running.iter().any(|pid| lives(*pid))).expect("children die with the supervisor");
    assert_eq!(place.run(&["status"]).0, 1);
    assert_eq!(place.up().0, 0);
    assert!(all_active(&place.status()));
}

#[test]
fn down_removes_what_a_killed_supervisor_left() {
    let place = Place::new("demo", 10);
    assert_eq!(place.up().0, 0);
    signal(place.supervisor(), libc::SIGKILL);
    wait(|| place.run(&["status"]).0 == 1).expect("it is gone");
    assert!(!place.state_is_gone());
    let (code, out, err) = place.run(&["down"]);
    assert_eq!(code, 0, "{err}");
    assert_eq!(out, "no cluster is running here; what the last one left is removed\n");
    assert!(place.state_is_gone());
    assert_eq!(place.run(&["down"]).1, "no cluster is running here\n");
}

#[test]
fn parts_are_named_rightly_whatever_the_cluster_is_called() {
    let place = Place::new("a-proxy-b", 11);
    assert_eq!(place.up().0, 0);
    let (code, out, err) = place.run(&["scale", "4"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("a-proxy-b-3 is being started\n") && out.ends_with("a-proxy-b has 4 containers\n"),
        "{out}"
    );
    let (_, table, _) = place.run(&["status"]);
    let row = table
        .lines()
        .find(|line| line.starts_with("a-proxy-b-3 "))
        .expect("a row");
    assert!(
        row.trim_end().ends_with("7         5       3  yes"),
        "a container has counts: {table}"
    );
    let row = table
        .lines()
        .find(|line| line.starts_with("a-proxy-b-proxy-1 "))
        .expect("a row");
    assert!(row.trim_end().ends_with('-'), "a proxy has none: {table}");
}

#[test]
fn welcome_offers_only_what_the_manifest_does() {
    let place = Place::new("demo", 12);
    place.manifest_with("demo", "[tcp]", "");
    let (code, out, err) = place.up();
    assert_eq!(code, 0, "{err}");
    assert!(out.contains(" (TCP)\n") && out.contains(" -t t1 -m 10"), "{out}");
}

#[test]
fn restart_replaces_one_kind_one_at_a_time_and_says_so() {
    let place = Place::new("demo", 13);
    assert_eq!(place.up().0, 0);
    let mut before = place.status();
    for (kind, list, steps) in [
        ("containers", "containers", ["demo-2", "demo-1", "demo-0"].as_slice()),
        ("proxies", "proxies", &["demo-proxy-1", "demo-proxy-0"]),
        ("redis", "redis", &["demo-redis"]),
    ] {
        let (code, out, err) = place.run(&["restart", kind]);
        assert_eq!(code, 0, "{err}");
        let told: Vec<_> = out.lines().filter_map(|line| line.split_once(" is told to ")).collect();
        assert_eq!(told.iter().map(|(name, _)| *name).collect::<Vec<_>>(), steps, "{out}");
        // Each is back before the next is told.
        for name in steps {
            let place_of = |what: &str| {
                out.find(&format!("{name} {what}"))
                    .unwrap_or_else(|| panic!("{name} {what}: {out}"))
            };
            assert!(
                place_of("is told to") < place_of("has left") && place_of("has left") < place_of("is being started")
            );
            assert!(place_of("is being started") < place_of("is active"), "{out}");
        }
        assert!(out.ends_with(&format!("demo: {kind} restarted\n")), "{out}");
        let after = place.status();
        assert!(all_active(&after), "{after:#}");
        for other in ["containers", "proxies", "redis"] {
            let pids = |status: &Value| match &status[other] {
                Value::Array(parts) => parts.iter().map(|part| part["pid"].clone()).collect(),
                part => vec![part["pid"].clone()],
            };
            let (old, new) = (pids(&before), pids(&after));
            let kept = old.iter().zip(&new).filter(|(old, new)| old == new).count();
            assert_eq!(
                kept,
                if other == list { 0 } else { old.len() },
                "{kind}, {other}: {old:?} {new:?}"
            );
        }
        before = after;
    }
    assert_eq!(place.run(&["restart", "supervisor"]).0, 64);
}

#[test]
fn apply_changes_what_it_must_and_touches_nothing_if_it_cannot() {
    let place = Place::new("demo", 14);
    assert_eq!(place.up().0, 0);
    let before = place.status();
    let apply = |more: &[&str]| place.run(&[&["apply", "-f", "sipcluster.yaml"], more].concat());
    assert_eq!(apply(&[]), (0, "nothing changes\n".into(), String::new()));

    place.manifest(
        "demo",
        "  containers: {workers: 2}\n  redis: {external: {url: \"redis://127.0.0.1:1\"}}\n",
    );
    let (code, out, err) = apply(&[]);
    assert_eq!((code, out.as_str()), (64, ""), "{err}");
    assert!(
        err.starts_with("sipcluster: sipcluster.yaml: spec.redis.external.instances: ")
            && err.contains("while the cluster runs"),
        "{err}"
    );
    assert_eq!(pids(&place.status()), pids(&before), "nothing is touched");

    place.manifest("demo", "  containers: {workers: 2}\n  proxies: {replicas: 3}\n");
    let changes = "spec.containers.workers: nothing -> 2: containers are replaced one at a time\n\
                   spec.proxies.replicas: 2 -> 3: no restart\n";
    assert_eq!(apply(&["--dry-run"]), (0, changes.into(), String::new()));
    assert_eq!(pids(&place.status()), pids(&before), "nothing is touched");
    let (code, out, err) = apply(&[]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.starts_with(changes) && out.ends_with("demo is as sipcluster.yaml describes it\n"),
        "{out}"
    );
    let after = place.status();
    assert_eq!(after["proxies"].as_array().expect("a list").len(), 3);
    assert_eq!(
        after["proxies"][0]["pid"], before["proxies"][0]["pid"],
        "no proxy is restarted"
    );
    for container in after["containers"].as_array().expect("a list") {
        let line = std::fs::read(format!("/proc/{}/cmdline", container["pid"])).expect("it runs");
        assert!(
            String::from_utf8_lossy(&line).contains("--workers\u{0}2\u{0}"),
            "{container}"
        );
    }

    place.manifest(
        "demo",
        "  containers: {workers: 2}\n  proxies: {replicas: 3, emergency: [\"112\", \"urn:service:police\"]}\n",
    );
    let (code, out, err) = apply(&[]);
    assert_eq!(code, 0, "{err}");
    let change =
        "spec.proxies.emergency: nothing -> [\"112\",\"urn:service:police\"]: proxies are replaced one at a time\n";
    assert!(out.starts_with(change), "{out}");
    for proxy in place.status()["proxies"].as_array().expect("a list") {
        let line = std::fs::read(format!("/proc/{}/cmdline", proxy["pid"])).expect("it runs");
        let flags = "--emergency=112\u{0}--emergency=urn:service:police\u{0}";
        assert!(String::from_utf8_lossy(&line).contains(flags), "{proxy}");
    }
}

#[test]
fn a_move_that_is_stuck_ends_the_command_with_its_reason_and_can_be_taken_back() {
    let place = Place::new("demo", 15);
    assert_eq!(place.up().0, 0);
    let before = place.status();
    place.manifest("demo", "  containers: {workers: 13}\n");
    let (code, out, err) = place.run(&["apply", "-f", "sipcluster.yaml", "--timeout", "4s"]);
    assert_eq!(code, 1, "{err}");
    assert!(err.contains("not done within 4s: demo-2 "), "{err}");
    assert!(
        out.contains("demo-2 ended with status 1") && out.contains("its log: "),
        "{out}"
    );
    let stuck = place.status();
    for at in 0..2 {
        let pid = |status: &Value| status["containers"][at]["pid"].clone();
        assert_eq!(pid(&before), pid(&stuck), "the others go on as they were");
    }
    place.manifest("demo", "");
    assert_eq!(place.run(&["apply", "-f", "sipcluster.yaml"]).0, 0);
    assert!(all_active(&place.status()));
}

#[test]
fn a_part_that_does_not_leave_when_told_is_killed() {
    let place = Place::new("stubborn", 16);
    place.manifest("stubborn", "  containers: {quiesce: 0s}\n");
    assert_eq!(place.up().0, 0);
    let (code, out, err) = place.run(&["scale", "2"]);
    assert_eq!(code, 0, "{err}");
    assert!(
        out.contains("stubborn-2 has not left in time and is killed") && out.contains("stubborn-2 has left"),
        "{out}"
    );
}

#[test]
fn interrupt_in_the_foreground_stops_all_of_it() {
    let place = Place::new("demo", 9);
    let mut foreground: Child = place
        .command(&["up", "-f", "sipcluster.yaml"])
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("it starts");
    wait(|| place.run(&["status"]).0 == 0).expect("it runs");
    let running = pids(&place.until("all active", |status| all_active(status) && containers(status) == 3));
    signal(foreground.id(), libc::SIGINT);
    assert!(foreground.wait().expect("it ends").success());
    assert_eq!(running.iter().filter(|pid| lives(**pid)).count(), 0);
    assert!(place.state_is_gone());
}

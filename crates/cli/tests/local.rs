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
        let text = format!(
            "apiVersion: sipcluster.dev/v1alpha1\nkind: SipCluster\nmetadata: {{name: {cluster}}}\nspec:\n  replicas: 3\n  partitions: 14\n  \
             application: {{answer: {{}}}}\n  dispatcher: {{address: {}}}\n{more}",
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

    let status = place.status();
    assert_eq!(status["address"], place.address.to_string());
    assert_eq!((containers(&status), all_active(&status)), (3, true), "{status:#}");
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
    place.manifest("demo", "  redis: {external: {url: \"redis://127.0.0.1:1\"}}\n");
    let (code, _, err) = place.up();
    assert!(
        code == 1 && err.contains("no Redis answers at 127.0.0.1:1 "),
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
    let record = std::fs::read(place.directory.join("state/cluster.json")).expect("a record");
    let record: Value = serde_json::from_slice(&record).expect("JSON");
    signal(record["pid"].as_u64().expect("a pid") as u32, libc::SIGKILL);
    wait(|| !running.iter().any(|pid| lives(*pid))).expect("children die with the supervisor");
    assert_eq!(place.run(&["status"]).0, 1);
    assert_eq!(place.up().0, 0);
    assert!(all_active(&place.status()));
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

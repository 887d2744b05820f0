//! What proxies and containers show of themselves on their admin ports: it adds up, and it is what docs/metrics.md says. Real processes, a real
//! redis-server, real sockets.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::process::Command;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use tests::interop::caller::{Caller, State, Transport};
use tests::interop::cluster::{Cluster, Manifest, Part};
use tests::interop::http;
use tests::interop::process::{Process, binaries, scratch, signal, source_root, wait_for};

const LIMIT: Duration = Duration::from_secs(30);

/// Metrics of all processes of a kind.
struct Pages(Vec<String>);

impl Pages {
    fn of(parts: &[Part]) -> anyhow::Result<Self> {
        let admin = |part: &Part| part.admin.with_context(|| format!("{} has an admin port", part.name));
        let page = |part| http::get(admin(part)?, "/metrics");
        parts.iter().map(page).collect::<Result<_, _>>().map(Self)
    }

    /// The sum over all processes of a metric where its labels contain all of `labels`; not a number if it is not served.
    fn sum(&self, name: &str, labels: &str) -> f64 {
        let value = |page: &String| http::metric_where(page, name, labels).unwrap_or(f64::NAN);
        self.0.iter().map(value).sum()
    }
}

/// A sum of metrics, or what it should be.
type Sum<'a> = &'a dyn Fn(&Pages, &Pages) -> f64;

/// Metrics of proxies and containers, read again until both sums are equal: pages are a little behind.
fn expect(cluster: &Cluster, what: &str, left: Sum<'_>, right: Sum<'_>) -> anyhow::Result<()> {
    let deadline = Instant::now() + Duration::from_secs(5);
    loop {
        let status = cluster.status()?;
        let (proxies, containers) = (Pages::of(&status.proxies)?, Pages::of(&status.containers)?);
        let (left, right) = (left(&proxies, &containers), right(&proxies, &containers));
        if left == right {
            return Ok(());
        }
        ensure!(Instant::now() < deadline, "{what}: {left} against {right}");
    }
}

fn from_clients(proxies: &Pages, results: &[&str]) -> f64 {
    let kinds = ["new_request", "in_dialog_request", "peer_response"];
    let each = kinds
        .iter()
        .flat_map(|kind| results.iter().map(move |result| (kind, result)));
    each.map(|(kind, result)| {
        let labels = format!("kind=\"{kind}\",result=\"{result}\"");
        proxies.sum("sipcluster_proxy_messages_total", &labels)
    })
    .sum()
}

const RESULTS: [&str; 4] = ["forwarded", "held", "answered", "dropped"];

/// Nonsense that no answer is allowed to, and requests that get 400.
fn send_malformed(from: std::net::IpAddr, to: SocketAddr, count: usize) -> anyhow::Result<()> {
    let socket = UdpSocket::bind((from, 0))?;
    let local = socket.local_addr()?;
    for round in 0..count {
        socket.send_to(b"no SIP at all\r\n\r\n", to)?;
        let bad = format!(
            "OPTIONS sip:{to} SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bKbad{round}\r\nFrom: <sip:a@b>;tag=1\r\nTo: <sip:c@d>\r\n\
             Call-ID: bad{round}\r\nCSeq: 1 INVITE\r\nMax-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
        );
        socket.send_to(bad.as_bytes(), to)?;
    }
    Ok(())
}

/// Calls over TCP, where nobody repeats anything, and what was malformed over UDP: all of it is counted, once.
fn messages_add_up(cluster: &Cluster, caller: &Caller, calls: f64, malformed: f64) -> anyhow::Result<()> {
    // INVITE, ACK and BYE of each call.
    expect(
        cluster,
        "what clients sent is what the proxies received",
        &|_, _| 3.0 * calls + 2.0 * malformed,
        &|proxies, _| {
            proxies.sum("sipcluster_proxy_stream_messages_received_total", "")
                + proxies.sum("sipcluster_proxy_datagrams_received_total", "")
        },
    )?;
    expect(
        cluster,
        "what came is forwarded, held, answered or dropped",
        &|_, _| 3.0 * calls + 2.0 * malformed,
        &|proxies, _| {
            from_clients(proxies, &RESULTS) + proxies.sum("sipcluster_proxy_dropped_total", "reason=\"malformed\"")
        },
    )?;
    expect(
        cluster,
        "every call's requests are forwarded",
        &|_, _| 3.0 * calls,
        &|proxies, _| from_clients(proxies, &["forwarded"]),
    )?;
    expect(
        cluster,
        "every readable bad request is answered by the proxy with 400",
        &|_, _| malformed,
        &|proxies, _| {
            let answers = proxies
                .0
                .iter()
                .filter_map(|page| http::metric_where(page, "sipcluster_proxy_answers_total", "status=\"400\""));
            answers.sum()
        },
    )?;
    expect(
        cluster,
        "what proxies forward is what containers receive, and all of it is handled",
        &|proxies, _| from_clients(proxies, &["forwarded"]),
        &|_, containers| {
            let labels = "kind=\"proxy_request\",result=\"handled\"";
            containers.sum("sipcluster_container_messages_total", labels)
        },
    )?;
    expect(
        cluster,
        "what containers send is what proxies receive from them",
        &|_, containers| {
            containers.sum(
                "sipcluster_container_messages_total",
                "kind=\"own_request\",result=\"sent\"",
            ) + containers.sum(
                "sipcluster_container_messages_total",
                "kind=\"own_response\",result=\"sent\"",
            )
        },
        &|proxies, _| proxies.sum("sipcluster_proxy_container_messages_received_total", ""),
    )?;
    expect(
        cluster,
        "the containers' responses are what the caller heard",
        &|_, _| caller.responses as f64,
        &|proxies, _| {
            let labels = "kind=\"container_response\",result=\"forwarded\"";
            proxies.sum("sipcluster_proxy_messages_total", labels)
        },
    )
}

fn state_adds_up(cluster: &Cluster, sessions: f64, dialogs: f64) -> anyhow::Result<()> {
    for (metric, expected) in [
        ("sipcluster_container_sessions_total", sessions),
        ("sipcluster_container_dialogs", dialogs),
        ("sipcluster_container_dialogs_ended_total", sessions - dialogs),
        (
            "sipcluster_container_partitions_owned",
            f64::from(cluster.manifest().partitions),
        ),
        ("sipcluster_container_replicated", 3.0),
        ("sipcluster_container_takeover_seconds_count", 0.0),
    ] {
        expect(cluster, metric, &|_, _| expected, &|_, containers| {
            containers.sum(metric, "")
        })?;
    }
    expect(
        cluster,
        "a turn's writes are acknowledged together",
        &|_, _| 1.0,
        &|_, containers| {
            let turns = containers.sum("sipcluster_container_replication_lag_seconds_count", "");
            let took = containers.sum("sipcluster_container_replication_lag_seconds_sum", "");
            let writes = containers.sum("sipcluster_container_writes_total", "result=\"sent\"");
            f64::from(u8::from(turns > 0.0 && turns <= writes && took > 0.0))
        },
    )
}

/// `GET path` of every part is answered with this status.
fn every_part_says(parts: &[Part], path: &str, expected: u16) -> anyhow::Result<()> {
    for part in parts {
        let (status, body) = http::get_any(part.admin.context("an admin port")?, path)?;
        ensure!(status == expected, "{path} of {}: {status} {body}", part.name);
    }
    Ok(())
}

/// The survivors tell of the takeover, and of the hand-over to the container that came back.
fn a_kill_is_counted(cluster: &Cluster) -> anyhow::Result<()> {
    let victim = cluster.status()?.containers.remove(0);
    let owned = victim.partitions.context("the victim's partitions")? as f64;
    signal(victim.running()?, libc::SIGKILL)?;
    cluster.settle(LIMIT)?;
    let status = cluster.status()?;
    ensure!(status.containers[0].pid != victim.pid, "the victim was started again");
    let survivors = Pages::of(&status.containers[1..])?;
    for page in &survivors.0 {
        let suspected = http::metric_where(page, "sipcluster_container_suspicions_total", "reason=\"closed\"");
        ensure!(suspected == Some(1.0), "suspicions of a survivor: {suspected:?}");
    }
    let taken = survivors.sum("sipcluster_container_partitions_taken_over_total", "");
    ensure!(taken == owned, "{taken} partitions taken over of {owned}");
    let takeovers = survivors.sum("sipcluster_container_takeover_seconds_count", "");
    let inside = survivors.sum("sipcluster_container_takeover_seconds_bucket", "le=\"5.0\"");
    ensure!(
        takeovers == 2.0 && inside == takeovers,
        "{takeovers} takeovers by two survivors, {inside} within 5 s"
    );
    let claims = survivors.sum("sipcluster_container_claims_total", "result=\"sent\"");
    ensure!(claims >= taken, "{claims} claims for {taken} partitions");
    let back = status.containers[0].partitions.context("its share")? as f64;
    let handed = survivors.sum("sipcluster_container_partitions_handed_over_total", "");
    ensure!(
        handed >= back,
        "{handed} partitions handed over, {back} owned by the container that came back"
    );
    Ok(())
}

#[test]
fn metrics_add_up_and_tell_of_a_takeover() -> anyhow::Result<()> {
    const CALLS: usize = 200;
    const MALFORMED: usize = 20;
    let cluster = Cluster::start(Manifest {
        name: "admin",
        address: [87, 3],
        ..Manifest::default()
    })?;
    let status = cluster.status()?;
    let all: Vec<Part> = status.containers.iter().chain(&status.proxies).cloned().collect();
    every_part_says(&all, "/livez", 200)?;
    every_part_says(&all, "/readyz", 200)?;
    every_part_says(&all, "/nothing", 404)?;
    let mut caller = Caller::new(Transport::Tcp, cluster.caller_address(), cluster.address(), 16)?;
    caller.paced(500, 0..CALLS, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT)?;
    caller.expect_all_ok("INVITE", 0, CALLS)?;
    state_adds_up(&cluster, CALLS as f64, CALLS as f64)?;
    send_malformed(cluster.caller_address(), cluster.address(), MALFORMED)?;
    caller.paced(1_000, caller.indices(State::Confirmed), |caller, call| {
        caller.request(call, "BYE")
    });
    caller.settle(LIMIT)?;
    caller.expect_all_ok("BYE", 0, CALLS)?;
    messages_add_up(&cluster, &caller, CALLS as f64, MALFORMED as f64)?;
    state_adds_up(&cluster, CALLS as f64, 0.0)?;
    served_is_documented(&cluster)?;
    a_kill_is_counted(&cluster)?;
    let status = cluster.status()?;
    every_part_says(&status.containers, "/readyz", 200)?;
    every_part_says(&status.proxies, "/readyz", 200)
}

/// A metric's type and labels by its name.
type Metrics = BTreeMap<String, (String, Vec<String>)>;

/// The rows of docs/metrics.md: name, type, labels. The operator has a test of its own.
fn documented() -> anyhow::Result<Metrics> {
    let page = std::fs::read_to_string(source_root().join("docs/metrics.md"))?;
    let mut all = Metrics::new();
    let row = |line: &&str| line.starts_with("| `sipcluster_") && !line.starts_with("| `sipcluster_operator_");
    for row in page.lines().filter(row) {
        let [name, kind, labels, ..] = row.trim_matches('|').split(" | ").map(str::trim).collect::<Vec<_>>()[..] else {
            bail!("a row of four columns: {row}");
        };
        let labels = labels.split(", ").map(|label| label.trim_matches('`').to_owned());
        let labels = labels.filter(|label| !label.is_empty()).collect();
        let known = all.insert(name.trim_matches('`').to_owned(), (kind.to_owned(), labels));
        ensure!(known.is_none(), "{name} stands there twice");
    }
    Ok(all)
}

/// The metrics of a page: name as samples have it, type, labels.
fn served(page: &str) -> anyhow::Result<Metrics> {
    let mut all = Metrics::new();
    for line in page.lines() {
        let Some(("TYPE", rest)) = line.strip_prefix("# ").and_then(|line| line.split_once(' ')) else {
            continue;
        };
        let (family, kind) = rest.split_once(' ').context("a type")?;
        let name = match kind {
            "counter" => format!("{family}_total"),
            _ => family.to_owned(),
        };
        let sample = match kind {
            "histogram" => format!("{family}_count"),
            _ => name.clone(),
        };
        let sample = page
            .lines()
            .find_map(|line| line.strip_prefix(&sample).filter(|rest| rest.starts_with(['{', ' '])))
            .with_context(|| format!("{name} has no sample"))?;
        let labels = sample.strip_prefix('{').and_then(|rest| rest.split_once('}'));
        let labels = labels.into_iter().flat_map(|(labels, _)| labels.split(','));
        let labels = labels
            .filter_map(|label| Some(label.split_once('=')?.0.to_owned()))
            .collect();
        all.insert(name, (kind.to_owned(), labels));
    }
    Ok(all)
}

/// docs/metrics.md lists exactly what is served; the proxies have answered something by now.
fn served_is_documented(cluster: &Cluster) -> anyhow::Result<()> {
    let status = cluster.status()?;
    let pages = [Pages::of(&status.proxies)?, Pages::of(&status.containers)?];
    let mut found = Metrics::new();
    for page in pages.iter().flat_map(|pages| &pages.0) {
        // A proxy that has answered nothing itself has no status to tell of.
        if http::metric(page, "sipcluster_proxy_answers_total").is_none() && page.contains("sipcluster_proxy_answers") {
            continue;
        }
        found.extend(served(page)?);
    }
    let listed = documented()?;
    for (name, shape) in &listed {
        ensure!(
            found.get(name) == Some(shape),
            "docs/metrics.md: {name} {shape:?}, served: {:?}",
            found.get(name)
        );
    }
    for name in found.keys() {
        ensure!(
            listed.contains_key(name),
            "{name} is served, but docs/metrics.md does not list it"
        );
    }
    Ok(())
}

#[test]
fn a_container_without_redis_lives_and_says_that_it_is_not_ready() -> anyhow::Result<()> {
    let files = scratch("admin-alone")?;
    let admin: SocketAddr = "127.0.87.4:7000".parse()?;
    // Nobody listens at this address's ports.
    let mut command = Command::new(binaries()?.join("sipcluster-container"));
    command.args([
        "--cluster",
        "alone",
        "--name",
        "alone-0",
        "--redis",
        "redis://127.0.87.4:6379",
    ]);
    command.args([
        "--sip",
        "127.0.87.4:7001",
        "--ucf",
        "127.0.87.4:7002",
        "--admin",
        &admin.to_string(),
    ]);
    command.args(["--advertised", "127.0.87.4:5060", "--workers", "1"]);
    command.env("SIPCLUSTER_KEY", "000102030405060708090a0b0c0d0e0f");
    let _container = Process::start(&mut command, &files.join("alone.log"))?;
    let alive = wait_for("the container lives", LIMIT, || http::get_any(admin, "/livez").ok())?;
    assert_eq!(alive.0, 200);
    wait_for("the store's silence is noticed", LIMIT, || {
        let page = http::get(admin, "/metrics").ok()?;
        (http::metric(&page, "sipcluster_container_store_losses_total")? > 0.0).then_some(())
    })?;
    assert_eq!(http::get_any(admin, "/readyz")?, (503, "joining\n".into()));
    let state: serde_json::Value = serde_json::from_str(&http::get(admin, "/state")?)?;
    assert_eq!(
        (&state["state"], &state["replicated"]),
        (&"Joining".into(), &false.into()),
        "{state}"
    );
    assert_eq!(
        (&state["partitions"], &state["dialogs"]),
        (&0.into(), &0.into()),
        "{state}"
    );
    let page = http::get(admin, "/metrics")?;
    assert_eq!(http::metric(&page, "sipcluster_container_replicated"), Some(0.0));
    Ok(())
}

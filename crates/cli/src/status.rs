//! `sipcluster status`: asks every part, and shows what it says.

use std::fmt::Write as _;
use std::io::Write as _;
use std::time::Duration;

use crds::status::{Answer, State};
use serde_json::{Value, json};
use tokio::task::JoinSet;

use crate::args::Output;
use crate::failure::Failure;
use crate::probe;
use crate::state_dir::{PartRecord, Record, StateDir};

/// A part, and what it said just now.
struct Row {
    part: PartRecord,
    answer: Option<Answer>,
}

/// All parts.
struct Status {
    record: Record,
    containers: Vec<Row>,
    proxies: Vec<Row>,
}

/// Shows the state once, or every second.
pub fn run(directory: &StateDir, output: Output, watch: bool) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::system("the runtime", error))?;
    let terminal = std::io::IsTerminal::is_terminal(&std::io::stdout());
    loop {
        let status = runtime.block_on(gather(directory))?;
        let mut text = match output {
            Output::Json => format!("{}\n", status.json()),
            Output::Table => status.table(terminal),
        };
        if watch && terminal {
            // Home, and clear to the end: what was there is overwritten without a flicker.
            text = format!("\x1b[H\x1b[J{text}");
        }
        let mut out = std::io::stdout().lock();
        if out.write_all(text.as_bytes()).and_then(|()| out.flush()).is_err() || !watch {
            // Whoever read this has read enough.
            return Ok(());
        }
        std::thread::sleep(Duration::from_secs(1));
    }
}

async fn gather(directory: &StateDir) -> Result<Status, Failure> {
    if !directory.is_running() {
        return Err(directory.nothing_runs());
    }
    // A supervisor that has just begun has written nothing yet.
    let record = directory.record().map_err(|_| directory.nothing_runs())?;
    let containers = ask(&record.containers).await;
    let proxies = ask(&record.proxies).await;
    Ok(Status {
        record,
        containers,
        proxies,
    })
}

/// All at once, for a silent one takes its second.
async fn ask(parts: &[PartRecord]) -> Vec<Row> {
    let mut asked = JoinSet::new();
    for (at, part) in parts.iter().enumerate() {
        if let (Some(admin), Some(_)) = (part.admin, part.pid) {
            let name = part.name.clone();
            asked.spawn(async move { (at, probe::ask(admin, &name).await) });
        }
    }
    let mut rows: Vec<_> = parts
        .iter()
        .map(|part| Row {
            part: part.clone(),
            answer: None,
        })
        .collect();
    while let Some(answered) = asked.join_next().await {
        if let Ok((at, answer)) = answered {
            rows[at].answer = answer;
        }
    }
    rows
}

impl Row {
    /// Its own word, unless the supervisor knows better or it says nothing.
    fn state(&self) -> State {
        match (self.part.state, self.answer) {
            (told @ (State::Stopping | State::Failed), _) => told,
            (_, Some(answer)) => answer.state,
            (State::Active | State::Joining, None) => State::Silent,
            (known, None) => known,
        }
    }

    fn json(&self) -> Value {
        json!({
            "name": self.part.name, "pid": self.part.pid, "state": self.state(), "restarts": self.part.restarts, "admin": self.part.admin,
        })
    }

    fn container_json(&self) -> Value {
        let mut value = self.json();
        let counts = self
            .answer
            .map_or((0, 0, 0), |answer| (answer.partitions, answer.dialogs, answer.load));
        value["partitions"] = counts.0.into();
        value["dialogs"] = counts.1.into();
        value["load"] = counts.2.into();
        value["replicated"] = self.answer.map(|answer| answer.replicated).into();
        value["fromMemory"] = self.answer.map(|answer| answer.from_memory).into();
        value
    }
}

impl Status {
    fn json(&self) -> Value {
        let redis = &self.record.redis;
        json!({
            "name": self.record.name,
            "address": self.record.address,
            "replicas": self.record.replicas,
            "partitions": self.record.partitions,
            "gate": self.record.gate,
            "containers": self.containers.iter().map(Row::container_json).collect::<Vec<_>>(),
            "proxies": self.proxies.iter().map(Row::json).collect::<Vec<_>>(),
            "redis": { "name": redis.name, "pid": redis.pid, "state": redis.state, "restarts": redis.restarts, "url": redis.url },
        })
    }

    fn table(&self, colour: bool) -> String {
        let sum = |count: fn(&Answer) -> u64| {
            self.containers
                .iter()
                .filter_map(|row| row.answer.as_ref())
                .map(count)
                .sum::<u64>()
        };
        let active = |rows: &[Row]| rows.iter().filter(|row| row.state() == State::Active).count();
        let Record {
            name,
            address,
            replicas,
            partitions,
            gate,
            redis,
            ..
        } = &self.record;
        let mut text = format!(
            "{name} at {address}: {} of {replicas} containers and {} of {} proxies active, {} of {partitions} partitions owned, {} dialogs\n",
            active(&self.containers),
            active(&self.proxies),
            self.proxies.len(),
            sum(|answer| answer.partitions),
            sum(|answer| answer.dialogs),
        );
        if let Some(gate) = gate {
            let _ = writeln!(text, "waits: {gate}");
        }
        let from_memory = sum(|answer| answer.from_memory.into());
        if from_memory > 0 {
            let _ = writeln!(
                text,
                "{from_memory} of {replicas} containers act from memory: Redis carries out no writes, and a container that is lost now takes its calls with it"
            );
        }
        let width = self
            .rows()
            .map(|row| row.part.name.len())
            .chain([redis.name.len(), 4])
            .max()
            .unwrap_or(4);
        let _ = writeln!(
            text,
            "\n{:<width$}  {:<9}  {:>7}  {:>8}  {:>10}  {:>8}  {:>6}  REPLICATED",
            "NAME", "STATE", "PID", "RESTARTS", "PARTITIONS", "DIALOGS", "LOAD"
        );
        let rows = self.containers.iter().map(|row| (row, row.answer));
        for (row, counted) in rows.chain(self.proxies.iter().map(|row| (row, None))) {
            let counts = match counted {
                Some(answer) => {
                    let Answer {
                        partitions,
                        dialogs,
                        load,
                        ..
                    } = answer;
                    format!("{partitions:>10}  {dialogs:>8}  {load:>6}  {}", answer.copies())
                }
                None => format!("{:>10}  {:>8}  {:>6}  -", "-", "-", "-"),
            };
            let _ = writeln!(text, "{}  {counts}", leading(&row.part, row.state(), width, colour));
        }
        let _ = writeln!(
            text,
            "{}  {}",
            leading(redis, redis.state, width, colour),
            redis.url.as_deref().unwrap_or_default()
        );
        text
    }

    fn rows(&self) -> impl Iterator<Item = &Row> {
        self.containers.iter().chain(&self.proxies)
    }
}

/// Name, state, pid and restarts: what every part has.
fn leading(part: &PartRecord, state: State, width: usize, colour: bool) -> String {
    let shade = match state {
        _ if !colour => "",
        State::Active => "\x1b[32m",
        State::Failed | State::Silent => "\x1b[31m",
        _ => "\x1b[33m",
    };
    let end = if shade.is_empty() { "" } else { "\x1b[0m" };
    let pid = part.pid.map_or_else(|| "-".to_owned(), |pid| pid.to_string());
    format!(
        "{:<width$}  {shade}{state:<9}{end}  {pid:>7}  {:>8}",
        part.name, part.restarts
    )
}

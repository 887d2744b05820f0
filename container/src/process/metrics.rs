//! The process as Prometheus metrics and as JSON.

use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{Counters, Digest, Holdings};
use crate::records::Key;
use admin::Takeover;
use admin::prometheus::collector::Collector;
use admin::prometheus::encoding::{DescriptorEncoder, EncodeMetric};
use admin::prometheus::metrics::MetricType;
use admin::prometheus::metrics::counter::ConstCounter;
use admin::prometheus::metrics::gauge::ConstGauge;
use serde_json::{Value, json};
use tokio::sync::oneshot;
use ucf::member::{Event, Suspicion};
use ucf::wire::MemberState;

use super::histogram::{Histogram, Totals};
use super::mail::{ToWorker, Workers};
use super::stats::Stats;

/// What the control task shows.
#[derive(Debug)]
pub struct Shown {
    pub state: MemberState,
    /// The store has everything, and takes what comes.
    pub replicated: bool,
    /// Output leaves unwritten.
    pub from_memory: bool,
    /// Why the store was not heard when it was asked last; nothing if it was.
    pub store_trouble: Option<String>,
    pub events: Events,
    /// What came of the last ones who were lost.
    pub takeover: Option<Takeover>,
}

/// Bounds of how long takeovers take, around their target of half a second.
const TAKEN_OVER: [Duration; 10] = [
    Duration::from_millis(10),
    Duration::from_millis(25),
    Duration::from_millis(50),
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(300),
    Duration::from_millis(500),
    Duration::from_secs(1),
    Duration::from_secs(2),
    Duration::from_secs(5),
];

/// What has happened in the cluster.
#[derive(Debug)]
pub struct Events {
    pub takeovers: Histogram<{ TAKEN_OVER.len() }>,
    pub taken_over: u64,
    /// By reason.
    pub suspicions: [u64; 4],
    pub claims: u64,
    pub claims_refused: u64,
    pub handed_over: u64,
    pub store_losses: u64,
    pub strangers: u64,
}

const REASONS: [&str; 4] = ["closed", "silent", "lease", "cut_off"];

impl Default for Events {
    fn default() -> Self {
        Self {
            takeovers: Histogram::new(&TAKEN_OVER),
            taken_over: 0,
            suspicions: [0; 4],
            claims: 0,
            claims_refused: 0,
            handed_over: 0,
            store_losses: 0,
            strangers: 0,
        }
    }
}

impl Events {
    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Takeover { partitions, took, .. } => {
                self.takeovers.observe(*took);
                self.taken_over += *partitions as u64;
            }
            Event::Suspected { why, .. } => {
                let reason = match why {
                    Suspicion::Closed => 0,
                    Suspicion::Silent => 1,
                    Suspicion::Lease => 2,
                    Suspicion::CutOff => 3,
                };
                self.suspicions[reason] += 1;
            }
            Event::Claiming { .. } => self.claims += 1,
            Event::ClaimRefused { .. } => self.claims_refused += 1,
            Event::HandedOver { .. } => self.handed_over += 1,
            Event::StoreLost => self.store_losses += 1,
            _ => {}
        }
    }
}

/// Everything that the pages read.
#[derive(Clone, Debug)]
pub struct Pages {
    pub stats: Vec<Arc<Stats>>,
    pub shown: Arc<Mutex<Shown>>,
    pub name: String,
    pub cluster: String,
    pub incarnation: String,
    pub workers: Workers,
}

impl Pages {
    fn totals(&self) -> (Counters, Holdings) {
        let mut counters = Counters::default();
        let mut holdings = Holdings::default();
        for stats in &self.stats {
            let (more, held) = stats.engine();
            counters += more;
            holdings += held;
        }
        (counters, holdings)
    }

    /// For `/state`.
    pub fn state(&self) -> Value {
        let (_, holdings) = self.totals();
        let shown = self.shown.lock().expect("nobody panics with it in hand");
        let state = match shown.state {
            MemberState::Joining => "Joining",
            MemberState::Active => "Active",
            MemberState::Quiescing => "Quiescing",
        };
        json!({
            "name": self.name,
            "cluster": self.cluster,
            "pid": std::process::id(),
            "incarnation": self.incarnation,
            "state": state,
            "replicated": shown.replicated,
            "fromMemory": shown.from_memory,
            "storeTrouble": shown.store_trouble,
            "partitions": holdings.partitions,
            "dialogs": holdings.dialogs,
            "load": holdings.open_transactions,
            "lastTakeover": shown.takeover,
        })
    }

    /// For `/digests`. A worker that has ended has nothing to say.
    pub async fn digests(self) -> Value {
        let mut all = Vec::new();
        for worker in self.workers.iter() {
            let (to, said) = oneshot::channel();
            let _ = worker.send(ToWorker::Digests(to));
            all.extend(said.await.unwrap_or_default());
        }
        let hex = |key: &Key| {
            key.to_bytes()
                .iter()
                .map(|byte| format!("{byte:02x}"))
                .collect::<String>()
        };
        let shown = |of: Digest| {
            json!({
                "partition": of.partition.0,
                "epoch": of.epoch.0,
                "records": of.records,
                "digest": format!("{:016x}", of.digest),
                "ripe": of.ripe.iter().map(hex).collect::<Vec<_>>(),
            })
        };
        all.into_iter().map(shown).collect()
    }

    /// For `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        match self.shown.lock().expect("nobody panics with it in hand").state {
            MemberState::Active => Ok(()),
            MemberState::Joining => Err("joining".into()),
            MemberState::Quiescing => Err("quiescing".into()),
        }
    }

    fn total(&self, count: fn(&Stats) -> &AtomicU64) -> u64 {
        let counts = self.stats.iter().map(|stats| count(stats).load(Ordering::Relaxed));
        counts.sum()
    }

    fn delay(&self) -> f64 {
        let delays = self
            .stats
            .iter()
            .map(|stats| stats.queue_delay_us.load(Ordering::Relaxed));
        delays.max().unwrap_or_default() as f64 / 1e6
    }
}

type Out<'a> = DescriptorEncoder<'a>;

fn counter(out: &mut Out<'_>, name: &str, help: &str, value: u64) -> fmt::Result {
    counters(out, name, help, &[([], value)])
}

/// A counter for each of some label sets.
fn counters<const N: usize>(
    out: &mut Out<'_>,
    name: &str,
    help: &str,
    values: &[([(&str, &str); N], u64)],
) -> fmt::Result {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (labels, count) in values {
        ConstCounter::new(*count).encode(family.encode_family(labels)?)?;
    }
    Ok(())
}

fn gauge(out: &mut Out<'_>, name: &str, help: &str, value: f64) -> fmt::Result {
    let metric = ConstGauge::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

fn histogram(out: &mut Out<'_>, name: &str, help: &str, totals: &Totals) -> fmt::Result {
    let Totals { buckets, sum, count } = totals;
    let mut metric = out.encode_descriptor(name, help, None, MetricType::Histogram)?;
    metric.encode_histogram::<[(&str, &str); 0]>(sum.as_secs_f64(), *count, buckets, None)
}

impl Collector for Pages {
    fn encode(&self, mut encoder: DescriptorEncoder) -> fmt::Result {
        let out = &mut encoder;
        let (c, holdings) = self.totals();
        self.messages(out, &c)?;
        self.work(out, &c, &holdings)?;
        self.asks(out)?;
        let shown = self.shown.lock().expect("nobody panics with it in hand");
        gauge(
            out,
            "replicated",
            "Whether the store has everything that is in memory",
            f64::from(u8::from(shown.replicated)),
        )?;
        gauge(
            out,
            "acts_from_memory",
            "Whether output leaves before it is written, because the store is lost for every container",
            f64::from(u8::from(shown.from_memory)),
        )?;
        shown.events.encode(out)
    }
}

impl Pages {
    /// What came from proxies and what went to them, each message once.
    fn messages(&self, out: &mut Out<'_>, c: &Counters) -> fmt::Result {
        let total = |count| self.total(count);
        // A request for an unknown dialog is among those that are refused.
        let refused = c.refused.saturating_sub(c.unknown_dialogs);
        let unhandled = c.repeated + c.refused;
        let of = |kind, result, count| ([("kind", kind), ("result", result)], count);
        let messages = [
            of("proxy_request", "handled", c.requests.saturating_sub(unhandled)),
            of("proxy_request", "repeated", c.repeated),
            of("proxy_request", "refused", refused),
            of("proxy_request", "unknown", c.unknown_dialogs),
            of("proxy_request", "returned", c.returned_requests),
            of("proxy_request", "no_partition", c.lost_requests),
            of(
                "proxy_response",
                "handled",
                c.responses.saturating_sub(c.unknown_responses),
            ),
            of("proxy_response", "unknown", c.unknown_responses),
            of("proxy_response", "returned", c.returned_responses),
            of("proxy_response", "no_partition", c.lost_responses),
            of("own_request", "sent", total(|stats| &stats.sent.requests)),
            of("own_request", "unsent", total(|stats| &stats.unsent.requests)),
            of("own_response", "sent", total(|stats| &stats.sent.responses)),
            of("own_response", "unsent", total(|stats| &stats.unsent.responses)),
        ];
        counters(out, "messages", "SIP messages by kind and result", &messages)
    }

    /// What applications ask outside.
    fn asks(&self, out: &mut Out<'_>) -> fmt::Result {
        let of = |result, count| ([("result", result)], self.total(count));
        let asks = [
            of("asked", |stats| &stats.asks.asked),
            of("answered", |stats| &stats.asks.answered),
            of("given_up", |stats| &stats.asks.given_up),
        ];
        counters(out, "asks", "Questions of applications to the outside", &asks)?;
        let repeated = self.total(|stats| &stats.asks.repeated);
        counter(
            out,
            "asks_repeated",
            "Datagrams of questions that were sent again",
            repeated,
        )
    }

    /// What the engines do and hold.
    fn work(&self, out: &mut Out<'_>, c: &Counters, holdings: &Holdings) -> fmt::Result {
        counter(out, "sessions", "Sessions begun", c.sessions)?;
        counter(out, "dialogs_ended", "Dialogs ended", c.ended)?;
        counter(out, "timers_fired", "Timers of applications that fired", c.timers)?;
        let writes = [([("result", "sent")], c.writes), ([("result", "stale")], c.stale)];
        counters(out, "writes", "Fenced writes of partitions", &writes)?;
        counter(
            out,
            "records_unreadable",
            "Records that could not be read",
            c.unreadable,
        )?;
        gauge(
            out,
            "open_transactions",
            "Transactions in progress",
            holdings.open_transactions as f64,
        )?;
        gauge(out, "dialogs", "Dialogs, early and confirmed", holdings.dialogs as f64)?;
        gauge(out, "partitions_owned", "Partitions owned", holdings.partitions as f64)?;
        let help = "How long the first input of a worker's last turn had waited for it, of the slowest worker";
        gauge(out, "queue_delay_seconds", help, self.delay())?;
        let lag = Histogram::total(self.stats.iter().map(|stats| &stats.replication));
        let help = "From the end of a turn to the store's acknowledgement of its writes";
        histogram(out, "replication_lag_seconds", help, &lag)
    }
}

impl Events {
    fn encode(&self, out: &mut Out<'_>) -> fmt::Result {
        let takeovers = Histogram::total([&self.takeovers]);
        let help = "From noticing that a container is down to answering for its partitions";
        histogram(out, "takeover_seconds", help, &takeovers)?;
        counter(out, "partitions_taken_over", "Partitions taken over", self.taken_over)?;
        let suspicions: Vec<_> = REASONS
            .iter()
            .zip(self.suspicions)
            .map(|(reason, count)| ([("reason", *reason)], count))
            .collect();
        counters(out, "suspicions", "Containers taken for down, by reason", &suspicions)?;
        let claims = [
            ([("result", "sent")], self.claims),
            ([("result", "refused")], self.claims_refused),
        ];
        counters(out, "claims", "Claims of partitions", &claims)?;
        counter(
            out,
            "partitions_handed_over",
            "Partitions handed over",
            self.handed_over,
        )?;
        let help = "Links refused because the other side did not prove that it has the cluster's key";
        counter(out, "links_refused", help, self.strangers)?;
        counter(
            out,
            "store_losses",
            "Times that the store did not answer",
            self.store_losses,
        )
    }
}

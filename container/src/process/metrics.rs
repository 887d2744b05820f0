//! The process as Prometheus metrics and as JSON.

use std::fmt;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{Counters, Holdings};
use admin::prometheus::collector::Collector;
use admin::prometheus::encoding::{DescriptorEncoder, EncodeMetric};
use admin::prometheus::metrics::MetricType;
use admin::prometheus::metrics::counter::ConstCounter;
use admin::prometheus::metrics::gauge::ConstGauge;
use serde_json::{Value, json};
use ucf::member::{Event, Suspicion};
use ucf::wire::MemberState;

use super::stats::Stats;

/// What the control task shows.
#[derive(Debug)]
pub struct Shown {
    pub state: MemberState,
    /// The store answers.
    pub replicated: bool,
    pub events: Events,
}

/// What has happened in the cluster.
#[derive(Debug, Default)]
pub struct Events {
    pub takeovers: u64,
    pub taken_over: u64,
    pub takeover_time: Duration,
    pub longest_takeover: Duration,
    /// By reason.
    pub suspicions: [u64; 4],
    pub claims: u64,
    pub claims_refused: u64,
    pub handed_over: u64,
    pub store_losses: u64,
}

const REASONS: [&str; 4] = ["closed", "silent", "lease", "cut_off"];

impl Events {
    pub fn count(&mut self, event: &Event) {
        match event {
            Event::Takeover { partitions, took, .. } => {
                self.takeovers += 1;
                self.taken_over += *partitions as u64;
                self.takeover_time += *took;
                self.longest_takeover = self.longest_takeover.max(*took);
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
            "partitions": holdings.partitions,
            "dialogs": holdings.dialogs,
            "load": holdings.open_transactions,
        })
    }

    /// For `/readyz`.
    pub fn ready(&self) -> Result<(), String> {
        match self.shown.lock().expect("nobody panics with it in hand").state {
            MemberState::Active => Ok(()),
            MemberState::Joining => Err("joining".into()),
            MemberState::Quiescing => Err("quiescing".into()),
        }
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

fn counter(out: &mut Out<'_>, name: &str, help: &str, values: &[(&str, &str, u64)]) -> Result<(), fmt::Error> {
    let mut family = out.encode_descriptor(name, help, None, MetricType::Counter)?;
    for (label, value, count) in values {
        let metric = ConstCounter::new(*count);
        if label.is_empty() {
            metric.encode(family.encode_family(&[] as &[(&str, &str); 0])?)?;
        } else {
            metric.encode(family.encode_family(&[(*label, *value)])?)?;
        }
    }
    Ok(())
}

fn gauge(out: &mut Out<'_>, name: &str, help: &str, value: f64) -> Result<(), fmt::Error> {
    let metric = ConstGauge::new(value);
    metric.encode(out.encode_descriptor(name, help, None, MetricType::Gauge)?)
}

impl Collector for Pages {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let out = &mut encoder;
        let (c, holdings) = self.totals();
        let unsent = self
            .stats
            .iter()
            .map(|stats| stats.unsent.load(Ordering::Relaxed))
            .sum();
        let messages = [
            ("result", "request", c.requests),
            ("result", "response", c.responses),
            ("result", "sent", c.sent),
            ("result", "repeated", c.repeated),
            ("result", "returned", c.returned),
            ("result", "refused", c.refused),
            ("result", "unknown_dialog", c.unknown_dialogs),
            ("result", "unknown_response", c.unknown_responses),
            ("result", "no_partition", c.lost),
            ("result", "unsent", unsent),
        ];
        counter(out, "messages", "SIP messages by kind and result", &messages)?;
        counter(out, "sessions", "Sessions begun", &[("", "", c.sessions)])?;
        counter(out, "dialogs_ended", "Dialogs ended", &[("", "", c.ended)])?;
        counter(
            out,
            "timers_fired",
            "Timers of applications that fired",
            &[("", "", c.timers)],
        )?;
        let writes = [("result", "sent", c.writes), ("result", "stale", c.stale)];
        counter(out, "writes", "Fenced writes of partitions", &writes)?;
        counter(
            out,
            "records_unreadable",
            "Records that could not be read",
            &[("", "", c.unreadable)],
        )?;
        gauge(
            out,
            "open_transactions",
            "Transactions in progress",
            holdings.open_transactions as f64,
        )?;
        gauge(out, "dialogs", "Dialogs, early and confirmed", holdings.dialogs as f64)?;
        gauge(out, "partitions_owned", "Partitions owned", holdings.partitions as f64)?;
        gauge(
            out,
            "replication_lag_seconds",
            "How long the last turn's first input had waited for its turn",
            self.delay(),
        )?;
        let shown = self.shown.lock().expect("nobody panics with it in hand");
        let events = &shown.events;
        gauge(
            out,
            "replicated",
            "Whether the store answers",
            f64::from(u8::from(shown.replicated)),
        )?;
        counter(
            out,
            "takeovers",
            "Containers whose partitions were taken over",
            &[("", "", events.takeovers)],
        )?;
        counter(
            out,
            "partitions_taken_over",
            "Partitions taken over",
            &[("", "", events.taken_over)],
        )?;
        gauge(
            out,
            "takeover_seconds_sum",
            "Time that takeovers took, together",
            events.takeover_time.as_secs_f64(),
        )?;
        gauge(
            out,
            "takeover_seconds_max",
            "The longest takeover",
            events.longest_takeover.as_secs_f64(),
        )?;
        let reasons: Vec<_> = REASONS
            .iter()
            .zip(events.suspicions)
            .map(|(reason, count)| ("reason", *reason, count))
            .collect();
        counter(out, "suspicions", "Containers taken for down, by reason", &reasons)?;
        let claims = [
            ("result", "sent", events.claims),
            ("result", "refused", events.claims_refused),
        ];
        counter(out, "claims", "Claims of partitions", &claims)?;
        counter(
            out,
            "partitions_handed_over",
            "Partitions handed over",
            &[("", "", events.handed_over)],
        )?;
        counter(
            out,
            "store_losses",
            "Times that the store did not answer",
            &[("", "", events.store_losses)],
        )
    }
}

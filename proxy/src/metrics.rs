//! The workers' snapshots as Prometheus metrics and as the state of the process.

use std::fmt;
use std::sync::{Arc, Mutex};

use admin::prometheus::collector::Collector;
use admin::prometheus::encoding::{DescriptorEncoder, EncodeMetric};
use admin::prometheus::metrics::MetricType;
use admin::prometheus::metrics::counter::ConstCounter;
use admin::prometheus::metrics::gauge::ConstGauge;
use proxy::forward::{DropReason, Kind, Outcome};
use serde_json::{Value, json};
use ucf::wire::MemberState;

use crate::snapshot::{DriverCounters, Snapshot};

/// One place per worker.
#[derive(Clone, Debug)]
pub struct Snapshots(pub Vec<Arc<Mutex<Snapshot>>>);

impl Snapshots {
    /// Client connections of all workers.
    pub fn clients(&self) -> usize {
        let snapshots = self.0.iter();
        snapshots
            .map(|snapshot| {
                snapshot
                    .lock()
                    .expect("nobody panics with the snapshot in hand")
                    .clients
            })
            .sum()
    }
}

/// A counter of the driver: name, help, where it stands.
type DriverCounter = (&'static str, &'static str, fn(&DriverCounters) -> u64);

const DRIVER: [DriverCounter; 14] = [
    ("datagrams_received", "Datagrams received from clients", |c| {
        c.datagrams_in
    }),
    ("datagram_receives", "System calls that received them", |c| c.receives),
    ("datagrams_sent", "Datagrams sent to clients", |c| c.datagrams_out),
    ("datagrams_dropped", "Datagrams that could not be sent", |c| {
        c.datagrams_dropped
    }),
    (
        "stream_messages_received",
        "Messages received on client connections",
        |c| c.stream_messages_in,
    ),
    ("stream_writes", "Writes to client connections", |c| c.stream_writes),
    ("streams_refused", "Client streams that could not be read on", |c| {
        c.streams_refused
    }),
    (
        "client_connects_failed",
        "Connections to clients that could not be made",
        |c| c.connects_failed,
    ),
    (
        "container_messages_received",
        "Messages received from containers",
        |c| c.link_messages_in,
    ),
    ("container_reads", "Reads that brought them", |c| c.link_reads),
    ("container_writes", "Writes of SIP to containers", |c| c.link_writes),
    (
        "links_refused",
        "Links refused because the other side did not prove that it has the cluster's key",
        |c| c.strangers,
    ),
    ("messages_passed", "Messages passed to the worker of their call", |c| {
        c.passed
    }),
    ("mail_dropped", "Messages between workers that found no room", |c| {
        c.mail_dropped
    }),
];

impl Snapshots {
    /// Places for so many workers.
    pub fn new(workers: u16) -> Self {
        Self((0..workers).map(|_| Arc::default()).collect())
    }

    fn all(&self) -> Vec<Snapshot> {
        let each = self.0.iter();
        each.map(|one| one.lock().expect("nobody panics with the snapshot in hand").clone())
            .collect()
    }

    /// Whether every worker is linked to a container that takes new dialogs.
    pub fn reaches_containers(&self) -> bool {
        self.all().iter().all(|worker| {
            worker
                .containers
                .iter()
                .any(|container| container.is_in(MemberState::Active))
        })
    }

    /// For the page of the state.
    pub fn state(&self) -> Value {
        let workers = self.all();
        let total = |count: fn(&Snapshot) -> u64| workers.iter().map(count).sum::<u64>();
        json!({
            "load": total(|worker| worker.forward.transactions as u64),
            "holding": total(|worker| worker.forward.holding as u64),
            "clients": total(|worker| worker.clients as u64),
            "workers": workers.iter().map(|worker| json!({"containers": worker.containers})).collect::<Vec<_>>(),
        })
    }
}

impl Collector for Snapshots {
    fn encode(&self, mut encoder: DescriptorEncoder) -> Result<(), fmt::Error> {
        let workers = self.all();
        let total = |count: &dyn Fn(&Snapshot) -> u64| workers.iter().map(count).sum::<u64>();

        let mut messages =
            encoder.encode_descriptor("messages", "SIP messages by kind and result", None, MetricType::Counter)?;
        for (kind, kind_name) in Kind::NAMES {
            for (outcome, outcome_name) in Outcome::NAMES {
                let value = total(&|worker| worker.forward.messages[kind as usize][outcome as usize]);
                let labels = [("kind", kind_name), ("result", outcome_name)];
                ConstCounter::new(value).encode(messages.encode_family(&labels)?)?;
            }
        }
        let mut drops =
            encoder.encode_descriptor("dropped", "SIP messages dropped, by reason", None, MetricType::Counter)?;
        for (reason, name) in DropReason::NAMES {
            let value = total(&|worker| worker.forward.drops[reason as usize]);
            ConstCounter::new(value).encode(drops.encode_family(&[("reason", name)])?)?;
        }
        let mut statuses: Vec<u16> = workers
            .iter()
            .flat_map(|worker| worker.forward.answers.keys().copied())
            .collect();
        statuses.sort_unstable();
        statuses.dedup();
        let mut answers = encoder.encode_descriptor(
            "answers",
            "The proxy's own responses, by status",
            None,
            MetricType::Counter,
        )?;
        for status in statuses {
            let value = total(&|worker| worker.forward.answers.get(&status).copied().unwrap_or(0));
            ConstCounter::new(value).encode(answers.encode_family(&[("status", status.to_string())])?)?;
        }
        counter(
            &mut encoder,
            "rerouted",
            "Messages sent again to another container",
            total(&|w| w.forward.rerouted),
        )?;
        counter(
            &mut encoder,
            "relayed",
            "Messages sent to a container through another proxy",
            total(&|w| w.forward.relayed),
        )?;
        counter(
            &mut encoder,
            "pings",
            "Pings sent to keep flows of dialogs open",
            total(&|w| w.forward.pings),
        )?;
        for (name, help, count) in DRIVER {
            counter(&mut encoder, name, help, total(&|worker| count(&worker.driver)))?;
        }
        let refused = total(&|worker| worker.clients_refused);
        counter(
            &mut encoder,
            "clients_refused",
            "Client connections closed for reading too slowly, or refused as too many",
            refused,
        )?;
        gauge(
            &mut encoder,
            "holding",
            "Messages that wait for an owner",
            total(&|w| w.forward.holding as u64),
        )?;
        gauge(
            &mut encoder,
            "transactions",
            "Transactions of new dialogs in memory",
            total(&|w| w.forward.transactions as u64),
        )?;
        gauge(
            &mut encoder,
            "client_connections",
            "Client connections",
            total(&|w| w.clients as u64),
        )?;
        gauge(
            &mut encoder,
            "container_links",
            "Links to containers, of all workers",
            total(&|w| w.containers.len() as u64),
        )?;
        Ok(())
    }
}

fn counter(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
    ConstCounter::new(value).encode(metric)
}

fn gauge(encoder: &mut DescriptorEncoder, name: &str, help: &str, value: u64) -> fmt::Result {
    let metric = encoder.encode_descriptor(name, help, None, MetricType::Gauge)?;
    ConstGauge::new(value as i64).encode(metric)
}

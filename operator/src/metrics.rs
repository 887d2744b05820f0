//! What the operator counts; it begins at nothing with the process, and a replica that waits to lead counts nothing.

use std::fmt;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use admin::prometheus::collector::Collector;
use admin::prometheus::encoding::{DescriptorEncoder, EncodeMetric as _};
use admin::prometheus::metrics::MetricType;
use admin::prometheus::metrics::counter::Counter;
use admin::prometheus::metrics::family::Family;
use admin::prometheus::metrics::gauge::{ConstGauge, Gauge};
use admin::prometheus::metrics::histogram::Histogram;
use admin::prometheus::registry::Registry;
use crds::SipCluster;
use kube::ResourceExt as _;
use kube::runtime::reflector::Store;

/// Bounds of how long a reconciliation takes, in seconds: each asks containers, which have a second to answer.
const TOOK: [f64; 7] = [0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0];

/// All of it; a clone counts into the same.
#[derive(Clone, Debug)]
pub struct Metrics {
    leads: Gauge,
    reconciliations: Family<[(&'static str, &'static str); 1], Counter>,
    seconds: Histogram,
    steps: Counter,
    clusters: Clusters,
}

/// The SipClusters that there are, once this replica watches them: a page shows what they say of themselves, and nothing of those that are gone.
#[derive(Clone, Debug, Default)]
struct Clusters(Arc<OnceLock<Store<SipCluster>>>);

impl Default for Metrics {
    fn default() -> Self {
        Self {
            leads: Gauge::default(),
            reconciliations: Family::default(),
            seconds: Histogram::new(TOOK),
            steps: Counter::default(),
            clusters: Clusters::default(),
        }
    }
}

impl Metrics {
    /// For the page `/metrics`.
    #[must_use]
    pub fn registry(&self) -> Registry {
        let mut registry = Registry::with_prefix("sipcluster_operator");
        let leads = "Whether this replica is the one that works";
        registry.register("leads", leads, self.leads.clone());
        let looks = "Looks at a SipCluster, by result";
        registry.register("reconciliations", looks, self.reconciliations.clone());
        let seconds = "How long a look at a SipCluster took, with what was done about it";
        registry.register("reconciliation_seconds", seconds, self.seconds.clone());
        let steps = "Pods added or taken away, one at a time";
        registry.register("steps", steps, self.steps.clone());
        registry.register_collector(Box::new(self.clusters.clone()));
        registry
    }

    /// This replica works from now on, and watches these.
    pub fn leads(&self, clusters: Store<SipCluster>) {
        self.leads.set(1);
        // A process begins to lead once.
        let _ = self.clusters.0.set(clusters);
    }

    /// A reconciliation has come to its end, or not.
    pub fn reconciled(&self, took: Duration, is_done: bool) {
        let result = if is_done { "done" } else { "failed" };
        self.reconciliations.get_or_create(&[("result", result)]).inc();
        self.seconds.observe(took.as_secs_f64());
    }

    /// Steps that were taken.
    pub fn stepped(&self, count: usize) {
        self.steps.inc_by(count as u64);
    }
}

impl Collector for Clusters {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let all = self.0.get().map(Store::state).unwrap_or_default();
        let help = "1 where a condition of a SipCluster is true, 0 where it is not";
        let mut metric = encoder.encode_descriptor("condition", help, None, MetricType::Gauge)?;
        for cluster in all {
            let (namespace, name) = (cluster.namespace().unwrap_or_default(), cluster.name_any());
            for condition in cluster.status.iter().flat_map(|status| &status.conditions) {
                let labels = [
                    ("namespace", namespace.as_str()),
                    ("name", &name),
                    ("type", &condition.type_),
                ];
                let holds = ConstGauge::new(i64::from(condition.status == "True"));
                holds.encode(metric.encode_family(&labels)?)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::{reflector, watcher};

    fn shown(metrics: &Metrics) -> String {
        let mut text = String::new();
        admin::prometheus::encoding::text::encode(&mut text, &metrics.registry()).expect("text");
        text
    }

    fn cluster() -> SipCluster {
        serde_json::from_value(serde_json::json!({
            "apiVersion": "sipcluster.dev/v1alpha1",
            "kind": "SipCluster",
            "metadata": { "name": "demo", "namespace": "calls" },
            "spec": { "application": { "answer": {} } },
            "status": {
                "replicas": 1, "readyReplicas": 1, "dialogs": 0, "containers": [],
                "conditions": [{
                    "type": "Ready", "status": "True", "reason": "AsWanted", "message": "",
                    "lastTransitionTime": "2026-11-01T00:00:00Z",
                }],
            },
        }))
        .expect("a SipCluster")
    }

    #[test]
    fn a_cluster_is_shown_as_long_as_there_is_one() {
        let (metrics, (store, mut writer)) = (Metrics::default(), reflector::store());
        metrics.leads(store);
        writer.apply_watcher_event(&watcher::Event::Apply(cluster()));
        let ready = r#"sipcluster_operator_condition{namespace="calls",name="demo",type="Ready"} 1"#;
        let text = shown(&metrics);
        assert!(text.contains(ready), "{text}");
        writer.apply_watcher_event(&watcher::Event::Delete(cluster()));
        assert!(!shown(&metrics).contains("demo"));
    }

    #[test]
    fn everything_that_is_shown_is_in_the_guide() {
        let (metrics, guide) = (Metrics::default(), include_str!("../../docs/metrics.md"));
        metrics.reconciled(Duration::from_millis(20), true);
        let text = shown(&metrics);
        let kinds = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let kinds: Vec<_> = kinds.filter_map(|line| line.split_once(' ')).collect();
        assert_eq!(kinds.len(), 5, "{text}");
        for (name, kind) in kinds {
            let end = if kind == "counter" { "_total" } else { "" };
            assert!(guide.contains(&format!("| `{name}{end}` | {kind} |")), "{name} {kind}");
        }
    }
}

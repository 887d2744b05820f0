//! While a SipCluster is paused, what its manifest said before is what is carried out: what somebody changes or deletes is put back, and nothing new is begun.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use crds::{SipCluster, SipClusterSpec};
use kube::ResourceExt as _;

/// What each SipCluster's manifest said when it was last not paused, by uid, if this process has applied all of it.
#[derive(Default)]
pub struct Unpaused(Mutex<HashMap<String, SipClusterSpec>>);

impl Unpaused {
    /// The manifest of one is about to be applied, unless it is paused. If that does not come to its end, neither this one nor the one before it is what is there.
    pub fn begin(&self, cluster: &SipCluster) {
        if cluster.spec.paused {
            return;
        }
        let uid = cluster.uid().unwrap_or_default();
        let mut all = self.lock();
        if all.get(&uid) != Some(&cluster.spec) {
            all.remove(&uid);
        }
    }

    /// All of it has been applied.
    pub fn done(&self, cluster: &SipCluster) {
        if cluster.spec.paused {
            return;
        }
        let uid = cluster.uid().unwrap_or_default();
        self.lock().entry(uid).or_insert_with(|| cluster.spec.clone());
    }

    /// A paused one as it was before, but for that; nothing if that was not applied, or by an earlier process.
    #[must_use]
    pub fn before(&self, cluster: &SipCluster) -> Option<SipCluster> {
        if !cluster.spec.paused {
            return None;
        }
        let spec = self.lock().get(&cluster.uid()?)?.clone();
        Some(SipCluster {
            spec: SipClusterSpec { paused: true, ..spec },
            ..cluster.clone()
        })
    }

    /// Keeps those with these uids, and forgets the rest.
    pub fn keep(&self, uids: &BTreeSet<String>) {
        self.lock().retain(|uid, _| uids.contains(uid));
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, SipClusterSpec>> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn cluster(uid: &str, spec: serde_json::Value) -> SipCluster {
        let mut spec = spec;
        spec["application"] = json!({ "answer": {} });
        let object = json!({
            "apiVersion": "sipcluster.dev/v1alpha1",
            "kind": "SipCluster",
            "metadata": { "name": "demo", "uid": uid },
            "spec": spec,
        });
        serde_json::from_value(object).expect("a SipCluster")
    }

    #[test]
    fn a_paused_one_is_as_it_was_before_and_another_of_its_name_is_not() {
        let unpaused = Unpaused::default();
        let paused = cluster("1", json!({ "replicas": 5, "paused": true }));
        assert!(unpaused.before(&paused).is_none(), "nobody has seen it before");
        for replicas in [4, 3] {
            let cluster = cluster("1", json!({ "replicas": replicas }));
            unpaused.begin(&cluster);
            assert!(unpaused.before(&paused).is_none(), "it is half done");
            unpaused.done(&cluster);
            unpaused.begin(&cluster);
        }
        let before = unpaused.before(&paused).expect("it was applied");
        assert_eq!((before.spec.replicas, before.spec.paused), (3, true));
        assert!(unpaused.before(&cluster("2", json!({ "paused": true }))).is_none());
        unpaused.keep(&["2".to_owned()].into());
        assert!(unpaused.before(&paused).is_none(), "it is gone");
    }
}

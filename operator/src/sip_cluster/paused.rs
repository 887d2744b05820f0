//! While a SipCluster is paused, what its manifest said before is what is carried out: what somebody changes or deletes is put back, and nothing new is begun.

use std::collections::{BTreeSet, HashMap};
use std::sync::Mutex;

use crds::{SipCluster, SipClusterSpec};
use kube::ResourceExt as _;

/// What each SipCluster's manifest said when it was last not paused, by uid, as far as this process has seen it.
#[derive(Default)]
pub struct Unpaused(Mutex<HashMap<String, SipClusterSpec>>);

impl Unpaused {
    /// Keeps what the manifest of one says that is not paused.
    pub fn remember(&self, cluster: &SipCluster) {
        let Some(uid) = cluster.uid() else { return };
        let mut all = self.lock();
        if all.get(&uid) != Some(&cluster.spec) {
            all.insert(uid, cluster.spec.clone());
        }
    }

    /// A paused one as it was before, but for that; nothing if it was paused before this process began to look after it.
    #[must_use]
    pub fn before(&self, cluster: &SipCluster) -> Option<SipCluster> {
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
        unpaused.remember(&cluster("1", json!({ "replicas": 4 })));
        unpaused.remember(&cluster("1", json!({ "replicas": 3 })));
        let before = unpaused.before(&paused).expect("it was seen");
        assert_eq!((before.spec.replicas, before.spec.paused), (3, true));
        assert!(unpaused.before(&cluster("2", json!({ "paused": true }))).is_none());
        unpaused.keep(&["2".to_owned()].into());
        assert!(unpaused.before(&paused).is_none(), "it is gone");
    }
}

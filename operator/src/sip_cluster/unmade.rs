//! Why a pod that is wanted is not made at all: a quota, an admission webhook, pod security. A Deployment has a condition for it; of a StatefulSet
//! only an event says so.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::api::events::v1::Event;
use k8s_openapi::jiff::SignedDuration;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::dereference::Found;
use super::names::Names;

/// How long a StatefulSet has lacked pods before the API server is asked of it, for in a rollout each does for a moment, and how often then.
const ASK: Duration = Duration::from_secs(5);

/// How long it has for its answer.
const ANSWER: Duration = Duration::from_secs(2);

/// An answer is forgotten after so long, when another comes: its StatefulSet is gone.
const KEEP: Duration = Duration::from_secs(60);

/// The controller, which writes events, and the API server, which dates pods, may have different clocks.
const CLOCKS: SignedDuration = SignedDuration::from_secs(5);

/// What the API server has said of StatefulSets that lack pods, by their uid.
#[derive(Default)]
pub struct Unmade(Mutex<HashMap<String, Told>>);

struct Told {
    at: Instant,
    why: Option<String>,
}

impl Told {
    fn nothing() -> Self {
        Self {
            at: Instant::now(),
            why: None,
        }
    }
}

impl Unmade {
    /// What keeps the controllers from making pods, in their words. Asks the API server only where a StatefulSet has fewer than it should, and now
    /// and then.
    pub async fn why(&self, client: &Client, names: &Names, found: &Found) -> Option<String> {
        let sets = [
            (&found.redis, &found.redis_pods),
            (&found.containers, &found.container_pods),
        ];
        for (set, pods) in sets {
            let Some(set) = set.as_deref() else { continue };
            if !lacks_pods(set) {
                self.forget(set);
            } else if let Some(why) = self.told(client, names, set, pods).await {
                return Some(why);
            }
        }
        found.proxies.as_deref().and_then(failure)
    }

    async fn told(&self, client: &Client, names: &Names, set: &StatefulSet, pods: &[Arc<Pod>]) -> Option<String> {
        let uid = set.uid()?;
        let before = {
            let mut all = self.lock();
            let Told { at, why } = all.entry(uid.clone()).or_insert_with(Told::nothing);
            if at.elapsed() < ASK {
                return why.clone();
            }
            why.clone()
        };
        let api = Api::namespaced(client.clone(), &names.namespace);
        let why = match tokio::time::timeout(ANSWER, failures(&api, &uid)).await {
            Ok(Ok(events)) => latest(events, pods),
            // It is what was known before that is told.
            Ok(Err(error)) => {
                tracing::debug!(%error, "no events can be read");
                before
            }
            Err(_) => {
                tracing::debug!("events are not told in time");
                before
            }
        };
        let mut all = self.lock();
        all.retain(|_, told| told.at.elapsed() < KEEP);
        let at = Instant::now();
        all.insert(uid, Told { at, why: why.clone() });
        why
    }

    fn forget(&self, set: &StatefulSet) {
        if let Some(uid) = &set.metadata.uid {
            self.lock().remove(uid);
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, HashMap<String, Told>> {
        self.0.lock().expect("nobody panics with it in hand")
    }
}

/// Its controller has seen all of it, and could not make all pods.
fn lacks_pods(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
    set.status
        .as_ref()
        .is_some_and(|status| status.observed_generation == set.metadata.generation && Some(status.replicas) < wanted)
}

/// The events of pods that a StatefulSet could not make.
async fn failures(api: &Api<Event>, uid: &str) -> Result<Vec<Event>, kube::Error> {
    let fields = format!("regarding.uid={uid},reason=FailedCreate");
    Ok(api.list(&ListParams::default().fields(&fields)).await?.items)
}

/// What the latest says. One from before the latest pod tells of what is over: that pod could be made.
fn latest(events: Vec<Event>, pods: &[Arc<Pod>]) -> Option<String> {
    let time = |event: &Event| event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    let made = pods
        .iter()
        .filter_map(|pod| pod.creation_timestamp())
        .map(|time| time.0);
    let made = made.max().map(|made| made - CLOCKS);
    let after = events.into_iter().filter(|event| time(event) >= made);
    after.max_by_key(time)?.note
}

/// The condition of a Deployment that could not make a pod.
fn failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    failed.message.clone()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(time: &str, note: &str) -> Event {
        let event = json!({ "metadata": {}, "eventTime": null, "deprecatedLastTimestamp": time, "note": note });
        serde_json::from_value(event).expect("an event")
    }

    #[test]
    fn what_the_latest_pod_refutes_is_not_told() {
        let pod = json!({ "metadata": { "name": "demo-0", "creationTimestamp": "2026-11-01T10:00:00Z" } });
        let pods = [Arc::new(serde_json::from_value(pod).expect("a pod"))];
        let before = event("2026-11-01T09:59:54Z", "exceeded quota: pods");
        assert_eq!(latest(vec![before.clone()], &pods), None);
        assert_eq!(
            latest(vec![before.clone()], &[]).as_deref(),
            Some("exceeded quota: pods")
        );
        let after = event("2026-11-01T10:00:01Z", "exceeded quota: cpu");
        assert_eq!(
            latest(vec![after, before], &pods).as_deref(),
            Some("exceeded quota: cpu")
        );
    }
}

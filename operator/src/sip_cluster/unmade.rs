//! Why a pod that is wanted is not made at all: a quota, an admission webhook, pod security. A Deployment has a condition for it; of a StatefulSet
//! only an event says so.

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::events::v1::Event;
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt as _};

use super::dereference::Found;
use super::names::Names;

/// What keeps the controllers from making pods, in their words. Asks the API server only where a StatefulSet has fewer than it should.
pub async fn why(client: &Client, names: &Names, found: &Found) -> Option<String> {
    for set in [&found.redis, &found.containers].into_iter().flatten() {
        if lacks_pods(set)
            && let Some(why) = told(client, names, set).await
        {
            return Some(why);
        }
    }
    found.proxies.as_deref().and_then(failure)
}

/// Its controller has seen all of it, and could not make all pods.
fn lacks_pods(set: &StatefulSet) -> bool {
    let wanted = set.spec.as_ref().and_then(|spec| spec.replicas);
    set.status
        .as_ref()
        .is_some_and(|status| status.observed_generation == set.metadata.generation && Some(status.replicas) < wanted)
}

/// The latest event of a StatefulSet that could not make a pod.
async fn told(client: &Client, names: &Names, set: &StatefulSet) -> Option<String> {
    let events: Api<Event> = Api::namespaced(client.clone(), &names.namespace);
    let uid = set.uid()?;
    let fields = format!("regarding.uid={uid},reason=FailedCreate");
    let events = match events.list(&ListParams::default().fields(&fields)).await {
        Ok(events) => events.items,
        Err(error) => {
            tracing::debug!(%error, "no events can be read");
            return None;
        }
    };
    let time = |event: &Event| event.deprecated_last_timestamp.as_ref().map(|time| time.0);
    events.into_iter().max_by_key(time)?.note
}

/// The condition of a Deployment that could not make a pod.
fn failure(deployment: &Deployment) -> Option<String> {
    let conditions = deployment.status.as_ref()?.conditions.as_ref()?;
    let failed = conditions
        .iter()
        .find(|condition| condition.type_ == "ReplicaFailure" && condition.status == "True")?;
    failed.message.clone()
}

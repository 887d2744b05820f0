//! What is there of a SipCluster, out of the caches; only for a StatefulSet that is in none of them the API server is asked.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};
use kube::api::Api;
use kube::runtime::reflector::Store;
use kube::{Client, Resource, ResourceExt as _};

use super::names::{COMPONENT, Component, INSTANCE, Names, REDIS_INSTANCES};
use super::watched::{Watched, cached};

/// What is there.
#[derive(Clone, Debug, Default)]
pub struct Found {
    /// Of the containers.
    pub containers: Option<Arc<StatefulSet>>,
    /// Of the cluster's own Redis.
    pub redis: Option<Arc<StatefulSet>>,
    /// Of the proxies.
    pub proxies: Option<Arc<Deployment>>,
    /// The dispatcher.
    pub dispatcher: Option<Arc<Service>>,
    /// Pods of containers, by ordinal.
    pub container_pods: Vec<Arc<Pod>>,
    /// Pods of proxies.
    pub proxy_pods: Vec<Arc<Pod>>,
    /// Pods of the cluster's own Redis, by ordinal.
    pub redis_pods: Vec<Arc<Pod>>,
    /// The Services of its instances that are there, by ordinal, up to the first that is not.
    pub redis_services: Vec<Arc<Service>>,
}

/// Which object was made, and its generation: one that somebody has put in its place counts from the beginning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Made {
    /// The object's own name for itself.
    pub uid: Option<String>,
    /// How often its spec has changed.
    pub generation: Option<i64>,
}

impl Made {
    /// What is there.
    pub fn of<K: Resource>(object: &K) -> Self {
        Self {
            uid: object.uid(),
            generation: object.meta().generation,
        }
    }

    /// Whether the other is the same object, as it was made later.
    #[must_use]
    pub fn is_behind(&self, other: &Self) -> bool {
        self.uid == other.uid && self.generation < other.generation
    }
}

/// The most instances that a Redis can have.
const MOST_INSTANCES: u32 = 5;

/// Looks up everything that belongs to the SipCluster of this uid. Another one's object may have a name that this one would give:
/// the containers of `demo-redis` that of the Redis of `demo`.
#[must_use]
pub fn dereference(names: &Names, uid: &str, watched: &Watched) -> Found {
    let namespace = &names.namespace;
    let mut container_pods = pods(names, watched, Component::Container);
    container_pods.sort_by_key(|pod| ordinal(pod));
    let mut redis_pods = pods(names, watched, Component::Redis);
    redis_pods.sort_by_key(|pod| ordinal(pod));
    let instance = |ordinal| owned(&watched.services, namespace, &names.redis_instance(ordinal), uid);
    let instances = (0..MOST_INSTANCES).map_while(instance);
    Found {
        containers: owned(&watched.stateful_sets, namespace, &names.containers(), uid),
        redis: owned(&watched.stateful_sets, namespace, &names.redis(), uid),
        proxies: owned(&watched.deployments, namespace, &names.proxies(), uid),
        dispatcher: owned(&watched.services, namespace, &names.dispatcher(), uid),
        container_pods,
        proxy_pods: pods(names, watched, Component::Proxy),
        redis_pods,
        redis_services: instances.collect(),
    }
}

/// Pods without their StatefulSet: it is new and they are known before it is, or somebody has taken its label. What it says of their number is to be
/// kept in both cases. Otherwise it has been deleted.
///
/// # Errors
/// The API server does not tell.
pub async fn complete(client: &Client, names: &Names, uid: &str, found: &mut Found) -> Result<(), kube::Error> {
    if found.containers.is_none() && !found.container_pods.is_empty() {
        let api: Api<StatefulSet> = Api::namespaced(client.clone(), &names.namespace);
        let there = api.get_opt(&names.containers()).await?;
        found.containers = there.filter(|set| is_owned(set, uid)).map(Arc::new);
    }
    Ok(())
}

/// What is there of this name, if it is that SipCluster's.
pub(super) fn owned<K>(cache: &Store<K>, namespace: &str, name: &str, uid: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    let there = cached(cache, namespace, name)?;
    is_owned(there.as_ref(), uid).then_some(there)
}

fn is_owned(object: &impl Resource, uid: &str) -> bool {
    object.owner_references().iter().any(|owner| owner.uid == uid)
}

fn pods(names: &Names, watched: &Watched, component: Component) -> Vec<Arc<Pod>> {
    let is_ours = |pod: &Pod| {
        let label = |key| pod.metadata.labels.as_ref()?.get(key).map(String::as_str);
        pod.metadata.namespace.as_deref() == Some(&names.namespace)
            && label(INSTANCE) == Some(&names.cluster)
            && label(COMPONENT) == Some(component.as_str())
    };
    watched.pods.state_filter(is_ours)
}

/// The number at the end of a StatefulSet pod's name.
#[must_use]
pub fn ordinal(pod: &Pod) -> Option<u16> {
    pod.metadata.name.as_deref()?.rsplit_once('-')?.1.parse().ok()
}

impl Found {
    /// The addresses of the instances of the cluster's own Redis, by ordinal: those that its pods already know, or else those that the Services have.
    #[must_use]
    pub fn redis_addresses(&self) -> Vec<IpAddr> {
        let told = self.redis.as_deref().and_then(told_addresses);
        told.unwrap_or_else(|| {
            let addresses = self
                .redis_services
                .iter()
                .map_while(|service| service.spec.as_ref()?.cluster_ip.as_deref()?.parse().ok());
            addresses.collect()
        })
    }

    /// The address that the dispatcher's Service has, if its type gives it one and it has it already; of several the one `before`, if it is among them:
    /// calls carry it.
    #[must_use]
    pub fn service_address(&self, before: Option<IpAddr>) -> Option<IpAddr> {
        let service = self.dispatcher.as_ref()?;
        let spec = service.spec.as_ref()?;
        match spec.type_.as_deref() {
            Some("LoadBalancer") => {
                let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
                let all = || ingress.iter().filter_map(|ingress| ingress.ip.as_deref()?.parse().ok());
                all().find(|address| Some(*address) == before).or_else(|| all().next())
            }
            Some("ClusterIP") | None => spec.cluster_ip.as_deref()?.parse().ok(),
            _ => None,
        }
    }

    /// Whether the dispatcher's Service lets datagrams in.
    #[must_use]
    pub fn service_has_udp(&self) -> bool {
        let ports = self
            .dispatcher
            .as_ref()
            .and_then(|service| service.spec.as_ref()?.ports.as_ref());
        ports.is_some_and(|ports| ports.iter().any(|port| port.protocol.as_deref() == Some("UDP")))
    }
}

/// The addresses in the template of the instances' pods.
fn told_addresses(set: &StatefulSet) -> Option<Vec<IpAddr>> {
    let pod = set.spec.as_ref()?.template.spec.as_ref()?;
    let mut variables = pod
        .containers
        .iter()
        .flat_map(|container| container.env.iter().flatten());
    let told = variables.find(|variable| variable.name == REDIS_INSTANCES)?;
    told.value
        .as_deref()?
        .split(' ')
        .map(|text| text.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use kube::runtime::{reflector, watcher};
    use serde_json::json;

    #[test]
    fn what_belongs_to_another_or_to_a_former_one_of_the_name_is_not_ours() {
        let (cache, mut writer) = reflector::store();
        let set = json!({
            "metadata": { "name": "demo-redis", "namespace": "default", "ownerReferences": [
                { "apiVersion": "sipcluster.dev/v1alpha1", "kind": "SipCluster", "name": "demo-redis", "uid": "2" },
            ] },
        });
        let set: StatefulSet = serde_json::from_value(set).expect("a StatefulSet");
        writer.apply_watcher_event(&watcher::Event::Apply(set));
        let found = |namespace, uid| owned(&cache, namespace, "demo-redis", uid).is_some();
        assert!(found("default", "2"));
        assert!(!found("default", "1") && !found("other", "2"));
    }
}

//! What is there of a SipCluster, out of the caches; asks nobody.

use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service};

use super::names::{COMPONENT, Component, INSTANCE, Names};
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
    /// Pods of the cluster's own Redis.
    pub redis_pods: Vec<Arc<Pod>>,
}

/// Looks everything up.
#[must_use]
pub fn dereference(names: &Names, watched: &Watched) -> Found {
    let namespace = &names.namespace;
    let mut container_pods = pods(names, watched, Component::Container);
    container_pods.sort_by_key(|pod| ordinal(pod));
    Found {
        containers: cached(&watched.stateful_sets, namespace, &names.containers()),
        redis: cached(&watched.stateful_sets, namespace, &names.redis()),
        proxies: cached(&watched.deployments, namespace, &names.proxies()),
        dispatcher: cached(&watched.services, namespace, &names.dispatcher()),
        container_pods,
        redis_pods: pods(names, watched, Component::Redis),
    }
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
    /// The address that the dispatcher's Service has, if its type gives it one and it has it already.
    #[must_use]
    pub fn service_address(&self) -> Option<IpAddr> {
        let service = self.dispatcher.as_ref()?;
        let spec = service.spec.as_ref()?;
        match spec.type_.as_deref() {
            Some("LoadBalancer") => {
                let ingress = service.status.as_ref()?.load_balancer.as_ref()?.ingress.as_ref()?;
                ingress.iter().find_map(|ingress| ingress.ip.as_deref()?.parse().ok())
            }
            Some("ClusterIP") | None => spec.cluster_ip.as_deref()?.parse().ok(),
            _ => None,
        }
    }
}

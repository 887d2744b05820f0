//! What is watched of the children: one watch of each kind fills a cache and starts reconciliations.

use std::fmt::Debug;
use std::sync::Arc;

use futures_util::Stream;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Pod, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use kube::core::PartialObjectMeta;
use kube::runtime::controller::Controller;
use kube::runtime::reflector::{self, ObjectRef, Store};
use kube::runtime::{WatchStreamExt as _, watcher};
use kube::{Api, Client, Resource};
use serde::de::DeserializeOwned;
use tokio::sync::OnceCell;

use super::names::OURS;
use crds::SipCluster;

/// A kind whose metadata alone is watched.
pub type Meta<K> = Store<PartialObjectMeta<K>>;

/// The caches.
pub struct Watched {
    /// Containers, proxies and Redis.
    pub pods: Store<Pod>,
    /// Of containers and Redis.
    pub stateful_sets: Store<StatefulSet>,
    /// Of proxies.
    pub deployments: Store<Deployment>,
    /// All Services.
    pub services: Store<Service>,
    /// Whom pods run as.
    pub service_accounts: Meta<ServiceAccount>,
    /// What proxies may read.
    pub roles: Meta<Role>,
    /// That they may.
    pub role_bindings: Meta<RoleBinding>,
    /// How many may be evicted at once.
    pub budgets: Meta<PodDisruptionBudget>,
    /// Who may talk to whom.
    pub policies: Meta<NetworkPolicy>,
    full: OnceCell<()>,
}

impl Watched {
    /// Starts all watches within `namespace`, or everywhere, and has `controller` reconcile the owner of whatever changes.
    #[must_use]
    pub fn start(
        client: &Client,
        namespace: Option<&str>,
        controller: Controller<SipCluster>,
    ) -> (Self, Controller<SipCluster>) {
        let (pods, stream) = watched::<Pod>(client, namespace);
        // A pod's owner is its StatefulSet; the label names the SipCluster.
        let controller = controller.watches_stream(stream, |pod| cluster_of(&pod));
        let (stateful_sets, controller) = owned::<StatefulSet>(client, namespace, controller);
        let (deployments, controller) = owned::<Deployment>(client, namespace, controller);
        let (services, controller) = owned::<Service>(client, namespace, controller);
        let (service_accounts, controller) = owned::<PartialObjectMeta<ServiceAccount>>(client, namespace, controller);
        let (roles, controller) = owned::<PartialObjectMeta<Role>>(client, namespace, controller);
        let (role_bindings, controller) = owned::<PartialObjectMeta<RoleBinding>>(client, namespace, controller);
        let (budgets, controller) = owned::<PartialObjectMeta<PodDisruptionBudget>>(client, namespace, controller);
        let (policies, controller) = owned::<PartialObjectMeta<NetworkPolicy>>(client, namespace, controller);
        let watched = Self {
            pods,
            stateful_sets,
            deployments,
            services,
            service_accounts,
            roles,
            role_bindings,
            budgets,
            policies,
            full: OnceCell::new(),
        };
        (watched, controller)
    }

    /// Waits until every cache has been filled once: before that, what is there looks as if it were missing.
    pub async fn filled(&self) {
        let Self {
            pods,
            stateful_sets,
            deployments,
            services,
            service_accounts,
            roles,
            role_bindings,
            budgets,
            policies,
            full,
        } = self;
        // A cache wakes only one of those that wait for it: one waits for all, and the others for that one.
        let all = async {
            // The only error is that the writer is gone, and the watches live as long as the controller.
            let _ = tokio::join!(
                pods.wait_until_ready(),
                stateful_sets.wait_until_ready(),
                deployments.wait_until_ready(),
                services.wait_until_ready(),
                service_accounts.wait_until_ready(),
                roles.wait_until_ready(),
                role_bindings.wait_until_ready(),
                budgets.wait_until_ready(),
                policies.wait_until_ready(),
            );
        };
        full.get_or_init(|| all).await;
    }
}

fn cluster_of(pod: &Pod) -> Option<ObjectRef<SipCluster>> {
    let name = pod.metadata.labels.as_ref()?.get(super::names::INSTANCE)?;
    Some(ObjectRef::new(name).within(pod.metadata.namespace.as_deref()?))
}

fn config() -> watcher::Config {
    watcher::Config::default().labels(OURS).timeout(60)
}

fn api<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}

fn watched<K>(
    client: &Client,
    namespace: Option<&str>,
) -> (
    Store<K>,
    impl Stream<Item = Result<K, watcher::Error>> + Send + 'static + use<K>,
)
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, writer) = reflector::store();
    let stream = watcher(api::<K>(client, namespace), config())
        .default_backoff()
        .reflect(writer);
    (store, stream.touched_objects())
}

/// The cache of a kind whose objects a SipCluster owns; their changes have it reconciled.
fn owned<K>(
    client: &Client,
    namespace: Option<&str>,
    controller: Controller<SipCluster>,
) -> (Store<K>, Controller<SipCluster>)
where
    K: Resource<Scope = kube::core::NamespaceResourceScope, DynamicType = ()>
        + Clone
        + Debug
        + DeserializeOwned
        + Send
        + Sync
        + 'static,
{
    let (store, stream) = watched::<K>(client, namespace);
    (store, controller.owns_stream(stream))
}

/// The cached object of this name.
pub fn cached<K>(store: &Store<K>, namespace: &str, name: &str) -> Option<Arc<K>>
where
    K: Resource<DynamicType = ()> + Clone + 'static,
{
    store.get(&ObjectRef::new(name).within(namespace))
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;
    use std::pin::pin;
    use std::task::Poll;

    use super::*;

    /// A cache that is filled once its writer says so, and what does.
    fn cache<K>() -> (Store<K>, impl FnOnce())
    where
        K: Resource<DynamicType = ()> + Clone + 'static,
    {
        let (store, mut writer) = reflector::store();
        (store, move || {
            writer.apply_watcher_event(&watcher::Event::Init);
            writer.apply_watcher_event(&watcher::Event::InitDone);
        })
    }

    #[tokio::test]
    async fn all_reconciliations_go_on_once_the_caches_are_filled() {
        let (pods, fill_pods) = cache();
        let (stateful_sets, fill_stateful_sets) = cache();
        let (deployments, fill_deployments) = cache();
        let (services, fill_services) = cache();
        let (service_accounts, fill_service_accounts) = cache();
        let (roles, fill_roles) = cache();
        let (role_bindings, fill_role_bindings) = cache();
        let (budgets, fill_budgets) = cache();
        let (policies, fill_policies) = cache();
        let watched = Arc::new(Watched {
            pods,
            stateful_sets,
            deployments,
            services,
            service_accounts,
            roles,
            role_bindings,
            budgets,
            policies,
            full: OnceCell::new(),
        });
        let clusters = [(); 3].map(|()| {
            let watched = watched.clone();
            tokio::spawn(async move { watched.filled().await })
        });
        // Each has begun to wait.
        tokio::task::yield_now().await;
        let mut filled = pin!(watched.filled());
        assert!(poll_fn(|context| Poll::Ready(filled.as_mut().poll(context).is_pending())).await);
        fill_pods();
        fill_stateful_sets();
        fill_deployments();
        fill_services();
        fill_service_accounts();
        fill_roles();
        fill_role_bindings();
        fill_budgets();
        fill_policies();
        let all = async {
            for cluster in clusters {
                cluster.await.expect("it ends");
            }
            filled.await;
        };
        let limit = std::time::Duration::from_secs(5);
        tokio::time::timeout(limit, all).await.expect("somebody waits for ever");
    }
}

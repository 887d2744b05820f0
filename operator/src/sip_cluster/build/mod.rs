//! Every child object of a SipCluster, as it is to be applied. Pure.

mod access;
mod containers;
mod dispatcher;
mod pod;
mod protection;
mod proxies;
mod redis;
mod redis_instances;

use std::collections::BTreeSet;

use k8s_openapi::ByteString;
use k8s_openapi::api::apps::v1::{Deployment, StatefulSet};
use k8s_openapi::api::core::v1::{Secret, Service, ServiceAccount};
use k8s_openapi::api::networking::v1::NetworkPolicy;
use k8s_openapi::api::policy::v1::PodDisruptionBudget;
use k8s_openapi::api::rbac::v1::{Role, RoleBinding};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::keys::id;
use super::names::{Component, FIRST_KEY};
use super::plan::Decision;
use super::validate::Valid;

pub use proxies::of_account;

/// The key of a Secret under which the affinity key lies.
pub const AFFINITY_KEY: &str = "affinity-key";

/// The key of a Secret under which a password of the cluster's own Redis lies.
pub const REDIS_PASSWORD: &str = "redis-password";

/// The children. Whoever adds one here has to say in `apply` when it is applied.
pub struct Children {
    /// The keys that pods have, each in a Secret of its own.
    pub keys: BTreeSet<u32>,
    /// The later passwords of the cluster's own Redis, each in a Secret of its own, too: the first lies beside the first key.
    pub redis_passwords: BTreeSet<u32>,
    /// The containers' headless Service.
    pub container_service: Service,
    /// The proxies' headless Service.
    pub proxy_service: Service,
    /// The cluster's single address, or the list of its nodes'.
    pub dispatcher: Service,
    /// Whom containers run as: nobody who may ask the API server anything.
    pub container_account: ServiceAccount,
    /// Whom proxies run as.
    pub proxy_account: ServiceAccount,
    /// Reading EndpointSlices.
    pub proxy_role: Role,
    /// That proxies may.
    pub proxy_role_binding: RoleBinding,
    /// One container at a time.
    pub container_budget: PodDisruptionBudget,
    /// One proxy at a time.
    pub proxy_budget: PodDisruptionBudget,
    /// Who may reach containers.
    pub container_policy: NetworkPolicy,
    /// Who may reach proxies.
    pub proxy_policy: NetworkPolicy,
    /// The cluster's own Redis; nothing if Redis is another's.
    pub redis: Option<Redis>,
    /// What needs the addresses of the cluster and of its Redis; nothing until they are known, and while it is not to be touched.
    pub workload: Option<Workload>,
}

/// The cluster's own Redis.
pub struct Redis {
    /// Its Service; of several instances one for each beside the headless one.
    pub services: Vec<Service>,
    /// Who may reach it.
    pub policy: NetworkPolicy,
    /// One instance at a time; nothing for a single one.
    pub budget: Option<PodDisruptionBudget>,
    /// Its servers; nothing until all addresses are known, and while it is not to be touched.
    pub set: Option<StatefulSet>,
}

/// The pods that carry calls.
pub struct Workload {
    /// Containers.
    pub containers: StatefulSet,
    /// Proxies.
    pub proxies: Deployment,
}

/// Builds all of it.
#[must_use]
pub fn build(valid: &Valid, decision: &Decision) -> Children {
    let passwords = decision.passwords.accepts.iter().copied();
    // The first one hashes transactions for ever.
    let keys = decision.keys.verifies.iter().copied().chain([FIRST_KEY]).collect();
    Children {
        keys,
        redis_passwords: passwords.filter(|number| *number != FIRST_KEY).collect(),
        container_service: containers::service(valid),
        proxy_service: proxies::service(valid),
        dispatcher: dispatcher::service(valid),
        container_account: access::account(valid, &valid.names.containers(), Component::Container),
        proxy_account: access::account(valid, &valid.names.proxies(), Component::Proxy),
        proxy_role: access::role(valid),
        proxy_role_binding: access::role_binding(valid),
        container_budget: protection::budget(valid, &valid.names.containers(), Component::Container),
        proxy_budget: protection::budget(valid, &valid.names.proxies(), Component::Proxy),
        container_policy: protection::containers(valid),
        proxy_policy: protection::proxies(valid),
        redis: valid.has_own_redis().then(|| own_redis(valid, decision)),
        workload: valid
            .advertised
            .as_deref()
            .filter(|_| valid.knows_redis())
            .zip(decision.replicas)
            .map(|(advertised, replicas)| Workload {
                containers: containers::set(valid, decision, replicas, advertised),
                proxies: proxies::deployment(valid, decision, advertised),
            }),
    }
}

fn own_redis(valid: &Valid, decision: &Decision) -> Redis {
    let Decision {
        passwords,
        leaves_redis,
        ..
    } = decision;
    let policy = protection::redis(valid);
    let redis = if valid.has_redis_instances() {
        Redis {
            services: redis_instances::services(valid),
            policy,
            budget: Some(protection::budget(valid, &valid.names.redis(), Component::Redis)),
            set: redis_instances::set(valid, passwords),
        }
    } else {
        Redis {
            services: vec![redis::service(valid)],
            policy,
            budget: None,
            set: Some(redis::set(valid, passwords)),
        }
    };
    Redis {
        set: redis.set.filter(|_| !leaves_redis),
        ..redis
    }
}

/// The Secret of a key, the first of a cluster with the first password of its own Redis.
#[must_use]
pub fn key(valid: &Valid, number: u32, key: [u8; 16], redis_password: [u8; 16]) -> Secret {
    let data = match number {
        FIRST_KEY => vec![(AFFINITY_KEY, digits(key)), (REDIS_PASSWORD, digits(redis_password))],
        _ => vec![(AFFINITY_KEY, format!("{}:{}", id(number), digits(key)))],
    };
    secret(valid, valid.names.key(number), data)
}

/// The Secret of a later password of the cluster's own Redis.
#[must_use]
pub fn redis_password(valid: &Valid, number: u32, password: [u8; 16]) -> Secret {
    let name = valid.names.redis_password(number);
    secret(valid, name, vec![(REDIS_PASSWORD, digits(password))])
}

fn digits(bytes: [u8; 16]) -> String {
    format!("{:032x}", u128::from_be_bytes(bytes))
}

/// It is created once and never written again: calls carry what it holds, and a process that starts anew in its pod reads it again.
fn secret(valid: &Valid, name: String, data: Vec<(&str, String)>) -> Secret {
    let data = data.into_iter();
    Secret {
        metadata: metadata(valid, name),
        immutable: Some(true),
        data: Some(
            data.map(|(name, text)| (name.to_owned(), ByteString(text.into_bytes())))
                .collect(),
        ),
        ..Secret::default()
    }
}

/// The metadata of a child.
fn metadata(valid: &Valid, name: String) -> ObjectMeta {
    ObjectMeta {
        name: Some(name),
        namespace: Some(valid.names.namespace.clone()),
        labels: Some(valid.names.labels()),
        owner_references: Some(vec![valid.owner.clone()]),
        ..ObjectMeta::default()
    }
}

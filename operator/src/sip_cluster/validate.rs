//! Final values of a manifest, or what is wrong with it. Most of it the API server refuses already; what it cannot say is said here, in the
//! SipCluster's condition.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use crds::{HostNetwork, Problem, Resources, ServiceType, SipCluster, SipClusterSpec};
use k8s_openapi::api::core::v1::ResourceRequirements;
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kube::Resource as _;

use super::dereference::Found;
use super::names::{LONGEST_NAME, Names, STAND_IN};
use super::passwords::Kind;
use crate::config::Images;

/// A manifest with all that the build needs to know.
#[derive(Clone, Debug)]
pub struct Valid {
    /// What everything is called.
    pub names: Names,
    /// Whom the children belong to.
    pub owner: OwnerReference,
    /// What is wanted.
    pub spec: SipClusterSpec,
    /// `HOST:PORT` as containers write it into Via and Contact; nothing until the Service has its address.
    pub advertised: Option<String>,
    /// Whether datagrams are let in: once the Service has its address, and then for good, for it may be without one for a moment.
    pub opens_udp: bool,
    /// The addresses of the instances of the cluster's own Redis, by ordinal; none until all are known, and for a single one.
    pub redis_addresses: Vec<IpAddr>,
    /// What runs.
    pub images: Images,
    /// CPU and memory of a container, a proxy, the Redis.
    pub resources: [Option<ResourceRequirements>; 3],
}

impl Valid {
    /// Whether the cluster runs a Redis of its own.
    #[must_use]
    pub fn has_own_redis(&self) -> bool {
        self.spec.external_redis().is_none()
    }

    /// Whether that is one of several instances, with Sentinels.
    #[must_use]
    pub fn has_redis_instances(&self) -> bool {
        self.has_own_redis() && self.spec.redis_instances() > 1
    }

    /// What a pod of it does with passwords.
    #[must_use]
    pub fn redis_kind(&self) -> Kind {
        match self.has_redis_instances() {
            true => Kind::OneOfSeveral,
            false => Kind::Alone,
        }
    }

    /// What the manifest says of proxies in the network of their nodes, if that is where they are.
    #[must_use]
    pub fn host_network(&self) -> Option<&HostNetwork> {
        self.spec.dispatcher.host_network.as_ref()
    }

    /// Whether containers can be told where Redis is.
    #[must_use]
    pub fn knows_redis(&self) -> bool {
        !self.has_redis_instances() || !self.redis_addresses.is_empty()
    }
}

/// Checks a SipCluster.
///
/// # Errors
/// All that is wrong with it.
pub fn validate(cluster: &SipCluster, found: &Found, images: &Images) -> Result<Valid, Vec<Problem>> {
    let spec = cluster.spec.clone();
    let names = Names {
        cluster: cluster.metadata.name.clone().unwrap_or_default(),
        namespace: cluster.metadata.namespace.clone().unwrap_or_default(),
    };
    let mut problems = crds::broken(cluster);
    problems.extend(name(&names.cluster));
    problems.extend(address(&spec));
    problems.extend(ca(&spec));
    let requirements = |resources: Option<&Resources>| {
        resources.map(|resources| ResourceRequirements {
            limits: quantities(&resources.limits),
            requests: quantities(&resources.requests),
            ..ResourceRequirements::default()
        })
    };
    let managed = spec.redis.managed.as_ref();
    let resources = [
        requirements(spec.containers.resources.as_ref()),
        requirements(spec.proxies.resources.as_ref()),
        requirements(managed.and_then(|redis| redis.resources.as_ref())),
    ];
    if !problems.is_empty() {
        return Err(problems);
    }
    let advertised = advertised(cluster, found);
    let or = |named: Option<&String>, otherwise: &String| named.unwrap_or(otherwise).clone();
    Ok(Valid {
        owner: cluster
            .controller_owner_ref(&())
            .expect("an object of the API server has name and uid"),
        opens_udp: advertised.is_some() || found.service_has_udp(),
        advertised,
        redis_addresses: redis_addresses(&spec, found),
        images: Images {
            container: or(spec.containers.image.as_ref(), &images.container),
            proxy: or(spec.proxies.image.as_ref(), &images.proxy),
            redis: or(managed.and_then(|redis| redis.image.as_ref()), &images.redis),
            pull_policy: images.pull_policy.clone(),
        },
        resources,
        names,
        spec,
    })
}

/// The address of calls. For a Service's port that nodes offer it is theirs, so the manifest names both. Which of its nodes' addresses a call has,
/// the proxy knows that carries it.
fn advertised(SipCluster { spec, status, .. }: &SipCluster, found: &Found) -> Option<String> {
    if let Some(HostNetwork { host, .. }) = &spec.dispatcher.host_network {
        let host = host.as_deref().unwrap_or(STAND_IN);
        return Some(format!("{host}:{}", spec.dispatcher.port));
    }
    let port = match (spec.dispatcher.service.kind, spec.dispatcher.service.node_port) {
        (ServiceType::NodePort, Some(port)) => port,
        _ => spec.dispatcher.port,
    };
    let before = || {
        let before = status.as_ref()?.address.as_deref()?.parse::<SocketAddr>().ok()?;
        Some(before.ip())
    };
    let ip = spec.dispatcher.advertised.or_else(|| found.service_address(before()))?;
    Some(SocketAddr::new(ip, port).to_string())
}

/// All of them, or none.
fn redis_addresses(spec: &SipClusterSpec, found: &Found) -> Vec<IpAddr> {
    let instances = spec.redis_instances() as usize;
    let mut addresses = match spec.external_redis() {
        None if instances > 1 => found.redis_addresses(),
        _ => Vec::new(),
    };
    addresses.truncate(instances);
    if addresses.len() < instances {
        addresses.clear();
    }
    addresses
}

fn name(name: &str) -> Option<Problem> {
    let is_letter = |c: char| c.is_ascii_lowercase();
    let fits = |c: char| is_letter(c) || c.is_ascii_digit() || c == '-';
    let good =
        name.len() <= LONGEST_NAME && name.starts_with(is_letter) && name.chars().all(fits) && !name.ends_with('-');
    (!good).then(|| Problem {
        field: "metadata.name".into(),
        value: name.into(),
        wrong: "Services and pods are named after it".into(),
        remedy: format!("write at most {LONGEST_NAME} small letters, digits and '-', a letter first"),
    })
}

fn address(spec: &SipClusterSpec) -> Option<Problem> {
    let service = &spec.dispatcher.service;
    let missing = match (service.kind, service.node_port, spec.dispatcher.advertised) {
        (ServiceType::NodePort, None, _) => "spec.dispatcher.service.nodePort",
        (ServiceType::NodePort, _, None) => "spec.dispatcher.advertised",
        _ => return None,
    };
    Some(Problem {
        field: missing.into(),
        value: String::new(),
        wrong: "a NodePort Service has no address of its own, and calls carry the cluster's".into(),
        remedy: "write the nodes' address (dispatcher.advertised) and port (dispatcher.service.nodePort) as peers reach them".into(),
    })
}

/// A manifest of one machine.
fn ca(spec: &SipClusterSpec) -> Option<Problem> {
    let file = spec.external_redis()?.ca_file.as_ref()?;
    Some(Problem {
        field: "spec.redis.external.caFile".into(),
        value: file.display().to_string(),
        wrong: "pods have none of your files".into(),
        remedy: "put it into a Secret, and name that (spec.redis.external.caSecret)".into(),
    })
}

fn quantities(amounts: &BTreeMap<String, crds::Quantity>) -> Option<BTreeMap<String, Quantity>> {
    let amounts = amounts
        .iter()
        .map(|(name, amount)| (name.clone(), Quantity(amount.0.clone())));
    (amounts.len() > 0).then(|| amounts.collect())
}

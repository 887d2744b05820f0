//! What keeps others' hands off: budgets for evictions, policies for the network.

use k8s_openapi::api::networking::v1::{
    NetworkPolicy, NetworkPolicyIngressRule, NetworkPolicyPeer, NetworkPolicyPort, NetworkPolicySpec,
};
use k8s_openapi::api::policy::v1::{PodDisruptionBudget, PodDisruptionBudgetSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::sip_cluster::names::{ADMIN, CONTAINER_SIP, Component, REDIS, SENTINEL, UCF};
use crate::sip_cluster::validate::Valid;

/// One pod at a time may be evicted; one that does not work always may, or a node with a broken pod could never be drained.
pub fn budget(valid: &Valid, name: &str, component: Component) -> PodDisruptionBudget {
    PodDisruptionBudget {
        metadata: metadata(valid, name.into()),
        spec: Some(PodDisruptionBudgetSpec {
            max_unavailable: Some(IntOrString::Int(1)),
            selector: Some(valid.names.selector(component)),
            unhealthy_pod_eviction_policy: Some("AlwaysAllow".into()),
            ..PodDisruptionBudgetSpec::default()
        }),
        status: None,
    }
}

/// SIP from proxies only, UCF from both kinds; pages are for the operator and for whoever scrapes metrics, in any namespace.
///
/// Proxies in the network of their nodes are no pods to a policy, and which address a node sends from to a pod of another one is the network
/// plugin's affair. So these ports are open then, as SIP of proxies is: a link proves the cluster's key, and SIP is read from none that has not.
pub fn containers(valid: &Valid) -> NetworkPolicy {
    let (proxies, containers) = (from(valid, Component::Proxy), from(valid, Component::Container));
    if valid.host_network().is_some() {
        return policy(
            valid,
            valid.names.containers(),
            Component::Container,
            vec![
                rule(None, vec![port(CONTAINER_SIP, "TCP"), port(UCF, "TCP")]),
                rule(Some(vec![anywhere_inside()]), vec![port(ADMIN, "TCP")]),
            ],
        );
    }
    policy(
        valid,
        valid.names.containers(),
        Component::Container,
        vec![
            rule(Some(vec![proxies.clone()]), vec![port(CONTAINER_SIP, "TCP")]),
            rule(Some(vec![proxies, containers]), vec![port(UCF, "TCP")]),
            rule(Some(vec![anywhere_inside()]), vec![port(ADMIN, "TCP")]),
        ],
    )
}

/// SIP from everywhere: that is what they are for. In the network of their nodes few network plugins ask a policy; for those that do, the links of
/// proxies, which come from nodes too, are as open as containers' are.
pub fn proxies(valid: &Valid) -> NetworkPolicy {
    let sip = i32::from(valid.spec.dispatcher.port);
    if let Some(host_network) = valid.host_network() {
        let (ucf, admin) = (host_network.ucf_port.into(), host_network.admin_port.into());
        return policy(
            valid,
            valid.names.proxies(),
            Component::Proxy,
            vec![
                rule(None, vec![port(sip, "UDP"), port(sip, "TCP"), port(ucf, "TCP")]),
                rule(Some(vec![anywhere_inside()]), vec![port(admin, "TCP")]),
            ],
        );
    }
    policy(
        valid,
        valid.names.proxies(),
        Component::Proxy,
        vec![
            rule(None, vec![port(sip, "UDP"), port(sip, "TCP")]),
            rule(Some(vec![from(valid, Component::Proxy)]), vec![port(UCF, "TCP")]),
            rule(Some(vec![anywhere_inside()]), vec![port(ADMIN, "TCP")]),
        ],
    )
}

/// Containers only; of several instances each other one as well.
pub fn redis(valid: &Valid) -> NetworkPolicy {
    let mut sources = vec![from(valid, Component::Container)];
    let mut ports = vec![port(REDIS, "TCP")];
    if valid.has_redis_instances() {
        sources.push(from(valid, Component::Redis));
        ports.push(port(SENTINEL, "TCP"));
    }
    policy(
        valid,
        valid.names.redis(),
        Component::Redis,
        vec![rule(Some(sources), ports)],
    )
}

fn policy(valid: &Valid, name: String, component: Component, ingress: Vec<NetworkPolicyIngressRule>) -> NetworkPolicy {
    NetworkPolicy {
        metadata: metadata(valid, name),
        spec: Some(NetworkPolicySpec {
            pod_selector: Some(valid.names.selector(component)),
            policy_types: Some(vec!["Ingress".into()]),
            ingress: Some(ingress),
            ..NetworkPolicySpec::default()
        }),
    }
}

fn rule(from: Option<Vec<NetworkPolicyPeer>>, ports: Vec<NetworkPolicyPort>) -> NetworkPolicyIngressRule {
    NetworkPolicyIngressRule {
        from,
        ports: Some(ports),
    }
}

fn from(valid: &Valid, component: Component) -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        pod_selector: Some(valid.names.selector(component)),
        ..NetworkPolicyPeer::default()
    }
}

/// Pods of any namespace, and nobody outside.
fn anywhere_inside() -> NetworkPolicyPeer {
    NetworkPolicyPeer {
        namespace_selector: Some(Default::default()),
        ..NetworkPolicyPeer::default()
    }
}

fn port(number: i32, protocol: &str) -> NetworkPolicyPort {
    NetworkPolicyPort {
        port: Some(IntOrString::Int(number)),
        protocol: Some(protocol.into()),
        end_port: None,
    }
}

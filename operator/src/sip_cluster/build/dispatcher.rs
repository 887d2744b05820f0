//! The dispatcher: one Service, and with it one address, in front of all proxies; or the list of their nodes' addresses.
//!
//! Its port for UDP opens when its address is known, and not before. What peers send to an address before the nodes have rules for it leaves
//! an entry in their connection tracking that leads nowhere and lives on with every datagram. kube-proxy clears such entries when the first endpoint of
//! a port comes, of the addresses that it knows by then, and not when an address comes later.

use crds::{ServiceType, TrafficPolicy, Transport};
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use crate::sip_cluster::names::Component;
use crate::sip_cluster::validate::Valid;

/// The Service.
pub fn service(valid: &Valid) -> Service {
    match valid.host_network() {
        Some(_) => names(valid),
        None => address(valid),
    }
}

/// No address of its own: its name leads to the nodes whose proxies serve. One that drains is not among them, so new callers do not find it.
fn names(valid: &Valid) -> Service {
    let dispatcher = &valid.spec.dispatcher;
    let ports = dispatcher.transports.iter().enumerate().map(|(at, transport)| {
        let (name, protocol) = port(*transport);
        ServicePort {
            // Its SRV record is that of SIP (RFC 3263 s4.2), `_sip._udp`; two ports of one name there may not be.
            name: Some(if at == 0 { "sip" } else { name }.into()),
            port: dispatcher.port.into(),
            protocol: Some(protocol.into()),
            ..ServicePort::default()
        }
    });
    Service {
        metadata: metadata(valid, valid.names.dispatcher()),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            selector: Some(valid.names.part(Component::Proxy)),
            ports: Some(ports.collect()),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

fn address(valid: &Valid) -> Service {
    let dispatcher = &valid.spec.dispatcher;
    let wanted = &dispatcher.service;
    let is_outside = wanted.kind != ServiceType::ClusterIp;
    // A Service has a port at least.
    let opens =
        |transport: &&Transport| valid.opens_udp || **transport != Transport::Udp || dispatcher.transports.len() == 1;
    let ports = dispatcher.transports.iter().filter(opens).map(|transport| {
        let (name, protocol) = port(*transport);
        ServicePort {
            name: Some(name.into()),
            port: dispatcher.port.into(),
            protocol: Some(protocol.into()),
            target_port: Some(IntOrString::String(name.into())),
            // One number for both: a Service has a port of each protocol.
            node_port: wanted.node_port.filter(|_| is_outside).map(i32::from),
            ..ServicePort::default()
        }
    });
    let mut metadata = metadata(valid, valid.names.dispatcher());
    metadata.annotations =
        Some(valid.spec.dispatcher.service.annotations.clone()).filter(|annotations| !annotations.is_empty());
    Service {
        metadata,
        spec: Some(ServiceSpec {
            type_: Some(kind(wanted.kind).into()),
            selector: Some(valid.names.part(Component::Proxy)),
            ports: Some(ports.collect()),
            load_balancer_class: wanted
                .class
                .clone()
                .filter(|_| wanted.kind == ServiceType::LoadBalancer),
            external_traffic_policy: is_outside.then(|| {
                match wanted.external_traffic_policy {
                    TrafficPolicy::Local => "Local",
                    TrafficPolicy::Cluster => "Cluster",
                }
                .into()
            }),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The name and the protocol of a transport's port, here and at a proxy.
pub(super) fn port(transport: Transport) -> (&'static str, &'static str) {
    match transport {
        Transport::Udp => ("sip-udp", "UDP"),
        Transport::Tcp => ("sip-tcp", "TCP"),
    }
}

fn kind(kind: ServiceType) -> &'static str {
    match kind {
        ServiceType::LoadBalancer => "LoadBalancer",
        ServiceType::NodePort => "NodePort",
        ServiceType::ClusterIp => "ClusterIP",
    }
}

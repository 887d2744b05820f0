//! The cluster's own Redis: in memory only, for the containers hold the other copy and write it anew.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::pod::{self, Process};
use super::{REDIS_PASSWORD, metadata};
use crate::sip_cluster::names::{Component, REDIS};
use crate::sip_cluster::validate::Valid;

/// Its address. One that stays when the pod does not.
pub fn service(valid: &Valid) -> Service {
    Service {
        metadata: metadata(valid, valid.names.redis()),
        spec: Some(ServiceSpec {
            selector: Some(valid.names.part(Component::Redis)),
            ports: Some(vec![ServicePort {
                name: Some("redis".into()),
                port: REDIS,
                protocol: Some("TCP".into()),
                ..ServicePort::default()
            }]),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The server.
pub fn set(valid: &Valid) -> StatefulSet {
    let connects = Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String("redis".into()),
            host: None,
        }),
        ..Probe::default()
    };
    let process = Process {
        component: Component::Redis,
        image: &valid.images.redis,
        args: [
            ["--port", &REDIS.to_string()],
            ["--bind", "*"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--maxmemory-policy", "noeviction"],
            ["--requirepass", "$(REDIS_PASSWORD)"],
        ]
        .concat()
        .into_iter()
        .map(Into::into)
        .collect(),
        env: vec![pod::secret(valid, "REDIS_PASSWORD", REDIS_PASSWORD)],
        ports: vec![pod::port("redis", REDIS, "TCP")],
        resources: valid.resources[2].clone(),
        probes: (connects.clone(), connects),
    };
    let pod = PodSpec {
        termination_grace_period_seconds: Some(5),
        affinity: Some(pod::apart_from(valid, &[pod::both_copies(Component::Container)])),
        ..pod::spec(valid, process)
    };
    of_pods(valid, 1, pod)
}

/// So many such pods.
pub(super) fn of_pods(valid: &Valid, count: u32, pod: PodSpec) -> StatefulSet {
    StatefulSet {
        metadata: metadata(valid, valid.names.redis()),
        spec: Some(StatefulSetSpec {
            replicas: Some(count as i32),
            service_name: Some(valid.names.redis()),
            // It cannot be changed where there is a set already.
            pod_management_policy: (count > 1).then(|| "Parallel".into()),
            // When one may go is the planner's to say: it may hold the only copy of a dead container's calls.
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            selector: valid.names.selector(Component::Redis),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(valid.names.part_labels(Component::Redis)),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

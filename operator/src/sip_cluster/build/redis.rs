//! The cluster's own Redis: in memory only, for the containers hold the other copy and write it anew.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{PodSpec, PodTemplateSpec, Probe, Service, ServicePort, ServiceSpec, TCPSocketAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::metadata;
use super::pod::{self, Process};
use crate::sip_cluster::names::{Component, REDIS};
use crate::sip_cluster::passwords::Passwords;
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
            // It is not away because its node's kubelet is.
            publish_not_ready_addresses: Some(true),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The server.
pub fn set(valid: &Valid, passwords: &Passwords) -> StatefulSet {
    let connects = Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String("redis".into()),
            host: None,
        }),
        ..Probe::default()
    };
    // Which of them is presented is nothing to it, so it is not to be replaced for that.
    let first = *passwords.accepts.first().unwrap_or(&passwords.presents);
    let (mut env, others): (Vec<_>, Vec<_>) = pod::other_redis_passwords(valid, &passwords.accepts, first).unzip();
    env.insert(0, pod::redis_password(valid, first));
    let mut opened_by = vec!["--requirepass".to_owned(), "$(REDIS_PASSWORD)".to_owned()];
    if !others.is_empty() {
        // One user may have several.
        opened_by = ["--user", "default", "on", "~*", "&*", "+@all", ">$(REDIS_PASSWORD)"]
            .map(Into::into)
            .into();
        opened_by.extend(others.iter().map(|password| format!(">{password}")));
    }
    let process = Process {
        component: Component::Redis,
        image: &valid.images.redis,
        args: [
            ["--port", &REDIS.to_string()],
            ["--bind", "*"],
            ["--save", ""],
            ["--appendonly", "no"],
            ["--maxmemory-policy", "noeviction"],
        ]
        .concat()
        .into_iter()
        .map(Into::into)
        .chain(opened_by)
        .collect(),
        env,
        ports: vec![pod::port("redis", REDIS, "TCP")],
        resources: valid.resources[2].clone(),
        probes: (connects.clone(), connects),
    };
    let pod = PodSpec {
        termination_grace_period_seconds: Some(5),
        affinity: Some(pod::apart_from(valid, &[pod::both_copies(Component::Container)])),
        ..pod::spec(valid, process)
    };
    of_pods(valid, 1, pod, passwords)
}

/// So many such pods.
pub(super) fn of_pods(valid: &Valid, count: u32, pod: PodSpec, passwords: &Passwords) -> StatefulSet {
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
                    annotations: passwords.annotations(valid.redis_kind()),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

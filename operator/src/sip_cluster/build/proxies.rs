//! The proxies: a Deployment that replaces them one by one, and the Service by which they find one another.

use std::net::SocketAddr;

use crds::Transport;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{EnvVar, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Service, SleepAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::containers::{common, headless};
use super::pod::{self, Process};
use super::{AFFINITY_KEY, metadata};
use crate::sip_cluster::keys::Keys;
use crate::sip_cluster::names::{Component, FIRST_KEY, UCF};
use crate::sip_cluster::plan::Decision;
use crate::sip_cluster::validate::Valid;

/// Seconds for which a proxy that is to go still takes everything: so long it takes until every node has heard of it.
const HEARD_OF: i64 = 2;

/// What a proxy has to end in, after the time that it may take to drain, in seconds.
const LEAVING: i64 = 5;

/// Lists the proxies, for one another.
pub fn service(valid: &Valid) -> Service {
    headless(valid, valid.names.proxies(), Component::Proxy, &[("ucf", UCF)])
}

/// The Deployment.
pub fn deployment(valid: &Valid, decision: &Decision, advertised: SocketAddr) -> Deployment {
    let spec = &valid.spec;
    let port = spec.dispatcher.port;
    let mut ports: Vec<_> = spec
        .dispatcher
        .transports
        .iter()
        .map(|transport| match transport {
            Transport::Udp => pod::port("sip-udp", port.into(), "UDP"),
            Transport::Tcp => pod::port("sip-tcp", port.into(), "TCP"),
        })
        .collect();
    ports.extend([pod::port("ucf", UCF, "TCP"), pod::admin_port()]);
    let process = Process {
        component: Component::Proxy,
        image: &valid.images.proxy,
        args: arguments(valid, advertised),
        env: environment(valid, &decision.keys),
        ports,
        resources: valid.resources[1].clone(),
        probes: pod::admin_probes(),
    };
    let drain = spec.proxies.drain.duration().as_secs() as i64;
    let mut pod = PodSpec {
        service_account_name: Some(valid.names.proxies()),
        termination_grace_period_seconds: Some(HEARD_OF + drain + LEAVING),
        ..pod::spec(valid, process)
    };
    // It reads EndpointSlices with its token.
    pod.automount_service_account_token = Some(true);
    pod.containers[0].lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            sleep: Some(SleepAction { seconds: HEARD_OF }),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
    Deployment {
        metadata: metadata(valid, valid.names.proxies()),
        spec: Some(DeploymentSpec {
            replicas: Some(spec.proxies.replicas as i32),
            selector: valid.names.selector(Component::Proxy),
            strategy: Some(DeploymentStrategy {
                type_: Some("RollingUpdate".into()),
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(1)),
                    max_unavailable: Some(IntOrString::Int(0)),
                }),
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(valid.names.part_labels(Component::Proxy)),
                    annotations: decision.keys.annotations(),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..DeploymentSpec::default()
        }),
        status: None,
    }
}

fn environment(valid: &Valid, keys: &Keys) -> Vec<EnvVar> {
    let mut variables = vec![
        pod::of_pod("POD_NAME", "metadata.name"),
        pod::of_pod("POD_IP", "status.podIP"),
    ];
    variables.extend(pod::keys(valid, keys));
    if keys.issues != FIRST_KEY {
        // A proxy that told requests apart by another key would take a repeated one for a new call.
        variables.push(pod::secret(valid, "SIPCLUSTER_TRANSACTION_KEY", AFFINITY_KEY));
    }
    variables
}

fn arguments(valid: &Valid, advertised: SocketAddr) -> Vec<String> {
    let spec = &valid.spec;
    let mut arguments = common(valid, advertised);
    for transport in &spec.dispatcher.transports {
        let transport = match transport {
            Transport::Udp => "udp",
            Transport::Tcp => "tcp",
        };
        arguments.push(format!("--listen={transport}:$(POD_IP):{}", spec.dispatcher.port));
    }
    for service in [valid.names.container_service(), valid.names.proxies()] {
        arguments.push(format!("--endpoints-of={}/{service}", valid.names.namespace));
    }
    arguments.push(format!("--drain-ms={}", spec.proxies.drain.duration().as_millis()));
    if !spec.proxies.emergency.is_empty() {
        arguments.push(format!("--emergency={}", spec.proxies.emergency.join(",")));
    }
    arguments.extend(spec.proxies.workers.map(|workers| format!("--workers={workers}")));
    arguments
}

//! The proxies: a Deployment that replaces them one by one, and the Service by which they find one another.

use crds::Transport;
use k8s_openapi::api::apps::v1::{Deployment, DeploymentSpec, DeploymentStrategy, RollingUpdateDeployment};
use k8s_openapi::api::core::v1::{EnvVar, Lifecycle, LifecycleHandler, PodSpec, PodTemplateSpec, Service, SleepAction};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::containers::{common, headless};
use super::pod::{self, Process};
use super::{AFFINITY_KEY, dispatcher, metadata};
use crate::sip_cluster::keys::Keys;
use crate::sip_cluster::names::{ACCOUNT, ADMIN, Component, FIRST_KEY, STAND_IN, UCF};
use crate::sip_cluster::plan::Decision;
use crate::sip_cluster::validate::Valid;

/// Seconds for which a proxy that is to go still takes everything: so long it takes until every node has heard of it.
const HEARD_OF: i64 = 2;

/// What a proxy has to end in, after the time that it may take to drain, in seconds.
const LEAVING: i64 = 5;

/// Lists the proxies, for one another.
pub fn service(valid: &Valid) -> Service {
    let (ucf, _) = ports(valid);
    headless(valid, valid.names.proxies(), Component::Proxy, &[("ucf", ucf)])
}

/// The ports of links and of admin pages: those of a node are others' too, so the manifest may choose them.
fn ports(valid: &Valid) -> (i32, i32) {
    let host_network = valid.host_network();
    host_network.map_or((UCF, ADMIN), |host_network| {
        (host_network.ucf_port.into(), host_network.admin_port.into())
    })
}

/// The Deployment.
pub fn deployment(valid: &Valid, decision: &Decision, advertised: &str) -> Deployment {
    let spec = &valid.spec;
    let port = spec.dispatcher.port;
    let in_host_network = valid.host_network().is_some();
    let (ucf, admin) = ports(valid);
    let sip = spec.dispatcher.transports.iter().map(|transport| {
        let (name, protocol) = dispatcher::port(*transport);
        pod::port(name, port.into(), protocol)
    });
    let mut ports: Vec<_> = sip.collect();
    ports.extend([pod::port("ucf", ucf, "TCP"), pod::port("admin", admin, "TCP")]);
    if in_host_network {
        // What it listens at, whatever is said here; but by this the scheduler keeps pods that want the same ports off the node.
        for port in &mut ports {
            port.host_port = Some(port.container_port);
        }
    }
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
    if in_host_network {
        pod.host_network = Some(true);
        // It finds the API server by name like any other pod.
        pod.dns_policy = Some("ClusterFirstWithHostNet".into());
        pod.affinity = Some(pod::never_beside(valid, Component::Proxy));
    }
    pod.node_selector = Some(valid.spec.proxies.node_selector.clone()).filter(|labels| !labels.is_empty());
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
                // On a node whose ports one has there is no room for another beside it.
                rolling_update: Some(RollingUpdateDeployment {
                    max_surge: Some(IntOrString::Int(i32::from(!in_host_network))),
                    max_unavailable: Some(IntOrString::Int(i32::from(in_host_network))),
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

/// Replaces the pods once their ServiceAccount is another object. Their tokens name it by its uid: if somebody deletes it, they are good for nothing
/// although it is there again at once, and the kubelet fetches others only after most of an hour. Until then they would find no new container.
pub fn of_account(mut deployment: Deployment, uid: &str) -> Deployment {
    let template = deployment.spec.as_mut().map(|spec| &mut spec.template);
    let metadata = template.map(|template| template.metadata.get_or_insert_default());
    if let Some(metadata) = metadata {
        let annotations = metadata.annotations.get_or_insert_default();
        annotations.insert(ACCOUNT.to_owned(), uid.to_owned());
    }
    deployment
}

fn environment(valid: &Valid, keys: &Keys) -> Vec<EnvVar> {
    let mut variables = vec![
        pod::of_pod("POD_NAME", "metadata.name"),
        match valid.host_network() {
            Some(_) => pod::of_pod("POD_IP", "status.hostIP"),
            None => pod::of_pod("POD_IP", "status.podIP"),
        },
    ];
    variables.extend(pod::keys(valid, keys));
    if keys.issues != FIRST_KEY {
        // A proxy that told requests apart by another key would take a repeated one for a new call.
        variables.push(pod::secret(valid, "SIPCLUSTER_TRANSACTION_KEY", AFFINITY_KEY));
    }
    variables
}

fn arguments(valid: &Valid, advertised: &str) -> Vec<String> {
    let spec = &valid.spec;
    let host_network = valid.host_network();
    // In the network of its node a proxy is known by the address at which it listens.
    let mut arguments = common(valid, ports(valid), Some(advertised).filter(|_| host_network.is_none()));
    arguments.extend(host_network.map(|host_network| match &host_network.host {
        Some(name) => format!("--route-host={name}"),
        None => format!("--stand-in={STAND_IN}"),
    }));
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

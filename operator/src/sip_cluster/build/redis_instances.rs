//! The cluster's own Redis of several instances: in each pod a server and a Sentinel, behind an address that stays when the pod does not.
//!
//! Instances know one another by these addresses alone, so no name is looked up while another master is promoted. What server and Sentinel do when
//! they start is the image's script `redis-instance`.

use std::net::IpAddr;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{
    Container, EmptyDirVolumeSource, ExecAction, Lifecycle, LifecycleHandler, PodAffinityTerm, PodSpec, Probe,
    ResourceRequirements, Service, ServicePort, ServiceSpec, TCPSocketAction, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::api::resource::Quantity;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::containers::headless;
use super::pod::{self, Process};
use super::{metadata, redis};
use crate::sip_cluster::names::{Component, REDIS, REDIS_INSTANCES, SENTINEL};
use crate::sip_cluster::passwords::Passwords;
use crate::sip_cluster::validate::Valid;

/// The image's script.
const PROGRAM: &str = "/usr/bin/redis-instance";

/// A server may wait for the Sentinels, and they for other nodes, so long that nobody gains by starting it again.
const STARTS_WITHIN: i32 = 3600;

/// Seconds for which a master that is told to end may wait until another is promoted, and until its replicas have all.
const LEAVING: i64 = 15;

/// Every so many seconds it is asked whether an instance is in sync: each time a process is started for it.
const LOOK: i32 = 3;

/// Lists the instances, and one by one gives each its address.
pub fn services(valid: &Valid) -> Vec<Service> {
    let ports = [("redis", REDIS), ("sentinel", SENTINEL)];
    let all = headless(valid, valid.names.redis(), Component::Redis, &ports);
    let each = (0..valid.spec.redis_instances()).map(|ordinal| {
        let name = valid.names.redis_instance(ordinal);
        let pod = ("statefulset.kubernetes.io/pod-name".to_owned(), name.clone());
        let mut selector = valid.names.part(Component::Redis);
        selector.extend([pod]);
        let address = valid.redis_addresses.get(ordinal as usize);
        Service {
            metadata: metadata(valid, name),
            spec: Some(ServiceSpec {
                // One that somebody has deleted gets back the address that all others know.
                cluster_ip: address.map(IpAddr::to_string),
                // A server that waits to be told whom to follow is asked by nobody; its Sentinel is.
                publish_not_ready_addresses: Some(true),
                selector: Some(selector),
                ports: Some(ports.iter().map(|(name, port)| service_port(name, *port)).collect()),
                ..ServiceSpec::default()
            }),
            status: None,
        }
    });
    [all].into_iter().chain(each).collect()
}

/// The StatefulSet; nothing until all addresses are known.
pub fn set(valid: &Valid, passwords: &Passwords) -> Option<StatefulSet> {
    if valid.redis_addresses.is_empty() {
        return None;
    }
    let mut pod = pod::spec(valid, server(valid, passwords));
    let [server] = &mut pod.containers[..] else {
        unreachable!("a pod of one process")
    };
    runs(server, "server", passwords);
    server.lifecycle = Some(Lifecycle {
        pre_stop: Some(LifecycleHandler {
            exec: Some(script("leave")),
            ..LifecycleHandler::default()
        }),
        ..Lifecycle::default()
    });
    if let Some(startup) = &mut server.startup_probe {
        startup.failure_threshold = Some(STARTS_WITHIN);
    }
    if let Some(readiness) = &mut server.readiness_probe {
        readiness.period_seconds = Some(LOOK);
        readiness.timeout_seconds = Some(LOOK);
    }
    pod.containers.push(sentinel(valid, passwords));
    let mut affinity = pod::apart_from(valid, &[pod::both_copies(Component::Container)]);
    // Two on one node would be lost with it, and with them a majority.
    affinity
        .pod_anti_affinity
        .get_or_insert_default()
        .required_during_scheduling_ignored_during_execution = Some(vec![PodAffinityTerm {
        topology_key: "kubernetes.io/hostname".into(),
        label_selector: Some(valid.names.selector(Component::Redis)),
        ..PodAffinityTerm::default()
    }]);
    let pod = PodSpec {
        termination_grace_period_seconds: Some(LEAVING),
        affinity: Some(affinity),
        volumes: Some(vec![Volume {
            name: "data".into(),
            empty_dir: Some(EmptyDirVolumeSource::default()),
            ..Volume::default()
        }]),
        ..pod
    };
    Some(redis::of_pods(valid, valid.spec.redis_instances(), pod, passwords))
}

/// The URL by which containers find the master.
pub fn url(valid: &Valid) -> String {
    let sentinels = valid.redis_addresses.iter().map(|address| match address {
        IpAddr::V4(address) => format!("{address}:{SENTINEL}"),
        IpAddr::V6(address) => format!("[{address}]:{SENTINEL}"),
    });
    let sentinels: Vec<_> = sentinels.collect();
    format!(
        "redis-sentinel://:$(REDIS_PASSWORD)@{}#{}",
        sentinels.join(","),
        valid.names.cluster
    )
}

fn server<'a>(valid: &'a Valid, passwords: &Passwords) -> Process<'a> {
    let is_in_sync = Probe {
        exec: Some(script("ready")),
        ..Probe::default()
    };
    Process {
        component: Component::Redis,
        image: &valid.images.redis,
        args: vec!["server".into()],
        env: environment(valid, passwords),
        ports: vec![pod::port("redis", REDIS, "TCP")],
        resources: valid.resources[2].clone(),
        probes: (connects("redis"), is_in_sync),
    }
}

fn sentinel(valid: &Valid, passwords: &Passwords) -> Container {
    let quantities = [("cpu", "10m"), ("memory", "32Mi")].map(|(name, text)| (name.to_owned(), Quantity(text.into())));
    let process = Process {
        component: Component::Redis,
        image: &valid.images.redis,
        args: vec!["sentinel".into()],
        env: environment(valid, passwords),
        ports: vec![pod::port("sentinel", SENTINEL, "TCP")],
        resources: Some(ResourceRequirements {
            requests: Some(quantities.into()),
            ..ResourceRequirements::default()
        }),
        probes: (connects("sentinel"), connects("sentinel")),
    };
    let mut container = pod::container(valid, process);
    container.name = "sentinel".into();
    runs(&mut container, "sentinel", passwords);
    container.volume_mounts = Some(vec![VolumeMount {
        name: "data".into(),
        mount_path: "/data".into(),
        ..VolumeMount::default()
    }]);
    container
}

/// The image's entry point is that of a single server. One that does not know of several passwords has to fail at the first instance, whatever it is.
fn runs(container: &mut Container, what: &str, passwords: &Passwords) {
    let words: &[&str] = match passwords.accepts.len() {
        0 | 1 => &[PROGRAM, what],
        _ => &[PROGRAM, "accepting", what],
    };
    container.command = Some(words.iter().map(|word| (*word).to_owned()).collect());
    container.args = None;
}

fn script(what: &str) -> ExecAction {
    ExecAction {
        command: Some(vec![PROGRAM.into(), what.into()]),
    }
}

fn connects(port: &str) -> Probe {
    Probe {
        tcp_socket: Some(TCPSocketAction {
            port: IntOrString::String(port.into()),
            host: None,
        }),
        ..Probe::default()
    }
}

fn environment(valid: &Valid, passwords: &Passwords) -> Vec<k8s_openapi::api::core::v1::EnvVar> {
    let addresses: Vec<_> = valid.redis_addresses.iter().map(IpAddr::to_string).collect();
    let Passwords { presents, accepts } = passwords;
    let (others, values): (Vec<_>, Vec<_>) = pod::other_redis_passwords(valid, accepts, *presents).unzip();
    let mut variables = vec![
        pod::of_pod("POD_NAME", "metadata.name"),
        pod::variable("REDIS_CLUSTER", &valid.names.cluster),
        pod::variable(REDIS_INSTANCES, addresses.join(" ")),
        pod::redis_password(valid, *presents),
    ];
    if !others.is_empty() {
        variables.extend(others);
        variables.push(pod::variable("REDIS_OTHER_PASSWORDS", values.join(" ")));
    }
    variables
}

fn service_port(name: &str, port: i32) -> ServicePort {
    ServicePort {
        name: Some(name.into()),
        port,
        protocol: Some("TCP".into()),
        ..ServicePort::default()
    }
}

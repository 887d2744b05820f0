//! The containers: a StatefulSet whose order is the planner's, and the Service that lists them.

use k8s_openapi::api::apps::v1::{StatefulSet, StatefulSetSpec, StatefulSetUpdateStrategy};
use k8s_openapi::api::core::v1::{
    KeyToPath, PodSpec, PodTemplateSpec, SecretVolumeSource, Service, ServicePort, ServiceSpec, Volume, VolumeMount,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;

use super::pod::{self, Process};
use super::{metadata, redis_instances};
use crate::sip_cluster::names::{ADMIN, CONTAINER_SIP, Component, REDIS, UCF};
use crate::sip_cluster::passwords::Kind;
use crate::sip_cluster::plan::Decision;
use crate::sip_cluster::validate::Valid;

/// What a container has to end in, after the time that it may take to hand over, in seconds.
const LEAVING: u64 = 5;

/// Where a container finds the CA of an external Redis. The kubelet brings the directory up to date when the Secret changes.
const CA_DIRECTORY: &str = "/etc/sipcluster/redis";
const CA_FILE: &str = "ca.crt";

/// Lists the containers, those that join too: proxies bring them in.
pub fn service(valid: &Valid) -> Service {
    headless(
        valid,
        valid.names.container_service(),
        Component::Container,
        &[("sip", CONTAINER_SIP), ("ucf", UCF)],
    )
}

/// A Service that has no address and lists pods, ready or not.
pub fn headless(valid: &Valid, name: String, component: Component, ports: &[(&str, i32)]) -> Service {
    Service {
        metadata: metadata(valid, name),
        spec: Some(ServiceSpec {
            cluster_ip: Some("None".into()),
            publish_not_ready_addresses: Some(true),
            selector: Some(valid.names.part(component)),
            ports: Some(
                ports
                    .iter()
                    .map(|(name, port)| ServicePort {
                        name: Some((*name).into()),
                        port: *port,
                        protocol: Some("TCP".into()),
                        ..ServicePort::default()
                    })
                    .collect(),
            ),
            ..ServiceSpec::default()
        }),
        status: None,
    }
}

/// The StatefulSet.
pub fn set(valid: &Valid, decision: &Decision, replicas: u16, advertised: &str) -> StatefulSet {
    let spec = &valid.spec;
    let process = Process {
        component: Component::Container,
        image: &valid.images.container,
        args: arguments(valid, advertised),
        env: environment(valid, decision),
        ports: vec![
            pod::port("sip", CONTAINER_SIP, "TCP"),
            pod::port("ucf", UCF, "TCP"),
            pod::admin_port(),
        ],
        resources: valid.resources[0].clone(),
        probes: pod::admin_probes(),
    };
    let mut pod = PodSpec {
        affinity: Some(pod::apart_from(
            valid,
            &[pod::alike(Component::Container), pod::both_copies(Component::Redis)],
        )),
        service_account_name: Some(valid.names.containers()),
        termination_grace_period_seconds: Some((spec.containers.quiesce.duration().as_secs() + LEAVING) as i64),
        ..pod::spec(valid, process)
    };
    if let Some(secret) = valid.spec.external_redis().and_then(|redis| redis.ca_secret.as_ref()) {
        pod.volumes.get_or_insert_default().push(Volume {
            name: "redis-ca".into(),
            secret: Some(SecretVolumeSource {
                secret_name: Some(secret.name.clone()),
                items: Some(vec![KeyToPath {
                    key: secret.key.clone(),
                    path: CA_FILE.into(),
                    mode: None,
                }]),
                ..SecretVolumeSource::default()
            }),
            ..Volume::default()
        });
        for container in &mut pod.containers {
            container.volume_mounts.get_or_insert_default().push(VolumeMount {
                name: "redis-ca".into(),
                mount_path: CA_DIRECTORY.into(),
                read_only: Some(true),
                ..VolumeMount::default()
            });
        }
    }
    let mut annotations = decision.keys.annotations().unwrap_or_default();
    annotations.extend(decision.passwords.annotations(Kind::Container).unwrap_or_default());
    StatefulSet {
        metadata: metadata(valid, valid.names.containers()),
        spec: Some(StatefulSetSpec {
            replicas: Some(replicas.into()),
            service_name: Some(valid.names.container_service()),
            selector: valid.names.selector(Component::Container),
            pod_management_policy: Some("Parallel".into()),
            update_strategy: Some(StatefulSetUpdateStrategy {
                type_: Some("OnDelete".into()),
                rolling_update: None,
            }),
            template: PodTemplateSpec {
                metadata: Some(ObjectMeta {
                    labels: Some(valid.names.part_labels(Component::Container)),
                    annotations: (!annotations.is_empty()).then_some(annotations),
                    ..ObjectMeta::default()
                }),
                spec: Some(pod),
            },
            ..StatefulSetSpec::default()
        }),
        status: None,
    }
}

fn arguments(valid: &Valid, advertised: &str) -> Vec<String> {
    let spec = &valid.spec;
    let application = serde_json::to_string(&spec.application).expect("an application is JSON");
    let mut arguments = common(valid, (UCF, ADMIN), Some(advertised));
    arguments.extend([
        format!("--sip=$(POD_IP):{CONTAINER_SIP}"),
        format!("--quiesce-ms={}", spec.containers.quiesce.duration().as_millis()),
        // Kubernetes expands `$(NAME)`; `$$` stands for a dollar of the manifest's.
        format!("--application={}", application.replace('$', "$$")),
    ]);
    arguments.extend(spec.containers.workers.map(|workers| format!("--workers={workers}")));
    arguments
}

/// What containers and proxies are told alike: with the ports of links and of admin pages.
pub fn common(valid: &Valid, (ucf, admin): (i32, i32), advertised: Option<&str>) -> Vec<String> {
    let spec = &valid.spec;
    let mut arguments = vec![
        format!("--cluster={}", valid.names.cluster),
        "--name=$(POD_NAME)".into(),
        format!("--ucf=$(POD_IP):{ucf}"),
        format!("--admin=$(POD_IP):{admin}"),
    ];
    arguments.extend(advertised.map(|advertised| format!("--advertised={advertised}")));
    arguments.extend([
        format!("--partitions={}", spec.partitions),
        format!("--lease-ms={}", spec.replication.lease.duration().as_millis()),
    ]);
    arguments
}

fn environment(valid: &Valid, decision: &Decision) -> Vec<k8s_openapi::api::core::v1::EnvVar> {
    let mut variables = vec![
        pod::of_pod("POD_NAME", "metadata.name"),
        pod::of_pod("POD_IP", "status.podIP"),
    ];
    variables.extend(pod::keys(valid, &decision.keys));
    match valid.spec.external_redis() {
        Some(external) => {
            variables.push(match (&external.secret, &external.url) {
                (Some(secret), _) => pod::of_secret(secret.name.clone(), "SIPCLUSTER_REDIS", &secret.key),
                (None, url) => pod::variable(
                    "SIPCLUSTER_REDIS",
                    url.as_deref().unwrap_or_default().replace('$', "$$"),
                ),
            });
            if external.ca_secret.is_some() {
                variables.push(pod::variable(
                    "SIPCLUSTER_REDIS_CA",
                    format!("{CA_DIRECTORY}/{CA_FILE}"),
                ));
            }
        }
        None => {
            let (service, namespace) = (valid.names.redis(), &valid.names.namespace);
            variables.push(pod::redis_password(valid, decision.passwords.presents));
            let url = match valid.has_redis_instances() {
                true => redis_instances::url(valid),
                false => format!("redis://:$(REDIS_PASSWORD)@{service}.{namespace}.svc:{REDIS}"),
            };
            variables.push(pod::variable("SIPCLUSTER_REDIS", url));
        }
    }
    let replicas = valid.spec.redis_instances() - 1;
    if replicas > 0 {
        variables.push(pod::variable("SIPCLUSTER_REDIS_REPLICAS", replicas.to_string()));
    }
    variables
}

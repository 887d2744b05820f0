//! What the pods of all parts have in common.

use std::collections::BTreeSet;

use k8s_openapi::api::core::v1::{
    Affinity, Capabilities, Container, ContainerPort, EnvVar, EnvVarSource, HTTPGetAction, ObjectFieldSelector,
    PodAffinityTerm, PodAntiAffinity, PodSecurityContext, PodSpec, Probe, ResourceRequirements, SeccompProfile,
    SecretKeySelector, SecurityContext, Toleration, TopologySpreadConstraint, WeightedPodAffinityTerm,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::{AFFINITY_KEY, REDIS_PASSWORD};
use crate::sip_cluster::keys::Keys;
use crate::sip_cluster::names::{ADMIN, Component};
use crate::sip_cluster::validate::Valid;

/// Nobody in particular; the images need no account.
const USER: i64 = 65_532;

/// A pod on a node that is gone is given up after this many seconds: its calls have long been taken over, and the sooner there is another
/// container the better. Kubernetes would wait for five minutes.
const NODE_LOST: i64 = 30;

/// One process of ours.
pub struct Process<'a> {
    pub component: Component,
    pub image: &'a str,
    pub args: Vec<String>,
    pub env: Vec<EnvVar>,
    pub ports: Vec<ContainerPort>,
    pub resources: Option<ResourceRequirements>,
    /// Liveness and readiness; the startup's is that of liveness with patience.
    pub probes: (Probe, Probe),
}

/// Its container, which meets the pod security standard `restricted`.
pub fn container(valid: &Valid, process: Process<'_>) -> Container {
    let Process {
        component,
        image,
        args,
        env,
        ports,
        resources,
        probes: (live, ready),
    } = process;
    Container {
        name: component.as_str().into(),
        image: Some(image.into()),
        image_pull_policy: Some(valid.images.pull_policy.clone()),
        args: Some(args),
        env: Some(env),
        ports: Some(ports),
        resources,
        startup_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(60),
            ..live.clone()
        }),
        liveness_probe: Some(Probe {
            period_seconds: Some(10),
            timeout_seconds: Some(5),
            failure_threshold: Some(6),
            ..live
        }),
        readiness_probe: Some(Probe {
            period_seconds: Some(1),
            failure_threshold: Some(3),
            ..ready
        }),
        security_context: Some(SecurityContext {
            allow_privilege_escalation: Some(false),
            read_only_root_filesystem: Some(true),
            capabilities: Some(Capabilities {
                drop: Some(vec!["ALL".into()]),
                add: None,
            }),
            ..SecurityContext::default()
        }),
        ..Container::default()
    }
}

/// The pod around it, which meets that standard too, unless it is put into the network of its node.
pub fn spec(valid: &Valid, process: Process<'_>) -> PodSpec {
    let component = process.component;
    PodSpec {
        containers: vec![container(valid, process)],
        security_context: Some(PodSecurityContext {
            run_as_non_root: Some(true),
            run_as_user: Some(USER),
            run_as_group: Some(USER),
            seccomp_profile: Some(SeccompProfile {
                type_: "RuntimeDefault".into(),
                localhost_profile: None,
            }),
            ..PodSecurityContext::default()
        }),
        // Variables that Kubernetes makes of Services' names could be taken for settings.
        enable_service_links: Some(false),
        automount_service_account_token: Some(false),
        tolerations: Some(["not-ready", "unreachable"].map(lost).into()),
        topology_spread_constraints: Some(vec![TopologySpreadConstraint {
            max_skew: 1,
            topology_key: "kubernetes.io/hostname".into(),
            when_unsatisfiable: "ScheduleAnyway".into(),
            label_selector: Some(valid.names.selector(component)),
            ..TopologySpreadConstraint::default()
        }]),
        // What a pod prefers counts against others' too, and more than the spread: a container was put beside another where no Redis was yet.
        affinity: Some(apart_from(valid, &[alike(component)])),
        ..PodSpec::default()
    }
}

/// Two of a kind would rather be on different nodes.
pub const fn alike(component: Component) -> (Component, i32) {
    (component, 100)
}

/// A container and Redis would rather be on different nodes: with one node both copies of a call would be lost. It weighs less than
/// [`alike`], because with two containers more calls have to move.
pub const fn both_copies(other: Component) -> (Component, i32) {
    (other, 40)
}

/// Rather on a node that has none of these, by weight.
pub fn apart_from(valid: &Valid, others: &[(Component, i32)]) -> Affinity {
    let preferred = |&(component, weight): &(Component, i32)| WeightedPodAffinityTerm {
        weight,
        pod_affinity_term: PodAffinityTerm {
            topology_key: "kubernetes.io/hostname".into(),
            label_selector: Some(valid.names.selector(component)),
            ..PodAffinityTerm::default()
        },
    };
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            preferred_during_scheduling_ignored_during_execution: Some(others.iter().map(preferred).collect()),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

/// At most one of these on each node, of those that this cluster has.
pub fn never_beside(valid: &Valid, component: Component) -> Affinity {
    Affinity {
        pod_anti_affinity: Some(PodAntiAffinity {
            required_during_scheduling_ignored_during_execution: Some(vec![PodAffinityTerm {
                topology_key: "kubernetes.io/hostname".into(),
                label_selector: Some(valid.names.selector(component)),
                ..PodAffinityTerm::default()
            }]),
            ..PodAntiAffinity::default()
        }),
        ..Affinity::default()
    }
}

fn lost(how: &str) -> Toleration {
    Toleration {
        key: Some(format!("node.kubernetes.io/{how}")),
        operator: Some("Exists".into()),
        effect: Some("NoExecute".into()),
        toleration_seconds: Some(NODE_LOST),
        ..Toleration::default()
    }
}

/// The probes of a process with admin pages; they depend on nothing outside the pod.
pub fn admin_probes() -> (Probe, Probe) {
    let get = |path: &str| Probe {
        http_get: Some(HTTPGetAction {
            path: Some(path.into()),
            port: IntOrString::String("admin".into()),
            ..HTTPGetAction::default()
        }),
        ..Probe::default()
    };
    (get("/livez"), get("/readyz"))
}

/// A port by its name.
pub fn port(name: &str, number: i32, protocol: &str) -> ContainerPort {
    ContainerPort {
        name: Some(name.into()),
        container_port: number,
        protocol: Some(protocol.into()),
        ..ContainerPort::default()
    }
}

/// The port of the admin pages.
pub fn admin_port() -> ContainerPort {
    port("admin", ADMIN, "TCP")
}

/// A variable.
pub fn variable(name: &str, value: impl Into<String>) -> EnvVar {
    EnvVar {
        name: name.into(),
        value: Some(value.into()),
        value_from: None,
    }
}

/// A variable that the pod's own fields give.
pub fn of_pod(name: &str, field: &str) -> EnvVar {
    let field = ObjectFieldSelector {
        field_path: field.into(),
        api_version: Some("v1".into()),
    };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            field_ref: Some(field),
            ..EnvVarSource::default()
        }),
    }
}

/// A variable out of the cluster's first Secret.
pub fn secret(valid: &Valid, name: &str, key: &str) -> EnvVar {
    of_secret(valid.names.keys(), name, key)
}

/// The variable that holds this password of the cluster's own Redis.
pub fn redis_password(valid: &Valid, number: u32) -> EnvVar {
    of_secret(valid.names.redis_password(number), "REDIS_PASSWORD", REDIS_PASSWORD)
}

/// The variables that hold the others of them, and what stands for each where Kubernetes expands variables.
pub fn other_redis_passwords<'a>(
    valid: &'a Valid,
    all: &'a BTreeSet<u32>,
    first: u32,
) -> impl Iterator<Item = (EnvVar, String)> + 'a {
    all.iter().filter(move |number| **number != first).map(move |number| {
        let name = format!("REDIS_PASSWORD_{number}");
        let variable = of_secret(valid.names.redis_password(*number), &name, REDIS_PASSWORD);
        (variable, format!("$({name})"))
    })
}

/// The variables by which a process finds the keys that it issues with and verifies.
pub fn keys(valid: &Valid, keys: &Keys) -> Vec<EnvVar> {
    let of_key = |name: &str, number| of_secret(valid.names.key(number), name, AFFINITY_KEY);
    let others: Vec<_> = keys.verifies.iter().filter(|number| **number != keys.issues).collect();
    let mut variables = vec![of_key("SIPCLUSTER_KEY", keys.issues)];
    variables.extend(others.iter().map(|number| of_key(&format!("KEY_{number}"), **number)));
    if !others.is_empty() {
        let all: Vec<_> = others.iter().map(|number| format!("$(KEY_{number})")).collect();
        variables.push(variable("SIPCLUSTER_OTHER_KEYS", all.join(",")));
    }
    variables
}

/// A variable out of any Secret of the namespace.
pub fn of_secret(secret: String, name: &str, key: &str) -> EnvVar {
    let selector = SecretKeySelector {
        name: secret,
        key: key.into(),
        optional: None,
    };
    EnvVar {
        name: name.into(),
        value: None,
        value_from: Some(EnvVarSource {
            secret_key_ref: Some(selector),
            ..EnvVarSource::default()
        }),
    }
}

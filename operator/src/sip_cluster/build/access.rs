//! Who may ask the API server what: containers nothing, proxies for the addresses of containers and proxies.

use k8s_openapi::api::core::v1::ServiceAccount;
use k8s_openapi::api::rbac::v1::{PolicyRule, Role, RoleBinding, RoleRef, Subject};

use super::metadata;
use crate::sip_cluster::names::Component;
use crate::sip_cluster::validate::Valid;

pub fn account(valid: &Valid, name: &str, component: Component) -> ServiceAccount {
    ServiceAccount {
        metadata: metadata(valid, name.into()),
        automount_service_account_token: Some(component == Component::Proxy),
        ..ServiceAccount::default()
    }
}

pub fn role(valid: &Valid) -> Role {
    Role {
        metadata: metadata(valid, valid.names.proxies()),
        rules: Some(vec![PolicyRule {
            api_groups: Some(vec!["discovery.k8s.io".into()]),
            resources: Some(vec!["endpointslices".into()]),
            verbs: ["get", "list", "watch"].map(Into::into).into(),
            ..PolicyRule::default()
        }]),
    }
}

pub fn role_binding(valid: &Valid) -> RoleBinding {
    RoleBinding {
        metadata: metadata(valid, valid.names.proxies()),
        role_ref: RoleRef {
            api_group: "rbac.authorization.k8s.io".into(),
            kind: "Role".into(),
            name: valid.names.proxies(),
        },
        subjects: Some(vec![Subject {
            kind: "ServiceAccount".into(),
            name: valid.names.proxies(),
            namespace: Some(valid.names.namespace.clone()),
            ..Subject::default()
        }]),
    }
}

//! The `SipCluster` resource: the same manifest describes a cluster on Kubernetes and on one machine.
//!
//! [`parse`] turns a manifest's text into a [`SipCluster`] whose values are final and checked, or into [`Problem`]s that each name the
//! field, the value and the remedy. The rules are the resource's own schema ([`check`] walks it, as the API server does) and the few that
//! span fields ([`rules`]), so that one machine and Kubernetes refuse the same manifests. What is [`generated`] from
//! the types, `crdgen` keeps up to date.

pub mod change;
mod check;
mod manifest;
mod reference;
mod rules;
pub mod sip_cluster;
pub mod status;
mod values;

pub use manifest::parse;
pub use reference::{generated, reference};
pub use rules::broken;
pub use sip_cluster::{
    Answer, Application, B2bua, CaKey, Containers, Custom, Dispatcher, External, HostNetwork, Keys, Managed, Media,
    Mode, Proxies, Redis, Replication, Resources, Route, RoutedMethod, SecretKey, Service, ServiceType, SipCluster,
    SipClusterSpec, TrafficPolicy, Transport,
};
pub use status::SipClusterStatus;
pub use values::{Period, Quantity};

/// Something wrong with a manifest.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// The field, such as `spec.proxies.replicas`; empty for the document as a whole.
    pub field: String,
    /// The value that stands there, as it was written; empty if nothing does.
    pub value: String,
    /// What is wrong with it.
    pub wrong: String,
    /// What to write instead.
    pub remedy: String,
}

impl std::fmt::Display for Problem {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match (self.field.as_str(), self.value.as_str()) {
            ("", _) => {}
            (field, "") => write!(f, "{field}: ")?,
            (field, value) => write!(f, "{field}: {value}: ")?,
        }
        write!(f, "{}; {}", self.wrong, self.remedy)
    }
}

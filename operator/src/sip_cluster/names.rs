//! Names, labels and ports of what a SipCluster consists of.

use std::collections::BTreeMap;

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;

/// The number of the key, and of the password of Redis, with which every cluster begins.
pub const FIRST_KEY: u32 = 1;

/// The field manager of all that the operator applies.
pub const MANAGER: &str = "sipcluster-operator";

/// The longest name: the names of children, and the labels that Kubernetes derives from them, have 63 characters.
pub const LONGEST_NAME: usize = 40;

/// The label that tells a part's kind.
pub const COMPONENT: &str = "app.kubernetes.io/component";

/// The label that tells a part's SipCluster.
pub const INSTANCE: &str = "app.kubernetes.io/instance";

const NAME: &str = "app.kubernetes.io/name";

/// Selects everything that belongs to some SipCluster.
pub const OURS: &str = "app.kubernetes.io/managed-by=sipcluster-operator";

/// The annotation of the proxies' template that has the uid of their ServiceAccount.
pub const ACCOUNT: &str = "sipcluster.dev/service-account";

/// Plain SIP of containers, for proxies.
pub const CONTAINER_SIP: i32 = 5070;
/// UCF of containers and proxies.
pub const UCF: i32 = 5071;
/// Health, metrics and state.
pub const ADMIN: i32 = 9090;
/// What containers write as their host where each proxy puts its own address in its place. Nobody can look it up (RFC 2606 s2).
pub const STAND_IN: &str = "sipcluster.invalid";
/// Redis.
pub const REDIS: i32 = 6379;
/// The Sentinel beside each instance of a Redis of several.
pub const SENTINEL: i32 = 26_379;

/// The variable in which an instance of the cluster's own Redis finds the addresses of all.
pub const REDIS_INSTANCES: &str = "REDIS_INSTANCES";

/// A kind of part.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Component {
    /// Owns calls.
    Container,
    /// Holds client connections.
    Proxy,
    /// Keeps the second copy.
    Redis,
}

impl Component {
    /// Its label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Container => "container",
            Self::Proxy => "proxy",
            Self::Redis => "redis",
        }
    }
}

/// The names within one SipCluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Names {
    /// The SipCluster's own.
    pub cluster: String,
    /// Its namespace.
    pub namespace: String,
}

impl Names {
    /// The containers' StatefulSet; its pods are `demo-0` and so on. The dispatcher's Service has the same name.
    #[must_use]
    pub fn containers(&self) -> String {
        self.cluster.clone()
    }

    /// The Service in front of the proxies.
    #[must_use]
    pub fn dispatcher(&self) -> String {
        self.cluster.clone()
    }

    /// The containers' headless Service.
    #[must_use]
    pub fn container_service(&self) -> String {
        format!("{}-containers", self.cluster)
    }

    /// The proxies' Deployment, their headless Service and their ServiceAccount.
    #[must_use]
    pub fn proxies(&self) -> String {
        format!("{}-proxy", self.cluster)
    }

    /// The cluster's own Redis: StatefulSet and Service.
    #[must_use]
    pub fn redis(&self) -> String {
        format!("{}-redis", self.cluster)
    }

    /// One of several instances of it: its pod, and the Service that gives it an address.
    #[must_use]
    pub fn redis_instance(&self, ordinal: u32) -> String {
        format!("{}-{ordinal}", self.redis())
    }

    /// The Secret that holds the first key, and the first password of Redis.
    #[must_use]
    pub fn keys(&self) -> String {
        format!("{}-keys", self.cluster)
    }

    /// The Secret that holds the key of this number.
    #[must_use]
    pub fn key(&self, number: u32) -> String {
        match number {
            FIRST_KEY => self.keys(),
            _ => format!("{}-{number}", self.keys()),
        }
    }

    /// The Secret that holds the password of Redis of this number.
    #[must_use]
    pub fn redis_password(&self, number: u32) -> String {
        match number {
            FIRST_KEY => self.keys(),
            _ => format!("{}-password-{number}", self.redis()),
        }
    }

    /// Labels of everything of the cluster.
    #[must_use]
    pub fn labels(&self) -> BTreeMap<String, String> {
        let mut labels = self.instance();
        labels.insert("app.kubernetes.io/managed-by".into(), MANAGER.into());
        labels
    }

    /// Labels of a part, its pods included.
    #[must_use]
    pub fn part_labels(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.labels();
        labels.insert(COMPONENT.into(), component.as_str().into());
        labels
    }

    /// What selects the pods of a part.
    #[must_use]
    pub fn part(&self, component: Component) -> BTreeMap<String, String> {
        let mut labels = self.instance();
        labels.insert(COMPONENT.into(), component.as_str().into());
        labels
    }

    /// The same as a selector.
    #[must_use]
    pub fn selector(&self, component: Component) -> LabelSelector {
        LabelSelector {
            match_labels: Some(self.part(component)),
            ..LabelSelector::default()
        }
    }

    fn instance(&self) -> BTreeMap<String, String> {
        BTreeMap::from([
            (NAME.into(), "sipcluster".into()),
            (INSTANCE.into(), self.cluster.clone()),
        ])
    }
}

//! The kind `SipCluster`: what is there. The command `sipcluster status` speaks the same words.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Condition, Time};
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What a SipCluster is at present.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SipClusterStatus {
    /// The generation of the manifest that this status is about.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,

    /// Ready, Available, Progressing, Degraded, ReplicationHealthy and EgressAddress.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "conditions")]
    pub conditions: Vec<Condition>,

    /// Containers that exist.
    #[serde(default)]
    pub replicas: u32,

    /// Containers that are active.
    #[serde(default)]
    pub ready_replicas: u32,

    /// Dialogs of all containers.
    #[serde(default)]
    pub dialogs: u64,

    /// The labels of the containers' pods, for a HorizontalPodAutoscaler.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub selector: Option<String>,

    /// The cluster's address, such as `203.0.113.7:5060`. With `dispatcher.hostNetwork` its name, or the first of `addresses`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,

    /// With `dispatcher.hostNetwork`: the address of each proxy that serves, which is its node's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "set"))]
    pub addresses: Vec<String>,

    /// Each container; counts are at most ten seconds old, states are as they are.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["name"]))]
    pub containers: Vec<ContainerStatus>,

    /// What the planner waits for, such as `demo-2 is being handed its share of the partitions`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gate: Option<String>,

    /// Which keys are in use.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub keys: Option<KeysInUse>,

    /// The last time that containers took over from a lost one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failover: Option<Failover>,
}

/// One container.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ContainerStatus {
    /// Its name, such as `demo-0`.
    pub name: String,
    /// Where it stands.
    pub state: State,
    /// Partitions that it owns.
    pub partitions: u32,
    /// Dialogs that it holds, early and confirmed.
    pub dialogs: u64,
    /// Transactions in progress.
    pub load: u32,
}

/// Where a container, a proxy or a Redis stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
pub enum State {
    /// The process is there, but does not answer yet.
    Starting,
    /// It is being admitted and handed its share.
    Joining,
    /// It works; a container takes new dialogs.
    Active,
    /// It takes no new dialogs and hands over what it has.
    Quiescing,
    /// It was told to end.
    Stopping,
    /// The process lives but has not answered for a while.
    Silent,
    /// It ended by itself and will be started again.
    Failed,
}

/// A takeover.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Failover {
    /// When the loss was noticed.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub time: Time,
    /// Partitions that were claimed.
    pub partitions: u32,
    /// Sessions that came with them.
    pub sessions: u64,
    /// Until the last partition worked again, in milliseconds.
    pub duration_ms: u64,
}

/// The keys in use, by their numbers.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct KeysInUse {
    /// The one that new calls carry: of several, while pods are replaced, the oldest.
    pub issuing: u32,
    /// Those that every pod knows.
    pub verifying: Vec<u32>,
    /// Since when no pod has issued with another: calls that began later need no older key.
    #[schemars(with = "String", extend("format" = "date-time"))]
    pub since: Time,
}

impl State {
    /// The word that is shown.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Starting => "Starting",
            Self::Joining => "Joining",
            Self::Active => "Active",
            Self::Quiescing => "Quiescing",
            Self::Stopping => "Stopping",
            Self::Silent => "Silent",
            Self::Failed => "Failed",
        }
    }
}

impl std::fmt::Display for State {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(self.as_str())
    }
}

/// The schema of a list of conditions, as the API conventions have it: one of each type.
fn conditions(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
    schemars::json_schema!({
        "type": "array",
        "x-kubernetes-list-type": "map",
        "x-kubernetes-list-map-keys": ["type"],
        "items": {
            "type": "object",
            "required": ["type", "status", "lastTransitionTime", "reason", "message"],
            "properties": {
                "type": { "type": "string", "maxLength": 316 },
                "status": { "type": "string", "enum": ["True", "False", "Unknown"] },
                "observedGeneration": { "type": "integer", "format": "int64", "minimum": 0 },
                "lastTransitionTime": { "type": "string", "format": "date-time" },
                "reason": { "type": "string", "minLength": 1, "maxLength": 1024 },
                "message": { "type": "string", "maxLength": 32768 }
            }
        }
    })
}

/// What a container or a proxy says of itself on its page `/state`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it stands.
    pub state: State,
    /// What it holds has its second copy.
    pub replicated: bool,
    /// Of a container: it answers before it has written, because Redis is away for all of them.
    pub from_memory: bool,
    /// Of a container: partitions that it owns.
    pub partitions: u64,
    /// Of a container: dialogs that it holds.
    pub dialogs: u64,
    /// Of a container: transactions in progress.
    pub load: u64,
}

impl Answer {
    /// Reads the page; nothing if it tells no state.
    #[must_use]
    pub fn read(page: &serde_json::Value) -> Option<Self> {
        let count = |field: &str| page[field].as_u64().unwrap_or(0);
        Some(Self {
            state: serde_json::from_value(page["state"].clone()).ok()?,
            replicated: page["replicated"].as_bool().unwrap_or(true),
            from_memory: page["fromMemory"].as_bool().unwrap_or(false),
            partitions: count("partitions"),
            dialogs: count("dialogs"),
            load: count("load"),
        })
    }

    /// Whether what a container holds has its second copy in Redis, in a word.
    #[must_use]
    pub fn copies(&self) -> &'static str {
        match (self.replicated, self.from_memory) {
            (_, true) => "memory",
            (true, false) => "yes",
            (false, false) => "no",
        }
    }
}

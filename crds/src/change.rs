//! What a changed manifest asks of a running cluster: nothing but parts more or less, a rollout, or what cannot be.
//!
//! One table says it for every field, so that one machine and Kubernetes do the same; a test holds it complete.

use serde_json::Value;

use crate::{Problem, SipCluster};

/// What the change of a field takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Parts are added or taken away; whoever stays is not restarted.
    Live,
    /// Containers are replaced, one at a time.
    RollsContainers,
    /// Proxies are replaced, one at a time.
    RollsProxies,
    /// It holds for as long as the cluster lives.
    Fixed {
        /// Why.
        why: &'static str,
    },
}

/// A field whose value changes.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// The field, such as `spec.application.answer.ring`.
    pub field: String,
    /// Its value so far, as it would be written; `nothing` if it is left out.
    pub from: String,
    /// Its value from now on.
    pub to: String,
    /// What the change takes.
    pub effect: Effect,
}

/// By field; the first that the field is, or lies below, counts.
const EFFECTS: [(&str, Effect); 20] = [
    ("spec.replicas", Effect::Live),
    ("spec.paused", Effect::Live),
    ("spec.dispatcher.service", Effect::Live),
    ("spec.proxies.replicas", Effect::Live),
    ("spec.application", Effect::RollsContainers),
    ("spec.containers", Effect::RollsContainers),
    ("spec.replication.mode", Effect::RollsContainers),
    ("spec.redis.external.caFile", Effect::RollsContainers),
    ("spec.redis.external.caSecret", Effect::RollsContainers),
    ("spec.proxies", Effect::RollsProxies),
    ("spec.dispatcher.transports", Effect::RollsProxies),
    (
        "metadata.name",
        fixed("parts, keys in Redis and the address of calls are named by it"),
    ),
    ("spec.partitions", fixed("calls carry the number of their partition")),
    ("spec.dispatcher.address", fixed("calls carry the address")),
    ("spec.dispatcher.port", fixed("calls carry the port")),
    ("spec.dispatcher.advertised", fixed("calls carry the address")),
    (
        "spec.dispatcher.hostNetwork",
        fixed("calls carry the addresses that go with it"),
    ),
    (
        "spec.redis",
        fixed("all containers must agree on who owns what in one Redis"),
    ),
    // The operator alone rotates them; both kinds of part are replaced for it.
    (
        "spec.keys",
        fixed("on one machine the first key lives as long as the cluster"),
    ),
    // A member acts from memory within the lease that others have promised it, so all must have the same.
    (
        "spec.replication.lease",
        fixed("containers promise one another things for as long as it is"),
    ),
];

const fn fixed(why: &'static str) -> Effect {
    Effect::Fixed { why }
}

/// The effect of a change of `field`; nothing for a field of no manifest.
#[must_use]
pub fn effect(field: &str) -> Option<Effect> {
    let lies_at = |place: &str| {
        let rest = field.strip_prefix(place);
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('.'))
    };
    EFFECTS
        .iter()
        .find(|(place, _)| lies_at(place))
        .map(|(_, effect)| *effect)
}

/// What differs, in the order of the fields' names.
///
/// # Errors
/// The changes that a running cluster cannot make, if there are any.
pub fn changes(from: &SipCluster, to: &SipCluster) -> Result<Vec<Change>, Vec<Problem>> {
    let mut changes = Vec::new();
    compare("", &document(from), &document(to), &mut changes);
    let problems: Vec<_> = changes.iter().filter_map(Change::problem).collect();
    if problems.is_empty() {
        Ok(changes)
    } else {
        Err(problems)
    }
}

/// All values that parts with this effect are started with, in one text: parts for which it differs are replaced.
#[must_use]
pub fn settings(cluster: &SipCluster, effect: Effect) -> String {
    let mut all = Vec::new();
    compare("", &Value::Object(serde_json::Map::new()), &document(cluster), &mut all);
    let ours = all.iter().filter(|change| change.effect == effect);
    ours.map(|change| format!("{}={}\n", change.field, change.to)).collect()
}

/// What of a resource a manifest says.
fn document(cluster: &SipCluster) -> Value {
    serde_json::json!({ "metadata": { "name": cluster.metadata.name }, "spec": cluster.spec })
}

fn compare(path: &str, from: &Value, to: &Value, changes: &mut Vec<Change>) {
    if from == to {
        return;
    }
    let has_fields = from.is_object() || to.is_object();
    let has_places = EFFECTS.iter().any(|(place, _)| place.starts_with(&format!("{path}.")));
    // What is there on one side only is told as a whole, unless its fields have effects of their own.
    if let Some(effect) = effect(path)
        && !(from.is_object() && to.is_object() || has_fields && has_places)
    {
        return changes.push(Change {
            field: path.into(),
            from: written(from),
            to: written(to),
            effect,
        });
    }
    let fields = |value: &Value| value.as_object().cloned().unwrap_or_default();
    let (from, to) = (fields(from), fields(to));
    let mut names: Vec<_> = from.keys().chain(to.keys()).collect();
    names.sort_unstable();
    names.dedup();
    for name in names {
        let below = if path.is_empty() {
            name.clone()
        } else {
            format!("{path}.{name}")
        };
        let value = |side: &serde_json::Map<String, Value>| side.get(name).cloned().unwrap_or(Value::Null);
        compare(&below, &value(&from), &value(&to), changes);
    }
}

fn written(value: &Value) -> String {
    match value {
        Value::Null => "nothing".into(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

impl Change {
    fn problem(&self) -> Option<Problem> {
        let Effect::Fixed { why } = self.effect else {
            return None;
        };
        Some(Problem {
            field: self.field.clone(),
            value: self.to.clone(),
            wrong: format!("it cannot be changed while the cluster runs: {why}"),
            remedy: match self.from.as_str() {
                "nothing" => "leave it out, or start another cluster".into(),
                from => format!("put back {from}, or start another cluster"),
            },
        })
    }
}

impl std::fmt::Display for Change {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { field, from, to, .. } = self;
        write!(f, "{field}: {from} -> {to}: {}", self.effect)
    }
}

impl std::fmt::Display for Effect {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Live => "no restart",
            Self::RollsContainers => "containers are replaced one at a time",
            Self::RollsProxies => "proxies are replaced one at a time",
            Self::Fixed { .. } => "it cannot be changed",
        })
    }
}

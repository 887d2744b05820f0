//! What the API server says of a pod.

use std::hash::{DefaultHasher, Hash, Hasher};

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::{ContainerStatus, Pod, PodCondition};
use k8s_openapi::jiff::Timestamp;
use ucf::plan::Instant;

/// The label by which a StatefulSet's pod names the template that it was made from.
const REVISION: &str = "controller-revision-hash";

/// The name of a revision as a number, to compare.
fn number(revision: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    revision.hash(&mut hasher);
    hasher.finish()
}

/// The revision of the template that a StatefulSet's pod was made from.
#[must_use]
pub fn revision_of(pod: &Pod) -> Option<u64> {
    Some(number(pod.metadata.labels.as_ref()?.get(REVISION)?))
}

/// The revision of a StatefulSet's present template, if its controller has seen it.
#[must_use]
pub fn wanted_revision(set: &StatefulSet) -> Option<u64> {
    set.status.as_ref()?.update_revision.as_deref().map(number)
}

/// Whether its controller has seen the present template, and makes no pod by an older one any more.
#[must_use]
pub fn has_seen(set: &StatefulSet) -> bool {
    let seen = set.status.as_ref().and_then(|status| status.observed_generation);
    seen == set.metadata.generation
}

/// Whether a pod was told to end.
#[must_use]
pub fn is_told_to_leave(pod: &Pod) -> bool {
    pod.metadata.deletion_timestamp.is_some()
}

/// Whether it was told to end and has time for that left: on a lost node it may be there for long after that.
#[must_use]
pub fn ends_in_time(time: Timestamp, pod: &Pod) -> bool {
    let ends = pod.metadata.deletion_timestamp.as_ref();
    ends.is_some_and(|ends| ends.0 >= time)
}

/// Whether its processes have ended for good: one that was evicted stays as an object, for people to read.
#[must_use]
pub fn has_ended(pod: &Pod) -> bool {
    let phase = pod.status.as_ref().and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Failed" | "Succeeded"))
}

/// Whether its kubelet finds it ready.
#[must_use]
pub fn is_ready(pod: &Pod) -> bool {
    ready_since(pod).is_some()
}

/// Since when a pod has been ready without a break, as microseconds since 1970: times of the planner are compared with one another only.
#[must_use]
pub fn ready_since(pod: &Pod) -> Option<Instant> {
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    let ready = conditions
        .iter()
        .find(|condition| condition.type_ == "Ready" && condition.status == "True")?;
    let since = ready
        .last_transition_time
        .as_ref()
        .map_or(Timestamp::UNIX_EPOCH, |time| time.0);
    Some(instant(since))
}

/// The same scale for the present.
#[must_use]
pub fn instant(time: Timestamp) -> Instant {
    Instant::from_micros(u64::try_from(time.as_microsecond()).unwrap_or(0))
}

/// Why the pod's container does not run, in the kubelet's words, such as `CrashLoopBackOff`.
#[must_use]
pub fn trouble(pod: &Pod) -> Option<String> {
    let status = pod.status.as_ref()?;
    let waiting = status.container_statuses.iter().flatten().find_map(|container| {
        let waiting = container.state.as_ref()?.waiting.as_ref()?;
        let reason = waiting
            .reason
            .as_deref()
            .filter(|reason| !["ContainerCreating", "PodInitializing"].contains(reason))?;
        Some(match &waiting.message {
            Some(message) => format!("{reason}: {message}"),
            None => reason.to_owned(),
        })
    });
    waiting.or_else(|| {
        let mut unscheduled = unscheduled(pod);
        unscheduled.find_map(|condition| condition.message.clone())
    })
}

fn unscheduled(pod: &Pod) -> impl Iterator<Item = &PodCondition> {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.filter(|condition| condition.type_ == "PodScheduled" && condition.status == "False")
}

/// Whether no node has room for it.
#[must_use]
pub fn is_unplaced(pod: &Pod) -> bool {
    unscheduled(pod).next().is_some()
}

/// Whether its container has ended before, and does not run now.
#[must_use]
pub fn is_waiting_after_an_end(pod: &Pod) -> bool {
    containers(pod).any(|container| {
        container.restart_count > 0 && container.state.as_ref().is_some_and(|state| state.running.is_none())
    })
}

/// Whether its container runs, as far as its kubelet has said.
#[must_use]
pub fn is_running(pod: &Pod) -> bool {
    containers(pod).any(|container| container.state.as_ref().is_some_and(|state| state.running.is_some()))
}

fn containers(pod: &Pod) -> impl Iterator<Item = &ContainerStatus> {
    let status = pod.status.as_ref();
    let statuses = status.and_then(|status| status.container_statuses.as_ref());
    statuses.into_iter().flatten()
}

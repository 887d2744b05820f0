//! What comes next: `ucf::plan` in the words of Kubernetes. Pure.
//!
//! A StatefulSet adds its next pod and gives up its highest one by its count; any other pod that has to go is deleted, and comes back at the
//! present template (`OnDelete`). Proxies are a Deployment's work, of which the planner sees whether it is done.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::{SignedDuration, Timestamp};
use ucf::plan::{Gate, Revisions, Step, Wanted, Who, plan};

use super::dereference::Found;
use super::keys::{self, Keys};
use super::observe::Observation;
use super::passwords::{self, Passwords};
use super::pods::{instant, trouble};
use super::validate::Valid;

/// How often a cluster that moves is looked at, besides when a watch tells.
const MOVING: Duration = Duration::from_millis(500);

/// How often one that rests is.
const RESTING: Duration = Duration::from_secs(5);

/// How long after a pod's grace its kubelet has certainly ended it, if there is one.
const KUBELET: SignedDuration = SignedDuration::from_secs(10);

/// What is to be done, and what is waited for.
#[derive(Clone, Debug, Default)]
pub struct Decision {
    /// The StatefulSet's count; nothing while it is not known what was applied last, and then both workloads are left alone.
    pub replicas: Option<u16>,
    /// The keys of both templates.
    pub keys: Keys,
    /// Those that pods have in common.
    pub keys_in_use: Keys,
    /// The passwords of the cluster's own Redis.
    pub passwords: Passwords,
    /// Its StatefulSet is left alone: they may be those that it had before.
    pub leaves_redis: bool,
    /// Pods to be deleted: they hand over and come back.
    pub leave: Vec<Arc<Pod>>,
    /// Pods of lost nodes whose calls others have: nobody will ever confirm their end.
    pub bury: Vec<Arc<Pod>>,
    /// What is being done, for people.
    pub steps: Vec<String>,
    /// What is waited for, for people.
    pub gate: Option<String>,
    /// When to look again.
    pub again: Duration,
}

/// Decides.
#[must_use]
pub fn decide(time: Timestamp, valid: &Valid, found: &Found, observation: &Observation) -> Decision {
    let now = instant(time);
    let present = found.containers.as_ref().and_then(|set| set.spec.as_ref()?.replicas);
    let present = present.and_then(|replicas| u16::try_from(replicas).ok());
    // Without one there are pods still if somebody has deleted it.
    let present = present.or_else(|| highest(observation).map(|ordinal| ordinal + 1));
    let wanted = valid.spec.replicas as u16;
    let plan = plan(now, &as_wanted(valid, observation), &observation.planned(valid, now));
    let seen = keys::Seen::of(found, observation.is_current && observation.proxies_settled);
    let keys = keys::keys(valid.spec.keys, &seen);
    let with_redis = passwords::Seen::of(
        found,
        valid.redis_kind(),
        valid.spec.redis_password(),
        observation.is_current,
    );
    let mut decision = Decision {
        keys_in_use: seen.in_use(&keys),
        keys,
        passwords: passwords::passwords(valid.spec.redis_password(), &with_redis),
        leaves_redis: observation.redis.is_behind,
        replicas: Some(given_up(present.unwrap_or(wanted), wanted, observation)),
        bury: buried(time, valid, found, observation),
        again: if plan.is_done() { RESTING } else { MOVING },
        ..Decision::default()
    };
    let describe = |who| name_of(valid, observation, who);
    decision.gate = waited_for(valid, plan.gate, observation);
    if valid.advertised.is_none() {
        let service = valid.names.dispatcher();
        decision.gate = Some(format!("the Service {service} has no address yet, and calls carry it"));
        decision.replicas = Some(present.unwrap_or(0));
    } else if !valid.knows_redis() {
        let redis = valid.names.redis();
        decision.gate = Some(format!(
            "not every instance of {redis} has the address of its Service yet"
        ));
        decision.replicas = Some(present.unwrap_or(0));
    } else if valid.spec.paused {
        decision.gate = Some("it is paused: set spec.paused to false, or leave it out, to go on".into());
        // It is put back with the count that it has.
        decision.replicas = Some(present.unwrap_or(wanted)).filter(|_| !observation.is_behind);
    } else if !observation.is_current {
        // It is put back, with the count that it has, before anything rests on it.
        decision.replicas = decision.replicas.filter(|_| !observation.is_behind);
        decision.again = MOVING;
        decision.tell_keys(&seen);
        decision.tell_passwords(&with_redis);
    } else {
        for step in &plan.steps {
            if decision.perform(*step, observation, wanted) {
                decision.steps.push(step.describe(describe));
            }
        }
        decision.tell_keys(&seen);
        decision.tell_passwords(&with_redis);
    }
    // The next step of a rotation that has begun waits as well.
    if valid.spec.paused && (decision.has_new_keys(&seen) || decision.has_new_passwords(&with_redis)) {
        decision.replicas = None;
        decision.leaves_redis = true;
    }
    if let Some(again) = plan.again {
        decision.again = decision.again.min(again.since(now)).max(Duration::from_millis(50));
    }
    decision
}

/// The StatefulSet's count without those that are not wanted and were never there: a quota may have kept them away.
fn given_up(present: u16, wanted: u16, observation: &Observation) -> u16 {
    present.min(wanted.max(highest(observation).map_or(0, |ordinal| ordinal + 1)))
}

fn highest(observation: &Observation) -> Option<u16> {
    observation.containers.iter().map(|container| container.ordinal).max()
}

/// What the manifest wants.
fn as_wanted(valid: &Valid, observation: &Observation) -> Wanted {
    Wanted {
        containers: valid.spec.replicas as u16,
        proxies: valid.spec.proxies.replicas as u16,
        redis: valid.has_own_redis(),
        revisions: Revisions {
            containers: observation.revision.unwrap_or_default(),
            redis: observation.redis.revisions.1,
            ..Revisions::default()
        },
    }
}

impl Decision {
    fn tell_keys(&mut self, seen: &keys::Seen) {
        let late = seen.pods.iter().find(|(_, keys)| *keys != self.keys);
        let late = late.map(|(name, _)| name.as_str());
        self.tell(self.keys.step(seen), late, self.has_new_keys(seen));
    }

    /// Whether a template has others.
    fn has_new_keys(&self, seen: &keys::Seen) -> bool {
        seen.templates.iter().any(|keys| *keys != self.keys)
    }

    fn tell_passwords(&mut self, seen: &passwords::Seen) {
        let mut differ = seen.parts.iter().filter(|part| part.differs(&self.passwords));
        let late = differ.find_map(|part| part.pod.as_deref());
        self.tell(self.passwords.step(seen), late, self.has_new_passwords(seen));
    }

    /// Whether a template has others.
    fn has_new_passwords(&self, seen: &passwords::Seen) -> bool {
        let mut templates = seen.parts.iter().filter(|part| part.pod.is_none());
        templates.any(|part| part.differs(&self.passwords))
    }

    /// Says what is done to keys or passwords, and stands in front of what it waits for.
    fn tell(&mut self, step: Option<String>, late: Option<&str>, is_new: bool) {
        let Some(step) = step else {
            return;
        };
        let late = late.filter(|_| self.steps.is_empty());
        let late = late.map(|name| format!("{name} has not yet"));
        self.gate = self.gate.take().or(late).map(|gate| format!("{step}: {gate}"));
        if is_new {
            self.steps.insert(0, step);
        }
    }

    /// Whether there is anything to do for the step.
    fn perform(&mut self, step: Step, observation: &Observation, wanted: u16) -> bool {
        match step {
            Step::StartContainer(ordinal) if self.replicas.is_none_or(|replicas| ordinal >= replicas) => {
                self.replicas = Some(ordinal + 1);
                true
            }
            // One below the highest cannot go: its turn comes.
            Step::QuiesceContainer(ordinal) if ordinal >= wanted => {
                let is_highest = observation
                    .containers
                    .iter()
                    .all(|container| container.ordinal <= ordinal);
                if is_highest {
                    self.replicas = Some(ordinal);
                }
                is_highest
            }
            Step::QuiesceContainer(ordinal) => {
                let pods = observation
                    .containers
                    .iter()
                    .filter(|container| container.ordinal == ordinal);
                self.leave.extend(pods.map(|container| container.pod.clone()));
                true
            }
            Step::StopRedis => {
                self.leave.extend(observation.redis.next.iter().cloned());
                true
            }
            // Pods that are missing are the StatefulSet's and the Deployment's to make.
            Step::StartContainer(_) | Step::StartRedis | Step::StartProxy(_) | Step::DrainProxy(_) => false,
        }
    }
}

/// Pods of lost nodes, which would be waited for until somebody brings the node back: containers whose grace is over, that answer nobody, and
/// whose partitions others own; and the cluster's own Redis, if its kubelet has not ended it long after its grace. A single one is not given up as long as a
/// container has its copies in it: it may be the kubelet alone that is lost, and a second one beside it would be empty.
fn buried(time: Timestamp, valid: &Valid, found: &Found, observation: &Observation) -> Vec<Arc<Pod>> {
    let is_over_since = |pod: &Pod, over: SignedDuration| {
        let ends = pod.metadata.deletion_timestamp.as_ref();
        // Without grace it is being removed: its kubelet has confirmed its end, or it was given up. An API server that stops in between leaves it.
        // (Its time is then that of the request, so one that was long in leaving may be given up at once, which changes nothing.)
        let over = match pod.metadata.deletion_grace_period_seconds {
            Some(0) => KUBELET,
            _ => over,
        };
        ends.is_some_and(|ends| ends.0 + over < time)
    };
    let answers = || observation.containers.iter().filter_map(|container| container.answer);
    let containers = observation.containers.iter().filter(|container| {
        let is_silent = container.answer.is_none() && is_over_since(&container.pod, SignedDuration::ZERO);
        // Where others work and do not own all, it may have its lease still. If none answers, nobody may be left to own anything.
        let nobody_answers = || answers().next().is_none() && is_over_since(&container.pod, KUBELET);
        is_silent && (observation.unowned == 0 || nobody_answers())
    });
    let serves = !valid.has_redis_instances() && answers().any(|answer| answer.replicated && !answer.from_memory);
    let redis = found
        .redis_pods
        .iter()
        .filter(|pod| !serves && is_over_since(pod, KUBELET));
    containers
        .map(|container| &container.pod)
        .chain(redis)
        .cloned()
        .collect()
}

/// What is waited for; a pod that does not run says why.
fn waited_for(valid: &Valid, gate: Option<Gate>, observation: &Observation) -> Option<String> {
    let gate = gate?;
    if let Gate::Owners { .. } = gate {
        // Their number changes from one look to the next, and with it would the status.
        return Some("partitions are on their way to their owners".into());
    }
    let text = gate.describe(|who| name_of(valid, observation, who));
    if gate == Gate::Redis {
        // The trouble names the instance.
        return Some(observation.redis.trouble.clone().unwrap_or(text));
    }
    let Gate::Ready(Who::Container(ordinal)) = gate else {
        return Some(text);
    };
    let pod = observation
        .containers
        .iter()
        .find(|container| container.ordinal == ordinal);
    Some(match pod.and_then(|container| trouble(&container.pod)) {
        Some(trouble) => format!("{text}: {trouble}"),
        None => text,
    })
}

fn name_of(valid: &Valid, observation: &Observation, who: Who) -> String {
    match who {
        Who::Redis => observation.redis.name.clone(),
        Who::Proxy(_) => valid.names.proxies(),
        Who::Container(ordinal) => format!("{}-{ordinal}", valid.names.containers()),
    }
}

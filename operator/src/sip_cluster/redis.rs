//! The cluster's own Redis as the planner sees it: one part, whether of one instance or of several.

use std::sync::Arc;

use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kube::ResourceExt as _;
use ucf::plan::{Instant, Life, Part};

use super::dereference::Found;
use super::pods::{ends_in_time, is_ready, is_told_to_leave, ready_since, revision_of, trouble, wanted_revision};
use super::validate::Valid;

/// What was seen of it.
#[derive(Clone, Debug)]
pub struct Redis {
    /// Active while it serves. Of several instances a majority is enough, if the others are lost; but nothing else moves while one is coming, or
    /// in the middle of a rollout.
    pub life: Life,
    /// Of the instance that is spoken of, and of the present template.
    pub revisions: (u64, u64),
    /// What goes when the planner has it end.
    pub next: Vec<Arc<Pod>>,
    /// Which instance is spoken of: the next to go, or the first that is not in sync.
    pub name: String,
    /// What keeps an instance from running, in the kubelet's words.
    pub trouble: Option<String>,
    /// The cache has not seen yet what was applied last: what its template says is not known.
    pub is_behind: bool,
}

impl Default for Redis {
    fn default() -> Self {
        Self {
            life: Life::Unready,
            revisions: (0, 0),
            next: Vec::new(),
            name: String::new(),
            trouble: None,
            is_behind: false,
        }
    }
}

impl Redis {
    /// Looks at its pods.
    #[must_use]
    pub fn seen(time: Timestamp, valid: &Valid, found: &Found) -> Self {
        let trouble = found.redis_pods.iter().find_map(|pod| {
            let why = trouble(pod)?;
            Some(format!("{}: {why}", pod.name_any()))
        });
        let seen = if valid.has_redis_instances() {
            Self::of_several(time, valid, found)
        } else {
            Self::of_one(valid, found)
        };
        Self {
            trouble: trouble.or(seen.trouble),
            ..seen
        }
    }

    /// For the planner.
    #[must_use]
    pub fn part(&self) -> Part {
        Part {
            ordinal: 0,
            revision: self.revisions.0,
            life: self.life,
        }
    }

    fn of_one(valid: &Valid, found: &Found) -> Self {
        let serves = found.redis_pods.iter().find(|pod| is_in_sync(pod));
        let present = found.redis_pods.first().and_then(|pod| revision_of(pod));
        let wanted = found.redis.as_deref().and_then(wanted_revision);
        Self {
            life: match serves {
                Some(pod) => active(ready_since(pod).unwrap_or_default()),
                None => Life::Unready,
            },
            // Nothing counts as another revision while either is unknown.
            revisions: present.zip(wanted).unwrap_or_default(),
            next: found.redis_pods.clone(),
            name: valid.names.redis_instance(0),
            ..Self::default()
        }
    }

    /// In a rollout one instance goes after the other, each once all are in sync. A master hands over before it ends, so their order does not
    /// matter.
    fn of_several(time: Timestamp, valid: &Valid, found: &Found) -> Self {
        let pods = &found.redis_pods;
        let instances = valid.spec.redis_instances();
        // Nothing counts as another revision while either is unknown.
        let wanted = found.redis.as_deref().and_then(wanted_revision);
        let is_outdated = |pod: &Pod| {
            revision_of(pod)
                .zip(wanted)
                .is_some_and(|(present, wanted)| present != wanted)
        };
        let outdated: Vec<_> = pods
            .iter()
            .filter(|pod| !is_told_to_leave(pod) && is_outdated(pod))
            .collect();
        let wanted = wanted.unwrap_or_default();
        let in_sync = pods.iter().filter(|pod| is_in_sync(pod)).count() as u32;
        let serves = in_sync > instances / 2;
        // One that is away already may go at once, or a manifest that repairs it could not be rolled out. But where others are not in sync either, it
        // may be one of them that has the data; what does not run has none.
        let is_only_one = in_sync + 1 == instances;
        let broken = outdated
            .iter()
            .find(|pod| !is_ready(pod) && (is_only_one || trouble(pod).is_some()));
        // One that ends for a rollout comes back by the new template, unless its node is lost.
        let is_coming = pods.iter().any(|pod| match is_told_to_leave(pod) {
            true => is_outdated(pod) && ends_in_time(time, pod),
            false => !is_ready(pod) && trouble(pod).is_none(),
        });
        let next = match broken {
            None if in_sync == instances => outdated.last(),
            broken => broken,
        };
        let life = match () {
            () if broken.is_some() || !serves => Life::Unready,
            () if is_coming || in_sync < instances && !outdated.is_empty() => Life::Joining,
            () => active(pods.iter().filter_map(|pod| ready_since(pod)).max().unwrap_or_default()),
        };
        let mut waited_for = (0..instances)
            .map(|ordinal| valid.names.redis_instance(ordinal))
            .filter(|name| !pods.iter().any(|pod| pod.name_any() == *name && is_in_sync(pod)));
        let missing = waited_for.next();
        // Nothing waits for it, so nothing else would say so.
        let is_quiet = matches!(life, Life::Active { .. });
        let trouble = missing
            .as_ref()
            .filter(|_| is_quiet)
            .map(|name| format!("{name} is not there, or not in sync"));
        Self {
            life,
            revisions: (next.and_then(|pod| revision_of(pod)).unwrap_or(wanted), wanted),
            name: match next {
                Some(pod) => pod.name_any(),
                None => missing.unwrap_or_else(|| valid.names.redis()),
            },
            next: next.into_iter().map(|pod| Arc::clone(pod)).collect(),
            trouble,
            is_behind: false,
        }
    }
}

fn is_in_sync(pod: &Pod) -> bool {
    is_ready(pod) && !is_told_to_leave(pod)
}

fn active(since: Instant) -> Life {
    Life::Active {
        since,
        replicated: true,
    }
}

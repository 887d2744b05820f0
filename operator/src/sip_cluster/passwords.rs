//! Which password of the cluster's own Redis is presented and which are accepted: what templates are to say, by the manifest and by what templates
//! and pods say now. Pure.
//!
//! Nobody may present a password before every instance accepts it, and none may cease to accept one while anybody presents it: containers do, and
//! instances and their Sentinels to one another. So a rotation is three rollouts of Redis (the new one is accepted as well, it is presented, it alone is
//! accepted) and one of containers, beside the second. Nothing else is remembered: each pod says in annotations what its template said. No call
//! carries a password, so the old one is forgotten without being asked for.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use k8s_openapi::api::apps::v1::StatefulSet;
use k8s_openapi::api::core::v1::PodTemplateSpec;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use kube::ResourceExt as _;

use super::dereference::Found;
use super::keys::list;
use super::names::FIRST_KEY;
use super::pods::{has_ended, has_seen};

/// The annotation that says which password a container, or an instance of several, presents; one without it the first.
pub const PRESENTS: &str = "sipcluster.dev/redis-presents";

/// The annotation that says which passwords an instance accepts; one without it the first alone.
pub const ACCEPTS: &str = "sipcluster.dev/redis-accepts";

/// A kind of part that has to do with passwords.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Presents one, and is asked for none.
    Container,
    /// A Redis of one instance, which asks nobody.
    Alone,
    /// One instance of several, with its Sentinel: it asks the others, and they ask it.
    OneOfSeveral,
}

impl Kind {
    fn presents(self) -> bool {
        matches!(self, Self::Container | Self::OneOfSeveral)
    }

    fn accepts(self) -> bool {
        matches!(self, Self::Alone | Self::OneOfSeveral)
    }
}

/// What is done with passwords, by their numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Passwords {
    /// The one that is presented.
    pub presents: u32,
    /// Those that are accepted.
    pub accepts: BTreeSet<u32>,
}

impl Default for Passwords {
    fn default() -> Self {
        Self {
            presents: FIRST_KEY,
            accepts: [FIRST_KEY].into(),
        }
    }
}

impl Passwords {
    /// What this metadata says. What cannot be read was not written here: it counts for nothing, as if it were left out.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let said = |name: &str| metadata.annotations.as_ref()?.get(name);
        let number = |text: &str| text.parse::<u32>().ok().filter(|number| *number >= FIRST_KEY);
        let first = Self::default();
        Self {
            presents: said(PRESENTS).and_then(|text| number(text)).unwrap_or(first.presents),
            accepts: said(ACCEPTS)
                .and_then(|text| text.split(',').map(number).collect::<Option<_>>())
                .unwrap_or(first.accepts),
        }
    }

    fn newest(&self) -> u32 {
        self.accepts.iter().copied().fold(self.presents, u32::max)
    }

    /// What a template says.
    #[must_use]
    pub fn of_template(template: &PodTemplateSpec) -> Self {
        template.metadata.as_ref().map(Self::of).unwrap_or_default()
    }

    /// The annotations of a template of this kind that says so. A cluster that has never changed its password has none, and is not rolled for them.
    #[must_use]
    pub fn annotations(&self, kind: Kind) -> Option<BTreeMap<String, String>> {
        let first = Self::default();
        let presents = (kind.presents() && self.presents != first.presents)
            .then(|| (PRESENTS.to_owned(), self.presents.to_string()));
        let accepts = (kind.accepts() && self.accepts != first.accepts)
            .then(|| (ACCEPTS.to_owned(), list(self.accepts.iter(), ",")));
        let all: BTreeMap<_, _> = presents.into_iter().chain(accepts).collect();
        (!all.is_empty()).then_some(all)
    }
}

/// A template or a pod.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Part {
    /// Its pod's name; nothing for a template.
    pub pod: Option<String>,
    /// What it is.
    pub kind: Kind,
    /// What it says, of which its kind has a part.
    pub says: Passwords,
}

impl Part {
    fn presents(&self) -> Option<u32> {
        self.kind.presents().then_some(self.says.presents)
    }

    fn accepts(&self) -> Option<&BTreeSet<u32>> {
        self.kind.accepts().then_some(&self.says.accepts)
    }

    /// Whether it is to be replaced for such passwords.
    #[must_use]
    pub fn differs(&self, wanted: &Passwords) -> bool {
        self.presents().is_some_and(|presents| presents != wanted.presents)
            || self.accepts().is_some_and(|accepts| *accepts != wanted.accepts)
    }
}

/// What templates and pods say.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// The templates of Redis and containers, as far as they exist, and every pod of either whose process may run, those that leave and those on lost
    /// nodes too.
    pub parts: Vec<Part>,
    /// No pod will come any more by an older template than these.
    pub is_settled: bool,
}

impl Seen {
    /// Out of what was found.
    #[must_use]
    pub fn of(found: &Found, redis: Kind, current: u32, is_current: bool) -> Self {
        let sets = [
            (redis, &found.redis, &found.redis_pods),
            (Kind::Container, &found.containers, &found.container_pods),
        ];
        let is_settled = |set: &Option<Arc<StatefulSet>>| set.as_deref().is_some_and(has_seen);
        Self {
            is_settled: is_current && sets.iter().all(|(_, set, _)| is_settled(set)),
            parts: sets
                .into_iter()
                .flat_map(|(kind, set, pods)| {
                    let template = set.as_ref().and_then(|set| Some(&set.spec.as_ref()?.template));
                    let template = template.map(|template| (None, Passwords::of_template(template)));
                    // The number of the manifest never falls. What is above it, somebody else has written; pods made of it count as they are.
                    let template = template.filter(|(_, says): &(Option<String>, Passwords)| says.newest() <= current);
                    let pods = pods.iter().filter(|pod| !has_ended(pod));
                    let pods = pods.map(|pod| (Some(pod.name_any()), Passwords::of(&pod.metadata)));
                    let all = template.into_iter().chain(pods);
                    all.map(move |(pod, says)| Part { pod, kind, says })
                })
                .collect(),
        }
    }

    fn presented(&self) -> impl Iterator<Item = u32> {
        self.parts.iter().filter_map(Part::presents)
    }

    fn accepted(&self) -> impl Iterator<Item = &BTreeSet<u32>> {
        self.parts.iter().filter_map(Part::accepts)
    }
}

/// What templates are to say.
#[must_use]
pub fn passwords(current: u32, seen: &Seen) -> Passwords {
    let is_known = seen.accepted().all(|accepts| accepts.contains(&current));
    let common = seen.accepted().cloned().reduce(|all, more| &all & &more);
    let common = common.unwrap_or_default();
    // Where nobody presents any, somebody has deleted all containers. An instance that is yet to come has accepted the first of them the longest.
    let so_far = seen.presented().max().or(common.first().copied());
    let presents = so_far.filter(|_| !(seen.is_settled && is_known)).unwrap_or(current);
    let mut accepts: BTreeSet<u32> = seen.presented().chain([presents, current]).collect();
    if !seen.is_settled {
        // A pod may come yet that presents what nobody presents now. Once an instance has ceased to accept it, that was made sure of.
        accepts.extend(common);
    }
    Passwords { presents, accepts }
}

impl Passwords {
    /// What is done to have all as this says, for people; nothing if they are.
    #[must_use]
    pub fn step(&self, seen: &Seen) -> Option<String> {
        let new = |number: &&u32| seen.accepted().any(|accepts| !accepts.contains(*number));
        let learnt = list(self.accepts.iter().filter(new), ", ");
        if !learnt.is_empty() {
            return Some(format!("Redis learns password {learnt}"));
        }
        if seen.presented().any(|presents| presents != self.presents) {
            return Some(format!("password {} of Redis is taken", self.presents));
        }
        let known: BTreeSet<u32> = seen.accepted().flatten().copied().collect();
        let forgotten = list(known.difference(&self.accepts), ", ");
        (!forgotten.is_empty()).then(|| format!("password {forgotten} of Redis is forgotten"))
    }
}

//! Which key of the cluster issues and which verify: what both templates are to say, by the manifest and by what templates and pods say now. Pure.
//!
//! Nobody may issue with a key before everybody verifies it, and nobody may cease to verify one while anybody issues with it. So a rotation is two
//! rollouts of containers and proxies (the new key verifies; it issues), and to forget the old one is a third. Nothing else is remembered: each pod
//! says in an annotation what its template said, so whoever looks next goes on from there.

use std::collections::BTreeSet;
use std::fmt;
use std::str::FromStr;

use k8s_openapi::api::core::v1::{Pod, PodTemplateSpec};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use ucf::token::IDS;

use super::dereference::Found;
use super::names::FIRST_KEY;
use super::pods::has_ended;

/// The annotation of templates and pods that says which keys they have; those without it have the first one alone.
pub const KEYS: &str = "sipcluster.dev/keys";

/// What a pod does with keys, by their numbers; in a text `2 of 1,2`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Keys {
    /// The one with which it issues.
    pub issues: u32,
    /// Those that it verifies.
    pub verifies: BTreeSet<u32>,
}

impl Default for Keys {
    fn default() -> Self {
        Self {
            issues: FIRST_KEY,
            verifies: [FIRST_KEY].into(),
        }
    }
}

impl fmt::Display for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.issues, list(self.verifies.iter(), ","))
    }
}

impl FromStr for Keys {
    type Err = ();

    fn from_str(text: &str) -> Result<Self, ()> {
        let (issues, verifies) = text.split_once(" of ").ok_or(())?;
        let number = |text: &str| text.parse().ok().filter(|number| *number >= FIRST_KEY).ok_or(());
        Ok(Self {
            issues: number(issues)?,
            verifies: verifies.split(',').map(number).collect::<Result<_, _>>()?,
        })
    }
}

impl Keys {
    /// What this metadata says. What cannot be read was not written here: it counts for nothing, as if it were left out.
    #[must_use]
    pub fn of(metadata: &ObjectMeta) -> Self {
        let text = metadata.annotations.as_ref().and_then(|all| all.get(KEYS));
        text.and_then(|text| text.parse().ok()).unwrap_or_default()
    }

    /// What a template says.
    #[must_use]
    pub fn of_template(template: &PodTemplateSpec) -> Self {
        template.metadata.as_ref().map(Self::of).unwrap_or_default()
    }

    /// The annotations of a template that says so. A cluster that has never changed its key has none, and is not rolled for them.
    #[must_use]
    pub fn annotations(&self) -> Option<std::collections::BTreeMap<String, String>> {
        (*self != Self::default()).then(|| [(KEYS.to_owned(), self.to_string())].into())
    }
}

/// The id by which tokens name the key of this number. Those that count at a time have ids of their own.
#[must_use]
pub fn id(number: u32) -> u32 {
    (number - FIRST_KEY) % u32::from(IDS)
}

/// What templates and pods say.
#[derive(Clone, Debug, Default)]
pub struct Seen {
    /// Of containers and proxies, as far as they exist.
    pub templates: Vec<Keys>,
    /// Every pod of either kind whose process may run, those that leave and those on lost nodes too, with its name.
    pub pods: Vec<(String, Keys)>,
    /// No pod will come any more by an older template than these.
    pub is_settled: bool,
}

impl Seen {
    /// Out of what was found.
    #[must_use]
    pub fn of(found: &Found, is_settled: bool) -> Self {
        let containers = found.containers.as_ref().and_then(|set| set.spec.as_ref());
        let proxies = found.proxies.as_ref().and_then(|deployment| deployment.spec.as_ref());
        let templates = containers.map(|spec| &spec.template).into_iter();
        let templates = templates.chain(proxies.map(|spec| &spec.template));
        let pods = found.container_pods.iter().chain(&found.proxy_pods);
        let said = |pod: &Pod| (pod.metadata.name.clone().unwrap_or_default(), Keys::of(&pod.metadata));
        Self {
            templates: templates.map(Keys::of_template).collect(),
            pods: pods.filter(|pod| !has_ended(pod)).map(|pod| said(pod)).collect(),
            is_settled,
        }
    }

    fn everybody(&self) -> impl Iterator<Item = &Keys> {
        self.templates.iter().chain(self.pods.iter().map(|(_, keys)| keys))
    }

    /// The key with which all pods issue, or the oldest of several, and those that all of them verify; what is `wanted` if there is no pod.
    #[must_use]
    pub fn in_use(&self, wanted: &Keys) -> Keys {
        let pods = || self.pods.iter().map(|(_, keys)| keys);
        let all = pods().map(|keys| keys.verifies.clone());
        Keys {
            issues: pods().map(|keys| keys.issues).min().unwrap_or(wanted.issues),
            verifies: all
                .reduce(|all, more| &all & &more)
                .unwrap_or_else(|| wanted.verifies.clone()),
        }
    }
}

/// What both templates are to say.
#[must_use]
pub fn keys(manifest: crds::Keys, seen: &Seen) -> Keys {
    // Whoever asks for many at once gets one after the other: no two of an id may count at a time.
    let known = seen.everybody().flat_map(|keys| keys.verifies.iter().copied());
    let reach = known
        .min()
        .unwrap_or(manifest.oldest)
        .saturating_add(u32::from(IDS) - 1);
    let (current, oldest) = (manifest.current.min(reach), manifest.oldest.min(reach));
    let is_known = seen.everybody().all(|keys| keys.verifies.contains(&current));
    let so_far = seen.everybody().map(|keys| keys.issues).max();
    let issues = so_far.filter(|_| !(seen.is_settled && is_known)).unwrap_or(current);
    let mut verifies: BTreeSet<u32> = (oldest..=current).collect();
    verifies.extend(seen.everybody().map(|keys| keys.issues));
    if !seen.is_settled {
        // A pod may come yet that issues with what no pod issues with now. Once a template has ceased to verify it, that was made sure of.
        let templates = seen.templates.iter().map(|keys| keys.verifies.clone());
        verifies.extend(templates.reduce(|all, more| &all & &more).unwrap_or_default());
    }
    Keys { issues, verifies }
}

impl Keys {
    /// What is done to have all as this says, for people; nothing if they are.
    #[must_use]
    pub fn step(&self, seen: &Seen) -> Option<String> {
        let new = |number: &&u32| seen.everybody().any(|keys| !keys.verifies.contains(*number));
        let learnt = list(self.verifies.iter().filter(new), ", ");
        if !learnt.is_empty() {
            return Some(format!("all parts learn key {learnt}"));
        }
        if seen.everybody().any(|keys| keys.issues != self.issues) {
            return Some(format!("key {} is taken", self.issues));
        }
        let known: BTreeSet<u32> = seen
            .everybody()
            .flat_map(|keys| keys.verifies.iter().copied())
            .collect();
        let forgotten = list(known.difference(&self.verifies), ", ");
        (!forgotten.is_empty()).then(|| format!("key {forgotten} is forgotten"))
    }
}

/// Numbers for people.
pub(super) fn list<'a>(numbers: impl Iterator<Item = &'a u32>, between: &str) -> String {
    numbers.map(u32::to_string).collect::<Vec<_>>().join(between)
}

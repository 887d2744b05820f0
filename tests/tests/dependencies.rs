//! The direction of dependencies (ARCHITECTURE.md, "Layers"), held by `cargo metadata`.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;

use serde_json::Value;

/// What each of our crates may lean on. A crate that is missing here has not been thought about.
const LAYERS: &[(&str, &[&str])] = &[
    ("sip", &[]),
    ("ucf", &["sip"]),
    ("transport", &["sip", "ucf"]),
    ("admin", &[]),
    ("crds", &[]),
    ("proxy", &["admin", "sip", "transport", "ucf"]),
    ("container", &["admin", "sip", "transport", "ucf"]),
    // What a user writes leans on the public crate alone.
    ("prepaid", &["container"]),
    ("cli", &["admin", "crds", "ucf"]),
    ("operator", &["admin", "crds", "ucf"]),
    (
        "tests",
        &["admin", "container", "crds", "proxy", "sip", "transport", "ucf"],
    ),
];

/// What may be used by some only, at first hand.
const RESERVED: &[(&str, &[&str])] = &[
    ("redis", &["container", "tests"]),
    ("kube", &["crds", "operator", "proxy", "tests"]),
    ("k8s-openapi", &["crds", "operator", "proxy", "tests"]),
];

/// Crates without clock, socket or randomness of their own: none of these comes in, at whatever hand.
const SANS_IO: &[&str] = &["sip", "ucf"];
const IO: &[&str] = &[
    "tokio",
    "mio",
    "socket2",
    "libc",
    "redis",
    "kube",
    "kube-core",
    "k8s-openapi",
    "getrandom",
    "rand",
    "chrono",
    "jiff",
    "tracing",
];

/// Who depends on whom in the built product: development and build dependencies and procedural macros are not in it.
#[derive(Debug, Default)]
struct Graph {
    ours: BTreeSet<String>,
    edges: BTreeMap<String, BTreeSet<String>>,
}

impl Graph {
    fn of_the_workspace() -> Self {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let output = Command::new(cargo)
            .args([
                "metadata",
                "--format-version",
                "1",
                "--manifest-path",
                concat!(env!("CARGO_MANIFEST_DIR"), "/../Cargo.toml"),
            ])
            .output()
            .expect("cargo runs");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Self::read(&serde_json::from_slice(&output.stdout).expect("JSON"))
    }

    fn read(metadata: &Value) -> Self {
        let list = |value: &Value| value.as_array().cloned().unwrap_or_default();
        let text = |value: &Value| value.as_str().expect("a text").to_owned();
        let members: BTreeSet<String> = list(&metadata["workspace_members"]).iter().map(text).collect();
        let mut names = BTreeMap::new();
        for package in list(&metadata["packages"]) {
            let is_macro = list(&package["targets"])
                .iter()
                .any(|target| list(&target["kind"]).contains(&"proc-macro".into()));
            if !is_macro {
                names.insert(text(&package["id"]), text(&package["name"]));
            }
        }
        let mut graph = Self::default();
        for node in list(&metadata["resolve"]["nodes"]) {
            let Some(name) = names.get(&text(&node["id"])) else {
                continue;
            };
            if members.contains(&text(&node["id"])) {
                graph.ours.insert(name.clone());
            }
            let edges = graph.edges.entry(name.clone()).or_default();
            for dependency in list(&node["deps"]) {
                let in_product = list(&dependency["dep_kinds"]).iter().any(|kind| kind["kind"].is_null());
                if let (true, Some(name)) = (in_product, names.get(&text(&dependency["pkg"]))) {
                    edges.insert(name.clone());
                }
            }
        }
        graph
    }

    /// Everything that breaks the layers.
    fn violations(&self) -> Vec<String> {
        let mut found = Vec::new();
        for member in &self.ours {
            let Some((_, allowed)) = LAYERS.iter().find(|(name, _)| name == member) else {
                found.push(format!("{member} has no place in LAYERS"));
                continue;
            };
            for used in &self.edges[member] {
                if self.ours.contains(used) && !allowed.contains(&used.as_str()) {
                    found.push(format!("{member} must not lean on {used}"));
                }
                if let Some((_, users)) = RESERVED.iter().find(|(name, _)| name == used)
                    && !users.contains(&member.as_str())
                {
                    found.push(format!("{member} must not use {used}"));
                }
            }
        }
        for member in SANS_IO {
            let reached = self.reached_from(member);
            found.extend(
                IO.iter()
                    .filter(|io| reached.contains(**io))
                    .map(|io| format!("{member} is sans-IO but reaches {io}")),
            );
        }
        found
    }

    fn reached_from(&self, start: &str) -> BTreeSet<&str> {
        let mut reached = BTreeSet::new();
        let mut next = vec![start];
        while let Some(name) = next.pop() {
            for dependency in self.edges.get(name).into_iter().flatten() {
                if reached.insert(dependency.as_str()) {
                    next.push(dependency);
                }
            }
        }
        reached
    }

    fn with(mut self, from: &str, to: &str) -> Self {
        self.edges.entry(from.to_owned()).or_default().insert(to.to_owned());
        self
    }
}

#[test]
fn dependencies_point_downwards_only() {
    let graph = Graph::of_the_workspace();
    assert_eq!(graph.ours.len(), LAYERS.len(), "{:?}", graph.ours);
    assert_eq!(graph.violations(), [""; 0]);
}

#[test]
fn a_dependency_in_the_wrong_direction_is_found() {
    for (from, to, found) in [
        ("sip", "ucf", "sip must not lean on ucf"),
        ("ucf", "transport", "ucf must not lean on transport"),
        ("proxy", "container", "proxy must not lean on container"),
        ("proxy", "redis", "proxy must not use redis"),
        ("container", "kube", "container must not use kube"),
        ("sip", "tokio", "sip is sans-IO but reaches tokio"),
        // At second hand.
        ("prost", "getrandom", "ucf is sans-IO but reaches getrandom"),
    ] {
        let violations = Graph::of_the_workspace().with(from, to).violations();
        assert!(violations.contains(&found.to_owned()), "{from} -> {to}: {violations:?}");
    }
    let mut graph = Graph::of_the_workspace().with("newcomer", "sip");
    graph.ours.insert("newcomer".into());
    assert_eq!(graph.violations(), ["newcomer has no place in LAYERS"]);
}

//! The chart and its resource at a real API server, behind which is etcd and nobody else. In our own process (`crds/tests/cel.rs`) rules are as right as our
//! CEL has them, which knows neither what Kubernetes adds to it nor what a rule may cost.

use std::path::Path;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::{Value, json};
use tests::e2e::kubernetes::Kubernetes;
use tests::e2e::{MANIFEST, refusals};
use tests::interop::process::{scratch, source_root};

#[test]
fn the_api_server_takes_chart_and_documented_manifests_and_refuses_wrong_ones() -> anyhow::Result<()> {
    let scratch = scratch("api-server")?;
    let kubernetes = Kubernetes::api_server()?;
    kubernetes.install(&[])?;
    let resource = "crd/sipclusters.sipcluster.dev";
    kubernetes.kubectl(&["wait", resource, "--for=condition=Established", "--timeout=30s"])?;
    for (place, manifest) in [examples()?, documented()?].concat() {
        let taken = kubernetes.try_create(&manifest.to_string(), &scratch);
        taken.with_context(|| format!("{place}: {manifest}"))?;
    }
    kubernetes.apply(MANIFEST, &scratch)?;
    refusals::all(&kubernetes, &scratch)?;
    Ok(())
}

/// Manifests, each with its place.
type Placed = Vec<(String, Value)>;

fn examples() -> anyhow::Result<Placed> {
    read("examples", "yaml", |text| vec![text.to_owned()])
}

/// What pages show of manifests: as YAML, or given to kubectl.
fn documented() -> anyhow::Result<Placed> {
    read("docs", "md", |text| {
        let between = |begin: &str, end: &str| {
            let shown = text.split(begin).skip(1).filter_map(|rest| rest.split(end).next());
            shown.map(str::to_owned).collect::<Vec<_>>()
        };
        [between("```yaml\n", "```"), between("<<EOF\n", "EOF\n")].concat()
    })
}

/// The manifests of the files of a directory that end so.
fn read(directory: &str, extension: &str, find: impl Fn(&str) -> Vec<String>) -> anyhow::Result<Placed> {
    let mut found = Vec::new();
    for file in std::fs::read_dir(source_root().join(directory))? {
        let file = file?.path();
        if file.extension().is_some_and(|its| its == extension) {
            for text in find(&std::fs::read_to_string(&file)?) {
                found.extend(manifests(&file, &text)?);
            }
        }
    }
    ensure!(!found.is_empty(), "{directory} shows no manifest");
    Ok(found)
}

fn manifests(file: &Path, text: &str) -> anyhow::Result<Placed> {
    let place = file.display().to_string();
    let documents = serde_yaml_ng::Deserializer::from_str(text).map(Value::deserialize);
    let documents: Result<Vec<_>, _> = documents.collect();
    let documents = documents.with_context(|| format!("{place}: {text}"))?;
    Ok(documents
        .into_iter()
        .map(|shown| (place.clone(), whole(shown)))
        .collect())
}

/// A part of a SipCluster with the rest that one must have.
fn whole(mut shown: Value) -> Value {
    if shown["kind"].is_null() {
        let spec = if shown["spec"].is_null() {
            shown
        } else {
            shown["spec"].take()
        };
        shown = json!({
            "apiVersion": "sipcluster.dev/v1alpha1",
            "kind": "SipCluster",
            "metadata": { "name": "shown" },
            "spec": spec,
        });
    }
    if shown["kind"] == "SipCluster" {
        let spec = &mut shown["spec"];
        if spec["application"].is_null() {
            spec["application"] = json!({ "answer": {} });
        }
        // One machine needs none.
        if !spec["application"]["custom"].is_null() && spec["containers"]["image"].is_null() {
            spec["containers"]["image"] = "custom:1".into();
        }
    }
    shown
}

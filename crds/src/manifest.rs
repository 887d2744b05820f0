//! From a manifest's text to a checked resource.

use kube::CustomResourceExt;
use serde::Deserialize;
use serde_json::Value;

use crate::{Problem, SipCluster, check, rules};

const API_VERSION: &str = "sipcluster.dev/v1alpha1";

/// Reads the one SipCluster of a manifest, with defaults filled in and every rule obeyed.
///
/// # Errors
/// All that is wrong with it, in the order of the document.
pub fn parse(text: &str) -> Result<SipCluster, Vec<Problem>> {
    let document = only_sip_cluster(text).map_err(|problem| vec![problem])?;
    let mut problems = header(&document);
    problems.extend(check::against_schema(
        "spec",
        document.get("spec").unwrap_or(&Value::Null),
        &spec_schema(),
    ));
    if !problems.is_empty() {
        return Err(problems);
    }
    // What the schema lets pass and the types refuse is an address that is none.
    let cluster: SipCluster = serde_json::from_value(document).map_err(|error| {
        vec![Problem {
            field: "spec".into(),
            value: String::new(),
            wrong: error.to_string(),
            remedy: "see docs/manifest.md".into(),
        }]
    })?;
    let problems = rules::broken(&cluster);
    if problems.is_empty() {
        Ok(cluster)
    } else {
        Err(problems)
    }
}

/// The schema of `spec`, as it stands in the CustomResourceDefinition.
pub(crate) fn spec_schema() -> Value {
    let crd = serde_json::to_value(SipCluster::crd()).expect("a CRD is JSON");
    crd.pointer("/spec/versions/0/schema/openAPIV3Schema/properties/spec")
        .cloned()
        .expect("the CRD describes its spec")
}

/// A file may hold several documents (a Namespace, say); one of them is ours.
fn only_sip_cluster(text: &str) -> Result<Value, Problem> {
    let mut found = Vec::new();
    let mut others = Vec::new();
    for document in serde_yaml_ng::Deserializer::from_str(text) {
        // Through YAML's own value, which refuses a key that stands twice.
        let document = serde_yaml_ng::Value::deserialize(document)
            .and_then(serde_yaml_ng::from_value::<Value>)
            .map_err(|error| Problem {
                field: String::new(),
                value: String::new(),
                wrong: format!("this is no YAML: {error}"),
                remedy: "compare it with examples/sipcluster.yaml".into(),
            })?;
        match document.get("kind").and_then(Value::as_str) {
            Some("SipCluster") => found.push(document),
            _ if document.is_null() => {}
            kind => others.push(kind.unwrap_or("a document without kind").to_owned()),
        }
    }
    match (found.len(), others.is_empty()) {
        (1, _) => Ok(found.remove(0)),
        (0, true) => Err(Problem {
            field: String::new(),
            value: String::new(),
            wrong: "the manifest is empty".into(),
            remedy: format!("start it with apiVersion: {API_VERSION} and kind: SipCluster"),
        }),
        (0, false) => Err(Problem {
            field: "kind".into(),
            value: others.join(", "),
            wrong: "no SipCluster in this manifest".into(),
            remedy: "write kind: SipCluster".into(),
        }),
        (number, _) => Err(Problem {
            field: "kind".into(),
            value: "SipCluster".into(),
            wrong: format!("there are {number} SipClusters in this manifest"),
            remedy: "give each a file of its own".into(),
        }),
    }
}

/// What stands around the spec.
fn header(document: &Value) -> Vec<Problem> {
    let mut problems = Vec::new();
    let text = |pointer: &str| document.pointer(pointer).and_then(Value::as_str).unwrap_or_default();
    if text("/apiVersion") != API_VERSION {
        problems.push(Problem {
            field: "apiVersion".into(),
            value: text("/apiVersion").into(),
            wrong: "this version is not known here".into(),
            remedy: format!("write {API_VERSION}"),
        });
    }
    let name = text("/metadata/name");
    if !is_label(name) {
        problems.push(Problem {
            field: "metadata.name".into(),
            value: name.into(),
            wrong: "a cluster needs a name that can be a part of its containers' names".into(),
            remedy: "write 1 to 40 characters of a-z, 0-9 and -, a letter first, no - last".into(),
        });
    }
    if let Some(fields) = document.as_object() {
        let known = ["apiVersion", "kind", "metadata", "spec", "status"];
        problems.extend(
            fields
                .keys()
                .filter(|field| !known.contains(&field.as_str()))
                .map(|field| check::unknown_field(field, field, &known)),
        );
    }
    problems
}

/// RFC 1035 label, short enough for `<name>-container-63` and what Kubernetes appends to it.
fn is_label(name: &str) -> bool {
    (1..=40).contains(&name.len())
        && name
            .bytes()
            .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
        && name.starts_with(|c: char| c.is_ascii_lowercase())
        && !name.ends_with('-')
}

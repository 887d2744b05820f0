//! What is generated from the types: the CustomResourceDefinition and the manifest reference.

use std::fmt::Write;

use kube::CustomResourceExt;
use serde_json::Value;

use crate::{SipCluster, manifest};

/// All that is generated: the file's path below the repository's root, and its text.
#[must_use]
pub fn generated() -> [(&'static str, String); 3] {
    [
        ("crds/sipcluster.dev_sipclusters.yaml", crd_yaml()),
        ("charts/sipcluster/templates/crd.yaml", crd_template()),
        ("docs/manifest.md", reference()),
    ]
}

/// The same as a template of the chart. It is no file of Helm's own folder `crds`, which is installed once and never upgraded; and it stays when
/// the chart is uninstalled, since with it every SipCluster would go.
fn crd_template() -> String {
    let mut crd = SipCluster::crd();
    let keep = ("helm.sh/resource-policy".to_owned(), "keep".to_owned());
    crd.metadata.annotations.get_or_insert_default().extend([keep]);
    let yaml = serde_yaml_ng::to_string(&crd).expect("a CRD is YAML");
    format!(
        "{{{{- if .Values.crds.install }}}}\n# Generated from crds/src by `make generate`. Do not edit.\n{yaml}{{{{- end }}}}\n"
    )
}

/// The CustomResourceDefinition, as it is applied to a cluster.
fn crd_yaml() -> String {
    let yaml = serde_yaml_ng::to_string(&SipCluster::crd()).expect("a CRD is YAML");
    format!("# Generated from crds/src by `make generate`. Do not edit.\n{yaml}")
}

/// `docs/manifest.md`: every field with its type, default and meaning.
#[must_use]
pub fn reference() -> String {
    let mut page = String::from(
        "# Manifest reference\n\n\
         Generated from `crds/src` by `make generate`. A `SipCluster` (group `sipcluster.dev`, version `v1alpha1`, short name `sipc`) says \
         what a cluster shall be;\nthe same manifest serves one machine (`sipcluster up -f FILE`) and Kubernetes. A smallest one:\n\n\
         ```yaml\napiVersion: sipcluster.dev/v1alpha1\nkind: SipCluster\nmetadata:\n  name: demo\nspec:\n  application:\n    answer: {}\n```\n\n\
         A period is a whole number and its unit: `500ms`, `3s`, `30m`, `1h`; an amount is as in a pod: `2`, `500m`, `256Mi`. An unknown field is refused.\n\n\
         | field | type | default | meaning |\n| --- | --- | --- | --- |\n",
    );
    rows("spec", &manifest::spec_schema(), &mut page);
    page
}

fn rows(path: &str, schema: &Value, page: &mut String) {
    let required: Vec<&str> = schema["required"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(Value::as_str)
        .collect();
    for (name, field) in schema["properties"].as_object().into_iter().flatten() {
        let path = format!("{path}.{name}");
        let default = match &field["default"] {
            Value::Null if required.contains(&name.as_str()) => "required".into(),
            Value::Null | Value::Object(_) => String::new(),
            Value::String(text) => format!("`{text}`"),
            other => format!("`{other}`"),
        };
        let meaning = field["description"]
            .as_str()
            .unwrap_or_default()
            .replace('\n', " ")
            .replace('|', "\\|");
        writeln!(page, "| `{path}` | {} | {default} | {meaning} |", kind(field)).expect("a string takes all");
        rows(&path, field, page);
        rows(&format!("{path}[]"), &field["items"], page);
    }
}

fn kind(field: &Value) -> String {
    if let Some(allowed) = field["enum"].as_array() {
        return allowed
            .iter()
            .filter_map(Value::as_str)
            .map(|word| format!("`{word}`"))
            .collect::<Vec<_>>()
            .join(" or ");
    }
    match (
        field["type"].as_str(),
        field["format"].as_str(),
        field["pattern"].as_str(),
    ) {
        (_, Some("ip"), _) => "IP address".into(),
        (_, _, Some(crate::values::PERIOD_PATTERN)) => "period".into(),
        (_, _, Some(crate::values::QUANTITY_PATTERN)) => "amount".into(),
        (Some("object"), ..) if field["additionalProperties"].is_object() => {
            format!("{} by name", kind(&field["additionalProperties"]))
        }
        (Some("integer"), ..) => match (field["minimum"].as_f64(), field["maximum"].as_f64()) {
            (Some(least), Some(most)) => format!("{least} to {most}"),
            _ => "whole number".into(),
        },
        (Some("array"), ..) => format!("list of {}", kind(&field["items"])),
        (Some("string"), ..) => "text".into(),
        (Some(other), ..) => other.into(),
        (None, ..) => String::new(),
    }
}

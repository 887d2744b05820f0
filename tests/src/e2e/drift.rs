//! What somebody else does to the objects of a SipCluster, and that all of it is undone.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::Value;

use super::world::{NAME, World};
use crate::interop::process::wait_every;

/// The kinds of objects that a SipCluster consists of, and a change of each that harms it. Keys are made once, and left alone.
const KINDS: [(&str, &str); 8] = [
    ("serviceaccount", r#"{"automountServiceAccountToken": null}"#),
    ("role", r#"{"rules": []}"#),
    ("rolebinding", r#"{"subjects": []}"#),
    ("networkpolicy", r#"{"spec": {"ingress": []}}"#),
    ("poddisruptionbudget", r#"{"spec": {"maxUnavailable": 2}}"#),
    (
        "service",
        r#"{"spec": {"selector": {"app.kubernetes.io/component": "nobody"}}}"#,
    ),
    (
        "statefulset",
        r#"{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 1}}}}"#,
    ),
    (
        "deployment",
        r#"{"spec": {"template": {"spec": {"terminationGracePeriodSeconds": 3}}}}"#,
    ),
];

/// Without this label the operator does not see it any more.
const UNLABELLED: &str = r#"{"metadata": {"labels": {"app.kubernetes.io/managed-by": null}}}"#;

/// How soon it has to be undone.
const SOON: Duration = Duration::from_secs(10);

/// How often it is looked.
const LOOK: Duration = Duration::from_millis(100);

/// Every kind.
pub fn all_undone(world: &World) -> anyhow::Result<()> {
    undone(world, &KINDS.map(|(kind, _)| kind))
}

/// Changes each object of these kinds, takes its label away, and deletes it, pods apart.
pub fn undone(world: &World, kinds: &[&str]) -> anyhow::Result<()> {
    for (kind, change) in KINDS.into_iter().filter(|(kind, _)| kinds.contains(kind)) {
        let selector = format!("app.kubernetes.io/instance={NAME},app.kubernetes.io/managed-by=sipcluster-operator");
        let list = world.kubernetes.get(&[kind, "-l", &selector])?;
        let objects = list["items"].as_array().filter(|objects| !objects.is_empty());
        for object in objects.with_context(|| format!("no {kind}"))? {
            let name = object["metadata"]["name"].as_str().context("it has a name")?;
            for change in [change, UNLABELLED] {
                let changed =
                    world
                        .kubernetes
                        .kubectl(&["patch", kind, name, "--type=merge", "-p", change, "-o", "json"])?;
                let changed: Value = serde_json::from_str(&changed)?;
                ensure!(
                    essence(&changed) != essence(object),
                    "{change} changes nothing of {kind} {name}"
                );
                as_before(world, kind, name, object, |uid| uid == &object["metadata"]["uid"])
                    .with_context(|| change.to_owned())?;
            }
            world
                .kubernetes
                .kubectl(&["delete", kind, name, "--cascade=orphan", "--wait=false"])?;
            as_before(world, kind, name, object, |uid| uid != &object["metadata"]["uid"])?;
        }
    }
    Ok(())
}

/// Waits until the object is as it was, and its uid as it has to be.
fn as_before(
    world: &World,
    kind: &str,
    name: &str,
    before: &Value,
    fits: impl Fn(&Value) -> bool,
) -> anyhow::Result<()> {
    let mut last = None;
    wait_every(LOOK, &format!("{kind} {name} is put back"), SOON, || {
        let now = world.kubernetes.get(&[kind, name]).ok()?;
        let is_back = fits(&now["metadata"]["uid"]) && essence(&now) == essence(before);
        last = Some(now);
        is_back.then_some(())
    })
    .with_context(|| format!("it is {last:?}"))
}

/// An object without what the API server says of it, and without what it hands out.
fn essence(object: &Value) -> Value {
    let mut object = object.clone();
    let Value::Object(fields) = &mut object else {
        return object;
    };
    fields.remove("status");
    if let Some(metadata) = fields.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.retain(|field, _| ["name", "namespace", "labels", "ownerReferences"].contains(&field.as_str()));
    }
    if let Some(spec) = fields.get_mut("spec").and_then(Value::as_object_mut) {
        spec.retain(|field, _| !["clusterIP", "clusterIPs", "healthCheckNodePort"].contains(&field.as_str()));
        for port in spec
            .get_mut("ports")
            .and_then(Value::as_array_mut)
            .into_iter()
            .flatten()
        {
            port.as_object_mut().map(|port| port.remove("nodePort"));
        }
    }
    object
}

//! Manifests that the API server itself refuses, with a sentence that names the field and the remedy.

use std::path::Path;

use anyhow::{bail, ensure};

use super::kubernetes::Kubernetes;
use super::world::NAME;

/// A spec in JSON, and what has to stand in the refusal.
const WRONG: [(&str, &[&str]); 32] = [
    (r#"{}"#, &["spec.application", "Required"]),
    (
        r#"{"application": {}}"#,
        &["name one application: answer, b2bua or custom"],
    ),
    (
        r#"{"application": {"answer": {}, "b2bua": {"routes": [{"target": "sip:10.0.0.1"}]}}}"#,
        &["name one application"],
    ),
    (
        r#"{"application": {"answer": {}}, "replicas": 0}"#,
        &["spec.replicas", "greater than or equal to 1"],
    ),
    (
        r#"{"application": {"answer": {}}, "replicas": 65}"#,
        &["spec.replicas", "less than or equal to 64"],
    ),
    (
        r#"{"application": {"answer": {}}, "replicas": 3, "partitions": 2}"#,
        &["partitions: fewer than the containers"],
    ),
    (
        r#"{"application": {"answer": {"ring": "soon"}}}"#,
        &["spec.application.answer.ring"],
    ),
    (
        r#"{"application": {"answer": {"sessionExpires": "10s"}}}"#,
        &["sessionExpires: write a period from 90s to 24h"],
    ),
    (
        r#"{"application": {"answer": {}}, "containers": {"quiesce": "25h"}}"#,
        &["quiesce: write a period from 0s to 24h"],
    ),
    (
        r#"{"application": {"answer": {}}, "proxies": {"drain": "11m"}}"#,
        &["drain: write a period from 0s to 10m"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"port": 70000}}"#,
        &["spec.dispatcher.port"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"transports": ["udp", "udp"]}}"#,
        &["spec.dispatcher.transports"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"hostNetwork": {}, "service": {"annotations": {"a": "b"}}}}"#,
        &["dispatcher.service: with hostNetwork nothing stands in front of the proxies"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"hostNetwork": {}, "advertised": "192.0.2.1"}}"#,
        &["dispatcher.advertised: with hostNetwork each proxy has its node's address"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"hostNetwork": {"ucfPort": 5060}}}"#,
        &["dispatcher.hostNetwork: a proxy cannot listen twice at one port"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"advertised": "sip.example.com"}}"#,
        &["dispatcher.advertised: write an IP address such as 203.0.113.7"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"address": "localhost"}}"#,
        &["dispatcher.address: write an IP address such as 127.0.0.1"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"advertised": "0.0.0.0"}}"#,
        &["dispatcher.advertised: peers cannot send calls to an unspecified or a multicast address"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"advertised": "ff02::1"}}"#,
        &["dispatcher.advertised: peers cannot send calls to an unspecified or a multicast address"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"advertised": "192.0.2.1", "service": {"type": "NodePort"}}}"#,
        &[
            "dispatcher.service: a NodePort Service has no address",
            "(dispatcher.service.nodePort)",
        ],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"service": {"type": "NodePort", "nodePort": 30060}}}"#,
        &[
            "dispatcher.service: a NodePort Service has no address",
            "(dispatcher.advertised)",
        ],
    ),
    (
        r#"{"application": {"custom": {"command": "prepaid"}}}"#,
        &["containers.image: the application is your own"],
    ),
    (
        r#"{"application": {"answer": {}}, "redis": {"managed": {}, "external": {"url": "redis://10.0.0.7"}}}"#,
        &["managed and external exclude one another"],
    ),
    (
        r#"{"application": {"answer": {}}, "redis": {"external": {"url": "redis://10.0.0.7", "secret": {"name": "redis"}}}}"#,
        &["redis.external: write its url, or the secret that holds it, and not both"],
    ),
    (
        r#"{"application": {"answer": {}}, "redis": {"managed": {"instances": 2}}}"#,
        &["instances: write 1, 3 or 5"],
    ),
    (
        r#"{"application": {"answer": {}}, "redis": {"external": {"url": "redis-sentinel://10.0.0.7:26379"}}}"#,
        &["spec.redis.external.url"],
    ),
    (
        r#"{"application": {"answer": {}}, "redis": {"external": {"url": "rediss://10.0.0.7", "caFile": "ca.crt"}}}"#,
        &["redis.external.caFile: pods have none of your files"],
    ),
    (
        r#"{"application": {"answer": {}}, "proxies": {"nodeSelector": {"edge": true}}}"#,
        &["spec.proxies.nodeSelector.edge", "must be of type string"],
    ),
    (
        r#"{"application": {"answer": {}}, "dispatcher": {"service": {"annotations": {"weight": 7}}}}"#,
        &["spec.dispatcher.service.annotations.weight", "must be of type string"],
    ),
    (
        r#"{"application": {"answer": {}}, "containers": {"resources": {"requests": {"cpu": "half"}}}}"#,
        &["spec.containers.resources.requests.cpu", "should match"],
    ),
    (
        r#"{"application": {"answer": {}}, "containers": {"resources": {"limits": {"memory": -1}}}}"#,
        &["spec.containers.resources.limits.memory", "greater than or equal to 0"],
    ),
    (
        r#"{"application": {"answer": {}}, "keys": {"oldest": 2}}"#,
        &["keys.oldest: no key counts that is later than current"],
    ),
];

/// A change of the running cluster, and what has to stand in the refusal.
const FIXED: [(&str, &str); 10] = [
    (
        r#"{"partitions": 512}"#,
        "partitions cannot be changed: put back the old number",
    ),
    (r#"{"dispatcher": {"port": 5070}}"#, "dispatcher.port cannot be changed"),
    (
        r#"{"dispatcher": {"advertised": "203.0.113.9"}}"#,
        "dispatcher.advertised cannot be changed",
    ),
    (
        r#"{"dispatcher": {"hostNetwork": {}}}"#,
        "dispatcher.hostNetwork cannot be changed",
    ),
    (
        r#"{"dispatcher": {"service": {"class": "example.com/balancer"}}}"#,
        "dispatcher.service.class of a LoadBalancer cannot be changed",
    ),
    (
        r#"{"redis": {"external": {"url": "redis://10.0.0.7"}}}"#,
        "redis cannot be changed",
    ),
    (
        r#"{"redis": {"managed": {"instances": 5}}}"#,
        "redis.managed.instances cannot be changed",
    ),
    (
        r#"{"redis": {"managed": {"password": 9999}}}"#,
        "redis.managed.password: it stays, or grows by one",
    ),
    (
        r#"{"replication": {"lease": "3s"}}"#,
        "replication.lease cannot be changed",
    ),
    (
        r#"{"keys": {"current": 9999, "oldest": 9999}}"#,
        "keys.current: it stays, or grows by one",
    ),
];

/// Tries each, the changes with a SipCluster of the tests' manifest; how many were refused.
///
/// # Errors
/// The API server takes one, or refuses it with other words.
pub fn all(kubernetes: &Kubernetes, scratch: &Path) -> anyhow::Result<usize> {
    for (spec, said) in WRONG {
        let manifest = format!(
            r#"{{"apiVersion": "sipcluster.dev/v1alpha1", "kind": "SipCluster", "metadata": {{"name": "wrong"}}, "spec": {spec}}}"#
        );
        refused(kubernetes.try_create(&manifest, scratch), spec, said)?;
    }
    for (change, said) in FIXED {
        let patch = format!(r#"{{"spec": {change}}}"#);
        let patch = [
            "patch",
            "sipcluster",
            NAME,
            "--dry-run=server",
            "--type=merge",
            "-p",
            &patch,
        ];
        refused(kubernetes.kubectl(&patch), change, &[said])?;
    }
    Ok(WRONG.len() + FIXED.len())
}

fn refused(answer: anyhow::Result<String>, what: &str, said: &[&str]) -> anyhow::Result<()> {
    let Err(error) = answer else {
        bail!("the API server takes {what}");
    };
    let error = error.to_string();
    for word in said {
        ensure!(
            error.contains(word),
            "the refusal of {what} does not say {word:?}: {error}"
        );
    }
    Ok(())
}

//! The chart: what Helm makes of it, by which values, and what it carries besides templates.

use std::collections::BTreeSet;
use std::process::Command;

use anyhow::{Context, ensure};
use serde::Deserialize;
use serde_json::Value;
use tests::interop::process::source_root;

/// The namespace of the release.
const NAMESPACE: &str = "telephony";

/// Values, as `--set` takes them, and the kinds of objects that there are in place of which of [`KINDS`].
const SETS: [(&str, &[&str], &[&str]); 6] = [
    ("", &[], &[]),
    ("clusterWide=true,replicas=1,logFormat=json,resources=null", &[], &[]),
    (
        "clusterWide=false",
        &["Role", "RoleBinding"],
        &["ClusterRole", "ClusterRoleBinding"],
    ),
    ("crds.install=false", &[], &["CustomResourceDefinition"]),
    ("podMonitor.enabled=true", &["PodMonitor"], &[]),
    ("dashboard.enabled=true", &["ConfigMap"], &[]),
];

/// What has to be given.
const IMAGES: &str =
    "images.operator=operator:1,images.container=container:1,images.proxy=proxy:1,images.redis=redis:1";

/// What the chart makes if no more is given.
const KINDS: [&str; 9] = [
    "ClusterRole",
    "ClusterRoleBinding",
    "CustomResourceDefinition",
    "Deployment",
    "Pod",
    "PodDisruptionBudget",
    "Role",
    "RoleBinding",
    "ServiceAccount",
];

/// Helm with these arguments, then the chart and values: what it prints, or its complaint as the inner error.
fn helm(arguments: &[&str], values: &str) -> anyhow::Result<Result<String, String>> {
    let cluster = source_root().join("tests/e2e/cluster/cluster");
    let asked = Command::new(cluster).args(["program", "helm"]).output()?;
    let complaint = String::from_utf8_lossy(&asked.stderr);
    ensure!(asked.status.success(), "no Helm: {}", complaint.trim());
    let output = Command::new(String::from_utf8(asked.stdout)?.trim())
        .args(arguments)
        .arg(source_root().join("charts/sipcluster"))
        .args(["--namespace", NAMESPACE, "--set", IMAGES, "--set", values])
        .output()
        .context("helm")?;
    let said = |bytes| String::from_utf8_lossy(bytes).into_owned();
    Ok(if output.status.success() {
        Ok(said(&output.stdout))
    } else {
        Err(said(&output.stdout) + &said(&output.stderr))
    })
}

fn template(values: &str) -> anyhow::Result<String> {
    helm(&["template", "sipcluster"], values)?.map_err(|complaint| anyhow::anyhow!("{values}: {complaint}"))
}

/// The objects of the chart with these values.
fn rendered(values: &str) -> anyhow::Result<Vec<Value>> {
    let text = template(values)?;
    let documents = serde_yaml_ng::Deserializer::from_str(&text).map(Value::deserialize);
    let objects: Vec<Value> = documents.collect::<Result<_, _>>().context("no YAML")?;
    Ok(objects.into_iter().filter(|object| !object.is_null()).collect())
}

fn of_kind<'a>(objects: &'a [Value], kind: &str) -> Vec<&'a Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The containers of an object, with what their pod says of all of them.
fn containers(object: &Value) -> impl Iterator<Item = (&Value, &Value)> {
    let pod = match object["kind"].as_str() {
        Some("Pod") => &object["spec"],
        _ => &object["spec"]["template"]["spec"],
    };
    let containers = pod["containers"].as_array().into_iter().flatten();
    containers.map(move |container| (pod, container))
}

/// What all containers have in this environment variable.
fn variables<'a>(objects: &'a [Value], name: &str) -> Vec<&'a str> {
    let containers = objects.iter().flat_map(containers);
    let variables = containers.flat_map(|(_, container)| container["env"].as_array().into_iter().flatten());
    variables
        .filter(|variable| variable["name"] == name)
        .filter_map(|variable| variable["value"].as_str())
        .collect()
}

#[test]
fn helm_lint_has_nothing_to_say() -> anyhow::Result<()> {
    for (values, ..) in SETS {
        let linted = helm(&["lint", "--strict"], values)?;
        ensure!(linted.is_ok(), "{values}: {linted:?}");
    }
    Ok(())
}

#[test]
fn values_switch_objects_on_and_off() -> anyhow::Result<()> {
    for (values, more, less) in SETS {
        let objects = rendered(values)?;
        let mut kinds: Vec<_> = objects.iter().filter_map(|object| object["kind"].as_str()).collect();
        let mut expected: Vec<_> = KINDS.into_iter().filter(|kind| !less.contains(kind)).collect();
        expected.extend(more);
        kinds.sort_unstable();
        expected.sort_unstable();
        ensure!(kinds == expected, "{values}: {kinds:?}");
        for object in &objects {
            let is_wide = ["ClusterRole", "ClusterRoleBinding", "CustomResourceDefinition"]
                .iter()
                .any(|kind| object["kind"] == *kind);
            let namespace = object["metadata"]["namespace"].as_str();
            ensure!(
                namespace == (!is_wide).then_some(NAMESPACE),
                "{values}: {} in {namespace:?}",
                object["kind"]
            );
        }
    }
    Ok(())
}

#[test]
fn rights_are_the_same_in_one_namespace_as_in_all() -> anyhow::Result<()> {
    let (wide, narrow) = (rendered("")?, rendered("clusterWide=false")?);
    let rules = |objects: &[Value], kind: &str| {
        let roles = of_kind(objects, kind).into_iter();
        let mut roles = roles.filter(|role| {
            !role["metadata"]["name"]
                .as_str()
                .unwrap_or("-leader")
                .ends_with("-leader")
        });
        let role = roles.next().context("a role beside that of the leader")?;
        anyhow::Ok(role["rules"].clone())
    };
    let granted = rules(&wide, "ClusterRole")?;
    ensure!(granted == rules(&narrow, "Role")?, "they differ");
    // Whoever may read Secrets of all namespaces, or everything, is as good as the administrator.
    for rule in granted.as_array().context("rules")? {
        let said = rule.to_string();
        ensure!(!said.contains('*'), "{said}");
        ensure!(
            !said.contains("\"secrets\"") || rule["verbs"] == serde_json::json!(["create"]),
            "{said}"
        );
    }
    for (objects, namespace) in [(&wide, ""), (&narrow, NAMESPACE)] {
        let told = variables(objects, "SIPCLUSTER_WATCH_NAMESPACE");
        ensure!(
            told == [namespace; 2],
            "the operator and its check watch {told:?}, not {namespace:?}"
        );
    }
    for objects in [&wide, &narrow] {
        for binding in objects.iter().filter(|object| !object["roleRef"].is_null()) {
            let bound = objects.iter().any(|object| {
                object["kind"] == binding["roleRef"]["kind"] && object["metadata"]["name"] == binding["roleRef"]["name"]
            });
            ensure!(bound, "{binding} binds nothing");
            let account = &of_kind(objects, "ServiceAccount")[0]["metadata"];
            let subject = &binding["subjects"][0];
            ensure!(
                (&subject["name"], &subject["namespace"]) == (&account["name"], &account["namespace"]),
                "{binding} is nobody's"
            );
        }
    }
    Ok(())
}

/// Kubernetes' Pod Security Standard `restricted`, and a root that cannot be written to.
#[test]
fn pods_are_restricted() -> anyhow::Result<()> {
    let mut seen = 0;
    for (values, ..) in SETS {
        for object in rendered(values)? {
            for (pod, container) in containers(&object) {
                seen += 1;
                let (all, own) = (&pod["securityContext"], &container["securityContext"]);
                let is_restricted = all["runAsNonRoot"] == true
                    && all["runAsUser"].as_u64().is_some_and(|user| user > 0)
                    && all["seccompProfile"]["type"] == "RuntimeDefault"
                    && own["allowPrivilegeEscalation"] == false
                    && own["readOnlyRootFilesystem"] == true
                    && own["capabilities"] == serde_json::json!({"drop": ["ALL"]});
                ensure!(is_restricted, "{values}: {container} with {all}");
                let shares = ["hostNetwork", "hostPID", "hostIPC", "volumes"];
                ensure!(shares.iter().all(|field| pod[field].is_null()), "{values}: {pod}");
            }
        }
    }
    ensure!(seen == 2 * SETS.len(), "the operator's and that of `helm test`: {seen}");
    Ok(())
}

/// With the CustomResourceDefinition every SipCluster would go.
#[test]
fn the_resource_stays_when_the_chart_is_uninstalled() -> anyhow::Result<()> {
    let objects = rendered("")?;
    let crd = of_kind(&objects, "CustomResourceDefinition")[0];
    ensure!(
        crd["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep",
        "{}",
        crd["metadata"]
    );
    Ok(())
}

/// A value that no template reads would be wished for in vain.
#[test]
fn every_value_reaches_an_object() -> anyhow::Result<()> {
    let given = [
        ("images.operator", "registry.example/operator:9"),
        ("images.container", "registry.example/container:9"),
        ("images.proxy", "registry.example/proxy:9"),
        ("images.redis", "registry.example/redis:9"),
        ("images.pullPolicy", "Never"),
        ("images.pullSecrets[0]", "the-pull-secret"),
        ("logFormat", "json"),
        ("resources.limits.memory", "123Mi"),
        ("podAnnotations.the-annotation", "of-the-pod"),
        ("nodeSelector.the-selector", "of-nodes"),
        ("tolerations[0].key", "the-toleration"),
        (
            "affinity.nodeAffinity.requiredDuringSchedulingIgnoredDuringExecution.nodeSelectorTerms[0].matchFields[0].key",
            "the-affinity",
        ),
        ("podMonitor.labels.the-monitor", "of-pods"),
        ("podMonitor.interval", "47s"),
        ("dashboard.labels.the-dashboard", "of-grafana"),
    ];
    let values: Vec<_> = given.iter().map(|(name, value)| format!("{name}={value}")).collect();
    let text = template(&format!(
        "replicas=4,podMonitor.enabled=true,dashboard.enabled=true,{}",
        values.join(",")
    ))?;
    ensure!(text.contains("replicas: 4\n"), "replicas");
    for (name, value) in given {
        ensure!(text.contains(value), "{name} is not in\n{text}");
    }
    Ok(())
}

#[test]
fn wrong_values_are_refused_by_name() -> anyhow::Result<()> {
    let wrong = [
        ("replicas=0", "at '/replicas': minimum: got 0, want 1"),
        ("replicas=6", "at '/replicas': maximum: got 6, want 5"),
        ("replicas=two", "at '/replicas': got string, want integer"),
        ("replica=2", "additional properties 'replica' not allowed"),
        ("clusterWide=perhaps", "at '/clusterWide': got string, want boolean"),
        (
            "crds.instal=false",
            "at '/crds': additional properties 'instal' not allowed",
        ),
        ("logFormat=xml", "at '/logFormat': value must be one of 'text', 'json'"),
        ("images.redis=", "at '/images/redis': minLength: got 0, want 1"),
        (
            "images.pullPolicy=Sometimes",
            "at '/images/pullPolicy': value must be one of 'Always', 'IfNotPresent', 'Never'",
        ),
        (
            "podMonitor.interval=soon",
            "at '/podMonitor/interval': 'soon' does not match pattern",
        ),
        (
            "podMonitor.enable=true",
            "at '/podMonitor': additional properties 'enable' not allowed",
        ),
        (
            "dashboard.labels.folder=7",
            "at '/dashboard/labels/folder': got number, want string",
        ),
    ];
    for (values, message) in wrong {
        let Err(complaint) = helm(&["template", "sipcluster"], values)? else {
            anyhow::bail!("{values} is taken");
        };
        ensure!(complaint.contains(message), "{values}: {complaint}");
    }
    Ok(())
}

/// Names that begin with the product's, as long as they go on.
fn metrics(text: &str) -> BTreeSet<&str> {
    let starts = text.match_indices("sipcluster_").map(|(at, _)| &text[at..]);
    let is_part = |c: char| c.is_ascii_lowercase() || c == '_';
    starts
        .map(|name| name.split(|c| !is_part(c)).next().unwrap_or(name))
        .collect()
}

#[test]
fn the_dashboard_asks_for_metrics_that_are_documented() -> anyhow::Result<()> {
    let read = |path| std::fs::read_to_string(source_root().join(path));
    let (dashboard, guide) = (
        read("charts/sipcluster/dashboards/sipcluster.json")?,
        read("docs/metrics.md")?,
    );
    let panels: Value = serde_json::from_str(&dashboard)?;
    let asked = metrics(&dashboard);
    ensure!(
        asked.len() > panels["panels"].as_array().map_or(0, Vec::len),
        "a metric a panel at least: {asked:?}"
    );
    for name in asked {
        let name = name.strip_suffix("_bucket").unwrap_or(name);
        ensure!(
            guide.contains(&format!("| `{name}` |")),
            "{name} is not in docs/metrics.md"
        );
    }
    Ok(())
}

//! Other SipClusters beside the one under test: whatever becomes of them, it and its calls are left alone, and nothing of them stays.

use std::time::Duration;

use anyhow::{Context, ensure};
use serde_json::{Value, json};

use super::world::{NAME, Status, World};
use crate::interop::process::wait_every;

/// Everything that Kubernetes or the operator may make of a SipCluster.
const KINDS: &str = "pods,services,endpointslices,secrets,serviceaccounts,persistentvolumeclaims,statefulsets,controllerrevisions,\
                     deployments,replicasets,roles,rolebindings,networkpolicies,poddisruptionbudgets";

/// Kubernetes tries again after a while that grows, where it could not make a pod.
const LIMIT: Duration = Duration::from_secs(180);

const LOOK: Duration = Duration::from_millis(300);

/// A namespace whose quota has no room.
const CROWDED: &str = "crowded";

/// A namespace without pod security, in a cluster of our own: that of `default` lets no pod into the network of its node.
pub const UNRESTRICTED: &str = "unrestricted";

/// A spec of as few parts as bear the loss of a container.
pub const SMALL: &str = r#"{"replicas": 2, "containers": {"workers": 1}, "proxies": {"replicas": 1, "workers": 1}}"#;

/// A SipCluster that is wrong in what the API server cannot see.
struct Wrong {
    namespace: &'static str,
    name: &'static str,
    spec: &'static str,
    /// What its Status has to say: what is wrong, and the remedy.
    said: &'static [&'static str],
}

const WRONG: [Wrong; 5] = [
    Wrong {
        namespace: "default",
        name: "no-redis",
        spec: r#"{"replicas": 1, "redis": {"external": {"url": "redis://198.18.255.50:6379"}}}"#,
        said: &["no-redis-0", "it does not reach Redis", "198.18.255.50:6379"],
    },
    Wrong {
        namespace: "default",
        name: "no-secret",
        spec: r#"{"replicas": 1, "redis": {"external": {"secret": {"name": "nowhere"}}}}"#,
        said: &["no-secret-0", r#"secret "nowhere" not found"#],
    },
    Wrong {
        namespace: "default",
        name: "a-name-that-is-longer-than-any-service-of-it-may-be",
        spec: "{}",
        said: &["metadata.name", "write at most 40 small letters"],
    },
    Wrong {
        namespace: "default",
        name: "demo-redis",
        spec: "{}",
        said: &[
            "is there already and belongs to SipCluster demo",
            "give this SipCluster another name",
        ],
    },
    Wrong {
        namespace: CROWDED,
        name: "no-room",
        spec: r#"{"replicas": 1, "proxies": {"replicas": 1}}"#,
        said: &["exceeded quota: crowded"],
    },
];

/// A SipCluster besides the one under test.
pub struct Beside<'a> {
    world: &'a World,
    /// Where it is.
    pub namespace: &'a str,
    name: &'a str,
}

impl<'a> Beside<'a> {
    /// Makes one; a spec that names no application has `answer`.
    pub fn create(world: &'a World, namespace: &'a str, name: &'a str, spec: &str) -> anyhow::Result<Self> {
        let mut spec: Value = serde_json::from_str(spec)?;
        if spec["application"].is_null() {
            spec["application"] = json!({"answer": {}});
        }
        let manifest = json!({
            "apiVersion": "sipcluster.dev/v1alpha1",
            "kind": "SipCluster",
            "metadata": {"namespace": namespace, "name": name},
            "spec": spec,
        });
        world.kubernetes.apply(&manifest.to_string(), world.scratch())?;
        Ok(Self::find(world, namespace, name))
    }

    /// One that is there.
    pub fn find(world: &'a World, namespace: &'a str, name: &'a str) -> Self {
        Self { world, namespace, name }
    }

    /// It as it stands.
    pub fn status(&self) -> anyhow::Result<Status> {
        let object = self
            .world
            .kubernetes
            .get(&["sipcluster", "-n", self.namespace, self.name])?;
        Ok(Status::of(object))
    }

    /// Waits for a state of it.
    pub fn until(&self, what: &str, condition: impl Fn(&Status) -> bool) -> anyhow::Result<()> {
        let mut last = None;
        let what = format!("{}: {what}", self.name);
        wait_every(LOOK, &what, LIMIT, || {
            let status = self.status().ok()?;
            let holds = condition(&status).then_some(());
            last = Some(status);
            holds
        })
        .with_context(|| format!("the last status: {last:?}"))
    }

    /// Waits until it is Ready, and asks it by SIP.
    pub fn answers(&self) -> anyhow::Result<()> {
        self.until("it is Ready", Status::is_current)?;
        let answered = self.world.helm_test()?;
        ensure!(
            answered.contains(&format!("{}/{}, UDP: 200", self.namespace, self.name)),
            "it does not answer: {answered}"
        );
        Ok(())
    }

    /// Changes it.
    pub fn patch(&self, change: &str) -> anyhow::Result<()> {
        let (namespace, name) = (self.namespace, self.name);
        let patch = [
            "patch",
            "sipcluster",
            "-n",
            namespace,
            name,
            "--type=merge",
            "-p",
            change,
        ];
        self.world.kubernetes.kubectl(&patch).map(drop)
    }

    /// The pods of its proxies.
    pub fn proxies(&self) -> anyhow::Result<Vec<String>> {
        let selector = format!(
            "app.kubernetes.io/instance={},app.kubernetes.io/component=proxy",
            self.name
        );
        let pods = self
            .world
            .kubernetes
            .get(&["pods", "-n", self.namespace, "-l", &selector])?;
        let pods = pods["items"].as_array().context("a list")?;
        let names = pods.iter().filter_map(|pod| pod["metadata"]["name"].as_str());
        Ok(names.map(Into::into).collect())
    }

    /// Waits until none of these proxies is left, and there are so many.
    pub fn until_proxies_replaced(&self, gone: &[String], count: usize) -> anyhow::Result<()> {
        wait_every(LOOK, &format!("{gone:?} are replaced"), LIMIT, || {
            let now = self.proxies().ok()?;
            (now.len() == count && now.iter().all(|pod| !gone.contains(pod))).then_some(())
        })
    }

    /// Deletes it, and waits until nothing of it is left.
    pub fn delete(self) -> anyhow::Result<()> {
        let (namespace, name) = (self.namespace, self.name);
        let kubernetes = &self.world.kubernetes;
        kubernetes.kubectl(&["delete", "sipcluster", "-n", namespace, name, "--wait=false"])?;
        let selector = format!("app.kubernetes.io/instance={name}");
        let mut left = String::new();
        wait_every(LOOK, &format!("nothing of {name} is left"), LIMIT, || {
            left = kubernetes
                .kubectl(&["get", KINDS, "-n", namespace, "-l", &selector, "-o", "name"])
                .ok()?;
            left.is_empty().then_some(())
        })
        .with_context(|| left.clone())?;
        let sipclusters = kubernetes.kubectl(&["get", "sipclusters", "-n", namespace, "-o", "name"])?;
        ensure!(
            !sipclusters.lines().any(|line| line.ends_with(&format!("/{name}"))),
            "{name} is there still"
        );
        Ok(())
    }
}

/// The same with a Redis of its own choice.
pub fn small_with(external: &Value) -> anyhow::Result<String> {
    let mut spec: Value = serde_json::from_str(SMALL)?;
    spec["redis"] = json!({ "external": external });
    Ok(spec.to_string())
}

/// Each says what is wrong with it, and goes without a trace; with the remedy one that had no room works.
pub fn wrong(world: &World) -> anyhow::Result<()> {
    let kubernetes = &world.kubernetes;
    kubernetes.kubectl(&["create", "namespace", CROWDED])?;
    kubernetes.kubectl(&["create", "quota", CROWDED, "-n", CROWDED, "--hard=pods=1"])?;
    let begun: Vec<_> = WRONG
        .iter()
        .map(|wrong| Beside::create(world, wrong.namespace, wrong.name, wrong.spec))
        .collect::<anyhow::Result<_>>()?;
    for (wrong, beside) in WRONG.iter().zip(begun) {
        beside.until(&format!("Status says {:?}", wrong.said), |status| {
            let is_said = |why: &str| wrong.said.iter().all(|said| why.contains(said));
            status
                .condition("Ready")
                .is_some_and(|(status, why)| status == "False" && is_said(why))
        })?;
        if wrong.namespace == CROWDED {
            kubernetes.kubectl(&[
                "patch",
                "quota",
                CROWDED,
                "-n",
                CROWDED,
                "-p",
                r#"{"spec": {"hard": {"pods": "3"}}}"#,
            ])?;
            beside.until("it is Ready once there is room", Status::is_current)?;
        }
        beside.delete()?;
    }
    kubernetes.kubectl(&["delete", "namespace", CROWDED, "--wait=false"])?;
    ensure!(
        world.status()?.is_current(),
        "the SipCluster under test is not as wanted any more"
    );
    Ok(())
}

/// One whose Redis is somebody else's: the one of the SipCluster under test, by its Sentinels, in a URL that a Secret has.
pub fn borrowing(world: &World) -> anyhow::Result<()> {
    // The Secret, and the policy.
    const BORROWED: &str = "borrowed-redis";
    const BORROWER: &str = "borrowing";
    let password = world.redis_password(world.status()?.redis_password())?;
    let sentinels: Vec<_> = world.redis_pods().map(|pod| format!("{pod}.default")).collect();
    let url = format!("redis-sentinel://:{password}@{}/#{NAME}", sentinels.join(","));
    let literal = format!("--from-literal=url={url}");
    world
        .kubernetes
        .kubectl(&["create", "secret", "generic", BORROWED, &literal])?;
    // A Redis of the operator's lets in the containers of its SipCluster alone.
    let part = |name: &str, component: &str| {
        let labels = json!({"app.kubernetes.io/instance": name, "app.kubernetes.io/component": component});
        json!({ "matchLabels": labels })
    };
    let admits = json!({
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": BORROWED},
        "spec": {
            "podSelector": part(NAME, "redis"),
            "policyTypes": ["Ingress"],
            "ingress": [{
                "from": [{"podSelector": part(BORROWER, "container")}],
                "ports": [{"port": 6379}, {"port": 26379}],
            }],
        },
    });
    world.kubernetes.apply(&admits.to_string(), world.scratch())?;
    let spec = small_with(&json!({"secret": {"name": BORROWED}, "instances": 3}))?;
    let beside = Beside::create(world, "default", BORROWER, &spec)?;
    beside.answers()?;
    beside.delete()?;
    world
        .kubernetes
        .kubectl(&["delete", "secret,networkpolicy", BORROWED])
        .map(drop)
}

/// One beside it answers, is changed, and is deleted before the change is brought in.
pub fn deleted(world: &World) -> anyhow::Result<()> {
    let beside = Beside::create(world, "default", "short", SMALL)?;
    beside.answers()?;
    let change = r#"{"spec": {"application": {"answer": {"sessionExpires": "20m"}}}}"#;
    beside.patch(change)?;
    beside.until("a container is on its way", |status| !status.away().is_empty())?;
    beside.delete()?;
    ensure!(
        world.status()?.is_current(),
        "the SipCluster under test is not as wanted any more"
    );
    Ok(())
}

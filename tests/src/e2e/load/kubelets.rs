//! What a scheduler and kubelets would do, without processes: each pod of a SipCluster is put on a node, starts, becomes ready, and ends when it
//! is told to.
//!
//! A pod's status is written as often as a kubelet writes it. What kubelets ask besides (leases, events, Secrets) is left out.

use std::collections::{HashMap, VecDeque};
use std::net::Ipv4Addr;
use std::pin::pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use futures_util::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{Status, Time};
use k8s_openapi::jiff::Timestamp;
use kube::api::{Api, DeleteParams, Patch, PatchParams, PostParams, Preconditions};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::watcher::{self, Event, watcher};
use kube::{Client, Error, ResourceExt as _};
use serde_json::{Value, json};
use tokio::sync::Notify;
use tokio::time::sleep;

use super::containers::Containers;

/// From the node to the process: images are there.
const STARTS: Duration = Duration::from_millis(500);

/// From a container's process to its share of the partitions.
const JOINS: Duration = Duration::from_secs(1);

/// From the signal to the end.
const LEAVES: Duration = Duration::from_secs(1);

/// After a request that was not answered.
const AGAIN: Duration = Duration::from_millis(500);

const NODES: usize = 10;

/// Pods have addresses from 198.18.0.1 on.
const ADDRESSES: u32 = 4094;

/// All of them.
pub struct Kubelets {
    client: Client,
    containers: Arc<Containers>,
    /// Those that are free; what was used last comes last.
    addresses: Mutex<VecDeque<Ipv4Addr>>,
    bound: AtomicUsize,
}

/// What becomes of one pod.
struct Life {
    kubelets: Arc<Kubelets>,
    api: Api<Pod>,
    pod: Pod,
    address: Ipv4Addr,
    leave: Arc<Notify>,
}

impl Kubelets {
    /// Kubelets that ask by `client`, and tell `containers` what becomes of them.
    pub fn new(client: Client, containers: Arc<Containers>) -> Arc<Self> {
        let first = u32::from(Ipv4Addr::new(198, 18, 0, 1));
        Arc::new(Self {
            client,
            containers,
            addresses: Mutex::new((first..first + ADDRESSES).map(Ipv4Addr::from).collect()),
            bound: AtomicUsize::new(0),
        })
    }

    /// Says that there are nodes: controllers look them up.
    pub async fn register(&self) -> kube::Result<()> {
        for number in 0..NODES {
            let ready = [condition("Ready", true)];
            let node = json!({ "metadata": { "name": name_of(number) }, "status": { "conditions": ready } });
            let node: Node = serde_json::from_value(node).expect("a Node");
            Api::all(self.client.clone())
                .create(&PostParams::default(), &node)
                .await?;
        }
        Ok(())
    }

    /// Does their work.
    pub async fn run(self: Arc<Self>) {
        let ours = watcher::Config::default().labels("app.kubernetes.io/name=sipcluster");
        let mut events = pin!(watcher(Api::<Pod>::all(self.client.clone()), ours).default_backoff());
        let mut pods: HashMap<String, Arc<Notify>> = HashMap::new();
        while let Some(event) = events.next().await {
            match event {
                Ok(Event::Apply(pod) | Event::InitApply(pod)) => {
                    let is_leaving = pod.metadata.deletion_timestamp.is_some();
                    let uid = pod.uid().unwrap_or_default();
                    let leave = pods.entry(uid).or_insert_with(|| {
                        let life = self.life(pod);
                        let leave = life.leave.clone();
                        tokio::spawn(life.live());
                        leave
                    });
                    if is_leaving {
                        leave.notify_one();
                    }
                }
                Ok(Event::Delete(pod)) => drop(pods.remove(&pod.uid().unwrap_or_default())),
                Ok(Event::Init | Event::InitDone) => {}
                Err(error) => eprintln!("pods are not seen: {error}"),
            }
        }
    }

    fn life(self: &Arc<Self>, pod: Pod) -> Life {
        let free = self
            .addresses
            .lock()
            .expect("nobody panics with it in hand")
            .pop_front();
        Life {
            kubelets: self.clone(),
            api: Api::namespaced(self.client.clone(), &pod.namespace().unwrap_or_default()),
            pod,
            address: free.expect("more addresses than pods"),
            leave: Arc::default(),
        }
    }
}

impl Life {
    async fn live(self) {
        let is_there = tokio::select! {
            begun = self.begin() => begun && {
                self.leave.notified().await;
                true
            },
            () = self.leave.notified() => true,
        };
        if is_there {
            self.end().await;
        }
        let Kubelets {
            containers, addresses, ..
        } = &*self.kubelets;
        containers.end(self.address);
        let mut addresses = addresses.lock().expect("nobody panics with it in hand");
        addresses.push_back(self.address);
    }

    /// From the scheduler until it is ready; whether the pod is still there.
    async fn begin(&self) -> bool {
        let containers = &self.kubelets.containers;
        let creating = json!({ "waiting": { "reason": "ContainerCreating" } });
        if !self.bind().await || !self.status(&creating, false).await {
            return false;
        }
        sleep(STARTS).await;
        let label = |key: &str| self.pod.labels().get(key).cloned().unwrap_or_default();
        let is_container = label("app.kubernetes.io/component") == "container";
        if is_container {
            let cluster = format!(
                "{}/{}",
                self.pod.namespace().unwrap_or_default(),
                label("app.kubernetes.io/instance")
            );
            containers.join(self.address, cluster, self.pod.name_any());
        }
        let running = json!({ "running": { "startedAt": now() } });
        if !self.status(&running, false).await {
            return false;
        }
        sleep(JOINS).await;
        containers.activate(self.address);
        self.status(&running, true).await
    }

    /// From the signal until it is gone.
    async fn end(&self) {
        let containers = &self.kubelets.containers;
        containers.quiesce(self.address);
        sleep(LEAVES).await;
        containers.end(self.address);
        let ended = json!({ "terminated": { "exitCode": 0, "finishedAt": now() } });
        if self.status(&ended, false).await {
            let confirmed = DeleteParams {
                preconditions: Some(Preconditions {
                    uid: self.pod.uid(),
                    resource_version: None,
                }),
                ..DeleteParams::default().grace_period(0)
            };
            let name = self.pod.name_any();
            insist(|| self.api.delete(&name, &confirmed)).await;
        }
    }

    async fn bind(&self) -> bool {
        let node = name_of(self.kubelets.bound.fetch_add(1, Ordering::Relaxed) % NODES);
        let name = self.pod.name_any();
        let binding = json!({
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": { "name": name, "uid": self.pod.uid() },
            "target": { "apiVersion": "v1", "kind": "Node", "name": node },
        });
        let parameters = PostParams::default();
        let bind = || {
            self.api
                .create_subresource::<_, Status>("binding", &name, &parameters, &binding)
        };
        insist(bind).await
    }

    /// Writes the status of a pod whose process is in this state; whether the pod is still there.
    async fn status(&self, state: &Value, is_ready: bool) -> bool {
        let is_running = state["running"].is_object();
        let phase = match (is_running, state["terminated"].is_object()) {
            (true, _) => "Running",
            (_, true) => "Succeeded",
            _ => "Pending",
        };
        let process = self.pod.spec.as_ref().map(|spec| &spec.containers[0]);
        // Not of its successor of the same name.
        let status = json!({ "metadata": { "uid": self.pod.uid() }, "status": {
            "phase": phase,
            "startTime": self.pod.creation_timestamp(),
            "podIP": (phase != "Pending").then_some(self.address),
            "podIPs": if phase == "Pending" { json!([]) } else { json!([{ "ip": self.address }]) },
            "conditions": [
                condition("PodScheduled", true),
                condition("PodReadyToStartContainers", is_running),
                condition("Initialized", true),
                condition("ContainersReady", is_ready),
                condition("Ready", is_ready),
            ],
            "containerStatuses": [{
                "name": process.map(|process| &process.name),
                "image": process.and_then(|process| process.image.as_ref()),
                "imageID": "",
                "restartCount": 0,
                "started": is_running,
                "ready": is_ready,
                "state": state,
            }],
        } });
        let (name, parameters, status) = (self.pod.name_any(), PatchParams::default(), Patch::Merge(status));
        insist(|| self.api.patch_status(&name, &parameters, &status)).await
    }
}

/// Asks until it is done; whether what it is about is still there.
async fn insist<T, F: Future<Output = kube::Result<T>>>(ask: impl Fn() -> F) -> bool {
    loop {
        match ask().await {
            Ok(_) => return true,
            Err(Error::Api(status)) if matches!(status.code, 404 | 409) => return false,
            Err(error) => eprintln!("a kubelet: {error}"),
        }
        sleep(AGAIN).await;
    }
}

fn name_of(node: usize) -> String {
    format!("node{node}")
}

fn now() -> Time {
    Time(Timestamp::now())
}

fn condition(kind: &str, holds: bool) -> Value {
    json!({ "type": kind, "status": if holds { "True" } else { "False" }, "lastTransitionTime": now() })
}

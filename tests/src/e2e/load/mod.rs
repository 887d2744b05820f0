//! What many SipClusters ask of an API server: requests a second, at rest and in a rollout.
//!
//! - the API server, etcd, the controllers and the operator are real, by `tests/e2e/cluster`, which has no nodes here;
//! - [`kubelets`] stands in for a scheduler and kubelets;
//! - [`containers`] is what the operator hears from the containers;
//! - [`audit`] counts who asked for what;
//! - [`page`] shows it.

mod audit;
mod containers;
mod kubelets;
mod page;

use std::net::Ipv4Addr;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::thread::sleep;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use crds::SipCluster;
use futures_util::StreamExt as _;
use futures_util::future::join_all;
use k8s_openapi::api::core::v1::Namespace;
use kube::api::{Api, Patch, PatchParams, PostParams};
use kube::config::{Config, KubeConfigOptions, Kubeconfig};
use kube::runtime::WatchStreamExt as _;
use kube::runtime::reflector::{self, Store};
use kube::runtime::watcher::{self, watcher};
use kube::{Client, ResourceExt as _};
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::sync::oneshot;

use self::audit::Requests;
use self::containers::{Containers, OPERATOR};
use self::kubelets::Kubelets;
use self::page::{Measured, Size, Used};
use super::kubernetes::{CONTROL_PLANE, Kubernetes};
use crate::interop::http;
use crate::interop::network::{Namespace as Node, ip};
use crate::interop::process::{Process, binaries, cpu_time, lives, resident, source_root, wait_every};

const USAGE: &str =
    "apiload [CLUSTERS [CONTAINERS]]: 100 and 10 if they are not named; then docs/api-load.md is written";

/// Whose figures are kept.
const WHOLE: Size = Size {
    clusters: 100,
    containers: 10,
};

/// SipClusters of one namespace. They are made together and rolled out together, the next ones once these are Ready: the API server and the controllers
/// share their processors with the operator, which has to renew its Lease meanwhile.
const TOGETHER: usize = 10;

/// How long it is looked at what rests.
const REST: Duration = Duration::from_secs(60);

/// After what was changed, until everybody has done what he does about it.
const SETTLE: Duration = Duration::from_secs(20);

/// How often SipClusters are looked at, in memory.
const LOOK: Duration = Duration::from_millis(100);

/// No rollout is begun after so long.
const ENOUGH: Duration = Duration::from_secs(240);

/// What those of a namespace have to be Ready in.
const LIMIT: Duration = Duration::from_secs(300);

/// The command line.
///
/// # Errors
/// Something does not come up, or does not become what it should.
pub fn main(arguments: &[String]) -> anyhow::Result<()> {
    let numbers: Result<Vec<usize>, _> = arguments.iter().map(|argument| argument.parse()).collect();
    let size = match numbers.context(USAGE)?[..] {
        [] => WHOLE,
        [clusters] => Size { clusters, ..WHOLE },
        [clusters, containers] => Size { clusters, containers },
        _ => anyhow::bail!(USAGE),
    };
    let load = Load::up(size)?;
    let (made, measured) = load.run().with_context(|| load.explain())?;
    let page = page::page(size, &load.version()?, made, &measured);
    println!("{page}");
    if (size.clusters, size.containers) == (WHOLE.clusters, WHOLE.containers) {
        let file = source_root().join("docs/api-load.md");
        std::fs::write(&file, page).with_context(|| file.display().to_string())?;
    }
    Ok(())
}

/// All that runs. What asks the API server ends before it.
struct Load {
    size: Size,
    operator: Process,
    /// Dropped, it ends the stand-in.
    _kubelets: oneshot::Sender<()>,
    containers: Arc<Containers>,
    clusters: Store<SipCluster>,
    runtime: Runtime,
    client: Client,
    kubernetes: Kubernetes,
}

impl Load {
    /// The calling thread is in the network of the API server from then on.
    fn up(size: Size) -> anyhow::Result<Self> {
        let scratch = std::env::temp_dir().join(format!("sipcluster-apiload-{}", std::process::id()));
        std::fs::create_dir_all(&scratch)?;
        let kubernetes = Kubernetes::without_nodes()?;
        let master = Node {
            name: CONTROL_PLANE.into(),
            address: Ipv4Addr::LOCALHOST,
        };
        master.enter()?;
        // Every pod's address is here.
        ip(&["route", "add", "local", "198.18.0.0/20", "dev", "lo"])?;
        let containers = Containers::serve()?;
        let kubelets = ["create", "serviceaccount", "kubelets", "-n", "kube-system"];
        kubernetes.kubectl(&kubelets)?;
        let may = "clusterrolebinding kubelets --clusterrole=cluster-admin --serviceaccount=kube-system:kubelets";
        kubernetes.kubectl(&["create"].into_iter().chain(may.split(' ')).collect::<Vec<_>>())?;
        kubernetes.install(&[])?;
        let [theirs, operators] = ["kubelets", "operator"].map(|name| scratch.join(name).with_extension("kubeconfig"));
        kubernetes.kubeconfig("kube-system", "kubelets", &theirs)?;
        kubernetes.kubeconfig("sipcluster", "sipcluster-operator", &operators)?;
        let runtime = Builder::new_current_thread().enable_all().build()?;
        let client = runtime.block_on(client(&kubernetes.admin()))?;
        let (kubelets, clusters) = stand_in(theirs, containers.clone())?;
        let mut operator = Command::new(binaries()?.join("sipcluster-operator"));
        operator
            .env("KUBECONFIG", operators)
            .env("POD_NAMESPACE", "sipcluster")
            .arg(format!("--admin={OPERATOR}"))
            .args(["--container=c:1", "--proxy=p:1", "--redis=r:1"]);
        Ok(Self {
            size,
            operator: Process::start(&mut operator, &scratch.join("operator.log"))?,
            _kubelets: kubelets,
            containers,
            clusters,
            runtime,
            client,
            kubernetes,
        })
    }

    /// How long it took until all were made, and what was measured.
    fn run(&self) -> anyhow::Result<(Duration, Vec<Measured>)> {
        let begun = Instant::now();
        for numbers in self.namespaces() {
            self.runtime.block_on(self.make(numbers.clone()))?;
            self.ready(1, numbers.end)?;
        }
        let made = begun.elapsed();
        sleep(SETTLE);
        let rest = || {
            sleep(REST);
            Ok(0)
        };
        let still = self.measured("at rest", rest)?;
        self.containers.is_busy.store(true, Ordering::Relaxed);
        sleep(SETTLE);
        let busy = self.measured("at rest, calls come and go", rest)?;
        let rollout = self.measured("rollout, calls come and go", || self.roll_out())?;
        Ok((made, vec![still, busy, rollout]))
    }

    /// The SipClusters of each, by number.
    fn namespaces(&self) -> impl Iterator<Item = Range<usize>> {
        let all = self.size.clusters;
        let firsts = (0..all).step_by(TOGETHER);
        firsts.map(move |first| first..(first + TOGETHER).min(all))
    }

    /// Makes a namespace and what is in it.
    async fn make(&self, numbers: Range<usize>) -> kube::Result<()> {
        let mut object = Namespace::default();
        object.metadata.name = Some(namespace_of(numbers.start));
        Api::all(self.client.clone())
            .create(&PostParams::default(), &object)
            .await?;
        for number in numbers {
            let cluster = json!({
                "apiVersion": "sipcluster.dev/v1alpha1",
                "kind": "SipCluster",
                "metadata": { "name": name_of(number) },
                "spec": {
                    "replicas": self.size.containers,
                    "application": { "answer": {} },
                    "dispatcher": { "service": { "type": "ClusterIP" } },
                    "redis": { "external": { "url": "redis://198.18.254.1:6379" } },
                },
            });
            let cluster: SipCluster = serde_json::from_value(cluster).expect("a SipCluster");
            self.api(number).create(&PostParams::default(), &cluster).await?;
        }
        Ok(())
    }

    /// Rolls out one namespace after the other, as long as there is time; how many SipClusters that were.
    fn roll_out(&self) -> anyhow::Result<usize> {
        let begun = Instant::now();
        let mut over = 0;
        for numbers in self.namespaces().take_while(|_| begun.elapsed() < ENOUGH) {
            over = numbers.end;
            self.runtime.block_on(self.change(numbers))?;
            self.ready(2, over)?;
        }
        Ok(over)
    }

    /// Changes a field for which every container has to be replaced.
    async fn change(&self, numbers: Range<usize>) -> kube::Result<()> {
        let resources = json!({ "requests": { "memory": "64Mi" } });
        let change = Patch::Merge(json!({ "spec": { "containers": { "resources": resources } } }));
        let changes = numbers.map(|number| {
            let (api, change) = (self.api(number), &change);
            async move {
                api.patch(&name_of(number), &PatchParams::default(), change)
                    .await
                    .map(drop)
            }
        });
        join_all(changes).await.into_iter().collect()
    }

    fn api(&self, number: usize) -> Api<SipCluster> {
        Api::namespaced(self.client.clone(), &namespace_of(number))
    }

    /// Waits until so many SipClusters are of this generation, and all that it wants works.
    fn ready(&self, generation: i64, wanted: usize) -> anyhow::Result<()> {
        let is_ready = |cluster: &Arc<SipCluster>| {
            cluster.status.as_ref().is_some_and(|status| {
                let mut conditions = status.conditions.iter();
                status.observed_generation == Some(generation)
                    && status.ready_replicas as usize == self.size.containers
                    && conditions.any(|condition| condition.type_ == "Ready" && condition.status == "True")
            })
        };
        let what = format!("{wanted} SipClusters of generation {generation} are Ready");
        let over = wait_every(LOOK, &what, LIMIT, || {
            let ready = self.clusters.state().iter().filter(|cluster| is_ready(cluster)).count();
            let is_alone = !lives(self.operator.pid());
            (ready == wanted || is_alone).then_some(is_alone)
        });
        ensure!(!over?, "the operator has ended");
        Ok(())
    }

    /// What is asked meanwhile; `act` tells how many SipClusters it has rolled out.
    fn measured(&self, title: &'static str, act: impl FnOnce() -> anyhow::Result<usize>) -> anyhow::Result<Measured> {
        let processes = [
            ("operator", self.operator.pid()),
            ("API server", self.kubernetes.pid("apiserver")?),
            ("etcd", self.kubernetes.pid("etcd")?),
            ("controller manager", self.kubernetes.pid("controllers")?),
            ("stand-in and this measurement", std::process::id()),
        ];
        let log = self.kubernetes.audit_log();
        let counts = || anyhow::Ok((self.counted()?, looks()?, self.containers.asked() as f64));
        let before = counts()?;
        let (from, cpu) = (audit::length(&log)?, processes.map(|(_, pid)| cpu_time(pid)));
        let begun = Instant::now();
        let rolled_out = act()?;
        let took = begun.elapsed();
        let used = processes.iter().zip(cpu).map(|(&(name, pid), before)| Used {
            name,
            cpu: cpu_time(pid).saturating_sub(before),
            resident: resident(pid),
        });
        let used = used.collect();
        let requests = Requests::read(&log, from, audit::length(&log)?)?;
        let after = counts()?;
        Ok(Measured {
            title,
            took,
            rolled_out,
            requests,
            counted: after.0 - before.0,
            looks: after.1 - before.1,
            asked: after.2 - before.2,
            used,
        })
    }

    /// Requests by the API server's own count.
    fn counted(&self) -> anyhow::Result<f64> {
        let metrics = self.kubernetes.kubectl(&["get", "--raw", "/metrics"])?;
        http::metric(&metrics, "apiserver_request_total").context("the API server counts its requests")
    }

    fn version(&self) -> anyhow::Result<String> {
        Ok(self.runtime.block_on(self.client.apiserver_version())?.git_version)
    }

    /// What explains a failure, on one screen.
    fn explain(&self) -> String {
        let clusters = self.clusters.state();
        let unready = clusters.iter().filter_map(|cluster| {
            let mut conditions = cluster.status.as_ref()?.conditions.iter();
            let ready = conditions.find(|condition| condition.type_ == "Ready")?;
            (ready.status != "True").then(|| format!("{}: {}\n", cluster.name_any(), ready.message))
        });
        let unready: Vec<_> = unready.collect();
        format!(
            "{} SipClusters, of which {} are not Ready:\n{}{}",
            clusters.len(),
            unready.len(),
            unready[..unready.len().min(10)].concat(),
            self.operator.log_tail()
        )
    }
}

/// Looks of the operator at a SipCluster so far.
fn looks() -> anyhow::Result<f64> {
    let metrics = http::get(OPERATOR, "/metrics")?;
    Ok(http::metric(&metrics, "sipcluster_operator_reconciliations_total").unwrap_or(0.0))
}

/// Starts the stand-in for scheduler and kubelets, and a view of all SipClusters.
fn stand_in(
    kubeconfig: PathBuf,
    containers: Arc<Containers>,
) -> anyhow::Result<(oneshot::Sender<()>, Store<SipCluster>)> {
    let (store, writer) = reflector::store();
    let (end, ended) = oneshot::channel();
    let runtime = Builder::new_current_thread().enable_all().build()?;
    let client = runtime.block_on(client(&kubeconfig))?;
    let kubelets = Kubelets::new(client.clone(), containers);
    runtime.block_on(kubelets.register())?;
    let clusters = watcher(Api::all(client), watcher::Config::default())
        .default_backoff()
        .reflect(writer)
        .for_each(|_| async {});
    std::thread::spawn(move || {
        runtime.block_on(async {
            tokio::select! {
                () = kubelets.run() => {}
                () = clusters => {}
                _ = ended => {}
            }
        });
    });
    Ok((end, store))
}

async fn client(kubeconfig: &Path) -> anyhow::Result<Client> {
    let config = Kubeconfig::read_from(kubeconfig)?;
    let config = Config::from_custom_kubeconfig(config, &KubeConfigOptions::default()).await?;
    Ok(Client::try_from(config)?)
}

fn namespace_of(number: usize) -> String {
    format!("load-{}", number / TOGETHER)
}

fn name_of(number: usize) -> String {
    format!("sip-{number}")
}

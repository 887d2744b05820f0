//! One SipCluster, from its manifest to its pods.

pub mod apply;
pub mod build;
pub mod dereference;
pub mod keys;
pub mod names;
pub mod observe;
pub mod passwords;
pub mod paused;
pub mod plan;
pub mod pods;
pub mod redis;
pub mod status;
pub mod unmade;
pub mod validate;
pub mod watched;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crds::SipCluster;
use futures_util::StreamExt as _;
use k8s_openapi::jiff::Timestamp;
use kube::runtime::controller::{self, Action, Controller};
use kube::runtime::events::{Recorder, Reporter};
use kube::runtime::reflector::Store;
use kube::runtime::watcher;
use kube::{Client, ResourceExt as _};
use tracing::{info, warn};

use crate::config::{Config, Images};
use crate::metrics::Metrics;
use apply::{Applied, Applier};
use names::{MANAGER, Names};
use paused::Unpaused;
use unmade::Unmade;
use watched::Watched;

/// A pause after something went wrong outside.
const AFTER_AN_ERROR: Duration = Duration::from_secs(2);

/// A manifest that is wrong is read again when it changes; and now and then, since a rule may hang on more than it.
const REFUSED: Duration = Duration::from_secs(60);

/// What all reconciliations share.
pub struct Context {
    client: Client,
    images: Images,
    clusters: Store<SipCluster>,
    watched: Watched,
    applied: Applied,
    recorder: Recorder,
    metrics: Metrics,
    written: status::Written,
    unmade: Unmade,
    unpaused: Unpaused,
}

/// Why a reconciliation did not come to its end.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A child could not be applied.
    #[error(transparent)]
    Apply(#[from] apply::Error),
    /// What is there is not known.
    #[error("the containers' StatefulSet: {0}")]
    Find(#[source] Box<kube::Error>),
    /// The status could not be written.
    #[error("the status: {0}")]
    Status(#[source] Box<kube::Error>),
}

/// Reconciles until the process is told to end.
pub async fn run(client: Client, config: &Config, metrics: Metrics) {
    let controller = Controller::new(config.scope.clusters(client.clone()), watcher::Config::default());
    let clusters = controller.store();
    metrics.leads(clusters.clone());
    let (watched, controller) = Watched::start(&client, config.scope.namespace(), controller);
    let reporter = Reporter {
        controller: MANAGER.into(),
        instance: Some(config.name.clone()),
    };
    let context = Arc::new(Context {
        recorder: Recorder::new(client.clone(), reporter),
        images: config.images.clone(),
        applied: Applied::default(),
        written: status::Written::default(),
        unmade: Unmade::default(),
        unpaused: Unpaused::default(),
        metrics,
        clusters,
        watched,
        client,
    });
    let done = controller
        .shutdown_on_signal()
        .run(reconcile, after_an_error, context.clone());
    done.for_each(|result| {
        if let Err(error) = result {
            // A child of one that is gone has gone as well.
            if let controller::Error::ObjectNotFound(_) = error {
                context.forget_the_gone();
            }
            tracing::debug!(%error, "a reconciliation has failed");
        }
        std::future::ready(())
    })
    .await;
}

impl Context {
    fn forget_the_gone(&self) {
        let uids: BTreeSet<_> = self
            .clusters
            .state()
            .iter()
            .filter_map(|cluster| cluster.uid())
            .collect();
        self.applied.keep(&uids);
        self.written.keep(&uids);
        self.unpaused.keep(&uids);
    }
}

/// One reconciliation.
async fn reconcile(cluster: Arc<SipCluster>, context: Arc<Context>) -> Result<Action, Error> {
    context.watched.filled().await;
    let begun = Instant::now();
    let result = steps(&cluster, &context).await;
    context.metrics.reconciled(begun.elapsed(), result.is_ok());
    result
}

/// Its steps.
async fn steps(cluster: &SipCluster, context: &Context) -> Result<Action, Error> {
    if cluster.metadata.deletion_timestamp.is_some() {
        return Ok(Action::await_change());
    }
    let names = Names {
        cluster: cluster.name_any(),
        namespace: cluster.namespace().unwrap_or_default(),
    };
    let writer = status::Writer {
        client: &context.client,
        recorder: &context.recorder,
        written: &context.written,
    };
    let uid = cluster.uid().unwrap_or_default();
    let mut found = dereference::dereference(&names, &uid, &context.watched);
    let completed = dereference::complete(&context.client, &names, &uid, &mut found).await;
    completed.map_err(|error| Error::Find(Box::new(error)))?;
    let valid = match validate::validate(cluster, &found, &context.images) {
        Ok(valid) => valid,
        Err(problems) => {
            let status = status::refused(Timestamp::now(), cluster, &problems);
            let wrong: Vec<_> = problems.iter().map(ToString::to_string).collect();
            writer.complain(cluster, "Invalid", &wrong.join("; ")).await;
            writer
                .write(cluster, status)
                .await
                .map_err(|error| Error::Status(Box::new(error)))?;
            return Ok(Action::requeue(REFUSED));
        }
    };
    context.unpaused.begin(cluster);
    let before = context.unpaused.before(cluster);
    let before = before.and_then(|before| validate::validate(&before, &found, &context.images).ok());
    // What a paused manifest says is not carried out, but what it said before.
    let carried_out = match valid.spec.paused {
        true => before.as_ref(),
        false => Some(&valid),
    };
    let made = |kind: &str, name: &str| context.applied.made(&uid, kind, name);
    let sets = |name: &str| made("StatefulSet", name);
    let observation = observe::observe(&context.client, &valid, &found, &context.unmade, sets).await;
    let now = Timestamp::now();
    let decision = plan::decide(now, carried_out.unwrap_or(&valid), &found, &observation);
    context.metrics.stepped(decision.steps.len());
    for step in &decision.steps {
        info!(cluster = names.cluster, namespace = names.namespace, "{step}");
    }
    let applier = Applier {
        client: &context.client,
        watched: &context.watched,
        applied: &context.applied,
        valid: &valid,
    };
    let mut applied = Ok(());
    if let Some(valid) = carried_out {
        let children = build::build(valid, &decision);
        let is_all = children.workload.is_some();
        applied = applier.children(children).await;
        if applied.is_ok() && is_all {
            context.unpaused.done(cluster);
        }
    }
    if applied.is_ok() {
        applied = applier.leave(&decision).await;
    }
    // Whatever has been refused: nobody waits for a lost node.
    applied = applied.and(applier.bury(&decision).await);
    let failure = applied.as_ref().err().map(ToString::to_string);
    match &failure {
        Some(failure) => writer.complain(cluster, "Failed", failure).await,
        None => writer.say(cluster, &decision).await,
    }
    let observation = observation.after(&found, &names, made);
    let status = status::status(now, cluster, &valid, &observation, &decision, failure.as_deref());
    writer
        .write(cluster, status)
        .await
        .map_err(|error| Error::Status(Box::new(error)))?;
    applied?;
    Ok(Action::requeue(decision.again))
}

fn after_an_error(cluster: Arc<SipCluster>, error: &Error, _: Arc<Context>) -> Action {
    warn!(cluster = cluster.name_any(), namespace = cluster.namespace(), "{error}");
    Action::requeue(AFTER_AN_ERROR)
}

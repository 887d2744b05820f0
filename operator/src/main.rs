//! The operator process: reads its configuration, waits to lead, reconciles, ends; or checks that SipClusters answer.

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use admin::{Pages, Server};
use anyhow::Context as _;
use kube::Client;
use operator::config::{Config, Task};
use operator::leader::Leadership;
use operator::metrics::Metrics;
use operator::sip_cluster;
use tokio::runtime::Builder;
use tokio::signal::unix::{SignalKind, signal};
use tracing::{error, info};

fn main() -> ExitCode {
    let task = Task::from_process();
    if let Task::Operate(config) = &task {
        admin::logging::init(config.log_format);
    }
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    let config = match task {
        Task::Operate(config) => config,
        Task::Check(check) => return runtime.block_on(check.run()),
    };
    match runtime.block_on(run(&config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn run(config: &Config) -> anyhow::Result<()> {
    let server = Server::bind(config.admin)
        .await
        .with_context(|| format!("cannot bind the admin address {}", config.admin))?;
    let leads = Arc::new(AtomicBool::new(false));
    let metrics = Metrics::default();
    tokio::spawn(server.run(pages(config, leads.clone(), &metrics)));
    let client = Client::try_default()
        .await
        .context("no way to the API server; run in a pod, or with KUBECONFIG")?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut leadership = Leadership::new(client.clone(), &config.namespace, &config.name);
    tokio::select! {
        () = leadership.acquire() => {}
        _ = terminate.recv() => return Ok(()),
    }
    leads.store(true, Ordering::Relaxed);
    tokio::select! {
        () = sip_cluster::run(client, config, metrics) => {}
        _ = terminate.recv() => {}
        () = leadership.hold() => anyhow::bail!("the Lease is lost: another replica may lead"),
    }
    leadership.release().await;
    info!("ended");
    Ok(())
}

fn pages(config: &Config, leads: Arc<AtomicBool>, metrics: &Metrics) -> Pages {
    let name = config.name.clone();
    Pages {
        metrics: metrics.registry(),
        // One that waits to lead is as ready as one that leads.
        ready: Box::new(|| Ok(())),
        state: Box::new(move || serde_json::json!({ "name": name, "leads": leads.load(Ordering::Relaxed) })),
        digests: None,
    }
}

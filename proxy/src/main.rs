//! The proxy process: reads its configuration, starts the workers, waits, drains.

mod clients;
mod config;
mod endpoints;
mod links;
mod mailbox;
mod metrics;
mod peers;
mod snapshot;
mod worker;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use admin::prometheus::registry::Registry;
use admin::{Pages, Server};
use anyhow::{Context, bail};
use serde_json::json;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tracing::{error, info, warn};
use ucf::ProxyId;
use ucf::token::Keyring;

use config::Config;
use metrics::Snapshots;
use worker::{Parts, Phase, Sockets};

/// How long a proxy that is told to end goes on at least: what is sent to it by those who have not heard of it yet is still served.
const SERVE_ON: Duration = Duration::from_millis(500);

/// How often a draining proxy looks whether it is done.
const LOOK: Duration = Duration::from_millis(50);

fn main() -> ExitCode {
    let config = Config::from_process();
    admin::logging::init(config.log_format);
    end_on_panic();
    let runtime = match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// A panic ends the process. Were only its task to end, a worker would live on deaf to a socket; started anew, a proxy misses nothing
/// that its containers and clients do not repeat.
fn end_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::abort();
    }));
}

async fn run(config: Config) -> anyhow::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let server = match config.admin {
        Some(address) => Some(
            Server::bind(address)
                .await
                .with_context(|| format!("cannot bind the admin address {address}"))?,
        ),
        None => None,
    };
    let snapshots = Snapshots::new(config.workers);
    let (phase, phases) = watch::channel(Phase::Serving);
    let (list, lists) = watch::channel(config.endpoints.clone());
    let (workers, mut ended) = start_workers(&config, &snapshots, &phases, &lists)?;
    if let Some(server) = server {
        info!(address = %server.local_addr(), "admin pages");
        let pages = pages(&config, snapshots.clone(), phases);
        tokio::spawn(async move {
            if let Err(error) = server.run(pages).await {
                error!(%error, "the admin pages have ended");
            }
        });
    }
    tokio::spawn(endpoints::follow(config.source.clone(), list));
    for binding in &config.bindings {
        info!(address = %binding.address, udp = binding.udp, tcp = binding.tcp, workers = config.workers, "listening");
    }

    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        _ = ended.recv() => bail!("a worker has ended by itself"),
    }
    info!(drain = ?config.drain, "told to end: no new connections, those at rest are closed");
    phase.send_replace(Phase::Draining);
    tokio::select! {
        () = drained(&config, &snapshots) => {}
        // Told twice: now.
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    phase.send_replace(Phase::Leaving);
    for worker in workers {
        let _ = worker.join();
    }
    info!("ended");
    Ok(())
}

/// Until no client connection is left, or the time for it is over.
async fn drained(config: &Config, snapshots: &Snapshots) {
    let begun = std::time::Instant::now();
    loop {
        tokio::time::sleep(LOOK.min(config.drain)).await;
        let left = snapshots.clients();
        if begun.elapsed() >= config.drain {
            if left > 0 {
                warn!(
                    connections = left,
                    "not all client connections came to rest: closing them all the same"
                );
            }
            return;
        }
        if left == 0 && begun.elapsed() >= SERVE_ON {
            return;
        }
    }
}

type Workers = (Vec<JoinHandle<()>>, mpsc::Receiver<()>);

/// Starts all workers; an error is that of binding an address. The receiver hears when a worker ends.
fn start_workers(
    config: &Config,
    snapshots: &Snapshots,
    phases: &watch::Receiver<Phase>,
    lists: &watch::Receiver<Vec<endpoints::Endpoint>>,
) -> anyhow::Result<Workers> {
    let keyring = Keyring::new(config.key, &config.other_keys, config.partitions);
    let keyring = Arc::new(keyring.hashing_transactions_with(config.transaction_key));
    let incarnation = random()?;
    let (ending, ended) = mpsc::channel(1);
    let (bound, all_bound) = std::sync::mpsc::channel();
    let mut workers = Vec::new();
    let epoch = std::time::Instant::now();
    let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    for (index, (inbox, outboxes)) in (0u16..).zip(mailbox::connect(config.workers)) {
        let me = ProxyId {
            incarnation,
            worker: index,
        };
        let entropy = random()?;
        let parts = Parts {
            forwarder: config.forwarder(me, keyring.clone(), entropy, started),
            name: config.name.clone(),
            bindings: config.bindings.clone(),
            ucf: config.ucf,
            inbox,
            outboxes,
            endpoints: lists.clone(),
            snapshot: snapshots.0[usize::from(index)].clone(),
            epoch,
        };
        let (phases, bound, ending) = (phases.clone(), bound.clone(), ending.clone());
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        let work = move || {
            run_worker(parts, phases, &bound);
            let _ = ending.try_send(());
        };
        workers.push(thread.spawn(work).context("cannot start a worker thread")?);
    }
    for _ in &workers {
        all_bound.recv().context("a worker ended before it was ready")??;
    }
    Ok((workers, ended))
}

/// Never 0, which stands for nobody.
fn random() -> anyhow::Result<u64> {
    let number = getrandom::u64().map_err(|error| anyhow::anyhow!("no random numbers from the system: {error}"))?;
    Ok(number.max(1))
}

/// The life of a worker's thread.
fn run_worker(parts: Parts, phases: watch::Receiver<Phase>, bound: &std::sync::mpsc::Sender<anyhow::Result<()>>) {
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            let _ = bound.send(Err(error).context("cannot start a worker"));
            return;
        }
    };
    runtime.block_on(async {
        match Sockets::bind(&parts.bindings, parts.ucf) {
            Ok(sockets) => {
                let _ = bound.send(Ok(()));
                worker::run(parts, sockets, phases).await;
            }
            Err(error) => {
                let remedy =
                    "--listen and --ucf must give an address of this machine and a port that no other program has";
                let _ = bound.send(Err(anyhow::anyhow!("{error}; {remedy}")));
            }
        }
    });
}

fn pages(config: &Config, snapshots: Snapshots, phases: watch::Receiver<Phase>) -> Pages {
    let mut metrics = Registry::with_prefix("sipcluster_proxy");
    metrics.register_collector(Box::new(snapshots.clone()));
    let (name, cluster) = (config.name.clone(), config.cluster.clone());
    let serving = phases.clone();
    let reached = AtomicBool::new(false);
    let state = move || {
        // Containers that fail later are not this proxy's state.
        if !reached.load(Ordering::Relaxed) && snapshots.reaches_containers() {
            reached.store(true, Ordering::Relaxed);
        }
        let word = match *phases.borrow() {
            Phase::Serving if reached.load(Ordering::Relaxed) => "Active",
            Phase::Serving => "Joining",
            Phase::Draining | Phase::Leaving => "Stopping",
        };
        let mut state = snapshots.state();
        state["name"] = json!(name);
        state["cluster"] = json!(cluster);
        state["pid"] = json!(std::process::id());
        state["state"] = json!(word);
        state
    };
    Pages {
        metrics,
        // Depends on nothing outside: containers that are away are no reason to send clients elsewhere.
        ready: Box::new(move || match *serving.borrow() {
            // While it drains it serves: were it not ready, Kubernetes would forget the flows of datagrams that it still carries.
            Phase::Serving | Phase::Draining => Ok(()),
            Phase::Leaving => Err("leaving".into()),
        }),
        state: Box::new(state),
        digests: None,
    }
}

//! The process around the engines: threads, sockets, the member, the admin pages.

mod asker;
mod config;
mod control;
mod cpu;
mod histogram;
mod links;
mod mail;
mod metrics;
mod sip_link;
mod start;
mod stats;
mod store_task;
mod worker;

use std::cell::Cell;
use std::rc::Rc;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::engine::{Engine, Holdings, Settings};
use crate::store::Store;
use anyhow::{Context, anyhow, bail};
use sip::Instant;
use tokio::runtime::{Builder, LocalOptions};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;
use tracing::{info, warn};
use transport::tcp::Listener;
use ucf::Incarnation;
use ucf::member::{Config as MemberConfig, Faults, Member, STORE_BUDGET};
use ucf::store::MemberRecord;
use ucf::token::Keyring;
use ucf::wire::MemberState;

use config::Config;
use control::{Control, Ending, Inputs};
use links::Identity;
use mail::{ToControl, ToWorker, Workers};
use metrics::{Events, Pages, Shown};
use stats::Stats;

pub use start::{run, run_built_in};

/// Events of links that may wait for the control task; readers wait when there are more.
const LINK_EVENTS: usize = 1024;

/// Time since the process's start, as the protocol code wants it.
fn since(start: std::time::Instant) -> Instant {
    Instant::from_micros(u64::try_from(start.elapsed().as_micros()).unwrap_or(u64::MAX))
}

/// Never 0, which stands for nobody.
fn random() -> anyhow::Result<u64> {
    let number = getrandom::u64().map_err(|error| anyhow!("no random numbers from the system: {error}"))?;
    Ok(number.max(1))
}

/// The life of the process.
/// How long Redis may take before it counts as lost. Twice as long where a write has to be on two servers: on machines with little to spare a
/// replica is late now and then, and to go on from memory each time, and write everything anew, would make it later still.
fn store_budget(config: &Config) -> Duration {
    if config.redis.awaited_replicas() == 0 {
        STORE_BUDGET
    } else {
        STORE_BUDGET * 2
    }
}

async fn live(config: Config) -> anyhow::Result<()> {
    let start = std::time::Instant::now();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let incarnation = Incarnation(random()?);
    let ucf = Listener::bind(config.ucf, false).context("--ucf: is the address this machine's, and the port free?")?;
    let server = match config.admin {
        Some(address) => Some(
            admin::Server::bind(address)
                .await
                .with_context(|| format!("cannot bind the admin address {address}"))?,
        ),
        None => None,
    };
    let stats: Vec<Arc<Stats>> = (0..config.workers).map(|_| Arc::default()).collect();
    let (told, workers_tell) = mpsc::unbounded_channel();
    let keyring = Arc::new(Keyring::new(config.key, &config.other_keys, config.partitions.into()));
    let (workers, threads, sip) = start_workers(&config, &keyring, incarnation, &stats, &told, start)?;
    let shown = Shown {
        state: MemberState::Joining,
        replicated: false,
        from_memory: false,
        store_trouble: None,
        events: Events::default(),
        takeover: None,
    };
    let shown = Arc::new(Mutex::new(shown));
    if let Some(server) = server {
        let pages = Pages {
            stats: stats.clone(),
            shown: shown.clone(),
            name: config.name.clone(),
            cluster: config.cluster.clone(),
            incarnation: incarnation.to_string(),
            workers: workers.clone(),
        };
        info!(address = %server.local_addr(), "admin pages");
        tokio::task::spawn_local(serve(server, pages));
    }
    let record = MemberRecord {
        incarnation,
        name: config.name.clone(),
        sip: sip.to_string(),
        ucf: ucf.local_addr().to_string(),
        weight: config.weight,
    };
    info!(name = %config.name, %incarnation, %sip, ucf = %record.ucf, workers = config.workers, "container started");
    let member = MemberConfig {
        record,
        partitions: config.partitions,
        lease: config.lease,
        store_budget: store_budget(&config),
        acts_from_memory: true,
        faults: Faults::default(),
    };
    let (asks, asked) = mpsc::unbounded_channel();
    let (store_tells, store) = mpsc::unbounded_channel();
    let redis = Store::new(config.redis.clone(), &config.cluster, store_budget(&config), random()?);
    tokio::task::spawn_local(store_task::run(redis, asked, store_tells, start));
    let (links, link_events) = mpsc::channel(LINK_EVENTS);
    let identity = Identity {
        cluster: config.cluster.clone(),
        name: config.name.clone(),
        incarnation,
        keyring: keyring.clone(),
    };
    let numbers = Rc::new(Cell::new(0));
    tokio::task::spawn_local(links::accept(ucf, identity.clone(), links.clone(), numbers.clone()));
    let (quiesce, quiesced) = mpsc::channel(1);
    let held = stats.clone();
    let control = Control::new(control::Parts {
        member: Member::new(member, since(start)),
        identity,
        workers: workers.clone(),
        stats,
        shown,
        asks,
        start,
        links,
        numbers,
    });
    let inputs = Inputs {
        links: link_events,
        workers: workers_tell,
        store,
        quiesce: quiesced,
    };
    let mut control = tokio::task::spawn_local(control.run(inputs));
    let ending = tokio::select! {
        ending = &mut control => ending?,
        _ = terminate.recv() => drain(&config, &quiesce, &held, &mut control).await?,
        _ = interrupt.recv() => drain(&config, &quiesce, &held, &mut control).await?,
    };
    for worker in workers.iter() {
        let _ = worker.send(ToWorker::Stop);
    }
    for thread in threads {
        let _ = thread.join();
    }
    match ending {
        Ending::Left => {
            info!("ended");
            Ok(())
        }
        Ending::Failed(why) => bail!("{why}"),
    }
}

/// Hands everything over, as long as there is time.
async fn drain(
    config: &Config,
    quiesce: &mpsc::Sender<()>,
    held: &[Arc<Stats>],
    control: &mut tokio::task::JoinHandle<Ending>,
) -> anyhow::Result<Ending> {
    let _ = quiesce.try_send(());
    match tokio::time::timeout(config.quiesce, control).await {
        Ok(ending) => Ok(ending?),
        Err(_) => {
            let mut left = Holdings::default();
            for stats in held {
                left += stats.engine().1;
            }
            let (partitions, dialogs) = (left.partitions, left.dialogs);
            warn!(after = ?config.quiesce, partitions, dialogs, "not everything is handed over: ending all the same, others will claim what is left");
            Ok(Ending::Left)
        }
    }
}

async fn serve(server: admin::Server, pages: Pages) {
    let mut metrics = admin::prometheus::registry::Registry::with_prefix("sipcluster_container");
    metrics.register_collector(Box::new(pages.clone()));
    let (ready, digests) = (pages.clone(), pages.clone());
    let pages = admin::Pages {
        metrics,
        ready: Box::new(move || ready.ready()),
        state: Box::new(move || pages.state()),
        digests: Some(Box::new(move || Box::pin(digests.clone().digests()))),
    };
    if let Err(error) = server.run(pages).await {
        warn!(%error, "the admin pages have ended");
    }
}

type Threads = Vec<std::thread::JoinHandle<()>>;

/// Starts all workers; says where they take SIP.
fn start_workers(
    config: &Config,
    keyring: &Arc<Keyring>,
    member: Incarnation,
    stats: &[Arc<Stats>],
    told: &mpsc::UnboundedSender<ToControl>,
    start: std::time::Instant,
) -> anyhow::Result<(Workers, Threads, std::net::SocketAddr)> {
    let (senders, mailboxes): (Vec<_>, Vec<_>) = (0..config.workers).map(|_| mpsc::unbounded_channel()).unzip();
    let workers: Workers = senders.into();
    let (bound, all_bound) = std::sync::mpsc::channel();
    let mut threads = Vec::new();
    let mut sip = config.sip;
    for (index, mailbox) in mailboxes.into_iter().enumerate() {
        let settings = Settings {
            keyring: keyring.clone(),
            advertised: config.advertised.clone(),
            application: config.application.clone(),
        };
        let parts = worker::Parts {
            index,
            engine: Engine::new(settings, [random()?, random()?]),
            outside: config.application.outside(random()?),
            keyring: keyring.clone(),
            store: Store::new(config.redis.clone(), &config.cluster, store_budget(config), 0),
            member,
            mailbox,
            workers: workers.clone(),
            control: told.clone(),
            stats: stats[index].clone(),
            start,
        };
        let (bound, told) = (bound.clone(), told.clone());
        let thread = std::thread::Builder::new().name(format!("worker-{index}"));
        threads.push(thread.spawn(move || {
            let panicked = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| run_worker(parts, sip, &bound)));
            // A worker that ends leaves its partitions to nobody: the process ends, and others claim them.
            let why = if panicked.is_err() {
                "a worker panicked"
            } else {
                "a worker ended"
            };
            let _ = told.send(ToControl::Failed(why.into()));
        })?);
        // With port 0 the first worker chooses, the others share.
        sip = all_bound
            .recv_timeout(Duration::from_secs(10))
            .context("a worker does not start")??;
    }
    Ok((workers, threads, sip))
}

type Bound = std::sync::mpsc::Sender<anyhow::Result<std::net::SocketAddr>>;

/// The life of a worker's thread.
fn run_worker(parts: worker::Parts, sip: std::net::SocketAddr, bound: &Bound) {
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
        match Listener::bind(sip, true) {
            Ok(listener) => {
                let _ = bound.send(Ok(listener.local_addr()));
                worker::run(parts, listener).await;
            }
            Err(error) => {
                let hint = "--sip: is the address this machine's, and the port free?";
                let _ = bound.send(Err(error).context(hint));
            }
        }
    });
}

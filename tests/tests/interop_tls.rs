//! A Redis that is spoken to over TLS: calls outlive a container, another CA is taken without a restart, and what is wrong is told with its remedy.
//! Real processes, a real redis-server, certificates made by openssl.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::ensure;
use container::store::{Lost, Place, Store};
use tests::interop::caller::{Caller, Transport};
use tests::interop::certificates::{Authority, Certificate};
use tests::interop::cluster::{Cluster, External, Manifest};
use tests::interop::process::{scratch, signal, wait_for};
use tests::interop::redis::{MASTER, Server};

/// Longer than anything takes on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// What is refused is told within four of it.
const BUDGET: Duration = Duration::from_millis(500);

/// Calls and requests a second.
const RATE: u32 = 400;

const PLAIN: u16 = 6379;
const TLS: u16 = 6380;

fn address(last: u8, port: u16) -> SocketAddr {
    (Ipv4Addr::new(127, 0, 89, last), port).into()
}

/// A server with a certificate for its address, of a CA of its own.
fn secured(last: u8, files: &Path) -> anyhow::Result<(Server, Authority)> {
    let authority = Authority::new(&files.join("authority"))?;
    let own = authority.issue(address(last, 0).ip())?;
    let server = Server::start_over_tls(address(last, PLAIN), TLS, &own, &files.join("redis"))?;
    Ok((server, authority))
}

/// It shows another certificate from now on, to who is connected as well: all have to come back.
fn show(server: &Server, own: &Certificate) -> anyhow::Result<()> {
    let (certificate, key) = (own.certificate.to_string_lossy(), own.key.to_string_lossy());
    server.ask(&["CONFIG", "SET", "tls-cert-file", &certificate, "tls-key-file", &key])?;
    server.ask(&["CLIENT", "KILL", "TYPE", "normal"]).map(drop)
}

fn store(url: &str, ca: Option<PathBuf>) -> anyhow::Result<Store> {
    Ok(Store::new(Place::new(url, 0, ca.as_deref())?, "c", BUDGET, 1))
}

async fn refusal(url: &str, ca: Option<PathBuf>) -> anyhow::Result<String> {
    match store(url, ca)?.time().await {
        Ok(time) => anyhow::bail!("{url} answers: {time}"),
        Err(Lost(why)) => Ok(why),
    }
}

#[tokio::test]
async fn what_is_wrong_is_told_with_its_remedy() -> anyhow::Result<()> {
    let files = scratch("tls-wrong")?;
    let (server, authority) = secured(1, &files)?;
    let other = Authority::new(&files.join("other"))?;
    let ca = || Some(authority.certificate());
    let url = format!("rediss://{}", address(1, TLS));
    store(&url, ca())?.time().await?;

    let refused = |what: &str, why: String| {
        assert!(why.starts_with("127.0.89.1:") && why.contains(what), "{why}");
    };
    let by_other = refusal(&url, Some(other.certificate())).await?;
    refused("its certificate is signed by no CA in ", by_other.clone());
    refused("other/ca.crt; put the one that signed it there", by_other);
    let nowhere = refusal(&url, Some(files.join("nowhere.crt"))).await?;
    refused("nowhere.crt: No such file or directory", nowhere);
    let plain = refusal(&format!("rediss://{}", address(1, PLAIN)), ca()).await?;
    refused("name its port for TLS (tls-port), or write redis://", plain);
    let without = refusal(&format!("redis://{}", address(1, TLS)), None).await?;
    refused("if this is its port for TLS, write rediss://", without);
    server.ask(&["CONFIG", "SET", "tls-auth-clients", "yes"])?;
    refused("set tls-auth-clients no there", refusal(&url, ca()).await?);
    server.ask(&["CONFIG", "SET", "tls-auth-clients", "no"])?;
    show(&server, &authority.issue(address(2, 0).ip())?)?;
    refused(
        "its certificate is not for 127.0.89.1 but for ",
        refusal(&url, ca()).await?,
    );
    Ok(())
}

#[tokio::test]
async fn another_ca_is_taken_at_the_next_connection() -> anyhow::Result<()> {
    let files = scratch("tls-rotated")?;
    let (server, authority) = secured(3, &files)?;
    let ca = files.join("ca.crt");
    std::fs::copy(authority.certificate(), &ca)?;
    let mut store = store(&format!("rediss://{}", address(3, TLS)), Some(ca.clone()))?;
    store.time().await?;
    let next = Authority::new(&files.join("next"))?;
    show(&server, &next.issue(address(3, 0).ip())?)?;
    // The connection was ended; the next one is refused.
    let _ = store.time().await;
    let Lost(why) = store.time().await.expect_err("of a CA that is not trusted yet");
    assert!(why.contains("signed by no CA"), "{why}");
    std::fs::copy(next.certificate(), &ca)?;
    store.time().await?;
    Ok(())
}

#[tokio::test]
async fn sentinels_and_their_master_are_asked_over_tls() -> anyhow::Result<()> {
    let files = scratch("tls-sentinel")?;
    let (_master, authority) = secured(4, &files)?;
    let own = authority.issue(address(5, 0).ip())?;
    let (at, master) = (address(5, 26_379), address(4, TLS));
    let _sentinel = Server::sentinel_over_tls(at, 26_380, &own, &files.join("sentinel"), master)?;
    let url = format!("rediss-sentinel://{}/#{MASTER}", address(5, 26_380));
    let mut store = store(&url, Some(authority.certificate()))?;
    let asked = tokio::time::timeout(LIMIT, async {
        // Until it has looked at its master.
        while store.time().await.is_err() {
            tokio::task::yield_now().await;
        }
    });
    asked.await?;
    assert_eq!(store.address(), master.to_string());
    Ok(())
}

fn manifest(name: &'static str, last: u8, redis: SocketAddr, ca: PathBuf) -> Manifest {
    Manifest {
        name,
        address: [89, last],
        partitions: 256,
        redis: Some(External {
            url: format!("rediss://{redis}"),
            instances: 1,
            ca: Some(ca),
        }),
        ..Manifest::default()
    }
}

#[test]
fn dialogs_survive_the_death_of_a_container_and_another_ca() -> anyhow::Result<()> {
    const DIALOGS: usize = 400;
    let files = scratch("tls-calls-redis")?;
    let (server, authority) = secured(10, &files)?;
    let ca = files.join("ca.crt");
    std::fs::copy(authority.certificate(), &ca)?;
    let cluster = Cluster::start(manifest("tls-calls", 11, address(10, TLS), ca.clone()))?;
    let mut caller = Caller::new(Transport::Udp, cluster.caller_address(), cluster.address(), 16)?;
    caller.raise(DIALOGS, RATE, LIMIT)?;
    let status = cluster.until("the dialogs are counted", LIMIT, |status| {
        status.dialogs() == DIALOGS as u64
    })?;
    let lost = status.containers[1].dialogs.unwrap_or_default();
    ensure!(lost > 50, "it holds its part of the dialogs: {status:?}");
    signal(status.containers[1].running()?, libc::SIGKILL)?;
    caller.in_every_dialog("INVITE", RATE, LIMIT)?;
    cluster.settle(LIMIT)?;

    // The CA is exchanged, and with it the server's certificate: containers connect anew, and none is started again.
    let before = cluster
        .status()?
        .containers
        .iter()
        .map(|part| part.pid)
        .collect::<Vec<_>>();
    let next = Authority::new(&files.join("next"))?;
    std::fs::copy(next.certificate(), &ca)?;
    show(&server, &next.issue(address(10, 0).ip())?)?;
    caller.in_every_dialog("INVITE", RATE, LIMIT)?;
    let replicated = |part: &tests::interop::cluster::Part| part.replicated == Some(true);
    let status = cluster.until("all is in Redis", LIMIT, |status| {
        status.containers.iter().all(replicated)
    })?;
    assert_eq!(
        status.containers.iter().map(|part| part.pid).collect::<Vec<_>>(),
        before
    );
    caller.in_every_dialog("BYE", RATE, LIMIT)?;
    caller.expect_no_call_doubled()?;
    wait_for("no dialog is left", LIMIT, || {
        cluster.status().is_ok_and(|status| status.dialogs() == 0).then_some(())
    })?;
    println!("{lost} of {DIALOGS} dialogs taken over through Redis over TLS, 0 lost");
    Ok(())
}

#[test]
fn a_cluster_with_the_wrong_ca_is_not_started() -> anyhow::Result<()> {
    let files = scratch("tls-refused-redis")?;
    let (_server, _authority) = secured(12, &files)?;
    let other = Authority::new(&files.join("other"))?;
    let manifest = manifest("tls-refused", 13, address(12, TLS), other.certificate());
    let refused = Cluster::start(manifest).expect_err("its Redis cannot be trusted");
    let why = format!("{refused:#}");
    assert!(
        why.contains("no Redis answers at 127.0.89.12:6380 ") && why.contains("its certificate is signed by no CA in "),
        "{why}"
    );
    Ok(())
}

//! `sipcluster-operator check`, which the chart's `helm test` runs: does every SipCluster answer? A request is sent to each through its
//! dispatcher, as a peer would.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use anyhow::{Context as _, bail, ensure};
use clap::Args;
use crds::{SipCluster, Transport};
use k8s_openapi::api::core::v1::Service;
use kube::{Api, Client, ResourceExt as _};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use crate::config::Scope;
use crate::sip_cluster::names::Names;

/// The longest that an answer may take: RFC 3261 s17.1.2.2 repeats a request five times meanwhile.
const LIMIT: Duration = Duration::from_secs(10);

/// T1 and T2 of RFC 3261 s17.1.2.2: after how long a datagram is repeated first, and at most.
const REPEATED: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(4));

/// The largest answer that is read.
const LARGEST: usize = 65_535;

/// Asks every SipCluster by SIP (OPTIONS) through its dispatcher, over each of its transports, and fails unless all answer 200.
#[derive(Debug, Args)]
pub struct Check {
    /// Whose SipClusters are asked.
    #[command(flatten)]
    pub scope: Scope,
}

impl Check {
    /// Prints a line for each SipCluster and transport; a failure unless there is one and all of them answer.
    pub async fn run(&self) -> ExitCode {
        match self.all().await {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                println!("{error:#}");
                ExitCode::FAILURE
            }
        }
    }

    async fn all(&self) -> anyhow::Result<bool> {
        let client = Client::try_default()
            .await
            .context("no way to the API server; run in a pod, or with KUBECONFIG")?;
        let clusters = self.scope.clusters(client.clone());
        let clusters = clusters.list(&Default::default()).await?.items;
        ensure!(
            !clusters.is_empty(),
            "there is no SipCluster yet that could answer: create one"
        );
        let mut all_answer = true;
        for cluster in clusters {
            let names = Names {
                cluster: cluster.name_any(),
                namespace: cluster.namespace().unwrap_or_default(),
            };
            let places = match places(&client, &cluster, &names).await {
                Ok(places) => places,
                Err(error) => {
                    all_answer = false;
                    println!("{}/{}: {error:#}", names.namespace, names.cluster);
                    continue;
                }
            };
            let transports = &cluster.spec.dispatcher.transports;
            for (place, transport) in places
                .iter()
                .flat_map(|place| transports.iter().map(move |one| (place, one)))
            {
                let said = match one(&cluster, *place, *transport).await {
                    Ok(took) => format!("200 within {} ms", took.as_millis()),
                    Err(error) => {
                        all_answer = false;
                        format!("{error:#}")
                    }
                };
                let node = cluster
                    .spec
                    .dispatcher
                    .host_network
                    .as_ref()
                    .map(|_| format!(" at {place}"));
                println!(
                    "{}/{}, {}{}: {said}",
                    names.namespace,
                    names.cluster,
                    name(*transport),
                    node.unwrap_or_default()
                );
            }
        }
        Ok(all_answer)
    }
}

async fn one(cluster: &SipCluster, place: SocketAddr, transport: Transport) -> anyhow::Result<Duration> {
    let address = address(cluster)?;
    let begun = Instant::now();
    options(place, address, transport, LIMIT).await?;
    Ok(begun.elapsed())
}

fn address(cluster: &SipCluster) -> anyhow::Result<&str> {
    let status = cluster.status.as_ref();
    let address = status.and_then(|status| status.address.as_deref());
    address.context("it has no address yet: kubectl describe sipcluster says what it waits for")
}

/// Where it is asked: at its Service, or at each of its nodes.
async fn places(client: &Client, cluster: &SipCluster, names: &Names) -> anyhow::Result<Vec<SocketAddr>> {
    address(cluster)?;
    if cluster.spec.dispatcher.host_network.is_some() {
        let addresses = cluster.status.iter().flat_map(|status| &status.addresses);
        let places: Vec<SocketAddr> = addresses.filter_map(|address| address.parse().ok()).collect();
        ensure!(!places.is_empty(), "none of its proxies serves");
        return Ok(places);
    }
    let services: Api<Service> = Api::namespaced(client.clone(), &names.namespace);
    let service = services.get(&names.dispatcher()).await?;
    // Peers' address may be one that only they reach.
    let inside = service.spec.and_then(|spec| spec.cluster_ip);
    let inside: IpAddr = inside
        .and_then(|ip| ip.parse().ok())
        .context("its Service has no address")?;
    Ok(vec![(inside, cluster.spec.dispatcher.port).into()])
}

/// Asks by OPTIONS (RFC 3261 s11) who is called `uri_host`, over the server at `to`.
///
/// # Errors
/// What was answered if it is not 200, or that nothing was within `limit`.
pub async fn options(to: SocketAddr, uri_host: &str, transport: Transport, limit: Duration) -> anyhow::Result<()> {
    let answer = match transport {
        Transport::Udp => timeout(limit, by_datagrams(to, uri_host)).await,
        Transport::Tcp => timeout(limit, by_stream(to, uri_host)).await,
    };
    let answer = match answer {
        Ok(answer) => answer.with_context(|| to.to_string())?,
        Err(_) => bail!("no answer from {to} within {} s", limit.as_secs_f32()),
    };
    ensure!(
        is_status(&answer, "200"),
        "{}",
        answer.lines().next().unwrap_or_default()
    );
    Ok(())
}

async fn by_datagrams(to: SocketAddr, uri_host: &str) -> io::Result<String> {
    let unspecified: IpAddr = match to {
        SocketAddr::V4(_) => std::net::Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((unspecified, 0)).await?;
    socket.connect(to).await?;
    let call_id = call_id()?;
    let request = request(uri_host, "UDP", socket.local_addr()?, &call_id);
    let mut answer = vec![0; LARGEST];
    let (mut pause, longest) = REPEATED;
    loop {
        socket.send(request.as_bytes()).await?;
        let received = async {
            loop {
                let length = socket.recv(&mut answer).await?;
                let text = String::from_utf8_lossy(&answer[..length]);
                if is_final(&text, &call_id) {
                    return io::Result::Ok(text.into_owned());
                }
            }
        };
        if let Ok(received) = timeout(pause, received).await {
            return received;
        }
        pause = (2 * pause).min(longest);
    }
}

async fn by_stream(to: SocketAddr, uri_host: &str) -> io::Result<String> {
    let mut stream = TcpStream::connect(to).await?;
    let call_id = call_id()?;
    let request = request(uri_host, "TCP", stream.local_addr()?, &call_id);
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    while answer.len() < LARGEST {
        if stream.read_buf(&mut answer).await? == 0 {
            break;
        }
        // A provisional answer may stand before the final one; neither has to have a body.
        let text = String::from_utf8_lossy(&answer);
        let mut heads = text
            .split_inclusive("\r\n\r\n")
            .filter(|head| head.ends_with("\r\n\r\n"));
        if let Some(head) = heads.find(|head| is_final(head, &call_id)) {
            return Ok(head.to_owned());
        }
    }
    Err(io::Error::new(io::ErrorKind::UnexpectedEof, "closed without an answer"))
}

fn request(uri_host: &str, transport: &str, local: SocketAddr, call_id: &str) -> String {
    let parameter = if transport == "TCP" { ";transport=tcp" } else { "" };
    format!(
        "OPTIONS sip:{uri_host}{parameter} SIP/2.0\r\n\
         Via: SIP/2.0/{transport} {local};branch=z9hG4bK{call_id};rport\r\n\
         Max-Forwards: 70\r\n\
         From: <sip:check@{local}>;tag={call_id}\r\n\
         To: <sip:{uri_host}>\r\n\
         Call-ID: {call_id}\r\n\
         CSeq: 1 OPTIONS\r\n\
         Accept: application/sdp\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

/// A word that no other request has.
fn call_id() -> io::Result<String> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(|error| io::Error::other(error.to_string()))?;
    Ok(format!("{:032x}", u128::from_be_bytes(bytes)))
}

fn is_final(answer: &str, call_id: &str) -> bool {
    answer.starts_with("SIP/2.0 ") && !is_status(answer, "1") && answer.contains(call_id)
}

/// Whether its status begins with these digits.
fn is_status(answer: &str, digits: &str) -> bool {
    answer
        .strip_prefix("SIP/2.0 ")
        .is_some_and(|rest| rest.starts_with(digits))
}

fn name(transport: Transport) -> &'static str {
    match transport {
        Transport::Udp => "UDP",
        Transport::Tcp => "TCP",
    }
}

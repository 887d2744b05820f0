//! The list of containers and proxies: a file's, or on Kubernetes that of EndpointSlices. It gives addresses, never liveness.

pub mod file;
pub mod slices;

use std::net::SocketAddr;
use std::path::PathBuf;

use serde::Deserialize;
use tokio::sync::watch;
use tracing::info;

/// Where the list stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// In a file.
    File(PathBuf),
    /// In the EndpointSlices of these Services.
    Services(Vec<slices::Service>),
}

/// A container or a proxy, and where it listens.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Deserialize)]
pub struct Endpoint {
    /// Its name, for logs; what counts is what it says of itself.
    pub name: String,
    /// Plain SIP; of a container only.
    #[serde(default)]
    pub sip: Option<SocketAddr>,
    /// UCF.
    pub ucf: SocketAddr,
}

/// Follows the list for ever and publishes each new one.
pub async fn follow(source: Source, publish: watch::Sender<Vec<Endpoint>>) {
    match source {
        Source::File(path) => file::follow(path, publish).await,
        Source::Services(services) => slices::follow(services, publish).await,
    }
}

fn publish_if_new(publish: &watch::Sender<Vec<Endpoint>>, list: Vec<Endpoint>) {
    publish.send_if_modified(|present| {
        let changed = *present != list;
        if changed {
            info!(entries = list.len(), "the list of containers and proxies has changed");
            *present = list;
        }
        changed
    });
}

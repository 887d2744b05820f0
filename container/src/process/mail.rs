//! What the threads of a container tell one another.
//!
//! The channels have no bound of their own. What flows through them is bounded at its source: SIP by the inputs that a connection may have
//! outstanding ([`MAX_OUTSTANDING`]), the rest by the number of partitions and proxies.

use std::net::SocketAddr;
use std::sync::Arc;

use crate::engine::{Announcement, Confirm, ConnectionId, Digest, DueFlow, Input};
use bytes::Bytes;
use hashbrown::HashMap;
use sip::{Instant, OwnedMessage};
use tokio::sync::mpsc::UnboundedSender;
use tokio::sync::oneshot;
use ucf::member::{Gate, Notice};
use ucf::{Epoch, PartitionId, ProxyId};

use super::config::MAX_WORKERS;

/// Inputs of one connection that are read and not done with. A turn takes well under a millisecond; at 50,000 messages a second this is
/// an eighth of a second's worth, and what waits for a lost store costs about 8 MB.
pub const MAX_OUTSTANDING: u64 = 8192;

/// For a worker.
pub enum ToWorker {
    /// Messages of another worker's connections for partitions of this one.
    Messages(Vec<(Input, ProxyId, OwnedMessage)>),
    /// Output of another worker's partitions for connections of this one.
    Outputs(Vec<(ConnectionId, Bytes)>),
    /// How inputs of this one's connections ended in other workers.
    Confirms(Vec<Confirm>),
    /// Whose connection it is: it may be read now.
    Tied {
        connection: ConnectionId,
        proxy: ProxyId,
    },
    /// Its proxy is gone.
    Untied {
        connection: ConnectionId,
    },
    /// Where proxies are connected.
    Directory(Arc<Directory>),
    /// The store's time.
    Clock {
        at: Instant,
        millis: u64,
    },
    /// See `ucf::member::Effect`; so are the following.
    Activate {
        partition: PartitionId,
        epoch: Epoch,
        records: Vec<(Bytes, Bytes)>,
        /// By an owner that is well.
        handed_over: bool,
    },
    Freeze(PartitionId),
    Thaw(PartitionId),
    Drop(PartitionId),
    Gate(Gate),
    Reconcile {
        round: u64,
        partitions: Vec<(PartitionId, Epoch)>,
    },
    /// A proxy has connected: tell it the live transactions.
    Live(ProxyId),
    /// Say what is held of every partition.
    Digests(oneshot::Sender<Vec<Digest>>),
    /// The end.
    Stop,
}

/// For the control task.
pub enum ToControl {
    /// A SIP connection, of a proxy that its `Hello` will name.
    Accepted { connection: ConnectionId, peer: SocketAddr },
    /// It ended.
    Ended { connection: ConnectionId },
    /// What a proxy is to be told of its inputs.
    Confirm {
        proxy: ProxyId,
        confirm: ucf::wire::Confirm,
    },
    /// Transactions for all proxies, or for one that has just connected.
    Announce {
        to: Option<ProxyId>,
        announcements: Vec<Announcement>,
    },
    /// Flows that a proxy is to keep open.
    KeepOpen(Vec<DueFlow>),
    /// For the member.
    Notice { worker: usize, notice: Notice },
    /// The thread ended by itself.
    Failed(String),
}

/// Where each proxy worker's SIP connection is.
#[derive(Default)]
pub struct Directory {
    by_proxy: HashMap<ProxyId, ConnectionId>,
    all: Vec<(ProxyId, ConnectionId)>,
    proxies: Vec<ProxyId>,
}

impl Directory {
    /// Of these connections.
    pub fn new(mut all: Vec<(ProxyId, ConnectionId)>) -> Self {
        all.sort_by_key(|(proxy, _)| (proxy.incarnation, proxy.worker));
        Self {
            by_proxy: all.iter().copied().collect(),
            proxies: all.iter().map(|(proxy, _)| *proxy).collect(),
            all,
        }
    }

    /// Those that are connected.
    pub fn proxies(&self) -> &[ProxyId] {
        &self.proxies
    }

    /// The connection of this proxy worker; else one of the same process, whose sockets are the same; else any, chosen by `salt`.
    pub fn find(&self, proxy: Option<ProxyId>, salt: u64) -> Option<ConnectionId> {
        if let Some(proxy) = proxy {
            if let Some(connection) = self.by_proxy.get(&proxy) {
                return Some(*connection);
            }
            let same = self
                .all
                .iter()
                .find(|(other, _)| other.incarnation == proxy.incarnation);
            if let Some((_, connection)) = same {
                return Some(*connection);
            }
        }
        let place = usize::try_from(salt).unwrap_or_default() % self.all.len().max(1);
        self.all.get(place).map(|(_, connection)| *connection)
    }
}

/// The worker that has a connection: its number says it.
pub fn worker_of(connection: ConnectionId) -> usize {
    (connection.0 % u64::from(MAX_WORKERS)) as usize
}

/// The way to every worker.
pub type Workers = Arc<[UnboundedSender<ToWorker>]>;

//! What a worker shows of itself: copied now and then, so that nobody who looks is ever waited for.

use proxy::forward::Counters;
use serde::{Serialize, Serializer};
use ucf::wire::MemberState;

use crate::worker::Core;

/// What the sockets' side of a worker counts.
#[derive(Clone, Debug, Default)]
pub struct DriverCounters {
    /// Datagrams received.
    pub datagrams_in: u64,
    /// Receive calls that brought them.
    pub receives: u64,
    /// Datagrams sent.
    pub datagrams_out: u64,
    /// Datagrams that could not be sent.
    pub datagrams_dropped: u64,
    /// Messages received on client connections.
    pub stream_messages_in: u64,
    /// Writes to client connections.
    pub stream_writes: u64,
    /// Client streams that could not be read on.
    pub streams_refused: u64,
    /// Connections to clients that could not be made.
    pub connects_failed: u64,
    /// Messages received from containers.
    pub link_messages_in: u64,
    /// Reads that brought them.
    pub link_reads: u64,
    /// Writes of SIP to containers.
    pub link_writes: u64,
    /// Links refused because the other side did not prove that it has the cluster's key.
    pub strangers: u64,
    /// Messages passed to the worker of their call.
    pub passed: u64,
    /// Mail for other workers that found no room.
    pub mail_dropped: u64,
}

/// A container as one worker sees it.
#[derive(Clone, Debug, Serialize)]
pub struct ContainerState {
    name: String,
    incarnation: String,
    #[serde(serialize_with = "as_word")]
    state: MemberState,
    partitions: usize,
    unconfirmed_bytes: usize,
}

/// One worker at one moment.
#[derive(Clone, Debug, Default)]
pub struct Snapshot {
    /// Of the forwarder.
    pub forward: Counters,
    /// Of the driver.
    pub driver: DriverCounters,
    /// Containers that are linked.
    pub containers: Vec<ContainerState>,
    /// Client connections.
    pub clients: usize,
    /// Client connections closed because they read too slowly, or refused because there are too many.
    pub clients_refused: u64,
}

impl Snapshot {
    /// Copies the present state.
    pub fn take(&mut self, core: &Core) {
        self.forward = core.forwarder.counters();
        self.driver.clone_from(&core.counters);
        self.clients = core.clients.len();
        self.clients_refused = core.clients.refused;
        self.containers.clear();
        self.containers
            .extend(core.forwarder.containers().map(|view| ContainerState {
                name: view.name.to_owned(),
                incarnation: view.incarnation.to_string(),
                state: view.state,
                partitions: view.partitions,
                unconfirmed_bytes: view.unconfirmed,
            }));
    }
}

impl ContainerState {
    /// Whether it is in that state.
    pub fn is_in(&self, state: MemberState) -> bool {
        self.state == state
    }
}

/// The words of the resource's status.
fn as_word<S: Serializer>(state: &MemberState, to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(match state {
        MemberState::Joining => "Joining",
        MemberState::Active => "Active",
        MemberState::Quiescing => "Quiescing",
    })
}

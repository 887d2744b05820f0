//! What a turn of a worker leaves behind: writes first, and what may leave once they are acknowledged.

use bytes::Bytes;
use ucf::{Epoch, Incarnation, PartitionId, ProxyId};

use super::asks::Asking;
use crate::records::Key;

/// A SIP connection from a proxy worker, numbered by the driver; never used again after it closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnectionId(pub u64);

/// One message on a connection: the number by which it is confirmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Input {
    /// The connection it came on.
    pub connection: ConnectionId,
    /// Its number there, from 1.
    pub number: u64,
}

/// What a proxy is told of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Confirm {
    /// The input.
    pub input: Input,
    /// What became of it.
    pub fate: Fate,
}

/// What became of an input.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fate {
    /// It needs no keeping any more.
    Done,
    /// Its partition is not ours: the proxy sends it to the owner.
    Returned,
    /// It is kept until it is known who owns its partition; told once, another fate follows.
    Kept,
}

/// Records of one partition to be written under its epoch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Write {
    /// The partition.
    pub partition: PartitionId,
    /// The epoch at which this worker owns it.
    pub epoch: Epoch,
    /// Running number within the epoch, from 1.
    pub number: u64,
    /// Drop all records first: the store is made equal to memory.
    pub replace: bool,
    /// Records to be stored.
    pub sets: Vec<(Key, Bytes)>,
    /// Records to be deleted.
    pub deletes: Vec<Key>,
}

/// A SIP message for a proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Output {
    /// The proxy worker through which the peer was last heard; any other if that one is gone, or if there is none.
    pub proxy: Option<ProxyId>,
    /// Whose message it is.
    pub partition: PartitionId,
    /// At which epoch.
    pub epoch: Epoch,
    /// The message.
    pub bytes: Bytes,
}

/// A message that may leave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaving {
    /// The message.
    pub output: Output,
    /// Running number of the write of its partition that stores what it tells, at the latest.
    pub write: u64,
    /// It does not wait for that write, but names the last heartbeat that was heard of its proxy (`ucf::routing::HEARTBEAT_HEADER`).
    pub from_memory: bool,
}

/// A server transaction that proxies shall know, so that no call is doubled (invariant 4).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Announcement {
    /// Its partition.
    pub partition: PartitionId,
    /// Key of the client's Via (RFC 3261 s17.2.3).
    pub key: u64,
    /// Key of Call-ID, From tag and CSeq (RFC 3261 s8.2.2.2).
    pub merged: u64,
    /// Its final response has been given: to be forgotten 32 s from now.
    pub ended: bool,
}

/// One turn. Its outputs and confirms go out after its writes ([`Engine::handle_written`](super::Engine::handle_written)).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Turn {
    /// Number of the turn, from 1.
    pub number: u64,
    /// The writes, in order; a partition that changed much has several. Without any the turn is as good as written.
    pub writes: Vec<Write>,
}

/// What may leave, in this order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Released {
    /// Messages.
    pub outputs: Vec<Leaving>,
    /// What is to be told of inputs.
    pub confirms: Vec<Confirm>,
    /// What applications ask.
    pub asks: Vec<Asking>,
}

/// How one write went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WriteOutcome {
    /// Done, now or before.
    Written,
    /// Done, but the store had lost what it knew of the partition.
    Behind,
    /// Another owns the partition.
    Stale {
        /// Who, as stored.
        owner: Option<Incarnation>,
        /// At which epoch.
        epoch: Epoch,
    },
}

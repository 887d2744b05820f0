//! Cut off with a container from the rest of the cluster, as on a node that is lost: the proxy reaches nobody else, and the container holds
//! what it would send because it may no longer own anything.
//!
//! What begins there would end as a second call: the client repeats a datagram, by then through a proxy that is well, and nobody on that
//! side can know of what waits on this one. So datagrams that begin something wait here until the others are heard again, who tell what they
//! have begun ([`super::early`]); and what was given to the container before the island was seen to be one is not given to another after so long
//! that the client must have repeated it. Over a connection nothing is repeated, and dialogs have one place only: they take their usual way.

use std::time::Duration;

use sip::{Index, Instant, Message, Method};
use transport::legs::INNER;
use ucf::PartitionId;
use ucf::flow::{Flow, Transport};
use ucf::transactions::Keys;
use ucf::window::Label;

use super::Core;
use super::counters::DropReason;

/// When a client has sent a request three times: at once, after T1 and after 3 * T1 (RFC 3261 s17.1.1.2). Longer than a takeover takes.
const REPEATED: Duration = Duration::from_millis(1500);

/// How long links with all others take once the network is whole again: one attempt a second, and some for the greeting.
const LINKED: Duration = Duration::from_millis(1200);

/// Whether this proxy is on one.
#[derive(Debug, Default)]
pub(super) struct Island {
    pub(super) now: bool,
    /// When it last was.
    last: Instant,
}

impl Core {
    /// Looks who is out of reach. Whoever was cut off stays so until no container that it reaches holds its output any more.
    pub(super) fn look_around(&mut self, now: Instant) {
        let (containers, peers) = (self.containers.heard(now), self.peers.heard());
        let (heard, silent) = (containers.0 + peers.0, containers.1 + peers.1);
        // Where a part falls silent and most are heard, it is that part which is cut off.
        let apart = heard < silent;
        self.island.now = self.containers.some_hold() && (self.island.now || apart);
        if self.island.now {
            self.island.last = now;
        }
    }

    /// Whether this proxy is on no island, and has had the time to hear what was begun elsewhere.
    pub(super) fn others_are_heard(&self, now: Instant) -> bool {
        !self.island.now && now.since(self.island.last) >= LINKED
    }

    /// Whether a partition's owner is the container that this proxy is cut off with.
    pub(super) fn is_on_the_island(&self, partition: PartitionId) -> bool {
        let owner = self.routing.route(partition).settled();
        owner.is_some_and(|slot| self.containers.holds(slot))
    }

    /// Whether a message that a container did not take is left to its repetition: then its transaction is as if it had never come, and what
    /// other containers tell of it counts.
    pub(super) fn was_repeated(&mut self, now: Instant, label: Label, bytes: &[u8]) -> bool {
        if label.came > self.island.last || now.since(label.came) < REPEATED {
            return false;
        }
        let mut index = Index::new();
        if index.scan(bytes, &INNER).is_err() {
            return false;
        }
        let message = Message::new(bytes, &index);
        let Some(via) = message.via() else { return false };
        let flow = via
            .param(b"fl")
            .and_then(|text| Flow::decode(text, &self.config.keyring));
        let keys = via.branch().and_then(Keys::of_branch);
        let (Some(flow), Some((keys, _))) = (flow, keys) else {
            return false;
        };
        if !message.is_request() || !is_repeated(&message, flow.transport) {
            return false;
        }
        self.transactions.forget(keys.transaction);
        self.counters.drop(DropReason::Apart);
        true
    }
}

/// Whether it is a datagram that begins something: its client repeats it until it has an answer.
pub(super) fn is_repeated(message: &Message<'_>, transport: Transport) -> bool {
    let alone = !matches!(message.method(), Method::Ack | Method::Cancel);
    transport == Transport::Udp && alone && message.to().is_some_and(|to| to.tag().is_none())
}

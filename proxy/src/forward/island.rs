//! Cut off with a container from the rest of the cluster, as on a node that is lost: the proxy reaches nobody else, and the container holds
//! what it would send because it may no longer own anything.
//!
//! What begins there would end as a second call: the client repeats a datagram, by then through a proxy that is well, and nobody on that
//! side can know of what waits on this one. So datagrams that begin something wait here until the others are heard again, who tell what they
//! have begun; and what was given to the container before the island was seen to be one is not given to another after so long that the client
//! must have repeated it. Over a connection nothing is repeated, and dialogs have one place only: they take their usual way.
//!
//! That way may end here: no owner is found in time, or there is no room. Then a datagram is dropped, in a dialog too. A refusal would end its
//! transaction, and the caller might take it for the end of the dialog; unanswered, it is repeated, and a copy gets through by a proxy that is
//! well. Over a connection no copy follows: there the refusal stays.

use std::collections::VecDeque;
use std::time::Duration;

use sip::{Index, Instant, Message, Method};
use transport::legs::INNER;
use ucf::PartitionId;
use ucf::flow::{Flow, Transport};
use ucf::transactions::Keys;
use ucf::window::Label;

use super::Core;
use super::counters::{DropReason, Kind, Outcome};
use super::effects::Effects;
use super::path::Arrival;

/// When a client repeats a datagram for the first time (RFC 3261 s17.1.1.1).
const T1: Duration = Duration::from_millis(500);

/// When it has sent it three times: at once, after T1 and after 3 * T1 (s17.1.1.2). Longer than a takeover takes.
const REPEATED: Duration = Duration::from_millis(1500);

/// For how long it goes on: 64 * T1, Timer B.
const REPEATS: Duration = Duration::from_secs(32);

/// How long links with all others take once the network is whole again: an attempt that has just begun in vain, the pause before the next
/// (1.2 s together), and the greeting.
const LINKED: Duration = Duration::from_secs(2);

/// What waits goes on this far from the moments at which its client may be repeating it elsewhere, which are multiples of T1 after any copy
/// of it (s17.1.1.2, s17.1.2.2): time for whoever takes a call on to tell every proxy.
const APART: Duration = Duration::from_millis(150);

/// How many wait at most; beyond, their repetitions have to come again.
const MAX_WAITING: usize = 1024;

/// Whether this proxy is on one, and what waits there.
#[derive(Debug, Default)]
pub(super) struct Island {
    now: bool,
    /// When the latest one began, and when it was last there.
    latest: Option<(Instant, Instant)>,
    /// How many others are heard there: fewer as time goes on, or it is over.
    heard: usize,
    /// When a container last held its output.
    held: Option<Instant>,
    /// In the order in which they came.
    waiting: VecDeque<Waiting>,
    /// For simulations, to prove that their checks can fail.
    pub(super) ignored: bool,
}

#[derive(Debug)]
struct Waiting {
    came: Instant,
    /// Of its transaction.
    key: u64,
    source: Flow,
    bytes: Box<[u8]>,
}

impl Core {
    /// Looks who is out of reach, and lets go on what has waited for them.
    pub(super) fn look_around(&mut self, now: Instant, effects: &mut Effects) {
        let (containers, peers) = (self.containers.heard(now), self.peers.heard());
        let (heard, silent) = (containers.0 + peers.0, containers.1 + peers.1);
        let island = &mut self.island;
        if self.containers.some_hold() {
            island.held = Some(now);
        }
        // Its container may end there: then nobody is heard at all. Once no client repeats what it sent by then, each is told the truth.
        let alone = island.now && heard == 0;
        let holds = (island.held).is_some_and(|held| held == now || alone && now.since(held) < REPEATS);
        // Without another proxy no repetition comes anywhere else.
        let may_be = !island.ignored && holds && self.peers.has_been_one();
        // Of those who are lost for long nobody knows any more: it is over when somebody is heard again.
        let is_one = may_be
            && if island.now {
                heard <= island.heard
            } else {
                heard < silent
            };
        if is_one {
            // One that comes back before all links do is still the same: what waits there has waited since.
            let same = |(_, last): &(Instant, Instant)| island.now || now.since(*last) < LINKED;
            let since = island.latest.filter(same).map_or(now, |(since, _)| since);
            island.latest = Some((since, now));
            island.heard = heard;
        }
        island.now = is_one;
        self.let_go_on(now, effects);
    }

    /// Whether this proxy is on an island at present.
    pub(super) fn is_cut_off(&self) -> bool {
        self.island.now
    }

    /// Whether others may have begun what comes here, and have not had the time to say so.
    pub(super) fn waits_for_others(&self, now: Instant) -> bool {
        // What is over before anybody repeats anything has done no harm.
        let was_one = |(since, last): (Instant, Instant)| last.since(since) >= T1 && now.since(last) < LINKED;
        self.island.now || self.island.latest.is_some_and(was_one)
    }

    /// Whether a partition's owner, as far as is known, is a container that this proxy is cut off with.
    pub(super) fn is_on_the_island(&self, partition: PartitionId) -> bool {
        let owner = self.routing.route(partition).settled();
        owner.is_some_and(|slot| self.containers.holds(slot))
    }

    /// Lets what begins wait. None: it comes here again.
    pub(super) fn wait_for_others(&mut self, arrival: Arrival<'_>, source: &Flow, key: u64) -> Option<Outcome> {
        let waiting = &mut self.island.waiting;
        if waiting.iter().any(|waiting| waiting.key == key) {
            return Some(Outcome::Held);
        }
        if waiting.len() >= MAX_WAITING {
            self.counters.drop(DropReason::Apart);
            return Some(Outcome::Dropped);
        }
        waiting.push_back(Waiting {
            came: arrival.now,
            key,
            source: *source,
            bytes: arrival.message.as_bytes().into(),
        });
        None
    }

    /// Whether what begins this transaction waits here.
    pub(super) fn waits_here(&self, key: u64) -> bool {
        self.island.waiting.iter().any(|waiting| waiting.key == key)
    }

    /// A CANCEL whose INVITE may be a call on the other side: here that is only not begun any more, and the CANCEL's repetition goes there.
    pub(super) fn call_off_here(&mut self, key: u64) {
        let before = self.island.waiting.len();
        self.island.waiting.retain(|waiting| waiting.key != key);
        if self.island.waiting.len() < before {
            self.counters.count(Kind::NewRequest, Outcome::Dropped);
            self.counters.drop(DropReason::Apart);
        }
        self.counters.drop(DropReason::Apart);
    }

    fn let_go_on(&mut self, now: Instant, effects: &mut Effects) {
        while (self.island.waiting.front()).is_some_and(|waiting| now.since(waiting.came) >= REPEATS) {
            self.island.waiting.pop_front();
            self.counters.count(Kind::NewRequest, Outcome::Dropped);
            self.counters.drop(DropReason::Apart);
        }
        if self.waits_for_others(now) {
            return;
        }
        for waiting in std::mem::take(&mut self.island.waiting) {
            if self.transactions.find(waiting.key).is_some() || is_between_copies(now.since(waiting.came)) {
                self.comes_again(now, &waiting.source, &waiting.bytes, effects);
            } else {
                self.island.waiting.push_back(waiting);
            }
        }
    }

    /// Drops a message that a container did not take, if its client has repeated it since and that was begun elsewhere, or may have been on the
    /// other side of an island. Then its transaction is as if it had never come here, and what containers tell of it counts. `false` if it
    /// has to go to another container.
    pub(super) fn leave_to_repetition(&mut self, now: Instant, label: Label, bytes: &[u8]) -> bool {
        let age = now.since(label.came);
        if age < T1 {
            return false;
        }
        let mut index = Index::new();
        if index.scan(bytes, &INNER).is_err() {
            return false;
        }
        let message = Message::new(bytes, &index);
        let keys = message.via().and_then(|via| Keys::of_branch(via.branch()?));
        let (Some(transport), Some((keys, _))) = (self.came_by(&message), keys) else {
            return false;
        };
        if !begins(&message, transport) {
            return false;
        }
        let elsewhere = self
            .transactions
            .find(keys.transaction)
            .is_some_and(|known| known != label.partition);
        let from_an_island = self.is_cut_off_since(label.came) && age >= REPEATED;
        if !elsewhere && !from_an_island {
            return false;
        }
        self.transactions.forget(keys.transaction, label.partition);
        self.counters.drop(DropReason::Apart);
        true
    }

    /// Whether a message that cannot go on to a container is a request that is left to its repetition, and not answered.
    pub(super) fn is_left_to_repetition(&self, came: Instant, bytes: &[u8]) -> bool {
        if !self.is_cut_off_since(came) {
            return false;
        }
        let mut index = Index::new();
        index.scan(bytes, &INNER).is_ok() && {
            let message = Message::new(bytes, &index);
            let transport = self.came_by(&message);
            transport.is_some_and(|transport| is_repeated(&message, transport))
        }
    }

    /// Whether there is an island, or has been one at any time since a message came.
    fn is_cut_off_since(&self, came: Instant) -> bool {
        self.is_cut_off() || self.island.latest.is_some_and(|(_, last)| came <= last)
    }

    /// How a client's request came that is on its way to a container.
    fn came_by(&self, message: &Message<'_>) -> Option<Transport> {
        let via = message.via().filter(|_| message.is_request())?;
        let flow = Flow::decode(via.param(b"fl")?, &self.config.keyring)?;
        Some(flow.transport)
    }
}

/// Whether no copy of a datagram that is so old is under way to another proxy, and none has just got there.
fn is_between_copies(age: Duration) -> bool {
    let since_copy = Duration::from_nanos((age.as_nanos() % T1.as_nanos()) as u64);
    (APART..=T1 - APART).contains(&since_copy)
}

/// Whether it is a datagram that its client repeats until it has an answer (RFC 3261 s17.1.1.2, s17.1.2.2). A CANCEL is a transaction of its own, and
/// comes when a provisional response has ended the repetitions of its INVITE (s9.1): refused, nothing would call the INVITE off any more.
pub(super) fn is_repeated(message: &Message<'_>, transport: Transport) -> bool {
    transport == Transport::Udp && message.method() != Method::Ack
}

/// Whether it is one that begins something.
pub(super) fn begins(message: &Message<'_>, transport: Transport) -> bool {
    let alone = message.method() != Method::Cancel && message.to().is_some_and(|to| to.tag().is_none());
    alone && is_repeated(message, transport)
}

//! Requests that came before the news that they need: they wait a moment for it.
//!
//! A client may send a CANCEL to another proxy than its INVITE. That proxy hears of the transaction from the container, but on
//! another connection, so the CANCEL may win the race; 481 at once would let the call ring on. And a proxy that has just started
//! gets new calls from its first moment on, before any container has told it anything. Who cancels such a call meanwhile has it ended here:
//! no container ever hears of it, nor of its repetitions.

use std::collections::VecDeque;
use std::time::Duration;

use hashbrown::HashMap;
use sip::{Edit, Index, Instant, Message, Method};
use transport::legs::INNER;
use ucf::flow::Flow;
use ucf::wire::MemberState;

use super::Core;
use super::containers::Container;
use super::counters::Kind;
use super::effects::Effects;
use super::path::Arrival;
use super::refusal::Refusal;
use super::request::Request;

/// How long a CANCEL waits: announcements take milliseconds, and below T1 (500 ms) nobody repeats the CANCEL.
const FOR_INVITE: Duration = Duration::from_millis(300);

/// How long a new dialog waits for the first container that takes it. Longer than T1: its repetitions wait with it.
const FOR_CONTAINER: Duration = Duration::from_secs(1);

/// How long the repetitions of a cancelled INVITE are answered here: 64 * T1, Timer B (RFC 3261 s17.1.1.2).
const FOR_REPETITIONS: Duration = Duration::from_secs(32);

/// How long a datagram may still come after the ACK of its answer (RFC 3261 s17.2.1, timer I).
const T4: Duration = Duration::from_secs(5);

/// How many wait at most; beyond, they are answered at once.
const MAX_WAITING: usize = 1024;

/// How many cancelled INVITEs are remembered; beyond, the one that would be forgotten next.
const MAX_CANCELLED: usize = 4096;

/// What a request waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum News {
    /// The announcement of its transaction.
    Transaction(u64),
    /// A container that takes new dialogs.
    Container,
}

/// A request that waits.
#[derive(Debug)]
pub(super) struct Waiting {
    deadline: Instant,
    news: News,
    /// Of its transaction.
    key: u64,
    /// The answer if the news does not come.
    refusal: Refusal,
    source: Flow,
    bytes: Box<[u8]>,
}

impl Waiting {
    /// Whether it is the INVITE of this transaction, and waits for a container.
    fn is_invite(&self, key: u64) -> bool {
        self.key == key && self.news == News::Container && self.bytes.starts_with(b"INVITE ")
    }
}

/// Those that wait, and those that do no more.
#[derive(Debug, Default)]
pub(super) struct Early {
    waiting: VecDeque<Waiting>,
    /// Transactions of INVITEs that were cancelled while they waited, and until when they are remembered.
    cancelled: HashMap<u64, Instant>,
}

impl Early {
    fn remember_cancelled(&mut self, key: u64, until: Instant) {
        if self.cancelled.len() >= MAX_CANCELLED {
            let next = self.cancelled.iter().min_by_key(|(_, until)| **until);
            if let Some(next) = next.map(|(key, _)| *key) {
                self.cancelled.remove(&next);
            }
        }
        self.cancelled.insert(key, until);
    }
}

/// How a request waits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Waits {
    /// It does not: this is its answer.
    No(Refusal),
    /// By itself: it is counted when it goes on or is answered.
    Itself,
    /// It repeats one that does, and is heard of no more.
    WithItsFirst,
}

impl Core {
    /// Lets a request wait that would be refused for want of news, unless there are too many.
    pub(super) fn wait_for_news(&mut self, arrival: Arrival<'_>, source: &Flow, key: u64, refusal: Refusal) -> Waits {
        let message = arrival.message;
        let (news, patience, refusal) = match refusal {
            // Without a container nobody can say that there is no such call.
            Refusal::UNKNOWN if message.method() == Method::Cancel && !self.has_active() => {
                (News::Transaction(key), FOR_CONTAINER, Refusal::NO_CONTAINER)
            }
            // Its owner may be among those that are being replaced: the next one announces its transactions.
            Refusal::UNKNOWN if message.method() == Method::Cancel && !self.all_are_owned() => {
                (News::Transaction(key), FOR_CONTAINER, Refusal::LATE)
            }
            Refusal::UNKNOWN if message.method() == Method::Cancel => (News::Transaction(key), FOR_INVITE, refusal),
            Refusal::NO_CONTAINER => (News::Container, FOR_CONTAINER, refusal),
            _ => return Waits::No(refusal),
        };
        // A repetition waits with its first: each by itself, one could be refused and the next begin a call of which its caller knows nothing.
        let is_same = |waiting: &Waiting| waiting.key == key && waiting.news == news;
        let waiting = &mut self.early.waiting;
        if waiting.iter().any(is_same) {
            return Waits::WithItsFirst;
        }
        if waiting.len() >= MAX_WAITING {
            return Waits::No(refusal);
        }
        waiting.push_back(Waiting {
            deadline: arrival.now + patience,
            news,
            key,
            refusal,
            source: *source,
            bytes: message.as_bytes().into(),
        });
        Waits::Itself
    }

    /// The answer to a request whose INVITE waits here for a container and is cancelled, or has been; the INVITE is answered too (RFC 3261
    /// s9.2).
    pub(super) fn called_off(&mut self, now: Instant, request: &Request<'_>, effects: &mut Effects) -> Option<Refusal> {
        let key = request.keys.transaction;
        let early = &mut self.early;
        if let Some(until) = early.cancelled.get_mut(&key) {
            match request.method {
                Method::Cancel => return Some(Refusal::CANCELS),
                Method::Invite => return Some(Refusal::CANCELLED),
                Method::Ack => *until = (*until).min(now + T4),
                _ => {}
            }
            return None;
        }
        if request.method != Method::Cancel {
            return None;
        }
        let at = early.waiting.iter().position(|waiting| waiting.is_invite(key))?;
        let invite = early.waiting.remove(at)?;
        early.remember_cancelled(key, now + FOR_REPETITIONS);
        self.refuse_waiting(Refusal::CANCELLED, &invite.bytes, &invite.source, effects);
        Some(Refusal::CANCELS)
    }

    /// Something has been announced: what waited for it goes on.
    pub(super) fn news(&mut self, now: Instant, effects: &mut Effects) {
        if self.early.waiting.is_empty() {
            return;
        }
        let has_active = self.has_active();
        for _ in 0..self.early.waiting.len() {
            let Some(waiting) = self.early.waiting.pop_front() else {
                return;
            };
            let has_come = match waiting.news {
                News::Transaction(key) => self.transactions.find(key).is_some(),
                News::Container => has_active,
            };
            if !has_come {
                self.early.waiting.push_back(waiting);
                continue;
            }
            self.comes_again(now, &waiting.source, &waiting.bytes, effects);
        }
    }

    /// A client's request that has waited goes its way from the start.
    pub(super) fn comes_again(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        let mut index = Index::new();
        if index.scan(bytes, &INNER).is_ok() {
            let message = &Message::new(bytes, &index);
            self.client(Arrival { now, message }, source, &mut Edit::new(), effects);
        }
    }

    /// Answers those that have waited in vain, and forgets those whose repetitions are over.
    pub(super) fn no_news(&mut self, now: Instant, effects: &mut Effects) {
        self.early.cancelled.retain(|_, until| *until > now);
        for _ in 0..self.early.waiting.len() {
            let Some(waiting) = self.early.waiting.pop_front() else {
                return;
            };
            match waiting.deadline > now {
                true => self.early.waiting.push_back(waiting),
                false => self.refuse_waiting(waiting.refusal, &waiting.bytes, &waiting.source, effects),
            }
        }
    }

    fn refuse_waiting(&mut self, refusal: Refusal, bytes: &[u8], source: &Flow, effects: &mut Effects) {
        let mut index = Index::new();
        if index.scan(bytes, &INNER).is_ok() {
            let message = Message::new(bytes, &index);
            self.refuse(Kind::NewRequest, refusal, &message, source, &mut Edit::new(), effects);
        }
    }

    /// Whether a container is in reach that takes new dialogs, if it has not too much to do.
    pub(super) fn has_active(&self) -> bool {
        self.containers.iter().any(|(slot, container)| {
            container.link.is_some() && self.balancer.state(slot) == Some(MemberState::Active) && self.owns(slot)
        }) || self.has_active_relayed()
    }

    /// Whether every partition has an owner in reach.
    fn all_are_owned(&self) -> bool {
        let in_reach = |container: &Container| container.link.is_some() || self.peers.reach(container.incarnation);
        let owners = self.containers.iter().filter(|(_, container)| in_reach(container));
        let owned = owners.map(|(slot, _)| self.routing.owned(slot).len());
        owned.sum::<usize>() >= self.routing.partitions()
    }
}

//! CANCELs that came before the news of their INVITE: they wait a moment for a container to announce it.
//!
//! A client may send the CANCEL to another proxy than the INVITE. That proxy hears of the transaction from the container, but
//! on another connection, so the CANCEL may win the race; 481 at once would let the call ring on.

use std::collections::VecDeque;
use std::time::Duration;

use sip::{Edit, Index, Instant, Limits, Message, Method};
use ucf::flow::Flow;

use super::Core;
use super::counters::Kind;
use super::effects::Effects;
use super::path::Arrival;
use super::refusal::Refusal;

/// How long it waits: announcements take milliseconds, and below T1 (500 ms) nobody repeats the CANCEL.
const PATIENCE: Duration = Duration::from_millis(300);

/// How many wait at most; beyond, they are answered at once.
const MAX_WAITING: usize = 1024;

/// A request that waits for its transaction to be announced.
#[derive(Debug)]
pub(super) struct Waiting {
    deadline: Instant,
    key: u64,
    source: Flow,
    bytes: Box<[u8]>,
}

/// Those that wait, oldest first.
pub(super) type Early = VecDeque<Waiting>;

impl Core {
    /// Lets a CANCEL wait that no transaction is known for; false if it is none, or if there are too many.
    pub(super) fn wait_for_news(&mut self, arrival: Arrival<'_>, source: &Flow, key: u64, refusal: Refusal) -> bool {
        let message = arrival.message;
        let may_wait = refusal == Refusal::UNKNOWN && message.method() == Method::Cancel;
        if !may_wait || self.early.len() >= MAX_WAITING {
            return false;
        }
        self.early.push_back(Waiting {
            deadline: arrival.now + PATIENCE,
            key,
            source: *source,
            bytes: message.as_bytes().into(),
        });
        true
    }

    /// Transactions have been announced: what waited for them goes on.
    pub(super) fn news(&mut self, now: Instant, effects: &mut Effects) {
        let mut at = 0;
        while let Some(waiting) = self.early.get(at) {
            if self.transactions.find(waiting.key).is_none() {
                at += 1;
            } else if let Some(Waiting { source, bytes, .. }) = self.early.remove(at) {
                let mut index = Index::new();
                if index.scan(&bytes, &Limits::default()).is_ok() {
                    let message = &Message::new(&bytes, &index);
                    self.client(Arrival { now, message }, &source, &mut Edit::new(), effects);
                }
            }
        }
    }

    /// Answers those that have waited in vain.
    pub(super) fn no_news(&mut self, now: Instant, effects: &mut Effects) {
        while let Some(waiting) = self.early.front()
            && waiting.deadline <= now
            && let Some(Waiting { source, bytes, .. }) = self.early.pop_front()
        {
            let mut index = Index::new();
            if index.scan(&bytes, &Limits::default()).is_ok() {
                let message = Message::new(&bytes, &index);
                let kind = Kind::InDialogRequest;
                self.refuse(kind, Refusal::UNKNOWN, &message, &source, &mut Edit::new(), effects);
            }
        }
    }
}

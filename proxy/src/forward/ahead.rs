//! Output of a container that came before the news that the container owns the partition: it waits a moment for it.
//!
//! A successor announces what it has claimed on UCF and sends on SIP: two connections, so what it sends may be read first, and
//! then looks like a stale owner's. Dropping it would lose an answer that no peer of a stream asks for again.
//! Waiting is safe either way: whatever a container sends was committed while it owned (invariant 1).

use std::collections::VecDeque;
use std::time::Duration;

use sip::{Edit, Index, Instant, Message};
use transport::legs::INNER;
use ucf::PartitionId;

use super::Core;
use super::counters::DropReason;
use super::effects::{Effects, LinkId};
use super::path::Arrival;

/// How long output waits: announcements take milliseconds.
const FOR_OWNERSHIP: Duration = Duration::from_millis(300);

/// Bytes that wait at most; what comes beyond is dropped. A takeover sends the last responses of half a minute's calls at once.
const MAX_BYTES: usize = 8 << 20;

/// Messages that wait, in the order in which they came.
#[derive(Debug, Default)]
pub(super) struct Ahead {
    waiting: VecDeque<Output>,
    bytes: usize,
}

/// One message of a container for a partition that is another's as far as is known.
#[derive(Debug)]
struct Output {
    deadline: Instant,
    link: LinkId,
    partition: PartitionId,
    bytes: Box<[u8]>,
}

impl Core {
    /// Keeps fenced output; false if there is no room.
    pub(super) fn wait_for_ownership(&mut self, arrival: Arrival<'_>, link: LinkId, partition: PartitionId) -> bool {
        let bytes = arrival.message.as_bytes();
        if self.ahead.bytes + bytes.len() > MAX_BYTES {
            return false;
        }
        self.ahead.bytes += bytes.len();
        self.ahead.waiting.push_back(Output {
            deadline: arrival.now + FOR_OWNERSHIP,
            link,
            partition,
            bytes: bytes.into(),
        });
        true
    }

    /// Owners have been announced: sends what is not fenced any more, drops what has waited in vain.
    pub(super) fn settle_output(&mut self, now: Instant, effects: &mut Effects) {
        if self.ahead.waiting.is_empty() {
            return;
        }
        let waiting = std::mem::take(&mut self.ahead);
        let (mut index, mut edit) = (Index::new(), Edit::new());
        for output in waiting.waiting {
            let slot = self.containers.slot(output.link);
            let fenced = slot.is_none_or(|slot| self.routing.fenced(slot, output.partition).is_some());
            match slot {
                Some(slot) if !fenced => {
                    if index.scan(&output.bytes, &INNER).is_ok() {
                        let message = &Message::new(&output.bytes, &index);
                        self.container(Arrival { now, message }, (slot, output.link), &mut edit, effects);
                    }
                }
                Some(_) if output.deadline > now => {
                    self.ahead.bytes += output.bytes.len();
                    self.ahead.waiting.push_back(output);
                }
                _ => self.drop_output(&output.bytes, &mut index, DropReason::Fenced),
            }
        }
    }

    fn drop_output(&mut self, bytes: &[u8], index: &mut Index, why: DropReason) {
        if index.scan(bytes, &INNER).is_ok() {
            self.count_output(&Message::new(bytes, index), Err(why));
        }
    }
}

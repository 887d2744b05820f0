//! The open turn, turns whose writes are under way, and what they release in order.

use std::collections::VecDeque;
use std::time::Duration;

use bytes::Bytes;
use sip::Instant;
use ucf::member::{Gate, Notice};
use ucf::{Epoch, PartitionId};

use super::asks::Asking;
use super::partition::Partition;
use super::turn::{Announcement, Confirm, Fate, Input, Leaving, Output, Turn, Write, WriteOutcome};
use super::{Engine, Scratch, restore};
use crate::records::Key;

/// How often records of ended transactions that found no write to ride on are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(10);

/// How long they wait for a ride.
const RIPE: Duration = Duration::from_secs(20);

/// How soon the next sweep follows one that left some behind.
const SWEEP_ON: Duration = Duration::from_millis(50);

/// Records deleted by one sweep.
const SWEEP_DELETES: usize = 4096;

/// Keys of ended transactions that ride on one write.
const MAX_RIDERS: usize = 512;

/// Records of one [`Write`], set and deleted: Lua's `unpack` takes 8000 values at most.
const WRITE: Room = Room {
    records: 1024,
    bytes: 256 << 10,
};

/// Records of one turn's writes, which are one script: Redis serves nobody else meanwhile, and has to answer within the budget. What
/// many inputs at once change beyond that is written by further turns.
const TURN: Room = Room {
    records: 4096,
    bytes: 1 << 20,
};

/// Records that a turn rewrites beside what its inputs changed.
const REWRITE: Room = Room {
    records: 512,
    bytes: 256 << 10,
};

/// An input and whose write it waits for.
pub(super) type Waits = (Confirm, Option<(PartitionId, Epoch)>);

/// What still fits.
#[derive(Clone, Copy, Debug)]
struct Room {
    records: usize,
    bytes: usize,
}

impl Room {
    /// Takes up some, `false` if nothing is left then.
    fn take(&mut self, records: usize, bytes: usize) -> bool {
        self.records = self.records.saturating_sub(records);
        self.bytes = self.bytes.saturating_sub(bytes);
        self.records > 0 && self.bytes > 0
    }

    fn fits(&self, records: usize, bytes: usize) -> bool {
        records <= self.records && bytes <= self.bytes
    }
}

/// A turn that is gathered and not begun: its writes, and what they release.
#[derive(Debug, Default)]
pub(super) struct Batch {
    writes: Vec<Write>,
    outputs: Vec<Leaving>,
    confirms: Vec<Waits>,
    asks: Vec<Asking>,
}

/// Partitions that are written whole, a few with each turn.
#[derive(Debug)]
pub(super) struct Reconciling {
    /// The member waits for it.
    round: Option<u64>,
    left: VecDeque<(PartitionId, Epoch)>,
    /// The last turn that rewrites any.
    last: u64,
}

/// What the open turn has gathered.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub outputs: Vec<Output>,
    confirms: Vec<Waits>,
    pub asks: Vec<Asking>,
    pub announcements: Vec<Announcement>,
    touched: Vec<PartitionId>,
    /// Reused by every machine that is driven.
    pub scratch: Scratch,
}

/// A turn that waits for its writes and for the turns before it.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    outputs: Vec<Leaving>,
    confirms: Vec<Waits>,
    asks: Vec<Asking>,
    pub(super) writes: Vec<(PartitionId, Epoch)>,
    pub(super) written: bool,
}

impl Open {
    /// The input is done with once the partition's write is; without partition, with the turn.
    pub fn confirm(&mut self, input: Input, owner: Option<(PartitionId, Epoch)>) {
        let fate = Fate::Done;
        self.confirms.push((Confirm { input, fate }, owner));
    }

    /// The input is another's.
    pub fn give_back(&mut self, input: Input) {
        let fate = Fate::Returned;
        self.confirms.push((Confirm { input, fate }, None));
    }

    /// The partition is looked at when the turn ends.
    pub fn touch(&mut self, partition: PartitionId) {
        if self.touched.last() != Some(&partition) {
            self.touched.push(partition);
        }
    }
}

impl Engine {
    /// Ends the open turn; `None` if nothing has happened in it. What is too much for one turn follows with the next calls: call again
    /// once the turn is written.
    pub fn end_turn(&mut self, now: Instant) -> Option<Turn> {
        if self.batches.is_empty() {
            self.gather(now);
        }
        let turn = self.begin();
        self.release();
        self.tell_reconciled();
        turn
    }

    /// Puts what has happened into turns of bounded size. Outputs wait for the last of them.
    fn gather(&mut self, now: Instant) {
        let mut touched = std::mem::take(&mut self.open.touched);
        touched.sort_unstable();
        touched.dedup();
        let mut room = TURN;
        for id in touched.drain(..) {
            let writes = self.write(now, id, false);
            self.enqueue(writes, &mut room);
        }
        self.open.touched = touched;
        if !self.acts_from_memory() {
            self.rewrite(now, &mut room);
        }
        if self.open.outputs.is_empty() && self.open.confirms.is_empty() && self.open.asks.is_empty() {
            return;
        }
        if self.batches.is_empty() {
            self.batches.push_back(Batch::default());
        }
        let outputs = std::mem::take(&mut self.open.outputs);
        let outputs = outputs.into_iter().map(|output| self.leaving(output)).collect();
        if let Some(last) = self.batches.back_mut() {
            last.outputs = outputs;
            last.confirms = std::mem::take(&mut self.open.confirms);
            last.asks = std::mem::take(&mut self.open.asks);
        }
    }

    /// What its partition's writes have to have come to before the output may leave.
    fn leaving(&self, output: Output) -> Leaving {
        let partition = self.partitions[usize::from(output.partition.0)].as_ref();
        let write = partition.map_or(0, |partition| partition.number + u64::from(partition.unsaved));
        Leaving {
            output,
            write,
            from_memory: false,
        }
    }

    /// Transactions that began or ended: proxies hear of them at once, whatever turns and writes wait for.
    pub fn take_announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.open.announcements)
    }

    /// Puts a partition's writes into the last turn, or into further ones if that is full: into one if they fit at all, so that what
    /// belongs together is stored together.
    fn enqueue(&mut self, writes: Vec<Write>, room: &mut Room) {
        let (records, bytes) = writes
            .iter()
            .map(size)
            .fold((0, 0), |sum, one| (sum.0 + one.0, sum.1 + one.1));
        let mut anew = self.batches.is_empty() || !room.fits(records, bytes);
        for write in writes {
            if std::mem::take(&mut anew) {
                self.batches.push_back(Batch::default());
                *room = TURN;
            }
            let (records, bytes) = size(&write);
            anew = !room.take(records, bytes);
            if let Some(batch) = self.batches.back_mut() {
                batch.writes.push(write);
            }
        }
    }

    /// Begins the next turn that is gathered. Partitions that were dropped since are not written: a store that forgot would take the
    /// write for the owner's.
    fn begin(&mut self) -> Option<Turn> {
        while let Some(mut batch) = self.batches.pop_front() {
            batch
                .writes
                .retain(|write| self.epoch(write.partition) == Some(write.epoch));
            self.turn += 1;
            self.counters.writes += batch.writes.len() as u64;
            self.waiting.push_back(Waiting {
                number: self.turn,
                outputs: batch.outputs,
                confirms: batch.confirms,
                asks: batch.asks,
                writes: batch
                    .writes
                    .iter()
                    .map(|write| (write.partition, write.epoch))
                    .collect(),
                written: batch.writes.is_empty(),
            });
            if !batch.writes.is_empty() || self.batches.is_empty() {
                return Some(Turn {
                    number: self.turn,
                    writes: batch.writes,
                });
            }
        }
        None
    }

    /// What of a partition is to be written: what changed, or with `replace` everything.
    fn write(&mut self, now: Instant, id: PartitionId, replace: bool) -> Vec<Write> {
        let contact = self.shared.contact(id, false);
        let Some(partition) = self.partitions[usize::from(id.0)].as_mut() else {
            return Vec::new();
        };
        if !partition.is_changed() && !replace {
            return Vec::new();
        }
        let kept = match self.gate {
            Gate::Memory { .. } => true,
            // What is not saved is about to be written whole: the member asks for that.
            Gate::Hold => partition.unsaved,
            Gate::Committed => false,
        };
        if kept && !replace {
            partition.leave_unwritten();
            return Vec::new();
        }
        let replace = std::mem::take(&mut partition.unsaved) || replace;
        let mut deletes = std::mem::take(&mut partition.deletes);
        let mut keys = std::mem::take(&mut partition.dirty);
        if replace {
            keys = partition.keys();
            deletes.clear();
            partition.ripe.clear();
        }
        keys.sort_unstable();
        keys.dedup();
        let mut sets = Vec::with_capacity(keys.len());
        for key in &keys {
            if let Some(record) = restore::store(partition, *key, self.clock, now, &contact) {
                sets.push((*key, record));
            }
        }
        let riders = MAX_RIDERS.saturating_sub(deletes.len()).min(partition.ripe.len());
        deletes.extend(partition.ripe.drain(..riders));
        if partition.ripe.is_empty() {
            partition.ripe_since = None;
        }
        // A transaction that ended and began anew within one turn: the record stays.
        deletes.retain(|key| sets.binary_search_by_key(key, |(set, _)| *set).is_err());
        divide(partition, replace, sets, deletes)
    }

    /// How the writes of a turn went, in their order.
    pub fn handle_written(&mut self, turn: u64, outcomes: &[WriteOutcome]) {
        let Some(at) = self.waiting.iter().position(|waiting| waiting.number == turn) else {
            return;
        };
        self.waiting[at].written = true;
        let writes = std::mem::take(&mut self.waiting[at].writes);
        for ((id, epoch), outcome) in writes.into_iter().zip(outcomes) {
            self.written(id, epoch, *outcome);
        }
        self.release();
        self.tell_reconciled();
    }

    fn written(&mut self, id: PartitionId, epoch: Epoch, outcome: WriteOutcome) {
        if self.epoch(id) != Some(epoch) {
            return;
        }
        match outcome {
            WriteOutcome::Written | WriteOutcome::Behind => {
                if let Some(partition) = self.partitions[usize::from(id.0)].as_mut() {
                    partition.unwritten -= 1;
                }
                if outcome == WriteOutcome::Behind {
                    self.close_gate();
                    self.notices.push_back(Notice::Behind(id));
                }
                self.tell_frozen(id);
            }
            WriteOutcome::Stale { owner, epoch: stored } => {
                self.counters.stale += 1;
                self.notices.push_back(Notice::Stale {
                    partition: id,
                    written: epoch,
                    owner,
                    epoch: stored,
                });
                self.drop_partition(id);
            }
        }
    }

    /// Tells the member once that a frozen partition is written whole.
    pub(super) fn tell_frozen(&mut self, id: PartitionId) {
        let Some(partition) = self.partitions[usize::from(id.0)].as_mut() else {
            return;
        };
        let quiet = partition.is_written();
        if let Some(frozen) = &mut partition.frozen
            && quiet
            && !std::mem::replace(&mut frozen.told, true)
        {
            self.notices.push_back(Notice::Frozen(id));
        }
    }

    /// Releases turns from the oldest on, as long as they are written. What belongs to a partition that was lost meanwhile goes back.
    pub(super) fn release(&mut self) {
        while let Some(turn) = self.waiting.pop_front_if(|turn| turn.written) {
            for leaving in turn.outputs {
                if self.epoch(leaving.output.partition) == Some(leaving.output.epoch) {
                    self.released.outputs.push(leaving);
                }
            }
            for asking in turn.asks {
                if self.epoch(asking.id.partition) == Some(asking.epoch) {
                    self.released.asks.push(asking);
                }
            }
            for (mut confirm, owner) in turn.confirms {
                if owner.is_some_and(|(id, epoch)| self.epoch(id) != Some(epoch)) {
                    confirm.fate = Fate::Returned;
                }
                self.released.confirms.push((confirm, owner));
            }
        }
    }

    /// Gives up what is to be written, be it under way: memory is acted from, and is written whole once the store is back. What came of
    /// writes under way is of no interest any more.
    pub(super) fn give_up_writes(&mut self) {
        while self.begin().is_some() {}
        let mut unsaved: Vec<_> = (self.waiting.iter_mut())
            .flat_map(|turn| {
                turn.written = true;
                std::mem::take(&mut turn.writes)
            })
            .collect();
        if let Some(reconciling) = self.reconciling.take() {
            unsaved.extend(reconciling.left);
        }
        for (id, epoch) in unsaved {
            let partition = self.partitions[usize::from(id.0)].as_mut();
            if let Some(partition) = partition.filter(|partition| partition.epoch == epoch) {
                partition.unwritten = 0;
                partition.rewrite = false;
                partition.leave_unwritten();
            }
        }
        self.release();
    }

    /// Writes these partitions whole with the next turns; [`Notice::Reconciled`] follows. A later round replaces an earlier one.
    pub fn reconcile(&mut self, round: u64, partitions: &[(PartitionId, Epoch)]) {
        for partition in self.partitions.iter_mut().flatten() {
            partition.rewrite = false;
        }
        let mut left = VecDeque::with_capacity(partitions.len());
        for (id, epoch) in partitions {
            if let Some(partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::as_mut)
                && partition.epoch == *epoch
            {
                partition.rewrite = true;
                left.push_back((*id, *epoch));
            }
        }
        self.reconciling = Some(Reconciling {
            round: Some(round),
            left,
            last: 0,
        });
        self.tell_reconciled();
    }

    /// Writes all partitions whole with the next turns: deadlines in their records are wrong.
    pub(super) fn rewrite_all(&mut self) {
        let reconciling = self.reconciling.get_or_insert_with(|| Reconciling {
            round: None,
            left: VecDeque::new(),
            last: 0,
        });
        for partition in self.partitions.iter_mut().flatten() {
            if !std::mem::replace(&mut partition.rewrite, true) {
                reconciling.left.push_back((partition.id, partition.epoch));
            }
        }
    }

    /// Adds some of the partitions that are to be written whole.
    fn rewrite(&mut self, now: Instant, room: &mut Room) {
        let Some(mut reconciling) = self.reconciling.take() else {
            return;
        };
        let mut share = REWRITE;
        while let Some((id, epoch)) = reconciling.left.pop_front() {
            let place = self.partitions[usize::from(id.0)].as_mut();
            let Some(partition) = place.filter(|partition| partition.epoch == epoch) else {
                continue;
            };
            partition.rewrite = false;
            let writes = self.write(now, id, true);
            let goes_on = writes
                .iter()
                .map(size)
                .all(|(records, bytes)| share.take(records, bytes));
            self.enqueue(writes, room);
            reconciling.last = self.turn + self.batches.len() as u64;
            if !goes_on {
                break;
            }
        }
        self.reconciling = Some(reconciling);
    }

    /// Tells the member once that nothing is left to be rewritten, be it that it is written or that it was dropped.
    fn tell_reconciled(&mut self) {
        let under_way =
            |last: u64| self.turn < last || self.waiting.iter().any(|turn| turn.number <= last && !turn.written);
        let Some(reconciling) = &self.reconciling else { return };
        if reconciling.left.is_empty() && !under_way(reconciling.last) {
            self.notices.extend(reconciling.round.map(Notice::Reconciled));
            self.reconciling = None;
        }
    }

    /// Gives records of ended transactions their own write where none came by.
    pub(super) fn sweep_ripe(&mut self, now: Instant) {
        self.sweep = Instant::MAX;
        let mut room = SWEEP_DELETES;
        for partition in self.partitions.iter_mut().flatten() {
            let Some(since) = partition.ripe_since else { continue };
            if since + RIPE > now || partition.frozen.is_some() {
                self.sweep = self.sweep.min(now + SWEEP);
                continue;
            }
            let count = partition.ripe.len().min(room);
            room -= count;
            partition.deletes.extend(partition.ripe.drain(..count));
            if partition.ripe.is_empty() {
                partition.ripe_since = None;
            } else {
                self.sweep = now + SWEEP_ON;
            }
            if count > 0 {
                self.open.touch(partition.id);
            }
        }
    }
}

/// Records and bytes of a write. One without records counts as well.
fn size(write: &Write) -> (usize, usize) {
    let bytes: usize = write.sets.iter().map(|(_, record)| record.len()).sum();
    ((write.sets.len() + write.deletes.len()).max(1), bytes)
}

/// Numbers the writes of these records, each of bounded size.
fn divide(partition: &mut Partition, replace: bool, sets: Vec<(Key, Bytes)>, deletes: Vec<Key>) -> Vec<Write> {
    let (mut sets, mut deletes) = (sets.into_iter().peekable(), deletes.into_iter().peekable());
    let mut writes = Vec::with_capacity(1);
    let mut replace = replace;
    while replace || sets.peek().is_some() || deletes.peek().is_some() {
        partition.number += 1;
        partition.unwritten += 1;
        let mut write = Write {
            partition: partition.id,
            epoch: partition.epoch,
            number: partition.number,
            replace: std::mem::take(&mut replace),
            sets: Vec::with_capacity(sets.len().min(WRITE.records)),
            deletes: Vec::new(),
        };
        let mut room = WRITE;
        let mut goes_on = true;
        while goes_on && let Some((key, record)) = sets.next() {
            goes_on = room.take(1, record.len());
            write.sets.push((key, record));
        }
        while goes_on && let Some(key) = deletes.next() {
            goes_on = room.take(1, 0);
            write.deletes.push(key);
        }
        writes.push(write);
    }
    writes
}

//! The open turn, turns whose writes are under way, and what they release in order.

use std::time::Duration;

use sip::Instant;
use ucf::member::{Gate, Notice};
use ucf::{Epoch, PartitionId};

use super::turn::{Announcement, Confirm, Input, Output, Released, Turn, Write, WriteOutcome};
use super::{Engine, Scratch, restore};

/// How often records of ended transactions that found no write to ride on are looked for.
pub(super) const SWEEP: Duration = Duration::from_secs(10);

/// How long they wait for a ride.
const RIPE: Duration = Duration::from_secs(20);

/// Keys deleted with one write: a script takes a few thousand arguments, and others wait meanwhile.
const MAX_DELETES: usize = 512;

/// An input and whose write it waits for.
type Waits = (Confirm, Option<(PartitionId, Epoch)>);

/// What the open turn has gathered.
#[derive(Debug, Default)]
pub(super) struct Open {
    pub outputs: Vec<Output>,
    confirms: Vec<Waits>,
    pub announcements: Vec<Announcement>,
    touched: Vec<PartitionId>,
    /// Reused by every machine that is driven.
    pub scratch: Scratch,
}

/// A turn that waits for its writes and for the turns before it.
#[derive(Debug)]
pub(super) struct Waiting {
    number: u64,
    outputs: Vec<Output>,
    confirms: Vec<Waits>,
    writes: Vec<(PartitionId, Epoch)>,
    written: bool,
}

impl Open {
    /// The input is done with once the partition's write is; without partition, with the turn.
    pub fn confirm(&mut self, input: Input, owner: Option<(PartitionId, Epoch)>) {
        self.confirms.push((Confirm { input, returned: false }, owner));
    }

    /// The input is another's.
    pub fn give_back(&mut self, input: Input) {
        self.confirms.push((Confirm { input, returned: true }, None));
    }

    /// The partition is looked at when the turn ends.
    pub fn touch(&mut self, partition: PartitionId) {
        if self.touched.last() != Some(&partition) {
            self.touched.push(partition);
        }
    }
}

impl Engine {
    /// Ends the open turn; `None` if nothing has happened in it.
    pub fn end_turn(&mut self, now: Instant) -> Option<Turn> {
        let mut touched = std::mem::take(&mut self.open.touched);
        touched.sort_unstable();
        touched.dedup();
        let writes: Vec<Write> = touched.iter().filter_map(|id| self.write(now, *id)).collect();
        touched.clear();
        self.open.touched = touched;
        let open = &mut self.open;
        if writes.is_empty() && open.outputs.is_empty() && open.confirms.is_empty() {
            return None;
        }
        self.turn += 1;
        self.waiting.push_back(Waiting {
            number: self.turn,
            outputs: std::mem::take(&mut open.outputs),
            confirms: std::mem::take(&mut open.confirms),
            writes: writes.iter().map(|write| (write.partition, write.epoch)).collect(),
            written: writes.is_empty(),
        });
        self.counters.writes += writes.len() as u64;
        self.release();
        Some(Turn {
            number: self.turn,
            writes,
        })
    }

    /// Transactions that began or ended: proxies hear of them at once, whatever turns and writes wait for.
    pub fn take_announcements(&mut self) -> Vec<Announcement> {
        std::mem::take(&mut self.open.announcements)
    }

    /// What of a partition the open turn has to write.
    fn write(&mut self, now: Instant, id: PartitionId) -> Option<Write> {
        let contact = self.shared.contact(id, false);
        let partition = self.partitions[usize::from(id.0)].as_mut()?;
        if !partition.is_changed() {
            return None;
        }
        let replace = std::mem::take(&mut partition.replace);
        let mut keys = if replace {
            partition.keys()
        } else {
            std::mem::take(&mut partition.dirty)
        };
        keys.sort_unstable();
        keys.dedup();
        let mut sets = Vec::with_capacity(keys.len());
        for key in &keys {
            if let Some(record) = restore::encode(partition, *key, self.clock, now, &contact) {
                sets.push((*key, record));
            }
        }
        partition.dirty.clear();
        let mut deletes = std::mem::take(&mut partition.deletes);
        let room = MAX_DELETES.saturating_sub(deletes.len()).min(partition.ripe.len());
        deletes.extend(partition.ripe.drain(..room));
        if partition.ripe.is_empty() {
            partition.ripe_since = None;
        }
        // A transaction that ended and began anew within one turn: the record stays.
        deletes.retain(|key| !sets.iter().any(|(set, _)| set == key));
        if sets.is_empty() && deletes.is_empty() && !replace {
            return None;
        }
        partition.number += 1;
        partition.unwritten += 1;
        Some(Write {
            partition: id,
            epoch: partition.epoch,
            number: partition.number,
            replace,
            sets,
            deletes,
        })
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
        if let Some((round, _)) = self.reconciling.take_if(|(_, last)| *last <= turn) {
            self.notices.push_back(Notice::Reconciled(round));
        }
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
        let quiet = partition.unwritten == 0 && !partition.is_changed();
        if let Some(frozen) = &mut partition.frozen
            && quiet
            && !std::mem::replace(&mut frozen.told, true)
        {
            self.notices.push_back(Notice::Frozen(id));
        }
    }

    /// Releases turns from the oldest on, as long as they are written. What belongs to a partition that was lost meanwhile goes back.
    fn release(&mut self) {
        while let Some(turn) = self.waiting.pop_front_if(|turn| turn.written) {
            for output in turn.outputs {
                if self.epoch(output.partition) == Some(output.epoch) {
                    self.counters.sent += 1;
                    self.released.outputs.push(output);
                }
            }
            for (mut confirm, owner) in turn.confirms {
                confirm.returned |= owner.is_some_and(|(id, epoch)| self.epoch(id) != Some(epoch));
                self.released.confirms.push(confirm);
            }
        }
    }

    /// What may leave now, in order; nothing while the gate is closed.
    pub fn take_released(&mut self) -> Released {
        match self.gate {
            Gate::Committed => std::mem::take(&mut self.released),
            Gate::Hold | Gate::Memory { .. } => Released::default(),
        }
    }

    /// Writes these partitions whole in the next turn; [`Notice::Reconciled`] follows.
    pub fn reconcile(&mut self, round: u64, partitions: &[(PartitionId, Epoch)]) {
        let mut any = false;
        for (id, epoch) in partitions {
            if let Some(partition) = self.partitions.get_mut(usize::from(id.0)).and_then(Option::as_mut)
                && partition.epoch == *epoch
            {
                partition.replace = true;
                self.open.touch(*id);
                any = true;
            }
        }
        self.reconciling = any.then_some((round, self.turn + 1));
        if !any {
            self.notices.push_back(Notice::Reconciled(round));
        }
    }

    /// Gives records of ended transactions their own write where none came by.
    pub(super) fn sweep_ripe(&mut self, now: Instant) {
        self.sweep = Instant::MAX;
        for partition in self.partitions.iter_mut().flatten() {
            let Some(since) = partition.ripe_since else { continue };
            if since + RIPE <= now && partition.frozen.is_none() {
                partition.deletes.append(&mut partition.ripe);
                partition.ripe_since = None;
                self.open.touch(partition.id);
            } else {
                self.sweep = now + SWEEP;
            }
        }
    }
}

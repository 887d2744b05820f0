//! What is held of each partition, to be compared with what the store has of it.

use std::collections::BTreeMap;

use bytes::Bytes;
use sip::Instant;
use ucf::{Epoch, PartitionId};

use super::{Engine, restore};
use crate::records::{self, Key};

/// A partition in a few words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Digest {
    /// Which.
    pub partition: PartitionId,
    /// At which it is owned.
    pub epoch: Epoch,
    /// How many records it has.
    pub records: usize,
    /// [`records::digest`] of them.
    pub digest: u64,
    /// See [`Engine::ripe`].
    pub ripe: Vec<Key>,
}

impl Engine {
    /// All partitions. Every record is written for that: tens of milliseconds for ten thousand dialogs.
    #[must_use]
    pub fn digests(&self, now: Instant) -> Vec<Digest> {
        let of = |number: usize| {
            let id = PartitionId(u16::try_from(number).ok()?);
            let records = self.records(now, id)?;
            Some(Digest {
                partition: id,
                epoch: self.epoch(id)?,
                records: records.len(),
                digest: records::digest(records),
                ripe: self.ripe(id).to_vec(),
            })
        };
        (0..self.partitions.len()).filter_map(of).collect()
    }

    /// What [`reconcile`](Self::reconcile) would store of a partition of ours, but for what it would leave out of the store: `None`, it is
    /// not ours.
    #[must_use]
    pub fn records(&self, now: Instant, id: PartitionId) -> Option<BTreeMap<Key, Bytes>> {
        let partition = self.partitions.get(usize::from(id.0))?.as_ref()?;
        let contact = self.shared.contact(id, false);
        let record = |key: Key| Some((key, restore::encode(partition, key, self.clock, now, &contact)?));
        Some(partition.keys().into_iter().filter_map(record).collect())
    }

    /// Keys of a partition whose records are of no use any more and wait to be deleted with others.
    #[must_use]
    pub fn ripe(&self, id: PartitionId) -> &[Key] {
        let partition = self.partitions.get(usize::from(id.0)).and_then(Option::as_ref);
        partition.map_or(&[], |partition| &partition.ripe)
    }
}

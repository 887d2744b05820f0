//! Which partition took on a transaction that no token names: retransmissions, CANCEL and ACK of a new dialog follow the
//! first request, through whatever proxy they come.
//!
//! A proxy computes [`Keys`] from the client's Via (RFC 3261 s17.2.3) and writes them into the branch of its own Via
//! ([`Keys::branch`]). So a container reads them from the topmost Via ([`Keys::of_branch`]) and announces them, and a proxy
//! reads from a response which transaction has ended. The branch depends on nothing but the message (s16.11).

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};
use std::time::Duration;

use hashbrown::HashMap;
use hashbrown::hash_map::Entry as Slot;
use sip::Instant;

use crate::token::{BRANCH_COOKIE, Keyring};
use crate::wire::Transactions;
use crate::{PartitionId, base32};

/// Characters of a proxy's branch: cookie, two keys, 35 bits of the hash that tells a loop from a spiral.
pub const BRANCH_LEN: usize = 7 + KEY + KEY + LOOP;

const KEY: usize = base32::digits(8);
const LOOP: usize = 7;

/// How long a transaction is remembered after its final response: 64 * T1, when the peer has stopped repeating (s17.1).
pub const AFTER_FINAL: Duration = Duration::from_secs(32);

/// How long one is remembered whose final response never came: longer than anything rings.
pub const WITHOUT_FINAL: Duration = Duration::from_secs(600);

/// The parts of a request that its keys are made of.
#[derive(Clone, Copy, Debug)]
pub struct Parts<'a> {
    /// Branch of the topmost Via; empty if it has none.
    pub branch: &'a [u8],
    /// Host and port of the topmost Via as they stand there.
    pub sent_by: &'a [u8],
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Tag of From; empty if it has none.
    pub from_tag: &'a [u8],
    /// Number in CSeq.
    pub cseq: u32,
    /// Request-URI.
    pub uri: &'a [u8],
}

/// What identifies a transaction, the same for its ACK and CANCEL.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Keys {
    /// Hash of the client's branch and sent-by; of Call-ID, From tag and CSeq too if the branch is of RFC 2543.
    pub transaction: u64,
    /// Hash of Call-ID, From tag and CSeq number: equal for requests that are merged (s8.2.2.2).
    pub merged: u64,
}

/// The 35 bits of a proxy's branch by which a loop is told from a spiral (s16.6 step 8).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct LoopHash(u64);

impl Keys {
    /// Keys and loop hash of a request. The loop hash leaves the To tag out, because the ACK of a non-2xx has another than its
    /// INVITE and must get the same branch.
    #[must_use]
    pub fn of_request(parts: &Parts<'_>, keyring: &Keyring) -> (Self, LoopHash) {
        let mut hasher = keyring.transaction_hasher();
        write_part(&mut hasher, parts.call_id);
        write_part(&mut hasher, parts.from_tag);
        hasher.write(&parts.cseq.to_be_bytes());
        let merged = hasher.finish();
        hasher.write(parts.uri);
        let looped = LoopHash(hasher.finish() & LOOP_MASK);
        let mut hasher = keyring.transaction_hasher();
        write_part(&mut hasher, parts.sent_by);
        hasher.write(parts.branch);
        if !is_cookie(parts.branch) {
            // RFC 2543: the branch alone is not unique (s17.2.3).
            hasher.write(&merged.to_be_bytes());
        }
        let transaction = hasher.finish();
        (Self { transaction, merged }, looped)
    }

    /// The branch of a proxy's Via for this transaction.
    #[must_use]
    pub fn branch(&self, looped: LoopHash) -> [u8; BRANCH_LEN] {
        let mut text = [0; BRANCH_LEN];
        let (cookie, rest) = text.split_at_mut(BRANCH_COOKIE.len());
        cookie.copy_from_slice(BRANCH_COOKIE);
        base32::write(u128::from(self.transaction), &mut rest[..KEY]);
        base32::write(u128::from(self.merged), &mut rest[KEY..2 * KEY]);
        base32::write(u128::from(looped.0), &mut rest[2 * KEY..]);
        text
    }

    /// Keys and loop hash from the branch of a proxy's Via.
    #[must_use]
    pub fn of_branch(branch: &[u8]) -> Option<(Self, LoopHash)> {
        if branch.len() != BRANCH_LEN || !is_cookie(branch) {
            return None;
        }
        let rest = &branch[BRANCH_COOKIE.len()..];
        let keys = Self {
            transaction: u64::try_from(base32::read(&rest[..KEY])?).ok()?,
            merged: u64::try_from(base32::read(&rest[KEY..2 * KEY])?).ok()?,
        };
        Some((keys, LoopHash(base32::read(&rest[2 * KEY..])? as u64)))
    }
}

const LOOP_MASK: u64 = (1 << (5 * LOOP)) - 1;

fn is_cookie(branch: &[u8]) -> bool {
    branch
        .get(..BRANCH_COOKIE.len())
        .is_some_and(|cookie| cookie.eq_ignore_ascii_case(BRANCH_COOKIE))
}

/// With its length, so that no two lists of parts give the same bytes.
fn write_part(hasher: &mut impl Hasher, part: &[u8]) {
    hasher.write(&(part.len() as u32).to_be_bytes());
    hasher.write(part);
}

/// The keys are keyed hashes already; hashing them again buys nothing.
#[derive(Clone, Copy, Default)]
struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("keys are u64")
    }

    fn write_u64(&mut self, key: u64) {
        self.0 = key;
    }
}

type ByKey<T> = HashMap<u64, T, BuildHasherDefault<Identity>>;

#[derive(Clone, Copy, Debug)]
struct Entry {
    merged: u64,
    until: Instant,
    partition: PartitionId,
    /// A container has said so; until then the partition is where it was sent.
    announced: bool,
    /// That is news, whoever had it before.
    anew: bool,
    ended: bool,
}

/// The transactions of new dialogs that this proxy has sent or heard of.
#[derive(Debug)]
pub struct TransactionTable {
    entries: ByKey<Entry>,
    /// Merged key -> transaction key.
    merged: ByKey<u64>,
    /// In order of time, because each queue has one duration. An entry stands once in each at most.
    begun: VecDeque<(Instant, u64)>,
    ended: VecDeque<(Instant, u64)>,
    limit: usize,
}

impl TransactionTable {
    /// Holds at most `limit` transactions; beyond, the oldest ended one is forgotten first.
    #[must_use]
    pub fn new(limit: usize) -> Self {
        Self {
            entries: ByKey::default(),
            merged: ByKey::default(),
            begun: VecDeque::new(),
            ended: VecDeque::new(),
            limit: limit.max(1),
        }
    }

    /// How many are known.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether none is known.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// The partition that took this transaction on.
    #[must_use]
    pub fn find(&self, key: u64) -> Option<PartitionId> {
        self.entries.get(&key).map(|entry| entry.partition)
    }

    /// Whether another transaction than this one carries the same request (RFC 3261 s8.2.2.2).
    #[must_use]
    pub fn is_merged(&self, keys: &Keys) -> bool {
        self.merged
            .get(&keys.merged)
            .is_some_and(|first| *first != keys.transaction)
    }

    /// A transaction begins in `partition`; nothing changes if it is known.
    pub fn begin(&mut self, now: Instant, keys: &Keys, partition: PartitionId) {
        if self.entries.len() >= self.limit && !self.entries.contains_key(&keys.transaction) {
            self.forget_oldest();
        }
        let until = now + WITHOUT_FINAL;
        if let Slot::Vacant(slot) = self.entries.entry(keys.transaction) {
            slot.insert(Entry {
                merged: keys.merged,
                until,
                partition,
                announced: false,
                anew: false,
                ended: false,
            });
            self.merged.entry(keys.merged).or_insert(keys.transaction);
            self.begun.push_back((until, keys.transaction));
            self.skip_settled();
        }
    }

    /// Two for each that comes, so that what the first queue still names but has ended does not pile up behind a long call
    /// set-up; never more than twice the limit.
    fn skip_settled(&mut self) {
        for _ in 0..2 {
            let Some((until, key)) = self.begun.front().copied() else {
                return;
            };
            let waits = self.entries.get(&key).is_some_and(|entry| entry.until == until);
            if waits && self.begun.len() <= 2 * self.limit {
                return;
            }
            self.begun.pop_front();
            if waits {
                remove(&mut self.entries, &mut self.merged, key);
            }
        }
    }

    /// A transaction is as if it had never come, unless it is known to be in another partition by now, or was begun in this one by others.
    pub fn forget(&mut self, key: u64, partition: PartitionId) {
        let known = self.entries.get(&key);
        if known.is_some_and(|entry| entry.partition == partition && !entry.anew) {
            remove(&mut self.entries, &mut self.merged, key);
        }
    }

    /// The final response of a transaction has been sent.
    pub fn end(&mut self, now: Instant, key: u64) {
        if let Some(entry) = self.entries.get_mut(&key)
            && !entry.ended
        {
            entry.ended = true;
            entry.until = now + AFTER_FINAL;
            self.ended.push_back((entry.until, key));
        }
    }

    /// A container tells of transactions that it has taken on or finished. It is believed where others were only sent the request; with `anew`
    /// also where another one has said that it has it.
    pub fn announced(&mut self, now: Instant, announced: &Transactions, partitions: usize, anew: bool) {
        let begun = announced.keys.iter().zip(&announced.merged).zip(&announced.partitions);
        for ((transaction, merged), partition) in begun {
            let keys = Keys {
                transaction: *transaction,
                merged: *merged,
            };
            match u16::try_from(*partition) {
                Ok(partition) if usize::from(partition) < partitions => {
                    let partition = PartitionId(partition);
                    self.begin(now, &keys, partition);
                    if let Some(entry) = self.entries.get_mut(transaction) {
                        if anew || !entry.announced {
                            entry.partition = partition;
                        }
                        entry.announced = true;
                        entry.anew |= anew;
                    }
                }
                _ => (),
            }
        }
        for key in &announced.ended {
            self.end(now, *key);
        }
    }

    /// Announcements, of so many transactions each, of all that are in partitions that `wanted` names.
    #[must_use]
    pub fn live(&self, per_frame: usize, wanted: impl Fn(PartitionId) -> bool) -> Vec<Transactions> {
        let mut frames: Vec<Transactions> = Vec::new();
        for (key, entry) in self.entries.iter().filter(|(_, entry)| wanted(entry.partition)) {
            if frames.last().is_none_or(|frame| frame.keys.len() >= per_frame) {
                frames.push(Transactions::default());
            }
            let frame = frames.last_mut().expect("one was just added if there was none");
            frame.keys.push(*key);
            frame.merged.push(entry.merged);
            frame.partitions.push(u32::from(entry.partition.0));
            if entry.ended {
                frame.ended.push(*key);
            }
        }
        frames
    }

    /// Forgets what is over.
    pub fn expire(&mut self, now: Instant) {
        for queue in [&mut self.ended, &mut self.begun] {
            while let Some((until, key)) = queue.front().copied()
                && until <= now
            {
                queue.pop_front();
                if self.entries.get(&key).is_some_and(|entry| entry.until <= now) {
                    remove(&mut self.entries, &mut self.merged, key);
                }
            }
        }
    }

    fn forget_oldest(&mut self) {
        while self.entries.len() >= self.limit {
            let Some((until, key)) = self.ended.pop_front().or_else(|| self.begun.pop_front()) else {
                return;
            };
            if self.entries.get(&key).is_some_and(|entry| entry.until <= until) {
                remove(&mut self.entries, &mut self.merged, key);
            }
        }
    }
}

fn remove(entries: &mut ByKey<Entry>, merged: &mut ByKey<u64>, key: u64) {
    if let Some(entry) = entries.remove(&key)
        && let Slot::Occupied(first) = merged.entry(entry.merged)
        && *first.get() == key
    {
        first.remove();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

    const P: PartitionId = PartitionId(5);

    fn ring() -> Keyring {
        Keyring::new(Key { id: 0, secret: [9; 16] }, &[], 1024)
    }

    fn parts<'a>() -> Parts<'a> {
        Parts {
            branch: b"z9hG4bK776",
            sent_by: b"192.0.2.1:5060",
            call_id: b"a84b4c76e66710@pc33",
            from_tag: b"1928301774",
            cseq: 314_159,
            uri: b"sip:bob@biloxi.com",
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn keys(n: u64) -> Keys {
        Keys {
            transaction: n,
            merged: n + 1_000_000,
        }
    }

    #[test]
    fn all_proxies_make_the_same_branch_whichever_key_they_issue_with() {
        let first = Key { id: 0, secret: [9; 16] };
        let second = Key { id: 1, secret: [8; 16] };
        let of = |ring: &Keyring| Keys::of_request(&parts(), ring);
        let new = Keyring::new(second, &[first], 1024);
        assert_ne!(of(&new), of(&ring()), "by its own key");
        assert_eq!(of(&new.hashing_transactions_with(first)), of(&ring()));
    }

    #[test]
    fn a_container_reads_the_keys_from_the_branch() {
        let (keys, looped) = Keys::of_request(&parts(), &ring());
        let branch = keys.branch(looped);
        assert_eq!(Keys::of_branch(&branch), Some((keys, looped)));
        for foreign in [&b"z9hG4bK776"[..], b"", &branch[1..], &[b'z'; BRANCH_LEN]] {
            assert_eq!(Keys::of_branch(foreign), None);
        }
    }

    #[test]
    fn keys_differ_where_the_rfc_says_so() {
        let (first, looped) = Keys::of_request(&parts(), &ring());
        let other = |change: fn(&mut Parts<'_>)| {
            let mut changed = parts();
            change(&mut changed);
            Keys::of_request(&changed, &ring())
        };
        let (keys, _) = other(|parts| parts.branch = b"z9hG4bK777");
        assert!(
            keys.transaction != first.transaction && keys.merged == first.merged,
            "merged"
        );
        let (keys, _) = other(|parts| parts.sent_by = b"192.0.2.2:5060");
        assert_ne!(keys.transaction, first.transaction);
        let (keys, again) = other(|parts| parts.uri = b"sip:carol@biloxi.com");
        assert!(keys == first && again != looped, "a spiral");
        let (keys, _) = other(|parts| parts.cseq += 1);
        assert!(keys.transaction == first.transaction && keys.merged != first.merged);
    }

    #[test]
    fn old_branches_take_more_than_themselves() {
        let ring = ring();
        let mut old = parts();
        old.branch = b"1";
        let (first, _) = Keys::of_request(&old, &ring);
        old.cseq += 1;
        assert_ne!(Keys::of_request(&old, &ring).0.transaction, first.transaction);
    }

    #[test]
    fn entries_live_32_seconds_after_the_final_response() {
        let mut table = TransactionTable::new(10);
        table.begin(at(0), &keys(1), P);
        table.expire(at(300));
        assert_eq!(table.find(1), Some(P), "it may still ring");
        table.end(at(300), 1);
        table.end(at(320), 1);
        table.expire(at(331));
        assert_eq!(table.find(1), Some(P));
        table.expire(at(332));
        assert!(table.is_empty());
        assert!(
            !table.is_merged(&Keys {
                transaction: 2,
                ..keys(1)
            }),
            "nor its second key"
        );
        table.begin(at(400), &keys(1), P);
        table.expire(at(700));
        assert_eq!(
            table.find(1),
            Some(P),
            "what is begun anew is not ended by the old entry's time"
        );
    }

    #[test]
    fn what_others_have_begun_is_not_forgotten_with_what_came_here() {
        let announced = Transactions {
            keys: vec![1],
            merged: vec![keys(1).merged],
            partitions: vec![P.0.into()],
            ended: vec![],
        };
        for by_others in [false, true] {
            let mut table = TransactionTable::new(10);
            table.begin(at(0), &keys(1), P);
            table.announced(at(1), &announced, 8, false);
            if by_others {
                table.announced(at(2), &announced, 8, true);
            }
            table.forget(1, P);
            assert_eq!(table.find(1), by_others.then_some(P));
        }
    }

    #[test]
    fn a_second_branch_for_the_same_request_is_merged() {
        let mut table = TransactionTable::new(10);
        table.begin(at(0), &keys(1), P);
        assert!(!table.is_merged(&keys(1)), "a retransmission");
        assert!(table.is_merged(&Keys {
            transaction: 2,
            ..keys(1)
        }));
    }

    #[test]
    fn the_table_is_bounded_and_forgets_the_ended_first() {
        let mut table = TransactionTable::new(3);
        for n in 0..3 {
            table.begin(at(n), &keys(n), P);
        }
        table.end(at(3), 2);
        table.begin(at(4), &keys(3), P);
        assert_eq!((table.len(), table.find(2), table.find(0)), (3, None, Some(P)));
        for n in 10..1000 {
            table.begin(at(5), &keys(n), P);
            assert_eq!((table.len(), table.merged.len()), (3, 3));
            assert!(table.begun.len() <= 7);
        }
    }

    #[test]
    fn announcements_are_found_and_bad_ones_ignored() {
        let mut table = TransactionTable::new(10);
        let announced = Transactions {
            keys: vec![1, 2, 3],
            merged: vec![11, 12],
            partitions: vec![5, 70_000, 5],
            ended: vec![1, 99],
        };
        table.announced(at(0), &announced, 1024, false);
        assert_eq!((table.len(), table.find(1)), (1, Some(P)));
        table.expire(at(32));
        assert!(table.is_empty());
    }
}

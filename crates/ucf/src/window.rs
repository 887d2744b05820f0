//! What was sent to a container and is not confirmed: should the container fall, its successors get it (ARCHITECTURE.md, "Window").
//!
//! The window is the output buffer of the connection at the same time: a message is written once, into the chunk from which
//! the socket sends it, and stays there until the container confirms its number. Messages are numbered from 1 in the order
//! in which they are written.

use std::collections::{BTreeMap, VecDeque};
use std::io::IoSlice;
use std::ops::RangeInclusive;
use std::time::Duration;

use sip::Instant;

use crate::PartitionId;

/// Bytes of a chunk: some hundred messages, so that freeing one is rare and one unconfirmed message keeps little else.
const CHUNK: usize = 256 << 10;

/// A chunk is closed when less is left, so that it is not grown by a message of usual size.
const SPARE: usize = 8 << 10;

/// What a message carries with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Label {
    /// Whose it is.
    pub partition: PartitionId,
    /// When it came to this proxy worker.
    pub came: Instant,
    /// Its place among all messages of this proxy worker: lower is older.
    pub order: u64,
    /// How often a container has returned it.
    pub returns: u8,
    /// Another proxy has passed it on: it is not passed on again.
    pub relayed: bool,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    label: Label,
    sent: Instant,
    chunk: u64,
    start: u32,
    len: u32,
    /// It needs no keeping here any more.
    done: bool,
}

/// A message that the container has named as kept: it has dealt with it as far as it can.
#[derive(Debug)]
struct Aside {
    label: Label,
    sent: Instant,
    bytes: Box<[u8]>,
}

/// The messages sent on one connection.
#[derive(Debug)]
pub struct Window {
    chunks: VecDeque<Vec<u8>>,
    /// Number of `chunks[0]`.
    first_chunk: u64,
    /// Where the socket goes on: chunk and byte.
    unwritten: (u64, usize),
    entries: VecDeque<Entry>,
    /// Number of `entries[0]`.
    first: u64,
    /// Number of the first entry that waits for the container.
    waiting: u64,
    /// Messages that the container keeps, by number, copied so that one of them keeps nothing else here: it may take long until it is known who
    /// owns its partition, and what came after it is finished.
    aside: BTreeMap<u64, Aside>,
    /// Bytes of the entries, and of those aside.
    bytes: usize,
    /// One emptied chunk, to be used again.
    empty: Option<Vec<u8>>,
    max_bytes: usize,
    max_age: Duration,
}

impl Window {
    /// A window for a new connection.
    #[must_use]
    pub fn new(max_bytes: usize, max_age: Duration) -> Self {
        Self {
            chunks: VecDeque::from([Vec::with_capacity(CHUNK)]),
            first_chunk: 0,
            unwritten: (0, 0),
            entries: VecDeque::new(),
            first: 1,
            waiting: 1,
            aside: BTreeMap::new(),
            bytes: 0,
            empty: None,
            max_bytes,
            max_age,
        }
    }

    /// Bytes not confirmed.
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// How long the oldest message has waited that the container could have dealt with: one that it keeps until it is known who owns the
    /// partition is no sign of too much to do.
    #[must_use]
    pub fn waited(&self, now: Instant) -> Duration {
        self.entries
            .get((self.waiting - self.first) as usize)
            .map_or(Duration::ZERO, |oldest| now.since(oldest.sent))
    }

    /// Whether a message of this size may be added.
    #[must_use]
    pub fn has_room(&self, len: usize) -> bool {
        self.bytes + len <= self.max_bytes
    }

    /// Adds the message that `write` appends; returns its number.
    pub fn append(&mut self, now: Instant, label: Label, write: impl FnOnce(&mut Vec<u8>)) -> u64 {
        if self.chunks.back().is_none_or(|chunk| chunk.len() + SPARE > CHUNK) {
            let chunk = self.empty.take().unwrap_or_else(|| Vec::with_capacity(CHUNK));
            self.chunks.push_back(chunk);
        }
        let chunk = self
            .chunks
            .back_mut()
            .expect("a chunk was just added if there was none");
        let start = chunk.len();
        write(chunk);
        let len = chunk.len() - start;
        self.bytes += len;
        self.entries.push_back(Entry {
            label,
            sent: now,
            chunk: self.first_chunk + self.chunks.len() as u64 - 1,
            start: start as u32,
            len: len as u32,
            done: false,
        });
        self.first + self.entries.len() as u64 - 1
    }

    /// What the socket has to write, as up to `slices.len()` pieces; returns how many.
    pub fn outgoing<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let (chunk, from) = self.unwritten;
        let chunks = self.chunks.iter().skip((chunk - self.first_chunk) as usize);
        let pieces = chunks
            .enumerate()
            .map(|(n, chunk)| &chunk[if n == 0 { from } else { 0 }..])
            .filter(|piece| !piece.is_empty());
        let mut count = 0;
        for (slice, piece) in slices.iter_mut().zip(pieces) {
            *slice = IoSlice::new(piece);
            count += 1;
        }
        count
    }

    /// The socket has written so many bytes.
    pub fn wrote(&mut self, mut bytes: usize) {
        loop {
            let (chunk, from) = self.unwritten;
            let Some(left) = self
                .chunks
                .get((chunk - self.first_chunk) as usize)
                .map(|chunk| chunk.len() - from)
            else {
                return;
            };
            let is_last = chunk - self.first_chunk + 1 == self.chunks.len() as u64;
            if bytes < left || is_last {
                self.unwritten.1 += bytes.min(left);
                break;
            }
            bytes -= left;
            self.unwritten = (chunk + 1, 0);
        }
        self.free_chunks();
    }

    /// The container has confirmed all messages up to this number.
    pub fn confirm(&mut self, upto: u64) {
        while self.first <= upto && self.pop() {}
        while let Some(first) = self.aside.first_entry()
            && *first.key() <= upto
        {
            self.bytes -= first.remove().bytes.len();
        }
        self.settle();
    }

    /// The container has confirmed these above the number up to which it has confirmed all.
    pub fn finished(&mut self, numbers: RangeInclusive<u64>) {
        if numbers.is_empty() {
            return;
        }
        while let Some((number, _)) = self.aside.range(numbers.clone()).next() {
            let number = *number;
            self.put_away(number);
        }
        let count = self.entries.len();
        let place =
            |number: u64| usize::try_from(number.saturating_sub(self.first)).map_or(count, |place| place.min(count));
        let end = place(numbers.end().saturating_add(1));
        for entry in self.entries.range_mut(place(*numbers.start())..end) {
            entry.done = true;
        }
        self.settle();
    }

    /// The container keeps a message until it is known who owns its partition.
    pub fn kept(&mut self, number: u64) {
        let Some(entry) = self.entry(number).filter(|entry| !entry.done) else {
            return;
        };
        entry.done = true;
        let entry = *entry;
        let bytes: Box<[u8]> = bytes_of(&self.chunks, self.first_chunk, &entry).into();
        self.bytes += bytes.len();
        let Entry { label, sent, .. } = entry;
        self.aside.insert(number, Aside { label, sent, bytes });
        self.settle();
    }

    /// The container has returned a message: gives it to `again`, once.
    pub fn returned(&mut self, number: u64, again: impl FnOnce(Label, &[u8])) {
        if let Some(aside) = self.put_away(number) {
            again(aside.label, &aside.bytes);
        } else if let Some(entry) = self.entry(number).filter(|entry| !entry.done) {
            entry.done = true;
            let entry = *entry;
            again(entry.label, bytes_of(&self.chunks, self.first_chunk, &entry));
            self.settle();
        }
    }

    /// The partitions of the messages of which the container has said nothing yet.
    pub fn unanswered(&self) -> impl Iterator<Item = PartitionId> {
        let waiting = self.entries.iter().skip((self.waiting - self.first) as usize);
        waiting.filter(|entry| !entry.done).map(|entry| entry.label.partition)
    }

    /// Gives every unconfirmed message whose partition `wanted` names to `again`, oldest first, and keeps it no longer.
    pub fn take(&mut self, wanted: impl Fn(PartitionId) -> bool, mut again: impl FnMut(Label, &[u8])) {
        let mut aside = self
            .aside
            .iter()
            .filter(|(_, aside)| wanted(aside.label.partition))
            .peekable();
        let mut taken = Vec::new();
        for (number, entry) in (self.first..).zip(&mut self.entries) {
            while let Some((older, message)) = aside.next_if(|(older, _)| **older < number) {
                again(message.label, &message.bytes);
                taken.push(*older);
            }
            if !entry.done && wanted(entry.label.partition) {
                entry.done = true;
                again(entry.label, bytes_of(&self.chunks, self.first_chunk, entry));
            }
        }
        for (number, message) in aside {
            again(message.label, &message.bytes);
            taken.push(*number);
        }
        for number in taken {
            self.put_away(number);
        }
        self.settle();
    }

    /// Gives up what is older than the window keeps: the peer has given it up, too.
    pub fn expire(&mut self, now: Instant) {
        while let Some(entry) = self.entries.front()
            && entry.sent + self.max_age <= now
            && self.pop()
        {}
        while let Some(first) = self.aside.first_entry()
            && first.get().sent + self.max_age <= now
        {
            self.bytes -= first.remove().bytes.len();
        }
        self.settle();
    }

    fn put_away(&mut self, number: u64) -> Option<Aside> {
        let aside = self.aside.remove(&number)?;
        self.bytes -= aside.bytes.len();
        Some(aside)
    }

    fn entry(&mut self, number: u64) -> Option<&mut Entry> {
        let at = usize::try_from(number.checked_sub(self.first)?).ok()?;
        self.entries.get_mut(at)
    }

    /// Keeps nothing behind which all is done, and finds the first entry that waits. It only moves on, so each entry is passed once.
    fn settle(&mut self) {
        while self.entries.front().is_some_and(|entry| entry.done) {
            self.pop();
        }
        self.waiting = self.waiting.max(self.first);
        while let Some(entry) = self.entries.get((self.waiting - self.first) as usize)
            && entry.done
        {
            self.waiting += 1;
        }
        self.free_chunks();
    }

    fn pop(&mut self) -> bool {
        let Some(entry) = self.entries.pop_front() else {
            return false;
        };
        self.bytes -= entry.len as usize;
        self.first += 1;
        true
    }

    /// Frees chunks that are written and hold no entry.
    fn free_chunks(&mut self) {
        let (writing, written) = self.unwritten;
        let needed = self.entries.front().map_or(u64::MAX, |entry| entry.chunk);
        while self.first_chunk < writing.min(needed) {
            let Some(mut chunk) = self.chunks.pop_front() else {
                return;
            };
            self.first_chunk += 1;
            if chunk.capacity() <= 2 * CHUNK {
                chunk.clear();
                self.empty = Some(chunk);
            }
        }
        // All is written and confirmed: the only chunk starts anew, so that a quiet connection keeps to one.
        if self.entries.is_empty()
            && let [chunk] = self.chunks.make_contiguous()
            && chunk.len() == written
        {
            chunk.clear();
            self.unwritten.1 = 0;
        }
    }
}

fn bytes_of<'a>(chunks: &'a VecDeque<Vec<u8>>, first: u64, entry: &Entry) -> &'a [u8] {
    let start = entry.start as usize;
    &chunks[(entry.chunk - first) as usize][start..start + entry.len as usize]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn window() -> Window {
        Window::new(1 << 20, Duration::from_secs(32))
    }

    fn add(window: &mut Window, partition: u16, text: &str) -> u64 {
        let label = Label {
            partition: PartitionId(partition),
            came: Instant::default(),
            order: window.first + window.entries.len() as u64,
            returns: 0,
            relayed: false,
        };
        window.append(Instant::default(), label, |out| out.extend_from_slice(text.as_bytes()))
    }

    fn pending(window: &Window) -> Vec<u8> {
        let mut slices = [IoSlice::new(&[]); 64];
        let count = window.outgoing(&mut slices);
        slices[..count].iter().flat_map(|slice| slice.to_vec()).collect()
    }

    fn taken(window: &mut Window, wanted: impl Fn(u16) -> bool) -> Vec<String> {
        let mut taken = Vec::new();
        window.take(
            |partition| wanted(partition.0),
            |_, bytes| taken.push(String::from_utf8_lossy(bytes).into_owned()),
        );
        taken
    }

    #[test]
    fn messages_are_written_once_and_kept_until_confirmed() {
        let mut window = window();
        assert_eq!((add(&mut window, 1, "one"), add(&mut window, 2, "two")), (1, 2));
        assert_eq!(pending(&window), b"onetwo");
        window.wrote(4);
        assert_eq!(pending(&window), b"wo");
        window.wrote(2);
        assert_eq!((pending(&window), window.bytes()), (vec![], 6));
        window.confirm(1);
        assert_eq!(window.bytes(), 3);
        add(&mut window, 1, "three");
        assert_eq!(taken(&mut window, |_| true), ["two", "three"]);
        assert_eq!(taken(&mut window, |_| true), Vec::<String>::new(), "each only once");
    }

    #[test]
    fn a_returned_message_is_given_back_once() {
        let mut window = window();
        for text in ["one", "two", "three"] {
            add(&mut window, 1, text);
        }
        let mut returned = Vec::new();
        for number in [2, 2, 0, 9] {
            window.returned(number, |_, bytes| returned.push(bytes.to_vec()));
        }
        assert_eq!(returned, [b"two"]);
        assert_eq!(taken(&mut window, |_| true), ["one", "three"]);
        window.confirm(u64::MAX);
        assert_eq!(add(&mut window, 1, "four"), 4, "numbers go on");
    }

    #[test]
    fn the_wait_is_that_of_the_oldest_message_that_the_container_could_have_dealt_with() {
        let mut window = window();
        let at = |millis: u64| Instant::from_micros(millis * 1000);
        for n in 0..6_u16 {
            let label = Label {
                partition: PartitionId(n),
                came: Instant::default(),
                order: u64::from(n),
                returns: 0,
                relayed: false,
            };
            window.append(at(u64::from(n)), label, |out| out.push(b'x'));
        }
        let waited = |window: &Window| window.waited(at(100)).as_millis();
        assert_eq!(waited(&window), 100);
        window.kept(2);
        assert_eq!(waited(&window), 100, "the first one waits all the same");
        window.kept(1);
        assert_eq!(waited(&window), 98);
        window.returned(3, |_, _| ());
        window.take(|partition| partition.0 == 3, |_, _| ());
        assert_eq!(waited(&window), 96);
        window.confirm(5);
        assert_eq!(waited(&window), 95);
        for number in [0, 6, 7, u64::MAX] {
            window.kept(number);
        }
        assert_eq!(waited(&window), 0, "nothing waits");
        assert_eq!(taken(&mut window, |_| true), ["x"], "what is kept is not lost");
        add(&mut window, 1, "later");
        assert_eq!(window.waited(Instant::from_micros(7)), Duration::from_micros(7));
    }

    #[test]
    fn a_message_that_is_kept_for_long_keeps_nothing_else() {
        let mut window = Window::new(64 << 10, Duration::from_secs(32));
        let text = "x".repeat(1000);
        let kept = add(&mut window, 7, "the one that is kept");
        window.kept(kept);
        for number in 2..10_000 {
            assert!(window.has_room(text.len()), "message {number}");
            assert_eq!(add(&mut window, 1, &text), number);
            window.wrote(pending(&window).len());
            window.finished(number..=number);
        }
        assert_eq!((window.bytes(), window.entries.len()), (20, 0));
        assert!(window.chunks.len() <= 2, "{}", window.chunks.len());
        assert_eq!(taken(&mut window, |_| true), ["the one that is kept"]);
        assert_eq!(window.bytes(), 0);
        // An age has it as all others.
        let kept = add(&mut window, 7, "another");
        window.kept(kept);
        window.expire(Instant::from_micros(31_999_999));
        assert_eq!(window.bytes(), 7);
        window.expire(Instant::from_micros(32_000_000));
        assert_eq!((window.bytes(), taken(&mut window, |_| true)), (0, vec![]));
    }

    /// Whatever is kept, finished, returned, moved and confirmed, in whatever order: what is not finished comes again once, in its order.
    #[test]
    fn nothing_that_is_confirmed_comes_again_and_nothing_else_is_dropped() {
        for seed in 0..60 {
            let mut state: u64 = 0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed + 1);
            let mut roll = |sides: u64| {
                state = state
                    .wrapping_mul(6_364_136_223_846_793_005)
                    .wrapping_add(1_442_695_040_888_963_407);
                (state >> 33) % sides
            };
            let mut window = window();
            // The partition of each message that is not confirmed, by its number, and what the container has told.
            let mut live: BTreeMap<u64, u16> = BTreeMap::new();
            let (mut sent, mut upto) = (0, 0);
            let text = |number: u64| format!("{number} {}", "x".repeat((number * 37 % 900) as usize));
            for _ in 0..400 {
                let any = 1 + roll(sent + 3);
                match roll(12) {
                    0..4 => {
                        let partition = roll(4) as u16;
                        sent = add(&mut window, partition, &text(sent + 1));
                        live.insert(sent, partition);
                    }
                    4 => window.wrote(roll(pending(&window).len() as u64 + 1) as usize),
                    5 => window.kept(any),
                    6..9 => {
                        let last = any + roll(5);
                        window.finished(any..=last);
                        live.retain(|number, _| !(any..=last).contains(number));
                    }
                    9 => {
                        let mut returned = None;
                        window.returned(any, |_, bytes| returned = Some(bytes.to_vec()));
                        assert_eq!(
                            returned,
                            live.remove(&any).map(|_| text(any).into_bytes()),
                            "seed {seed}"
                        );
                    }
                    10 => {
                        // What is finished without a gap: the container knows what it has told.
                        upto = live.first_key_value().map_or(sent, |(number, _)| number - 1).max(upto);
                        window.confirm(upto);
                    }
                    _ => {
                        let moved = roll(4) as u16;
                        let again = taken(&mut window, |partition| partition == moved);
                        let expected: Vec<String> = live
                            .iter()
                            .filter(|(_, at)| **at == moved)
                            .map(|(n, _)| text(*n))
                            .collect();
                        assert_eq!(again, expected, "seed {seed}");
                        live.retain(|_, partition| *partition != moved);
                    }
                }
                let needed: usize = live.keys().map(|number| text(*number).len()).sum();
                assert!(window.bytes() >= needed, "seed {seed}");
            }
            window.wrote(usize::MAX);
            let again = taken(&mut window, |_| true);
            assert_eq!(
                again,
                live.keys().map(|number| text(*number)).collect::<Vec<_>>(),
                "seed {seed}"
            );
            assert_eq!((window.bytes(), window.chunks.len()), (0, 1), "seed {seed}");
        }
    }

    #[test]
    fn only_the_partitions_that_moved_are_taken() {
        let mut window = window();
        for (partition, text) in [(1, "a"), (2, "b"), (1, "c")] {
            add(&mut window, partition, text);
        }
        assert_eq!(taken(&mut window, |partition| partition == 1), ["a", "c"]);
        assert_eq!(taken(&mut window, |_| true), ["b"]);
    }

    #[test]
    fn chunks_are_freed_in_any_order_of_writing_and_confirming() {
        for (wrote, confirmed) in [(7, 3), (1, 11), (13, 13)] {
            let mut window = window();
            let text = "x".repeat(1000);
            let (mut sent, mut written, mut upto) = (0, 0, 0);
            for step in 0..3000 {
                sent = add(&mut window, 1, &text);
                if step % wrote == 0 {
                    written += pending(&window).len();
                    window.wrote(pending(&window).len());
                }
                if step % confirmed == 0 {
                    upto = sent.min(written as u64 / 1000);
                    window.confirm(upto);
                }
            }
            assert!(window.chunks.len() <= 3, "{}", window.chunks.len());
            assert_eq!(taken(&mut window, |_| true).len() as u64, sent - upto);
            window.wrote(pending(&window).len());
            window.confirm(sent);
            assert_eq!((window.bytes(), window.chunks.len()), (0, 1));
        }
    }

    #[test]
    fn a_message_larger_than_a_chunk_passes() {
        let mut window = window();
        let large = "y".repeat(CHUNK + 1);
        add(&mut window, 1, "small");
        add(&mut window, 1, &large);
        add(&mut window, 1, "last");
        assert_eq!(pending(&window).len(), large.len() + 9);
        window.wrote(large.len() + 9);
        window.confirm(2);
        assert_eq!(taken(&mut window, |_| true), ["last"]);
    }

    #[test]
    fn bytes_and_age_are_bounded() {
        let mut window = Window::new(10, Duration::from_secs(32));
        add(&mut window, 1, "12345678");
        assert!(window.has_room(2) && !window.has_room(3));
        window.expire(Instant::from_micros(31_999_999));
        assert_eq!(window.bytes(), 8);
        window.expire(Instant::from_micros(32_000_000));
        assert_eq!(
            (window.bytes(), pending(&window).len()),
            (0, 8),
            "given up, not cut out of the stream"
        );
    }
}

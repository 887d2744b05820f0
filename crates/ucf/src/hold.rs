//! Messages whose partition has no owner at the moment: they wait for the announcement of the new one, in their order.

use std::collections::BTreeMap;
use std::time::Duration;

use sip::Instant;

use crate::window::Label;

/// A message that waits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Held {
    /// Whose it is, and its place among all.
    pub label: Label,
    /// The message as it would be sent.
    pub bytes: Box<[u8]>,
    /// Until when it waits.
    pub deadline: Instant,
}

/// The messages that wait, by [`Label::order`].
#[derive(Debug, Default)]
pub struct Hold {
    held: BTreeMap<u64, Held>,
    bytes: usize,
    max_bytes: usize,
    max_count: usize,
    max_age: Duration,
    /// No deadline is earlier than this.
    next: Instant,
}

impl Hold {
    /// Nothing waits.
    #[must_use]
    pub fn new(max_bytes: usize, max_count: usize, max_age: Duration) -> Self {
        Self {
            held: BTreeMap::new(),
            bytes: 0,
            max_bytes,
            max_count,
            max_age,
            next: Instant::MAX,
        }
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.held.len()
    }

    /// Whether none waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.held.is_empty()
    }

    /// Lets a message wait; false if a bound is reached.
    #[must_use]
    pub fn keep(&mut self, now: Instant, label: Label, bytes: &[u8]) -> bool {
        if self.held.len() >= self.max_count || self.bytes + bytes.len() > self.max_bytes {
            return false;
        }
        let deadline = now + self.max_age;
        self.next = self.next.min(deadline);
        self.bytes += bytes.len();
        let held = Held {
            label,
            bytes: bytes.into(),
            deadline,
        };
        self.held.insert(label.order, held);
        true
    }

    /// Takes out, oldest first, the messages that `ready` says can go.
    #[must_use]
    pub fn release(&mut self, mut ready: impl FnMut(&Label) -> bool) -> Vec<Held> {
        self.extract(|held| ready(&held.label))
    }

    /// Takes out, oldest first, what has waited too long.
    #[must_use]
    pub fn expire(&mut self, now: Instant) -> Vec<Held> {
        if now < self.next {
            return Vec::new();
        }
        let late = self.extract(|held| held.deadline <= now);
        self.next = self
            .held
            .values()
            .map(|held| held.deadline)
            .min()
            .unwrap_or(Instant::MAX);
        late
    }

    /// When [`Self::expire`] has something to do, at the earliest.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next
    }

    fn extract(&mut self, mut wanted: impl FnMut(&Held) -> bool) -> Vec<Held> {
        let orders: Vec<u64> = self
            .held
            .iter()
            .filter(|(_, held)| wanted(held))
            .map(|(order, _)| *order)
            .collect();
        let out: Vec<Held> = orders
            .into_iter()
            .filter_map(|order| self.held.remove(&order))
            .collect();
        self.bytes -= out.iter().map(|held| held.bytes.len()).sum::<usize>();
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartitionId;

    fn label(partition: u16, order: u64) -> Label {
        Label {
            partition: PartitionId(partition),
            came: Instant::default(),
            order,
            returns: 0,
            relayed: false,
        }
    }

    fn at(seconds: u64) -> Instant {
        Instant::from_micros(seconds * 1_000_000)
    }

    fn orders(held: &[Held]) -> Vec<u64> {
        held.iter().map(|held| held.label.order).collect()
    }

    #[test]
    fn messages_go_in_their_order_whenever_they_came_to_wait() {
        let mut hold = Hold::new(1000, 10, Duration::from_secs(8));
        for (partition, order) in [(1, 7), (2, 8), (1, 3), (1, 4)] {
            assert!(hold.keep(at(0), label(partition, order), b"message"));
        }
        let released = hold.release(|label| label.partition == PartitionId(1));
        assert_eq!(orders(&released), [3, 4, 7]);
        assert_eq!((hold.len(), hold.bytes), (1, 7));
    }

    #[test]
    fn what_has_waited_too_long_comes_out() {
        let mut hold = Hold::new(1000, 10, Duration::from_secs(8));
        assert!(hold.keep(at(0), label(1, 1), b"a") && hold.keep(at(3), label(1, 2), b"b"));
        assert_eq!(hold.poll_timeout(), at(8));
        assert_eq!(orders(&hold.expire(at(7))), []);
        assert_eq!(orders(&hold.expire(at(8))), [1]);
        assert_eq!(hold.poll_timeout(), at(11));
        assert_eq!(orders(&hold.expire(at(11))), [2]);
        assert_eq!((hold.poll_timeout(), hold.bytes), (Instant::MAX, 0));
    }

    #[test]
    fn count_and_bytes_are_bounded() {
        let mut hold = Hold::new(10, 2, Duration::from_secs(8));
        assert!(hold.keep(at(0), label(1, 1), b"12345678"));
        assert!(!hold.keep(at(0), label(1, 2), b"123"));
        assert!(hold.keep(at(0), label(1, 2), b"12"));
        assert!(!hold.keep(at(0), label(1, 3), b""));
    }
}

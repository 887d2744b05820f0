//! Mail between workers: what reached the wrong worker's socket, and what must leave on another worker's connection.
//!
//! A worker collects a turn's mail for each other worker in one parcel and hands it over at the turn's end, so the cost of waking the
//! other is shared by many messages. Between any two workers mail keeps its order.

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;
use ucf::flow::Flow;

/// Parcels that may wait for one worker. A turn makes one per sender, so this is a backlog of dozens of turns.
const PARCELS: usize = 64;

/// Bytes that may wait in one unsent parcel: what a sender collects while the receiver's mailbox is full.
const PARCEL_BYTES: usize = 4 << 20;

/// Emptied parcels kept to be used again.
const SPARE: usize = 16;

/// What is to be done with a piece of mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mail {
    /// A client's message: handle it.
    Pass,
    /// A message for a client: send it.
    Send,
}

/// Mail of one worker for another.
#[derive(Debug, Default)]
pub struct Parcel {
    bytes: Vec<u8>,
    items: Vec<(Mail, Flow, usize)>,
}

/// Where a worker gets its mail.
pub type Inbox = mpsc::Receiver<Parcel>;

/// What a worker collects for the others.
pub struct Outboxes {
    boxes: Vec<(Parcel, mpsc::Sender<Parcel>)>,
    spare: Vec<Parcel>,
}

/// Mailboxes for so many workers.
pub fn connect(workers: u16) -> Vec<(Inbox, Outboxes)> {
    let (senders, inboxes): (Vec<_>, Vec<_>) = (0..workers).map(|_| mpsc::channel(PARCELS)).unzip();
    let outboxes = || Outboxes {
        boxes: senders
            .iter()
            .map(|sender| (Parcel::default(), sender.clone()))
            .collect(),
        spare: Vec::new(),
    };
    inboxes.into_iter().map(|inbox| (inbox, outboxes())).collect()
}

impl Parcel {
    /// The mail in order.
    pub fn iter(&self) -> impl Iterator<Item = (Mail, &Flow, &[u8])> {
        let mut start = 0;
        self.items.iter().map(move |(mail, flow, end)| {
            let message = &self.bytes[start..*end];
            start = *end;
            (*mail, flow, message)
        })
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.items.clear();
    }
}

impl Outboxes {
    /// Adds a message for a worker; says how many were dropped (it, or none).
    pub fn put(&mut self, worker: u16, mail: Mail, flow: &Flow, message: &[u8]) -> u64 {
        let Some((parcel, _)) = self.boxes.get_mut(usize::from(worker)) else {
            return 1;
        };
        if parcel.bytes.len() + message.len() > PARCEL_BYTES {
            return 1;
        }
        parcel.bytes.extend_from_slice(message);
        parcel.items.push((mail, *flow, parcel.bytes.len()));
        0
    }

    /// Whether nothing waits.
    pub fn is_empty(&self) -> bool {
        self.boxes.iter().all(|(parcel, _)| parcel.items.is_empty())
    }

    /// Hands over what waits; a full mailbox is tried again next time. Says how many messages were dropped because their worker has ended.
    pub fn flush(&mut self) -> u64 {
        let mut dropped = 0;
        for (parcel, sender) in self.boxes.iter_mut().filter(|(parcel, _)| !parcel.items.is_empty()) {
            match sender.try_reserve() {
                Ok(place) => place.send(std::mem::replace(parcel, self.spare.pop().unwrap_or_default())),
                Err(TrySendError::Full(())) => {}
                Err(TrySendError::Closed(())) => {
                    dropped += parcel.items.len() as u64;
                    parcel.clear();
                }
            }
        }
        dropped
    }

    /// Takes an emptied parcel back.
    pub fn recycle(&mut self, mut parcel: Parcel) {
        if self.spare.len() < SPARE {
            parcel.clear();
            self.spare.push(parcel);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ucf::flow::Transport;

    fn flow() -> Flow {
        Flow {
            transport: Transport::Udp,
            listener: 0,
            remote: "127.0.0.1:5060".parse().unwrap(),
            translated: false,
            held: None,
        }
    }

    #[test]
    fn mail_keeps_its_order_while_a_mailbox_is_full() {
        let mut ends = connect(2);
        let (_, mut from) = ends.remove(0);
        let (mut inbox, _keep) = ends.remove(0);
        let total = 3 * PARCELS as u32;
        for number in 0..total {
            assert_eq!(from.put(1, Mail::Pass, &flow(), &number.to_be_bytes()), 0);
            assert_eq!(from.flush(), 0);
        }
        assert!(!from.is_empty());
        let mut seen = Vec::new();
        while let Ok(parcel) = inbox.try_recv() {
            seen.extend(
                parcel
                    .iter()
                    .map(|(_, _, bytes)| u32::from_be_bytes(bytes.try_into().unwrap())),
            );
            from.recycle(parcel);
            from.flush();
        }
        assert_eq!(seen, (0..total).collect::<Vec<_>>());
    }

    #[test]
    fn mail_beyond_the_bound_is_counted_and_dropped() {
        let mut ends = connect(2);
        let (_, from) = &mut ends[0];
        let message = vec![0; PARCEL_BYTES / 2 + 1];
        assert_eq!(from.put(1, Mail::Send, &flow(), &message), 0);
        assert_eq!(from.put(1, Mail::Send, &flow(), &message), 1);
        assert_eq!(from.put(7, Mail::Send, &flow(), b"no such worker"), 1);
    }
}

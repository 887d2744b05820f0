//! A SIP connection of a proxy worker, on the worker thread that accepted it.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;
use std::rc::Rc;
use std::time::Duration;

use crate::engine::{ConnectionId, Fate, Input, partition_of};
use bytes::Bytes;
use sip::{Frame, Framer, OwnedMessage, Side};
use tokio::sync::Notify;
use transport::legs::INNER;
use transport::places::Place;
use transport::tcp::{Connection, Read};
use transport::{Error, InBuffer, OutBuffer};
use ucf::ProxyId;
use ucf::wire::Confirm;

use super::mail::{MAX_OUTSTANDING, ToWorker};
use super::worker::{STINT, Worker};

/// Bytes that may wait for a proxy that does not read: 20,000 messages. Beyond, what is repeated anyway is shed: closing the connection
/// would be taken for our death, and our load would fall upon others.
const SHED_BEYOND: usize = 16 << 20;

/// The same for what nobody repeats, because its outer leg is a stream. Beyond, the connection is closed: this proxy does not live.
const OUT_BOUND: usize = 64 << 20;

/// How long a proxy may take to name this connection on UCF: it makes this one first, then that.
const TIE_PATIENCE: Duration = Duration::from_secs(5);

/// The connection.
pub struct SipLink {
    pub id: ConnectionId,
    connection: Connection,
    pub proxy: Cell<Option<ProxyId>>,
    out: RefCell<OutBuffer>,
    blocked: Cell<bool>,
    tracker: RefCell<Tracker>,
    /// Wakes the reader: the proxy is known, or inputs are done with.
    go_on: Notify,
    pub over: Cell<bool>,
}

/// Numbers between the oldest input that is not done with and the newest. One that a partition keeps through a hand-over must not stop what
/// is for others; what is done with costs a byte here, and the proxy keeps these bytes at most half a minute.
const MAX_SPAN: u64 = 1 << 20;

/// Which inputs are done with.
#[derive(Default)]
struct Tracker {
    read: u64,
    upto: u64,
    told: u64,
    /// How many are done with.
    finished: u64,
    /// Of those above `upto`, in order.
    done: VecDeque<bool>,
    returned: Vec<u64>,
    /// To be told.
    kept: Vec<u64>,
    /// Done with above `upto` when they were, and not told.
    above: Vec<u64>,
}

/// As many may be done with before a proxy is told at once, whatever time it is.
const MANY: u64 = 64;

/// The most that one frame tells of those above `upto`: two bytes each at the worst.
const PER_FRAME: usize = 4096;

impl Tracker {
    /// Whether no further input may be read for now.
    fn is_full(&self) -> bool {
        self.read - self.finished >= MAX_OUTSTANDING || self.read - self.upto >= MAX_SPAN
    }

    /// Whether the proxy could be told something.
    fn has_news(&self) -> bool {
        self.upto > self.told || !self.returned.is_empty() || !self.kept.is_empty() || self.is_held_up()
    }

    /// Whether more is done with, but not what comes next: then the rest is told one by one. Where nothing is kept, it comes next in a moment.
    fn is_held_up(&self) -> bool {
        self.upto == self.told && !self.above.is_empty()
    }

    /// What the proxy is to be told: `urgent` only if inputs were returned or many are done with.
    fn confirm(&mut self, urgent: bool) -> Option<Confirm> {
        let fresh = match self.is_held_up() {
            true => self.above.len() as u64,
            false => self.upto - self.told,
        };
        let due = !self.returned.is_empty() || fresh >= MANY || (!urgent && self.has_news());
        if !due {
            return None;
        }
        let upto = self.upto;
        let finished = match self.is_held_up() {
            true => self.take_above(),
            false => Vec::new(),
        };
        self.above.retain(|number| *number > upto);
        self.told = upto;
        Some(Confirm {
            upto,
            returned: std::mem::take(&mut self.returned),
            kept: std::mem::take(&mut self.kept),
            finished,
        })
    }

    fn take_above(&mut self) -> Vec<u64> {
        self.above.sort_unstable();
        let count = self.above.len().min(PER_FRAME);
        Confirm::runs(self.upto, self.above.drain(..count))
    }

    fn next(&mut self) -> u64 {
        self.read += 1;
        self.read
    }

    fn note(&mut self, number: u64, fate: Fate) {
        if number <= self.upto || number > self.read {
            return;
        }
        match fate {
            Fate::Done => {}
            Fate::Returned => self.returned.push(number),
            Fate::Kept => return self.kept.push(number),
        }
        let place = (number - self.upto - 1) as usize;
        if self.done.len() <= place {
            self.done.resize(place + 1, false);
        }
        if std::mem::replace(&mut self.done[place], true) {
            return;
        }
        self.finished += 1;
        while self.done.front() == Some(&true) {
            self.done.pop_front();
            self.upto += 1;
        }
        if fate == Fate::Done && number > self.upto {
            self.above.push(number);
        }
    }
}

impl SipLink {
    pub fn new(id: ConnectionId, connection: Connection) -> Self {
        Self {
            id,
            connection,
            proxy: Cell::new(None),
            out: RefCell::new(OutBuffer::new(OUT_BOUND)),
            blocked: Cell::new(false),
            tracker: RefCell::default(),
            go_on: Notify::new(),
            over: Cell::new(false),
        }
    }

    /// The proxy is known now.
    pub fn tie(&self, proxy: ProxyId) {
        self.proxy.set(Some(proxy));
        self.go_on.notify_one();
    }

    /// Ends it: both tasks stop.
    pub fn end(&self) {
        self.over.set(true);
        self.go_on.notify_one();
    }

    /// What became of an input.
    pub fn note(&self, number: u64, fate: Fate) {
        let mut tracker = self.tracker.borrow_mut();
        tracker.note(number, fate);
        if !tracker.is_full() {
            self.go_on.notify_one();
        }
    }

    /// What the proxy is to be told: `urgent` only if inputs were returned or many are done with.
    pub fn confirm(&self, urgent: bool) -> Option<Confirm> {
        self.tracker.borrow_mut().confirm(urgent)
    }

    /// Whether the proxy could be told something.
    pub fn has_news(&self) -> bool {
        self.tracker.borrow().has_news()
    }

    /// Appends a message; [`flush`](Self::flush) sends it. False if it was shed, or if the connection is over.
    pub fn push(&self, message: &[u8]) -> bool {
        let mut out = self.out.borrow_mut();
        if self.over.get() || (out.len() > SHED_BEYOND && is_repeated(message)) {
            return false;
        }
        let pushed = out.push(message).is_ok();
        if !pushed {
            tracing::warn!(peer = %self.connection.peer_addr(), "a proxy does not read: connection closed");
            self.end();
        }
        pushed
    }

    /// Writes what waits.
    pub fn flush(self: &Rc<Self>) {
        if self.blocked.get() || self.over.get() {
            return;
        }
        match self.connection.try_write(&mut self.out.borrow_mut()) {
            Ok(true) => {}
            Ok(false) => {
                self.blocked.set(true);
                tokio::task::spawn_local(resume(self.clone()));
            }
            Err(_) => self.end(),
        }
    }

    fn is_full(&self) -> bool {
        self.tracker.borrow().is_full()
    }

    fn next_input(&self) -> Input {
        let mut tracker = self.tracker.borrow_mut();
        Input {
            connection: self.id,
            number: tracker.next(),
        }
    }
}

/// Whether a message comes again if it is lost: transactions repeat it on datagrams, which its topmost Via tells (RFC 3261 s17).
fn is_repeated(message: &[u8]) -> bool {
    const VIA: &[u8] = b"\r\nVia: SIP/2.0/";
    let via = message.windows(VIA.len()).position(|part| part == VIA);
    via.is_some_and(|at| message[at + VIA.len()..].starts_with(b"UDP"))
}

async fn resume(link: Rc<SipLink>) {
    let writable = link.connection.writable().await;
    link.blocked.set(false);
    match writable {
        Ok(()) => link.flush(),
        Err(_) => link.end(),
    }
}

/// Waits until a proxy has named the connection, or until it is over.
async fn tied(link: &SipLink, patience: Duration) -> transport::Result<()> {
    let tied = async {
        while !link.over.get() && link.proxy.get().is_none() {
            link.go_on.notified().await;
        }
    };
    tokio::time::timeout(patience, tied).await.map_err(|_| {
        let peer = link.connection.peer_addr();
        Error::network(
            format!("no proxy names tcp:{peer}"),
            std::io::ErrorKind::TimedOut.into(),
        )
    })
}

/// Reads until the connection ends. Nothing is read before the proxy has said who it is.
pub async fn read(worker: Rc<Worker>, link: Rc<SipLink>, place: Place) -> transport::Result<()> {
    place.during(tied(&link, TIE_PATIENCE)).await?;
    let mut input = InBuffer::new();
    let mut framer = Framer::new(Side::Accepted, INNER);
    loop {
        while !link.over.get() && link.is_full() {
            link.go_on.notified().await;
        }
        if link.over.get() {
            return Ok(());
        }
        tokio::select! {
            readable = link.connection.readable() => readable?,
            () = link.go_on.notified() => continue,
        }
        match link.connection.try_read(&mut input)? {
            Read::End => return Ok(()),
            Read::Nothing => continue,
            Read::Some(_) => {}
        }
        while take(&worker, &link, &mut framer, &mut input)? {
            // The turn ends, and other connections have theirs.
            tokio::task::yield_now().await;
            if link.over.get() {
                return Ok(());
            }
        }
    }
}

/// Takes whole messages out of what was read, each to the worker of its partition, for a stint; `true` if there may be more.
fn take(worker: &Worker, link: &SipLink, framer: &mut Framer, input: &mut InBuffer) -> transport::Result<bool> {
    let Some(proxy) = link.proxy.get() else {
        return Ok(false);
    };
    let mut others: Vec<Vec<(Input, ProxyId, OwnedMessage)>> = Vec::new();
    let begun = worker.now();
    let has_more = loop {
        let data = input.data();
        let consumed = match framer.next(data) {
            Ok((0, None)) => break false,
            Ok((consumed, Some(Frame::Message(range)))) => {
                let bytes = Bytes::copy_from_slice(&data[range]);
                let message = OwnedMessage::new(bytes, framer.index().clone());
                let partition = partition_of(&message.as_message(), &worker.keyring);
                let target = partition.map_or(worker.index, |partition| worker.of_partition(partition));
                let number = link.next_input();
                if target == worker.index {
                    worker.handle_sip(number, proxy, message);
                } else {
                    if others.is_empty() {
                        others.resize_with(worker.workers.len(), Vec::new);
                    }
                    others[target].push((number, proxy, message));
                }
                consumed
            }
            Ok((consumed, _)) => consumed,
            Err(error) => return Err(Error::peer(format!("proxy sent no SIP: {error}"))),
        };
        input.consume(consumed);
        if worker.now().since(begun) >= STINT {
            break true;
        }
    };
    for (target, messages) in others
        .into_iter()
        .enumerate()
        .filter(|(_, messages)| !messages.is_empty())
    {
        worker.mail(target, ToWorker::Messages(messages));
    }
    Ok(has_more)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_proxy_that_does_not_read_costs_what_is_repeated_and_not_its_connection() {
        let listener = transport::tcp::Listener::bind(([127, 0, 0, 1], 0).into(), false).expect("a free port");
        let patience = std::time::Duration::from_secs(5);
        let (proxy, container) = tokio::join!(Connection::connect(listener.local_addr(), patience), listener.accept());
        let _reads_nothing = proxy.expect("it connects");
        let link = SipLink::new(ConnectionId(1), container.expect("it is accepted"));
        let message = |transport: &str| {
            let head = format!("SIP/2.0 200 OK\r\nVia: SIP/2.0/{transport} 192.0.2.1:5060;branch=z9hG4bK1\r\n");
            [head.as_bytes(), &[b'x'; 60_000]].concat()
        };
        let (datagram, stream) = (message("UDP"), message("TCP"));
        let pushed = (0..1000).filter(|_| link.push(&datagram)).count();
        assert!((270..300).contains(&pushed), "{pushed}");
        assert!(link.push(&stream) && !link.push(&datagram) && !link.over.get());
        while link.push(&stream) {
            assert!(link.out.borrow().len() <= OUT_BOUND);
        }
        assert!(link.over.get(), "nobody repeats these");
    }

    #[tokio::test]
    async fn a_connection_that_no_proxy_names_is_given_up() {
        let listener = transport::tcp::Listener::bind(([127, 0, 0, 1], 0).into(), false).expect("a free port");
        let (dialled, accepted) = tokio::join!(
            Connection::connect(listener.local_addr(), Duration::from_secs(5)),
            listener.accept()
        );
        let _stranger = dialled.expect("it connects");
        let link = SipLink::new(ConnectionId(1), accepted.expect("it is accepted"));
        let error = tied(&link, Duration::from_millis(20))
            .await
            .expect_err("nobody names it");
        assert_eq!(error.io_kind(), Some(std::io::ErrorKind::TimedOut));
        link.tie(ProxyId {
            incarnation: 7,
            worker: 0,
        });
        tied(&link, Duration::ZERO).await.expect("it is named");
    }

    #[test]
    fn one_input_that_is_kept_does_not_stop_the_reader() {
        let mut tracker = Tracker::default();
        let kept = tracker.next();
        for _ in 0..2 * MAX_OUTSTANDING {
            let number = tracker.next();
            tracker.note(number, Fate::Done);
            assert!(!tracker.is_full(), "stopped at {number}");
        }
        assert_eq!(tracker.upto, kept - 1);
        tracker.note(kept, Fate::Returned);
        assert_eq!((tracker.upto, tracker.done.len()), (tracker.read, 0));
        let confirm = tracker.confirm(true).expect("news");
        assert_eq!((confirm.upto, tracker.above.len()), (tracker.read, 0));
        for _ in 0..MAX_OUTSTANDING {
            assert!(!tracker.is_full());
            tracker.next();
        }
        assert!(tracker.is_full(), "what is under way is bounded");
    }

    /// What a proxy has been told to keep no longer.
    fn told(confirm: &Confirm) -> Vec<u64> {
        confirm.finished().flatten().collect()
    }

    #[test]
    fn what_is_done_with_behind_a_kept_input_is_told_once() {
        let mut tracker = Tracker::default();
        for _ in 0..10 {
            tracker.next();
        }
        tracker.note(1, Fate::Done);
        tracker.note(2, Fate::Kept);
        for number in [5, 4, 7] {
            tracker.note(number, Fate::Done);
        }
        let confirm = tracker.confirm(false).expect("news");
        assert_eq!(
            (confirm.upto, &confirm.kept[..], told(&confirm)),
            (1, &[2][..], vec![]),
            "the rest may follow at once"
        );
        tracker.note(6, Fate::Returned);
        let confirm = tracker.confirm(true).expect("one is returned");
        assert_eq!(
            (confirm.upto, &confirm.returned[..], told(&confirm)),
            (1, &[6][..], vec![4, 5, 7])
        );
        assert!(!tracker.has_news() && tracker.confirm(false).is_none());
        tracker.note(3, Fate::Done);
        assert!(
            tracker.has_news() && tracker.confirm(true).is_none(),
            "a few can wait a moment"
        );
        tracker.note(9, Fate::Done);
        tracker.note(9, Fate::Done);
        assert_eq!(told(&tracker.confirm(false).expect("news")), [3, 9]);
        tracker.note(2, Fate::Done);
        tracker.note(10, Fate::Done);
        let confirm = tracker.confirm(false).expect("news");
        assert_eq!((confirm.upto, told(&confirm)), (7, vec![]));
        assert_eq!(told(&tracker.confirm(false).expect("news")), [10]);
        tracker.note(8, Fate::Done);
        assert_eq!(tracker.confirm(false).expect("news").upto, 10);
        assert!(tracker.above.is_empty() && !tracker.has_news());
    }

    #[test]
    fn many_behind_a_kept_input_are_told_at_once_and_a_frame_has_a_bound() {
        let mut tracker = Tracker::default();
        let kept = tracker.next();
        tracker.note(kept, Fate::Kept);
        assert!(tracker.confirm(false).is_some());
        let mut numbers = Vec::new();
        for _ in 0..2 * PER_FRAME {
            let open = tracker.next();
            numbers.push(open + 1);
            let number = tracker.next();
            tracker.note(number, Fate::Done);
        }
        let mut all = Vec::new();
        for _ in 0..2 {
            let confirm = tracker.confirm(true).expect("many");
            assert_eq!(confirm.finished.len(), 2 * PER_FRAME);
            all.extend(told(&confirm));
        }
        assert_eq!(all, numbers);
        assert!(tracker.confirm(true).is_none());
    }

    #[test]
    fn what_is_done_with_behind_a_kept_input_is_bounded() {
        let mut tracker = Tracker::default();
        tracker.next();
        while !tracker.is_full() {
            let number = tracker.next();
            tracker.note(number, Fate::Done);
        }
        assert_eq!(tracker.done.len() as u64, MAX_SPAN);
    }
}

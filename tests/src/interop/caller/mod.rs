//! Thousands of phones in one thread, driven by the test: it chooses the moment of every request and pumps until a condition holds.
//!
//! Requests are repeated over UDP as RFC 3261 s17.1 asks, never over TCP. Every final answer becomes an [`Outcome`]; what a phone must never
//! see (two callees in one call, a second BYE) is counted per [`Dialog`].

mod dialog;
mod link;
mod message;

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::net::{IpAddr, SocketAddr};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

pub use dialog::{Dialog, State};
pub use link::{Link, Transport, enlarge_buffers};
pub use message::{Message, framed, parameter};

use super::figures::Spread;
use dialog::Pending;

/// RFC 3261 s17.1.1.1.
const T1: Duration = Duration::from_millis(500);
/// RFC 3261 s17.1.2.1.
const T2: Duration = Duration::from_secs(4);

/// How a request ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outcome {
    /// The dialog's index.
    pub dialog: usize,
    /// Method of the request.
    pub method: &'static str,
    /// Final status; 408 too where nobody answered in 64*T1 (Timers B and F).
    pub status: u16,
    /// From the first sending to the first answer of any kind.
    pub first: Duration,
    /// From the first sending to the final answer.
    pub took: Duration,
    /// When the request was first sent.
    pub sent: Instant,
    /// How often it was sent again.
    pub repeats: u32,
}

/// Many callers.
pub struct Caller {
    link: Link,
    transport: Transport,
    target: SocketAddr,
    /// Tells this caller's Call-IDs from an earlier one's.
    run: u32,
    /// Every call ever made.
    pub dialogs: Vec<Dialog>,
    /// Every final answer, in order of arrival.
    pub outcomes: Vec<Outcome>,
    /// Session-Expires of INVITEs to come (RFC 4028), in seconds.
    pub session_expires: Option<u32>,
    /// While true every response is lost on its way to us.
    pub deaf: bool,
    /// Responses lost by `deaf`.
    pub lost: u64,
    /// Responses that came, lost ones included.
    pub responses: u64,
    /// Messages that came, of any kind.
    pub messages: u64,
    /// Messages that belong to no call of ours.
    pub strays: u64,
    /// Requests outside of any dialog that were answered (OPTIONS pings).
    pub pings: u64,
    timers: BinaryHeap<Reverse<(Instant, usize)>>,
}

impl Caller {
    /// A caller at `local` with `slots` ports or connections, calls spread over them.
    pub fn new(transport: Transport, local: IpAddr, target: SocketAddr, slots: usize) -> anyhow::Result<Self> {
        Self::through(&[target], transport, local, target, slots)
    }

    /// The same, calls to `target` sent through one of `proxies` each, as a phone does that knows an outbound proxy.
    pub fn through(
        proxies: &[SocketAddr],
        transport: Transport,
        local: IpAddr,
        target: SocketAddr,
        slots: usize,
    ) -> anyhow::Result<Self> {
        Ok(Self {
            link: Link::open(transport, local, proxies, slots)
                .with_context(|| format!("{} to {target}", transport.name()))?,
            transport,
            target,
            run: std::process::id() ^ Instant::now().elapsed().subsec_nanos(),
            dialogs: Vec::new(),
            outcomes: Vec::new(),
            session_expires: None,
            deaf: false,
            lost: 0,
            responses: 0,
            messages: 0,
            strays: 0,
            pings: 0,
            timers: BinaryHeap::new(),
        })
    }

    /// Connections of ours that broke.
    #[must_use]
    pub fn broken(&self) -> u64 {
        self.link.broken
    }

    /// Calls; gives the dialog's index.
    pub fn invite(&mut self) -> usize {
        let index = self.dialogs.len();
        let slot = index % self.link.slots();
        let mut dialog = Dialog::new(
            index,
            self.run,
            slot,
            self.link.local(slot),
            self.transport,
            self.target,
        );
        dialog.session_expires = self.session_expires;
        self.dialogs.push(dialog);
        self.request(index, "INVITE");
        index
    }

    /// Sends an in-dialog request: `INVITE`, `UPDATE`, `OPTIONS`, `BYE`.
    pub fn request(&mut self, index: usize, method: &'static str) {
        let dialog = &mut self.dialogs[index];
        let bytes = dialog.request(method);
        let now = Instant::now();
        self.link.send(dialog.slot, &bytes);
        dialog.pending.push(Pending::new(method, dialog.cseq, bytes, now));
        self.timers.push(Reverse((now + T1, index)));
    }

    /// Cancels a call that rings or was not answered at all.
    pub fn cancel(&mut self, index: usize) {
        let dialog = &mut self.dialogs[index];
        let Some(bytes) = dialog.cancel() else { return };
        let now = Instant::now();
        self.link.send(dialog.slot, &bytes);
        let number = dialog.cseq;
        dialog.pending.push(Pending::new("CANCEL", number, bytes, now));
        self.timers.push(Reverse((now + T1, index)));
    }

    /// Has each repetition of a datagram go through another proxy than the one before.
    pub fn balance_repetitions(&mut self) {
        self.link.balanced = true;
    }

    /// Repeats the pending request of a call as a phone whose timer fired would.
    pub fn repeat(&mut self, index: usize) {
        let dialog = &mut self.dialogs[index];
        if let Some(pending) = dialog.pending.first_mut() {
            pending.repeats += 1;
            self.link.send_again(dialog.slot, pending.repeats, &pending.bytes);
        }
    }

    /// Sends bytes that are none of a call's.
    pub fn send_raw(&mut self, slot: usize, bytes: &[u8]) {
        self.link.send(slot % self.link.slots(), bytes);
    }

    /// Does `act` for each of `items`, `rate` a second, receiving meanwhile.
    pub fn paced<T>(&mut self, rate: u32, items: impl IntoIterator<Item = T>, mut act: impl FnMut(&mut Self, T)) {
        let step = Duration::from_secs(1) / rate;
        let mut due = Instant::now();
        for item in items {
            loop {
                let now = Instant::now();
                self.pump(due.saturating_duration_since(now));
                if Instant::now() >= due {
                    break;
                }
            }
            act(self, item);
            due += step;
        }
    }

    /// Receives until `condition` holds; an error that names `what` after `limit`.
    pub fn until(&mut self, what: &str, limit: Duration, condition: impl Fn(&Self) -> bool) -> anyhow::Result<()> {
        let deadline = Instant::now() + limit;
        while !condition(self) {
            if Instant::now() >= deadline {
                bail!("not within {limit:?}: {what}; {}", self.summary());
            }
            self.pump(Duration::from_millis(5));
        }
        Ok(())
    }

    /// Receives until no request is unanswered.
    pub fn settle(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.until("every request answered", limit, |caller| {
            caller.dialogs.iter().all(|dialog| dialog.pending.is_empty())
        })
    }

    /// Receives until every dialog not ended is confirmed.
    pub fn all_answered(&mut self, limit: Duration) -> anyhow::Result<()> {
        self.until("every call answered", limit, |caller| {
            caller.count(State::Calling) + caller.count(State::Ringing) == 0
        })
    }

    /// Calls at `rate` a second, all of them answered 200.
    pub fn raise(&mut self, calls: usize, rate: u32, limit: Duration) -> anyhow::Result<()> {
        let since = self.outcomes.len();
        self.paced(rate, 0..calls, |caller, _| {
            caller.invite();
        });
        self.all_answered(limit)?;
        self.expect_all_ok("INVITE", since, calls)
    }

    /// One request in every confirmed dialog at `rate` a second, all of them answered 200; how long that took.
    pub fn in_every_dialog(&mut self, method: &'static str, rate: u32, limit: Duration) -> anyhow::Result<Spread> {
        let dialogs = self.indices(State::Confirmed);
        let (count, since) = (dialogs.len(), self.outcomes.len());
        self.paced(rate, dialogs, |caller, dialog| caller.request(dialog, method));
        self.settle(limit)?;
        self.expect_all_ok(method, since, count)?;
        Ok(self.spread(method, since))
    }

    /// Number of dialogs in a state.
    #[must_use]
    pub fn count(&self, state: State) -> usize {
        self.dialogs.iter().filter(|dialog| dialog.state == state).count()
    }

    /// Indices of the dialogs in a state.
    #[must_use]
    pub fn indices(&self, state: State) -> Vec<usize> {
        let all = self.dialogs.iter().enumerate();
        all.filter(|(_, dialog)| dialog.state == state)
            .map(|(index, _)| index)
            .collect()
    }

    /// Outcomes of a method from the `since`th outcome on.
    pub fn outcomes_of<'a>(&'a self, method: &'a str, since: usize) -> impl Iterator<Item = &'a Outcome> {
        self.outcomes[since..]
            .iter()
            .filter(move |outcome| outcome.method == method)
    }

    /// How long the final answers to a method took, from the `since`th outcome on.
    #[must_use]
    pub fn spread(&self, method: &str, since: usize) -> Spread {
        Spread::of(self.outcomes_of(method, since).map(|outcome| outcome.took))
    }

    /// An error unless every outcome from `since` on is a 200, and `count` of them are of this method.
    pub fn expect_all_ok(&self, method: &str, since: usize, count: usize) -> anyhow::Result<()> {
        let bad: Vec<_> = self
            .outcomes_of(method, since)
            .filter(|outcome| outcome.status != 200)
            .collect();
        let good = self.outcomes_of(method, since).count() - bad.len();
        if good != count || !bad.is_empty() {
            let first = bad
                .first()
                .map(|outcome| (outcome, &self.dialogs[outcome.dialog].call_id));
            bail!(
                "{method}: {good} of {count} answered 200, {} otherwise, first {first:?}; {}",
                bad.len(),
                self.summary()
            );
        }
        Ok(())
    }

    /// An error if any call reached two callees, or any dialog ended twice.
    pub fn expect_no_call_doubled(&self) -> anyhow::Result<()> {
        for dialog in &self.dialogs {
            if dialog.remote_tags.len() > 1 {
                bail!("call {} reached two callees: {:?}", dialog.call_id, dialog.remote_tags);
            }
            if dialog.byes.len() > 1 {
                bail!(
                    "call {} was ended {} times: {:?}",
                    dialog.call_id,
                    dialog.byes.len(),
                    dialog.byes
                );
            }
        }
        Ok(())
    }

    /// States of all dialogs, in one line.
    #[must_use]
    pub fn summary(&self) -> String {
        let states = [
            State::Calling,
            State::Ringing,
            State::Confirmed,
            State::Ended,
            State::Failed,
        ];
        let counts: Vec<String> = states
            .iter()
            .map(|state| format!("{state:?} {}", self.count(*state)))
            .collect();
        let waiting = self.dialogs.iter().flat_map(|dialog| &dialog.pending).count();
        let (strays, broken) = (self.strays, self.link.broken);
        format!(
            "{}, {waiting} requests unanswered, {strays} strays, {broken} connections broken",
            counts.join(", ")
        )
    }

    /// Receives what is there, at most `limit` long waiting for the first; then repeats what is due.
    pub fn pump(&mut self, limit: Duration) {
        let next = self
            .timers
            .peek()
            .map(|Reverse((due, _))| due.saturating_duration_since(Instant::now()));
        let mut replies: Vec<(usize, Vec<u8>)> = Vec::new();
        let mut link = std::mem::replace(&mut self.link, Link::none());
        link.receive(next.map_or(limit, |next| next.min(limit)), |slot, bytes| {
            if let Some(reply) = self.received(bytes) {
                replies.push((slot, reply));
            }
        });
        self.link = link;
        for (slot, reply) in replies {
            self.link.send(slot, &reply);
        }
        self.repeat_what_is_due(Instant::now());
    }

    /// Takes a message in; gives what is to be sent in return.
    fn received(&mut self, bytes: &[u8]) -> Option<Vec<u8>> {
        self.messages += 1;
        let Some(message) = Message::read(bytes) else {
            self.strays += 1;
            return None;
        };
        self.responses += u64::from(message.status.is_some());
        if message.status.is_some() && self.deaf {
            self.lost += 1;
            return None;
        }
        let index = dialog::index_of(message.call_id, self.run).filter(|index| *index < self.dialogs.len());
        let Some(index) = index else {
            if message.status.is_none() && message.method == "OPTIONS" {
                self.pings += 1;
                return Some(dialog::answer(&message, 200, "OK"));
            }
            self.strays += 1;
            return None;
        };
        let now = Instant::now();
        if message.status.is_some() {
            self.dialogs[index].response(index, &message, now, &mut self.outcomes)
        } else {
            self.dialogs[index].incoming(&message, now)
        }
    }

    fn repeat_what_is_due(&mut self, now: Instant) {
        while let Some(Reverse((due, index))) = self.timers.peek().copied() {
            if due > now {
                break;
            }
            self.timers.pop();
            let dialog = &mut self.dialogs[index];
            for pending in &mut dialog.pending {
                if pending.next > now {
                    continue;
                }
                if self.transport == Transport::Udp && !pending.proceeding {
                    pending.repeats += 1;
                    self.link.send_again(dialog.slot, pending.repeats, &pending.bytes);
                }
                pending.interval *= 2;
                // Timer E is capped, and slow once a provisional answer came (RFC 3261 s17.1.2.2); Timer A is not.
                if pending.method != "INVITE" {
                    pending.interval = pending.interval.min(T2);
                }
                pending.next = now + pending.interval;
            }
            self.give_up(index, now);
            if let Some(next) = self.dialogs[index].pending.iter().map(|pending| pending.next).min() {
                self.timers.push(Reverse((next, index)));
            }
        }
    }

    /// Timers B and F: what nobody answered in 64*T1 has failed.
    fn give_up(&mut self, index: usize, now: Instant) {
        let dialog = &mut self.dialogs[index];
        let mut at = 0;
        while at < dialog.pending.len() {
            let pending = &dialog.pending[at];
            if pending.proceeding || now.duration_since(pending.sent) < T1 * 64 {
                at += 1;
                continue;
            }
            let pending = dialog.pending.remove(at);
            if pending.method == "INVITE" && dialog.state != State::Confirmed {
                dialog.state = State::Failed;
            }
            self.outcomes.push(pending.outcome(index, 408, now));
        }
    }
}

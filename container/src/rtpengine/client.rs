//! The client of one worker.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use hashbrown::HashMap;
use sip::Instant;

use super::bencode::{Dictionary, Writer};
use super::{RUNS, is_ok, split};
use crate::application::{AskId, Outside};

/// How long a reply is waited for after each time that a request is sent. A reply takes a millisecond; after the last of these an instance
/// counts as silent, a second after it was first asked.
const PAUSES: [Duration; 4] = [
    Duration::from_millis(100),
    Duration::from_millis(200),
    Duration::from_millis(400),
    Duration::from_millis(300),
];

/// How many instances are asked one after another, at most: a caller waits meanwhile.
const MAX_TRIES: usize = 3;

/// How often a silent instance is pinged.
const PING_EVERY: Duration = Duration::from_secs(1);

/// How often at most: an instance that has been taken out of the manifest is not pinged for good.
const MAX_PINGS: u32 = 3600;

/// Silent instances that are remembered; a manifest has 16.
const MAX_SILENT: usize = 64;

/// The client, sans-IO. Exchanges are as many as there are asks of sessions, which are bounded.
#[derive(Debug)]
pub struct Client {
    /// What cookies begin with: instances serve several clients, and take what has the same cookie for the same request.
    seed: u64,
    count: u64,
    repeated: u64,
    exchanges: HashMap<u64, Exchange>,
    deadlines: BTreeSet<(Instant, u64)>,
    /// Instances that have not answered, with the exchange that pings them.
    silent: BTreeMap<SocketAddr, u64>,
    transmits: VecDeque<(SocketAddr, Bytes)>,
    answers: VecDeque<(AskId, Option<Bytes>)>,
}

/// A request until its reply.
#[derive(Debug)]
struct Exchange {
    to: SocketAddr,
    datagram: Bytes,
    sent: u32,
    deadline: Instant,
    /// `None`: a ping.
    ask: Option<Ask>,
}

#[derive(Debug)]
struct Ask {
    id: AskId,
    dictionary: Bytes,
    /// The instance that leads the call already.
    own: Option<SocketAddr>,
    /// Instances that are asked if this one does not answer.
    others: VecDeque<SocketAddr>,
}

impl Client {
    /// A client whose cookies nobody else has who does not know the seed.
    #[must_use]
    pub fn new(seed: u64) -> Self {
        Self {
            seed,
            count: 0,
            repeated: 0,
            exchanges: HashMap::new(),
            deadlines: BTreeSet::new(),
            silent: BTreeMap::new(),
            transmits: VecDeque::new(),
            answers: VecDeque::new(),
        }
    }

    /// Begins an exchange with the next instance of the ask; without one it is over.
    fn try_next(&mut self, now: Instant, mut ask: Ask) {
        match ask.others.pop_front() {
            Some(to) => {
                let dictionary = ask.dictionary.clone();
                self.begin(now, to, &dictionary, Some(ask));
            }
            None => self.answers.push_back((ask.id, None)),
        }
    }

    fn begin(&mut self, now: Instant, to: SocketAddr, dictionary: &[u8], ask: Option<Ask>) -> u64 {
        self.count += 1;
        let number = self.count;
        let mut datagram = format!("{:016x}_{number} ", self.seed).into_bytes();
        datagram.extend_from_slice(dictionary);
        let exchange = Exchange {
            to,
            datagram: datagram.into(),
            sent: 0,
            deadline: now,
            ask,
        };
        self.exchanges.insert(number, exchange);
        self.deadlines.insert((now, number));
        self.drive(now, number);
        number
    }

    /// Sends what is due again, or gives up.
    fn drive(&mut self, now: Instant, number: u64) {
        let Some(exchange) = self.exchanges.get_mut(&number) else {
            return;
        };
        self.deadlines.remove(&(exchange.deadline, number));
        let pause = match exchange.ask {
            Some(_) => PAUSES.get(exchange.sent as usize).copied(),
            None => (exchange.sent < MAX_PINGS).then_some(PING_EVERY),
        };
        match pause {
            Some(pause) => {
                self.repeated += u64::from(exchange.sent > 0 && exchange.ask.is_some());
                exchange.sent += 1;
                exchange.deadline = now + pause;
                self.deadlines.insert((exchange.deadline, number));
                self.transmits.push_back((exchange.to, exchange.datagram.clone()));
            }
            None => self.give_up(now, number),
        }
    }

    fn give_up(&mut self, now: Instant, number: u64) {
        let Some(exchange) = self.exchanges.remove(&number) else {
            return;
        };
        let Some(ask) = exchange.ask else {
            self.silent.remove(&exchange.to);
            return;
        };
        if !self.silent.contains_key(&exchange.to) && self.silent.len() < MAX_SILENT {
            let ping = Writer::new().string("command", b"ping").finish();
            let pings = self.begin(now, exchange.to, &ping, None);
            self.silent.insert(exchange.to, pings);
        }
        self.try_next(now, ask);
    }

    fn end(&mut self, number: u64) -> Option<Exchange> {
        let exchange = self.exchanges.remove(&number)?;
        self.deadlines.remove(&(exchange.deadline, number));
        Some(exchange)
    }

    /// The exchange that a reply belongs to, and what it says; `None` for what no instance of ours has sent.
    fn reply<'a>(&self, from: SocketAddr, datagram: &'a [u8]) -> Option<(u64, &'a [u8], bool)> {
        let (cookie, dictionary) = split(datagram)?;
        let (seed, number) = std::str::from_utf8(cookie).ok()?.split_once('_')?;
        let number = number.parse().ok()?;
        let exchange = self.exchanges.get(&number)?;
        let good = Dictionary::parse(dictionary)?;
        let is_ours = exchange.to == from && seed == format!("{:016x}", self.seed) && good.string(b"result").is_some();
        is_ours.then(|| (number, dictionary, is_ok(good)))
    }
}

impl Outside for Client {
    fn ask(&mut self, now: Instant, id: AskId, question: Bytes) {
        let (instances, dictionary) = split(&question).unwrap_or_default();
        let mut words = std::str::from_utf8(instances).unwrap_or_default().split(',').peekable();
        let runs = words.next_if_eq(&RUNS).is_some();
        let mut others: Vec<SocketAddr> = words.filter_map(|text| text.parse().ok()).collect();
        let own = others.first().copied().filter(|_| runs);
        // Stable: among the silent and among the others the order is that of the question.
        others.sort_by_key(|instance| self.silent.contains_key(instance));
        others.truncate(MAX_TRIES);
        let ask = Ask {
            id,
            dictionary: question.slice_ref(dictionary),
            own,
            others: others.into(),
        };
        self.try_next(now, ask);
    }

    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Some((number, dictionary, is_ok)) = self.reply(from, datagram) else {
            return;
        };
        if let Some(pings) = self.silent.remove(&from) {
            self.end(pings);
        }
        let Some(ask) = self.end(number).and_then(|exchange| exchange.ask) else {
            return;
        };
        // One that refuses a new call, for want of ports perhaps, is as good as silent for this ask. What refuses a change has the call, whose
        // media flows on: an offer for a call that it does not know would have begun it.
        if !is_ok && !ask.others.is_empty() && ask.own != Some(from) {
            return self.try_next(now, ask);
        }
        let answer = [from.to_string().as_bytes(), b" ", dictionary].concat();
        self.answers.push_back((ask.id, Some(answer.into())));
    }

    fn handle_timeout(&mut self, now: Instant) {
        while let Some((_, number)) = self.deadlines.first().copied().filter(|(at, _)| *at <= now) {
            self.drive(now, number);
        }
    }

    fn poll_timeout(&self) -> Option<Instant> {
        self.deadlines.first().map(|(at, _)| *at)
    }

    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)> {
        self.transmits.pop_front()
    }

    fn repeated(&self) -> u64 {
        self.repeated
    }

    fn poll_answer(&mut self) -> Option<(AskId, Option<Bytes>)> {
        self.answers.pop_front()
    }
}

//! The network of a run: ordered streams that stall while their ends cannot reach one another, and datagrams that get lost and overtake.

use super::caller::Datagram;
use super::checks::Oracle;
use super::container::Output;
use super::rng::Rng;
use ::container::engine::Leaving;
use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, BinaryHeap, VecDeque};
use std::fmt::Write as _;
use ucf::Incarnation;
use ucf::store::{StoreReply, StoreRequest};
use ucf::wire::{Body, Hello};

/// Microseconds of the run's own time, which no process knows.
pub type Micros = u64;

/// One millisecond.
pub const MS: Micros = 1_000;

/// A place where a process runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Node {
    /// The store.
    Store,
    /// A proxy.
    Proxy(usize),
    /// A container's slot: its lives follow one another.
    Container(usize),
    /// All callers.
    Callers,
}

/// A stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ConnId(pub u64);

/// Records of a partition as a claim loads them.
pub type Records = BTreeMap<Vec<u8>, Vec<u8>>;

/// What travels on streams.
#[derive(Clone, Debug)]
pub enum Message {
    /// The initiator's hello.
    Open(Hello),
    /// The other side's.
    Accept(Hello),
    /// Nobody listens.
    Refused,
    /// No answer to a connection attempt.
    TimedOut,
    /// End of stream, or reset.
    Closed,
    /// A UCF frame.
    Frame(Body),
    /// SIP on a stream: whatever a proxy wrote.
    Sip(Vec<u8>),
    /// One message on a stream from a container, and whose it is.
    Leaving(Incarnation, Box<Leaving>),
    /// A caller's message, numbered by the proxy.
    Input(u64, Datagram),
    /// What a container sends to a caller.
    Output(Box<Output>),
    /// Committed or finished.
    Confirmed(u64),
    /// Not owned.
    Returned(u64),
    /// To the store.
    Ask(u64, StoreRequest),
    /// From the store, with the records of a claim.
    Answer(u64, StoreReply, Option<Records>),
}

impl Message {
    /// Nothing comes after it.
    #[must_use]
    pub fn is_end(&self) -> bool {
        matches!(self, Self::Closed | Self::Refused | Self::TimedOut)
    }
}

/// What happens at a time.
#[derive(Debug)]
pub enum Happening {
    /// A message arrives at one end (0: the initiator's) of a stream.
    Arrive(ConnId, usize, Message),
    /// A datagram arrives.
    Datagram(Node, Node, Datagram),
    /// A process wanted to be woken.
    Wake(Node),
    /// A planned fault.
    Fault(usize),
}

struct Conn {
    nodes: [Node; 2],
    lives: [u64; 2],
    open: [bool; 2],
    /// That it has ended is under way to these ends, or has come there: it goes once, so that no second end crosses it.
    told: [bool; 2],
    /// Nothing overtakes: when the last message towards each end arrives.
    last: [Micros; 2],
    stalled: [VecDeque<Message>; 2],
}

/// Time, chance, network, log and checks: what every process of a run shares.
pub struct Context {
    /// The run's time.
    pub now: Micros,
    /// The run's chance.
    pub rng: Rng,
    /// What must hold.
    pub oracle: Oracle,
    /// Lost datagrams in a hundred.
    pub loss: u64,
    /// Added to every delay.
    pub slow: Micros,
    /// Added to that of whatever comes from these and goes there.
    pub slow_nodes: BTreeMap<Node, Micros>,
    /// Proxies that are cut off with a container.
    pub islands: Vec<usize>,
    /// Milliseconds by which the store's clock is wrong.
    pub store_clock: i64,
    lives: BTreeMap<Node, u64>,
    next_life: u64,
    conns: BTreeMap<ConnId, Conn>,
    next_conn: u64,
    blocked: BTreeMap<(Node, Node), u32>,
    queue: BinaryHeap<Reverse<Queued>>,
    order: u64,
    wakes: BTreeSet<(Node, Micros)>,
    log: Option<String>,
}

struct Queued(Micros, u64, Happening);

impl PartialEq for Queued {
    fn eq(&self, other: &Self) -> bool {
        (self.0, self.1) == (other.0, other.1)
    }
}
impl Eq for Queued {}
impl PartialOrd for Queued {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Queued {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.0, self.1).cmp(&(other.0, other.1))
    }
}

impl Context {
    /// A network without processes.
    #[must_use]
    pub fn new(seed: u64, logging: bool) -> Self {
        Self {
            now: 0,
            rng: Rng::new(seed),
            oracle: Oracle::default(),
            loss: 0,
            slow: 0,
            slow_nodes: BTreeMap::new(),
            islands: Vec::new(),
            store_clock: 0,
            lives: BTreeMap::from([(Node::Callers, 1)]),
            next_life: 2,
            conns: BTreeMap::new(),
            next_conn: 1,
            blocked: BTreeMap::new(),
            queue: BinaryHeap::new(),
            order: 0,
            wakes: BTreeSet::new(),
            log: logging.then(String::new),
        }
    }

    /// Notes a line, if this run is to be read.
    pub fn log(&mut self, line: impl FnOnce() -> String) {
        if let Some(log) = &mut self.log {
            let ms = self.now as f64 / 1000.0;
            _ = writeln!(log, "{ms:10.3} {}", line());
        }
    }

    /// What was noted.
    pub fn take_log(&mut self) -> String {
        self.log.take().unwrap_or_default()
    }

    /// A process starts at a node.
    pub fn start(&mut self, node: Node) -> u64 {
        let life = self.next_life;
        self.next_life += 1;
        self.lives.insert(node, life);
        life
    }

    /// The process at a node ends at once: its streams are reset.
    pub fn end(&mut self, node: Node) {
        self.lives.remove(&node);
        let streams = self.conns.iter().filter(|(_, c)| c.nodes.contains(&node));
        for id in streams.map(|(id, _)| *id).collect::<Vec<_>>() {
            for end in 0..2 {
                if self.conns[&id].nodes[end] == node {
                    if matches!(node, Node::Proxy(_)) {
                        // As a reset does. A request that reaches a container long after its proxy died, while its caller has been
                        // served through another, is not covered by the design.
                        self.take_back(id, end);
                    }
                    self.close(id, end);
                }
            }
        }
    }

    /// Whatever stands between two nodes ends by the first one's reset.
    pub fn reset(&mut self, by: Node, other: Node) {
        let between = self.conns.iter().filter(|(_, c)| c.nodes == [other, by]);
        for id in between.map(|(id, _)| *id).collect::<Vec<_>>() {
            self.close(id, 1);
        }
    }

    /// Whether a process runs there.
    #[must_use]
    pub fn lives(&self, node: Node) -> bool {
        self.lives.contains_key(&node)
    }

    /// The next thing that happens before `until`.
    pub fn next(&mut self, until: Micros) -> Option<Happening> {
        if self.queue.peek().is_none_or(|Reverse(next)| next.0 > until) {
            return None;
        }
        let Reverse(Queued(at, _, happening)) = self.queue.pop()?;
        self.now = at;
        Some(happening)
    }

    /// Something will happen.
    pub fn at(&mut self, at: Micros, happening: Happening) {
        self.order += 1;
        self.queue
            .push(Reverse(Queued(at.max(self.now), self.order, happening)));
    }

    /// Wakes a process.
    pub fn wake(&mut self, node: Node, at: Micros) {
        let at = at.max(self.now + 1);
        // One wake-up before it is enough: the process asks again then.
        let earlier = self.wakes.range((node, 0)..=(node, at)).next().is_some();
        if !earlier {
            self.wakes.insert((node, at));
            self.at(at, Happening::Wake(node));
        }
    }

    /// A wake-up has come.
    pub fn woken(&mut self, node: Node) {
        self.wakes.remove(&(node, self.now));
    }

    /// No packet passes between two nodes, until as many calls of `unblock`.
    pub fn block(&mut self, a: Node, b: Node) {
        *self.blocked.entry((a.min(b), a.max(b))).or_default() += 1;
    }

    /// The opposite of `block`.
    pub fn unblock(&mut self, a: Node, b: Node) {
        let key = (a.min(b), a.max(b));
        let count = self.blocked.get_mut(&key).expect("it was blocked");
        *count -= 1;
        if *count > 0 {
            return;
        }
        self.blocked.remove(&key);
        let stalled: Vec<_> = self
            .conns
            .iter()
            .filter(|(_, c)| c.nodes.contains(&a) && c.nodes.contains(&b))
            .map(|(id, _)| *id)
            .collect();
        for id in stalled {
            for end in 0..2 {
                let waiting = std::mem::take(&mut self.conns.get_mut(&id).expect("listed").stalled[end]);
                for message in waiting {
                    self.transmit(id, end, message);
                }
            }
        }
    }

    fn is_blocked(&self, a: Node, b: Node) -> bool {
        self.blocked.contains_key(&(a.min(b), a.max(b)))
    }

    /// Opens a stream; the outcome arrives as a message.
    pub fn connect(&mut self, from: Node, to: Node, hello: Hello) -> ConnId {
        let id = ConnId(self.next_conn);
        self.next_conn += 1;
        let blocked = self.is_blocked(from, to);
        let conn = Conn {
            nodes: [from, to],
            lives: [self.lives[&from], self.lives.get(&to).copied().unwrap_or(0)],
            open: [true, true],
            told: [false, false],
            last: [self.now; 2],
            stalled: Default::default(),
        };
        self.conns.insert(id, conn);
        if blocked {
            let at = self.now + 300 * MS;
            self.at(at, Happening::Arrive(id, 0, Message::TimedOut));
            self.conns.get_mut(&id).expect("just made").open[1] = false;
        } else {
            self.transmit(id, 1, Message::Open(hello));
        }
        id
    }

    /// Sends from one end of a stream to the other.
    pub fn send(&mut self, id: ConnId, from_end: usize, message: Message) {
        if self.conns.get(&id).is_some_and(|c| c.open[from_end]) {
            self.transmit(id, 1 - from_end, message);
        }
    }

    /// Closes one end; what is on its way still arrives.
    pub fn close(&mut self, id: ConnId, end: usize) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if std::mem::replace(&mut conn.open[end], false) {
            self.tell_end(id, 1 - end, Message::Closed);
        }
    }

    /// Closes one end and takes back what has not arrived because the way is blocked.
    pub fn abort(&mut self, id: ConnId, end: usize) {
        self.take_back(id, end);
        self.close(id, end);
    }

    /// Of what one end has sent only its end remains under way, if the way is blocked.
    fn take_back(&mut self, id: ConnId, end: usize) {
        if let Some(conn) = self.conns.get_mut(&id) {
            conn.stalled[1 - end].retain(Message::is_end);
        }
    }

    fn tell_end(&mut self, id: ConnId, to_end: usize, how: Message) {
        let Some(conn) = self.conns.get_mut(&id) else { return };
        if !std::mem::replace(&mut conn.told[to_end], true) {
            self.transmit(id, to_end, how);
        }
    }

    fn transmit(&mut self, id: ConnId, to_end: usize, message: Message) {
        let delay = 100
            + self.rng.range(0, 400)
            + if self.rng.chance(2) {
                self.rng.range(0, 20 * MS)
            } else {
                0
            }
            + self.slow;
        let Some(conn) = self.conns.get_mut(&id) else { return };
        let slow = conn.nodes.iter().filter_map(|node| self.slow_nodes.get(node));
        let delay = delay + slow.sum::<Micros>();
        let at = (self.now + delay).max(conn.last[to_end] + 1);
        conn.last[to_end] = at;
        self.at(at, Happening::Arrive(id, to_end, message));
    }

    /// A message has come to the end of its way: where it goes, unless the way is blocked or nobody is there any more.
    pub fn arrival(&mut self, id: ConnId, end: usize, message: Message) -> Option<(Node, Message)> {
        let blocked = {
            let conn = self.conns.get(&id)?;
            let [a, b] = conn.nodes;
            !matches!(message, Message::TimedOut) && self.is_blocked(a, b)
        };
        let conn = self.conns.get_mut(&id)?;
        if blocked || !conn.stalled[end].is_empty() {
            conn.stalled[end].push_back(message);
            return None;
        }
        let node = conn.nodes[end];
        let alive = self.lives.get(&node).copied();
        let same = alive == Some(conn.lives[end]);
        let opening = matches!(message, Message::Open(_));
        // Who died before it came has reset it.
        if let Some(life) = alive.filter(|_| opening && !same && conn.open[end]) {
            conn.lives[end] = life;
        } else if !same || !conn.open[end] {
            let answer = if opening { Message::Refused } else { Message::Closed };
            if !message.is_end() && conn.open[1 - end] {
                conn.open[end] = false;
                self.tell_end(id, 1 - end, answer);
            } else if !conn.open[1 - end] {
                self.conns.remove(&id);
            }
            // The store reads what a connection brought before it was closed.
            return None;
        }
        if message.is_end() {
            conn.open[end] = false;
        }
        Some((node, message))
    }

    /// Who is at the other end.
    #[must_use]
    pub fn other_node(&self, id: ConnId, end: usize) -> Node {
        self.conns[&id].nodes[1 - end]
    }

    /// The end of a stream at which a node is.
    #[must_use]
    pub fn end_of(&self, id: ConnId, node: Node) -> usize {
        usize::from(self.conns.get(&id).is_some_and(|c| c.nodes[0] != node))
    }

    /// The process that runs at a node.
    #[must_use]
    pub fn life(&self, node: Node) -> Option<u64> {
        self.lives.get(&node).copied()
    }

    /// Sends a datagram: it may get lost, come late or twice.
    pub fn datagram(&mut self, from: Node, to: Node, datagram: Datagram) {
        if self.rng.chance(self.loss) || self.is_blocked(from, to) {
            return;
        }
        let copies = if self.rng.chance(2) { 2 } else { 1 };
        for _ in 0..copies {
            let delay = 200
                + self.rng.range(0, 3 * MS)
                + if self.rng.chance(5) {
                    self.rng.range(0, 60 * MS)
                } else {
                    0
                };
            let at = self.now + delay;
            self.at(at, Happening::Datagram(from, to, datagram.clone()));
        }
    }
}

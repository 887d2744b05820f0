//! Client connections of one worker: accepted ones, and those opened to reach a peer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use sip::{Frame, FrameError, Framer, Instant, Side};
use tokio::sync::Notify;
use tracing::{debug, warn};
use transport::buffer::READ_CHUNK;
use transport::legs::INNER;
use transport::tcp::{Connection, Listener, Read};
use transport::{InBuffer, OutBuffer};
use ucf::flow::{ConnectionId, Flow, Held, Transport};

use crate::snapshot::DriverCounters;
use crate::worker::Worker;

/// Client connections of one worker, at most; memory for their unread beginnings of messages is then below 2 GiB.
const MAX_CLIENTS: usize = 16_384;

/// Bytes that may wait for one client: a thousand messages. A client that reads more slowly is disconnected; RFC 3261's transactions
/// and RFC 5626's flow recovery are made for that.
const OUT_BOUND: usize = 1 << 20;

/// Read buffers kept for use by whichever connection wakes next.
const SPARE_BUFFERS: usize = 4;

/// How long a client may take to accept a connection: below timer B, so that the peer's failure is seen by the transaction.
const CONNECT_PATIENCE: Duration = Duration::from_secs(5);

/// A connection on which nothing whole, message or keep-alive, has come for this long is closed if no message ever came on it. RFC 5626
/// s4.4.1 has clients send keep-alives every two minutes.
const IDLE: Duration = Duration::from_secs(10 * 60);

/// The same if a message did: its calls may only be talking, and requests to this client have no other way. A NAT in between keeps an
/// established connection for as long (RFC 5382 REQ-5: 2 hours 4 minutes) and no longer.
const IDLE_FLOW: Duration = Duration::from_secs((2 * 60 + 5) * 60);

/// A connection is at rest when nothing has come on it for this long and nothing is under way.
const REST: Duration = Duration::from_millis(300);

/// Pause when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// The connections and what waits to be written.
#[derive(Default)]
pub struct Clients {
    open: HashMap<u32, Client>,
    /// For messages that name no connection.
    by_remote: HashMap<SocketAddr, u32>,
    last: u32,
    /// Which have output.
    dirty: Vec<u32>,
    spare: Vec<InBuffer>,
    /// Connections closed because they read too slowly, or not made because there are too many.
    pub refused: u64,
}

struct Client {
    /// Nothing while it is being connected.
    connection: Option<Rc<Connection>>,
    remote: SocketAddr,
    out: OutBuffer,
    dirty: bool,
    /// A task waits until it takes more.
    blocked: bool,
    /// When something whole last came, or when it was opened.
    heard: Instant,
    /// Whether a message ever came.
    is_flow: bool,
    /// Requests, either way, without a final answer. An estimate: an answer that is repeated counts again.
    unanswered: u32,
    /// Tells the reading task to end.
    closed: Rc<Notify>,
}

/// Accepts for ever.
pub async fn accept(worker: Rc<Worker>, listener: u8, socket: Listener) {
    loop {
        match socket.accept().await {
            Ok(connection) => {
                let now = worker.now();
                let added = worker.core.borrow_mut().clients.add(now, connection.peer_addr());
                if let Some((id, closed)) = added {
                    tokio::task::spawn_local(serve(worker.clone(), listener, id, connection, Side::Accepted, closed));
                }
            }
            Err(error) if error.is_retryable() => debug!(%error, "accepting"),
            Err(error) => {
                warn!(%error, "accepting");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn connect(worker: Rc<Worker>, listener: u8, id: u32, remote: SocketAddr, closed: Rc<Notify>) {
    match Connection::connect(remote, CONNECT_PATIENCE).await {
        Ok(connection) => serve(worker, listener, id, connection, Side::Opened, closed).await,
        Err(error) => {
            debug!(%error, "connecting to a client");
            worker.feed(|core, now| {
                core.counters.connects_failed += 1;
                let to = flow(listener, remote, None);
                core.clients.give_up(id, |message| {
                    core.forwarder.handle_unsent(now, &to, message, &mut core.effects);
                });
            });
        }
    }
}

fn flow(listener: u8, remote: SocketAddr, held: Option<Held>) -> Flow {
    Flow {
        transport: Transport::Tcp,
        listener,
        remote,
        translated: false,
        held,
    }
}

/// Reads one connection until it ends.
async fn serve(worker: Rc<Worker>, listener: u8, id: u32, connection: Connection, side: Side, closed: Rc<Notify>) {
    let connection = Rc::new(connection);
    worker.core.borrow_mut().clients.opened(id, connection.clone());
    worker.want_flush();
    let held = Held::Connection {
        by: worker.me(),
        connection: ConnectionId(id),
    };
    let mut reader = Reader {
        // What is beyond the edge's limits is answered by the forwarder, as long as the stream can be read on.
        framer: Framer::new(side, INNER),
        input: None,
        source: flow(listener, connection.peer_addr(), Some(held)),
    };
    loop {
        tokio::select! {
            biased;
            () = closed.notified() => break,
            ready = connection.readable() => if ready.is_err() { break },
        }
        match reader.turn(&worker, &connection) {
            Turn::Drained => {}
            // Others first: one client must not keep the worker to itself.
            Turn::More => tokio::task::yield_now().await,
            Turn::End => break,
        }
    }
    // An answer of this last turn (a refusal) leaves first.
    tokio::task::yield_now().await;
    worker.core.borrow_mut().clients.close(id);
}

impl Client {
    /// Takes note of a message that came or is to leave.
    fn count(&mut self, message: &[u8]) {
        match message.strip_prefix(b"SIP/2.0 ") {
            // RFC 3261 s7.2: 1xx is no final answer.
            Some([b'1', ..]) => {}
            Some(_) => self.unanswered = self.unanswered.saturating_sub(1),
            // An ACK is answered by nobody, and a pong is no message.
            None if message.starts_with(b"ACK ") || message == b"\r\n" => {}
            None => self.unanswered = self.unanswered.saturating_add(1),
        }
    }
}

struct Reader {
    framer: Framer,
    /// Held only while the beginning of a message is in it.
    input: Option<InBuffer>,
    source: Flow,
}

enum Turn {
    Drained,
    More,
    End,
}

impl Reader {
    fn turn(&mut self, worker: &Rc<Worker>, connection: &Connection) -> Turn {
        let held = self.input.take();
        let mut input = held.unwrap_or_else(|| worker.core.borrow_mut().clients.spare.pop().unwrap_or_default());
        let turn = match connection.try_read(&mut input) {
            Ok(Read::Some(count)) => match self.feed(worker, &mut input) {
                true if count >= READ_CHUNK => Turn::More,
                true => Turn::Drained,
                false => Turn::End,
            },
            Ok(Read::Nothing) => Turn::Drained,
            Ok(Read::End) => Turn::End,
            Err(error) => {
                debug!(%error, "client connection");
                Turn::End
            }
        };
        if input.is_empty() {
            let spare = &mut worker.core.borrow_mut().clients.spare;
            if spare.len() < SPARE_BUFFERS {
                spare.push(input);
            }
        } else {
            self.input = Some(input);
        }
        turn
    }

    /// Hands over all whole messages; `false` if the stream cannot be read on.
    fn feed(&mut self, worker: &Rc<Worker>, input: &mut InBuffer) -> bool {
        worker.feed(|core, now| {
            let id = self
                .source
                .held
                .and_then(Held::connection)
                .map_or(0, |connection| connection.0);
            loop {
                let data = input.data();
                let consumed = match self.framer.next(data) {
                    Ok((0, None)) => return true,
                    Ok((consumed, Some(Frame::Message(range)))) => {
                        core.counters.stream_messages_in += 1;
                        core.clients.heard(now, id, Some(&data[range.clone()]));
                        core.forwarder
                            .handle_client(now, &self.source, &data[range], &mut core.effects);
                        consumed
                    }
                    Ok((consumed, Some(Frame::Ping))) => {
                        // RFC 5626 s4.4.1: answered with a pong.
                        core.clients.heard(now, id, None);
                        core.clients.send_held(self.source.held, b"\r\n");
                        consumed
                    }
                    Ok((consumed, Some(Frame::Pong))) => {
                        core.clients.heard(now, id, None);
                        consumed
                    }
                    Ok((consumed, None)) => consumed,
                    Err(error) => {
                        core.counters.streams_refused += 1;
                        if error == FrameError::ContentLength {
                            // RFC 3261 s18.3: 400, then the connection is closed. The head is all there is.
                            core.forwarder.handle_client(now, &self.source, data, &mut core.effects);
                        }
                        debug!(remote = %self.source.remote, %error, "client stream cannot be read on");
                        return false;
                    }
                };
                input.consume(consumed);
            }
        })
    }
}

impl Clients {
    /// Sends on the connection that the flow names, on another to the same address, or on a new one.
    pub fn send(&mut self, worker: &Rc<Worker>, to: &Flow, message: &[u8]) {
        if self.send_held(to.held, message) {
            return;
        }
        let id = match self.by_remote.get(&to.remote) {
            Some(id) => *id,
            None => {
                let Some((id, closed)) = self.add(worker.now(), to.remote) else {
                    return;
                };
                tokio::task::spawn_local(connect(worker.clone(), to.listener, id, to.remote, closed));
                id
            }
        };
        self.push(id, message);
    }

    /// Sends on the connection of this worker that is named, if it is open.
    fn send_held(&mut self, held: Option<Held>, message: &[u8]) -> bool {
        let connection = held.and_then(Held::connection);
        connection.is_some_and(|connection| self.push(connection.0, message))
    }

    fn push(&mut self, id: u32, message: &[u8]) -> bool {
        let Some(client) = self.open.get_mut(&id) else {
            return false;
        };
        if client.out.push(message).is_err() {
            debug!(remote = %client.remote, "client reads too slowly, closing");
            self.refused += 1;
            self.close(id);
            return true;
        }
        client.count(message);
        if !client.dirty {
            client.dirty = true;
            self.dirty.push(id);
        }
        true
    }

    fn add(&mut self, now: Instant, remote: SocketAddr) -> Option<(u32, Rc<Notify>)> {
        if self.open.len() >= MAX_CLIENTS || self.last == u32::MAX {
            self.refused += 1;
            return None;
        }
        self.last += 1;
        let closed = Rc::new(Notify::new());
        let client = Client {
            connection: None,
            remote,
            out: OutBuffer::new(OUT_BOUND),
            dirty: false,
            blocked: false,
            heard: now,
            is_flow: false,
            unanswered: 0,
            closed: closed.clone(),
        };
        self.open.insert(self.last, client);
        self.by_remote.insert(remote, self.last);
        Some((self.last, closed))
    }

    /// Something whole has come from the client named.
    fn heard(&mut self, now: Instant, id: u32, message: Option<&[u8]>) {
        if let Some(client) = self.open.get_mut(&id) {
            client.heard = now;
            if let Some(message) = message {
                client.is_flow = true;
                client.count(message);
            }
        }
    }

    /// Closes those on which nothing is under way: their clients notice between two requests, not in the midst of one.
    pub fn close_resting(&mut self, now: Instant) {
        self.close_all(|client| client.unanswered == 0 && client.out.is_empty() && now.since(client.heard) >= REST);
    }

    /// Closes all that there are.
    pub fn close_every(&mut self) {
        self.close_all(|_| true);
    }

    fn close_all(&mut self, which: impl Fn(&Client) -> bool) {
        let chosen: Vec<u32> = self
            .open
            .iter()
            .filter(|(_, client)| which(client))
            .map(|(id, _)| *id)
            .collect();
        chosen.into_iter().for_each(|id| self.close(id));
    }

    /// Closes those that have been idle for too long.
    pub fn close_idle(&mut self, now: Instant) {
        let idle = |client: &Client| now.since(client.heard) >= if client.is_flow { IDLE_FLOW } else { IDLE };
        let idle: Vec<u32> = self
            .open
            .iter()
            .filter_map(|(id, client)| idle(client).then_some(*id))
            .collect();
        for id in idle {
            debug!(remote = %self.open[&id].remote, "client connection has been idle for long, closing");
            self.close(id);
        }
    }

    fn opened(&mut self, id: u32, connection: Rc<Connection>) {
        if let Some(client) = self.open.get_mut(&id) {
            client.connection = Some(connection);
            if !client.out.is_empty() && !client.dirty {
                client.dirty = true;
                self.dirty.push(id);
            }
        }
    }

    fn close(&mut self, id: u32) {
        if let Some(client) = self.open.remove(&id) {
            client.closed.notify_one();
            if self.by_remote.get(&client.remote) == Some(&id) {
                self.by_remote.remove(&client.remote);
            }
        }
    }

    /// The connection could not be made: gives each message that waits for it to `unsent`.
    fn give_up(&mut self, id: u32, mut unsent: impl FnMut(&[u8])) {
        let Some(client) = self.open.get_mut(&id) else { return };
        let out = std::mem::replace(&mut client.out, OutBuffer::new(0));
        self.close(id);
        let (mut waiting, mut framer) = (out.pending(), Framer::new(Side::Opened, INNER));
        while let Ok((consumed @ 1.., frame)) = framer.next(waiting) {
            if let Some(Frame::Message(range)) = frame {
                unsent(&waiting[range]);
            }
            waiting = &waiting[consumed..];
        }
    }

    /// How many connections there are.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Writes each connection's output once.
    pub fn flush(&mut self, worker: &Rc<Worker>, counters: &mut DriverCounters) {
        let mut dirty = std::mem::take(&mut self.dirty);
        for id in dirty.drain(..) {
            let Some(client) = self.open.get_mut(&id) else { continue };
            client.dirty = false;
            let Some(connection) = client.connection.as_ref().filter(|_| !client.blocked) else {
                continue;
            };
            counters.stream_writes += 1;
            match connection.try_write(&mut client.out) {
                Ok(true) => {}
                Ok(false) => {
                    client.blocked = true;
                    tokio::task::spawn_local(resume(worker.clone(), id, connection.clone()));
                }
                Err(error) => {
                    debug!(%error, "client connection");
                    self.close(id);
                }
            }
        }
        self.dirty = dirty;
    }

    fn unblock(&mut self, id: u32) {
        if let Some(client) = self.open.get_mut(&id) {
            client.blocked = false;
            if !client.dirty {
                client.dirty = true;
                self.dirty.push(id);
            }
        }
    }
}

/// Goes on writing when the client takes more.
async fn resume(worker: Rc<Worker>, id: u32, connection: Rc<Connection>) {
    let _ = connection.writable().await;
    worker.core.borrow_mut().clients.unblock(id);
    worker.want_flush();
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_connections_are_closed_but_flows_that_live_are_not() {
        let remote = |port: u16| SocketAddr::from(([192, 0, 2, 1], port));
        let start = Instant::default() + Duration::from_secs(100);
        let mut clients = Clients::default();
        let mut add = |port| clients.add(start, remote(port)).expect("there is room").0;
        let (mute, pinging, talking) = (add(1), add(2), add(3));
        clients.heard(start, talking, Some(b"OPTIONS sip:a SIP/2.0\r\n\r\n"));
        let mut now = start;
        let mut closed = Vec::new();
        for minute in 1..=200 {
            now = now + Duration::from_secs(60);
            if minute % 2 == 0 {
                clients.heard(now, pinging, None);
            }
            clients.close_idle(now);
            for id in [mute, talking] {
                if !clients.open.contains_key(&id) && closed.iter().all(|(_, gone)| *gone != id) {
                    closed.push((minute, id));
                }
            }
        }
        assert_eq!(closed, [(10, mute), (125, talking)]);
        assert!(clients.push(pinging, b"\r\n"));
        assert_eq!((clients.len(), clients.by_remote.len()), (1, 1));
    }

    #[test]
    fn a_connection_is_at_rest_only_when_every_request_on_it_is_answered() {
        let start = Instant::default() + Duration::from_secs(100);
        let mut clients = Clients::default();
        let (id, _) = clients
            .add(start, SocketAddr::from(([192, 0, 2, 1], 1)))
            .expect("there is room");
        let later = start + REST;
        clients.heard(start, id, Some(b"INVITE sip:a SIP/2.0\r\n"));
        clients.push(id, b"SIP/2.0 180 Ringing\r\n");
        // The other way: a request of the callee's.
        clients.push(id, b"OPTIONS sip:b SIP/2.0\r\n");
        clients.heard(start, id, Some(b"SIP/2.0 200 OK\r\n"));
        clients.push(id, b"\r\n");
        written(&mut clients, id);
        clients.close_resting(later);
        assert_eq!(clients.len(), 1, "it rings");
        clients.push(id, b"SIP/2.0 200 OK\r\n");
        clients.close_resting(later);
        assert_eq!(clients.len(), 1, "the answer has not left");
        written(&mut clients, id);
        clients.heard(later, id, Some(b"ACK sip:a SIP/2.0\r\n"));
        clients.close_resting(later);
        assert_eq!(clients.len(), 1, "something has just come");
        clients.close_resting(later + REST);
        assert_eq!(clients.len(), 0);
    }

    /// All output has left.
    fn written(clients: &mut Clients, id: u32) {
        let out = &mut clients.open.get_mut(&id).expect("it is open").out;
        out.consume(out.pending().len());
    }
}

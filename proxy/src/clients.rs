//! Client connections of one worker: accepted ones, and those opened to reach a peer.

use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use sip::{Frame, FrameError, Framer, Side};
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
    /// Tells the reading task to end.
    closed: Rc<Notify>,
}

/// Accepts for ever.
pub async fn accept(worker: Rc<Worker>, listener: u8, socket: Listener) {
    loop {
        match socket.accept().await {
            Ok(connection) => {
                let added = worker.core.borrow_mut().clients.add(connection.peer_addr());
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
            let mut core = worker.core.borrow_mut();
            core.counters.connects_failed += 1;
            core.clients.close(id);
        }
    }
}

/// Reads one connection until it ends.
async fn serve(worker: Rc<Worker>, listener: u8, id: u32, connection: Connection, side: Side, closed: Rc<Notify>) {
    let connection = Rc::new(connection);
    worker.core.borrow_mut().clients.opened(id, connection.clone());
    worker.want_flush();
    let mut reader = Reader {
        // What is beyond the edge's limits is answered by the forwarder, as long as the stream can be read on.
        framer: Framer::new(side, INNER),
        input: None,
        source: Flow {
            transport: Transport::Tcp,
            listener,
            remote: connection.peer_addr(),
            held: Some(Held {
                by: worker.me(),
                connection: ConnectionId(id),
            }),
        },
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
            loop {
                let data = input.data();
                let consumed = match self.framer.next(data) {
                    Ok((0, None)) => return true,
                    Ok((consumed, Some(Frame::Message(range)))) => {
                        core.counters.stream_messages_in += 1;
                        core.forwarder
                            .handle_client(now, &self.source, &data[range], &mut core.effects);
                        consumed
                    }
                    Ok((consumed, Some(Frame::Ping))) => {
                        // RFC 5626 s4.4.1: answered with a pong.
                        core.clients.send_held(self.source.held, b"\r\n");
                        consumed
                    }
                    Ok((consumed, Some(Frame::Pong) | None)) => consumed,
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
                let Some((id, closed)) = self.add(to.remote) else {
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
        held.is_some_and(|held| self.push(held.connection.0, message))
    }

    fn push(&mut self, id: u32, message: &[u8]) -> bool {
        let Some(client) = self.open.get_mut(&id) else {
            return false;
        };
        if client.out.push(message).is_err() {
            debug!(remote = %client.remote, "client reads too slowly, closing");
            self.refused += 1;
            self.close(id);
        } else if !client.dirty {
            client.dirty = true;
            self.dirty.push(id);
        }
        true
    }

    fn add(&mut self, remote: SocketAddr) -> Option<(u32, Rc<Notify>)> {
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
            closed: closed.clone(),
        };
        self.open.insert(self.last, client);
        self.by_remote.insert(remote, self.last);
        Some((self.last, closed))
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

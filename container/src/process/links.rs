//! UCF links of the control task: proxies' and containers', each with a task that reads and one that writes.

use std::rc::Rc;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc::{self, Receiver, Sender};
use transport::places::Places;
use transport::tcp::{Connection, Listener};
use transport::ucf_link::{self, LINK_BOUND, VERSION};
use transport::{Fault, InBuffer, OutBuffer};
use ucf::Incarnation;
use ucf::greeting::End;
use ucf::member::LinkEnd;
use ucf::token::Keyring;
use ucf::wire::{Body, Hello};

/// How long a member may take to accept a link.
const CONNECT_PATIENCE: Duration = Duration::from_millis(700);

/// How long a link that cannot be written to is still read.
const LAST_WORDS: Duration = Duration::from_millis(200);

/// Frames that may wait for one link: some seconds' worth. A peer that falls behind further is cut off.
const FRAMES: usize = 4096;

/// A link's number; never used again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u64);

/// What links tell the control task.
pub enum LinkEvent {
    /// Both sides have said hello.
    Up {
        link: LinkId,
        hello: Hello,
        out: Sender<Body>,
    },
    /// A frame came.
    Frame { link: LinkId, body: Body },
    /// It ended.
    End { link: LinkId, end: LinkEnd },
    /// Somebody does not prove that it has the cluster's key.
    Stranger { why: String },
    /// A link that the member wanted could not be made.
    NotMade { member: Incarnation, end: LinkEnd },
}

/// Who we are.
#[derive(Clone)]
pub struct Identity {
    pub cluster: String,
    pub name: String,
    pub incarnation: Incarnation,
    pub keyring: Arc<Keyring>,
}

impl Identity {
    fn hello(&self) -> Hello {
        Hello {
            version: VERSION,
            cluster: self.cluster.clone(),
            name: self.name.clone(),
            incarnation: self.incarnation.0,
            ..Hello::default()
        }
    }

    /// Says hello on a link and hears the other side's. Strangers are counted.
    async fn greet(
        &self,
        connection: &Connection,
        input: &mut InBuffer,
        end: End,
        events: &Sender<LinkEvent>,
    ) -> transport::Result<Hello> {
        let greeted = ucf_link::hello(connection, input, &self.keyring, end, self.hello()).await;
        if let Err(error) = &greeted
            && error.fault() == Fault::Stranger
        {
            let why = error.to_string();
            let _ = events.send(LinkEvent::Stranger { why }).await;
        }
        greeted
    }
}

/// Accepts links for good.
pub async fn accept(listener: Listener, me: Identity, events: Sender<LinkEvent>, numbers: Rc<std::cell::Cell<u64>>) {
    let places = Places::new(ucf_link::MAX_GREETING);
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let place = places.take(connection.peer_addr());
                let link = next(&numbers);
                let (me, events) = (me.clone(), events.clone());
                tokio::task::spawn_local(async move {
                    let mut input = InBuffer::new();
                    let greeting = me.greet(&connection, &mut input, End::Accepted, &events);
                    match place.during(greeting).await {
                        // A former life of ours is looked for at this address, and it is us who look.
                        Ok(hello) if hello.incarnation == me.incarnation.0 => {}
                        Ok(hello) => serve(link, connection, input, hello, events).await,
                        Err(error) => tracing::debug!(%error, "UCF link"),
                    }
                });
            }
            Err(error) => {
                tracing::debug!(%error, "accepting");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

/// Connects to a member and serves the link.
pub async fn connect(member: Incarnation, address: String, link: LinkId, me: Identity, events: Sender<LinkEvent>) {
    let end = match try_connect(member, &address, &me, &events).await {
        Ok((connection, input, hello)) => return serve(link, connection, input, hello, events).await,
        Err(end) => end,
    };
    let _ = events.send(LinkEvent::NotMade { member, end }).await;
}

async fn try_connect(
    member: Incarnation,
    address: &str,
    me: &Identity,
    events: &Sender<LinkEvent>,
) -> Result<(Connection, InBuffer, Hello), LinkEnd> {
    let address = address.parse().map_err(|_| LinkEnd::Lost)?;
    let connection = Connection::connect(address, CONNECT_PATIENCE)
        .await
        .map_err(|error| match error.io_kind() {
            Some(std::io::ErrorKind::ConnectionRefused) => LinkEnd::Refused,
            _ => LinkEnd::Lost,
        })?;
    let mut input = InBuffer::new();
    let hello = me
        .greet(&connection, &mut input, End::Opened, events)
        .await
        .map_err(|_| LinkEnd::Lost)?;
    // Another life at the same address: the one that we look for is gone.
    if hello.incarnation != member.0 {
        return Err(LinkEnd::Refused);
    }
    Ok((connection, input, hello))
}

/// Reads and writes until either ends: a link that is half deaf would be fed for nothing.
async fn serve(link: LinkId, connection: Connection, input: InBuffer, hello: Hello, events: Sender<LinkEvent>) {
    let (out, frames) = mpsc::channel(FRAMES);
    if events.send(LinkEvent::Up { link, hello, out }).await.is_err() {
        return;
    }
    let end = tokio::select! {
        end = read(link, &connection, input, &events) => end,
        end = write(&connection, frames) => end,
    };
    drop(connection);
    let _ = events.send(LinkEvent::End { link, end }).await;
}

async fn read(link: LinkId, connection: &Connection, mut input: InBuffer, events: &Sender<LinkEvent>) -> LinkEnd {
    loop {
        match ucf_link::next(connection, &mut input).await {
            Ok(Some(body)) => {
                if events.send(LinkEvent::Frame { link, body }).await.is_err() {
                    return LinkEnd::Closed;
                }
            }
            Ok(None) => return LinkEnd::Closed,
            Err(error) => {
                tracing::debug!(%error, "UCF link");
                return match error.io_kind() {
                    Some(std::io::ErrorKind::ConnectionReset | std::io::ErrorKind::BrokenPipe) => LinkEnd::Closed,
                    _ => LinkEnd::Lost,
                };
            }
        }
    }
}

/// Writes what comes, many frames at once where they have gathered, until the control task has forgotten the link.
async fn write(connection: &Connection, mut frames: Receiver<Body>) -> LinkEnd {
    let mut out = OutBuffer::new(LINK_BOUND);
    let mut batch = Vec::with_capacity(64);
    while frames.recv_many(&mut batch, 64).await > 0 {
        for body in batch.drain(..) {
            if ucf_link::push(body, &mut out).is_err() {
                return LinkEnd::Lost;
            }
        }
        if connection.write(&mut out).await.is_err() {
            // What the peer sent before it ended is still read, and says how it ended.
            tokio::time::sleep(LAST_WORDS).await;
            return LinkEnd::Lost;
        }
    }
    LinkEnd::Lost
}

/// The next number.
pub fn next(numbers: &std::cell::Cell<u64>) -> LinkId {
    numbers.set(numbers.get() + 1);
    LinkId(numbers.get())
}

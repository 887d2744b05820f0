//! A worker's links: its own SIP and UCF connection to each container, and UCF with each other proxy, made again when they end.

use std::io::IoSlice;
use std::net::SocketAddr;
use std::rc::Rc;
use std::time::Duration;

use hashbrown::HashMap;
use proxy::forward::{Effects, Forwarder, LinkId};
use sip::Instant;
use sip::{Frame, Framer, Side};
use tokio::sync::{Notify, watch};
use tracing::{debug, info, warn};
use transport::buffer::READ_CHUNK;
use transport::legs::INNER;
use transport::tcp::{Connection, Read};
use transport::ucf_link::{self, LINK_BOUND};
use transport::{Error, Fault, InBuffer, OutBuffer};
use ucf::greeting::End;
use ucf::wire::Body;

use crate::endpoints::Endpoint;
use crate::peers;
use crate::snapshot::DriverCounters;
use crate::worker::Worker;

/// How long a container or proxy may take to accept a connection.
pub const CONNECT_PATIENCE: Duration = Duration::from_millis(700);

/// First and longest pause between attempts. Short: a container that is back waits for its proxies.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(20), Duration::from_millis(500));

/// Pieces of one write to a container.
const PIECES: usize = 16;

/// Reads of what a container has sent before it ended, at most: 4 MiB, what a socket holds.
const LAST_READS: usize = 64;

/// All links that stand.
#[derive(Default)]
pub struct Links {
    /// A handful: one per container and proxy. Searched by number.
    up: Vec<Link>,
    /// Those to be taken down, with the reason.
    failed: Vec<(LinkId, String)>,
}

/// One link.
pub struct Link {
    id: LinkId,
    name: String,
    /// None with another proxy.
    sip: Option<Rc<Connection>>,
    ucf: Rc<Connection>,
    ucf_out: OutBuffer,
    sip_blocked: bool,
    ucf_blocked: bool,
    /// Tells the task that keeps it that it is down.
    down: Rc<Notify>,
}

/// Tells the task that keeps a link, once it is dropped, to make it no more.
struct Kept(Rc<Notify>);

impl Drop for Kept {
    fn drop(&mut self) {
        self.0.notify_one();
    }
}

/// Keeps a link to every container and every other proxy of the list. When it is aborted, links that stand go on, but none is made again.
pub async fn keep_all(worker: Rc<Worker>, mut list: watch::Receiver<Vec<Endpoint>>) {
    let mut kept: HashMap<Endpoint, Kept> = HashMap::new();
    loop {
        let mut wanted: Vec<Endpoint> = list.borrow_and_update().clone();
        wanted.retain(|endpoint| endpoint.sip.is_some() || endpoint.name != worker.name);
        // Off the list means no new attempt; a link that stands is the container's and ours to end.
        kept.retain(|endpoint, _| wanted.contains(endpoint));
        for endpoint in wanted {
            kept.entry(endpoint).or_insert_with_key(|endpoint| {
                let forget = Rc::new(Notify::new());
                tokio::task::spawn_local(keep(worker.clone(), endpoint.clone(), forget.clone()));
                Kept(forget)
            });
        }
        if list.changed().await.is_err() {
            return;
        }
    }
}

/// Links to one container or proxy again and again until told to forget it.
async fn keep(worker: Rc<Worker>, endpoint: Endpoint, forget: Rc<Notify>) {
    let mut pause = BACKOFF.0;
    loop {
        let linked = match endpoint.sip {
            Some(sip) => link(&worker, sip, endpoint.ucf).await,
            None => peers::link(&worker, endpoint.ucf).await,
        };
        match linked {
            Ok(()) => pause = BACKOFF.0,
            Err(error) if error.is_retryable() => debug!(name = %endpoint.name, %error, "linking"),
            // The worker has told.
            Err(error) if error.fault() == Fault::Stranger => pause = BACKOFF.1,
            Err(error) => {
                warn!(name = %endpoint.name, %error, "linking");
                pause = BACKOFF.1;
            }
        }
        let forgotten = tokio::time::timeout(pause, forget.notified()).await;
        if forgotten.is_ok() {
            return;
        }
        pause = (pause * 2).min(BACKOFF.1);
    }
}

/// Makes both connections, and serves them until one of them ends.
async fn link(worker: &Rc<Worker>, sip: SocketAddr, ucf: SocketAddr) -> transport::Result<()> {
    let sip = Rc::new(Connection::connect(sip, CONNECT_PATIENCE).await?);
    let ucf = Rc::new(Connection::connect(ucf, CONNECT_PATIENCE).await?);
    let mut frames = InBuffer::new();
    let local = sip.local_addr().to_string();
    let hello = worker.greet(&ucf, &mut frames, End::Opened, local).await?;
    let down = Rc::new(Notify::new());
    let name = hello.name.clone();
    let linked = worker.feed(|core, now| {
        let id = core.forwarder.link_up(now, &hello, &mut core.effects)?;
        let sip = Some(sip.clone());
        let link = Link::new(id, hello.name.clone(), sip, ucf.clone(), down.clone());
        core.links.add(link);
        Some(id)
    });
    let Some(id) = linked else {
        return Err(Error::peer(format!(
            "{} cannot be a container of this cluster, or there are too many",
            hello.name
        )));
    };
    info!(container = %hello.name, incarnation = %ucf::Incarnation(hello.incarnation), worker = worker.me().worker, "container linked");
    let framer = Framer::new(Side::Opened, INNER);
    let reader = Reader {
        worker: worker.clone(),
        id,
        name,
        sip,
        ucf,
        messages: InBuffer::new(),
        frames,
        framer,
    };
    let reading = tokio::task::spawn_local(guard(worker.clone(), id, reader.run()));
    down.notified().await;
    reading.abort();
    Ok(())
}

/// Fails the link when its reader ends.
pub async fn guard(worker: Rc<Worker>, id: LinkId, reading: impl Future<Output = transport::Result<()>>) {
    let reason = match reading.await {
        Ok(()) => "closed by the other side".to_owned(),
        Err(error) => error.to_string(),
    };
    worker.feed(|core, _| core.links.fail(id, &reason));
}

/// Reads both connections of a link.
struct Reader {
    worker: Rc<Worker>,
    id: LinkId,
    /// The container's name, for logs.
    name: String,
    sip: Rc<Connection>,
    ucf: Rc<Connection>,
    messages: InBuffer,
    frames: InBuffer,
    framer: Framer,
}

impl Reader {
    async fn run(mut self) -> transport::Result<()> {
        // What came with the hello.
        self.feed_frames()?;
        loop {
            tokio::select! {
                biased;
                ready = self.sip.readable() => ready?,
                ready = self.ucf.readable() => ready?,
            }
            // A container announces what it owns before it sends for it. So what had arrived on UCF when the messages were taken is
            // heard first, else the first output of a new owner would meet the fence.
            let messages = self.sip.try_read(&mut self.messages)?;
            let frames = match messages {
                Read::Nothing => self.ucf.try_read(&mut self.frames),
                Read::Some(_) | Read::End => self.ucf.read_now(&mut self.frames),
            };
            if let Ok(Read::Some(_)) = frames {
                self.feed_frames()?;
            }
            if let Read::Some(_) = messages {
                self.feed_messages()?;
            }
            if messages == Read::End {
                return Ok(());
            }
            if matches!(frames, Ok(Read::End) | Err(_)) {
                self.hear_out()?;
                return frames.map(|_| ());
            }
            if matches!(messages, Read::Some(count) if count >= READ_CHUNK) {
                // More is waiting: let the flush and the other sockets have their turn first.
                tokio::task::yield_now().await;
            }
        }
    }

    /// UCF has ended. What the container sent before has been committed: it still leaves.
    fn hear_out(&mut self) -> transport::Result<()> {
        for _ in 0..LAST_READS {
            match self.sip.read_now(&mut self.messages)? {
                Read::Some(_) => self.feed_messages()?,
                Read::Nothing | Read::End => break,
            }
        }
        Ok(())
    }

    fn feed_messages(&mut self) -> transport::Result<()> {
        let Self {
            worker,
            id,
            messages,
            framer,
            ..
        } = self;
        worker.feed(|core, now| {
            core.counters.link_reads += 1;
            loop {
                let data = messages.data();
                let consumed = match framer.next(data) {
                    Ok((0, None)) => return Ok(()),
                    Ok((consumed, Some(Frame::Message(range)))) => {
                        core.counters.link_messages_in += 1;
                        core.forwarder
                            .handle_container(now, *id, &data[range], &mut core.effects);
                        consumed
                    }
                    Ok((consumed, _)) => consumed,
                    Err(error) => return Err(Error::peer(format!("container sent no SIP: {error}"))),
                };
                messages.consume(consumed);
            }
        })
    }

    fn feed_frames(&mut self) -> transport::Result<()> {
        let Self {
            worker,
            id,
            frames,
            name,
            ..
        } = self;
        worker.feed(|core, now| {
            while let Some(body) = ucf_link::take(frames)? {
                // All workers hear the same: one line is enough, and complete lists come again and again.
                if let (Body::Ownership(heard), 0) = (&body, worker.me().worker)
                    && !heard.complete
                {
                    let owner = ucf::Incarnation(heard.owner);
                    let (partitions, leaving) = (heard.partitions.len(), heard.leaving.len());
                    info!(container = %name, %owner, partitions, leaving, "ownership announced");
                }
                core.forwarder.handle_frame(now, *id, &body, &mut core.effects);
            }
            Ok(())
        })
    }
}

impl Links {
    /// A link stands.
    pub fn add(&mut self, link: Link) {
        self.up.push(link);
    }

    /// Appends a frame to a link's UCF output.
    pub fn push_frame(&mut self, id: LinkId, body: Body) {
        let Some(link) = self.up.iter_mut().find(|link| link.id == id) else {
            return;
        };
        if ucf_link::push(body, &mut link.ucf_out).is_err() {
            self.fail(id, "it reads UCF too slowly");
        }
    }

    /// Has a link taken down on which nothing is heard, by RST: what it was sent and has not confirmed goes to others, not there as well.
    pub fn give_up(&mut self, id: LinkId, reason: &str) {
        if let Some(link) = self.up.iter().find(|link| link.id == id) {
            link.sip.iter().for_each(|sip| sip.discard());
            link.ucf.discard();
        }
        self.fail(id, reason);
    }

    /// Has a link taken down at the next flush.
    pub fn fail(&mut self, id: LinkId, reason: &str) {
        if self.up.iter().any(|link| link.id == id) {
            self.failed.push((id, reason.to_owned()));
        }
    }

    /// Tells all containers at once that this worker sends nothing more. They send by others from then on, end their side, and with that the
    /// links end: what they had sent before is read first.
    pub fn say_farewell(&self) {
        for link in &self.up {
            // One that has failed ends anyway.
            let _ = link.ucf.end_writing();
        }
    }

    /// Whether no link is left.
    pub fn is_empty(&self) -> bool {
        self.up.is_empty()
    }

    /// Whether there are links to be taken down.
    pub fn has_failed(&self) -> bool {
        !self.failed.is_empty()
    }

    /// Takes failed links down and tells the forwarder, once each.
    pub fn reap(&mut self, forwarder: &mut Forwarder, now: Instant, effects: &mut Effects) {
        for (id, reason) in self.failed.drain(..) {
            if let Some(place) = self.up.iter().position(|link| link.id == id) {
                let link = self.up.swap_remove(place);
                warn!(name = %link.name, %reason, "link down");
                link.down.notify_one();
                forwarder.link_down(now, id, effects);
            }
        }
    }

    /// Writes each link's output once.
    pub fn flush(&mut self, worker: &Rc<Worker>, forwarder: &mut Forwarder, counters: &mut DriverCounters) {
        for link in &mut self.up {
            let written = link
                .write_sip(worker, forwarder, counters)
                .and_then(|()| link.write_ucf(worker));
            if let Err(error) = written {
                self.failed.push((link.id, error.to_string()));
            }
        }
    }

    fn unblock(&mut self, id: LinkId) {
        if let Some(link) = self.up.iter_mut().find(|link| link.id == id) {
            link.sip_blocked = false;
            link.ucf_blocked = false;
        }
    }
}

impl Link {
    /// With a container, or without SIP with another proxy; `down` is told when it ends.
    pub fn new(id: LinkId, name: String, sip: Option<Rc<Connection>>, ucf: Rc<Connection>, down: Rc<Notify>) -> Self {
        Self {
            id,
            name,
            sip,
            ucf,
            ucf_out: OutBuffer::new(LINK_BOUND),
            sip_blocked: false,
            ucf_blocked: false,
            down,
        }
    }

    fn write_sip(
        &mut self,
        worker: &Rc<Worker>,
        forwarder: &mut Forwarder,
        counters: &mut DriverCounters,
    ) -> transport::Result<()> {
        let Some(sip) = &self.sip else { return Ok(()) };
        while !self.sip_blocked {
            let mut pieces = [IoSlice::new(&[]); PIECES];
            let count = forwarder.outgoing(self.id, &mut pieces);
            if count == 0 {
                return Ok(());
            }
            counters.link_writes += 1;
            let written = sip.try_write_vectored(&pieces[..count])?;
            forwarder.wrote(self.id, written);
            if written == 0 {
                self.sip_blocked = true;
                tokio::task::spawn_local(resume(worker.clone(), self.id, sip.clone()));
            }
        }
        Ok(())
    }

    fn write_ucf(&mut self, worker: &Rc<Worker>) -> transport::Result<()> {
        if !self.ucf_blocked && !self.ucf_out.is_empty() && !self.ucf.try_write(&mut self.ucf_out)? {
            self.ucf_blocked = true;
            tokio::task::spawn_local(resume(worker.clone(), self.id, self.ucf.clone()));
        }
        Ok(())
    }
}

/// Goes on writing when the container takes more.
async fn resume(worker: Rc<Worker>, id: LinkId, connection: Rc<Connection>) {
    let _ = connection.writable().await;
    worker.core.borrow_mut().links.unblock(id);
    worker.want_flush();
}

//! A worker's links with the workers of other proxies: UCF only. Every worker dials each other proxy, where any worker may take the call;
//! what comes of it is the same on both sides.

use std::rc::Rc;
use std::time::Duration;

use tokio::sync::Notify;
use tracing::{debug, info};
use transport::places::{Place, Places};
use transport::tcp::{Connection, Listener};
use transport::ucf_link;
use transport::{Error, InBuffer};
use ucf::greeting::End;
use ucf::wire::Hello;

use crate::links::{self, CONNECT_PATIENCE, Link};
use crate::worker::Worker;

/// Pause when no connection can be accepted for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Accepts other proxies for ever.
pub async fn accept(worker: Rc<Worker>, listener: Listener) {
    let places = Places::new(ucf_link::MAX_GREETING);
    loop {
        match listener.accept().await {
            Ok(connection) => {
                let place = places.take(connection.peer_addr());
                let worker = worker.clone();
                tokio::task::spawn_local(async move {
                    if let Err(error) = greet(&worker, connection, End::Accepted, Some(place)).await {
                        debug!(%error, "link with a proxy");
                    }
                });
            }
            Err(error) => {
                debug!(%error, "accepting proxies");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Dials another proxy and serves the link until it ends.
pub async fn link(worker: &Rc<Worker>, address: std::net::SocketAddr) -> transport::Result<()> {
    let connection = Connection::connect(address, CONNECT_PATIENCE).await?;
    greet(worker, connection, End::Opened, None).await
}

/// Hears who it is, if it came by itself as long as it has a `place`.
async fn greet(worker: &Rc<Worker>, connection: Connection, end: End, place: Option<Place>) -> transport::Result<()> {
    let ucf = Rc::new(connection);
    let mut frames = InBuffer::new();
    let own = worker.core.borrow().forwarder.own_address();
    let own = own.map_or_else(String::new, |address| address.to_string());
    let greeting = worker.greet(&ucf, &mut frames, end, own);
    let hello = match place {
        Some(place) => place.during(greeting).await?,
        None => greeting.await?,
    };
    serve(worker, ucf, frames, &hello).await
}

async fn serve(worker: &Rc<Worker>, ucf: Rc<Connection>, frames: InBuffer, hello: &Hello) -> transport::Result<()> {
    let down = Rc::new(Notify::new());
    let linked = worker.feed(|core, now| {
        let id = core.forwarder.peer_up(now, hello)?;
        let link = Link::new(id, hello.name.clone(), None, ucf.clone(), down.clone());
        core.links.add(link);
        Some(id)
    });
    let Some(id) = linked else {
        return Err(Error::peer(format!(
            "{} cannot be another proxy of this cluster",
            hello.name
        )));
    };
    info!(proxy = %hello.name, worker = worker.me().worker, "proxy linked");
    let reading = tokio::task::spawn_local(links::guard(worker.clone(), id, read(worker.clone(), id, ucf, frames)));
    down.notified().await;
    reading.abort();
    Ok(())
}

async fn read(
    worker: Rc<Worker>,
    id: proxy::forward::LinkId,
    ucf: Rc<Connection>,
    mut frames: InBuffer,
) -> transport::Result<()> {
    while let Some(body) = ucf_link::next(&ucf, &mut frames).await? {
        worker.feed(|core, now| core.forwarder.handle_frame(now, id, &body, &mut core.effects));
    }
    Ok(())
}

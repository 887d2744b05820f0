//! The sockets of a worker's asks.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::rc::Rc;
use std::time::Duration;

use bytes::Bytes;
use sip::Instant;
use tracing::debug;

use super::worker::Worker;
use crate::application::{AskId, Outside};
use crate::engine::Asking;

/// Larger than any datagram.
const BUFFER: usize = 64 * 1024;

/// Asks, on a socket for each family of addresses, which is opened when it is first wanted.
pub struct Asker {
    outside: Box<dyn Outside>,
    v4: Option<UdpSocket>,
    v6: Option<UdpSocket>,
}

impl Asker {
    pub fn new(outside: Box<dyn Outside>) -> Self {
        Self {
            outside,
            v4: None,
            v6: None,
        }
    }

    pub fn poll_timeout(&self) -> Instant {
        self.outside.poll_timeout().unwrap_or(Instant::MAX)
    }

    /// Datagrams that were sent again.
    pub fn repeated(&self) -> u64 {
        self.outside.repeated()
    }

    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        self.outside.handle_datagram(now, from, datagram);
    }

    /// Asks these, does what time asks for, and gives the answers that there are. A datagram that cannot leave now is repeated later.
    pub fn drive(&mut self, worker: &Rc<Worker>, now: Instant, asks: Vec<Asking>) -> Vec<(AskId, Option<Bytes>)> {
        for Asking { id, question, .. } in asks {
            self.outside.ask(now, id, question);
        }
        self.outside.handle_timeout(now);
        while let Some((to, datagram)) = self.outside.poll_transmit() {
            let sent = self.socket(worker, to).and_then(|socket| socket.send_to(&datagram, to));
            if let Err(error) = sent {
                debug!(%error, %to, "asking");
            }
        }
        std::iter::from_fn(|| self.outside.poll_answer()).collect()
    }

    fn socket(&mut self, worker: &Rc<Worker>, to: SocketAddr) -> std::io::Result<&UdpSocket> {
        let (place, any) = match to {
            SocketAddr::V4(_) => (&mut self.v4, IpAddr::from(Ipv4Addr::UNSPECIFIED)),
            SocketAddr::V6(_) => (&mut self.v6, IpAddr::from(Ipv6Addr::UNSPECIFIED)),
        };
        if place.is_none() {
            let socket = UdpSocket::bind((any, 0))?;
            socket.set_nonblocking(true)?;
            let reader = tokio::net::UdpSocket::from_std(socket.try_clone()?)?;
            tokio::task::spawn_local(read(worker.clone(), reader));
            *place = Some(socket);
        }
        Ok(place.as_ref().expect("opened above"))
    }
}

/// Reads for good.
async fn read(worker: Rc<Worker>, socket: tokio::net::UdpSocket) {
    let mut buffer = vec![0; BUFFER];
    loop {
        match socket.recv_from(&mut buffer).await {
            Ok((count, from)) => worker.handle_datagram(from, &buffer[..count]),
            Err(error) => {
                debug!(%error, "reading an answer");
                // An error that stays shall not keep the worker busy.
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        }
    }
}

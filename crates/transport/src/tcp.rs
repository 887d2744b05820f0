//! TCP: listeners that workers share by SO_REUSEPORT, and connections that are read and written in batches.
//!
//! A [`Connection`] knows no messages. Callers read into an [`InBuffer`] and take whole messages from it (`sip::Framer`, or
//! [`crate::ucf_link`]); they append to an [`OutBuffer`] and write it once per turn. A full [`OutBuffer`] is the backpressure: the
//! caller drops the connection and counts it, so one slow reader never holds the others up nor grows memory.

use std::io::{self, IoSlice, Read as _};
use std::net::SocketAddr;
use std::time::Duration;

use socket2::SockRef;
use tokio::io::Interest;
use tokio::net::{TcpListener, TcpStream};

use crate::buffer::{InBuffer, OutBuffer, READ_CHUNK};
use crate::error::{Error, Result};
use crate::socket;

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    inner: TcpListener,
    local: SocketAddr,
}

/// A connection.
#[derive(Debug)]
pub struct Connection {
    stream: TcpStream,
    local: SocketAddr,
    peer: SocketAddr,
}

/// What a read brought.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Read {
    /// So many bytes more are in the buffer, and the socket may have more.
    Some(usize),
    /// Nothing now: wait for [`Connection::readable`].
    Nothing,
    /// The peer has ended its side.
    End,
}

impl Listener {
    /// Listens on `address`; several listeners, of several workers or processes, may do so when `share`.
    pub fn bind(address: SocketAddr, share: bool) -> Result<Self> {
        let socket = socket::listen_tcp(address, share)?;
        let doing = || format!("cannot use tcp:{address}");
        let local = socket.local_addr().map_err(|source| Error::local(doing(), source))?;
        let inner = TcpListener::from_std(socket).map_err(|source| Error::local(doing(), source))?;
        Ok(Self { inner, local })
    }

    /// The address that is bound, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Waits for the next connection. An error is of this one attempt: go on, after a pause if it says [`crate::Fault::Local`] (no more
    /// descriptors).
    pub async fn accept(&self) -> Result<Connection> {
        match self.inner.accept().await {
            Ok((stream, peer)) => Connection::new(stream, peer),
            Err(source) if source.kind() == io::ErrorKind::ConnectionAborted => Err(Error::network(
                format!("connection lost before it was accepted on tcp:{}", self.local),
                source,
            )),
            Err(source) => Err(Error::local(format!("cannot accept on tcp:{}", self.local), source)),
        }
    }
}

impl Connection {
    /// Connects to `peer`, waiting no longer than `patience`.
    pub async fn connect(peer: SocketAddr, patience: Duration) -> Result<Self> {
        let doing = || format!("cannot connect to tcp:{peer}");
        match tokio::time::timeout(patience, TcpStream::connect(peer)).await {
            Ok(Ok(stream)) => Self::new(stream, peer),
            Ok(Err(source)) => Err(Error::network(doing(), source)),
            Err(_) => Err(Error::network(doing(), io::ErrorKind::TimedOut.into())),
        }
    }

    fn new(stream: TcpStream, peer: SocketAddr) -> Result<Self> {
        let doing = || format!("connection with tcp:{peer} lost");
        // Writes are whole batches already: waiting for more would only add delay.
        stream
            .set_nodelay(true)
            .map_err(|source| Error::network(doing(), source))?;
        let local = stream.local_addr().map_err(|source| Error::network(doing(), source))?;
        Ok(Self { stream, local, peer })
    }

    /// Our address.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// The peer's address.
    #[must_use]
    pub fn peer_addr(&self) -> SocketAddr {
        self.peer
    }

    /// Waits until there is something to read, or the end.
    pub async fn readable(&self) -> Result<()> {
        self.stream.readable().await.map_err(|source| self.lost(source))
    }

    /// Waits until something can be written.
    pub async fn writable(&self) -> Result<()> {
        self.stream.writable().await.map_err(|source| self.lost(source))
    }

    /// Reads once, without waiting.
    pub fn try_read(&self, input: &mut InBuffer) -> Result<Read> {
        let space = input.space(READ_CHUNK);
        let mut count = None;
        let asked = self.stream.try_io(Interest::READABLE, || {
            let got = (&*SockRef::from(&self.stream)).read(space)?;
            count = Some(got);
            // The socket is drained. Saying so here clears tokio's readiness (epoll is edge-triggered), which saves the read that would only
            // be told so: half of all reads on a busy link.
            if got > 0 && got < space.len() {
                Err(io::ErrorKind::WouldBlock.into())
            } else {
                Ok(())
            }
        });
        match (count, asked) {
            (Some(0), _) => Ok(Read::End),
            (Some(count), _) => {
                input.filled(count);
                Ok(Read::Some(count))
            }
            (None, Err(source)) if !is_temporary(&source) => Err(self.lost(source)),
            (None, _) => Ok(Read::Nothing),
        }
    }

    /// Reads once whatever has arrived by now, without waiting. [`Connection::try_read`] knows only what the runtime has been told when it
    /// last looked; this asks the socket itself, for callers to whom the order of two connections matters.
    pub fn read_now(&self, input: &mut InBuffer) -> Result<Read> {
        match self.try_read(input)? {
            Read::Nothing => {}
            read => return Ok(read),
        }
        match (&*SockRef::from(&self.stream)).read(input.space(READ_CHUNK)) {
            Ok(0) => Ok(Read::End),
            Ok(count) => {
                input.filled(count);
                Ok(Read::Some(count))
            }
            Err(error) if is_temporary(&error) => Ok(Read::Nothing),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Waits for bytes and reads once. `false` is the end.
    pub async fn read(&self, input: &mut InBuffer) -> Result<bool> {
        loop {
            self.readable().await?;
            match self.try_read(input)? {
                Read::Some(_) => return Ok(true),
                Read::End => return Ok(false),
                Read::Nothing => {}
            }
        }
    }

    /// Writes what waits without waiting itself; says whether all is gone. If not, call again after [`Connection::writable`].
    pub fn try_write(&self, out: &mut OutBuffer) -> Result<bool> {
        while !out.is_empty() {
            match self.stream.try_write(out.pending()) {
                Ok(count) => out.consume(count),
                Err(error) if is_temporary(&error) => return Ok(false),
                Err(source) => return Err(self.lost(source)),
            }
        }
        Ok(true)
    }

    /// Writes the pieces of one batch, without waiting; says how many bytes went, 0 if the socket takes none now.
    pub fn try_write_vectored(&self, pieces: &[IoSlice<'_>]) -> Result<usize> {
        match self.stream.try_write_vectored(pieces) {
            Ok(count) => Ok(count),
            Err(error) if is_temporary(&error) => Ok(0),
            Err(source) => Err(self.lost(source)),
        }
    }

    /// Says that nothing more will be written (FIN); reading goes on.
    pub fn end_writing(&self) -> Result<()> {
        let ended = SockRef::from(&self.stream).shutdown(std::net::Shutdown::Write);
        ended.map_err(|source| self.lost(source))
    }

    /// Ends the connection, and what was not yet delivered with it (RST): where a network is cut it would arrive whenever the cut is healed.
    /// Whoever waits for it is woken.
    pub fn discard(&self) {
        let socket = SockRef::from(&self.stream);
        // If that fails the bytes may arrive late, as on any network.
        let _ = socket.set_linger(Some(Duration::ZERO));
        let _ = socket.shutdown(std::net::Shutdown::Both);
    }

    /// Writes all that waits.
    pub async fn write(&self, out: &mut OutBuffer) -> Result<()> {
        while !self.try_write(out)? {
            self.writable().await?;
        }
        Ok(())
    }

    fn lost(&self, source: io::Error) -> Error {
        Error::network(format!("connection with tcp:{} lost", self.peer), source)
    }
}

fn is_temporary(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

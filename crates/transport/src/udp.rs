//! UDP, many datagrams per system call.
//!
//! A turn: [`UdpSocket::receive`] waits and fills a [`ReceiveBatch`]; the caller works through it and appends answers to a
//! [`SendBatch`]; [`UdpSocket::try_send`] hands them all to the kernel. Where the kernel has no recvmmsg or sendmmsg the same calls
//! move one datagram at a time.

use std::io;
use std::net::SocketAddr;
use std::os::fd::AsFd;
use std::sync::atomic::{AtomicBool, Ordering};

use tokio::io::unix::AsyncFd;

use crate::error::{Error, Result};
use crate::mmsg::{self, BATCH, Name, Received};
use crate::socket;

/// The longest datagram: what UDP can carry (RFC 3261 s18.1.1 asks to accept 65,535 bytes with headers).
pub const MAX_DATAGRAM: usize = 65_535;

/// Space for one datagram. Pages of a slot that no datagram ever reaches are never touched, hence cost nothing.
const SLOT: usize = 64 << 10;

/// Datagrams that wait for the kernel to take them, at most, per [`SendBatch`]: some 20 ms of a busy worker. What exceeds it is
/// dropped and counted; UDP clients repeat.
const MAX_UNSENT: usize = 4 * 1024;

/// The same in bytes.
const MAX_UNSENT_BYTES: usize = 16 << 20;

/// How sockets are opened.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// SO_REUSEPORT: several sockets, of several workers or processes, share one address.
    pub share: bool,
    /// Never use recvmmsg and sendmmsg; for kernels and sandboxes that refuse them (found out at run time too), and tests.
    pub single: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            share: true,
            single: false,
        }
    }
}

/// A bound UDP socket.
#[derive(Debug)]
pub struct UdpSocket {
    fd: AsyncFd<std::net::UdpSocket>,
    local: SocketAddr,
    single: AtomicBool,
}

/// What one receive took: up to 64 datagrams in storage that is used again.
pub struct ReceiveBatch {
    storage: Vec<u8>,
    entries: Box<[Received; BATCH]>,
    len: usize,
}

/// Datagrams to send, in order: one contiguous buffer, used again.
#[derive(Default)]
pub struct SendBatch {
    bytes: Vec<u8>,
    entries: Vec<Datagram>,
    sent: usize,
    dropped: u64,
}

#[derive(Clone, Copy)]
struct Datagram {
    name: Name,
    start: usize,
    end: usize,
}

impl UdpSocket {
    /// Binds `address` on the present tokio runtime.
    pub fn bind(address: SocketAddr, options: Options) -> Result<Self> {
        let socket = socket::bind_udp(address, options.share)?;
        let doing = || format!("cannot use udp:{address}");
        let local = socket.local_addr().map_err(|source| Error::local(doing(), source))?;
        // SAFETY: a std socket owns its descriptor and names the same one until it is dropped, together with the AsyncFd.
        let fd = unsafe { AsyncFd::register(socket) }.map_err(|source| Error::local(doing(), source.into()))?;
        Ok(Self {
            fd,
            local,
            single: AtomicBool::new(options.single),
        })
    }

    /// The address that is bound, with the port that the system chose if 0 was asked for.
    #[must_use]
    pub fn local_addr(&self) -> SocketAddr {
        self.local
    }

    /// Leaves the group of sockets that share this address by SO_REUSEPORT: what arrives from now on goes to the others, what has arrived can
    /// still be received, and sending goes on. Closing the socket at once would lose what lies in it unread.
    ///
    /// The kernel chooses none that is connected (Linux 5.4), so it is connected to itself. A socket that is bound to a wildcard stays in its
    /// group, because connecting would fix the source of what it sends.
    pub fn leave_group(&self) -> Result<()> {
        if self.local.ip().is_unspecified() {
            return Ok(());
        }
        let connected = self.fd.get_ref().connect(self.local);
        connected.map_err(|source| self.failed("leave the group of", source))
    }

    /// Waits until datagrams are there and takes as many as fit.
    pub async fn receive(&self, batch: &mut ReceiveBatch) -> Result<()> {
        loop {
            let mut ready = self
                .fd
                .readable()
                .await
                .map_err(|source| self.failed("wait on", source))?;
            match self.take(batch) {
                Ok(()) => {
                    if batch.len < BATCH {
                        // The socket is drained: asking once more only to hear so would cost a system call per turn. Readiness is
                        // edge-triggered: what arrives from here on sets it again.
                        ready.clear_ready();
                    }
                    return Ok(());
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => ready.clear_ready(),
                // RFC 3261 s18.4 leaves ICMP errors to the sender's timers; they concern an earlier datagram, not this socket.
                Err(error) if is_of_one_datagram(&error) => {}
                Err(error) => return Err(self.failed("receive on", error)),
            }
        }
    }

    /// Takes what is there without waiting; leaves `batch` empty if nothing is.
    pub fn try_receive(&self, batch: &mut ReceiveBatch) -> Result<()> {
        match self.take(batch) {
            Ok(()) => Ok(()),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock || is_of_one_datagram(&error) => Ok(()),
            Err(error) => Err(self.failed("receive on", error)),
        }
    }

    /// Sends what waits in `batch`, in order, until the kernel takes no more. Says whether all is gone; if not, call again after
    /// [`UdpSocket::writable`]. A datagram that the kernel refuses (too long, no route) is dropped and counted in
    /// [`SendBatch::take_dropped`]; the rest goes on.
    pub fn try_send(&self, batch: &mut SendBatch) -> bool {
        while !batch.is_empty() {
            match self.give(batch) {
                Ok(count) => batch.sent += count.max(1),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return false,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => {
                    batch.sent += 1;
                    batch.dropped += 1;
                }
            }
        }
        batch.clear();
        true
    }

    /// Waits until the kernel takes datagrams again.
    pub async fn writable(&self) -> Result<()> {
        let mut ready = self
            .fd
            .writable()
            .await
            .map_err(|source| self.failed("wait on", source))?;
        // Only ever asked after a refusal; the next edge tells.
        ready.clear_ready();
        Ok(())
    }

    fn take(&self, batch: &mut ReceiveBatch) -> io::Result<()> {
        batch.len = 0;
        let socket = self.fd.get_ref();
        if !self.single.load(Ordering::Relaxed) {
            match mmsg::receive(socket.as_fd(), &mut batch.storage, SLOT, &mut batch.entries) {
                Ok(count) => {
                    batch.len = count;
                    return Ok(());
                }
                Err(error) if is_unsupported(&error) => self.single.store(true, Ordering::Relaxed),
                Err(error) => return Err(error),
            }
        }
        while batch.len < BATCH {
            let start = batch.len * SLOT;
            match socket.recv_from(&mut batch.storage[start..start + SLOT]) {
                Ok((len, from)) => {
                    batch.entries[batch.len] = Received {
                        name: Name::new(from),
                        len,
                        truncated: false,
                    };
                    batch.len += 1;
                }
                Err(_) if batch.len > 0 => break,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn give(&self, batch: &SendBatch) -> io::Result<usize> {
        let socket = self.fd.get_ref();
        if !self.single.load(Ordering::Relaxed) {
            let messages = batch.entries[batch.sent..]
                .iter()
                .map(|d| (&d.name, &batch.bytes[d.start..d.end]));
            match mmsg::send(socket.as_fd(), messages) {
                Err(error) if is_unsupported(&error) => self.single.store(true, Ordering::Relaxed),
                result => return result,
            }
        }
        let first = &batch.entries[batch.sent];
        let to = first
            .name
            .address()
            .expect("a send batch holds IPv4 and IPv6 addresses only");
        socket.send_to(&batch.bytes[first.start..first.end], to).map(|_| 1)
    }

    fn failed(&self, doing: &str, source: io::Error) -> Error {
        Error::local(format!("cannot {doing} udp:{}", self.local), source)
    }
}

/// The kernel, or a sandbox in front of it, does not offer the batched call.
fn is_unsupported(error: &io::Error) -> bool {
    matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EOPNOTSUPP))
}

fn is_of_one_datagram(error: &io::Error) -> bool {
    matches!(
        error.raw_os_error(),
        Some(libc::ECONNREFUSED | libc::EHOSTUNREACH | libc::ENETUNREACH | libc::EMSGSIZE | libc::EINTR)
    )
}

impl ReceiveBatch {
    /// Storage for one batch; one per worker is enough.
    #[must_use]
    pub fn new() -> Self {
        Self {
            storage: vec![0; BATCH * SLOT],
            entries: Box::new([Received::empty(); BATCH]),
            len: 0,
        }
    }

    /// How many datagrams were taken.
    #[must_use]
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether none was.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Whether the batch was filled, so that more may be waiting.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.len == BATCH
    }

    /// The datagrams in order of arrival, each with its sender.
    pub fn iter(&self) -> impl Iterator<Item = (SocketAddr, &[u8])> {
        let entries = self.entries[..self.len].iter().enumerate();
        entries
            .filter(|(_, entry)| !entry.truncated)
            .filter_map(|(index, entry)| {
                let start = index * SLOT;
                Some((entry.name.address()?, &self.storage[start..start + entry.len.min(SLOT)]))
            })
    }
}

impl Default for ReceiveBatch {
    fn default() -> Self {
        Self::new()
    }
}

impl SendBatch {
    /// An empty batch.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.sent == self.entries.len()
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.entries.len() - self.sent
    }

    /// Appends a datagram; it is dropped and counted if too many wait already.
    pub fn push(&mut self, to: SocketAddr, datagram: &[u8]) {
        self.push_with(to, |bytes| bytes.extend_from_slice(datagram));
    }

    /// Lets `write` append a datagram in place.
    pub fn push_with(&mut self, to: SocketAddr, write: impl FnOnce(&mut Vec<u8>)) {
        let start = self.bytes.len();
        write(&mut self.bytes);
        if self.len() >= MAX_UNSENT || self.bytes.len() > MAX_UNSENT_BYTES {
            self.bytes.truncate(start);
            self.dropped += 1;
            return;
        }
        self.entries.push(Datagram {
            name: Name::new(to),
            start,
            end: self.bytes.len(),
        });
    }

    /// Drops and counts all that waits.
    pub fn discard(&mut self) {
        self.dropped += self.len() as u64;
        self.clear();
    }

    /// Datagrams dropped since the last call.
    pub fn take_dropped(&mut self) -> u64 {
        std::mem::take(&mut self.dropped)
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        self.sent = 0;
    }
}

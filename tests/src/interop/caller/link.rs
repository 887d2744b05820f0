//! The caller's sockets: several UDP ports or TCP connections, all polled by one thread.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::{AsRawFd, RawFd};
use std::time::Duration;

use super::message::framed;

/// What carries the caller's messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// A port for each slot.
    Udp,
    /// A connection for each slot, opened anew when it breaks.
    Tcp,
}

impl Transport {
    /// As a Via names it.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::Udp => "UDP",
            Self::Tcp => "TCP",
        }
    }
}

#[derive(Debug)]
enum Socket {
    Udp(UdpSocket),
    Tcp(Connection),
}

/// One connection; broken ones are opened again by the next message.
#[derive(Debug)]
struct Connection {
    stream: Option<TcpStream>,
    local: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
}

/// All sockets of a caller.
#[derive(Debug)]
pub struct Link {
    sockets: Vec<Socket>,
    /// Each slot has one of them, in turn.
    remotes: Vec<SocketAddr>,
    /// Each repetition of a datagram goes to the next of them, as where a balancer has found that the one before is not well.
    pub balanced: bool,
    /// Connections that broke.
    pub broken: u64,
}

impl Link {
    /// Opens `slots` sockets at `local`, each towards one of `remotes` in turn.
    pub fn open(transport: Transport, local: IpAddr, remotes: &[SocketAddr], slots: usize) -> io::Result<Self> {
        let sockets = remotes.iter().cycle().take(slots.max(1)).map(|remote| match transport {
            Transport::Udp => udp(local, *remote).map(Socket::Udp),
            Transport::Tcp => Connection::open(*remote).map(Socket::Tcp),
        });
        Ok(Self {
            sockets: sockets.collect::<io::Result<_>>()?,
            remotes: remotes.to_vec(),
            balanced: false,
            broken: 0,
        })
    }

    /// No sockets at all: stands in while the real ones are borrowed.
    #[must_use]
    pub fn none() -> Self {
        Self {
            sockets: Vec::new(),
            remotes: Vec::new(),
            balanced: false,
            broken: 0,
        }
    }

    /// The local address of a slot.
    #[must_use]
    pub fn local(&self, slot: usize) -> SocketAddr {
        match &self.sockets[slot] {
            Socket::Udp(socket) => socket.local_addr().expect("a bound socket has an address"),
            Socket::Tcp(connection) => connection.local,
        }
    }

    /// How many slots there are.
    #[must_use]
    pub fn slots(&self) -> usize {
        self.sockets.len()
    }

    /// Sends one message; a datagram that the kernel refuses is lost, as on any network.
    pub fn send(&mut self, slot: usize, bytes: &[u8]) {
        self.send_again(slot, 0, bytes);
    }

    /// The same for the `repeats`th repetition.
    pub fn send_again(&mut self, slot: usize, repeats: u32, bytes: &[u8]) {
        let remote = self.remotes[slot % self.remotes.len()];
        match &mut self.sockets[slot] {
            Socket::Udp(socket) => {
                let further = if self.balanced { repeats as usize } else { 0 };
                let remote = self.remotes[(slot + further) % self.remotes.len()];
                let _ = socket.send_to(bytes, remote);
            }
            Socket::Tcp(connection) => {
                if connection.stream.is_none() {
                    // Refused: nobody listens at the moment; the message is lost as a phone's would be.
                    if let Ok(opened) = Connection::open(remote) {
                        *connection = opened;
                    }
                }
                connection.output.extend_from_slice(bytes);
                self.broken += u64::from(!connection.flush());
            }
        }
    }

    /// Waits until something can be read, at most `limit`; hands every message to `take`.
    pub fn receive(&mut self, limit: Duration, mut take: impl FnMut(usize, &[u8])) {
        let mut polled: Vec<libc::pollfd> = self.sockets.iter().map(Socket::poll_entry).collect();
        let millis = i32::try_from(limit.as_micros().div_ceil(1000)).unwrap_or(i32::MAX);
        // SAFETY: `polled` is a valid array of its own length for the call.
        let ready = unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) };
        if ready <= 0 {
            return;
        }
        let mut buffer = vec![0; 65_536];
        for (slot, entry) in polled.iter().enumerate().filter(|(_, entry)| entry.revents != 0) {
            match &mut self.sockets[slot] {
                Socket::Udp(socket) => {
                    // A bound on one visit, so that a busy slot does not starve the timers.
                    for _ in 0..256 {
                        match socket.recv_from(&mut buffer) {
                            Ok((length, _)) => take(slot, &buffer[..length]),
                            Err(error) if error.kind() == ErrorKind::Interrupted => {}
                            // ECONNREFUSED of an earlier datagram is no end: the next process may listen.
                            Err(error) if error.kind() == ErrorKind::ConnectionRefused => {}
                            Err(_) => break,
                        }
                    }
                }
                Socket::Tcp(connection) => {
                    let open =
                        (entry.revents & libc::POLLOUT == 0 || connection.flush()) && connection.read(&mut buffer);
                    let mut taken = 0;
                    while let Some((skip, length)) = framed(&connection.input[taken..]) {
                        take(slot, &connection.input[taken + skip..taken + skip + length]);
                        taken += skip + length;
                    }
                    connection.input.drain(..taken);
                    if !open && connection.stream.take().is_some() {
                        self.broken += 1;
                    }
                }
            }
        }
    }
}

impl Socket {
    fn poll_entry(&self) -> libc::pollfd {
        let (fd, events): (RawFd, i16) = match self {
            Self::Udp(socket) => (socket.as_raw_fd(), libc::POLLIN),
            Self::Tcp(connection) => match &connection.stream {
                Some(stream) if connection.output.is_empty() => (stream.as_raw_fd(), libc::POLLIN),
                Some(stream) => (stream.as_raw_fd(), libc::POLLIN | libc::POLLOUT),
                // poll(2) passes over negative descriptors.
                None => (-1, 0),
            },
        };
        libc::pollfd { fd, events, revents: 0 }
    }
}

impl Connection {
    fn open(remote: SocketAddr) -> io::Result<Self> {
        // One phone's SYN that is lost keeps the others waiting no longer than that.
        let stream = TcpStream::connect_timeout(&remote, Duration::from_secs(1))?;
        stream.set_nodelay(true)?;
        stream.set_nonblocking(true)?;
        Ok(Self {
            local: stream.local_addr()?,
            stream: Some(stream),
            input: Vec::new(),
            output: Vec::new(),
        })
    }

    /// Writes what can be written; false once the connection is broken.
    fn flush(&mut self) -> bool {
        let Some(stream) = &mut self.stream else {
            self.output.clear();
            return true;
        };
        while !self.output.is_empty() {
            match stream.write(&self.output) {
                Ok(written) => drop(self.output.drain(..written)),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => {
                    self.stream = None;
                    self.output.clear();
                    return false;
                }
            }
        }
        true
    }

    /// Reads what is there; false once the connection is broken.
    fn read(&mut self, buffer: &mut [u8]) -> bool {
        let Some(stream) = &mut self.stream else { return false };
        loop {
            match stream.read(buffer) {
                Ok(0) => return false,
                Ok(length) => self.input.extend_from_slice(&buffer[..length]),
                Err(error) if error.kind() == ErrorKind::WouldBlock => return true,
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(_) => return false,
            }
        }
    }
}

/// Loopback, or 198.18.0.0/15 (RFC 2544), where the networks that tests make for themselves are.
fn stays_here(address: IpAddr) -> bool {
    let of_tests = |v4: std::net::Ipv4Addr| v4.octets()[0] == 198 && v4.octets()[1] & 0xfe == 18;
    address.is_loopback() || matches!(address, IpAddr::V4(v4) if of_tests(v4))
}

/// A UDP socket whose buffers hold a burst of a thousand calls.
fn udp(local: IpAddr, remote: SocketAddr) -> io::Result<UdpSocket> {
    assert!(
        stays_here(local) && stays_here(remote.ip()),
        "calls stay on this machine"
    );
    let socket = UdpSocket::bind((local, 0))?;
    socket.set_nonblocking(true)?;
    enlarge_buffers(socket.as_raw_fd());
    Ok(socket)
}

/// Asks for socket buffers of four megabytes; beyond the system's limit where the process may.
pub fn enlarge_buffers(fd: RawFd) {
    let size: libc::c_int = 4 << 20;
    for option in [
        libc::SO_RCVBUF,
        libc::SO_SNDBUF,
        libc::SO_RCVBUFFORCE,
        libc::SO_SNDBUFFORCE,
    ] {
        // SAFETY: the option's value is a c_int that lives through the call; a refusal leaves the default, which works too.
        unsafe {
            let value = std::ptr::from_ref(&size).cast();
            libc::setsockopt(
                fd,
                libc::SOL_SOCKET,
                option,
                value,
                size_of_val(&size) as libc::socklen_t,
            );
        }
    }
}

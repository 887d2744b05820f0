//! UDP in batches, as cheap as a load generator needs it.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, SocketAddrV4, UdpSocket};
use std::os::fd::AsRawFd;

use crate::interop::caller::enlarge_buffers;

/// Datagrams of one batch.
pub const BATCH: usize = 32;
/// Longer datagrams are cut; no message of the benchmarks is.
const LARGEST: usize = 4096;

/// A bound socket with deep buffers, on the loopback.
pub fn socket(local: SocketAddr) -> io::Result<UdpSocket> {
    if !local.ip().is_loopback() {
        return Err(io::Error::other("the benchmarks stay on this machine"));
    }
    let socket = UdpSocket::bind(local)?;
    enlarge_buffers(socket.as_raw_fd());
    Ok(socket)
}

/// Room for one batch.
pub struct Batch {
    data: Box<[[u8; LARGEST]; BATCH]>,
    lengths: [usize; BATCH],
    from: [SocketAddrV4; BATCH],
}

impl Default for Batch {
    fn default() -> Self {
        Self {
            data: Box::new([[0; LARGEST]; BATCH]),
            lengths: [0; BATCH],
            from: [SocketAddrV4::new(Ipv4Addr::UNSPECIFIED, 0); BATCH],
        }
    }
}

impl Batch {
    /// Receives what is there without waiting; the number of datagrams.
    pub fn receive(&mut self, socket: &UdpSocket) -> usize {
        // SAFETY: all-zero is a valid value of these C structs.
        let mut names: [libc::sockaddr_in; BATCH] = unsafe { std::mem::zeroed() };
        let mut parts: [libc::iovec; BATCH] = unsafe { std::mem::zeroed() };
        let mut heads: [libc::mmsghdr; BATCH] = unsafe { std::mem::zeroed() };
        for at in 0..BATCH {
            parts[at].iov_base = self.data[at].as_mut_ptr().cast();
            parts[at].iov_len = LARGEST;
            heads[at].msg_hdr.msg_iov = &raw mut parts[at];
            heads[at].msg_hdr.msg_iovlen = 1;
            heads[at].msg_hdr.msg_name = (&raw mut names[at]).cast();
            heads[at].msg_hdr.msg_namelen = size_of::<libc::sockaddr_in>() as libc::socklen_t;
        }
        // SAFETY: every pointer in `heads` points to memory that lives through the call and has the length stated beside it.
        let got = unsafe {
            libc::recvmmsg(
                socket.as_raw_fd(),
                heads.as_mut_ptr(),
                BATCH as u32,
                libc::MSG_DONTWAIT,
                std::ptr::null_mut(),
            )
        };
        let got = usize::try_from(got).unwrap_or(0);
        for at in 0..got {
            self.lengths[at] = (heads[at].msg_len as usize).min(LARGEST);
            let ip = Ipv4Addr::from(u32::from_be(names[at].sin_addr.s_addr));
            self.from[at] = SocketAddrV4::new(ip, u16::from_be(names[at].sin_port));
        }
        got
    }

    /// A datagram of the last batch, and where it came from.
    #[must_use]
    pub fn get(&self, at: usize) -> (&[u8], SocketAddr) {
        (&self.data[at][..self.lengths[at]], SocketAddr::V4(self.from[at]))
    }
}

/// Waits until one of the sockets can be read, at most `millis`.
pub fn wait(polled: &mut [libc::pollfd], millis: i32) -> bool {
    // SAFETY: `polled` is a valid array of its own length for the call.
    unsafe { libc::poll(polled.as_mut_ptr(), polled.len() as libc::nfds_t, millis) > 0 }
}

/// What poll(2) needs to watch a socket for input.
#[must_use]
pub fn polled(socket: &impl AsRawFd) -> libc::pollfd {
    libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    }
}

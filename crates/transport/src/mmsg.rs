//! recvmmsg and sendmmsg: nearly all unsafe code of this crate (one registration with tokio in `udp` is the rest).
//!
//! Safety argument, once for the whole module: the kernel is handed arrays of `mmsghdr` that live on the stack of the call and point
//! to `iovec`s on the same stack, to address slots borrowed for the call, and to payload bytes borrowed for the call (exclusively for
//! receiving, shared for sending). All of them outlive the system call, none is kept by the kernel after it, and every length passed
//! is the length of the memory it describes. An address is kept as `sockaddr_in6`, which is larger and no less aligned than `sockaddr_in`,
//! with the family at the same place, so viewing it as either is sound; both are plain integers, valid for every bit pattern.

use std::io;
use std::mem;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, BorrowedFd};
use std::ptr;

/// Datagrams per system call. Beyond some thirty the gain per message is below the noise; 64 keeps the arrays within 16 KB of stack.
pub(crate) const BATCH: usize = 64;

/// A socket address in the kernel's form.
#[derive(Clone, Copy)]
pub(crate) struct Name {
    storage: libc::sockaddr_in6,
    len: libc::socklen_t,
}

/// What one received datagram needs besides its bytes.
#[derive(Clone, Copy)]
pub(crate) struct Received {
    pub(crate) name: Name,
    pub(crate) len: usize,
    /// The datagram was longer than its slot.
    pub(crate) truncated: bool,
}

impl Name {
    pub(crate) fn empty() -> Self {
        // SAFETY: plain integers; zero is AF_UNSPEC.
        Self {
            storage: unsafe { mem::zeroed() },
            len: 0,
        }
    }

    pub(crate) fn new(address: SocketAddr) -> Self {
        let mut name = Self::empty();
        match address {
            SocketAddr::V4(v4) => {
                // SAFETY: see the module.
                let raw = unsafe { &mut *(&raw mut name.storage).cast::<libc::sockaddr_in>() };
                raw.sin_family = libc::AF_INET as libc::sa_family_t;
                raw.sin_port = v4.port().to_be();
                raw.sin_addr.s_addr = u32::from_ne_bytes(v4.ip().octets());
                name.len = mem::size_of::<libc::sockaddr_in>() as libc::socklen_t;
            }
            SocketAddr::V6(v6) => {
                let raw = &mut name.storage;
                raw.sin6_family = libc::AF_INET6 as libc::sa_family_t;
                raw.sin6_port = v6.port().to_be();
                raw.sin6_addr.s6_addr = v6.ip().octets();
                raw.sin6_flowinfo = v6.flowinfo();
                raw.sin6_scope_id = v6.scope_id();
                name.len = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
            }
        }
        name
    }

    /// `None` for a family that is neither IPv4 nor IPv6.
    pub(crate) fn address(&self) -> Option<SocketAddr> {
        match i32::from(self.storage.sin6_family) {
            libc::AF_INET => {
                // SAFETY: see the module.
                let raw = unsafe { &*(&raw const self.storage).cast::<libc::sockaddr_in>() };
                let ip = Ipv4Addr::from(raw.sin_addr.s_addr.to_ne_bytes());
                Some(SocketAddrV4::new(ip, u16::from_be(raw.sin_port)).into())
            }
            libc::AF_INET6 => {
                let raw = &self.storage;
                let ip = Ipv6Addr::from(raw.sin6_addr.s6_addr);
                let port = u16::from_be(raw.sin6_port);
                Some(SocketAddrV6::new(ip, port, raw.sin6_flowinfo, raw.sin6_scope_id).into())
            }
            _ => None,
        }
    }
}

impl Received {
    pub(crate) fn empty() -> Self {
        Self {
            name: Name::empty(),
            len: 0,
            truncated: false,
        }
    }
}

/// Receives up to [`BATCH`] datagrams without waiting, the n-th into the n-th piece of `slot` bytes of `storage`.
pub(crate) fn receive(
    socket: BorrowedFd<'_>,
    storage: &mut [u8],
    slot: usize,
    received: &mut [Received; BATCH],
) -> io::Result<usize> {
    // SAFETY: plain integers and pointers; null and zero are valid.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut vectors: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (piece, entry) in storage.chunks_exact_mut(slot).zip(received.iter_mut()) {
        vectors[count] = libc::iovec {
            iov_base: piece.as_mut_ptr().cast(),
            iov_len: piece.len(),
        };
        let header = &mut headers[count].msg_hdr;
        header.msg_name = (&raw mut entry.name.storage).cast();
        header.msg_namelen = mem::size_of::<libc::sockaddr_in6>() as libc::socklen_t;
        header.msg_iov = &raw mut vectors[count];
        header.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: see the module; `count` headers are filled.
    let result = unsafe {
        libc::recvmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT as _,
            ptr::null_mut(),
        )
    };
    let got = usize::try_from(result).map_err(|_| io::Error::last_os_error())?;
    for (header, entry) in headers[..got].iter().zip(received.iter_mut()) {
        entry.len = header.msg_len as usize;
        entry.name.len = header.msg_hdr.msg_namelen;
        entry.truncated = header.msg_hdr.msg_flags & libc::MSG_TRUNC != 0;
    }
    Ok(got)
}

/// Sends the first of `messages` (at most [`BATCH`]) without waiting; says how many went. An error is that of the very first.
pub(crate) fn send<'a>(
    socket: BorrowedFd<'_>,
    messages: impl Iterator<Item = (&'a Name, &'a [u8])>,
) -> io::Result<usize> {
    // SAFETY: plain integers and pointers; null and zero are valid.
    let mut headers: [libc::mmsghdr; BATCH] = unsafe { mem::zeroed() };
    let mut vectors: [libc::iovec; BATCH] = unsafe { mem::zeroed() };
    let mut count = 0;
    for (name, bytes) in messages.take(BATCH) {
        // The kernel only reads: the casts to *mut are the C interface's.
        vectors[count] = libc::iovec {
            iov_base: bytes.as_ptr().cast_mut().cast(),
            iov_len: bytes.len(),
        };
        let header = &mut headers[count].msg_hdr;
        header.msg_name = (&raw const name.storage).cast_mut().cast();
        header.msg_namelen = name.len;
        header.msg_iov = &raw mut vectors[count];
        header.msg_iovlen = 1;
        count += 1;
    }
    // SAFETY: see the module; `count` headers are filled.
    let result = unsafe {
        libc::sendmmsg(
            socket.as_raw_fd(),
            headers.as_mut_ptr(),
            count as libc::c_uint,
            libc::MSG_DONTWAIT as _,
        )
    };
    usize::try_from(result).map_err(|_| io::Error::last_os_error())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_survive_the_kernels_form() {
        for text in ["127.0.0.1:5060", "255.1.2.3:65535", "[::1]:5060", "[fe80::1%7]:9"] {
            let address: SocketAddr = text.parse().unwrap();
            assert_eq!(Name::new(address).address(), Some(address));
        }
        assert_eq!(Name::empty().address(), None);
    }
}

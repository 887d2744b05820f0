//! How sockets are made: options in one place.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, SockAddr, Socket, Type};

use crate::error::{Error, Result};

/// Kernel buffers of UDP sockets. A worker that is not scheduled for 20 ms at 50,000 messages a second of 1 KB must not lose one; the
/// kernel counts about twice the payload. What the system's limits (net.core.rmem_max) do not allow is not given, silently.
const UDP_BUFFER: usize = 4 << 20;

/// Connections that wait to be accepted.
const BACKLOG: i32 = 1024;

fn open(address: SocketAddr, kind: Type, protocol: Protocol) -> std::io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(address), kind.nonblocking(), Some(protocol))?;
    if address.is_ipv6() {
        // Else a v6 wildcard would also take the v4 port.
        socket.set_only_v6(true)?;
    }
    Ok(socket)
}

/// A UDP socket, bound; several may share one address when `share`.
pub(crate) fn bind_udp(address: SocketAddr, share: bool) -> Result<std::net::UdpSocket> {
    let bind = || {
        let socket = open(address, Type::DGRAM, Protocol::UDP)?;
        socket.set_reuse_port(share)?;
        socket.set_recv_buffer_size(UDP_BUFFER)?;
        socket.set_send_buffer_size(UDP_BUFFER)?;
        socket.bind(&SockAddr::from(address))?;
        Ok(socket.into())
    };
    bind().map_err(|source| Error::local(format!("cannot bind udp:{address}"), source))
}

/// A listening TCP socket; several may share one address when `share`.
pub(crate) fn listen_tcp(address: SocketAddr, share: bool) -> Result<std::net::TcpListener> {
    let listen = || {
        let socket = open(address, Type::STREAM, Protocol::TCP)?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(share)?;
        socket.bind(&SockAddr::from(address))?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    listen().map_err(|source| Error::local(format!("cannot listen on tcp:{address}"), source))
}

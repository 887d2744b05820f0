//! The floor of any UDP proxy: one recvfrom and one sendto for each datagram, nothing read, nothing changed.

use std::io;
use std::net::SocketAddr;

use super::udp::socket;

/// Forwards for ever: from the callee to the caller, all else to the callee.
pub fn run(listen: SocketAddr, caller: SocketAddr, callee: SocketAddr) -> io::Result<()> {
    let socket = socket(listen)?;
    let mut buffer = [0; 4096];
    loop {
        let Ok((length, from)) = socket.recv_from(&mut buffer) else {
            continue;
        };
        let to = if from == callee { caller } else { callee };
        // A full buffer at the receiver loses the datagram, as with any UDP.
        let _ = socket.send_to(&buffer[..length], to);
    }
}

//! Sockets, and nothing else: bytes in, bytes out, bounded, in batches.
//!
//! - [`udp`]: datagrams by recvmmsg/sendmmsg, many per system call;
//! - [`tcp`]: listeners and connections, one write per batch, output bounded by bytes;
//! - [`ucf_link`]: the length-prefixed frames of `ucf::wire` over such a connection;
//! - [`places`]: how many connections may be open whose peers have not said who they are;
//! - [`buffer`]: the bounded buffers that the stream transports read into and write from;
//! - [`legs`]: how large a message may be, at the edge and within;
//! - [`resolve`]: names to addresses, behind a trait.
//!
//! The types are the callers' to drive: each offers `readable()`/`writable()` to wait and `try_*` calls that never block, so that one
//! turn of an event loop can drain a batch, work, and write each destination once. They run on any tokio runtime with IO enabled,
//! and sockets may be shared (`&self`) between a task that reads and one that writes.
//!
//! Not here yet: TLS and WebSocket (they will wrap [`tcp::Connection`] with the same two buffers) and RFC 3263 (NAPTR, SRV and
//! failover among targets will implement [`resolve::Resolve`]; today a name is looked up as a host).

pub mod buffer;
pub mod error;
pub mod legs;
mod mmsg;
pub mod places;
pub mod resolve;
mod socket;
pub mod tcp;
pub mod ucf_link;
pub mod udp;

pub use buffer::{Full, InBuffer, OutBuffer};
pub use error::{Error, Fault, Result};

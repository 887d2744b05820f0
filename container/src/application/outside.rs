//! What applications ask of the world beside SIP: datagrams to a server and back.

use std::net::SocketAddr;

use bytes::Bytes;
use sip::Instant;
use ucf::PartitionId;

/// An ask, by the worker that it is asked on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct AskId {
    /// The partition of its session.
    pub partition: PartitionId,
    pub(crate) session: u64,
    pub(crate) number: u64,
}

/// Carries out the asks of one worker, sans-IO: requests, retransmissions and giving up. The process around it has the sockets and the
/// clock.
///
/// Each ask is answered exactly once by [`poll_answer`](Self::poll_answer), within a bounded time. The same question may be asked again, by
/// this worker or by another: whoever asked may have died before the answer was written. So it must be one that can be asked twice.
pub trait Outside: Send {
    /// Asks.
    fn ask(&mut self, now: Instant, id: AskId, question: Bytes);

    /// A datagram came; anybody may have sent it.
    fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]);

    /// Time has passed.
    fn handle_timeout(&mut self, now: Instant);

    /// When [`handle_timeout`](Self::handle_timeout) is wanted.
    fn poll_timeout(&self) -> Option<Instant>;

    /// A datagram to be sent.
    fn poll_transmit(&mut self) -> Option<(SocketAddr, Bytes)>;

    /// How many datagrams it has sent again, because no reply came, since it began.
    fn repeated(&self) -> u64 {
        0
    }

    /// An answer; `None`: there will be none.
    fn poll_answer(&mut self) -> Option<(AskId, Option<Bytes>)>;
}

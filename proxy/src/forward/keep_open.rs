//! Flows kept open: a NAT between a peer and us forgets its binding unless something passes.
//!
//! The containers say which, because they know which dialogs live; nothing of it is kept here.

use sip::Via;
use ucf::flow::{Flow, Transport};
use ucf::wire::KeepOpen;

use super::Core;
use super::counters::DropReason;
use super::effects::Effects;
use super::own::DEFAULT_PORT;

/// RFC 5626 s3.5.1. On datagrams no more than a packet that everybody ignores.
const PING: &[u8] = b"\r\n\r\n";

impl Core {
    /// Sends a ping on each flow.
    pub(super) fn keep_open(&mut self, asked: &KeepOpen, effects: &mut Effects) {
        for token in &asked.flows {
            let flow = Flow::decode(token, &self.config.keyring).filter(|flow| flow.transport == Transport::Udp);
            let Some(to) = flow else {
                self.counters.drop(DropReason::NoFlow);
                continue;
            };
            self.counters.pings += 1;
            self.send(to, effects, |out| out.extend_from_slice(PING));
        }
    }
}

/// Whether the datagram of a client with this topmost Via has come through a NAT: it came from elsewhere than the Via says (RFC 3581 s4).
pub(super) fn is_translated(via: &Via<'_>, source: &Flow) -> bool {
    let is_source = via.port.unwrap_or(DEFAULT_PORT) == source.remote.port()
        && sip::Host::parse(via.host) == Some(sip::Host::Address(source.remote.ip()));
    source.transport == Transport::Udp && !is_source
}

//! Which partition a message is for: the topmost Via alone says it (ARCHITECTURE.md, "Names that travel in SIP").

use sip::Message;
use ucf::PartitionId;
use ucf::token::Keyring;

/// The partition: of a request the one that the proxy names in its Via, of a response the one that we named in ours. `None` for what no
/// part of the cluster would have sent.
#[must_use]
pub fn partition_of(message: &Message<'_>, keyring: &Keyring) -> Option<PartitionId> {
    let via = message.via()?;
    if message.is_request() {
        keyring.verify(via.param(b"pt")?).partition()
    } else {
        keyring.verify_branch(via.branch()?).partition()
    }
}

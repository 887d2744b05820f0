//! What a worker counts, for metrics. Plain numbers: the driver publishes them.

/// A kind of message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Kind {
    /// A client's request that begins something: no tag or token of ours.
    NewRequest,
    /// A client's request inside a dialog or transaction of ours.
    InDialogRequest,
    /// A peer's response to a container's request.
    PeerResponse,
    /// A container's request.
    ContainerRequest,
    /// A container's response.
    ContainerResponse,
}

impl Kind {
    /// All of them, with the names that metrics use.
    pub const NAMES: [(Self, &'static str); 5] = [
        (Self::NewRequest, "new_request"),
        (Self::InDialogRequest, "in_dialog_request"),
        (Self::PeerResponse, "peer_response"),
        (Self::ContainerRequest, "container_request"),
        (Self::ContainerResponse, "container_response"),
    ];
}

/// What became of a message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum Outcome {
    /// It went on its way.
    Forwarded,
    /// It waits for an owner.
    Held,
    /// The proxy answered it itself.
    Answered,
    /// It was dropped, see [`DropReason`].
    Dropped,
}

impl Outcome {
    /// All of them, with the names that metrics use.
    pub const NAMES: [(Self, &'static str); 4] = [
        (Self::Forwarded, "forwarded"),
        (Self::Held, "held"),
        (Self::Answered, "answered"),
        (Self::Dropped, "dropped"),
    ];
}

/// Why a message was dropped.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub enum DropReason {
    /// It cannot be read, and no answer is allowed.
    Malformed,
    /// A response whose topmost Via is not ours, or whose next is not a container's.
    StrayResponse,
    /// An ACK that belongs to nothing here.
    StrayAck,
    /// An ACK that has gone in circles.
    Looped,
    /// Another container owns its partition.
    Fenced,
    /// Output from memory whose heartbeat is too old.
    Stale,
    /// No way to the peer is known.
    NoFlow,
    /// A bound was reached, and no answer is allowed.
    Full,
    /// It has waited too long, and no answer is allowed.
    Late,
    /// Left to its repetition, which another container has begun, or another proxy may lead on while this one is cut off, or was.
    Apart,
}

impl DropReason {
    /// All of them, with the names that metrics use.
    pub const NAMES: [(Self, &'static str); 10] = [
        (Self::Malformed, "malformed"),
        (Self::StrayResponse, "stray_response"),
        (Self::StrayAck, "stray_ack"),
        (Self::Looped, "looped"),
        (Self::Fenced, "fenced"),
        (Self::Stale, "stale"),
        (Self::NoFlow, "no_flow"),
        (Self::Full, "full"),
        (Self::Late, "late"),
        (Self::Apart, "apart"),
    ];
}

/// Counts since the start.
#[derive(Clone, Debug, Default)]
pub struct Counters {
    /// By [`Kind`] and [`Outcome`].
    pub messages: [[u64; Outcome::NAMES.len()]; Kind::NAMES.len()],
    /// By [`DropReason`].
    pub drops: [u64; DropReason::NAMES.len()],
    /// Messages sent again to another container, because theirs fell or returned them.
    pub rerouted: u64,
    /// Messages sent to a container through another proxy.
    pub relayed: u64,
    /// Pings that keep flows open.
    pub pings: u64,
    /// The proxy's own answers, by status code.
    pub answers: std::collections::BTreeMap<u16, u64>,
    /// Messages that wait for an owner now.
    pub holding: usize,
    /// Transactions of new dialogs that are remembered now.
    pub transactions: usize,
}

impl Counters {
    pub(super) fn count(&mut self, kind: Kind, outcome: Outcome) {
        self.messages[kind as usize][outcome as usize] += 1;
    }

    pub(super) fn drop(&mut self, why: DropReason) {
        self.drops[why as usize] += 1;
    }

    pub(super) fn answer(&mut self, status: u16) {
        *self.answers.entry(status).or_default() += 1;
    }
}

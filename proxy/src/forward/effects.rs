//! What the driver is asked to do. Reused from batch to batch, so that a message costs no allocation.

use ucf::flow::Flow;
use ucf::wire::Body;

/// The two connections to one container. Not used again for another.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LinkId(pub u32);

/// A piece of [`Effects::bytes`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// How many bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        (self.end - self.start) as usize
    }

    /// Whether it is nothing.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Where it stands in [`Effects::arena`].
    #[must_use]
    pub fn range(&self) -> std::ops::Range<usize> {
        self.start as usize..self.end as usize
    }
}

/// One thing to do.
#[derive(Clone, Debug)]
pub enum Effect {
    /// Send to a client. A datagram leaves the listener's socket for `to.remote`. A stream: on the connection that `to.held`
    /// names if it is open, else on one to `to.remote` (RFC 3261 s18.1.1, s18.2.2), opened if there is none.
    Client {
        /// Where to.
        to: Flow,
        /// One message.
        message: Span,
    },
    /// The same, by another worker of this process, which holds the connection.
    Worker {
        /// Which worker.
        worker: u16,
        /// Where to.
        to: Flow,
        /// One message.
        message: Span,
    },
    /// Give a client's message to another worker of this process (`Forwarder::handle_passed`), because its call is there.
    Pass {
        /// Which worker.
        worker: u16,
        /// Where it came from.
        source: Flow,
        /// One message.
        message: Span,
    },
    /// Send a frame on the UCF connection of a container or of another proxy.
    Frame {
        /// Whose.
        link: LinkId,
        /// The frame.
        body: Body,
    },
    /// Close all connections of a link and call `Forwarder::link_down`: it does not keep to the protocol, or it has been
    /// silent for too long.
    Close {
        /// Which container.
        link: LinkId,
        /// For the log.
        reason: &'static str,
    },
}

/// Effects of a batch of inputs, in order.
#[derive(Debug, Default)]
pub struct Effects {
    list: Vec<Effect>,
    arena: Vec<u8>,
}

impl Effects {
    /// In the order in which they are to be performed.
    #[must_use]
    pub fn list(&self) -> &[Effect] {
        &self.list
    }

    /// A message of one of them.
    #[must_use]
    pub fn message(&self, span: Span) -> &[u8] {
        &self.arena[span.range()]
    }

    /// All messages; [`Span::range`] tells where each stands.
    #[must_use]
    pub fn arena(&self) -> &[u8] {
        &self.arena
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Forgets all of it, keeps the memory.
    pub fn clear(&mut self) {
        self.list.clear();
        self.arena.clear();
    }

    /// Adds an effect without a message.
    pub fn push(&mut self, effect: Effect) {
        self.list.push(effect);
    }

    /// Adds a message that `write` appends, and the effect that `effect` makes of it.
    pub fn push_message(&mut self, write: impl FnOnce(&mut Vec<u8>), effect: impl FnOnce(Span) -> Effect) {
        let start = self.arena.len() as u32;
        write(&mut self.arena);
        let end = self.arena.len() as u32;
        self.list.push(effect(Span { start, end }));
    }
}

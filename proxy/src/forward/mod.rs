//! The path of a message through one proxy worker, sans-IO.
//!
//! # The driver's contract
//!
//! The driver owns the sockets and the clock. It connects to every container it is told of and, when both connections stand
//! and `Hello` has been exchanged, calls [`Forwarder::link_up`]; the [`LinkId`] names the pair from then on. It feeds one whole
//! SIP message or one frame at a time with `handle_*`, then
//! - performs [`Effects`] in order and clears them (a batch of inputs may share one `Effects`),
//! - writes what [`Forwarder::outgoing`] shows for each link to its SIP connection and says so with [`Forwarder::wrote`]
//!   (the bytes stay in the link's window until the container confirms them; there is no second copy),
//! - calls [`Forwarder::handle_timeout`] at [`Forwarder::poll_timeout`].

mod config;
mod counters;
mod effects;

pub use config::{Config, Limits, Listener};
pub use counters::{Counters, DropReason, Kind, Outcome};
pub use effects::{Effect, Effects, LinkId, Span};

use std::io::IoSlice;

use sip::Instant;
use ucf::flow::Flow;
use ucf::wire::{Body, Hello, MemberState};

/// One worker of a proxy.
pub struct Forwarder {
    config: Config,
    counters: Counters,
}

impl Forwarder {
    /// A worker that knows no container yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        Self {
            config,
            counters: Counters::default(),
        }
    }

    /// A message of a client: a datagram, or one message of a stream. `source.held` is set for streams. If it belongs to
    /// another worker's calls, the effect is [`Effect::Pass`].
    pub fn handle_client(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        let _ = (now, source, bytes, effects);
    }

    /// A message that another worker has passed on by [`Effect::Pass`].
    pub fn handle_passed(&mut self, now: Instant, source: &Flow, bytes: &[u8], effects: &mut Effects) {
        let _ = (now, source, bytes, effects);
    }

    /// One whole message from a container's SIP connection.
    pub fn handle_container(&mut self, now: Instant, link: LinkId, bytes: &[u8], effects: &mut Effects) {
        let _ = (now, link, bytes, effects);
    }

    /// Both connections to a container stand; `hello` is what it said of itself.
    pub fn link_up(&mut self, now: Instant, hello: &Hello, effects: &mut Effects) -> LinkId {
        let _ = (now, hello, effects);
        LinkId(0)
    }

    /// Either connection has closed; the driver closes the other one. What was unconfirmed goes to the new owners.
    pub fn link_down(&mut self, now: Instant, link: LinkId, effects: &mut Effects) {
        let _ = (now, link, effects);
    }

    /// A frame from a container's UCF connection.
    pub fn handle_frame(&mut self, now: Instant, link: LinkId, body: &Body, effects: &mut Effects) {
        let _ = (now, link, body, effects);
    }

    /// What is to be written to the container's SIP connection, up to `slices.len()` pieces; returns how many.
    pub fn outgoing<'a>(&'a self, link: LinkId, slices: &mut [IoSlice<'a>]) -> usize {
        let _ = (link, slices);
        0
    }

    /// So many bytes of [`Self::outgoing`] have been written.
    pub fn wrote(&mut self, link: LinkId, bytes: usize) {
        let _ = (link, bytes);
    }

    /// When [`Self::handle_timeout`] wants to be called.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        Instant::MAX
    }

    /// Heartbeats, and what has waited too long.
    pub fn handle_timeout(&mut self, now: Instant, effects: &mut Effects) {
        let _ = (now, effects);
    }

    /// Which containers this worker is linked to, and how they are, for health and the admin page.
    pub fn containers(&self) -> impl Iterator<Item = ContainerView<'_>> {
        std::iter::empty()
    }

    /// What has been counted so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.counters
    }

    /// The configuration it was made with.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }
}

/// One linked container as this worker sees it.
#[derive(Clone, Copy, Debug)]
pub struct ContainerView<'a> {
    /// Its link.
    pub link: LinkId,
    /// Its name.
    pub name: &'a str,
    /// Its incarnation.
    pub incarnation: ucf::Incarnation,
    /// As it last reported.
    pub state: MemberState,
    /// Partitions that it owns as far as this worker has heard.
    pub partitions: usize,
    /// Bytes sent and not yet confirmed.
    pub unconfirmed: usize,
}

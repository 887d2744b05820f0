//! The other proxies that a worker is linked with: which containers they reach, and what is on its way through them.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use sip::Instant;
use ucf::flow::{Held, Place};
use ucf::window::Label;
use ucf::wire::{Heartbeat, View};
use ucf::{Incarnation, PartitionId, ProxyId};

use super::effects::LinkId;

/// Links with other proxies' workers, at most.
const MAX_PEERS: usize = 1024;

/// A peer that has been silent for longer carries nothing, as a container that is silent for as long may be down.
pub(super) const SILENT: Duration = Duration::from_millis(700);

/// After this silence the link is closed and made anew.
const SILENCE: Duration = Duration::from_secs(10);

/// How long what was relayed is kept, to be sent another way should the peer fall: longer than the peer lets it wait for an owner. What
/// had arrived all the same is absorbed by the container's transactions, which last 32 s.
const KEEP: Duration = Duration::from_secs(10);

/// Bytes of it per peer; beyond, the oldest is forgotten.
const MAX_KEPT: usize = 16 << 20;

/// The bit that tells a peer's link from a container's.
const PEER: u32 = 1 << 31;

/// One link with a worker of another proxy.
#[derive(Debug)]
pub(super) struct Peer {
    pub(super) id: LinkId,
    pub(super) proxy: ProxyId,
    /// Where it is, if each proxy has an address of its own.
    place: Option<Place>,
    heard: Instant,
    /// It is not silent.
    lively: bool,
    /// Containers that it reaches, by its last heartbeat; sorted.
    reaches: Vec<u64>,
    /// Containers that we reach and it does not: it has been told of their live transactions.
    pub(super) told: Vec<Incarnation>,
    kept: VecDeque<Kept>,
    bytes: usize,
}

#[derive(Debug)]
struct Kept {
    sent: Instant,
    label: Label,
    bytes: Box<[u8]>,
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Peers {
    list: Vec<Peer>,
    /// How many there have been.
    count: u32,
}

impl Peer {
    /// Whether it reaches a container.
    pub(super) fn reaches(&self, container: Incarnation) -> bool {
        self.lively && self.reaches.binary_search(&container.0).is_ok()
    }

    /// Takes its heartbeat.
    pub(super) fn hear(&mut self, now: Instant, heartbeat: &Heartbeat) {
        let silent = SILENT.as_millis() as u32;
        let is_reached = |view: &&View| !view.closed && view.silent_ms < silent;
        self.heard = now;
        self.lively = true;
        self.reaches.clear();
        self.reaches
            .extend(heartbeat.views.iter().filter(is_reached).map(|view| view.incarnation));
        self.reaches.sort_unstable();
        let reaches = &self.reaches;
        self.told
            .retain(|container| reaches.binary_search(&container.0).is_err());
    }

    /// Keeps what is relayed through it.
    pub(super) fn keep(&mut self, now: Instant, label: Label, bytes: &[u8]) {
        self.bytes += bytes.len();
        self.kept.push_back(Kept {
            sent: now,
            label,
            bytes: bytes.into(),
        });
        self.forget(now);
    }

    fn forget(&mut self, now: Instant) {
        while let Some(oldest) = self.kept.front()
            && (oldest.sent + KEEP <= now || self.bytes > MAX_KEPT)
        {
            self.bytes -= oldest.bytes.len();
            self.kept.pop_front();
        }
    }

    /// What is to be sent another way.
    fn take(&mut self) -> Vec<(Label, Vec<u8>)> {
        self.bytes = 0;
        let kept = self.kept.drain(..);
        kept.map(|kept| (kept.label, kept.bytes.into_vec())).collect()
    }
}

impl Peers {
    /// A link stands. None if there are too many.
    pub(super) fn up(&mut self, now: Instant, proxy: ProxyId, place: Option<Place>) -> Option<LinkId> {
        if self.list.len() >= MAX_PEERS {
            return None;
        }
        self.count = self.count.wrapping_add(1);
        let id = LinkId(PEER | self.count & !PEER);
        self.list.push(Peer {
            id,
            proxy,
            place,
            heard: now,
            lively: true,
            reaches: Vec::new(),
            told: Vec::new(),
            kept: VecDeque::new(),
            bytes: 0,
        });
        Some(id)
    }

    /// The link has closed: gives what was on its way.
    pub(super) fn down(&mut self, id: LinkId) -> Option<Vec<(Label, Vec<u8>)>> {
        let at = self.list.iter().position(|peer| peer.id == id)?;
        Some(self.list.swap_remove(at).take())
    }

    pub(super) fn get_mut(&mut self, id: LinkId) -> Option<&mut Peer> {
        self.list.iter_mut().find(|peer| peer.id == id)
    }

    pub(super) fn iter_mut(&mut self) -> impl Iterator<Item = &mut Peer> {
        self.list.iter_mut()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.list.is_empty()
    }

    /// Containers that somebody reaches.
    pub(super) fn reached(&self) -> impl Iterator<Item = Incarnation> {
        let lively = self.list.iter().filter(|peer| peer.lively);
        lively.flat_map(|peer| peer.reaches.iter().map(|reached| Incarnation(*reached)))
    }

    /// Whether one of them reaches a container.
    pub(super) fn reach(&self, container: Incarnation) -> bool {
        self.list.iter().any(|peer| peer.reaches(container))
    }

    /// The peer through which a partition's messages go to a container: the same as long as the same ones reach it, so that they keep
    /// their order.
    pub(super) fn towards(&mut self, container: Incarnation, partition: PartitionId) -> Option<&mut Peer> {
        let count = self.list.iter().filter(|peer| peer.reaches(container)).count();
        let place = usize::from(partition.0).checked_rem(count)?;
        self.list.iter_mut().filter(|peer| peer.reaches(container)).nth(place)
    }

    /// Whether there ever was a link with one.
    pub(super) fn has_been_one(&self) -> bool {
        self.count > 0
    }

    /// How many proxies are heard, and how many are silent: one has a link for each of its workers.
    pub(super) fn heard(&self) -> (usize, usize) {
        let processes = |lively: bool| -> BTreeSet<u64> {
            let peers = self.list.iter().filter(|peer| peer.lively || !lively);
            peers.map(|peer| peer.proxy.incarnation).collect()
        };
        let heard = processes(true).len();
        (heard, processes(false).len() - heard)
    }

    /// A link with the process that holds a flow, or has its address since that one has ended. Who is silent counts as ended.
    pub(super) fn holder(&self, held: Held) -> Option<LinkId> {
        let first = |is_it: &dyn Fn(&Peer) -> bool| self.list.iter().find(|peer| peer.lively && is_it(peer));
        let of = |process| first(&|peer| peer.proxy.incarnation == process);
        let peer = match held {
            Held::Connection { by, .. } => of(by.incarnation),
            Held::Address { process, place } => {
                of(process).or_else(|| first(&|peer| place.is_some() && peer.place == place))
            }
        };
        peer.map(|peer| peer.id)
    }

    /// What was on its way through peers that have fallen silent.
    pub(super) fn fallen_silent(&mut self, now: Instant) -> Vec<(Label, Vec<u8>)> {
        let mut taken = Vec::new();
        for peer in &mut self.list {
            peer.forget(now);
            peer.lively &= now.since(peer.heard) < SILENT;
            if !peer.lively {
                taken.append(&mut peer.take());
            }
        }
        taken
    }

    /// Nothing could be heard for so long.
    pub(super) fn forgive(&mut self, now: Instant, pause: Duration) {
        for peer in &mut self.list {
            peer.heard = (peer.heard + pause).min(now);
        }
    }

    /// Links that have been silent for too long.
    pub(super) fn silent(&self, now: Instant) -> impl Iterator<Item = (LinkId, &'static str)> {
        let silent = self.list.iter().filter(move |peer| now.since(peer.heard) >= SILENCE);
        silent.map(|peer| (peer.id, "silent for ten seconds"))
    }
}

//! The containers that a worker knows, and its links to them.

use std::collections::VecDeque;
use std::io::IoSlice;
use std::time::Duration;

use sip::Instant;
use ucf::Incarnation;
use ucf::routing::Slot;
use ucf::window::Window;
use ucf::wire::{Report, View};

use super::effects::LinkId;
use super::peers::SILENT;

/// How many heartbeats back a container may name one: more than a lease.
const HEARTBEATS: usize = 256;

/// How long a container that is gone stays in the views: longer than any lease, so that every member has seen it.
const FORGET: Duration = Duration::from_secs(60);

/// After this silence a link is closed and made anew: a path that drops everything never closes by itself. Its partitions have
/// long been claimed by others.
const SILENCE: Duration = Duration::from_secs(10);

/// The same if another proxy hears it: only our path is cut, and what is for it goes through the other from then on. Long enough for the
/// other to say so were the container silent for all.
const CUT_OFF: Duration = Duration::from_secs(1);

/// Bits of a link's id that are its slot; `ucf::routing::MAX_MEMBERS` fits.
const SLOT_BITS: u32 = 10;

/// One life of a container.
#[derive(Debug)]
pub(super) struct Container {
    pub(super) incarnation: Incarnation,
    pub(super) name: String,
    /// When it was last heard; once closed, when that was.
    pub(super) heard: Instant,
    /// Its link ended in silence.
    lost: bool,
    /// It holds its output.
    holds: bool,
    pub(super) link: Option<Link>,
}

/// The two connections to a container.
#[derive(Debug)]
pub(super) struct Link {
    pub(super) id: LinkId,
    pub(super) window: Window,
    /// Numbers of the last heartbeats sent on it, and when.
    beats: VecDeque<(u64, Instant)>,
}

impl Link {
    /// A heartbeat is sent.
    pub(super) fn beat(&mut self, now: Instant, number: u64) {
        if self.beats.len() == HEARTBEATS {
            self.beats.pop_front();
        }
        self.beats.push_back((number, now));
    }

    /// Bytes of the window, the last ones, that have not been written to the connection.
    pub(super) fn unwritten(&self) -> usize {
        // More than a full window has chunks.
        let mut pieces = [IoSlice::new(&[]); 512];
        let count = self.window.outgoing(&mut pieces);
        pieces[..count].iter().map(|piece| piece.len()).sum()
    }

    /// How long ago a heartbeat was sent on this link; none if it was not, or if that is not known any more.
    pub(super) fn age(&self, now: Instant, heartbeat: u64) -> Option<Duration> {
        let at = self
            .beats
            .binary_search_by_key(&heartbeat, |(number, _)| *number)
            .ok()?;
        Some(now.since(self.beats[at].1))
    }
}

/// Containers by slot of the routing table.
#[derive(Debug, Default)]
pub(super) struct Containers {
    by_slot: Vec<Option<Container>>,
    /// How many links there have been.
    links: u32,
}

impl Containers {
    pub(super) fn get(&self, slot: Slot) -> Option<&Container> {
        self.by_slot.get(usize::from(slot.0))?.as_ref()
    }

    pub(super) fn get_mut(&mut self, slot: Slot) -> Option<&mut Container> {
        self.by_slot.get_mut(usize::from(slot.0))?.as_mut()
    }

    pub(super) fn link(&self, slot: Slot) -> Option<&Link> {
        self.get(slot)?.link.as_ref()
    }

    pub(super) fn link_mut(&mut self, slot: Slot) -> Option<&mut Link> {
        self.get_mut(slot)?.link.as_mut()
    }

    /// The links of those that were heard lately.
    pub(super) fn lively(&self, now: Instant, lately: Duration) -> impl Iterator<Item = (Slot, &Link)> {
        let lively = self
            .iter()
            .filter(move |(_, container)| now.since(container.heard) < lately);
        lively.filter_map(|(slot, container)| Some((slot, container.link.as_ref()?)))
    }

    /// The slot of a link that stands.
    pub(super) fn slot(&self, id: LinkId) -> Option<Slot> {
        let slot = Slot((id.0 & ((1 << SLOT_BITS) - 1)) as u16);
        (self.link(slot)?.id == id).then_some(slot)
    }

    /// A link stands. Whatever was there under this slot is replaced.
    pub(super) fn up(
        &mut self,
        now: Instant,
        slot: Slot,
        incarnation: Incarnation,
        name: &str,
        window: Window,
    ) -> LinkId {
        let at = usize::from(slot.0);
        if self.by_slot.len() <= at {
            self.by_slot.resize_with(at + 1, || None);
        }
        self.links = self.links.wrapping_add(1);
        let id = LinkId(self.links << SLOT_BITS | u32::from(slot.0));
        // It may hold still what it held when it fell silent.
        let before = self.by_slot[at].as_ref();
        let holds = before.is_some_and(|before| before.incarnation == incarnation && before.holds);
        self.by_slot[at] = Some(Container {
            incarnation,
            name: name.to_owned(),
            heard: now,
            lost: false,
            holds,
            link: Some(Link {
                id,
                window,
                beats: VecDeque::new(),
            }),
        });
        id
    }

    /// The link has closed; gives what it leaves behind.
    pub(super) fn down(&mut self, now: Instant, slot: Slot) -> Option<Link> {
        let container = self.get_mut(slot)?;
        container.lost = now.since(container.heard) >= SILENT;
        container.holds &= container.lost;
        container.heard = now;
        container.link.take()
    }

    /// What a container says of itself.
    pub(super) fn reported(&mut self, slot: Slot, report: &Report) {
        if let Some(container) = self.get_mut(slot) {
            container.holds = report.holds;
        }
    }

    /// Whether it holds its output, or did when it fell silent.
    pub(super) fn holds(&self, slot: Slot) -> bool {
        self.get(slot).is_some_and(|container| container.holds)
    }

    /// Whether there is one that does.
    pub(super) fn some_hold(&self) -> bool {
        self.iter().any(|(_, container)| container.holds)
    }

    /// How many are heard, and how many have fallen silent. Of those a link may have ended since; one that ended without silence is the sign
    /// of a process that ended, and counts nowhere.
    pub(super) fn heard(&self, now: Instant) -> (usize, usize) {
        let (mut heard, mut silent) = (0, 0);
        for (_, container) in self.iter() {
            match container.link {
                Some(_) if now.since(container.heard) < SILENT => heard += 1,
                None if !container.lost => {}
                _ => silent += 1,
            }
        }
        (heard, silent)
    }

    /// Those that have been gone for long, taken out.
    pub(super) fn forget(&mut self, now: Instant) -> Option<Slot> {
        let gone = |container: &Container| container.link.is_none() && now.since(container.heard) >= FORGET;
        let at = self
            .by_slot
            .iter()
            .position(|container| container.as_ref().is_some_and(gone))?;
        self.by_slot[at] = None;
        Some(Slot(at as u16))
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (Slot, &Container)> {
        self.by_slot
            .iter()
            .enumerate()
            .filter_map(|(at, container)| Some((Slot(at as u16), container.as_ref()?)))
    }

    pub(super) fn links_mut(&mut self) -> impl Iterator<Item = &mut Link> {
        self.by_slot.iter_mut().flatten().filter_map(|c| c.link.as_mut())
    }

    pub(super) fn links_with_slots_mut(&mut self) -> impl Iterator<Item = (Slot, &mut Link)> {
        self.by_slot
            .iter_mut()
            .enumerate()
            .filter_map(|(at, container)| Some((Slot(at as u16), container.as_mut()?.link.as_mut()?)))
    }

    /// Links that have been silent for too long; on an `island` as soon as if the container were heard by others, because it is.
    pub(super) fn silent(
        &self,
        now: Instant,
        island: bool,
        is_heard_by_others: impl Fn(Incarnation) -> bool,
    ) -> impl Iterator<Item = (LinkId, &'static str)> {
        self.by_slot.iter().flatten().filter_map(move |container| {
            let link = container.link.as_ref()?;
            let reason = match now.since(container.heard) {
                silence if silence >= SILENCE => "silent for ten seconds",
                silence if silence >= CUT_OFF && island => "silent, as most are",
                silence if silence >= CUT_OFF && is_heard_by_others(container.incarnation) => {
                    "silent, but not for others"
                }
                _ => return None,
            };
            Some((link.id, reason))
        })
    }

    /// Nothing could be heard for so long.
    pub(super) fn forgive(&mut self, now: Instant, pause: Duration) {
        for container in self
            .by_slot
            .iter_mut()
            .flatten()
            .filter(|container| container.link.is_some())
        {
            container.heard = (container.heard + pause).min(now);
        }
    }

    /// How this worker sees every container that it knows.
    pub(super) fn views(&self, now: Instant) -> Vec<View> {
        self.by_slot
            .iter()
            .flatten()
            .map(|container| View {
                incarnation: container.incarnation.0,
                silent_ms: u32::try_from(now.since(container.heard).as_millis()).unwrap_or(u32::MAX),
                closed: container.link.is_none(),
            })
            .collect()
    }
}

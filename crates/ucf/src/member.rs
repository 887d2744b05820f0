//! A container's part in the cluster: membership, leases, detection, claims, hand-over, acting without the store.
//!
//! The driver's contract:
//! - after every input (`handle_*`) perform the effects of [`Member::poll_effect`] until there are none, in order; several inputs may be
//!   fed first, announcements are then put together. Call [`Member::handle_timeout`] when [`Member::poll_timeout`] is reached;
//! - `Hello` is the driver's: a link counts as up (`handle_peer_up`, `handle_proxy_up`) when the other side's `Hello` has come. A link to a
//!   peer is never closed because of silence. Two links to one peer (both connected) are one to the member: up with the first, ended with
//!   the last;
//! - the partition's engine obeys `Activate`, `Freeze`, `Thaw`, `Drop`, `Gate` and `Reconcile` in order, and tells by
//!   [`Member::handle_engine`] what came of it. The gate is at `Committed` at first;
//! - a proxy sends a heartbeat at once, besides every 100 ms, when a container's connections close: that is what makes takeovers fast. It
//!   goes on to report a container that closed until the container's successor is connected, at least for some lease periods.

mod claims;
mod hand_over;
mod interface;
mod membership;
mod memory;
mod peers;
mod store_link;

pub use interface::{Config, DropReason, Effect, Event, Faults, Gate, LinkEnd, Notice, RequestId, Suspicion};

use crate::detector::Detector;
use crate::lease::LeaseWatch;
use crate::store::StoreReply;
use crate::wire::{Body, Fenced, MemberState, Ownership, Peer as PeerFrame, PeerBody};
use crate::{Epoch, Incarnation, PartitionId, ProxyId};
use claims::Claims;
use hand_over::{HandOver, Moves};
use memory::{Memory, Reconcile};
use peers::Peer;
use sip::Instant;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;
use store_link::{StoreLink, What};

/// A store of one server that does not answer for this long is lost.
pub const STORE_BUDGET: Duration = Duration::from_millis(250);

/// How often is looked at what no deadline of its own tells.
const TICK: Duration = Duration::from_millis(50);

/// One container as a member of its cluster.
pub struct Member {
    config: Config,
    /// Bounded by what one input can cause: a few per partition and peer.
    effects: VecDeque<Effect>,
    state: MemberState,
    phase: Phase,
    /// Everybody who was on the list when this member joined has admitted it or is closed.
    admitted: bool,
    /// Whom to ask for that.
    admission: BTreeSet<Incarnation>,
    listed_at: Instant,
    admitted_at: Instant,
    next_tick: Instant,
    next_sweep: Instant,
    /// The store's owners have been seen once.
    swept: bool,
    store: StoreLink,
    lease: LeaseWatch,
    detector: Detector,
    /// As many as the list of members has, and those lately removed.
    peers: BTreeMap<Incarnation, Peer>,
    /// Running number of what is said to peers.
    number: u64,
    /// One per partition: the highest epoch heard, and whose.
    table: Vec<Known>,
    held: BTreeMap<PartitionId, Held>,
    claims: Claims,
    moves: Moves,
    memory: Memory,
    reconcile: Option<Reconcile>,
    gate: Gate,
    /// Partitions to be announced when the inputs at hand are dealt with.
    announce: BTreeSet<PartitionId>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// `Join` is to be sent or under way.
    Joining,
    Listed,
    /// `Remove` of itself is under way.
    Leaving,
    Left,
}

#[derive(Clone, Copy, Debug, Default)]
struct Known {
    owner: Option<Incarnation>,
    epoch: Epoch,
}

/// A partition of ours.
#[derive(Debug)]
struct Held {
    epoch: Epoch,
    hand_over: Option<HandOver>,
}

impl Member {
    /// A member that is about to join: its first timeout is due at once.
    #[must_use]
    pub fn new(config: Config, now: Instant) -> Self {
        let lease = config.lease;
        let partitions = usize::from(config.partitions);
        Self {
            effects: VecDeque::new(),
            state: MemberState::Joining,
            phase: Phase::Joining,
            admitted: false,
            admission: BTreeSet::new(),
            listed_at: now,
            admitted_at: now,
            next_tick: now,
            next_sweep: Instant::MAX,
            swept: false,
            store: StoreLink::new(now),
            lease: LeaseWatch::new(lease),
            detector: Detector::default(),
            peers: BTreeMap::new(),
            number: 0,
            table: vec![Known::default(); partitions],
            held: BTreeMap::new(),
            claims: Claims::default(),
            moves: Moves::default(),
            memory: Memory::default(),
            reconcile: None,
            gate: Gate::Committed,
            announce: BTreeSet::new(),
            config,
        }
    }

    /// Between start and end.
    #[must_use]
    pub fn state(&self) -> MemberState {
        self.state
    }

    /// This member's incarnation.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.config.record.incarnation
    }

    /// What it holds, and at which epochs.
    pub fn held(&self) -> impl Iterator<Item = (PartitionId, Epoch)> + '_ {
        self.held.iter().map(|(partition, held)| (*partition, held.epoch))
    }

    /// Whether the store answers.
    #[must_use]
    pub fn reaches_store(&self) -> bool {
        self.store.is_up()
    }

    /// Whether the store has everything, and takes what comes.
    #[must_use]
    pub fn is_replicated(&self) -> bool {
        self.status().stored
    }

    /// Whether output leaves unwritten at present.
    #[must_use]
    pub fn acts_from_memory(&self) -> bool {
        self.memory.acts()
    }

    /// What output may leave.
    #[must_use]
    pub fn gate(&self) -> &Gate {
        &self.gate
    }

    /// What is to be done next.
    pub fn poll_effect(&mut self) -> Option<Effect> {
        if self.effects.is_empty() {
            self.announce_changes();
        }
        self.effects.pop_front()
    }

    /// When `handle_timeout` is wanted.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        if self.phase == Phase::Left {
            return Instant::MAX;
        }
        let memory_ends = match self.gate {
            Gate::Memory { until, .. } => until,
            _ => Instant::MAX,
        };
        self.next_tick.min(self.claims.next_due()).min(memory_ends)
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        if self.phase == Phase::Left {
            return;
        }
        if self.next_tick <= now {
            self.next_tick = now + TICK;
            self.check_store(now);
            self.connect_peers(now);
            self.detect(now);
            self.check_admission(now);
            self.sweep_if_due(now);
            self.drive_reconcile(now);
            self.check_hand_overs(now);
            self.plan_moves(now);
            self.check_state(now);
        }
        self.drive_memory(now);
        self.send_claims(now);
    }

    /// The store answered.
    pub fn handle_store(&mut self, now: Instant, id: RequestId, reply: StoreReply) {
        // What was given up has no say any more, whatever became of it: sweeps find out.
        let Some((sent, what)) = self.store.take(now, id) else {
            return;
        };
        match what {
            What::Join | What::Renew => self.on_members(now, sent, reply),
            What::Inspect => self.on_owners(now, reply),
            What::Claim(partition) => self.on_claim(now, partition, reply),
            What::Mark(partition) => self.on_mark(now, partition, reply),
            What::Withdraw(partition) => self.on_withdraw(now, partition, reply),
            What::Remove(member) => self.on_removed(member, reply),
            What::Leave => {
                self.phase = Phase::Left;
                self.effects.push_back(Effect::Left);
            }
        }
        self.send_claims(now);
    }

    /// The store's control connection was lost or could not be made: no request under way will be answered.
    pub fn handle_store_lost(&mut self, now: Instant) {
        self.lose_store(now);
    }

    /// A proxy worker connected and said `Hello`.
    pub fn handle_proxy_up(&mut self, _now: Instant, proxy: ProxyId) {
        self.detector.up(proxy);
        let all = Body::Ownership(self.all_owned());
        self.effects.push_back(Effect::ToProxy(proxy, all));
    }

    /// Its link ended.
    pub fn handle_proxy_closed(&mut self, _now: Instant, proxy: ProxyId) {
        self.detector.closed(proxy);
    }

    /// It said something: `Heartbeat` and `Fenced` are for the member, others are ignored.
    pub fn handle_proxy_frame(&mut self, now: Instant, proxy: ProxyId, frame: Body) {
        match frame {
            Body::Heartbeat(beat) => {
                let heartbeat = beat.number;
                self.detector.heard(now, proxy, beat);
                self.effects.push_back(Effect::Report {
                    proxy,
                    heartbeat,
                    state: self.state,
                });
                self.detect(now);
                self.send_claims(now);
            }
            Body::Fenced(Fenced {
                partition,
                owner: 0,
                epoch,
            }) => self.hear_epoch(now, partition, Epoch(epoch)),
            Body::Fenced(Fenced {
                partition,
                owner,
                epoch,
            }) => {
                self.hear_owner(now, partition, Incarnation(owner), Epoch(epoch));
                self.yield_equal_epoch(now, partition, Incarnation(owner), Epoch(epoch));
            }
            _ => {}
        }
    }

    /// A link to a member stands.
    pub fn handle_peer_up(&mut self, now: Instant, peer: Incarnation) {
        self.on_peer_up(now, peer);
    }

    /// It ended, or could not be made.
    pub fn handle_peer_end(&mut self, now: Instant, peer: Incarnation, end: LinkEnd) {
        self.on_peer_end(now, peer, end);
        self.drive_memory(now);
        self.drive_reconcile(now);
    }

    /// A member said something.
    pub fn handle_peer_frame(&mut self, now: Instant, peer: Incarnation, frame: Body) {
        if let Some(peer) = self.peers.get_mut(&peer) {
            peer.heard = now;
        }
        match frame {
            Body::Ownership(owned) => self.on_ownership(now, &owned),
            Body::Peer(PeerFrame {
                number,
                body: Some(body),
            }) => self.on_peer_body(now, peer, number, body),
            _ => {}
        }
        self.send_claims(now);
    }

    /// The engine has something to tell.
    pub fn handle_engine(&mut self, now: Instant, notice: Notice) {
        match notice {
            Notice::Frozen(partition) => self.on_frozen(now, partition),
            Notice::Loaded(partition) => self.claims_loaded(now, partition),
            Notice::Stale {
                partition,
                written,
                owner,
                epoch,
            } => self.on_stale(partition, written, owner, epoch),
            Notice::Behind(_) => self.store_forgot(now),
            Notice::StoreSilent => self.writes_fail(now),
            Notice::StoreWrites => self.writes_succeed(now),
            Notice::Reconciled(round) => self.on_reconciled(now, round),
        }
    }

    /// Hand everything over, then leave.
    pub fn quiesce(&mut self, now: Instant) {
        if self.state == MemberState::Quiescing {
            return;
        }
        self.set_state(MemberState::Quiescing);
        self.forget_unsent_claims();
        self.plan_moves(now);
        self.check_state(now);
    }

    fn event(&mut self, event: Event) {
        self.effects.push_back(Effect::Event(event));
    }

    fn set_gate(&mut self, gate: Gate) {
        if self.gate != gate {
            self.gate = gate.clone();
            self.effects.push_back(Effect::Gate(gate));
        }
    }

    fn set_state(&mut self, state: MemberState) {
        if self.state != state {
            self.state = state;
            self.event(Event::State(state));
            self.tell_status();
        }
    }

    /// Someone owns a partition at an epoch, as it says itself or as a proxy or the store has heard.
    fn hear_owner(&mut self, now: Instant, partition: u32, owner: Incarnation, epoch: Epoch) {
        let Some(partition) = self.partition(partition) else {
            return;
        };
        if owner == self.incarnation() {
            return;
        }
        let known = &mut self.table[usize::from(partition.0)];
        if epoch <= known.epoch {
            return;
        }
        *known = Known {
            owner: Some(owner),
            epoch,
        };
        if self.claims.owner_changed(partition, owner) {
            self.takeover_progress(partition, None);
        }
        self.lose_partition_to(now, partition, owner, epoch);
    }

    /// Somebody of whom nobody knows any more has owned the partition at this epoch: what is held at a lower one is given up, and claimed again
    /// above it.
    fn hear_epoch(&mut self, now: Instant, partition: u32, epoch: Epoch) {
        let Some(partition) = self.partition(partition) else {
            return;
        };
        let known = &mut self.table[usize::from(partition.0)];
        known.epoch = known.epoch.max(epoch);
        if self.held.get(&partition).is_some_and(|held| held.epoch < epoch) {
            self.held.remove(&partition);
            self.drop_effects(partition, DropReason::Superseded);
            self.next_sweep = now;
        }
    }

    /// A store that forgot grants epochs anew that proxies have heard of another owner, and they let nothing pass: the partition is
    /// given up, and claimed again above that epoch.
    fn yield_equal_epoch(&mut self, now: Instant, partition: u32, owner: Incarnation, epoch: Epoch) {
        let Some(partition) = self.partition(partition) else {
            return;
        };
        let equal = self.held.get(&partition).is_some_and(|held| held.epoch == epoch);
        if equal && owner != self.incarnation() {
            self.held.remove(&partition);
            self.drop_effects(partition, DropReason::Superseded);
            self.next_sweep = now;
        }
    }

    /// Drops what another owns at a higher epoch.
    fn lose_partition_to(&mut self, now: Instant, partition: PartitionId, owner: Incarnation, epoch: Epoch) {
        if self.held.get(&partition).is_none_or(|held| held.epoch >= epoch) {
            return;
        }
        let held = self.held.remove(&partition).expect("it was just looked at");
        match &held.hand_over {
            Some(hand_over) if hand_over.to == owner => {
                self.drop_effects(partition, DropReason::HandedOver);
                self.hand_over_done(now, partition, hand_over);
            }
            _ => self.drop_effects(partition, DropReason::Superseded),
        }
    }

    fn on_stale(&mut self, partition: PartitionId, written: Epoch, owner: Option<Incarnation>, epoch: Epoch) {
        if let Some(owner) = owner.filter(|o| *o != self.incarnation()) {
            self.note_stored(partition, owner, epoch);
        }
        // A refusal of an earlier epoch's write says nothing about the present one.
        if self.held.get(&partition).is_some_and(|held| held.epoch == written) {
            self.held.remove(&partition);
            self.drop_effects(partition, DropReason::Stale);
        }
    }

    fn note_stored(&mut self, partition: PartitionId, owner: Incarnation, epoch: Epoch) {
        let known = &mut self.table[usize::from(partition.0)];
        if epoch > known.epoch {
            *known = Known {
                owner: Some(owner),
                epoch,
            };
        }
    }

    fn drop_effects(&mut self, partition: PartitionId, why: DropReason) {
        self.announce.remove(&partition);
        self.effects.push_back(Effect::Drop { partition, why });
        self.takeover_progress(partition, None);
    }

    fn drop_all(&mut self, why: DropReason) {
        for partition in std::mem::take(&mut self.held).into_keys() {
            self.drop_effects(partition, why);
        }
    }

    fn partition(&self, number: u32) -> Option<PartitionId> {
        let number = u16::try_from(number).ok()?;
        (usize::from(number) < self.table.len()).then_some(PartitionId(number))
    }

    fn all_owned(&self) -> Ownership {
        let mut all = self.ownership_of(self.held.keys());
        all.complete = true;
        all
    }

    fn ownership_of<'a>(&self, partitions: impl Iterator<Item = &'a PartitionId>) -> Ownership {
        let mut owned = Ownership {
            owner: self.incarnation().0,
            ..Ownership::default()
        };
        for partition in partitions {
            if let Some(held) = self.held.get(partition) {
                owned.partitions.push(u32::from(partition.0));
                owned.epochs.push(held.epoch.0);
                if held.hand_over.is_some() {
                    owned.leaving.push(u32::from(partition.0));
                }
            }
        }
        owned
    }

    fn announce_changes(&mut self) {
        let changed = std::mem::take(&mut self.announce);
        let owned = self.ownership_of(changed.iter());
        if owned.partitions.is_empty() {
            return;
        }
        self.send_to_peers(|_| true, &Body::Ownership(owned.clone()));
        self.effects.push_back(Effect::ToProxies(Body::Ownership(owned)));
    }

    fn announce_all(&mut self) {
        let all = Body::Ownership(self.all_owned());
        self.send_to_peers(|_| true, &all);
        self.effects.push_back(Effect::ToProxies(all));
    }

    fn on_ownership(&mut self, now: Instant, owned: &Ownership) {
        let owner = Incarnation(owned.owner);
        let mut replaced = BTreeSet::new();
        for (number, epoch) in owned.partitions.iter().zip(&owned.epochs) {
            let Some(partition) = self.partition(*number) else {
                continue;
            };
            let before = self.known(partition).owner;
            self.hear_owner(now, *number, owner, Epoch(*epoch));
            if self.known(partition).owner != before {
                replaced.extend(before);
            }
        }
        for from in replaced {
            self.claims.heir_at_work(now, owner, from);
        }
    }

    fn send_to_peers(&mut self, which: impl Fn(&Peer) -> bool, body: &Body) {
        let linked = self.peers.iter().filter(|(_, peer)| peer.linked && which(peer));
        let frames = linked.map(|(peer, _)| Effect::ToPeer(*peer, body.clone()));
        self.effects.extend(frames);
    }

    fn say(&mut self, peer: Incarnation, body: PeerBody) {
        self.number += 1;
        let frame = PeerFrame {
            number: self.number,
            body: Some(body),
        };
        self.effects.push_back(Effect::ToPeer(peer, Body::Peer(frame)));
    }

    fn say_to_all(&mut self, body: &PeerBody) {
        let linked: Vec<_> = self.peers.iter().filter(|(_, p)| p.linked).map(|(p, _)| *p).collect();
        for peer in linked {
            self.say(peer, body.clone());
        }
    }
}

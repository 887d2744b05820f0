//! What may leave: what is written, or while the store is lost what its proxy can tell to be young.

use bytes::{BufMut as _, BytesMut};
use sip::Instant;
use ucf::member::Gate;
use ucf::routing::HEARTBEAT_HEADER;
use ucf::{PartitionId, ProxyId};

use super::Engine;
use super::asks::Asking;
use super::turn::{Confirm, Fate, Input, Leaving, Released};
use super::turns::Waits;

/// What turns have released and the gate has not let out. While the gate is closed proxies send no more than their windows hold, and what
/// is repeated is repeated for 32 s: so it is bounded by what is held.
#[derive(Debug, Default)]
pub(super) struct AtGate {
    pub outputs: Vec<Leaving>,
    pub confirms: Vec<Waits>,
    /// Inputs of which the proxy is to hear that they are kept; and how many of `confirms`, the first ones, it has heard that of.
    kept: Vec<Input>,
    told: usize,
    pub asks: Vec<Asking>,
}

impl AtGate {
    /// The input is kept for a partition that is being handed over.
    pub fn keep(&mut self, input: Input) {
        self.kept.push(input);
    }

    /// The partition is another's.
    pub fn drop_partition(&mut self, id: PartitionId) {
        self.outputs.retain(|leaving| leaving.output.partition != id);
        self.asks.retain(|asking| asking.id.partition != id);
        let theirs = |waits: &&mut Waits| waits.1.is_some_and(|(partition, _)| partition == id);
        for (confirm, owner) in self.confirms.iter_mut().filter(theirs) {
            confirm.fate = Fate::Returned;
            *owner = None;
        }
    }
}

impl Engine {
    /// What output may leave from now on. If it may leave from memory, writes under way are given up: what came of them makes no
    /// difference, because memory is written whole once the store is back ([`reconcile`](Self::reconcile)).
    pub fn set_gate(&mut self, gate: Gate) {
        self.gate = gate;
        if self.acts_from_memory() {
            self.give_up_writes();
        }
    }

    /// The store knows less than it was told, so another may have been granted what is owned here: what it took just now waits for the member,
    /// which asks all others and opens the gate again.
    pub(super) fn close_gate(&mut self) {
        if self.gate == Gate::Committed {
            self.gate = Gate::Hold;
        }
    }

    /// Turns have no writes now.
    #[must_use]
    pub fn acts_from_memory(&self) -> bool {
        matches!(self.gate, Gate::Memory { .. })
    }

    /// What may leave now, in order. From memory only to one of `proxies`, those that are connected: others have to be heard first.
    pub fn take_released(&mut self, now: Instant, proxies: &[ProxyId]) -> Released {
        let released = match &self.gate {
            Gate::Hold => return Released::default(),
            Gate::Committed => {
                let at_gate = std::mem::take(&mut self.released);
                let mut confirms: Vec<_> = at_gate.kept.into_iter().map(kept).collect();
                confirms.extend(at_gate.confirms.into_iter().map(|(confirm, _)| confirm));
                Released {
                    outputs: at_gate.outputs,
                    confirms,
                    asks: at_gate.asks,
                }
            }
            Gate::Memory { until, .. } if *until <= now => return Released::default(),
            Gate::Memory { .. } => self.take_from_memory(proxies),
        };
        self.counters.sent += released.outputs.len() as u64;
        released
    }

    fn take_from_memory(&mut self, proxies: &[ProxyId]) -> Released {
        let at_gate = std::mem::take(&mut self.released);
        let mut released = Released::default();
        for leaving in at_gate.outputs {
            let beat = self.beat_for(&leaving, proxies);
            match beat.filter(|_| self.may_act(leaving.output.partition)) {
                Some((proxy, beat)) => released.outputs.push(stamp(leaving, proxy, beat)),
                None => self.released.outputs.push(leaving),
            }
        }
        released.confirms.extend(at_gate.kept.into_iter().map(kept));
        for (place, (confirm, owner)) in at_gate.confirms.into_iter().enumerate() {
            if owner.is_none_or(|(id, _)| self.may_act(id)) {
                released.confirms.push(confirm);
                continue;
            }
            if place >= at_gate.told {
                released.confirms.push(kept(confirm.input));
            }
            self.released.confirms.push((confirm, owner));
        }
        self.released.told = self.released.confirms.len();
        // Nobody could tell that an ask is old; but one that the next owner asks too does no harm.
        for asking in at_gate.asks {
            if self.may_act(asking.id.partition) {
                released.asks.push(asking);
            } else {
                self.released.asks.push(asking);
            }
        }
        released
    }

    /// Whether nobody else can own the partition, as far as the gate tells. One that is being handed over may be its target's already.
    fn may_act(&self, id: PartitionId) -> bool {
        let Gate::Memory { held, .. } = &self.gate else {
            return false;
        };
        let partition = self.partitions[usize::from(id.0)].as_ref();
        partition.is_some_and(|partition| partition.frozen.is_none()) && held.binary_search(&id).is_err()
    }

    /// Where the output goes, and the heartbeat to be named there: to the proxy that it names, to any other only if that one is gone.
    fn beat_for(&self, leaving: &Leaving, proxies: &[ProxyId]) -> Option<(ProxyId, u64)> {
        let Gate::Memory { heartbeats, .. } = &self.gate else {
            return None;
        };
        let of = |proxy: &ProxyId| heartbeats.iter().find(|(heard, _)| heard == proxy).copied();
        match leaving.output.proxy.filter(|proxy| proxies.contains(proxy)) {
            Some(proxy) => of(&proxy),
            None => proxies.iter().find_map(of),
        }
    }
}

fn kept(input: Input) -> Confirm {
    let fate = Fate::Kept;
    Confirm { input, fate }
}

/// Names the heartbeat in a field behind the start line.
fn stamp(mut leaving: Leaving, proxy: ProxyId, beat: u64) -> Leaving {
    let bytes = &leaving.output.bytes;
    let start = bytes.iter().position(|byte| *byte == b'\n').map_or(0, |at| at + 1);
    let mut stamped = BytesMut::with_capacity(bytes.len() + HEARTBEAT_HEADER.len() + 24);
    stamped.put_slice(&bytes[..start]);
    stamped.put_slice(format!("{HEARTBEAT_HEADER}: {beat}\r\n").as_bytes());
    stamped.put_slice(&bytes[start..]);
    leaving.output.bytes = stamped.freeze();
    leaving.output.proxy = Some(proxy);
    leaving.from_memory = true;
    leaving
}

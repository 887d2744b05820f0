//! Flows of dialogs that are to be kept open: those that a NAT's binding carries, and that would be gone when we have something to say.
//!
//! The partition knows them: its dialogs survive the proxy that a call came through as well as this container. So nobody else keeps a list,
//! and a successor asks for all of them at once.

use std::hash::BuildHasherDefault;
use std::time::Duration;

use hashbrown::HashSet;
use sip::Instant;
use ucf::ProxyId;
use ucf::flow::Flow;

use super::Engine;
use super::partition::{Identity, Partition};
use crate::application::DialogSlot;

/// A partition's flows are asked for so often at the most. NATs forget a binding after 30 s at the earliest; RFC 4787 s4.3 demands two
/// minutes.
const LEAST: Duration = Duration::from_secs(20);

/// And later by up to this, another time in each round, so that pings spread.
const SPREAD: Duration = Duration::from_secs(8);

/// Sessions that are looked at in one go: a millisecond's worth.
const SHARE: usize = 2_000;

/// Rounds of [`LEAST`], to ask once in each for a flow that many dialogs share.
#[derive(Debug, Default)]
pub(super) struct Asked {
    until: Instant,
    checks: HashSet<u64, BuildHasherDefault<Identity>>,
}

/// One flow that needs a ping.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DueFlow {
    /// The proxy worker through which the peer was last heard.
    pub proxy: ProxyId,
    /// The flow token.
    pub token: Box<[u8]>,
}

impl Engine {
    /// Flows that it is time to ping. To be asked for ten times a second: what is due beyond one share comes with the next.
    pub fn take_due_flows(&mut self, now: Instant) -> Vec<DueFlow> {
        let mut due = Vec::new();
        if self.asked.until <= now {
            self.asked.until = now + LEAST;
            self.asked.checks.clear();
        }
        let mut looked_at = 0;
        for partition in self.partitions.iter_mut().flatten() {
            if partition.ping_at > now || partition.sessions.is_empty() {
                continue;
            }
            if looked_at >= SHARE {
                break;
            }
            looked_at += partition.sessions.len();
            let spread = self.entropy.number() % SPREAD.as_micros() as u64;
            partition.ping_at = now + LEAST + Duration::from_micros(spread);
            for slot in slots(partition) {
                let flow = token(slot).and_then(|token| Some((token, Flow::decode(token, &self.shared.keyring)?)));
                if let Some((token, flow)) = flow
                    && flow.translated
                    && self.asked.checks.insert(check(token))
                {
                    due.push(DueFlow {
                        proxy: slot.flow.proxy,
                        token: token.into(),
                    });
                }
            }
        }
        due
    }
}

fn slots(partition: &Partition) -> impl Iterator<Item = &DialogSlot> {
    let slots = partition.sessions.values().flat_map(|session| &session.dialogs);
    slots.filter(|slot| !slot.ended && !slot.flow.reliable)
}

/// The token of the flow on which the peer was last heard: its own, or the one in the route set's first element, which is our proxy's.
fn token(slot: &DialogSlot) -> Option<&[u8]> {
    if let Some(token) = &slot.flow.token {
        return Some(token);
    }
    const PARAM: &[u8] = b";fl=";
    let routes = slot.dialog.text().routes;
    let first = routes.split(|byte| *byte == b'>').next()?;
    let start = first.windows(PARAM.len()).position(|part| part == PARAM)? + PARAM.len();
    first[start..].split(|byte| *byte == b';').next()
}

/// What tells tokens apart: their end is the keyed check.
fn check(token: &[u8]) -> u64 {
    let digits = &token[token.len().saturating_sub(12)..];
    ucf::base32::read(digits).map_or(0, |check| check as u64)
}

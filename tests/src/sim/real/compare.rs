//! Records in memory and in the store.

use super::caller::call_of;
use crate::sim::checks::Call;
use crate::sim::net::Records;
use bytes::Bytes;
use container::records::{Key, Record};
use sip::transaction::ServerState;
use std::collections::{BTreeMap, BTreeSet};

/// What deadlines may differ by, in milliseconds: they are in the store's time, to which a container knows its offset by samples.
const TOLERANCE: u64 = 1_000;

/// No deadline of a run is further away.
const FAR: u64 = 1_000_000;

/// In what the store's records differ from those in memory, apart from the `ripe`, which wait to be deleted.
pub fn differences(memory: &BTreeMap<Key, Bytes>, ripe: &[Key], stored: &Records) -> Vec<String> {
    let stored: BTreeMap<Key, Bytes> = parsed(stored).collect();
    let keys: BTreeSet<_> = memory.keys().chain(stored.keys()).copied().collect();
    let differs = |key: Key| match (memory.get(&key), stored.get(&key)) {
        (Some(ours), Some(theirs)) => {
            let (ours, theirs) = (Plain::of(key, ours), Plain::of(key, theirs));
            (!ours.equals(&theirs)).then(|| format!("{key:?}: {ours:?} in memory, {theirs:?} stored"))
        }
        (Some(_), None) => Some(format!("{key:?} is not stored")),
        (None, Some(_)) if !ripe.contains(&key) => Some(format!("{key:?} is stored, but not in memory")),
        _ => None,
    };
    keys.into_iter().filter_map(differs).collect()
}

/// The records of a store.
pub fn parsed(records: &Records) -> impl Iterator<Item = (Key, Bytes)> + '_ {
    let parse = |(key, value): (&Vec<u8>, &Vec<u8>)| Some((Key::parse(key)?, value.clone().into()));
    records.iter().filter_map(parse)
}

/// The calls that records are of.
pub fn calls(records: impl Iterator<Item = (Key, Bytes)>) -> BTreeSet<Call> {
    let texts = records.flat_map(|(key, value)| match Record::decode(key.kind, value) {
        Ok(Record::Session(session)) => session
            .dialogs
            .into_iter()
            .map(|dialog| [dialog.local, dialog.remote].concat().into())
            .collect(),
        Ok(Record::Server(server)) => vec![server.request, server.response],
        Ok(Record::Client(client)) => vec![client.request],
        Err(_) => Vec::new(),
    });
    let calls = texts.filter_map(|text| call_of(&text));
    calls.filter_map(|(call, _)| Call::try_from(call).ok()).collect()
}

/// Calls of which a record has deadlines in another time than the store's: its clock jumped, and the owner has not written them anew.
pub fn misdated(records: &Records, now: u64) -> BTreeSet<Call> {
    let far = |deadline: &u64| *deadline > 0 && deadline.abs_diff(now) > FAR;
    calls(parsed(records).filter(|(key, value)| deadlines(*key, value).iter().any(far)))
}

fn deadlines(key: Key, value: &Bytes) -> Vec<u64> {
    match Record::decode(key.kind, value.clone()) {
        Ok(Record::Session(session)) => {
            let refreshed = session.dialogs.iter().filter_map(|dialog| dialog.session.as_ref());
            let timers = session.timers.iter().map(|timer| timer.deadline);
            timers
                .chain(refreshed.flat_map(|timer| [timer.refresh, timer.expires]))
                .collect()
        }
        Ok(Record::Server(server)) => vec![server.until],
        Ok(Record::Client(client)) => vec![client.until],
        Err(_) => Vec::new(),
    }
}

/// A record without its deadlines, and these.
#[derive(Debug)]
struct Plain {
    record: Record,
    deadlines: Vec<u64>,
}

impl Plain {
    fn of(key: Key, value: &Bytes) -> Self {
        let mut record = Record::decode(key.kind, value.clone()).expect("an owner wrote it");
        let mut deadlines = Vec::new();
        let mut take = |deadline: &mut u64| deadlines.push(std::mem::take(deadline));
        match &mut record {
            Record::Session(session) => {
                session.timers.iter_mut().for_each(|timer| take(&mut timer.deadline));
                for dialog in &mut session.dialogs {
                    if let Some(timer) = &mut dialog.session {
                        take(&mut timer.refresh);
                        take(&mut timer.expires);
                    }
                    if let Some(ack) = &mut dialog.ack {
                        take(&mut ack.until);
                    }
                }
            }
            Record::Server(server) => {
                // An ACK is not written, nor the shorter wait that it begins.
                let until = std::mem::take(&mut server.until);
                if server.state == ServerState::Confirmed as u32 {
                    server.state = ServerState::Completed as u32;
                } else if server.state == ServerState::Accepted as u32 {
                    deadlines.push(until);
                }
            }
            Record::Client(client) => client.until = 0,
        }
        Self { record, deadlines }
    }

    fn equals(&self, other: &Self) -> bool {
        let near = |(one, two): (&u64, &u64)| one.abs_diff(*two) <= TOLERANCE;
        self.record == other.record && self.deadlines.iter().zip(&other.deadlines).all(near)
    }
}

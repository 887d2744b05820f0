//! A partition: an actor with its sessions, transactions and what of them is not written yet.

use std::collections::VecDeque;
use std::hash::{BuildHasherDefault, Hasher};

use bytes::Bytes;
use hashbrown::HashMap;
use sip::transaction::{ClientTransaction, ServerState, ServerTransaction};
use sip::{Instant, OwnedMessage};
use ucf::{Epoch, PartitionId, ProxyId};

use super::turn::{Announcement, Input};
use crate::application::{AskId, Flow, SessionCore};
use crate::records::{Key, Kind};

/// Inputs kept for a partition while it is frozen. A hand-over takes milliseconds; beyond this a proxy holds them itself.
pub(super) const MAX_KEPT: usize = 1024;

/// Ids are keyed hashes or random already; hashing them again buys nothing.
#[derive(Clone, Copy, Default)]
pub(super) struct Identity(u64);

impl Hasher for Identity {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, _: &[u8]) {
        unreachable!("ids are u64")
    }

    fn write_u64(&mut self, id: u64) {
        self.0 = id;
    }
}

/// One map per kind and partition. Values are boxed, so that a half-empty table costs little.
pub(super) type ById<T> = HashMap<u64, Box<T>, BuildHasherDefault<Identity>>;

/// A server transaction.
#[derive(Debug)]
pub(super) struct ServerTx {
    pub machine: ServerTransaction,
    pub session: Option<u64>,
    pub dialog: Option<u32>,
    /// Kept until it is answered for good; the transaction itself stays for another 32 s, and takes no room for it.
    pub request: Option<Box<OwnedMessage>>,
    pub cseq: u32,
    /// Where the request came from, and the responses go.
    pub proxy: ProxyId,
    /// What proxies know it by.
    pub key: u64,
    /// By what they know a merged request (RFC 3261 s8.2.2.2).
    pub merged: u64,
    /// After a takeover: a request of ours passes it on, so the application has seen it.
    pub relayed: bool,
    pub armed: Option<Instant>,
    pub stored: bool,
    /// Its final response to an INVITE needs no repeating any more: that is written before a hand-over.
    pub acknowledged: bool,
}

/// The number of no dialog.
pub(super) const NO_DIALOG: u32 = u32::MAX;

/// A client transaction.
#[derive(Debug)]
pub(super) struct ClientTx {
    pub machine: ClientTransaction,
    pub session: u64,
    /// [`NO_DIALOG`] for a call's INVITE, whose responses make dialogs, and for a CANCEL.
    pub dialog: u32,
    /// The call that this is the INVITE of.
    pub call: Option<u32>,
    /// The server transaction of the request that this one passes on.
    pub relays: Option<u64>,
    pub cancel: Cancel,
    pub method: Box<str>,
    pub cseq: u32,
    pub flow: Flow,
    /// The engine's own BYE or refresh: not the application's.
    pub internal: bool,
    /// A final response has come, or none will.
    pub answered: bool,
    pub armed: Option<Instant>,
    pub stored: bool,
}

/// How far the CANCEL of an INVITE of ours has come (RFC 3261 s9.1).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Cancel {
    #[default]
    No,
    /// It waits for a provisional response.
    Wanted,
    Sent,
}

/// A partition that this worker owns.
#[derive(Debug)]
pub(super) struct Partition {
    pub id: PartitionId,
    pub epoch: Epoch,
    /// Running number of the last write.
    pub number: u64,
    /// Turns are stopped for a hand-over: what comes is kept.
    pub frozen: Option<Frozen>,
    pub sessions: ById<SessionCore>,
    pub servers: ById<ServerTx>,
    pub clients: ById<ClientTx>,
    /// Transactions in progress.
    pub in_progress: usize,
    /// Changed in the open turn.
    pub dirty: Vec<Key>,
    /// To be deleted with the open turn.
    pub deletes: Vec<Key>,
    /// Records of ended server transactions: deleted with the next write, or when they have waited long.
    pub ripe: Vec<Key>,
    pub ripe_since: Option<Instant>,
    /// Writes that are not acknowledged.
    pub unwritten: u32,
    /// It waits to be written whole.
    pub rewrite: bool,
    /// It was acted on from memory, or its writes were given up: the next one is of the whole.
    pub unsaved: bool,
    /// When its flows are to be pinged; at once when it is loaded.
    pub ping_at: Instant,
}

/// What a frozen partition keeps.
#[derive(Debug, Default)]
pub(super) struct Frozen {
    pub inputs: VecDeque<(Input, ProxyId, OwnedMessage)>,
    pub answers: Vec<(AskId, Option<Bytes>)>,
    pub due: Vec<Key>,
    /// The member knows that all is written.
    pub told: bool,
}

impl Partition {
    pub fn new(id: PartitionId, epoch: Epoch) -> Self {
        Self {
            id,
            epoch,
            number: 0,
            frozen: None,
            sessions: ById::default(),
            servers: ById::default(),
            clients: ById::default(),
            in_progress: 0,
            dirty: Vec::new(),
            deletes: Vec::new(),
            ripe: Vec::new(),
            ripe_since: None,
            unwritten: 0,
            rewrite: false,
            unsaved: false,
            ping_at: Instant::default(),
        }
    }

    /// Every key that has a record or should have one: sessions behind the transactions that they lean on.
    pub fn keys(&self) -> Vec<Key> {
        let of = |kind| move |id: &u64| Key { kind, id: *id };
        let servers = self.servers.keys().map(of(Kind::Server));
        let clients = self.clients.keys().map(of(Kind::Client));
        let sessions = self.sessions.keys().map(of(Kind::Session));
        servers.chain(clients).chain(sessions).collect()
    }

    /// An ACK is not worth a write by itself, so a takeover repeats answers that were acknowledged. Who is handed the partition shall not: the turn
    /// that comes writes down which these are.
    pub fn note_acknowledged(&mut self) {
        for (id, server) in &mut self.servers {
            let repeated = || {
                let session = self.sessions.get(&server.session?)?;
                let mut dialogs = session.dialogs.iter();
                dialogs
                    .find(|slot| Some(slot.number) == server.dialog)?
                    .dialog
                    .repeats_answer()
            };
            server.acknowledged = match server.machine.snapshot(Instant::default()).state {
                ServerState::Confirmed => true,
                ServerState::Accepted => repeated() != Some(server.cseq),
                ServerState::Proceeding | ServerState::Completed => false,
            };
            if server.acknowledged {
                let kind = Kind::Server;
                self.dirty.push(Key { kind, id: *id });
            }
        }
    }

    /// Sessions and transactions.
    pub fn held(&self) -> usize {
        self.sessions.len() + self.servers.len() + self.clients.len()
    }

    /// What proxies have to know of the server transactions of INVITEs: that they are live, and of those that are answered that too.
    pub fn live_transactions(&self) -> impl Iterator<Item = Announcement> + '_ {
        let servers = self.servers.values();
        let invites = servers.filter(|server| matches!(server.machine, ServerTransaction::Invite(_)));
        invites.flat_map(|server| {
            let begun = Announcement {
                partition: self.id,
                key: server.key,
                merged: server.merged,
                ended: false,
            };
            let ended = Announcement { ended: true, ..begun };
            [Some(begun), server.machine.is_answered().then_some(ended)]
                .into_iter()
                .flatten()
        })
    }

    /// Whether the open turn changes it.
    pub fn is_changed(&self) -> bool {
        !self.dirty.is_empty() || !self.deletes.is_empty()
    }

    /// What changed is not written but kept in memory: until the whole is written there is nothing to be gathered.
    pub fn leave_unwritten(&mut self) {
        self.unsaved = true;
        self.dirty.clear();
        self.deletes.clear();
        self.ripe.clear();
        self.ripe_since = None;
    }

    /// Whether the store has all of it.
    pub fn is_written(&self) -> bool {
        self.unwritten == 0 && !self.is_changed() && !self.rewrite && !self.unsaved
    }

    /// The record of an ended server transaction can go, at leisure.
    pub fn ripen(&mut self, now: Instant, key: Key) {
        self.ripe.push(key);
        self.ripe_since.get_or_insert(now);
    }
}

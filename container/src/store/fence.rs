//! What one connection knows of its right to write without asking for owner and epoch each time.
//!
//! Each member has one hash in the store, its fence: `token`, random, made by a script of its writes, deleted by whatever takes one of
//! its partitions; and for each of its links the generation, random, of the link's present connection. A script's write says that the
//! member owned partition P at epoch E while the token was T. As long as the token is T it still does: a token that was deleted never
//! comes back. So a connection that watches the fence, and has read T and its own generation since, may write P at E by `MULTI` and
//! `EXEC`, which the server refuses if the fence was touched meanwhile.
//!
//! The generation stands for the running number, which these writes do not store: what a dead connection left in the server's buffers
//! carries, or watches, a generation that the next connection has replaced before its own first write. So a write is repeated, or comes
//! late, only before any later one of its partition, where it does the same once more.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use ucf::{Epoch, Incarnation, PartitionId};

use super::Lost;
use crate::engine::{Write, WriteOutcome};

/// Tells apart the links of one member, which live in one process.
static LINKS: AtomicU64 = AtomicU64::new(0);

/// A connection's knowledge; another connection starts from nothing.
pub(super) struct Fence {
    /// The link's field in the member's fence.
    pub link: String,
    /// The connection and the member that the rest is about.
    about: Option<(u64, Incarnation)>,
    /// Registered as the connection's; none: not registered.
    pub generation: Option<String>,
    /// The token under which `verified` was seen.
    token: Option<String>,
    /// Found owned, by scripts, while the token stood. One for each partition of the worker at most.
    verified: HashMap<PartitionId, Epoch>,
    /// The fence is watched, and was as it is known here after that.
    armed: bool,
}

impl Fence {
    pub fn new() -> Self {
        Self {
            link: format!("l{}", LINKS.fetch_add(1, Ordering::Relaxed)),
            about: None,
            generation: None,
            token: None,
            verified: HashMap::new(),
            armed: false,
        }
    }

    /// Forgets what it knows if that is about another connection or member.
    pub fn turn_to(&mut self, connection: u64, member: Incarnation) {
        if self.about != Some((connection, member)) {
            self.forget();
            self.about = Some((connection, member));
        }
    }

    pub fn forget(&mut self) {
        self.about = None;
        self.forget_generation();
    }

    /// The store does not know this connection any more.
    pub fn forget_generation(&mut self) {
        self.generation = None;
        self.token = None;
        self.verified.clear();
        self.armed = false;
    }

    /// Whether these may be written under the watch. They end it, or another request does: in either case it has to be made anew.
    pub fn take_right(&mut self, writes: &[Write]) -> bool {
        let owned = |write: &Write| self.verified.get(&write.partition) == Some(&write.epoch);
        std::mem::take(&mut self.armed) && writes.iter().all(owned)
    }

    /// Takes in what a script found, and the token that stood when it ended (empty: none).
    pub fn verify(&mut self, token: String, writes: &[Write], outcomes: &[WriteOutcome]) {
        if self.token.as_ref() != Some(&token) {
            self.verified.clear();
            self.token = (!token.is_empty()).then_some(token);
        }
        for (write, outcome) in writes.iter().zip(outcomes) {
            match outcome {
                // Of two epochs in one script the later success is the higher one.
                WriteOutcome::Written | WriteOutcome::Behind => {
                    self.verified.insert(write.partition, write.epoch);
                }
                WriteOutcome::Stale { .. } => {
                    if self.verified.get(&write.partition) == Some(&write.epoch) {
                        self.verified.remove(&write.partition);
                    }
                }
            }
        }
    }

    /// What stood in the fence once it was watched. A field that is missing is never watched for: what does not exist cannot be deleted.
    pub fn watched(&mut self, token: Option<String>, generation: Option<String>) {
        self.armed = token.is_some() && token == self.token && generation.is_some() && generation == self.generation;
    }
}

/// Sixteen random digits: a generation or a token.
pub(super) fn random() -> Result<String, Lost> {
    let mut bytes = [0; 8];
    getrandom::fill(&mut bytes).map_err(|error| Lost(format!("no entropy: {error}")))?;
    Ok(format!("{:016x}", u64::from_ne_bytes(bytes)))
}

//! The store's process: `ucf::store::Model` behind streams. What a dead connection had brought is still carried out.

use super::net::{ConnId, Context, Message};
use std::collections::BTreeSet;
use ucf::Incarnation;
use ucf::store::{Era, Model, StoreReply, StoreRequest};

/// The store of a run.
pub struct StoreNode {
    /// What it knows.
    pub model: Model,
    given_up: BTreeSet<ConnId>,
    /// Connections on which members have renewed or joined.
    found: BTreeSet<ConnId>,
}

impl StoreNode {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            model: Model::new(Era(1)),
            given_up: BTreeSet::new(),
            found: BTreeSet::new(),
        }
    }

    /// Another life begins with what the replica has, or with nothing.
    pub fn forget(&mut self, replica: Option<Model>, era: Era) {
        let full = self.model.is_full();
        match replica {
            Some(replica) => self.model = replica,
            None => self.model.flush(era),
        }
        self.model.set_era(era);
        self.model.set_full(full);
    }

    /// A message came.
    pub fn handle(&mut self, ctx: &mut Context, conn: ConnId, end: usize, message: Message) {
        match message {
            // The driver gives up a connection on which a write failed, and what followed there is not done before what failed.
            Message::Ask(_, StoreRequest::Write(_)) if self.model.is_full() => {
                self.given_up.insert(conn);
                ctx.close(conn, end);
            }
            Message::Ask(..) if self.given_up.contains(&conn) => {}
            Message::Ask(id, request) => {
                if let Some(member) = listed(&request)
                    && self.found.insert(conn)
                {
                    ctx.oracle.on_store_found(ctx.now, member);
                }
                let reply = self.model.apply(&request);
                ctx.oracle.on_store(ctx.now, &request, &reply);
                let records = match (&request, &reply) {
                    (StoreRequest::Claim { partition, .. }, StoreReply::Claimed { .. }) => {
                        self.model.partition(*partition).map(|p| p.records.clone())
                    }
                    _ => None,
                };
                ctx.send(conn, end, Message::Answer(id, reply, records));
            }
            Message::Closed => ctx.close(conn, end),
            _ => {}
        }
    }
}

/// Who joins or renews, if that is it.
fn listed(request: &StoreRequest) -> Option<Incarnation> {
    match request {
        StoreRequest::Join { record } => Some(record.incarnation),
        StoreRequest::Renew { member, .. } => Some(*member),
        _ => None,
    }
}

impl Default for StoreNode {
    fn default() -> Self {
        Self::new()
    }
}

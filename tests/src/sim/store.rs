//! The store's processes: `ucf::store::Model` behind streams, and replicas that have whatever was answered. What a dead connection had
//! brought is still carried out.

use super::net::{ConnId, Context, MS, Message, Micros, Node, Records};
use std::collections::BTreeSet;
use ucf::Incarnation;
use ucf::store::{Era, Model, StoreReply, StoreRequest};

/// The store of a run.
pub struct StoreNode {
    /// What the master knows, and its replicas.
    pub model: Model,
    former: Option<Former>,
    /// Broken on purpose: a master that no replica acknowledges answers all the same.
    pub answers_alone: bool,
    given_up: BTreeSet<ConnId>,
    /// Connections on which members have renewed or joined.
    found: BTreeSet<ConnId>,
}

/// A master that is cut off from its replicas: it carries everything out, and as none of them acknowledges it, nobody gets an answer.
struct Former {
    model: Model,
    /// The one container that goes on to reach this master and no other.
    apart: Node,
    /// Until then its replicas hear it, though it does not hear them.
    heard_until: Micros,
    /// A replica becomes the master, in another life.
    promoted_at: Micros,
    promoted: bool,
    era: Era,
}

impl StoreNode {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self {
            model: Model::new(Era(1)),
            former: None,
            answers_alone: false,
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

    /// The master is cut off from its replicas, one of which is promoted in a while, for all containers but one.
    pub fn split(&mut self, ctx: &mut Context, apart: Node, era: Era) {
        if self.former.is_some() || !ctx.lives(Node::Store) {
            return;
        }
        let promoted_at = ctx.now + ctx.rng.range(MS, 1_500 * MS);
        self.former = Some(Former {
            model: self.model.clone(),
            apart,
            heard_until: ctx.now + ctx.rng.range(0, 300 * MS),
            promoted_at,
            promoted: false,
            era,
        });
        ctx.wake(Node::Store, promoted_at);
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context, containers: impl Iterator<Item = Node>) {
        if let Some(former) = self.former.as_mut().filter(|f| !f.promoted && f.promoted_at <= ctx.now) {
            ctx.log(|| "a replica is promoted".to_owned());
            former.promoted = true;
            self.model.set_era(former.era);
            let apart = former.apart;
            containers
                .filter(|node| *node != apart)
                .for_each(|node| ctx.reset(Node::Store, node));
        }
    }

    /// The former master follows the promoted one, and what only it was told is gone.
    pub fn unite(&mut self, ctx: &mut Context, containers: impl Iterator<Item = Node>) {
        let Some(former) = self.former.take() else { return };
        self.model.set_era(former.era);
        containers
            .filter(|node| !former.promoted || *node == former.apart)
            .for_each(|node| ctx.reset(Node::Store, node));
    }

    /// What is asked of a master that is cut off from its replicas. `true` if it was.
    fn ask_former(&mut self, ctx: &mut Context, conn: ConnId, end: usize, id: u64, request: &StoreRequest) -> bool {
        let from = ctx.other_node(conn, end);
        let Some(former) = self.former.as_mut().filter(|f| !f.promoted || f.apart == from) else {
            return false;
        };
        let reply = former.model.apply(request);
        if !former.promoted && ctx.now < former.heard_until {
            let reply = self.model.apply(request);
            ctx.oracle.on_store(ctx.now, request, &reply);
        }
        if self.answers_alone {
            ctx.oracle.on_store(ctx.now, request, &reply);
            let records = claimed(&former.model, request, &reply);
            ctx.send(conn, end, Message::Answer(id, reply, records));
        }
        true
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
                if self.ask_former(ctx, conn, end, id, &request) {
                    return;
                }
                if let Some(member) = listed(&request)
                    && self.found.insert(conn)
                {
                    ctx.oracle.on_store_found(ctx.now, member);
                }
                let reply = self.model.apply(&request);
                ctx.oracle.on_store(ctx.now, &request, &reply);
                let records = claimed(&self.model, &request, &reply);
                ctx.send(conn, end, Message::Answer(id, reply, records));
            }
            Message::Closed => ctx.close(conn, end),
            _ => {}
        }
    }
}

/// The records of a partition that is won.
fn claimed(model: &Model, request: &StoreRequest, reply: &StoreReply) -> Option<Records> {
    match (request, reply) {
        (StoreRequest::Claim { partition, .. }, StoreReply::Claimed { .. }) => {
            model.partition(*partition).map(|p| p.records.clone())
        }
        _ => None,
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

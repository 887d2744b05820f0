//! Requests of peers: which transaction, which dialog, and whether the application sees them.

use sip::dialog::{Dialog, DialogState, Facts, Refusal, Verdict};
use sip::transaction::{Effect, Repeat, ServerTransaction, Timers};
use sip::{HeaderName, Instant, Message, Method, OwnedMessage};
use ucf::ProxyId;
use ucf::transactions::Keys;

use super::bounds;
use super::entropy::Entropy;
use super::partition::{Partition, ServerTx};
use super::queue::{Due, Queue};
use super::turn::{Announcement, Output};
use super::{Counters, Open, Shared};
use crate::application::{About, DialogNumber, DialogSlot, Ended, Flow, Reply, Request, SessionCore, TransactionId};
use crate::records::{Key, Kind, MAX_DIALOGS};

/// A partition at work, with what it may use of its worker.
pub(super) struct Actor<'e> {
    pub now: Instant,
    /// Sessions and transactions of the worker.
    pub held: usize,
    pub shared: &'e Shared,
    pub entropy: &'e mut Entropy,
    pub queue: &'e mut Queue,
    pub open: &'e mut Open,
    pub counters: &'e mut Counters,
    pub partition: &'e mut Partition,
}

/// A header field of a refusal.
pub(super) type Field<'a> = (HeaderName, &'a str);

impl Actor<'_> {
    /// A request came.
    pub fn request(&mut self, source: ProxyId, message: OwnedMessage) {
        let wire = message.as_message();
        let (id, keys) = identify(&wire, wire.method(), self.shared);
        match wire.method() {
            Method::Ack => self.ack(id, &wire),
            Method::Cancel => self.cancel(source, &wire),
            _ if self.partition.servers.contains_key(&id) => {
                self.counters.repeated += 1;
                self.on_server(id, |machine, now, out| {
                    machine.handle_request(now, Repeat::Request, out)
                });
            }
            _ => self.new_request(source, id, &keys, message),
        }
    }

    fn new_request(&mut self, source: ProxyId, id: u64, keys: &Keys, message: OwnedMessage) {
        let wire = message.as_message();
        if let Err(reject) = sip::check(&wire) {
            if reject.answer {
                self.refuse(source, &wire, reject.status, reject.reason, &[]);
            }
            return;
        }
        let facts = Facts::of(&wire);
        if facts.to_tag.is_empty() {
            if self.understands(source, &wire) {
                self.outside(source, id, keys, &message, &facts);
            }
        } else {
            self.inside(source, id, keys, &message, &facts);
        }
    }

    /// RFC 3261 s8.2.1 and s8.2.2.3: method and Require, or a refusal.
    fn understands(&mut self, source: ProxyId, wire: &Message<'_>) -> bool {
        let profile = self.shared.application.profile();
        let method = wire.method();
        if !profile
            .methods
            .iter()
            .any(|known| known.as_bytes() == method.as_bytes())
        {
            let (status, reason) = match method {
                Method::Other(_) => (501, "Not Implemented"),
                _ => (405, "Method Not Allowed"),
            };
            self.refuse(source, wire, status, reason, &[(HeaderName::Allow, &self.shared.allow)]);
            return false;
        }
        let unknown: Vec<&[u8]> = sip::unsupported(wire, HeaderName::Require, &self.shared.extensions).collect();
        if !unknown.is_empty() {
            let list = String::from_utf8_lossy(&unknown.join(&b", "[..])).into_owned();
            self.refuse(source, wire, 420, "Bad Extension", &[(HeaderName::Unsupported, &list)]);
            return false;
        }
        true
    }

    /// Without a transaction: that would be one more.
    fn overloaded(&mut self, source: ProxyId, wire: &Message<'_>) {
        self.refuse(source, wire, 503, super::respond::reason(503), &[]);
    }

    /// A request outside of any dialog.
    fn outside(&mut self, source: ProxyId, id: u64, keys: &Keys, message: &OwnedMessage, facts: &Facts<'_>) {
        let wire = message.as_message();
        if !bounds::takes_new(self.held, self.partition.held()) {
            return self.overloaded(source, &wire);
        }
        match wire.method() {
            Method::Invite => self.invite(source, id, keys, message, facts),
            // RFC 3261 s12.2.2: they make sense only within a dialog.
            Method::Bye | Method::Prack | Method::Update | Method::Info => {
                self.refuse(source, &wire, 481, "Call/Transaction Does Not Exist", &[]);
            }
            _ => {
                let mut session = Box::new(SessionCore::new(self.entropy.number()));
                self.open_server(id, keys, source, &mut session, None, message, facts.cseq);
                self.deliver(&mut session, id, None, &wire);
                self.put(session);
            }
        }
    }

    /// An INVITE that makes a dialog, and its session unless it is to take the place of another dialog.
    fn invite(&mut self, source: ProxyId, id: u64, keys: &Keys, message: &OwnedMessage, facts: &Facts<'_>) {
        let wire = message.as_message();
        let (mut session, replaces) = match self.replaced(&wire) {
            Ok(Some((session, dialog))) => (session, Some(dialog)),
            Ok(None) => (Box::new(SessionCore::new(self.entropy.number())), None),
            Err(status) => return self.refuse(source, &wire, status, super::respond::reason(status), &[]),
        };
        let dialog = self.new_dialog(source, &mut session, id, message, facts);
        if let Some(dialog) = dialog {
            if replaces.is_none() {
                self.counters.sessions += 1;
            }
            self.open_server(id, keys, source, &mut session, Some(dialog), message, facts.cseq);
            self.open.announcements.push(Announcement {
                partition: self.partition.id,
                key: keys.transaction,
                merged: keys.merged,
                ended: false,
            });
            let mut request = Request::new(wire, TransactionId(id), Some(DialogNumber(dialog)));
            request.replaces = replaces.map(DialogNumber);
            self.handle_about(&mut session, About::Request(request), |application, session| {
                application.on_request(session, &request)
            });
        }
        self.put(session);
    }

    /// The session and the dialog that the INVITE wants to take the place of (RFC 3891 s3), if it does; or how it is refused.
    fn replaced(&mut self, wire: &Message<'_>) -> Result<Option<(Box<SessionCore>, u32)>, u16> {
        let known = self.shared.extensions.contains(&&b"replaces"[..]);
        if !known || wire.header(HeaderName::Replaces).is_none() {
            return Ok(None);
        }
        let named = wire.replaces().ok_or(400_u16)?;
        let id = super::entropy::number_in_tag(named.local_tag).ok_or(481_u16)?;
        let session = self.partition.sessions.get(&id).ok_or(481_u16)?;
        let slot = session.dialogs.iter().find(|slot| {
            let own = slot.dialog.id();
            own.local_tag == named.local_tag && own.remote_tag == named.remote_tag && own.call_id == named.call_id
        });
        let slot = slot.ok_or(481_u16)?;
        match slot.dialog.state() {
            _ if slot.ended => return Err(603),
            DialogState::Confirmed if named.early_only => return Err(486),
            // What rings here cannot be picked up by another: only calls out can.
            DialogState::Early if slot.call.is_none() => return Err(481),
            _ if session.dialogs.len() >= MAX_DIALOGS => return Err(503),
            _ => {}
        }
        let number = slot.number;
        Ok(self.partition.sessions.remove(&id).map(|session| (session, number)))
    }

    /// The dialog of an INVITE; `None` if that was refused.
    fn new_dialog(
        &mut self,
        source: ProxyId,
        session: &mut SessionCore,
        id: u64,
        message: &OwnedMessage,
        facts: &Facts<'_>,
    ) -> Option<u32> {
        let wire = message.as_message();
        let mut tag = self.shared.tag(self.partition.id, session.id);
        if session.numbers > 0 {
            // The session's number leads back to it, the dialog's tells it from the others.
            tag.extend_from_slice(format!("-{}", session.numbers).as_bytes());
        }
        let flow = flow_of(source, &wire);
        let contact = self.shared.contact(self.partition.id, flow.reliable);
        let policy = &self.shared.application.profile().session;
        let dialog = match Dialog::from_invite(facts, &tag, &contact, policy, Timers::default()) {
            Ok(dialog) => dialog,
            Err(refusal) => {
                match refusal {
                    Refusal::BadRequest => self.refuse(source, &wire, 400, "No Contact", &[]),
                    Refusal::IntervalTooSmall { min_se } => self.refuse_interval(source, &wire, min_se),
                }
                return None;
            }
        };
        let number = session.number();
        let mut slot = DialogSlot::new(number, dialog, flow);
        slot.invite = Some(id);
        session.dialogs.reserve_exact(1);
        session.dialogs.push(slot);
        session.dirty = true;
        Some(number)
    }

    /// A request within a dialog.
    fn inside(&mut self, source: ProxyId, id: u64, keys: &Keys, message: &OwnedMessage, facts: &Facts<'_>) {
        let wire = message.as_message();
        if !bounds::takes_more(self.held, self.partition.held()) {
            return self.overloaded(source, &wire);
        }
        let Some((mut session, number)) = self.take_dialog(facts) else {
            self.counters.unknown_dialogs += 1;
            return self.refuse(source, &wire, 481, "Call/Transaction Does Not Exist", &[]);
        };
        if self.understands(source, &wire) {
            self.in_dialog(source, id, keys, message, facts, &mut session, number);
        }
        self.put(session);
    }

    #[expect(clippy::too_many_arguments, reason = "the facts of one request")]
    fn in_dialog(
        &mut self,
        source: ProxyId,
        id: u64,
        keys: &Keys,
        message: &OwnedMessage,
        facts: &Facts<'_>,
        session: &mut SessionCore,
        number: u32,
    ) {
        let wire = message.as_message();
        let entropy = self.entropy.number();
        let policy = &self.shared.application.profile().session;
        let Some(slot) = session.dialog_mut(number) else { return };
        let flow = flow_in_dialog(source, &wire, slot.dialog.text().routes);
        let mut effects = Vec::new();
        let verdict = slot.dialog.receive(self.now, facts, policy, entropy, &mut effects);
        if matches!(verdict, Verdict::Process) {
            // Not before: whoever repeats an old request from elsewhere does not move what we send.
            slot.flow = flow;
        }
        session.dirty = true;
        self.dialog_effects(session, number, None, effects);
        match verdict {
            Verdict::Process => {
                self.open_server(id, keys, source, session, Some(number), message, facts.cseq);
                self.process(session, number, id, &wire);
            }
            // Out of order: so is a repeat, and the answer is the same.
            Verdict::Reject {
                status: status @ 500,
                retry_after: None,
                ..
            } => self.refuse(source, &wire, status, super::respond::reason(status), &[]),
            // The dialog has counted its CSeq: without a transaction a repeat would be out of order, and get another answer.
            Verdict::Reject {
                status,
                retry_after,
                min_se,
            } => {
                self.counters.refused += 1;
                self.open_server(id, keys, source, session, Some(number), message, facts.cseq);
                let mut reply = Reply::new(status);
                if let Some(seconds) = retry_after {
                    reply = reply.header(HeaderName::RetryAfter.as_str(), seconds.to_string().as_bytes());
                }
                if let Some(seconds) = min_se {
                    reply = reply.header(HeaderName::MinSe.as_str(), seconds.to_string().as_bytes());
                }
                self.reject(session, number, id, &reply);
            }
            Verdict::Acknowledged { .. } | Verdict::Drop => {}
        }
    }

    /// What the engine answers by itself, and what goes to the application.
    fn process(&mut self, session: &mut SessionCore, number: u32, id: u64, wire: &Message<'_>) {
        match wire.method() {
            Method::Bye => {
                self.abandon_invite(session, number);
                // RFC 3261 s15.1.2: an INVITE of the peer that is still unanswered gets 487.
                if let Some(invite) = session.dialog(number).and_then(|slot| slot.invite) {
                    self.respond(session, invite, Reply::new(487));
                }
                self.respond(session, id, Reply::new(200));
                self.ended(session, number, Ended::Bye);
            }
            Method::Prack => self.respond(session, id, Reply::new(200)),
            Method::Invite => {
                if let Some(slot) = session.dialog_mut(number) {
                    slot.invite = Some(id);
                }
                self.deliver(session, id, Some(number), wire);
            }
            _ => self.deliver(session, id, Some(number), wire),
        }
    }

    /// ACK: of a 300-699 it is its transaction's, of a 2xx the dialog's. Neither is written: an ACK that a successor has not seen
    /// costs a repeated 200, never a call.
    fn ack(&mut self, id: u64, wire: &Message<'_>) {
        if self.partition.servers.contains_key(&id)
            && !self.on_server(id, |machine, now, out| machine.handle_request(now, Repeat::Ack, out))
        {
            return;
        }
        let facts = Facts::of(wire);
        let Some((mut session, number)) = self.take_dialog(&facts) else {
            return;
        };
        let policy = &self.shared.application.profile().session;
        if let Some(slot) = session.dialog_mut(number) {
            let verdict = slot.dialog.receive(self.now, &facts, policy, 0, &mut Vec::new());
            if let Verdict::Acknowledged { first: true, .. } = verdict {
                let request = Request::new(*wire, TransactionId(id), Some(DialogNumber(number)));
                self.handle_about(&mut session, About::Request(request), |application, session| {
                    application.on_request(session, &request)
                });
            }
            self.bye_due(&mut session, number);
        }
        self.put(session);
    }

    /// CANCEL (RFC 3261 s9.2): 200 for itself, 487 for an INVITE that is not answered yet.
    fn cancel(&mut self, source: ProxyId, wire: &Message<'_>) {
        let (id, _) = identify(wire, Method::Invite, self.shared);
        let Some(server) = self.partition.servers.get(&id) else {
            return self.refuse(source, wire, 481, "Call/Transaction Does Not Exist", &[]);
        };
        let (session, dialog) = (server.session, server.dialog);
        let session = session.and_then(|session| self.partition.sessions.remove(&session));
        let tag = session
            .as_ref()
            .zip(dialog)
            .and_then(|(session, number)| session.dialog(number).map(|slot| slot.dialog.id().local_tag.to_vec()));
        self.accept_cancel(source, wire, tag.as_deref());
        let Some(mut session) = session else { return };
        if let Some(number) =
            dialog.filter(|number| session.dialog(*number).is_some_and(|slot| slot.invite == Some(id)))
        {
            self.respond(&mut session, id, Reply::new(487));
            self.cancel_relays(&mut session, id);
            if session.dialog(number).is_some_and(|slot| slot.dialog.is_terminated()) {
                self.ended(&mut session, number, Ended::Cancelled);
            }
        }
        self.put(session);
    }

    /// Opens the transaction of a request that goes on to be processed.
    #[expect(clippy::too_many_arguments, reason = "the facts of one request")]
    fn open_server(
        &mut self,
        id: u64,
        keys: &Keys,
        source: ProxyId,
        session: &mut SessionCore,
        dialog: Option<u32>,
        message: &OwnedMessage,
        cseq: u32,
    ) {
        let wire = message.as_message();
        let reliable = flow_of(source, &wire).reliable;
        let machine = ServerTransaction::new(self.now, Timers::default(), reliable, wire.method() == Method::Invite);
        session.open += 1;
        self.partition.in_progress += 1;
        let server = ServerTx {
            machine,
            session: Some(session.id),
            dialog,
            request: Some(Box::new(message.clone())),
            cseq,
            proxy: source,
            key: keys.transaction,
            merged: keys.merged,
            relayed: false,
            armed: None,
            stored: false,
            acknowledged: false,
        };
        self.partition.servers.insert(id, Box::new(server));
        self.partition.dirty.push(Key { kind: Kind::Server, id });
        self.arm_server(id);
    }

    /// Passes a request to the application.
    fn deliver(&mut self, session: &mut SessionCore, id: u64, dialog: Option<u32>, wire: &Message<'_>) {
        let request = Request::new(*wire, TransactionId(id), dialog.map(DialogNumber));
        self.handle_about(session, About::Request(request), |application, session| {
            application.on_request(session, &request)
        });
    }

    /// Drives a server transaction and performs what comes of it; `true` if the message is to be delivered.
    pub fn on_server(
        &mut self,
        id: u64,
        drive: impl FnOnce(&mut ServerTransaction, Instant, &mut Vec<Effect>),
    ) -> bool {
        let Some(server) = self.partition.servers.get_mut(&id) else {
            return false;
        };
        let mut effects = std::mem::take(&mut self.open.scratch);
        drive(&mut server.machine, self.now, &mut effects);
        let mut deliver = false;
        let mut trying = false;
        let mut over = false;
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(bytes) => {
                    let proxy = Some(server.proxy);
                    let (partition, epoch) = (self.partition.id, self.partition.epoch);
                    self.open.outputs.push(Output {
                        proxy,
                        partition,
                        epoch,
                        bytes,
                    });
                }
                Effect::Deliver => deliver = true,
                Effect::TryingDue => trying = true,
                Effect::Terminated => over = true,
                // No ACK for a 300-699: nothing is left to be done (s17.2.1).
                Effect::TimedOut | Effect::Failed => {}
            }
        }
        self.open.scratch = effects;
        if trying {
            self.trying(id);
        }
        if over {
            self.close_server(id);
        } else {
            self.arm_server(id);
        }
        deliver
    }

    pub fn close_server(&mut self, id: u64) {
        let Some(mut server) = self.partition.servers.remove(&id) else {
            return;
        };
        let open = usize::from(server.request.is_some());
        self.partition.in_progress = self.partition.in_progress.saturating_sub(open);
        let key = Key { kind: Kind::Server, id };
        self.queue.arm(
            Due {
                partition: self.partition.id,
                key,
            },
            &mut server.armed,
            None,
        );
        if server.stored {
            self.partition.ripen(self.now, key);
        }
    }

    pub fn arm_server(&mut self, id: u64) {
        if let Some(server) = self.partition.servers.get_mut(&id) {
            let due = Due {
                partition: self.partition.id,
                key: Key { kind: Kind::Server, id },
            };
            let at = server.machine.poll_timeout();
            self.queue.arm(due, &mut server.armed, at);
        }
    }

    /// The session and the dialog that a request within a dialog names.
    pub fn take_dialog(&mut self, facts: &Facts<'_>) -> Option<(Box<SessionCore>, u32)> {
        let id = super::entropy::number_in_tag(facts.to_tag)?;
        let session = self.partition.sessions.get(&id)?;
        let slot = session.dialogs.iter().find(|slot| {
            let named = slot.dialog.id();
            named.local_tag == facts.to_tag && named.remote_tag == facts.from_tag && named.call_id == facts.call_id
        })?;
        let number = slot.number;
        self.partition.sessions.remove(&id).map(|session| (session, number))
    }

    /// Gives a session back after work: kept, armed and written, or gone.
    pub fn put(&mut self, mut session: Box<SessionCore>) {
        let key = Key {
            kind: Kind::Session,
            id: session.id,
        };
        let due = Due {
            partition: self.partition.id,
            key,
        };
        if session.is_over() && session.open == 0 {
            self.queue.arm(due, &mut session.armed, None);
            if session.stored {
                self.partition.deletes.push(key);
            }
            return;
        }
        debug_assert!(session.dialogs.len() <= MAX_DIALOGS);
        // Only transactions are left: they have records of their own.
        if session.is_over() && session.timers.is_empty() && session.attributes.is_empty() && session.stored {
            session.stored = false;
            self.partition.deletes.push(key);
        }
        let at = session.poll_timeout();
        self.queue.arm(due, &mut session.armed, at);
        if std::mem::take(&mut session.dirty) {
            self.partition.dirty.push(key);
        }
        self.partition.sessions.insert(session.id, session);
    }
}

/// The transaction's number in its partition (RFC 3261 s17.2.3: branch, sent-by and method), and the proxies' keys of it.
pub(super) fn identify(wire: &Message<'_>, method: Method<'_>, shared: &Shared) -> (u64, Keys) {
    let branch = wire.via().and_then(|via| via.branch()).unwrap_or_default();
    let keys = match Keys::of_branch(branch) {
        Some((keys, _)) => keys,
        None => Keys {
            transaction: shared.keyring.hash(branch),
            merged: 0,
        },
    };
    let method = match method {
        Method::Ack => Method::Invite,
        method => method,
    };
    // FNV-1a of the method: an INVITE and its CANCEL share the branch.
    let salt = method.as_bytes().iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    });
    (keys.transaction ^ salt, keys)
}

/// The way back of a request: the proxy that it came through, and the outer leg's transport, which the proxy's Via names.
pub(super) fn flow_of(proxy: ProxyId, wire: &Message<'_>) -> Flow {
    let reliable = wire
        .via()
        .is_some_and(|via| !via.transport.eq_ignore_ascii_case(b"UDP"));
    Flow {
        proxy,
        token: None,
        reliable,
    }
}

/// The same within a dialog: the flow token, unless the route set has it.
fn flow_in_dialog(proxy: ProxyId, wire: &Message<'_>, routes: &[u8]) -> Flow {
    let token = wire
        .via()
        .and_then(|via| via.param(b"fl"))
        .filter(|token| !token.is_empty() && !routes.windows(token.len()).any(|part| part == *token));
    Flow {
        token: token.map(Into::into),
        ..flow_of(proxy, wire)
    }
}

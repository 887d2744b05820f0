//! Responses of ours, and what handlers ask for.

use std::borrow::Cow;

use bytes::Bytes;
use sip::dialog::{Answer, DialogEffect};
use sip::{HeaderName, Message, Method, OwnedMessage, ResponseBuilder};
use ucf::ProxyId;

use super::actor::{Actor, Field};
use super::entropy;
use super::turn::{Announcement, Output};
use crate::application::{
    About, Application, CallNumber, Command, DialogNumber, DialogSlot, Ended, Outgoing, Reply, Session, SessionCore,
    TransactionId,
};
use crate::records::{Key, Kind};

impl Actor<'_> {
    /// Runs a handler and does what it asked for.
    pub fn handle(&mut self, session: &mut SessionCore, call: impl FnOnce(&dyn Application, &mut Session<'_>)) {
        self.handle_about(session, About::Nothing, call);
    }

    /// Runs the handler of a message and does what it asked for.
    pub fn handle_about(
        &mut self,
        session: &mut SessionCore,
        about: About<'_>,
        call: impl FnOnce(&dyn Application, &mut Session<'_>),
    ) {
        let mut commands = Vec::new();
        let mut view = Session {
            core: session,
            commands: &mut commands,
            now: self.now,
            about,
            entropy: self.entropy,
        };
        call(self.shared.application.as_ref(), &mut view);
        for command in commands {
            self.perform(session, command);
        }
    }

    fn perform(&mut self, session: &mut SessionCore, command: Command) {
        match command {
            Command::Respond {
                transaction: TransactionId(id),
                reply,
            } => {
                let dialog = self
                    .partition
                    .servers
                    .get(&id)
                    .filter(|s| s.session == Some(session.id))
                    .and_then(|s| s.dialog);
                self.respond(session, id, reply);
                if let Some(number) = dialog {
                    self.end_if_terminated(session, number, Ended::Local);
                }
            }
            Command::Send {
                transaction: TransactionId(id),
                dialog: DialogNumber(number),
                request,
            } => {
                self.send(session, number, id, &request, false);
            }
            Command::HangUp {
                dialog: DialogNumber(number),
            } => self.hang_up(session, number, Ended::Local),
            Command::Call {
                number: CallNumber(number),
                call,
            } => self.call(session, number, &call),
            Command::Ask { number } => self.ask(session, number),
            Command::Cancel {
                call: CallNumber(number),
            } => self.cancel_call(session, number),
            Command::Acknowledge {
                dialog: DialogNumber(number),
                answer,
            } => {
                let late = session.dialog(number).and_then(|slot| slot.dialog.late_offer());
                if let Some(cseq) = late {
                    self.send_ack(session, number, cseq, answer.as_ref());
                }
            }
        }
    }

    /// Ends a dialog from our side.
    pub fn hang_up(&mut self, session: &mut SessionCore, number: u32, why: Ended) {
        let Some(slot) = session.dialog(number) else { return };
        match slot
            .invite
            .filter(|_| slot.dialog.state() == sip::dialog::DialogState::Early)
        {
            Some(invite) => self.respond(session, invite, Reply::new(480)),
            None if !slot.ended => {
                let id = self.entropy.number();
                self.send(session, number, id, &Outgoing::new("BYE"), true);
            }
            None => {}
        }
        self.ended(session, number, why);
    }

    /// The application hears once that a dialog has ended. One that still waits for the answer to our BYE stays until then.
    pub fn ended(&mut self, session: &mut SessionCore, number: u32, why: Ended) {
        let Some(slot) = session.dialog_mut(number) else { return };
        let known = std::mem::replace(&mut slot.ended, true);
        session.dirty = true;
        if !known {
            self.counters.ended += 1;
            self.handle(session, |application, session| {
                application.on_ended(session, DialogNumber(number), why)
            });
        }
        session.dialogs.retain(|slot| !slot.dialog.is_terminated());
        self.end_if_over(session);
    }

    /// No dialog is left and none to come: the session goes.
    pub fn end_if_over(&mut self, session: &mut SessionCore) {
        if session.is_over() {
            session.timers.clear();
            session.attributes.clear();
            self.refuse_unanswered(session);
        }
    }

    pub fn end_if_terminated(&mut self, session: &mut SessionCore, number: u32, why: Ended) {
        if session.dialog(number).is_some_and(|slot| slot.dialog.is_terminated()) {
            self.ended(session, number, why);
        }
    }

    /// The session is over: what its application left unanswered gets 500.
    fn refuse_unanswered(&mut self, session: &mut SessionCore) {
        if session.open == 0 {
            return;
        }
        let servers = self.partition.servers.iter();
        let unanswered: Vec<u64> = servers
            .filter(|(_, server)| server.session == Some(session.id) && server.request.is_some())
            .map(|(id, _)| *id)
            .collect();
        for id in unanswered {
            self.respond(session, id, Reply::new(500));
        }
    }

    /// Answers the request of a server transaction.
    pub fn respond(&mut self, session: &mut SessionCore, id: u64, reply: Reply) {
        let Some(server) = self
            .partition
            .servers
            .get_mut(&id)
            .filter(|server| server.session == Some(session.id))
        else {
            return;
        };
        let Some(message) = server.request.take() else { return };
        let (dialog, cseq) = (server.dialog, server.cseq);
        let slot = dialog.and_then(|number| session.dialog_mut(number));
        let mut effects = Vec::new();
        let status = reply.status;
        match slot {
            Some(slot) => {
                let rseq = self.rseq(slot, &message, &reply);
                let bytes = self.write(&message, &reply, Some(slot), rseq);
                let answer = Answer {
                    method: message.as_message().method(),
                    cseq,
                    status,
                    rseq,
                    sdp: reply.body.is_some(),
                };
                slot.dialog.respond(self.now, answer, bytes, &mut effects);
                session.dirty = true;
            }
            None => {
                let response = self.write(&message, &reply, None, None);
                effects.push(DialogEffect::Respond {
                    invite: false,
                    cseq,
                    status,
                    response,
                });
            }
        }
        self.dialog_effects(session, dialog.unwrap_or_default(), Some((id, cseq)), effects);
        // A final response may wait behind a PRACK; until it leaves, the request is needed.
        if let Some(server) = self.partition.servers.get_mut(&id)
            && !server.machine.is_answered()
        {
            server.request = Some(message);
        }
    }

    /// Answers a request that the dialog did not take: it changes nothing there.
    pub fn reject(&mut self, session: &mut SessionCore, number: u32, id: u64, reply: &Reply) {
        let request = self
            .partition
            .servers
            .get(&id)
            .and_then(|server| server.request.clone());
        let Some(message) = request else { return };
        let response = self.write(&message, reply, session.dialog(number), None);
        self.give(session, number, id, reply.status, response);
    }

    /// The RSeq of a provisional response that the application wants acknowledged, if the caller knows how.
    fn rseq(&mut self, slot: &mut DialogSlot, message: &OwnedMessage, reply: &Reply) -> Option<u32> {
        let wire = message.as_message();
        // RFC 3262 s3: reliably where the caller demands it, and only where it knows how.
        let demanded = wire.requires(b"100rel");
        let reliably = (reply.reliably && wire.supports(b"100rel")) || demanded;
        if reliably && (101..200).contains(&reply.status) && wire.method() == Method::Invite {
            slot.dialog.next_rseq(self.entropy.number())
        } else {
            None
        }
    }

    fn write(&self, message: &OwnedMessage, reply: &Reply, slot: Option<&DialogSlot>, rseq: Option<u32>) -> Bytes {
        let wire = message.as_message();
        let method = wire.method();
        let status = reply.status;
        let tag = match slot {
            Some(slot) => Cow::Borrowed(slot.dialog.id().local_tag),
            None => Cow::Owned(self.stateless_tag(&wire)),
        };
        let phrase = reply.reason.as_deref().unwrap_or(reason(status));
        let body = reply.body.as_ref().map_or(0, |(_, body)| body.len());
        let mut out = Vec::with_capacity(message.bytes().len() + 256 + body);
        let mut builder = ResponseBuilder::new(&mut out, &wire, status, phrase, (status > 100).then_some(tag.as_ref()));
        if let Some(slot) = slot {
            if (101..300).contains(&status) && matches!(method, Method::Invite | Method::Update) {
                builder = builder.header(HeaderName::Contact, slot.dialog.text().contact);
            }
            if (200..300).contains(&status)
                && matches!(method, Method::Invite | Method::Update)
                && let Some(agreed) = slot.dialog.agreed(method)
            {
                let value = format!("{};refresher={}", agreed.seconds, agreed.refresher.name());
                builder = builder.header(HeaderName::SessionExpires, value.as_bytes());
                if agreed.require {
                    builder = builder.header(HeaderName::Require, b"timer");
                }
            }
        }
        if let Some(rseq) = rseq {
            builder = builder
                .header(HeaderName::Require, b"100rel")
                .number(HeaderName::Rseq, rseq);
        }
        if (200..300).contains(&status) && matches!(method, Method::Invite | Method::Options) || status == 405 {
            builder = builder.header(HeaderName::Allow, self.shared.allow.as_bytes());
            builder = builder.header(HeaderName::Supported, self.shared.supported.as_bytes());
        }
        for (name, value) in &reply.headers {
            builder = builder.other(name, value);
        }
        match &reply.body {
            Some((content_type, body)) => builder.body(content_type.as_bytes(), body),
            None => builder.finish(),
        }
        // A transaction keeps it for 32 s: without the room that the estimate has left.
        Bytes::copy_from_slice(&out)
    }

    /// Performs what the dialog layer asks for. `current` is the transaction under work and its CSeq.
    pub fn dialog_effects(
        &mut self,
        session: &mut SessionCore,
        number: u32,
        current: Option<(u64, u32)>,
        effects: Vec<DialogEffect>,
    ) {
        for effect in effects {
            match effect {
                DialogEffect::Respond {
                    invite,
                    cseq,
                    status,
                    response,
                } => {
                    let waiting = session.dialog(number).filter(|_| invite).and_then(|slot| slot.invite);
                    let id = current
                        .filter(|(_, current)| *current == cseq)
                        .map(|(id, _)| id)
                        .or(waiting);
                    if let Some(id) = id {
                        self.give(session, number, id, status, response);
                    }
                }
                DialogEffect::Send(bytes) => {
                    if let Some(slot) = session.dialog(number) {
                        let (partition, epoch) = (self.partition.id, self.partition.epoch);
                        self.open.outputs.push(Output {
                            proxy: Some(slot.flow.proxy),
                            partition,
                            epoch,
                            bytes,
                        });
                    }
                }
                DialogEffect::AckMissing { .. } => self.hang_up(session, number, Ended::Unreachable),
                DialogEffect::PrackMissing { .. } => {
                    if let Some(invite) = session.dialog(number).and_then(|slot| slot.invite) {
                        self.respond(session, invite, Reply::new(504));
                    }
                    self.end_if_terminated(session, number, Ended::Unreachable);
                }
                DialogEffect::RefreshDue => self.refresh(session, number),
                DialogEffect::SessionExpired => self.hang_up(session, number, Ended::Expired),
            }
        }
    }

    /// Gives a response to its server transaction.
    fn give(&mut self, session: &mut SessionCore, number: u32, id: u64, status: u16, response: Bytes) {
        self.on_server(id, |machine, now, out| machine.respond(now, status, response, out));
        self.partition.dirty.push(Key { kind: Kind::Server, id });
        if status < 200 {
            return;
        }
        let Some(server) = self.partition.servers.get_mut(&id) else {
            return;
        };
        server.request = None;
        session.open = session.open.saturating_sub(1);
        self.partition.in_progress = self.partition.in_progress.saturating_sub(1);
        let invite = matches!(server.machine, sip::transaction::ServerTransaction::Invite(_));
        let key = server.key;
        if let Some(slot) = session.dialog_mut(number) {
            slot.invite.take_if(|invite| *invite == id);
        }
        if invite {
            let partition = self.partition.id;
            self.open.announcements.push(Announcement {
                partition,
                key,
                merged: 0,
                ended: true,
            });
        }
    }

    /// 100 for an INVITE whose application is silent (RFC 3261 s17.2.1).
    pub fn trying(&mut self, id: u64) {
        let Some(server) = self.partition.servers.get(&id) else {
            return;
        };
        let Some(message) = &server.request else { return };
        let bytes = self.write(message, &Reply::new(100), None, None);
        self.on_server(id, |machine, now, out| machine.respond(now, 100, bytes, out));
        self.partition.dirty.push(Key { kind: Kind::Server, id });
    }

    /// Refuses without a transaction (RFC 3261 s8.2.7): a repeat gets the same answer again.
    pub fn refuse(&mut self, source: ProxyId, wire: &Message<'_>, status: u16, phrase: &str, fields: &[Field<'_>]) {
        if wire.method() == Method::Ack {
            return;
        }
        self.counters.refused += 1;
        let tag = self.stateless_tag(wire);
        let mut out = Vec::with_capacity(wire.as_bytes().len() + 128);
        let mut builder = ResponseBuilder::new(&mut out, wire, status, phrase, Some(&tag));
        for (name, value) in fields {
            builder = builder.header(*name, value.as_bytes());
        }
        builder.finish();
        self.output(source, out.into());
    }

    /// 422 (RFC 4028 s6).
    pub fn refuse_interval(&mut self, source: ProxyId, wire: &Message<'_>, min_se: u32) {
        let seconds = min_se.to_string();
        self.refuse(source, wire, 422, reason(422), &[(HeaderName::MinSe, &seconds)]);
    }

    /// 200 for a CANCEL, with the tag that the INVITE's responses have (RFC 3261 s9.2).
    pub fn accept_cancel(&mut self, source: ProxyId, wire: &Message<'_>, tag: Option<&[u8]>) {
        let own = self.stateless_tag(wire);
        let mut out = Vec::with_capacity(wire.as_bytes().len() + 64);
        ResponseBuilder::new(&mut out, wire, 200, "OK", Some(tag.unwrap_or(&own))).finish();
        self.output(source, out.into());
    }

    fn output(&mut self, proxy: ProxyId, bytes: Bytes) {
        let (partition, epoch) = (self.partition.id, self.partition.epoch);
        self.open.outputs.push(Output {
            proxy: Some(proxy),
            partition,
            epoch,
            bytes,
        });
    }

    /// A tag that depends on the request alone (RFC 3261 s8.2.7).
    fn stateless_tag(&self, wire: &Message<'_>) -> Vec<u8> {
        let call_id = wire.call_id().unwrap_or_default();
        let mut tag = self.shared.keyring.token(self.partition.id).as_bytes().to_vec();
        entropy::append(&mut tag, self.shared.keyring.hash(call_id));
        tag
    }
}

/// The phrases of the statuses that are given here (RFC 3261 s21 and extensions).
pub(super) fn reason(status: u16) -> &'static str {
    match status {
        100 => "Trying",
        180 => "Ringing",
        181 => "Call Is Being Forwarded",
        182 => "Queued",
        183 => "Session Progress",
        200 => "OK",
        202 => "Accepted",
        204 => "No Notification",
        300 => "Multiple Choices",
        301 => "Moved Permanently",
        302 => "Moved Temporarily",
        400 => "Bad Request",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        406 => "Not Acceptable",
        408 => "Request Timeout",
        415 => "Unsupported Media Type",
        420 => "Bad Extension",
        422 => "Session Interval Too Small",
        480 => "Temporarily Unavailable",
        481 => "Call/Transaction Does Not Exist",
        486 => "Busy Here",
        487 => "Request Terminated",
        488 => "Not Acceptable Here",
        491 => "Request Pending",
        500 => "Server Internal Error",
        501 => "Not Implemented",
        503 => "Service Unavailable",
        504 => "Server Time-out",
        603 => "Decline",
        _ => "Unknown",
    }
}

//! Calls out: an INVITE outside of dialogs, its forks, and the end of it (RFC 3261 s13.2, s9.1).

use std::borrow::Cow;

use bytes::Bytes;
use sip::dialog::{Dialog, DialogText, Facts, OutgoingInvite, Reaction, SessionTimer, UacEvent};
use sip::transaction::Timers;
use sip::{Edit, HeaderName, Limits, Method, NameAddr, OwnedMessage, RequestBuilder, Uri};
use ucf::ProxyId;

use super::actor::Actor;
use super::client::{Purpose, is_answer};
use super::partition::{Cancel, NO_DIALOG};
use crate::application::{
    About, Call, CallNumber, CallSlot, DialogNumber, DialogSlot, Flow, Outgoing, Response, SessionCore, TransactionId,
};
use crate::records::MAX_DIALOGS;

/// Any proxy: the session was not begun by a message of one.
const ANY: ProxyId = ProxyId {
    incarnation: 0,
    worker: 0,
};

impl Actor<'_> {
    /// Calls out.
    pub fn call(&mut self, session: &mut SessionCore, number: u32, call: &Call) {
        let id = self.entropy.number();
        let flow = Flow {
            proxy: session.dialogs.first().map_or(ANY, |slot| slot.flow.proxy),
            token: None,
            reliable: is_stream(&call.target),
        };
        let Some((invite, bytes)) = self.write_invite(session.id, number, id, call, flow.reliable) else {
            return self.call_failed(session, number, id, call.invite.relays);
        };
        let purpose = Purpose {
            dialog: NO_DIALOG,
            call: Some(number),
            relays: call.invite.relays.map(|TransactionId(id)| id),
            method: "INVITE",
            cseq: invite.cseq(),
            flow: flow.clone(),
            internal: false,
        };
        session.calls.push(CallSlot {
            number,
            invite,
            transaction: id,
            flow,
        });
        self.start_client(session, id, bytes, purpose);
    }

    /// It cannot be written: as if its transport had failed.
    fn call_failed(&mut self, session: &mut SessionCore, number: u32, id: u64, relays: Option<TransactionId>) {
        let mut response = Response::new(None, 503, TransactionId(id));
        response.call = Some(CallNumber(number));
        response.relays = relays;
        self.handle_about(session, About::Response(response), |application, session| {
            application.on_response(session, &response)
        });
    }

    /// The INVITE and what is to be known of it; `None` if the addresses are none, or beyond any measure.
    fn write_invite(
        &mut self,
        session: u64,
        number: u32,
        id: u64,
        call: &Call,
        stream: bool,
    ) -> Option<(OutgoingInvite, Bytes)> {
        let partition = self.partition.id;
        // The session's number leads back to it; the call's tells it from the tags of the session's other dialogs.
        let mut tag = self.shared.tag(partition, session);
        tag.extend_from_slice(format!("-{number}").as_bytes());
        let local = [&untagged(&call.from)?, &b";tag="[..], &tag].concat();
        let remote = untagged(&call.to)?;
        let call_id = format!("{:016x}{:016x}", self.entropy.number(), self.entropy.number());
        let contact = self.shared.contact(partition, stream);
        Uri::parse(&call.target)?;
        let text = DialogText {
            call_id: call_id.as_bytes(),
            local: &local,
            local_tag: &tag,
            remote: &remote,
            contact: &contact,
            target: &call.target,
            ..DialogText::default()
        };
        let sdp = call.invite.body.is_some();
        let invite = OutgoingInvite::new(&text, 1, sdp, Timers::default())?;
        let mut out = Vec::with_capacity(1024 + call.invite.body.as_ref().map_or(0, |(_, body)| body.len()));
        let mut builder = RequestBuilder::new(&mut out, Method::Invite, text.target)
            .header(HeaderName::Via, &self.shared.via(partition, id, stream))
            .number(HeaderName::MaxForwards, u32::from(call.max_forwards))
            .header(HeaderName::From, text.local)
            .header(HeaderName::To, text.remote)
            .header(HeaderName::CallId, text.call_id)
            .cseq(1, Method::Invite)
            .header(HeaderName::Contact, text.contact)
            .header(HeaderName::Allow, self.shared.allow.as_bytes());
        // Without an offer none is invited by a reliable provisional response: its PRACK would have to answer.
        let extensions = self.shared.application.profile().extensions.iter();
        for extension in extensions.filter(|name| sdp || **name != "100rel") {
            builder = builder.header(HeaderName::Supported, extension.as_bytes());
        }
        let timer = SessionTimer::off().request_lines(&self.shared.application.profile().session);
        for (name, value) in timer.lines().filter_map(|line| line.split_once(": ")) {
            if name != HeaderName::Supported.as_str() {
                builder = builder.other(name, value.as_bytes());
            }
        }
        for (name, value) in &call.invite.headers {
            builder = builder.other(name, value);
        }
        match &call.invite.body {
            Some((content_type, body)) => builder.body(content_type.as_bytes(), body),
            None => builder.finish(),
        }
        Some((invite, out.into()))
    }

    /// A response to the INVITE of a call out.
    pub fn call_heard(
        &mut self,
        session: &mut SessionCore,
        id: u64,
        number: u32,
        facts: &Facts<'_>,
        message: Option<&OwnedMessage>,
    ) {
        let of_this = |slot: &DialogSlot| {
            let named = slot.dialog.id();
            named.remote_tag == facts.to_tag && named.local_tag == facts.from_tag && named.call_id == facts.call_id
        };
        let known = session.dialogs.iter().position(of_this);
        let Some(at) = session.calls.iter().position(|call| call.number == number) else {
            return self.late_answer(session, id, known, facts);
        };
        session.dirty = true;
        let early = known.map(|at| &mut session.dialogs[at].dialog);
        let way = (!self.comes_back_here(facts)).then(|| way_to(session.calls[at].invite.text().target));
        let mut facts = Cow::Borrowed(facts);
        if let Some(way) = &way {
            facts.to_mut().record_route = way.iter().map(Vec::as_slice).collect();
        }
        let facts = facts.as_ref();
        let event = session.calls[at].invite.handle_response(self.now, facts, early);
        let known = known.map(|at| session.dialogs[at].number);
        match event {
            // A 2xx that makes no dialog: its transaction is over, so the call is.
            UacEvent::Drop if facts.status >= 200 => self.refused(session, id, number, 500, None),
            UacEvent::Drop => return,
            UacEvent::Trying => {}
            UacEvent::Early { new, prack } => {
                let dialog = known.or_else(|| new.and_then(|new| adopt(session, number, at, *new)));
                let Some(dialog) = dialog else { return };
                if let Some(rseq) = prack {
                    self.prack(session, dialog, rseq, facts.cseq);
                }
                self.tell(session, id, (number, Some(dialog)), facts.status, message);
            }
            UacEvent::Answered { new } => {
                session
                    .dialogs
                    .retain(|slot| slot.call != Some(number) || Some(slot.number) == known);
                let dialog = known.or_else(|| new.and_then(|new| adopt(session, number, at, *new)));
                session.calls.remove(at);
                self.answered(session, id, (number, dialog), facts, message);
            }
            UacEvent::Refused => self.refused(session, id, number, facts.status, message),
        }
        self.cancel_due(session, id);
    }

    /// Whether the dialog's requests will go by our proxy, on the flow that its Record-Route names. A callee that leaves that out, or puts
    /// something else there, would aim what we send by its Contact at whomever it likes (invariant 5). Proxies know a Route as their own by the
    /// address that we have in common, or by our token, where each has an address of its own.
    fn comes_back_here(&self, facts: &Facts<'_>) -> bool {
        // The last one stands nearest to us: the route set of a caller is the reverse (RFC 3261 s12.1.2).
        let nearest = facts.record_route.last().and_then(|route| NameAddr::parse(route));
        let ours = format!("sip:{}", self.shared.advertised);
        let (Some(nearest), Some(ours)) = (nearest.and_then(|route| route.uri()), Uri::parse(ours.as_bytes())) else {
            return false;
        };
        let port = |uri: &Uri<'_>| uri.port.unwrap_or(5060);
        let has = |name: &[u8]| nearest.params.get(name);
        let is_address = nearest.host == ours.host && port(&nearest) == port(&ours);
        let is_token = || has(b"a").is_some_and(|token| self.shared.keyring.verify(token).partition().is_some());
        (is_address || is_token()) && has(b"lr").is_some() && has(b"fl").is_some_and(|flow| !flow.is_empty())
    }

    /// The call is over with its early dialogs.
    fn refused(
        &mut self,
        session: &mut SessionCore,
        id: u64,
        number: u32,
        status: u16,
        message: Option<&OwnedMessage>,
    ) {
        session.calls.retain(|call| call.number != number);
        session.dialogs.retain(|slot| slot.call != Some(number));
        self.tell(session, id, (number, None), status, message);
        self.end_if_over(session);
    }

    /// The first 2xx. If the call has been given up meanwhile, the dialog ends as it begins.
    fn answered(
        &mut self,
        session: &mut SessionCore,
        id: u64,
        (number, dialog): (u32, Option<u32>),
        facts: &Facts<'_>,
        message: Option<&OwnedMessage>,
    ) {
        let cancelled = self
            .partition
            .clients
            .get(&id)
            .is_some_and(|client| client.cancel != Cancel::No);
        let wanted = dialog.filter(|dialog| !cancelled && session.dialog(*dialog).is_some_and(|slot| !slot.ended));
        if let Some(dialog) = wanted {
            self.acknowledge(session, dialog, facts.cseq);
            return self.tell(session, id, (number, Some(dialog)), facts.status, message);
        }
        if let Some(dialog) = dialog {
            self.acknowledge_and_end(session, dialog, facts.cseq);
        }
        self.tell(session, id, (number, None), 487, None);
        self.end_if_over(session);
    }

    /// A 2xx when the call has its final response: a repeat, or a fork that nobody waits for (RFC 3261 s13.2.2.4).
    fn late_answer(&mut self, session: &mut SessionCore, id: u64, known: Option<usize>, facts: &Facts<'_>) {
        if !is_answer(facts) {
            return;
        }
        if let Some(at) = known {
            let number = session.dialogs[at].number;
            let reaction = session.dialogs[at].dialog.handle_response(self.now, facts, 0);
            return match reaction {
                Reaction::Drop => self.acknowledge(session, number, facts.cseq),
                reaction => self.react(session, number, reaction, facts.cseq),
            };
        }
        let ours = super::entropy::number_in_tag(facts.from_tag) == Some(session.id);
        let Some(client) = self.partition.clients.get(&id) else {
            return;
        };
        let (flow, call) = (client.flow.clone(), client.call);
        if !ours || facts.cseq != client.cseq || session.dialogs.len() >= MAX_DIALOGS || !self.comes_back_here(facts) {
            return;
        }
        let contact = self.shared.contact(self.partition.id, flow.reliable);
        let Some(dialog) = OutgoingInvite::late_answer(self.now, facts, &contact, Timers::default()) else {
            return;
        };
        let number = session.number();
        let mut slot = DialogSlot::new(number, dialog, flow);
        slot.call = call;
        // The application has heard of the one answer that counts.
        slot.ended = true;
        session.dialogs.push(slot);
        self.acknowledge_and_end(session, number, facts.cseq);
    }

    fn acknowledge_and_end(&mut self, session: &mut SessionCore, number: u32, cseq: u32) {
        let Some(slot) = session.dialog_mut(number) else { return };
        slot.ended = true;
        session.dirty = true;
        self.acknowledge(session, number, cseq);
        self.bye(session, number);
    }

    fn bye(&mut self, session: &mut SessionCore, number: u32) {
        let id = self.entropy.number();
        self.send(session, number, id, &Outgoing::new("BYE"), true);
    }

    /// Tells the application of a response to a call out.
    fn tell(
        &mut self,
        session: &mut SessionCore,
        id: u64,
        (call, dialog): (u32, Option<u32>),
        status: u16,
        message: Option<&OwnedMessage>,
    ) {
        let Some(client) = self.partition.clients.get(&id) else {
            return;
        };
        let mut response = Response::new(message.map(OwnedMessage::as_message), status, TransactionId(id));
        response.call = Some(CallNumber(call));
        response.dialog = dialog.map(DialogNumber);
        response.relays = client.relays.map(TransactionId);
        self.handle_about(session, About::Response(response), |application, session| {
            application.on_response(session, &response)
        });
    }

    /// 422 to the INVITE of a call out: the same call goes on with the interval that the callee wants (RFC 4028 s7.3), once. `true`: it
    /// does, and nobody else need hear of it.
    pub fn call_again(&mut self, id: u64, invite: &Bytes, refusal: &Facts<'_>) -> bool {
        let Some(client) = self.partition.clients.get(&id) else {
            return false;
        };
        let (session, number, relays, cancel) = (client.session, client.call, client.relays, client.cancel);
        let (Some(number), Some(min_se), Cancel::No) = (number, refusal.min_se, cancel) else {
            return false;
        };
        let Some(mut session) = self.partition.sessions.remove(&session) else {
            return false;
        };
        let next = self.entropy.number();
        let mut again = false;
        if let Some(call) = session.calls.iter_mut().find(|call| call.number == number) {
            let via = self.shared.via(self.partition.id, next, call.flow.reliable);
            if let Some(bytes) = with_interval(invite, &via, call.invite.cseq() + 1, min_se) {
                call.invite.again();
                call.transaction = next;
                let purpose = Purpose {
                    dialog: NO_DIALOG,
                    call: Some(number),
                    relays,
                    method: "INVITE",
                    cseq: call.invite.cseq(),
                    flow: call.flow.clone(),
                    internal: false,
                };
                session.dialogs.retain(|slot| slot.call != Some(number));
                self.start_client(&mut session, next, bytes, purpose);
                again = true;
            }
        }
        if again && let Some(client) = self.partition.clients.get_mut(&id) {
            client.answered = true;
            session.open = session.open.saturating_sub(1);
            self.partition.in_progress = self.partition.in_progress.saturating_sub(1);
        }
        self.put(session);
        again
    }

    /// Gives a call out up.
    pub fn cancel_call(&mut self, session: &mut SessionCore, number: u32) {
        let call = session.calls.iter().find(|call| call.number == number);
        if let Some(id) = call.map(|call| call.transaction) {
            self.cancel_client(session, id);
        }
    }

    /// The peer has given up a request: so are the INVITEs of ours that pass it on.
    pub fn cancel_relays(&mut self, session: &mut SessionCore, request: u64) {
        let calls = session.calls.iter().map(|call| call.transaction);
        let invites = session.dialogs.iter().filter_map(|slot| slot.outgoing);
        let relays = |id: &u64| {
            let client = self.partition.clients.get(id);
            client.is_some_and(|client| client.relays == Some(request))
        };
        let passing: Vec<u64> = calls.chain(invites).filter(relays).collect();
        for id in passing {
            self.cancel_client(session, id);
        }
    }

    /// A BYE that has waited for an ACK leaves once that has come, or never will.
    pub fn bye_due(&mut self, session: &mut SessionCore, number: u32) {
        let due = |slot: &&mut DialogSlot| slot.bye_due && slot.dialog.awaits_ack().is_none();
        if let Some(slot) = session.dialog_mut(number).filter(due) {
            slot.bye_due = false;
            self.bye(session, number);
        }
    }
}

/// Takes a dialog of a call into the session; `None` if there are too many, an attack on our memory.
fn adopt(session: &mut SessionCore, call: u32, at: usize, dialog: Dialog) -> Option<u32> {
    if session.dialogs.len() >= MAX_DIALOGS {
        return None;
    }
    let number = session.number();
    let mut slot = DialogSlot::new(number, dialog, session.calls[at].flow.clone());
    slot.call = Some(call);
    session.dialogs.push(slot);
    Some(number)
}

/// The INVITE again: another branch and CSeq, and a session interval of at least `min_se`. `None` if it has had one before.
fn with_interval(invite: &Bytes, via: &[u8], cseq: u32, min_se: u32) -> Option<Bytes> {
    let owned = OwnedMessage::scan(invite.clone(), &Limits::default()).ok()?;
    let message = owned.as_message();
    if message.header(HeaderName::MinSe).is_some() {
        return None;
    }
    let mut edit = Edit::new();
    edit.replace(message.span_of(message.header(HeaderName::Via)?)?, via);
    let cseq = format!("{cseq} INVITE");
    edit.replace(message.span_of(message.header(HeaderName::Cseq)?)?, cseq.as_bytes());
    let seconds = message.session_expires().map_or(0, |asked| asked.seconds).max(min_se);
    let interval = message.header(HeaderName::SessionExpires)?;
    edit.replace(message.span_of(interval)?, seconds.to_string().as_bytes());
    edit.append(&message, HeaderName::MinSe, min_se.to_string().as_bytes());
    let mut out = Vec::with_capacity(invite.len() + 64);
    edit.apply_into(&message, &mut out);
    Some(out.into())
}

/// An address of From or To without its tag.
fn untagged(value: &[u8]) -> Option<Vec<u8>> {
    let address = NameAddr::parse(value)?;
    Uri::parse(address.uri_bytes)?;
    let mut out = Vec::with_capacity(value.len());
    if !address.display.is_empty() {
        out.extend_from_slice(address.display);
        out.push(b' ');
    }
    for part in [b"<", address.uri_bytes, b">"] {
        out.extend_from_slice(part);
    }
    for (name, value) in address.params.iter() {
        if name.eq_ignore_ascii_case(b"tag") {
            continue;
        }
        out.push(b';');
        out.extend_from_slice(name);
        if let Some(value) = value {
            out.push(b'=');
            out.extend_from_slice(value);
        }
    }
    Some(out)
}

/// Whether the URI asks for a stream.
fn is_stream(target: &[u8]) -> bool {
    let transport = Uri::parse(target).and_then(|uri| uri.params.get(b"transport"));
    transport.is_some_and(|transport| transport.eq_ignore_ascii_case(b"tcp"))
}

/// The route set of a dialog whose callee has not put our proxy into it: where the call went, and no further.
fn way_to(target: &[u8]) -> Option<Vec<u8>> {
    let uri = Uri::parse(target)?;
    let mut route = [b"<sip:", uri.host].concat();
    if let Some(port) = uri.port {
        route.extend_from_slice(format!(":{port}").as_bytes());
    }
    if let Some(transport) = uri.params.get(b"transport") {
        route.extend_from_slice(&[b";transport=", transport].concat());
    }
    route.extend_from_slice(b";lr>");
    Some(route)
}

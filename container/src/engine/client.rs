//! Requests of ours, and what the peer says to them.

use bytes::Bytes;
use sip::dialog::{DialogState, Facts, NewRequest, Reaction};
use sip::transaction::{ClientTransaction, Effect, Response as TxResponse, Timers, cancel_of};
use sip::{HeaderName, Instant, Method, OwnedMessage};
use ucf::token::BRANCH_COOKIE;

use super::actor::Actor;
use super::entropy;
use super::partition::{Cancel, ClientTx, NO_DIALOG};
use super::queue::Due;
use super::turn::Output;
use crate::application::{
    About, DialogNumber, DialogSlot, Ended, Flow, Outgoing, Response, SessionCore, TransactionId,
};
use crate::records::{Key, Kind};

/// A CANCEL shares the branch, and so the number in it, with its INVITE.
const CANCEL: u64 = 0x9e37_79b9_7f4a_7c15;

/// What a client transaction is started for.
pub(super) struct Purpose<'a> {
    pub dialog: u32,
    pub call: Option<u32>,
    pub relays: Option<u64>,
    pub method: &'a str,
    pub cseq: u32,
    pub flow: Flow,
    pub internal: bool,
}

impl Actor<'_> {
    /// Sends a request in a dialog; `internal` ones are no matter of the application.
    pub fn send(&mut self, session: &mut SessionCore, number: u32, id: u64, request: &Outgoing, internal: bool) {
        if request.method == "BYE" {
            // RFC 3261 s15: the called side sends no BYE before the ACK of its 2xx.
            if let Some(slot) = session
                .dialog_mut(number)
                .filter(|slot| slot.dialog.awaits_ack().is_some())
            {
                slot.bye_due = true;
                session.dirty = true;
                return;
            }
            self.abandon_invite(session, number);
        }
        // RFC 3261 s15.1.1: nothing follows our BYE.
        let may_send =
            |slot: &&mut DialogSlot| !matches!(slot.dialog.state(), DialogState::Ending | DialogState::Terminated);
        let Some(slot) = session.dialog_mut(number).filter(may_send) else {
            return;
        };
        let mut headers = Vec::new();
        if matches!(request.method.as_str(), "INVITE" | "UPDATE") {
            // RFC 4028 s7.4: what refreshes the session says so, or the timer would be off.
            let policy = &self.shared.application.profile().session;
            headers.extend_from_slice(slot.dialog.session().request_lines(policy).as_bytes());
        }
        for (name, value) in &request.headers {
            put_field(&mut headers, name, value);
        }
        let (content_type, body) = request
            .body
            .as_ref()
            .map_or(("", &b""[..]), |(kind, body)| (kind.as_str(), body));
        if !content_type.is_empty() {
            put_field(&mut headers, HeaderName::ContentType.as_str(), content_type.as_bytes());
        }
        let sdp = content_type.eq_ignore_ascii_case("application/sdp");
        let via = self.shared.via(self.partition.id, id, slot.flow.reliable);
        let new = NewRequest {
            method: Method::recognize(request.method.as_bytes()),
            via: &via,
            headers: &headers,
            body,
            sdp,
        };
        let bytes = on_flow(slot.dialog.request(&new), &slot.flow);
        if request.method == "INVITE" {
            slot.outgoing = Some(id);
        }
        let purpose = Purpose {
            dialog: number,
            call: None,
            relays: request.relays.map(|TransactionId(id)| id),
            method: &request.method,
            cseq: slot.dialog.local_cseq(),
            flow: slot.flow.clone(),
            internal,
        };
        self.start_client(session, id, bytes, purpose);
    }

    /// Sends a request by a client transaction of its own.
    pub fn start_client(&mut self, session: &mut SessionCore, id: u64, bytes: Bytes, purpose: Purpose<'_>) {
        session.dirty = true;
        session.open += 1;
        self.partition.in_progress += 1;
        let Purpose {
            dialog,
            call,
            relays,
            method,
            cseq,
            flow,
            internal,
        } = purpose;
        let invite = method == "INVITE";
        let mut effects = Vec::new();
        let machine = ClientTransaction::start(self.now, Timers::default(), flow.reliable, invite, bytes, &mut effects);
        let client = ClientTx {
            machine,
            session: session.id,
            dialog,
            call,
            relays,
            cancel: Cancel::No,
            method: method.into(),
            cseq,
            flow,
            internal,
            answered: false,
            armed: None,
            stored: false,
        };
        self.partition.clients.insert(id, Box::new(client));
        self.partition.dirty.push(Key { kind: Kind::Client, id });
        self.client_effects(id, effects);
    }

    /// Wants a CANCEL for an INVITE of ours.
    pub fn cancel_client(&mut self, session: &mut SessionCore, id: u64) {
        let client = self.partition.clients.get_mut(&id);
        if let Some(client) = client.filter(|client| client.cancel == Cancel::No) {
            client.cancel = Cancel::Wanted;
            self.partition.dirty.push(Key { kind: Kind::Client, id });
            self.cancel_due(session, id);
        }
    }

    /// Sends the CANCEL that is wanted, once a provisional response has come (RFC 3261 s9.1).
    pub fn cancel_due(&mut self, session: &mut SessionCore, id: u64) {
        let Some(client) = self.partition.clients.get_mut(&id) else {
            return;
        };
        let ClientTransaction::Invite(machine) = &mut client.machine else {
            return;
        };
        let Some(invite) = machine.request().filter(|_| machine.may_cancel()).cloned() else {
            return;
        };
        if client.cancel != Cancel::Wanted {
            return;
        }
        client.cancel = Cancel::Sent;
        machine.abandon(self.now);
        let purpose = Purpose {
            dialog: NO_DIALOG,
            call: None,
            relays: None,
            method: "CANCEL",
            cseq: client.cseq,
            flow: client.flow.clone(),
            internal: true,
        };
        self.arm_client(id);
        self.partition.dirty.push(Key { kind: Kind::Client, id });
        self.start_client(session, id ^ CANCEL, cancel_of(&invite), purpose);
    }

    /// The dialog ends: an INVITE of ours that is still unanswered waits no longer than for a lost answer, or it would wait for good.
    pub fn abandon_invite(&mut self, session: &SessionCore, number: u32) {
        let Some(id) = session.dialog(number).and_then(|slot| slot.outgoing) else {
            return;
        };
        let client = self.partition.clients.get_mut(&id);
        if let Some(ClientTransaction::Invite(machine)) = client.map(|client| &mut client.machine) {
            machine.abandon(self.now);
            self.arm_client(id);
            self.partition.dirty.push(Key { kind: Kind::Client, id });
        }
    }

    /// Half of the session interval has passed (RFC 4028 s10). UPDATE needs no session description.
    pub fn refresh(&mut self, session: &mut SessionCore, number: u32) {
        let id = self.entropy.number();
        self.send(session, number, id, &Outgoing::new("UPDATE"), true);
    }

    /// A response came.
    pub fn response(&mut self, message: &OwnedMessage) {
        let wire = message.as_message();
        let number = wire
            .via()
            .and_then(|via| via.branch())
            .and_then(entropy::number_in_branch);
        let cseq = wire.cseq();
        let is_cancel = cseq.is_some_and(|cseq| cseq.method == Method::Cancel);
        let id = number.map(|id| if is_cancel { id ^ CANCEL } else { id });
        // With another number in CSeq it would end the transaction and mean nothing to the dialog.
        let is_asked = |id: &u64| {
            let client = self.partition.clients.get(id);
            client.is_some_and(|client| cseq.is_some_and(|cseq| cseq.number == client.cseq))
        };
        let Some(id) = id.filter(is_asked) else {
            self.counters.unknown_responses += 1;
            return;
        };
        let (Some(status), Some(to)) = (wire.status(), wire.header(HeaderName::To)) else {
            return;
        };
        let mut effects = Vec::new();
        let mut invite = None;
        if let Some(client) = self.partition.clients.get_mut(&id) {
            // RFC 4028 s7.3: it is sent again with a longer interval.
            invite = client.machine.request().filter(|_| status == 422).cloned();
            client
                .machine
                .handle_response(self.now, TxResponse { status, to }, &mut effects);
        }
        self.partition.dirty.push(Key { kind: Kind::Client, id });
        if effects.contains(&Effect::Deliver) {
            let facts = Facts::of(&wire);
            let again = invite.is_some_and(|invite| self.call_again(id, &invite, &facts));
            if !again {
                self.heard(id, &facts, Some(message));
            }
        }
        self.client_effects(id, effects);
    }

    /// Time has passed for a client transaction, or it is resumed.
    pub fn on_client(&mut self, id: u64, drive: impl FnOnce(&mut ClientTransaction, Instant, &mut Vec<Effect>)) {
        let Some(client) = self.partition.clients.get_mut(&id) else {
            return;
        };
        let mut effects = Vec::new();
        drive(&mut client.machine, self.now, &mut effects);
        self.client_effects(id, effects);
    }

    fn client_effects(&mut self, id: u64, effects: Vec<Effect>) {
        let mut over = false;
        for effect in effects {
            match effect {
                Effect::Send(bytes) => {
                    let Some(client) = self.partition.clients.get(&id) else {
                        continue;
                    };
                    let (partition, epoch) = (self.partition.id, self.partition.epoch);
                    self.open.outputs.push(Output {
                        proxy: Some(client.flow.proxy),
                        partition,
                        epoch,
                        bytes,
                    });
                }
                // RFC 3261 s8.1.3.1.
                Effect::TimedOut => self.unheard(id, 408),
                Effect::Failed => self.unheard(id, 503),
                Effect::Terminated => over = true,
                Effect::Deliver | Effect::TryingDue => {}
            }
        }
        if over {
            self.close_client(id);
        } else {
            self.arm_client(id);
        }
    }

    fn arm_client(&mut self, id: u64) {
        if let Some(client) = self.partition.clients.get_mut(&id) {
            let due = Due {
                partition: self.partition.id,
                key: Key { kind: Kind::Client, id },
            };
            let at = client.machine.poll_timeout();
            self.queue.arm(due, &mut client.armed, at);
        }
    }

    fn close_client(&mut self, id: u64) {
        let Some(mut client) = self.partition.clients.remove(&id) else {
            return;
        };
        let open = usize::from(!client.answered);
        self.partition.in_progress = self.partition.in_progress.saturating_sub(open);
        let key = Key { kind: Kind::Client, id };
        self.queue.arm(
            Due {
                partition: self.partition.id,
                key,
            },
            &mut client.armed,
            None,
        );
        if client.stored {
            self.partition.ripen(self.now, key);
        }
    }

    /// Nothing came: as if this status had.
    fn unheard(&mut self, id: u64, status: u16) {
        let Some(client) = self.partition.clients.get(&id) else {
            return;
        };
        let (method, cseq) = (client.method.clone(), client.cseq);
        let facts = Facts {
            method: Method::recognize(method.as_bytes()),
            status,
            cseq,
            ..Facts::default()
        };
        self.heard(id, &facts, None);
    }

    /// A response for the dialog and the application.
    fn heard(&mut self, id: u64, facts: &Facts<'_>, message: Option<&OwnedMessage>) {
        let Some(client) = self.partition.clients.get_mut(&id) else {
            return;
        };
        let (session, number) = (client.session, client.dialog);
        let first = facts.status >= 200 && !std::mem::replace(&mut client.answered, facts.status >= 200);
        self.partition.in_progress = self.partition.in_progress.saturating_sub(usize::from(first));
        let call = client.call;
        let session = match self.partition.sessions.remove(&session) {
            Some(session) => Some(session),
            // The session is over, and one more fork has answered.
            None => call.map(|_| Box::new(SessionCore::new(session))),
        };
        let Some(mut session) = session else { return };
        if first {
            session.open = session.open.saturating_sub(1);
        }
        match call {
            Some(call) => self.call_heard(&mut session, id, call, facts, message),
            None => self.dialog_heard(&mut session, id, number, facts, message),
        }
        self.put(session);
    }

    /// A response within a dialog.
    fn dialog_heard(
        &mut self,
        session: &mut SessionCore,
        id: u64,
        number: u32,
        facts: &Facts<'_>,
        message: Option<&OwnedMessage>,
    ) {
        let entropy = self.entropy.number();
        let mut raised = false;
        let reaction = match session.dialog_mut(number) {
            Some(slot) => {
                slot.outgoing.take_if(|outgoing| *outgoing == id && facts.status >= 200);
                let min_se = slot.dialog.session().min_se();
                let reaction = slot.dialog.handle_response(self.now, facts, entropy);
                raised = slot.dialog.session().min_se() > min_se;
                reaction
            }
            None => Reaction::Drop,
        };
        session.dirty = true;
        let Some(client) = self.partition.clients.get(&id) else {
            return;
        };
        let (internal, relays) = (client.internal, client.relays.map(TransactionId));
        match reaction {
            // What is not a repeat is a 2xx whose ACK the owner before us has sent, without a body and so without a record.
            Reaction::Drop if is_answer(facts) => self.acknowledge(session, number, facts.cseq),
            Reaction::IntervalTooSmall if internal && raised => self.refresh(session, number),
            reaction => self.react(session, number, reaction, facts.cseq),
        }
        self.cancel_due(session, id);
        if !internal {
            let wire = message.map(OwnedMessage::as_message);
            let mut response = Response::new(wire, facts.status, TransactionId(id));
            response.dialog = Some(DialogNumber(number));
            response.relays = relays;
            self.handle_about(session, About::Response(response), |application, session| {
                application.on_response(session, &response)
            });
        }
    }

    pub fn react(&mut self, session: &mut SessionCore, number: u32, reaction: Reaction, cseq: u32) {
        match reaction {
            Reaction::Acknowledge => self.acknowledge(session, number, cseq),
            Reaction::Repeat(bytes) => self.send_bytes(session, number, bytes),
            Reaction::Prack { rseq } => self.prack(session, number, rseq, cseq),
            Reaction::Ended => {
                // RFC 3261 s12.2.1.2: after 408 and 481 a BYE is due, unless the response was to one.
                if session.dialog(number).is_some_and(|slot| !slot.dialog.is_terminated()) {
                    self.hang_up(session, number, Ended::Unreachable);
                } else {
                    self.ended(session, number, Ended::Local);
                }
            }
            // Glare and 422 are the application's to repeat; it sees the response.
            Reaction::Pass | Reaction::Drop | Reaction::Retry(_) | Reaction::IntervalTooSmall => {}
        }
    }

    /// PRACK for a reliable provisional response (RFC 3262 s4).
    pub fn prack(&mut self, session: &mut SessionCore, number: u32, rseq: u32, cseq: u32) {
        let rack = format!("{rseq} {cseq} INVITE");
        let prack = Outgoing::new("PRACK").header("RAck", rack.as_bytes());
        let id = self.entropy.number();
        self.send(session, number, id, &prack, true);
    }

    /// The ACK of a 2xx to our INVITE. That of a late offer waits for the application, unless the dialog ends anyway.
    pub fn acknowledge(&mut self, session: &mut SessionCore, number: u32, cseq: u32) {
        let waits = |slot: &DialogSlot| slot.dialog.late_offer() == Some(cseq) && !slot.ended;
        if !session.dialog(number).is_some_and(waits) {
            self.send_ack(session, number, cseq, None);
        }
    }

    /// The ACK of a 2xx to our INVITE, with the answer to the offer that it may have brought.
    pub fn send_ack(&mut self, session: &mut SessionCore, number: u32, cseq: u32, answer: Option<&(String, Bytes)>) {
        let id = self.entropy.number();
        let Some(slot) = session.dialog_mut(number) else { return };
        let via = self.shared.via(self.partition.id, id, slot.flow.reliable);
        let mut ack = NewRequest::new(Method::Ack, &via);
        let mut headers = Vec::new();
        if let Some((content_type, body)) = answer {
            put_field(&mut headers, HeaderName::ContentType.as_str(), content_type.as_bytes());
            (ack.headers, ack.body) = (&headers, body);
        }
        let ack = slot.dialog.ack(self.now, cseq, &ack);
        let ack = on_flow(ack, &slot.flow);
        session.dirty = true;
        self.send_bytes(session, number, ack);
    }

    pub fn send_bytes(&mut self, session: &SessionCore, number: u32, bytes: Bytes) {
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
}

/// Whether it is a 2xx to an INVITE.
pub(super) fn is_answer(facts: &Facts<'_>) -> bool {
    facts.method == Method::Invite && (200..300).contains(&facts.status)
}

fn put_field(out: &mut Vec<u8>, name: &str, value: &[u8]) {
    for part in [name.as_bytes(), b": ", value, b"\r\n"] {
        out.extend_from_slice(part);
    }
}

/// Names the flow on which the peer was last heard, where the route set has an older one: in the first Route, which is our proxy's.
fn on_flow(request: Bytes, flow: &Flow) -> Bytes {
    const ROUTE: &[u8] = b"\r\nRoute: ";
    const PARAM: &[u8] = b";fl=";
    let Some(token) = &flow.token else { return request };
    let find = |from: usize, what: &[u8]| {
        request[from..]
            .windows(what.len())
            .position(|part| part == what)
            .map(|at| from + at + what.len())
    };
    let Some(route) = find(0, ROUTE) else { return request };
    let Some(start) = find(route, PARAM) else {
        return request;
    };
    let is_param = |byte: &u8| !matches!(byte, b';' | b'>' | b',' | b'\r');
    let end = start + request[start..].iter().take_while(|byte| is_param(byte)).count();
    // Only within the first Route value, before its end.
    if request[route..start]
        .iter()
        .any(|byte| matches!(byte, b'>' | b',' | b'\r'))
    {
        return request;
    }
    [&request[..start], token, &request[end..]].concat().into()
}

/// `z9hG4bK<token>-<number>`.
pub(super) fn branch(token: &[u8], number: u64) -> Vec<u8> {
    let mut branch = [BRANCH_COOKIE, token].concat();
    entropy::append(&mut branch, number);
    branch
}

#[cfg(test)]
mod tests {
    use super::*;
    use ucf::ProxyId;

    #[test]
    fn a_request_follows_the_flow_on_which_the_peer_was_last_heard() {
        let flow = Flow {
            proxy: ProxyId {
                incarnation: 1,
                worker: 0,
            },
            token: Some(b"new"[..].into()),
            reliable: false,
        };
        let request = b"BYE sip:a SIP/2.0\r\nVia: x\r\nRoute: <sip:p;lr;a=1;fl=old>, <sip:q;fl=other>\r\n\r\n";
        let moved = on_flow(Bytes::from_static(request), &flow);
        assert!(moved.windows(13).any(|part| part == b"fl=new>, <sip"));
        assert!(moved.windows(8).any(|part| part == b"fl=other"));
    }
}

//! Requests of ours within a dialog, and what the peer says to them.

use bytes::Bytes;
use sip::dialog::{DialogState, Facts, NewRequest, Reaction};
use sip::transaction::{ClientTransaction, Effect, Response as TxResponse, Timers};
use sip::{HeaderName, Instant, Method, OwnedMessage};
use ucf::token::BRANCH_COOKIE;

use super::actor::Actor;
use super::entropy;
use super::partition::ClientTx;
use super::queue::Due;
use super::turn::Output;
use crate::application::{DialogNumber, DialogSlot, Ended, Flow, Outgoing, Response, SessionCore, TransactionId};
use crate::records::{Key, Kind};

impl Actor<'_> {
    /// Sends a request in a dialog; `internal` ones are no matter of the application.
    pub fn send(&mut self, session: &mut SessionCore, number: u32, id: u64, request: &Outgoing, internal: bool) {
        if request.method == "BYE" {
            self.abandon_invite(session, number);
        }
        // RFC 3261 s15.1.1: nothing follows our BYE.
        let may_send =
            |slot: &&mut DialogSlot| !matches!(slot.dialog.state(), DialogState::Ending | DialogState::Terminated);
        let Some(slot) = session.dialog_mut(number).filter(may_send) else {
            return;
        };
        let mut headers = Vec::new();
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
        let cseq = slot.dialog.to_parts(self.now).local_cseq;
        let flow = slot.flow.clone();
        session.dirty = true;
        session.open += 1;
        self.partition.in_progress += 1;
        let invite = request.method == "INVITE";
        let mut effects = Vec::new();
        let machine = ClientTransaction::start(self.now, Timers::default(), flow.reliable, invite, bytes, &mut effects);
        let client = ClientTx {
            machine,
            session: session.id,
            dialog: number,
            method: request.method.as_str().into(),
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

    /// The dialog ends: an INVITE of ours that is still unanswered waits no longer than for a lost answer, or it would wait for good.
    pub fn abandon_invite(&mut self, session: &SessionCore, number: u32) {
        if session
            .dialog(number)
            .is_none_or(|slot| slot.dialog.outstanding_invite().is_none())
        {
            return;
        }
        for (id, client) in &mut self.partition.clients {
            if client.session == session.id
                && client.dialog == number
                && let ClientTransaction::Invite(machine) = &mut client.machine
            {
                machine.abandon(self.now);
                let key = Key {
                    kind: Kind::Client,
                    id: *id,
                };
                let partition = self.partition.id;
                self.queue
                    .arm(Due { partition, key }, &mut client.armed, machine.poll_timeout());
                self.partition.dirty.push(key);
            }
        }
    }

    /// Half of the session interval has passed (RFC 4028 s10). UPDATE needs no session description.
    pub fn refresh(&mut self, session: &mut SessionCore, number: u32) {
        let policy = self.shared.application.profile().session;
        let Some(slot) = session.dialog(number) else { return };
        let mut request = Outgoing::new("UPDATE");
        for line in slot.dialog.session().request_lines(&policy).lines() {
            if let Some((name, value)) = line.split_once(": ") {
                request = request.header(name, value.as_bytes());
            }
        }
        let id = self.entropy.number();
        self.send(session, number, id, &request, true);
    }

    /// A response came.
    pub fn response(&mut self, message: &OwnedMessage) {
        let wire = message.as_message();
        let number = wire
            .via()
            .and_then(|via| via.branch())
            .and_then(entropy::number_in_branch);
        let Some(id) = number.filter(|id| self.partition.clients.contains_key(id)) else {
            self.counters.unknown_responses += 1;
            return;
        };
        let (Some(status), Some(to)) = (wire.status(), wire.header(HeaderName::To)) else {
            return;
        };
        let mut effects = Vec::new();
        if let Some(client) = self.partition.clients.get_mut(&id) {
            client
                .machine
                .handle_response(self.now, TxResponse { status, to }, &mut effects);
        }
        self.partition.dirty.push(Key { kind: Kind::Client, id });
        if effects.contains(&Effect::Deliver) {
            let facts = Facts::of(&wire);
            self.heard(id, &facts, Some(message));
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
        } else if let Some(client) = self.partition.clients.get_mut(&id) {
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
        let (session, number, internal) = (client.session, client.dialog, client.internal);
        let first = facts.status >= 200 && !std::mem::replace(&mut client.answered, facts.status >= 200);
        self.partition.in_progress = self.partition.in_progress.saturating_sub(usize::from(first));
        let Some(mut session) = self.partition.sessions.remove(&session) else {
            return;
        };
        if first {
            session.open = session.open.saturating_sub(1);
        }
        let entropy = self.entropy.number();
        let reaction = match session.dialog_mut(number) {
            Some(slot) => slot.dialog.handle_response(self.now, facts, entropy),
            None => Reaction::Drop,
        };
        session.dirty = true;
        self.react(&mut session, number, reaction, facts.cseq);
        if !internal {
            let wire = message.map(OwnedMessage::as_message);
            let response = Response::new(wire, facts.status, TransactionId(id), Some(DialogNumber(number)));
            self.handle(&mut session, |application, session| {
                application.on_response(session, &response)
            });
        }
        self.put(session);
    }

    fn react(&mut self, session: &mut SessionCore, number: u32, reaction: Reaction, cseq: u32) {
        match reaction {
            Reaction::Acknowledge => self.acknowledge(session, number, cseq),
            Reaction::Repeat(bytes) => self.send_bytes(session, number, bytes),
            Reaction::Prack { rseq } => {
                let rack = format!("{rseq} {cseq} INVITE");
                let id = self.entropy.number();
                self.send(
                    session,
                    number,
                    id,
                    &Outgoing::new("PRACK").header("RAck", rack.as_bytes()),
                    true,
                );
            }
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

    /// The ACK of a 2xx to our INVITE.
    fn acknowledge(&mut self, session: &mut SessionCore, number: u32, cseq: u32) {
        let id = self.entropy.number();
        let Some(slot) = session.dialog_mut(number) else { return };
        let via = self.shared.via(self.partition.id, id, slot.flow.reliable);
        let ack = slot.dialog.ack(self.now, cseq, &NewRequest::new(Method::Ack, &via));
        let ack = on_flow(ack, &slot.flow);
        self.send_bytes(session, number, ack);
    }

    fn send_bytes(&mut self, session: &SessionCore, number: u32, bytes: Bytes) {
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

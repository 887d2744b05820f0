//! A phone made of the crate's own parts: transactions by key, one call, real messages. It may lose its process at any
//! moment and go on from the plain data of its machines.

use super::QUIET;
use super::random::Random;
use bytes::Bytes;
use sip::dialog::{
    Answer, Dialog, DialogEffect, DialogState, DialogText, Facts, NewRequest, OutgoingInvite, Reaction, SessionPolicy,
    UacEvent, Verdict,
};
use sip::transaction::{
    ClientTransaction, Effect, Effects, Repeat, Response, ServerState, ServerTransaction, Timers, TransactionKey,
    cancel_of,
};
use sip::{HeaderName, Instant, Limits, Method, OwnedMessage, ResponseBuilder};
use std::collections::BTreeMap;
use std::time::Duration;

/// What the user of the phone means to do.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    Answer { invite: bool, cseq: u32, status: u16 },
    Request(&'static str),
    Cancel,
}

struct Server {
    machine: ServerTransaction,
    request: OwnedMessage,
}

/// How far a CANCEL has come.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Cancel {
    No,
    /// It waits for a provisional response.
    Wanted,
    Sent,
}

struct Client {
    machine: ClientTransaction,
    request: OwnedMessage,
}

pub struct Phone {
    name: &'static str,
    random: Random,
    reliable: bool,
    policy: SessionPolicy,
    servers: BTreeMap<TransactionKey, Server>,
    clients: BTreeMap<TransactionKey, Client>,
    pub call: Option<OutgoingInvite>,
    /// The early dialog of the call: nobody forks here.
    early: Option<Dialog>,
    cancel: Cancel,
    pub dialog: Option<Dialog>,
    plans: Vec<(Instant, Plan)>,
    branches: u64,
    /// To be carried to the other phone.
    pub outbox: Vec<Bytes>,
    /// What its user saw.
    pub log: Vec<String>,
}

/// The dialog, or the early one that may become it.
fn current<'a>(dialog: &'a mut Option<Dialog>, early: &'a mut Option<Dialog>) -> Option<&'a mut Dialog> {
    dialog.as_mut().or(early.as_mut())
}

const SDP: &[u8] = b"v=0\r\n";

impl Phone {
    pub fn new(name: &'static str, seed: u64, reliable: bool, interval: Option<u32>) -> Self {
        Self {
            name,
            random: Random(seed),
            reliable,
            policy: SessionPolicy { interval, ..QUIET },
            servers: BTreeMap::new(),
            clients: BTreeMap::new(),
            call: None,
            early: None,
            cancel: Cancel::No,
            dialog: None,
            plans: Vec::new(),
            branches: 0,
            outbox: Vec::new(),
            log: Vec::new(),
        }
    }

    pub fn plan(&mut self, when: Instant, plan: Plan) {
        self.plans.push((when, plan));
        self.plans.sort_by_key(|(when, _)| *when);
    }

    pub fn is_idle(&self) -> bool {
        self.servers.is_empty() && self.clients.is_empty() && self.call.is_none() && self.dialog.is_none()
    }

    fn via(&mut self) -> String {
        self.branches += 1;
        format!("SIP/2.0/UDP {};branch=z9hG4bK{}{}", self.name, self.name, self.branches)
    }

    // ---- requests ----

    pub fn invite(&mut self, now: Instant) {
        let via = self.via();
        let local = format!("<sip:{0}@{0}>;tag={0}1", self.name);
        let contact = format!("<sip:{0}@{0}:5070>", self.name);
        let text = DialogText {
            call_id: b"call-1",
            local: local.as_bytes(),
            local_tag: &local.as_bytes()[local.len() - self.name.len() - 1..],
            remote: b"<sip:callee@callee>",
            contact: contact.as_bytes(),
            target: b"sip:callee@callee",
            ..DialogText::default()
        };
        self.call = OutgoingInvite::new(&text, 1, true, Timers::default());
        let session = match self.policy.interval {
            Some(interval) => format!("Supported: 100rel, timer\r\nSession-Expires: {interval}\r\n"),
            None => "Supported: 100rel\r\n".into(),
        };
        let invite = format!(
            "INVITE sip:callee@callee SIP/2.0\r\nVia: {via}\r\nMax-Forwards: 70\r\nFrom: {local}\r\nTo: <sip:callee@callee>\r\n\
             Call-ID: call-1\r\nCSeq: 1 INVITE\r\nContact: {contact}\r\n{session}Content-Type: application/sdp\r\n\
             Content-Length: 5\r\n\r\nv=0\r\n"
        );
        self.start(now, invite.into());
    }

    fn start(&mut self, now: Instant, request: Bytes) {
        let request = OwnedMessage::scan(request, &Limits::default()).expect("our own request");
        let message = request.as_message();
        let branch = message.via().and_then(|via| via.branch()).expect("our own Via");
        let key = TransactionKey::client(branch, message.method());
        let invite = message.method() == Method::Invite;
        let mut out = Effects::new();
        let bytes = request.bytes().clone();
        let machine = ClientTransaction::start(now, Timers::default(), self.reliable, invite, bytes, &mut out);
        let old = self.clients.insert(key.clone(), Client { machine, request });
        assert!(old.is_none(), "{key:?} twice");
        self.client_effects(now, &key, out, None);
    }

    fn request(&mut self, now: Instant, method: Method<'_>, extra: &str, offer: bool) {
        let via = self.via();
        let mut headers = extra.to_string();
        if offer {
            headers.push_str("Content-Type: application/sdp\r\n");
        }
        let new = NewRequest {
            headers: headers.as_bytes(),
            body: if offer { SDP } else { b"" },
            sdp: offer,
            ..NewRequest::new(method, via.as_bytes())
        };
        // Before the answer there may be an early dialog only.
        let Some(dialog) = current(&mut self.dialog, &mut self.early) else {
            return;
        };
        let request = dialog.request(&new);
        self.start(now, request);
    }

    fn acknowledge(&mut self, now: Instant, cseq: u32) {
        let via = self.via();
        let dialog = self.dialog.as_mut().expect("answered");
        let ack = dialog.ack(now, cseq, &NewRequest::new(Method::Ack, via.as_bytes()));
        self.outbox.push(ack);
    }

    /// What the user wants, if the dialog allows it now.
    fn ask(&mut self, now: Instant, what: &'static str) {
        let Some(dialog) = &self.dialog else { return };
        if dialog.state() != DialogState::Confirmed {
            return;
        }
        let pending = dialog.pending();
        let idle = dialog.may_reinvite() && pending.in_update.is_none() && pending.out_update.is_none();
        let lines = dialog.session().request_lines(&self.policy);
        match what {
            "INVITE" if idle => self.request(now, Method::Invite, &lines, true),
            "UPDATE" if idle => self.request(now, Method::Update, &lines, false),
            "INFO" if dialog.awaits_ack().is_none() => self.request(now, Method::Info, "", false),
            "INVITE" | "UPDATE" | "INFO" => self.plan(now + Duration::from_millis(300), Plan::Request(what)),
            // RFC 3261 s15: the called side waits for the ACK.
            _ if dialog.awaits_ack().is_some() => self.plan(now + Duration::from_millis(300), Plan::Request(what)),
            _ => {
                self.log.push("hangs up".into());
                self.request(now, Method::Bye, "", false);
            }
        }
    }

    /// Sends the CANCEL that is wanted, once it may be sent.
    fn cancel(&mut self, now: Instant) {
        let may_cancel = |machine: &ClientTransaction| match machine {
            ClientTransaction::Invite(machine) => machine.may_cancel(),
            ClientTransaction::NonInvite(_) => false,
        };
        let invite = self.clients.values_mut().find(|client| may_cancel(&client.machine));
        let Some(invite) = invite.filter(|_| self.cancel == Cancel::Wanted) else {
            return;
        };
        let cancel = cancel_of(invite.request.bytes());
        if let ClientTransaction::Invite(machine) = &mut invite.machine {
            machine.abandon(now);
        }
        self.cancel = Cancel::Sent;
        self.log.push("cancels".into());
        self.start(now, cancel);
    }

    // ---- what comes in ----

    pub fn receive(&mut self, now: Instant, bytes: Bytes) {
        let message = OwnedMessage::scan(bytes, &Limits::default()).expect("a message");
        assert_eq!(sip::check(&message.as_message()), Ok(()), "{:?}", message.bytes());
        let key = TransactionKey::of(&message.as_message()).expect("a key");
        if message.as_message().is_request() {
            self.receive_request(now, key, message);
        } else if let Some(client) = self.clients.get_mut(&key) {
            let mut out = Effects::new();
            client
                .machine
                .handle_response(now, Response::of(&message.as_message()), &mut out);
            self.client_effects(now, &key, out, Some(&message));
        }
    }

    fn receive_request(&mut self, now: Instant, key: TransactionKey, request: OwnedMessage) {
        let method = request.as_message().method();
        let mut out = Effects::new();
        if let Some(server) = self.servers.get_mut(&key) {
            let repeat = if method == Method::Ack {
                Repeat::Ack
            } else {
                Repeat::Request
            };
            server.machine.handle_request(now, repeat, &mut out);
            self.server_effects(now, &key, out);
            return;
        }
        if method == Method::Ack {
            self.in_dialog(now, &key, &request);
            return;
        }
        let machine = ServerTransaction::new(now, Timers::default(), self.reliable, method == Method::Invite);
        let server = Server {
            machine,
            request: request.clone(),
        };
        self.servers.insert(key.clone(), server);
        match method {
            Method::Cancel => self.cancelled(now, &key),
            Method::Invite if request.as_message().to().expect("To").tag().is_none() => self.called(now, &request),
            _ => self.in_dialog(now, &key, &request),
        }
    }

    fn called(&mut self, now: Instant, invite: &OwnedMessage) {
        assert!(self.dialog.is_none() && self.log.is_empty(), "the call came twice");
        self.log.push("rings".into());
        let tag = format!("{}1", self.name);
        let contact = format!("<sip:{0}@{0}:5070>", self.name);
        let facts = Facts::of(&invite.as_message());
        let dialog = Dialog::from_invite(
            &facts,
            tag.as_bytes(),
            contact.as_bytes(),
            &self.policy,
            Timers::default(),
        );
        self.dialog = Some(dialog.expect("a good INVITE"));
        if self.random.chance(40) {
            self.answer(now, true, 1, 183);
        }
        let mut when = now;
        for status in [180, 200] {
            when = when + Duration::from_millis(self.random.below(3000));
            let plan = Plan::Answer {
                invite: true,
                cseq: 1,
                status,
            };
            self.plan(when, plan);
        }
    }

    fn cancelled(&mut self, now: Instant, key: &TransactionKey) {
        let invite = self.servers.contains_key(&key.of_invite());
        self.direct(now, key, if invite { 200 } else { 481 });
        if self
            .dialog
            .as_ref()
            .is_some_and(|dialog| dialog.unanswered_invite() == Some(1))
        {
            self.log.push("cancelled".into());
            self.answer(now, true, 1, 487);
        }
    }

    fn in_dialog(&mut self, now: Instant, key: &TransactionKey, request: &OwnedMessage) {
        let facts = Facts::of(&request.as_message());
        let entropy = self.random.next();
        let mut effects = Vec::new();
        let verdict = match current(&mut self.dialog, &mut self.early) {
            Some(dialog) if dialog.id().remote_tag == facts.from_tag => {
                dialog.receive(now, &facts, &self.policy, entropy, &mut effects)
            }
            _ if facts.method == Method::Ack => Verdict::Drop,
            _ => Verdict::Reject {
                status: 481,
                retry_after: None,
                min_se: None,
            },
        };
        match verdict {
            Verdict::Acknowledged { first, cseq } => {
                if first && cseq == 1 {
                    self.log.push("acknowledged".into());
                }
            }
            Verdict::Drop => {}
            Verdict::Reject { status, .. } => self.direct(now, key, status),
            Verdict::Process => self.process(now, &facts),
        }
        self.dialog_effects(now, effects);
    }

    fn process(&mut self, now: Instant, request: &Facts<'_>) {
        let (method, cseq) = (request.method, request.cseq);
        match method {
            Method::Invite => {
                let when = now + Duration::from_millis(self.random.below(400));
                let status = if self.random.chance(80) { 200 } else { 488 };
                let invite = true;
                self.plan(when, Plan::Answer { invite, cseq, status });
            }
            Method::Update => {
                let when = now + Duration::from_millis(self.random.below(400));
                let (invite, status) = (false, 200);
                self.plan(when, Plan::Answer { invite, cseq, status });
            }
            Method::Bye => {
                self.log.push("hung up on".into());
                if let Some(invite) = self.dialog.as_ref().and_then(Dialog::unanswered_invite) {
                    self.answer(now, true, invite, 487);
                }
                self.answer(now, false, cseq, 200);
            }
            _ => {
                self.log
                    .push(format!("got {} {cseq}", String::from_utf8_lossy(method.as_bytes())));
                self.answer(now, false, cseq, 200);
            }
        }
    }

    // ---- responses of ours ----

    fn find(&self, invite: bool, cseq: u32) -> Option<TransactionKey> {
        let ours = |server: &Server| {
            let message = server.request.as_message();
            let (method, number) = (message.method(), message.cseq().map(|cseq| cseq.number));
            (method == Method::Invite) == invite && method != Method::Cancel && number == Some(cseq)
        };
        self.servers
            .iter()
            .find(|(_, server)| ours(server))
            .map(|(key, _)| key.clone())
    }

    fn write(&self, key: &TransactionKey, status: u16, extra: &str) -> Bytes {
        let mut out = Vec::new();
        let message = self.servers[key].request.as_message();
        let tag = format!("{}1", self.name);
        let contact = format!("<sip:{0}@{0}:5070>", self.name);
        let mut response = ResponseBuilder::new(&mut out, &message, status, "X", Some(tag.as_bytes()));
        response = response.header(HeaderName::Contact, contact.as_bytes());
        for line in extra.lines() {
            let (name, value) = line.split_once(": ").expect("a header line");
            response = response.other(name, value.as_bytes());
        }
        if message.method() == Method::Invite && (status == 200 || status == 183) {
            response.body(b"application/sdp", SDP);
        } else {
            response.finish();
        }
        out.into()
    }

    /// Past the dialog.
    fn direct(&mut self, now: Instant, key: &TransactionKey, status: u16) {
        let response = self.write(key, status, "");
        let mut out = Effects::new();
        let server = self.servers.get_mut(key).expect("just made");
        server.machine.respond(now, status, response, &mut out);
        self.server_effects(now, key, out);
    }

    /// Through the dialog, which knows when it may leave.
    fn answer(&mut self, now: Instant, invite: bool, cseq: u32, status: u16) {
        let Some(key) = self.find(invite, cseq) else { return };
        if current(&mut self.dialog, &mut self.early).is_none() && !self.servers[&key].machine.is_answered() {
            // It ended meanwhile.
            self.direct(now, &key, 481);
            return;
        }
        let entropy = self.random.next();
        let reliable = self.random.chance(60);
        let Some(dialog) = current(&mut self.dialog, &mut self.early) else {
            return;
        };
        let method = self.servers[&key].request.as_message().method();
        let rseq = if reliable && status < 200 {
            dialog.next_rseq(entropy)
        } else {
            None
        };
        let mut extra = match dialog.agreed(method).filter(|_| status == 200) {
            Some(agreed) => agreed.header_lines(),
            None => String::new(),
        };
        if let Some(rseq) = rseq {
            extra.push_str(&format!("Require: 100rel\r\nRSeq: {rseq}\r\n"));
        }
        let answer = Answer {
            method,
            cseq,
            status,
            rseq,
            sdp: status == 183,
        };
        let response = self.write(&key, status, &extra);
        let mut effects = Vec::new();
        let dialog = current(&mut self.dialog, &mut self.early).expect("seen");
        dialog.respond(now, answer, response, &mut effects);
        self.dialog_effects(now, effects);
    }

    fn dialog_effects(&mut self, now: Instant, effects: Vec<DialogEffect>) {
        for effect in effects {
            match effect {
                DialogEffect::Respond {
                    invite,
                    cseq,
                    status,
                    response,
                } => {
                    if invite && cseq == 1 && status == 200 {
                        self.log.push("answers".into());
                    }
                    let key = self.find(invite, cseq).expect("its transaction");
                    let mut out = Effects::new();
                    let server = self.servers.get_mut(&key).expect("found");
                    server.machine.respond(now, status, response, &mut out);
                    self.server_effects(now, &key, out);
                }
                DialogEffect::Send(bytes) => self.outbox.push(bytes),
                DialogEffect::RefreshDue => {
                    self.log.push("refreshes".into());
                    self.ask(now, "UPDATE");
                }
                DialogEffect::SessionExpired => {
                    self.log.push("session expired".into());
                    self.ask(now, "BYE");
                }
                DialogEffect::AckMissing { .. } => self.log.push("no ACK".into()),
                DialogEffect::PrackMissing { cseq } => {
                    self.log.push("no PRACK".into());
                    self.answer(now, true, cseq, 504);
                }
            }
        }
        match self
            .dialog
            .as_ref()
            .filter(|dialog| dialog.is_terminated())
            .map(Dialog::unanswered_invite)
        {
            Some(Some(invite)) => self.answer(now, true, invite, 487),
            Some(None) => self.over(now),
            None => {}
        }
    }

    /// The call has ended. An INVITE of ours that crossed the BYE may never get its answer.
    fn over(&mut self, now: Instant) {
        self.dialog = None;
        for client in self.clients.values_mut() {
            if let ClientTransaction::Invite(machine) = &mut client.machine {
                machine.abandon(now);
            }
        }
    }

    // ---- what machines want ----

    fn server_effects(&mut self, now: Instant, key: &TransactionKey, effects: Effects) {
        for effect in effects {
            match effect {
                Effect::Send(bytes) => self.outbox.push(bytes),
                Effect::TryingDue => self.direct(now, key, 100),
                Effect::Terminated => drop(self.servers.remove(key)),
                Effect::Deliver | Effect::TimedOut | Effect::Failed => {}
            }
        }
    }

    fn client_effects(&mut self, now: Instant, key: &TransactionKey, effects: Effects, message: Option<&OwnedMessage>) {
        for effect in effects {
            match effect {
                Effect::Send(bytes) => self.outbox.push(bytes),
                Effect::Deliver => {
                    let message = message.expect("delivered").as_message();
                    self.responded(now, &Facts::of(&message));
                }
                Effect::TimedOut => {
                    let request = self.clients[key].request.clone();
                    let message = request.as_message();
                    let cseq = message.cseq().expect("CSeq").number;
                    if self.dialog.is_some() || self.call.is_some() {
                        self.log.push("time-out".into());
                    }
                    self.responded(now, &Facts::failure(message.method(), cseq, 408));
                }
                Effect::Terminated => drop(self.clients.remove(key)),
                Effect::TryingDue | Effect::Failed => unreachable!("not here"),
            }
        }
    }

    fn responded(&mut self, now: Instant, response: &Facts<'_>) {
        let ours = self.call.as_ref().is_some_and(|call| call.cseq() == response.cseq);
        if response.method == Method::Invite && ours && self.dialog.is_none() {
            self.call_responded(now, response);
            return;
        }
        let entropy = self.random.next();
        let Some(dialog) = &mut self.dialog else { return };
        let reaction = dialog.handle_response(now, response, entropy);
        match reaction {
            Reaction::Acknowledge => self.acknowledge(now, response.cseq),
            Reaction::Repeat(ack) => self.outbox.push(ack),
            Reaction::Retry(pause) => self.plan(now + pause, Plan::Request("INVITE")),
            Reaction::Ended => {
                if response.method != Method::Bye {
                    self.ask(now, "BYE");
                }
            }
            Reaction::Pass | Reaction::Drop | Reaction::Prack { .. } | Reaction::IntervalTooSmall => {}
        }
        self.dialog_effects(now, Vec::new());
    }

    fn call_responded(&mut self, now: Instant, response: &Facts<'_>) {
        let call = self.call.as_mut().expect("ours");
        let event = call.handle_response(now, response, self.early.as_mut());
        let cancelled = self.cancel == Cancel::Sent;
        match event {
            UacEvent::Early { new, prack } => {
                self.early = self.early.take().or(new.map(|new| *new));
                if let Some(rseq) = prack {
                    self.request(now, Method::Prack, &Dialog::rack_line(rseq, 1), false);
                }
            }
            UacEvent::Answered { new } => {
                self.call = None;
                self.dialog = new.map(|new| *new).or(self.early.take());
                self.log.push("answered".into());
                self.acknowledge(now, 1);
                if cancelled {
                    self.ask(now, "BYE");
                }
            }
            UacEvent::Refused => {
                self.log.push(format!("refused {}", response.status));
                self.call = None;
                self.early = None;
            }
            UacEvent::Trying | UacEvent::Drop => {}
        }
        if self.call.is_some() {
            self.cancel(now);
        }
    }

    // ---- time and takeover ----

    pub fn poll_timeout(&self) -> Option<Instant> {
        let servers = self.servers.values().filter_map(|server| server.machine.poll_timeout());
        let clients = self.clients.values().filter_map(|client| client.machine.poll_timeout());
        let plans = self.plans.first().map(|(when, _)| *when);
        let dialog = self.dialog.as_ref().and_then(Dialog::poll_timeout);
        servers.chain(clients).chain(plans).chain(dialog).min()
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        while self.plans.first().is_some_and(|(when, _)| *when <= now) {
            match self.plans.remove(0).1 {
                Plan::Answer { invite, cseq, status } => self.answer(now, invite, cseq, status),
                Plan::Request(what) => self.ask(now, what),
                Plan::Cancel => {
                    if self.call.is_some() {
                        self.cancel = Cancel::Wanted;
                        self.cancel(now);
                    }
                }
            }
        }
        let keys: Vec<_> = self
            .servers
            .iter()
            .filter(|(_, s)| due(s.machine.poll_timeout()))
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            let mut out = Effects::new();
            self.servers
                .get_mut(&key)
                .expect("listed")
                .machine
                .handle_timeout(now, &mut out);
            self.server_effects(now, &key, out);
        }
        let keys: Vec<_> = self
            .clients
            .iter()
            .filter(|(_, c)| due(c.machine.poll_timeout()))
            .map(|(k, _)| k.clone())
            .collect();
        for key in keys {
            let mut out = Effects::new();
            self.clients
                .get_mut(&key)
                .expect("listed")
                .machine
                .handle_timeout(now, &mut out);
            self.client_effects(now, &key, out, None);
        }
        let mut effects = Vec::new();
        if let Some(dialog) = &mut self.dialog {
            dialog.handle_timeout(now, &mut effects);
        }
        self.dialog_effects(now, effects);
    }

    /// The process dies; a successor goes on with the plain data.
    pub fn take_over(&mut self, now: Instant) {
        let timers = Timers::default();
        if let Some(old) = self.dialog.take() {
            let new = Dialog::from_parts(now, timers, old.to_parts(now)).expect("whole");
            assert_eq!(format!("{:?}", new.to_parts(now)), format!("{:?}", old.to_parts(now)));
            self.dialog = Some(new);
        }
        if let Some(old) = self.call.take() {
            let new = OutgoingInvite::from_parts(timers, &old.to_parts()).expect("whole");
            assert_eq!(format!("{:?}", new.to_parts()), format!("{:?}", old.to_parts()));
            self.call = Some(new);
        }
        if let Some(old) = self.early.take() {
            self.early = Some(Dialog::from_parts(now, timers, old.to_parts(now)).expect("whole"));
        }
        let keys: Vec<_> = self.servers.keys().cloned().collect();
        for key in keys {
            let server = self.servers.get_mut(&key).expect("listed");
            let snapshot = server.machine.snapshot(now);
            let mut out = Effects::new();
            server.machine = ServerTransaction::restore(now, timers, snapshot.clone());
            server.machine.resume(now, &mut out);
            if let (true, ServerState::Accepted, Some(response), Some(dialog)) =
                (snapshot.invite, snapshot.state, snapshot.response, &mut self.dialog)
            {
                let cseq = server.request.as_message().cseq().expect("CSeq").number;
                dialog.resume_answer(now, cseq, response, snapshot.left);
            }
            self.server_effects(now, &key, out);
        }
        let keys: Vec<_> = self.clients.keys().cloned().collect();
        for key in keys {
            let client = self.clients.get_mut(&key).expect("listed");
            let mut out = Effects::new();
            client.machine = ClientTransaction::restore(now, timers, client.machine.snapshot(now));
            client.machine.resume(now, &mut out);
            self.client_effects(now, &key, out, None);
        }
    }
}

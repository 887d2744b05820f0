//! Whom the `b2bua` of a run calls: phones that answer at once or after ringing, count INFOs and re-INVITEs, and hang up when the time that
//! the INVITE's Subject names is over.

use super::caller::{Callers, GIVE_UP, T1, T2, call_of};
use crate::sim::caller::Datagram;
use crate::sim::net::{Context, MS, Micros, Node};
use sip::{HeaderName, Limits, Message, Method, OwnedMessage, RequestBuilder, ResponseBuilder};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// All of them are here.
pub const ADDRESS: &str = "198.51.100.2:5060";

/// All phones that were called.
pub struct Callees {
    /// By Call-ID.
    calls: BTreeMap<Vec<u8>, Call>,
    proxies: usize,
}

struct Call {
    /// The caller's number and attempt.
    caller: (usize, u32),
    /// The proxy that carried what the cluster said last.
    proxy: usize,
    invite: OwnedMessage,
    tag: String,
    state: State,
    /// INFOs and re-INVITEs.
    count: u32,
    /// What was answered, by method and branch: repetitions are answered alike.
    answers: BTreeMap<Vec<u8>, Vec<u8>>,
    /// Final answers to INVITEs that wait for their ACK, by CSeq.
    unacknowledged: BTreeMap<u32, Repeated>,
    bye: Option<Repeated>,
    byes: u32,
}

#[derive(Clone, Copy, PartialEq)]
enum State {
    Rings { until: Micros },
    Up { hangs_up: Micros },
    Ended,
}

/// What is sent until it is answered.
struct Repeated {
    bytes: Vec<u8>,
    wait: Micros,
    due: Micros,
    until: Micros,
}

impl Repeated {
    fn new(now: Micros, bytes: Vec<u8>) -> Self {
        Self {
            bytes,
            wait: T1 / 2,
            due: now,
            until: now + GIVE_UP,
        }
    }

    /// The bytes, if it is time for them.
    fn take_due(&mut self, now: Micros) -> Option<Vec<u8>> {
        if self.due > now {
            return None;
        }
        self.wait = (self.wait * 2).min(T2);
        self.due = now + self.wait;
        Some(self.bytes.clone())
    }
}

/// From where they send.
pub fn address() -> SocketAddr {
    ADDRESS.parse().expect("an address")
}

impl Callees {
    /// Nobody is called yet.
    #[must_use]
    pub fn new(proxies: usize) -> Self {
        let calls = BTreeMap::new();
        Self { calls, proxies }
    }

    /// Something came.
    pub fn handle(&mut self, ctx: &mut Context, from: Node, bytes: Vec<u8>) {
        let Ok(owned) = OwnedMessage::scan(bytes.into(), &Limits::default()) else {
            ctx.oracle
                .fail("a callee was sent something that is not SIP".to_owned());
            return;
        };
        let message = owned.as_message();
        let id = message.call_id().unwrap_or_default();
        match self.calls.get_mut(id) {
            Some(call) if message.is_request() => call.request(ctx, from, &message),
            Some(call) => call.response(ctx, &message),
            None if message.method() == Method::Invite && message.is_request() => self.called(ctx, from, owned),
            None if message.is_request() && message.method() != Method::Ack => {
                let mut out = Vec::new();
                ResponseBuilder::new(&mut out, &message, 481, "No Such Call", Some(b"none")).finish();
                ctx.datagram(Node::Callers, from, Datagram::Sip(address(), out));
            }
            None => {}
        }
        let at = ctx.now + MS;
        ctx.wake(Node::Callers, at);
    }

    fn called(&mut self, ctx: &mut Context, from: Node, invite: OwnedMessage) {
        let message = invite.as_message();
        let Some(caller) = call_of(message.as_bytes()) else {
            return;
        };
        let Node::Proxy(proxy) = from else { return };
        let name = u32::try_from(caller.0).expect("few calls");
        if self.calls.values().any(|call| call.caller == caller) && !ctx.oracle.excused.contains(&name) {
            ctx.oracle
                .fail(format!("call {}.{}: called out twice", caller.0, caller.1));
        }
        let id = message.call_id().unwrap_or_default().to_vec();
        let (ring, _) = times(&message);
        let call = Call {
            caller,
            proxy,
            tag: format!("t{}a{}n{}", caller.0, caller.1, self.calls.len()),
            state: State::Rings { until: ctx.now + ring },
            invite: invite.clone(),
            count: 0,
            answers: BTreeMap::new(),
            unacknowledged: BTreeMap::new(),
            bye: None,
            byes: 0,
        };
        let call = self.calls.entry(id).or_insert(call);
        if ring > 0 {
            call.answer(ctx, from, &message, 180, None);
        }
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        for call in self.calls.values_mut() {
            call.proceed(ctx);
            call.repeat(ctx, self.proxies);
        }
        let next = self.calls.values().map(Call::due).min().unwrap_or(Micros::MAX);
        if next < Micros::MAX {
            ctx.wake(Node::Callers, next);
        }
    }

    /// Those who are up although their callers are not.
    pub fn forlorn(&self, ctx: &Context, callers: &Callers) -> Vec<String> {
        let talks = |call: &&Call| call.state != State::Ended;
        let excused = |number: usize| ctx.oracle.excused.contains(&u32::try_from(number).expect("few calls"));
        let up = self.calls.values().filter(talks).map(|call| call.caller);
        let alone = up.clone().filter(|caller| !callers.are_up(*caller));
        let alone = alone.filter(|(number, _)| !excused(*number));
        alone
            .map(|(number, attempt)| format!("the callee of call {number}.{attempt} is up alone"))
            .collect()
    }
}

/// For how long it rings and is up, as the INVITE's Subject names them.
fn times(invite: &Message<'_>) -> (Micros, Micros) {
    let subject = invite.header(HeaderName::Subject).unwrap_or_default();
    let text = std::str::from_utf8(subject).unwrap_or_default();
    let mut numbers = text.split(' ').map(|n| n.parse().unwrap_or(0) * MS);
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0))
}

fn key(message: &Message<'_>) -> Vec<u8> {
    let via = message.vias().next();
    let branch = via.as_ref().and_then(|via| via.params.get(b"branch")).unwrap_or(b"");
    [message.method().as_bytes(), b" ", branch].concat()
}

impl Call {
    fn request(&mut self, ctx: &mut Context, from: Node, message: &Message<'_>) {
        if let Node::Proxy(proxy) = from {
            self.proxy = proxy;
        }
        let cseq = message.cseq().map_or(0, |cseq| cseq.number);
        if message.method() == Method::Ack {
            self.unacknowledged.remove(&cseq);
            return;
        }
        if let Some(answer) = self.answers.get(&key(message)) {
            ctx.datagram(Node::Callers, from, Datagram::Sip(address(), answer.clone()));
            return;
        }
        match (message.method(), self.state) {
            (Method::Cancel, state) => {
                self.answer(ctx, from, message, 200, None);
                if matches!(state, State::Rings { .. }) {
                    self.state = State::Ended;
                    let invite = self.invite.clone();
                    self.answer(ctx, from, &invite.as_message(), 487, None);
                }
            }
            (Method::Bye, State::Rings { .. } | State::Up { .. }) => {
                (self.state, self.bye) = (State::Ended, None);
                self.unacknowledged.clear();
                self.answer(ctx, from, message, 200, None);
            }
            (Method::Invite | Method::Info, State::Up { .. }) => {
                self.count += 1;
                self.answer(ctx, from, message, 200, Some(self.count));
            }
            (_, State::Ended) => self.answer(ctx, from, message, 481, None),
            _ => self.answer(ctx, from, message, 200, None),
        }
    }

    fn answer(&mut self, ctx: &mut Context, to: Node, request: &Message<'_>, status: u16, count: Option<u32>) {
        let mut out = Vec::new();
        let response = ResponseBuilder::new(&mut out, request, status, "So", Some(self.tag.as_bytes()));
        let response = response.header(HeaderName::Contact, format!("<sip:callee@{ADDRESS}>").as_bytes());
        match count {
            Some(count) => response.body(b"text/plain", count.to_string().as_bytes()),
            None => response.finish(),
        }
        self.answers.insert(key(request), out.clone());
        let cseq = request.cseq().map_or(0, |cseq| cseq.number);
        if request.method() == Method::Invite && status >= 200 {
            // Sent now, and again until the ACK comes.
            self.unacknowledged.insert(cseq, Repeated::new(ctx.now, out));
        } else {
            ctx.datagram(Node::Callers, to, Datagram::Sip(address(), out));
        }
    }

    fn response(&mut self, ctx: &mut Context, message: &Message<'_>) {
        let ours = message
            .cseq()
            .is_some_and(|cseq| cseq.method == Method::Bye && cseq.number == self.byes);
        if !ours || self.bye.is_none() {
            return;
        }
        match message.status().unwrap_or(0) {
            100..=199 => {}
            // 481: the other side has ended it in the same moment, or an earlier BYE has.
            200 | 481 => (self.state, self.bye) = (State::Ended, None),
            408 | 480 | 500 | 503 => self.bye_failed(ctx),
            status => {
                let (number, attempt) = self.caller;
                ctx.oracle.fail(format!(
                    "the callee's BYE of call {number}.{attempt} was answered {status}"
                ));
            }
        }
    }

    fn bye_failed(&mut self, ctx: &mut Context) {
        self.bye = None;
        self.state = State::Up {
            hangs_up: ctx.now + ctx.rng.range(500, 2_000) * MS,
        };
    }

    fn proceed(&mut self, ctx: &mut Context) {
        match self.state {
            State::Rings { until } if until <= ctx.now => {
                let invite = self.invite.clone();
                let (_, hold) = times(&invite.as_message());
                let hangs_up = ctx.now + hold;
                self.state = State::Up { hangs_up };
                self.answer(ctx, Node::Proxy(self.proxy), &invite.as_message(), 200, None);
            }
            State::Up { hangs_up } if hangs_up <= ctx.now && self.bye.is_none() => {
                self.byes += 1;
                let (number, attempt) = self.caller;
                ctx.log(|| format!("the callee of call {number}.{attempt} hangs up"));
                self.bye = Some(Repeated::new(ctx.now, self.build_bye()));
            }
            _ => {}
        }
    }

    fn repeat(&mut self, ctx: &mut Context, proxies: usize) {
        let now = ctx.now;
        if self.bye.take_if(|bye| bye.until <= now).is_some() {
            self.bye_failed(ctx);
        }
        let unheard = self.unacknowledged.len();
        self.unacknowledged.retain(|_, answer| answer.until > now);
        if self.unacknowledged.len() < unheard && matches!(self.state, State::Up { .. }) {
            // RFC 3261 s13.3.1.4: no ACK came.
            self.state = State::Up { hangs_up: now };
        }
        let waiting = self.unacknowledged.values_mut().chain(&mut self.bye);
        let due: Vec<_> = waiting.filter_map(|repeated| repeated.take_due(now)).collect();
        for bytes in due {
            let is_cut_off = ctx.islands.contains(&self.proxy) && ctx.rng.chance(50);
            if is_cut_off || !ctx.lives(Node::Proxy(self.proxy)) {
                self.proxy = ctx.rng.index(proxies);
            }
            ctx.datagram(Node::Callers, Node::Proxy(self.proxy), Datagram::Sip(address(), bytes));
        }
    }

    fn due(&self) -> Micros {
        let waiting = self.unacknowledged.values().chain(&self.bye);
        let repeated = waiting.map(|repeated| repeated.due.min(repeated.until)).min();
        let next = match self.state {
            State::Rings { until } => until,
            State::Up { hangs_up } if self.bye.is_none() => hangs_up,
            _ => Micros::MAX,
        };
        next.min(repeated.unwrap_or(Micros::MAX))
    }

    fn build_bye(&self) -> Vec<u8> {
        let invite = self.invite.as_message();
        let (number, attempt, byes) = (self.caller.0, self.caller.1, self.byes);
        let raw = |name| invite.header(name).unwrap_or_default();
        let contact = invite.contact();
        let target = contact
            .as_ref()
            .map_or(b"sip:nobody@192.0.2.1".as_slice(), |c| c.uri_bytes);
        let from = [raw(HeaderName::To), b";tag=", self.tag.as_bytes()].concat();
        let mut out = Vec::new();
        let mut request = RequestBuilder::new(&mut out, Method::Bye, target)
            .other(
                "Via",
                format!("SIP/2.0/UDP {ADDRESS};branch=z9hG4bKb{number}a{attempt}r{byes}").as_bytes(),
            )
            .other("Max-Forwards", b"70")
            .header(HeaderName::From, &from)
            .header(HeaderName::To, raw(HeaderName::From))
            .header(HeaderName::CallId, raw(HeaderName::CallId))
            .cseq(byes, Method::Bye);
        for route in invite.record_routes() {
            request = request.other("Route", route.raw);
        }
        request.finish();
        out
    }
}

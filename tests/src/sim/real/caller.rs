//! Callers that speak SIP over lossy datagrams: INVITE, INFOs, BYE or waiting for the cluster's BYE, with RFC 3261's repetitions.

use crate::sim::caller::Datagram;
use crate::sim::net::{Context, MS, Micros, Node};
use sip::{Limits, Message, Method, OwnedMessage, RequestBuilder, ResponseBuilder};
use std::collections::BTreeSet;
use std::net::SocketAddr;

const T1: Micros = 500 * MS;
const T2: Micros = 4_000 * MS;
/// 64 * T1: RFC 3261's timers B and F.
const GIVE_UP: Micros = 32_000 * MS;
/// Milliseconds after which the cluster ends a call that does not end itself.
const HOLD: u64 = 12_000;
const HOST: &str = "198.51.100.1";

/// From where a caller's message comes: each call has a port, which its Call-ID names.
#[must_use]
pub fn source_of(bytes: &[u8]) -> SocketAddr {
    let port = 10_000 + call_of(bytes).map_or(0, |(call, _)| call);
    SocketAddr::new(
        HOST.parse().expect("an address"),
        u16::try_from(port).expect("few calls"),
    )
}

/// Call and attempt of a message.
fn call_of(bytes: &[u8]) -> Option<(usize, u32)> {
    let name = b"Call-ID: ";
    let at = bytes.windows(name.len()).position(|w| w == name)? + name.len();
    let end = bytes[at..].iter().position(|b| *b == b'@')? + at;
    let (call, attempt) = std::str::from_utf8(&bytes[at..end]).ok()?.split_once('.')?;
    Some((call.parse().ok()?, attempt.parse().ok()?))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asking {
    Invite,
    Info,
    Bye,
}

/// A request of ours that is not answered.
struct Asked {
    what: Asking,
    cseq: u32,
    bytes: Vec<u8>,
    wait: Micros,
    /// When it is repeated; never, after a provisional response.
    due: Micros,
    until: Micros,
}

/// What a dialog needs.
struct Peer {
    tag: Vec<u8>,
    contact: Vec<u8>,
    routes: Vec<Vec<u8>>,
}

struct Call {
    number: usize,
    proxy: usize,
    attempt: u32,
    cseq: u32,
    ring: u64,
    infos: u32,
    done_infos: u32,
    bye: bool,
    asked: Option<Asked>,
    peer: Option<Peer>,
    ack: Vec<u8>,
    /// When the next request is made.
    next: Micros,
    /// Requests whose fate is unknown: answered with an error by a proxy that could not tell.
    uncertain: u32,
    byes: BTreeSet<Vec<u8>>,
    begun: Micros,
    /// When the INVITE of this attempt was first sent.
    invited: Micros,
    done: bool,
}

/// All callers.
pub struct Callers {
    calls: Vec<Call>,
    proxies: usize,
}

impl Callers {
    /// As many calls as wanted, begun before `until`.
    pub fn new(ctx: &mut Context, calls: usize, proxies: usize, until: Micros) -> Self {
        let mut all = Vec::new();
        for number in 0..calls {
            let begun = ctx.rng.range(400 * MS, until);
            all.push(Call {
                number,
                proxy: ctx.rng.index(proxies),
                attempt: 0,
                cseq: 0,
                ring: if ctx.rng.chance(30) {
                    ctx.rng.range(200, 3_000)
                } else {
                    0
                },
                infos: u32::try_from(ctx.rng.range(0, 6)).expect("small"),
                done_infos: 0,
                bye: ctx.rng.chance(70),
                asked: None,
                peer: None,
                ack: Vec::new(),
                next: begun,
                uncertain: 0,
                byes: BTreeSet::new(),
                begun,
                invited: 0,
                done: false,
            });
            ctx.wake(Node::Callers, begun);
        }
        Self { calls: all, proxies }
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        for call in &mut self.calls {
            if !call.done && call.next <= now && call.asked.is_none() {
                call.proceed(ctx);
            }
            call.repeat(ctx, self.proxies);
        }
        let due = |call: &Call| match &call.asked {
            Some(asked) => asked.due.min(asked.until),
            None if call.done => Micros::MAX,
            None => call.next,
        };
        let next = self.calls.iter().map(due).min().unwrap_or(Micros::MAX);
        if next < Micros::MAX {
            ctx.wake(Node::Callers, next);
        }
    }

    /// Something came.
    pub fn handle(&mut self, ctx: &mut Context, from: Node, bytes: Vec<u8>) {
        let Ok(message) = OwnedMessage::scan(bytes.into(), &Limits::default()) else {
            ctx.oracle
                .fail("a caller was sent something that is not SIP".to_owned());
            return;
        };
        let message = message.as_message();
        let Some((number, attempt)) = call_of(message.as_bytes()) else {
            return;
        };
        let call = &mut self.calls[number];
        if message.is_request() {
            call.request(ctx, from, &message, attempt);
        } else if attempt == call.attempt {
            call.response(ctx, &message);
        }
        // Something may be due sooner now.
        let at = ctx.now + MS;
        ctx.wake(Node::Callers, at);
    }

    /// Calls that are not where they should be at the end.
    pub fn unfinished(&self) -> Vec<String> {
        let stuck = self.calls.iter().filter(|c| !c.done);
        let describe = |c: &Call| {
            let doing = c.asked.as_ref().map(|a| (a.what, a.cseq, a.due == Micros::MAX));
            format!(
                "call {}.{}: asked {doing:?}, {} of {} INFOs",
                c.number, c.attempt, c.done_infos, c.infos
            )
        };
        stuck.map(describe).collect()
    }
}

impl Call {
    fn proceed(&mut self, ctx: &mut Context) {
        let what = match &self.peer {
            None => Asking::Invite,
            Some(_) if self.done_infos < self.infos => Asking::Info,
            Some(_) if self.bye => Asking::Bye,
            Some(_) => {
                self.next = Micros::MAX;
                return;
            }
        };
        self.cseq += 1;
        if what == Asking::Invite {
            self.invited = ctx.now;
        }
        let asked = Asked {
            what,
            cseq: self.cseq,
            bytes: self.build(what),
            wait: T1,
            due: ctx.now + T1,
            until: ctx.now + GIVE_UP,
        };
        let (number, cseq) = (self.number, self.cseq);
        ctx.log(|| format!("call {number}: {what:?} {cseq}"));
        ctx.datagram(
            Node::Callers,
            Node::Proxy(self.proxy),
            Datagram::Sip(asked.bytes.clone()),
        );
        self.asked = Some(asked);
    }

    fn repeat(&mut self, ctx: &mut Context, proxies: usize) {
        let now = ctx.now;
        let Some(asked) = &mut self.asked else { return };
        if asked.until <= now {
            return self.try_again(ctx);
        }
        if asked.due > now {
            return;
        }
        asked.wait = (asked.wait * 2).min(if asked.what == Asking::Invite { GIVE_UP } else { T2 });
        asked.due = now + asked.wait;
        // The proxies share one address: whatever is sent after one died arrives at another.
        if !ctx.lives(Node::Proxy(self.proxy)) {
            self.proxy = ctx.rng.index(proxies);
        }
        ctx.datagram(
            Node::Callers,
            Node::Proxy(self.proxy),
            Datagram::Sip(asked.bytes.clone()),
        );
    }

    /// An error or silence: whether it was carried out is not known.
    fn try_again(&mut self, ctx: &mut Context) {
        let Some(asked) = self.asked.take() else { return };
        let (number, what) = (self.number, asked.what);
        ctx.log(|| format!("call {number}: {what:?} failed"));
        self.next = ctx.now + ctx.rng.range(500, 2_000) * MS;
        if asked.what == Asking::Invite {
            // A new call: what the failed one has left behind ends without its ACK.
            self.attempt += 1;
            self.byes.clear();
        } else {
            self.uncertain += 1;
        }
    }

    fn build(&self, what: Asking) -> Vec<u8> {
        let method = match what {
            Asking::Invite => Method::Invite,
            Asking::Info => Method::Info,
            Asking::Bye => Method::Bye,
        };
        self.build_as(method, self.cseq, "")
    }

    fn build_as(&self, method: Method<'_>, cseq: u32, suffix: &str) -> Vec<u8> {
        let (number, attempt) = (self.number, self.attempt);
        let port = 10_000 + number;
        let mut out = Vec::new();
        let uri = self
            .peer
            .as_ref()
            .map_or(b"sip:answer@192.0.2.1".as_slice(), |p| &p.contact);
        let to = match &self.peer {
            Some(peer) => format!("<sip:answer@192.0.2.1>;tag={}", String::from_utf8_lossy(&peer.tag)),
            None => "<sip:answer@192.0.2.1>".to_owned(),
        };
        let mut request = RequestBuilder::new(&mut out, method, uri)
            .other(
                "Via",
                format!("SIP/2.0/UDP {HOST}:{port};branch=z9hG4bKc{number}a{attempt}r{cseq}{suffix}").as_bytes(),
            )
            .other("Max-Forwards", b"70")
            .other(
                "From",
                format!("<sip:c{number}@{HOST}>;tag=f{number}a{attempt}").as_bytes(),
            )
            .other("To", to.as_bytes())
            .other("Call-ID", format!("{number}.{attempt}@sim").as_bytes())
            .cseq(cseq, method)
            .other("Contact", format!("<sip:c{number}@{HOST}:{port}>").as_bytes());
        if method == Method::Invite {
            let hold = if self.bye { 600_000 } else { HOLD };
            request = request.other("Subject", format!("{} {hold}", self.ring).as_bytes());
        }
        for route in self.peer.iter().flat_map(|p| &p.routes) {
            request = request.other("Route", route);
        }
        request.finish();
        out
    }

    fn request(&mut self, ctx: &mut Context, from: Node, message: &Message<'_>, attempt: u32) {
        if message.method() == Method::Bye {
            let mut out = Vec::new();
            ResponseBuilder::new(&mut out, message, 200, "OK", None).finish();
            ctx.datagram(Node::Callers, from, Datagram::Sip(out));
            if attempt != self.attempt {
                return;
            }
            // The container's own Via is the second: its transaction.
            let branch = message
                .vias()
                .nth(1)
                .and_then(|via| via.params.get(b"branch"))
                .unwrap_or(b"")
                .to_vec();
            self.byes.insert(branch);
            if self.byes.len() > 1 {
                ctx.oracle.fail(format!(
                    "call {}: ended twice by the cluster: a timer fired twice",
                    self.number
                ));
            }
            if !self.done {
                self.finish(ctx);
            }
        }
    }

    fn finish(&mut self, ctx: &mut Context) {
        self.done = true;
        self.asked = None;
        ctx.oracle.seen.calls += 1;
    }

    fn response(&mut self, ctx: &mut Context, message: &Message<'_>) {
        let status = message.status().unwrap_or(0);
        let Some(cseq) = message.cseq() else { return };
        ctx.oracle.seen.committed += 1;
        if cseq.method == Method::Invite {
            return self.invite_response(ctx, message, status);
        }
        let Some(asked) = self.asked.as_mut().filter(|a| a.cseq == cseq.number) else {
            return;
        };
        let number = self.number;
        match (asked.what, status) {
            (_, 100..=199) => asked.due = Micros::MAX,
            (_, 408 | 480 | 500 | 503) => self.try_again(ctx),
            (Asking::Info, 200) => {
                self.asked = None;
                self.done_infos += 1;
                self.next = ctx.now + ctx.rng.range(50, 2_500) * MS;
                let body = std::str::from_utf8(message.body())
                    .ok()
                    .and_then(|b| b.parse::<u32>().ok())
                    .unwrap_or(0);
                let expected = self.done_infos..=self.done_infos + self.uncertain;
                if !expected.contains(&body) {
                    ctx.oracle
                        .fail(format!("call {number}: INFO counted as {body}, not {expected:?}"));
                }
            }
            (Asking::Bye, 200) => self.finish(ctx),
            // An earlier BYE without an answer may have done it.
            (Asking::Bye, 481) if self.uncertain > 0 => self.finish(ctx),
            // The session's time is over, and the cluster's BYE is on its way.
            (_, 481) if !self.bye && ctx.now >= self.invited + (HOLD - 500) * MS => {
                self.asked = None;
                self.next = Micros::MAX;
            }
            (what, status) if !self.done => {
                ctx.oracle.fail(format!(
                    "call {number}: {what:?} was answered {status} after {} ms",
                    (ctx.now - self.begun) / MS
                ));
            }
            _ => {}
        }
    }

    fn invite_response(&mut self, ctx: &mut Context, message: &Message<'_>, status: u16) {
        let number = self.number;
        let tag = message.to().and_then(|to| to.tag()).unwrap_or(b"").to_vec();
        match status {
            100..=199 => {
                if let Some(asked) = self.asked.as_mut().filter(|a| a.what == Asking::Invite) {
                    asked.due = Micros::MAX;
                    asked.until = Micros::MAX;
                }
            }
            200..=299 => {
                if let Some(peer) = &self.peer {
                    if peer.tag != tag {
                        ctx.oracle
                            .fail(format!("call {number} was doubled: two answers with different tags"));
                    }
                    ctx.datagram(Node::Callers, Node::Proxy(self.proxy), Datagram::Sip(self.ack.clone()));
                    return;
                }
                let Some(asked) = self.asked.take_if(|a| a.what == Asking::Invite) else {
                    return;
                };
                let contact = message.contact().map(|c| c.uri_bytes.to_vec()).unwrap_or_default();
                let mut routes: Vec<_> = message.record_routes().map(|r| r.raw.to_vec()).collect();
                routes.reverse();
                self.peer = Some(Peer { tag, contact, routes });
                self.ack = self.build_as(Method::Ack, asked.cseq, "ack");
                ctx.log(|| format!("call {number} answered"));
                ctx.datagram(Node::Callers, Node::Proxy(self.proxy), Datagram::Sip(self.ack.clone()));
                self.next = ctx.now + ctx.rng.range(50, 2_500) * MS;
            }
            _ => self.refused(ctx, message, status),
        }
    }

    fn refused(&mut self, ctx: &mut Context, message: &Message<'_>, status: u16) {
        let Some(asked) = self.asked.as_ref().filter(|a| a.what == Asking::Invite) else {
            return;
        };
        // RFC 3261 s17.1.1.3: the ACK of a refusal has the INVITE's branch and the refusal's To.
        let mut ack = Vec::new();
        let invite = OwnedMessage::scan(asked.bytes.clone().into(), &Limits::default()).expect("we wrote it");
        let invite = invite.as_message();
        RequestBuilder::new(&mut ack, Method::Ack, invite.request_uri_bytes())
            .copy(&invite, sip::HeaderName::Via)
            .other("Max-Forwards", b"70")
            .copy(&invite, sip::HeaderName::From)
            .copy(message, sip::HeaderName::To)
            .copy(&invite, sip::HeaderName::CallId)
            .cseq(asked.cseq, Method::Ack)
            .finish();
        ctx.datagram(Node::Callers, Node::Proxy(self.proxy), Datagram::Sip(ack));
        match status {
            408 | 480 | 500 | 503 => self.try_again(ctx),
            status => ctx
                .oracle
                .fail(format!("call {}: INVITE refused with {status}", self.number)),
        }
    }
}

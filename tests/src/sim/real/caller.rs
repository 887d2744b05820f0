//! Callers that speak SIP over lossy datagrams, with RFC 3261's repetitions: INVITE, perhaps its CANCEL, INFOs and re-INVITEs, and then
//! BYE, waiting for the cluster's BYE, or staying to the end of the run.

mod invite;
mod text;

use crate::sim::caller::Datagram;
use crate::sim::net::{Context, MS, Micros, Node};
use sip::{Limits, Message, Method, OwnedMessage, ResponseBuilder};
use std::collections::BTreeSet;
use std::net::SocketAddr;
use ucf::routing::HEARTBEAT_HEADER;

pub(super) const T1: Micros = 500 * MS;
pub(super) const T2: Micros = 4_000 * MS;
/// 64 * T1: RFC 3261's timers B and F.
pub(super) const GIVE_UP: Micros = 32_000 * MS;
/// Milliseconds after which the cluster ends a call that does not end itself.
const HOLD: u64 = 12_000;
const HOST: &str = "198.51.100.1";

/// Call and attempt of a message or a dialog: the caller's address is in its From or To, on either side of a back-to-back user agent.
pub(super) fn call_of(bytes: &[u8]) -> Option<(usize, u32)> {
    let name = b"<sip:c";
    let at = bytes.windows(name.len()).position(|w| w == name)? + name.len();
    let end = bytes[at..].iter().position(|b| *b == b'@')? + at;
    let (call, attempt) = std::str::from_utf8(&bytes[at..end]).ok()?.split_once('.')?;
    Some((call.parse().ok()?, attempt.parse().ok()?))
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Asking {
    Invite,
    Cancel,
    /// INFO or, counted alike, re-INVITE.
    Info,
    Reinvite,
    Bye,
}

/// How a call ends.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Ends {
    /// By the caller's BYE.
    Bye,
    /// By the cluster's, when its time is over.
    Expires,
    /// Not in this run.
    Stays,
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
    ends: Ends,
    asked: Option<Asked>,
    /// When the ringing INVITE is cancelled.
    cancel_at: Option<Micros>,
    cancelling: Option<Asked>,
    /// The CANCEL was accepted.
    cancelled: bool,
    peer: Option<Peer>,
    /// When the next request is made.
    next: Micros,
    /// Requests whose fate is unknown: answered with an error by a proxy that could not tell.
    uncertain: u32,
    byes: BTreeSet<Vec<u8>>,
    begun: Micros,
    /// When the INVITE of this attempt was first sent, and its CSeq.
    invited: Micros,
    invite_cseq: u32,
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
                ends: match ctx.rng.range(0, 100) {
                    0..55 => Ends::Bye,
                    55..85 => Ends::Expires,
                    _ => Ends::Stays,
                },
                asked: None,
                cancel_at: None,
                cancelling: None,
                cancelled: false,
                peer: None,
                next: begun,
                uncertain: 0,
                byes: BTreeSet::new(),
                begun,
                invited: 0,
                invite_cseq: 0,
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
            call.cancel(ctx);
        }
        let due = |call: &Call| {
            let cancel = call.cancelling.as_ref().map(|asked| asked.due).or(call.cancel_at);
            let next = match &call.asked {
                Some(asked) => asked.due.min(asked.until),
                None if call.done => Micros::MAX,
                None => call.next,
            };
            next.min(cancel.unwrap_or(Micros::MAX))
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
        if message
            .headers(sip::HeaderName::Other)
            .any(|header| header.name_bytes == HEARTBEAT_HEADER.as_bytes())
        {
            ctx.oracle
                .fail("a caller was sent what is between proxy and container".to_owned());
        }
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

    /// Calls that are up.
    pub fn staying(&self) -> impl Iterator<Item = u32> + '_ {
        self.calls.iter().filter(|call| call.is_up()).map(Call::name)
    }

    /// Whether a call is up that was made by this attempt.
    pub fn are_up(&self, (number, attempt): (usize, u32)) -> bool {
        let call = &self.calls[number];
        call.is_up() && call.attempt == attempt
    }

    /// Ends what is up. Whatever was uncertain before, each BYE has to be answered by 200.
    pub fn hang_up(&mut self, ctx: &mut Context) {
        for call in self.calls.iter_mut().filter(|call| call.is_up()) {
            (call.ends, call.done, call.uncertain) = (Ends::Bye, false, 0);
            call.next = ctx.now;
        }
        self.wake(ctx);
    }

    /// Calls that are not where they should be at the end.
    pub fn unfinished(&self, ctx: &Context) -> Vec<String> {
        let stuck = self
            .calls
            .iter()
            .filter(|c| !c.done && !ctx.oracle.excused.contains(&c.name()));
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
            Some(_) if self.done_infos < self.infos && ctx.rng.chance(30) => Asking::Reinvite,
            Some(_) if self.done_infos < self.infos => Asking::Info,
            Some(_) => match self.ends {
                Ends::Bye => Asking::Bye,
                Ends::Expires => {
                    self.next = Micros::MAX;
                    return;
                }
                Ends::Stays => return self.finish(ctx),
            },
        };
        self.cseq += 1;
        if what == Asking::Invite {
            self.invited = ctx.now;
            self.invite_cseq = self.cseq;
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
        self.send(ctx, asked.bytes.clone());
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
        let longest = match asked.what {
            Asking::Invite | Asking::Reinvite => GIVE_UP,
            _ => T2,
        };
        asked.wait = (asked.wait * 2).min(longest);
        asked.due = now + asked.wait;
        // The proxies share one address: whatever is sent after one died or was cut off arrives at another, sooner or later.
        let is_cut_off = ctx.islands.contains(&self.proxy) && ctx.rng.chance(50);
        if is_cut_off || !ctx.lives(Node::Proxy(self.proxy)) {
            self.proxy = ctx.rng.index(proxies);
        }
        let bytes = asked.bytes.clone();
        self.send(ctx, bytes);
    }

    fn send(&self, ctx: &mut Context, bytes: Vec<u8>) {
        ctx.datagram(
            Node::Callers,
            Node::Proxy(self.proxy),
            Datagram::Sip(self.address(), bytes),
        );
    }

    /// Each call has a port.
    fn address(&self) -> SocketAddr {
        let port = u16::try_from(10_000 + self.number).expect("few calls");
        SocketAddr::new(HOST.parse().expect("an address"), port)
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
            (self.cancel_at, self.cancelling, self.cancelled) = (None, None, false);
        } else {
            self.uncertain += 1;
        }
    }

    fn request(&mut self, ctx: &mut Context, from: Node, message: &Message<'_>, attempt: u32) {
        if message.method() == Method::Bye {
            let mut out = Vec::new();
            ResponseBuilder::new(&mut out, message, 200, "OK", None).finish();
            ctx.datagram(Node::Callers, from, Datagram::Sip(self.address(), out));
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
            let its_time = self.ends == Ends::Expires && ctx.now >= self.invited + (HOLD - 500) * MS;
            if self.peer.is_some() && !its_time {
                self.wrong(ctx, "ended by the cluster before its time");
            }
            self.byes.insert(branch);
            if self.byes.len() > 1 {
                self.wrong(ctx, "ended twice by the cluster: a timer fired twice");
            }
            if !self.done {
                self.finish(ctx);
            }
        }
    }

    fn is_up(&self) -> bool {
        self.done && self.ends == Ends::Stays && self.byes.is_empty() && self.peer.is_some()
    }

    fn finish(&mut self, ctx: &mut Context) {
        self.done = true;
        self.asked = None;
        (self.cancel_at, self.cancelling) = (None, None);
        ctx.oracle.seen.calls += 1;
    }

    /// The number by which observers know it.
    fn name(&self) -> u32 {
        u32::try_from(self.number).expect("few calls")
    }

    /// Something that must not be, unless both copies of the call's state were lost.
    fn wrong(&mut self, ctx: &mut Context, what: &str) {
        if ctx.oracle.excused.contains(&self.name()) {
            ctx.oracle.seen.excused += 1;
            self.done = true;
            self.asked = None;
            (self.cancel_at, self.cancelling) = (None, None);
        } else {
            ctx.oracle.fail(format!("call {}: {what}", self.number));
        }
    }

    fn response(&mut self, ctx: &mut Context, message: &Message<'_>) {
        let status = message.status().unwrap_or(0);
        let Some(cseq) = message.cseq() else { return };
        match cseq.method {
            Method::Invite if cseq.number == self.invite_cseq => return self.invite_response(ctx, message, status),
            Method::Invite => self.acknowledge(ctx, message, status),
            Method::Cancel => return self.cancel_response(ctx, cseq.number, status),
            _ => {}
        }
        let Some(asked) = self.asked.as_mut().filter(|a| a.cseq == cseq.number) else {
            return;
        };
        match (asked.what, status) {
            (_, 100..=199) => asked.due = Micros::MAX,
            // 491 and 500: a re-INVITE whose fate is unknown is still under way (RFC 3261 s14.2).
            (_, 408 | 480 | 491 | 500 | 503) => self.try_again(ctx),
            (Asking::Info | Asking::Reinvite, 200) => self.counted(ctx, message.body()),
            (Asking::Bye, 200) => self.finish(ctx),
            // An earlier BYE without an answer may have done it.
            (Asking::Bye, 481) if self.uncertain > 0 => self.finish(ctx),
            // The session's time is over, and the cluster's BYE is on its way.
            (_, 481) if self.ends == Ends::Expires && ctx.now >= self.invited + (HOLD - 500) * MS => {
                self.asked = None;
                self.next = Micros::MAX;
            }
            (what, status) if !self.done => {
                let after = (ctx.now - self.begun) / MS;
                self.wrong(ctx, &format!("{what:?} was answered {status} after {after} ms"));
            }
            _ => {}
        }
    }

    /// An INFO or re-INVITE was answered, with how many of them there have been.
    fn counted(&mut self, ctx: &mut Context, body: &[u8]) {
        self.asked = None;
        self.done_infos += 1;
        self.next = ctx.now + ctx.rng.range(50, 2_500) * MS;
        let text = std::str::from_utf8(body).ok();
        let body = text.and_then(|b| b.parse::<u32>().ok()).unwrap_or(0);
        let expected = self.done_infos..=self.done_infos + self.uncertain;
        if !expected.contains(&body) {
            self.wrong(ctx, &format!("counted as {body}, not {expected:?}"));
        }
    }
}

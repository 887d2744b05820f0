//! Callers: each call invites, sends some requests one after the other, and either says goodbye or waits for its session to expire.

use super::checks::Call;
use super::container::Said;
use super::net::{Context, MS, Micros, Node};
use std::collections::BTreeMap;
use std::net::SocketAddr;

/// What travels between callers and proxies.
#[derive(Clone, Debug, PartialEq)]
pub enum Datagram {
    /// A request: 0 is the INVITE.
    Request {
        /// Of which call.
        call: Call,
        /// Its running number.
        request: u32,
        /// It ends the call.
        bye: bool,
        /// For the INVITE: when the session expires, in the store's time.
        expires: Micros,
    },
    /// The answer to the cluster's own request (a session that expired).
    Acknowledge {
        /// Of which call.
        call: Call,
    },
    /// What the cluster says.
    Said(Call, Said),
    /// A real message, in runs of the real parts, and the address outside from which it comes or to which it goes.
    Sip(SocketAddr, Vec<u8>),
}

impl Datagram {
    /// The call.
    #[must_use]
    pub fn call(&self) -> Call {
        match self {
            Datagram::Request { call, .. } | Datagram::Acknowledge { call } | Datagram::Said(call, _) => *call,
            Datagram::Sip(..) => 0,
        }
    }
}

struct Dialog {
    proxy: usize,
    next: u32,
    last: u32,
    bye: bool,
    expires: Micros,
    /// When the next request or repetition is due.
    due: Micros,
    wait: Micros,
    waiting: bool,
    fired: bool,
    done: bool,
}

/// All callers of a run.
pub struct Callers {
    calls: BTreeMap<Call, Dialog>,
    proxies: usize,
}

impl Callers {
    /// As many calls as wanted, begun before `until`.
    pub fn new(ctx: &mut Context, calls: u32, proxies: usize, until: Micros) -> Self {
        let mut all = BTreeMap::new();
        for call in 0..calls {
            let start = ctx.rng.range(0, until);
            let dialog = Dialog {
                proxy: ctx.rng.index(proxies),
                next: 0,
                last: u32::try_from(ctx.rng.range(1, 7)).expect("small"),
                bye: ctx.rng.chance(70),
                expires: start + ctx.rng.range(2_000, 15_000) * MS,
                due: start,
                wait: 500 * MS,
                waiting: false,
                fired: false,
                done: false,
            };
            ctx.wake(Node::Callers, start);
            all.insert(call, dialog);
        }
        Self { calls: all, proxies }
    }

    /// Time has passed.
    pub fn wake(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        for (call, dialog) in &mut self.calls {
            if dialog.due > now || dialog.done {
                continue;
            }
            if dialog.waiting {
                dialog.wait = (dialog.wait * 2).min(4_000 * MS);
                // A phone that hears nothing tries another address of the cluster.
                if dialog.wait >= 2_000 * MS && dialog.next > 0 || !ctx.lives(Node::Proxy(dialog.proxy)) {
                    dialog.proxy = ctx.rng.index(self.proxies);
                }
            } else {
                dialog.wait = 500 * MS;
                dialog.waiting = true;
            }
            let request = Datagram::Request {
                call: *call,
                request: dialog.next,
                bye: dialog.bye && dialog.next == dialog.last,
                expires: dialog.expires,
            };
            let (number, proxy) = (dialog.next, dialog.proxy);
            ctx.log(|| format!("call {call}: request {number} to proxy {proxy}"));
            ctx.datagram(Node::Callers, Node::Proxy(dialog.proxy), request);
            dialog.due = now + dialog.wait;
        }
        let next = self.calls.values().filter(|d| !d.done).map(|d| d.due).min();
        if let Some(next) = next.filter(|due| *due < Micros::MAX) {
            ctx.wake(Node::Callers, next);
        }
    }

    /// The cluster says something.
    pub fn handle(&mut self, ctx: &mut Context, from: Node, call: Call, said: &Said) {
        let Some(dialog) = self.calls.get_mut(&call) else {
            return;
        };
        match said {
            Said::Answer { request, .. } => {
                if !ctx.oracle.on_answer(call, said) {
                    dialog.done = true;
                    ctx.oracle.seen.excused += 1;
                    return;
                }
                if dialog.waiting && *request == dialog.next {
                    ctx.oracle.answers_at.push(ctx.now);
                    dialog.waiting = false;
                    dialog.next += 1;
                    dialog.due = ctx.now + ctx.rng.range(50, 2_500) * MS;
                    if dialog.next > dialog.last {
                        dialog.due = Micros::MAX;
                        dialog.done = dialog.bye || dialog.fired;
                        ctx.oracle.seen.calls += u64::from(dialog.done);
                    } else {
                        ctx.wake(Node::Callers, dialog.due);
                    }
                }
            }
            Said::Fired { nonce } => {
                ctx.oracle.on_fire(call, *nonce);
                dialog.fired = true;
                if !dialog.done && !dialog.waiting && dialog.next > dialog.last {
                    dialog.done = true;
                    ctx.oracle.seen.calls += 1;
                }
                let answer = Datagram::Acknowledge { call };
                ctx.datagram(Node::Callers, from, answer);
            }
        }
    }

    /// Calls that are not where they should be at the end.
    pub fn unfinished(&self, ctx: &Context) -> Vec<String> {
        let stuck = self
            .calls
            .iter()
            .filter(|(call, d)| !d.done && !ctx.oracle.excused.contains(call));
        let describe = |(call, d): (&Call, &Dialog)| {
            let fate = if d.waiting {
                "unanswered"
            } else {
                "its timer did not fire"
            };
            format!("call {call} at request {} of {}: {fate}", d.next, d.last)
        };
        stuck.map(describe).collect()
    }
}

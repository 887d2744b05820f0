//! INVITEs of a caller: answers, ACKs and CANCEL.

use super::{Asked, Asking, Call, GIVE_UP, MS, Micros, Peer, T1, T2};
use crate::sim::net::Context;
use sip::{Message, Method};

impl Call {
    /// An answer to the INVITE that makes the call.
    pub(super) fn invite_response(&mut self, ctx: &mut Context, message: &Message<'_>, status: u16) {
        let tag = message.to().and_then(|to| to.tag()).unwrap_or(b"").to_vec();
        match status {
            100..=199 => {
                let asked = self.asked.as_mut().filter(|a| a.what == Asking::Invite);
                let Some(asked) = asked.filter(|a| a.due < Micros::MAX) else {
                    return;
                };
                asked.due = Micros::MAX;
                asked.until = Micros::MAX;
                if self.ring > 0 && ctx.rng.chance(40) {
                    self.cancel_at = Some(ctx.now + ctx.rng.range(0, self.ring * MS));
                }
            }
            200..=299 => {
                if let Some(peer) = &self.peer {
                    if peer.tag != tag {
                        self.wrong(ctx, "doubled: two answers with different tags");
                    }
                    return self.acknowledge(ctx, message, status);
                }
                if self.asked.take_if(|a| a.what == Asking::Invite).is_none() {
                    return;
                }
                self.cancel_at = None;
                let contact = message.contact().map(|c| c.uri_bytes.to_vec()).unwrap_or_default();
                let mut routes: Vec<_> = message.record_routes().map(|r| r.raw.to_vec()).collect();
                routes.reverse();
                self.peer = Some(Peer { tag, contact, routes });
                let number = self.number;
                ctx.log(|| format!("call {number} answered"));
                self.acknowledge(ctx, message, status);
                self.next = ctx.now + ctx.rng.range(50, 2_500) * MS;
            }
            _ => self.refused(ctx, message, status),
        }
    }

    /// The ACK of any final answer to an INVITE.
    pub(super) fn acknowledge(&mut self, ctx: &mut Context, message: &Message<'_>, status: u16) {
        let Some(cseq) = message.cseq() else { return };
        let ack = match status {
            100..=199 => return,
            200..=299 if self.peer.is_none() => return,
            200..=299 => self.build_as(Method::Ack, cseq.number, "ack"),
            _ => {
                let Some(invite) = self.asked.as_ref().filter(|a| a.cseq == cseq.number) else {
                    return;
                };
                self.like_invite(Method::Ack, &invite.bytes, Some(message))
            }
        };
        self.send(ctx, ack);
    }

    fn refused(&mut self, ctx: &mut Context, message: &Message<'_>, status: u16) {
        if self.asked.as_ref().is_none_or(|a| a.what != Asking::Invite) {
            return;
        }
        self.acknowledge(ctx, message, status);
        match status {
            487 if self.cancelled || self.cancelling.is_some() => self.finish(ctx),
            408 | 480 | 500 | 503 => self.try_again(ctx),
            status => self.wrong(ctx, &format!("INVITE refused with {status}")),
        }
    }

    /// Sends the CANCEL when it is due, and again (RFC 3261 s9.1: as any request but INVITE).
    pub(super) fn cancel(&mut self, ctx: &mut Context) {
        let now = ctx.now;
        if self.cancel_at.take_if(|at| *at <= now).is_some()
            && let Some(invite) = self.asked.as_ref().filter(|a| a.what == Asking::Invite)
        {
            let number = self.number;
            ctx.log(|| format!("call {number}: Cancel"));
            self.cancelling = Some(Asked {
                what: Asking::Cancel,
                cseq: invite.cseq,
                bytes: self.like_invite(Method::Cancel, &invite.bytes, None),
                wait: T1 / 2,
                due: now,
                until: now + GIVE_UP,
            });
        }
        self.cancelling.take_if(|asked| asked.until <= now);
        if let Some(asked) = self.cancelling.as_mut().filter(|asked| asked.due <= now) {
            asked.wait = (asked.wait * 2).min(T2);
            asked.due = now + asked.wait;
            let bytes = asked.bytes.clone();
            self.send(ctx, bytes);
        }
    }

    pub(super) fn cancel_response(&mut self, ctx: &mut Context, cseq: u32, status: u16) {
        let Some(asked) = self.cancelling.as_mut().filter(|a| a.cseq == cseq) else {
            return;
        };
        match status {
            100..=199 => asked.due = Micros::MAX,
            200 => {
                self.cancelling = None;
                self.cancelled = true;
                ctx.oracle.seen.cancels += 1;
            }
            // Whether it was carried out is not known; the INVITE is answered in either case.
            408 | 480 | 500 | 503 => {
                self.cancelling = None;
                self.cancelled = true;
            }
            status => self.wrong(ctx, &format!("CANCEL was answered {status}")),
        }
    }
}

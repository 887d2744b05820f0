//! `b2bua`: a back-to-back user agent. It answers nothing itself: each call that comes in goes out again by the first route that matches,
//! and what one side says within the call is said to the other. Both dialogs are of one session, and so of one partition.
//!
//! Each side has its own tags, CSeq, Route, session timer and reliable responses; bodies pass untouched, header fields by the table in
//! [`headers`]. What collides is refused where it does (491, RFC 3261 s14): there is no waiting in between.

pub mod headers;
mod routes;

pub use routes::{Network, Route, RoutedMethod, Target};

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use sip::dialog::DialogState;
use sip::{HeaderName, Method};

use super::{
    Application, Call, CallNumber, DialogNumber, Ended, Message, Outgoing, Profile, Reply, Request, Response, Session,
    TimerId, TransactionId, session_policy,
};

/// How it behaves; the manifest's words.
#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Options {
    /// Where calls go: the first that matches. A call that none matches is refused with 404.
    pub routes: Vec<Route>,
    /// How long a callee may ring.
    #[serde(deserialize_with = "super::period", default = "three_minutes")]
    pub ring: Duration,
    /// The session timer that it asks for on both sides (RFC 4028), at least 90 s; zero: only what the peers ask for.
    #[serde(deserialize_with = "super::period", default = "half_an_hour")]
    pub session_expires: Duration,
}

/// RFC 3261 s16.6 step 11: as long as a proxy would wait (timer C).
fn three_minutes() -> Duration {
    Duration::from_secs(180)
}

fn half_an_hour() -> Duration {
    Duration::from_secs(1800)
}

/// The application.
#[derive(Debug)]
pub struct B2bua {
    options: Options,
    profile: Profile,
}

const METHODS: &[&str] = &[
    "INVITE", "ACK", "CANCEL", "BYE", "OPTIONS", "UPDATE", "PRACK", "INFO", "REFER", "NOTIFY", "MESSAGE",
];
const EXTENSIONS: &[&str] = &["timer", "100rel", "replaces"];
/// The callee has rung long enough.
const RING: TimerId = TimerId(1);
/// The numbers of the two dialogs that are connected.
const LEGS: &str = "legs";

impl B2bua {
    /// The application with these options.
    #[must_use]
    pub fn new(options: Options) -> Self {
        let profile = Profile {
            methods: METHODS,
            extensions: EXTENSIONS,
            session: session_policy(options.session_expires),
        };
        Self { options, profile }
    }

    /// A new call: out again by its route.
    fn route(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let refuse = |session: &mut Session<'_>, status| session.respond(request.transaction(), Reply::new(status));
        let wire = request.message().wire();
        let Some(route) = self.options.routes.iter().find(|route| route.matches(request)) else {
            return refuse(session, 404);
        };
        // Without it two clusters whose routes lead to each other would call until both are full.
        let Some(hops) = wire.max_forwards().unwrap_or(70).checked_sub(1) else {
            return refuse(session, 483);
        };
        let Some(target) = route.target.uri(wire.request_uri()) else {
            return refuse(session, 404);
        };
        let header = |name| wire.header(name).unwrap_or_default();
        let invite = passed_on(Outgoing::new("INVITE"), request.message()).relaying(request.transaction());
        let call = Call::new(&target, header(HeaderName::From), header(HeaderName::To), invite);
        if session.call(call.max_forwards(hops)).is_some() {
            session.start_timer(RING, self.options.ring);
        } else {
            refuse(session, 500);
        }
    }

    /// An INVITE that takes the place of one side (RFC 3891): the other side is asked with its offer.
    fn replace(&self, session: &mut Session<'_>, request: &Request<'_>, replaced: DialogNumber) {
        if !self.may_replace(request) {
            return session.respond(request.transaction(), Reply::new(403));
        }
        let other = peer(session, replaced).filter(|_| legs(session).is_some());
        match other.and_then(|other| session.dialog(other)) {
            Some(view) if view.may_invite() => {
                let other = view.number();
                let invite = passed_on(Outgoing::new("INVITE"), request.message()).relaying(request.transaction());
                session.send(other, invite);
            }
            Some(_) => session.respond(request.transaction(), Reply::new(491)),
            None => session.respond(request.transaction(), Reply::new(481)),
        }
    }

    /// RFC 3891 s3: to know the names of a dialog is not enough. Whoever takes a place comes from where calls come from or go to, as one does
    /// who is transferred. Whom a route is for (user, domain) says nothing here: nobody is called. A route that is open to all opens its
    /// own calls, not the places in others'.
    fn may_replace(&self, request: &Request<'_>) -> bool {
        let routes = &self.options.routes;
        let named = |source| routes.iter().any(|route| route.names(source));
        routes.iter().all(|route| route.source.is_none()) || request.source().is_some_and(named)
    }

    /// The other side answers whoever asked; if that is a newcomer, it is connected from now on, and the side that it replaces ended.
    fn answered(&self, session: &mut Session<'_>, request: TransactionId, response: &Response<'_>) {
        let newcomer = session
            .dialogs()
            .find(|view| view.invite() == Some(request) && view.state() == DialogState::Early);
        let newcomer = newcomer.map(|view| view.number());
        let has_ended = |dialog| session.dialog(dialog).is_none_or(|view| view.has_ended());
        if newcomer.is_some() && response.dialog().is_none_or(has_ended) {
            // Whom the newcomer was to talk to has left meanwhile.
            return session.respond(request, Reply::new(480));
        }
        session.respond(request, answer(response));
        let Some((newcomer, other)) = newcomer
            .zip(response.dialog())
            .filter(|_| (200..300).contains(&response.status()))
        else {
            return;
        };
        let replaced = peer(session, other);
        set_legs(session, newcomer, other);
        if let Some(replaced) = replaced {
            session.hang_up(replaced);
        }
    }

    /// A request within the call, for the other side.
    fn relay(&self, session: &mut Session<'_>, request: &Request<'_>, from: DialogNumber) {
        let refuse = |session: &mut Session<'_>, status| session.respond(request.transaction(), Reply::new(status));
        let Some(to) = peer(session, from) else {
            // The other side has not been heard of yet.
            return session.respond(request.transaction(), Reply::new(500).header("Retry-After", b"1"));
        };
        let invite = request.method() == Method::Invite;
        match session.dialog(to) {
            Some(view) if view.has_ended() => return refuse(session, 481),
            None => return refuse(session, 481),
            Some(view) if invite && !view.may_invite() => return refuse(session, 491),
            Some(_) => {}
        }
        let method = String::from_utf8_lossy(request.method().as_bytes()).into_owned();
        let outgoing = passed_on(Outgoing::new(&method), request.message()).relaying(request.transaction());
        session.send(to, outgoing);
    }

    /// What the callee says to the INVITE.
    fn called(&self, session: &mut Session<'_>, response: &Response<'_>) {
        let Some(request) = response.relays() else { return };
        match response.status() {
            100..200 => {
                let mut reply = answer(response);
                if response
                    .message()
                    .is_some_and(|message| message.wire().requires(b"100rel"))
                {
                    reply = reply.reliably();
                }
                session.respond(request, reply);
            }
            200..300 => self.connect(session, request, response),
            _ => {
                session.stop_timer(RING);
                session.respond(request, answer(response));
            }
        }
    }

    /// The callee has answered.
    fn connect(&self, session: &mut Session<'_>, request: TransactionId, response: &Response<'_>) {
        session.stop_timer(RING);
        let caller = session.dialogs().find(|view| view.invite() == Some(request));
        let (Some(caller), Some(callee)) = (caller.map(|view| view.number()), response.dialog()) else {
            // The caller has gone in the same moment.
            return response.dialog().into_iter().for_each(|dialog| session.hang_up(dialog));
        };
        set_legs(session, caller, callee);
        session.respond(request, answer(response));
    }
}

impl Application for B2bua {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        let dialog = request.dialog();
        let state = dialog
            .and_then(|dialog| session.dialog(dialog))
            .map(|view| view.state());
        let ok = Reply::new(200);
        match (request.method(), dialog) {
            (Method::Ack, Some(dialog)) => acknowledge(session, request, dialog),
            (Method::Ack, None) => {}
            (Method::Invite, Some(_)) if state == Some(DialogState::Early) => match request.replaces() {
                Some(replaced) => self.replace(session, request, replaced),
                None => self.route(session, request),
            },
            // Is this side there? The other side has nothing to do with it.
            (Method::Options, _) => session.respond(
                request.transaction(),
                ok.header(HeaderName::Accept.as_str(), b"application/sdp"),
            ),
            // RFC 3311: without an offer it only refreshes the session timer, which is this side's own.
            (Method::Update, Some(_)) if request.message().body().is_empty() => {
                session.respond(request.transaction(), ok);
            }
            (_, Some(dialog)) => self.relay(session, request, dialog),
            (_, None) => session.respond(request.transaction(), Reply::new(405)),
        }
    }

    fn on_response(&self, session: &mut Session<'_>, response: &Response<'_>) {
        match (response.call(), response.relays()) {
            (Some(_), _) => self.called(session, response),
            (None, Some(request)) if response.status() >= 200 => self.answered(session, request, response),
            _ => {}
        }
    }

    fn on_timer(&self, session: &mut Session<'_>, timer: TimerId) {
        // Nobody answers: the end of the caller's dialog is the end of the call out.
        let invite = session.dialogs().find_map(|view| view.invite());
        if let Some(invite) = invite.filter(|_| timer == RING) {
            session.respond(invite, Reply::new(480));
        }
    }

    fn on_ended(&self, session: &mut Session<'_>, dialog: DialogNumber, _why: Ended) {
        match legs(session) {
            Some((one, other)) if dialog == one => session.hang_up(other),
            Some((one, other)) if dialog == other => session.hang_up(one),
            Some(_) => {}
            None => {
                let from_caller = session.dialog(dialog).is_some_and(|view| view.call().is_none());
                let calls: Vec<CallNumber> = session.calls().filter(|_| from_caller).collect();
                for call in calls {
                    session.cancel(call);
                }
                session.stop_timer(RING);
            }
        }
    }
}

/// The ACK of a 2xx: if it answers the offer of that 2xx, the other side waits for it.
fn acknowledge(session: &mut Session<'_>, request: &Request<'_>, from: DialogNumber) {
    let waits = |to: &DialogNumber| session.dialog(*to).is_some_and(|view| view.awaits_answer());
    if let Some(to) = peer(session, from).filter(waits) {
        let message = request.message();
        let body = Bytes::copy_from_slice(message.body());
        let kind = content_type(message);
        session.acknowledge(to, (!body.is_empty()).then_some((kind.as_str(), body)));
    }
}

/// The other side of a dialog.
fn peer(session: &Session<'_>, dialog: DialogNumber) -> Option<DialogNumber> {
    match legs(session) {
        Some((one, other)) if dialog == one => Some(other),
        Some((one, other)) if dialog == other => Some(one),
        Some(_) => None,
        // Nobody has answered: the caller's side is the one that we did not call; of several callees the latest is heard.
        None => {
            let outgoing = session.dialog(dialog)?.call().is_some();
            let others = session.dialogs().filter(|view| view.call().is_some() != outgoing);
            others.last().map(|view| view.number())
        }
    }
}

fn legs(session: &Session<'_>) -> Option<(DialogNumber, DialogNumber)> {
    let (one, other) = session.attribute(LEGS)?.split_first_chunk()?;
    let other = other.first_chunk()?;
    Some((
        DialogNumber(u32::from_be_bytes(*one)),
        DialogNumber(u32::from_be_bytes(*other)),
    ))
}

fn set_legs(session: &mut Session<'_>, one: DialogNumber, other: DialogNumber) {
    session.set_attribute(LEGS, [one.0.to_be_bytes(), other.0.to_be_bytes()].concat());
}

/// A request with the header fields and the body of the one that it passes on.
fn passed_on(mut outgoing: Outgoing, message: Message<'_>) -> Outgoing {
    for (name, value) in headers::passing(message.wire(), false) {
        outgoing = outgoing.header(&name, value);
    }
    if message.body().is_empty() {
        return outgoing;
    }
    outgoing.body(&content_type(message), Bytes::copy_from_slice(message.body()))
}

/// What the one side answers, for the other.
fn answer(response: &Response<'_>) -> Reply {
    let status = status_for(response);
    let mut reply = Reply::new(status);
    let Some(message) = response.message() else {
        return reply;
    };
    let wire = message.wire();
    if status == response.status() {
        reply = reply.reason(&String::from_utf8_lossy(wire.reason()));
    }
    for (name, value) in headers::passing(wire, (300..400).contains(&status)) {
        // It goes with the status that is not passed on.
        if status != response.status() && name.eq_ignore_ascii_case(HeaderName::RetryAfter.as_str()) {
            continue;
        }
        reply = reply.header(&name, value);
    }
    if message.body().is_empty() {
        return reply;
    }
    reply.body(&content_type(message), Bytes::copy_from_slice(message.body()))
}

/// A failure of one side in the words for the other.
fn status_for(response: &Response<'_>) -> u16 {
    match (response.status(), response.message().is_some()) {
        // No way to the callee, for now.
        (503, false) => 480,
        // RFC 3261 s16.7 step 6: the callee is overloaded, not this cluster, which the caller would avoid.
        (503, true) => 500,
        // The other side wants credentials, an interval or an extension for a dialog that is not the caller's.
        (420 | 421 | 422 | 494, true) => 500,
        (status, _) => status,
    }
}

fn content_type(message: Message<'_>) -> String {
    let kind = message
        .header(HeaderName::ContentType)
        .unwrap_or(b"application/octet-stream");
    String::from_utf8_lossy(kind).into_owned()
}

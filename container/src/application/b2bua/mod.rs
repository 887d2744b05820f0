//! `b2bua`: a back-to-back user agent. It answers nothing itself: each call that comes in goes out again by the first route that matches,
//! and what one side says within the call is said to the other. Both dialogs are of one session, and so of one partition.
//!
//! Each side has its own tags, CSeq, Route, session timer and reliable responses; bodies pass untouched, header fields by the table in
//! [`headers`]. If the manifest says so, media is led through rtpengine: then session descriptions wait for what it makes of them
//! ([`media`]). What collides is refused where it does (491, RFC 3261 s14): there is no waiting in between.

pub mod headers;
mod media;
mod passing;
mod routes;

pub use media::Media;
pub use routes::{Network, Route, RoutedMethod, Target};

use std::time::Duration;

use bytes::Bytes;
use serde::Deserialize;
use sip::dialog::DialogState;
use sip::{HeaderName, Method};

use super::{
    About, Application, Call, CallNumber, DialogNumber, Ended, Message, Outgoing, Outside, Profile, Reply, Request,
    Response, Session, TimerId, TransactionId, session_policy,
};
use crate::rtpengine::{Client, Command};
use media::{Led, Unled, side};
use passing::{answer, body_of, content_type, passed_on, unled};

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
    /// What leads media; `None`: it goes from end to end.
    #[serde(default)]
    pub media: Option<Media>,
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
    fn route(&self, session: &mut Session<'_>, request: &Request<'_>, led: Led<'_>) {
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
        let from = request.dialog().map_or(0, |dialog| side(session, dialog));
        let Some(body) = self.offer(session, request, (from, None), led) else {
            return;
        };
        let header = |name| wire.header(name).unwrap_or_default();
        let invite = passed_on(Outgoing::new("INVITE"), request.message(), body).relaying(request.transaction());
        let call = Call::new(&target, header(HeaderName::From), header(HeaderName::To), invite);
        if session.call(call.max_forwards(hops)).is_some() {
            session.start_timer(RING, self.options.ring);
        } else {
            refuse(session, 500);
        }
    }

    /// An INVITE that takes the place of one side (RFC 3891): the other side is asked with its offer.
    fn replace(&self, session: &mut Session<'_>, request: &Request<'_>, replaced: DialogNumber, led: Led<'_>) {
        if !self.may_replace(request) {
            return session.respond(request.transaction(), Reply::new(403));
        }
        let other = peer(session, replaced).filter(|_| legs(session).is_some());
        match other.and_then(|other| session.dialog(other)) {
            Some(view) if view.may_invite() => {
                let other = view.number();
                let from = request.dialog().map_or(0, |dialog| side(session, dialog));
                let to = side(session, other);
                if let Some(body) = self.offer(session, request, (from, Some(to)), led) {
                    let invite = passed_on(Outgoing::new("INVITE"), request.message(), body);
                    session.send(other, invite.relaying(request.transaction()));
                }
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
    fn answered(&self, session: &mut Session<'_>, request: TransactionId, response: &Response<'_>, led: Led<'_>) {
        let newcomer = session
            .dialogs()
            .find(|view| view.invite() == Some(request) && view.state() == DialogState::Early);
        let newcomer = newcomer.map(|view| view.number());
        let has_ended = |dialog| session.dialog(dialog).is_none_or(|view| view.has_ended());
        if newcomer.is_some() && response.dialog().is_none_or(has_ended) {
            // Whom the newcomer was to talk to has left meanwhile.
            return session.respond(request, Reply::new(480));
        }
        let body = match self.said(session, request, response, led) {
            Ok(body) => body,
            Err(Unled::Asked) => return,
            Err(Unled::Failed) => {
                session.respond(request, unled());
                return response
                    .dialog()
                    .into_iter()
                    .for_each(|dialog| end_unanswered(session, dialog));
            }
        };
        session.respond(request, answer(response, body));
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
    fn relay(&self, session: &mut Session<'_>, request: &Request<'_>, from: DialogNumber, led: Led<'_>) {
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
        let sides = (side(session, from), Some(side(session, to)));
        let Some(body) = self.offer(session, request, sides, led) else {
            return;
        };
        let method = String::from_utf8_lossy(request.method().as_bytes()).into_owned();
        let outgoing = passed_on(Outgoing::new(&method), request.message(), body).relaying(request.transaction());
        session.send(to, outgoing);
    }

    /// What the callee says to the INVITE.
    fn called(&self, session: &mut Session<'_>, response: &Response<'_>, led: Led<'_>) {
        let Some(request) = response.relays() else { return };
        match response.status() {
            100..200 => {
                let body = match self.said(session, request, response, led) {
                    Ok(body) => body,
                    Err(Unled::Asked) => return,
                    Err(Unled::Failed) => return session.respond(request, unled()),
                };
                let mut reply = answer(response, body);
                if response
                    .message()
                    .is_some_and(|message| message.wire().requires(b"100rel"))
                {
                    reply = reply.reliably();
                }
                session.respond(request, reply);
            }
            200..300 => self.connect(session, request, response, led),
            _ => {
                session.stop_timer(RING);
                session.respond(request, answer(response, body_of(response)));
            }
        }
    }

    /// The callee has answered.
    fn connect(&self, session: &mut Session<'_>, request: TransactionId, response: &Response<'_>, led: Led<'_>) {
        session.stop_timer(RING);
        let caller = session.dialogs().find(|view| view.invite() == Some(request));
        let (Some(caller), Some(callee)) = (caller.map(|view| view.number()), response.dialog()) else {
            // The caller has gone in the same moment.
            return response.dialog().into_iter().for_each(|dialog| session.hang_up(dialog));
        };
        set_legs(session, caller, callee);
        match self.said(session, request, response, led) {
            Ok(body) => session.respond(request, answer(response, body)),
            Err(Unled::Asked) => {}
            Err(Unled::Failed) => {
                end_unanswered(session, callee);
                // The end of the caller's dialog is that of the callee's.
                session.respond(request, unled());
            }
        }
    }

    /// The ACK of a 2xx: if it answers the offer of that 2xx, the other side waits for it.
    fn acknowledge(&self, session: &mut Session<'_>, request: &Request<'_>, from: DialogNumber, led: Led<'_>) {
        let waits = |to: &DialogNumber| session.dialog(*to).is_some_and(|view| view.awaits_answer());
        let Some(to) = peer(session, from).filter(waits) else {
            return;
        };
        let message = request.message();
        let answer = Command::Answer {
            from: side(session, to),
            to: side(session, from),
            sdp: message.body(),
        };
        match self.lead(session, message, answer, led) {
            Ok(body) => {
                let kind = content_type(message);
                session.acknowledge(to, (!body.is_empty()).then_some((kind.as_str(), body)));
            }
            Err(Unled::Asked) => {}
            Err(Unled::Failed) => end_unanswered(session, to),
        }
    }

    /// The body of a request on the other side, whose offer it may be; `None`: the request waits for it, or is refused.
    fn offer(
        &self,
        session: &mut Session<'_>,
        request: &Request<'_>,
        (from, to): (u32, Option<u32>),
        led: Led<'_>,
    ) -> Option<Bytes> {
        let sdp = request.message().body();
        match self.lead(session, request.message(), Command::Offer { from, to, sdp }, led) {
            Ok(body) => Some(body),
            Err(Unled::Asked) => None,
            Err(Unled::Failed) => {
                session.respond(request.transaction(), unled());
                None
            }
        }
    }

    /// The body of a response on the side of `request`: its answer, or the offer that it has asked for.
    fn said(
        &self,
        session: &mut Session<'_>,
        request: TransactionId,
        response: &Response<'_>,
        led: Led<'_>,
    ) -> Result<Bytes, Unled> {
        let untouched = Ok(body_of(response));
        let (Some(message), Some(dialog)) = (response.message(), response.dialog()) else {
            return untouched;
        };
        let asker = session.dialogs().find(|view| view.invite() == Some(request));
        let asker = asker.map(|view| view.number()).or_else(|| peer(session, dialog));
        let (Some(asker), 101..300) = (asker, response.status()) else {
            return untouched;
        };
        let (here, there) = (side(session, dialog), side(session, asker));
        let sdp = message.body();
        let offers = session.dialog(dialog).is_some_and(|view| view.awaits_answer());
        let command = match offers {
            true => Command::Offer {
                from: here,
                to: Some(there),
                sdp,
            },
            false => Command::Answer {
                from: there,
                to: here,
                sdp,
            },
        };
        self.lead(session, message, command, led)
    }

    /// What a body becomes on the other side.
    fn lead(
        &self,
        session: &mut Session<'_>,
        message: Message<'_>,
        command: Command<'_>,
        led: Led<'_>,
    ) -> Result<Bytes, Unled> {
        match &self.options.media {
            Some(media) => media.lead(session, message, command, led),
            None => Ok(Bytes::copy_from_slice(message.body())),
        }
    }

    /// A request, for the first time or with what its description is led to.
    fn request(&self, session: &mut Session<'_>, request: &Request<'_>, led: Led<'_>) {
        let dialog = request.dialog();
        let state = dialog
            .and_then(|dialog| session.dialog(dialog))
            .map(|view| view.state());
        let ok = Reply::new(200);
        match (request.method(), dialog) {
            (Method::Ack, Some(dialog)) => self.acknowledge(session, request, dialog, led),
            (Method::Ack, None) => {}
            (Method::Invite, Some(_)) if state == Some(DialogState::Early) => match request.replaces() {
                Some(replaced) => self.replace(session, request, replaced, led),
                None => self.route(session, request, led),
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
            (_, Some(dialog)) => self.relay(session, request, dialog, led),
            (_, None) => session.respond(request.transaction(), Reply::new(405)),
        }
    }

    /// A response likewise.
    fn response(&self, session: &mut Session<'_>, response: &Response<'_>, led: Led<'_>) {
        match (response.call(), response.relays()) {
            (Some(_), _) => self.called(session, response, led),
            (None, Some(request)) if response.status() >= 200 => self.answered(session, request, response, led),
            _ => {}
        }
    }

    fn finish(&self, session: &mut Session<'_>) {
        if let Some(media) = &self.options.media {
            media.finish(session);
        }
    }
}

impl Application for B2bua {
    fn profile(&self) -> &Profile {
        &self.profile
    }

    fn on_request(&self, session: &mut Session<'_>, request: &Request<'_>) {
        self.request(session, request, Led::No);
    }

    fn on_response(&self, session: &mut Session<'_>, response: &Response<'_>) {
        self.response(session, response, Led::No);
        self.finish(session);
    }

    fn on_answer(&self, session: &mut Session<'_>, about: &About<'_>, answer: Option<&[u8]>) {
        let led = match &self.options.media {
            Some(media) => media.read(session, answer),
            None => Led::Failed,
        };
        match about {
            About::Request(request) => self.request(session, request, led),
            About::Response(response) => self.response(session, response, led),
            About::Nothing => {}
        }
        self.finish(session);
    }

    fn outside(&self, seed: u64) -> Option<Box<dyn Outside>> {
        let leads = self.options.media.is_some();
        leads.then(|| Box::new(Client::new(seed)) as Box<dyn Outside>)
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
        self.finish(session);
    }
}

/// The offer that a 2xx of this dialog has brought gets no answer, so the dialog ends (RFC 3261 s13.2.2.4).
fn end_unanswered(session: &mut Session<'_>, dialog: DialogNumber) {
    if session.dialog(dialog).is_some_and(|view| view.awaits_answer()) {
        session.acknowledge(dialog, None);
        session.hang_up(dialog);
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

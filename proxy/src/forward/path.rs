//! The path of a message, top to bottom (RFC 3261 s16).
//!
//! ```text
//! client ── request ──► check ► hops ► loop ► Proxy-Require ► own Routes ► classify ► edit inward ► deliver ─► container
//! client ── response ─► check ► our Via? ► container's Via ► partition ► pop ──────────────────────► deliver ─► container
//! container ─ request ► fence ► Route with flow ► hops ► pop, Via, Record-Route ─────────────────────────────► client
//! container ─ response ► fence ► pop our Via ► flow and client's Via (s18.2.2) ──────────────────────────────► client
//! ```

use std::net::SocketAddr;
use std::time::Duration;

use sip::{Edit, Header, HeaderName, Host, Instant, Message, Method, Via};
use ucf::PartitionId;
use ucf::flow::{Flow, Held, Transport};
use ucf::load::Urgency;
use ucf::routing::{HEADER_PREFIX, HEARTBEAT_HEADER, Slot};
use ucf::token::Affinity;
use ucf::transactions::Keys;
use ucf::wire::{Body, Fenced};

use super::Core;
use super::counters::{DropReason, Kind, Outcome};
use super::early::Waits;
use super::effects::{Effect, Effects, LinkId};
use super::island::begins;
use super::keep_open::is_translated;
use super::own::DEFAULT_PORT;
use super::refusal::Refusal;
use super::request::{Request, Routes};

/// The largest message that is scanned, and what is added to it.
const MAX_MESSAGE: usize = 66 << 10;

/// A message and how it came.
#[derive(Clone, Copy)]
pub(super) struct Arrival<'a> {
    pub(super) now: Instant,
    pub(super) message: &'a Message<'a>,
}

/// Where a client's request goes.
struct Class {
    kind: Kind,
    partition: PartitionId,
}

impl Core {
    // ---- from clients ----

    /// A client's message.
    pub(super) fn client(&mut self, arrival: Arrival<'_>, source: &Flow, edit: &mut Edit, effects: &mut Effects) {
        let message = arrival.message;
        match sip::check(message) {
            Err(reject) if !reject.answer => self.counters.drop(DropReason::Malformed),
            Err(reject) => {
                let refusal = Refusal::malformed(reject.status, reject.reason);
                self.refuse(Kind::NewRequest, refusal, message, source, edit, effects);
            }
            Ok(()) if message.is_request() => self.client_request(arrival, source, edit, effects),
            Ok(()) => self.peer_response(arrival, edit, effects),
        }
    }

    fn client_request(&mut self, arrival: Arrival<'_>, source: &Flow, edit: &mut Edit, effects: &mut Effects) {
        let message = arrival.message;
        match self.inward(arrival, source, edit, effects) {
            Ok(Some((kind, outcome))) => self.counters.count(kind, outcome),
            Ok(None) => {}
            Err((kind, refusal)) => self.refuse(kind, refusal, message, source, edit, effects),
        }
    }

    /// RFC 3261 s16.3 to s16.6 for a client's request. None: it comes here again.
    fn inward(
        &mut self,
        arrival: Arrival<'_>,
        source: &Flow,
        edit: &mut Edit,
        effects: &mut Effects,
    ) -> Result<Option<(Kind, Outcome)>, (Kind, Refusal)> {
        let early = |refusal| (Kind::NewRequest, refusal);
        let request = Request::read(arrival.message, &self.config.keyring).map_err(early)?;
        self.check_hops(&request).map_err(early)?;
        self.check_loop(&request).map_err(early)?;
        self.check_proxy_require(&request).map_err(early)?;
        if let Some(answer) = self.called_off(arrival.now, &request, effects) {
            return Err(early(answer));
        }
        let routes = Routes::read(&request, &self.own, &self.config.keyring);
        let apart = self.waits_for_others(arrival.now) && source.transport == Transport::Udp;
        let repeated = apart && begins(request.message, source.transport);
        let class = match self.classify(arrival.now, &request, &routes, repeated) {
            Ok(class) if repeated && self.is_on_the_island(class.partition) => {
                let outcome = self.wait_for_others(arrival, source, request.keys.transaction);
                return Ok(outcome.map(|outcome| (class.kind, outcome)));
            }
            Ok(class) => class,
            Err(Refusal::NO_CONTAINER) if repeated => {
                let outcome = self.wait_for_others(arrival, source, request.keys.transaction);
                return Ok(outcome.map(|outcome| (Kind::NewRequest, outcome)));
            }
            Err(Refusal::UNKNOWN)
                if request.method == Method::Cancel && (apart || self.waits_here(request.keys.transaction)) =>
            {
                self.call_off_here(request.keys.transaction);
                return Ok(Some((Kind::NewRequest, Outcome::Dropped)));
            }
            Err(refusal) => match self.wait_for_news(arrival, source, request.keys.transaction, refusal) {
                Waits::No(refusal) => return Err(early(refusal)),
                Waits::Itself => return Ok(None),
                Waits::WithItsFirst => return Ok(Some((Kind::NewRequest, Outcome::Held))),
            },
        };
        self.edit_inward(&request, &routes, class.partition, source, edit);
        let outcome = self
            .deliver(arrival.now, class.partition, arrival.message, edit, effects)
            .map_err(|refusal| (class.kind, refusal))?;
        Ok(Some((class.kind, outcome)))
    }

    /// RFC 3261 s16.3 step 3.
    fn check_hops(&self, request: &Request<'_>) -> Result<(), Refusal> {
        match request.message.max_forwards() {
            Some(0) => Err(Refusal::TOO_MANY_HOPS),
            _ => Ok(()),
        }
    }

    /// RFC 3261 s16.3 step 4: it has been here, and nothing that routing depends on has changed since.
    fn check_loop(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let been_here = |via: &Via<'_>| {
            self.own.may_have_sent(via.host, via.port)
                && via
                    .branch()
                    .and_then(Keys::of_branch)
                    .is_some_and(|(_, looped)| looped == request.looped)
        };
        let below = request.message.values(HeaderName::Via).skip(1);
        let mut below = below.map_while(|value| Via::parse(value.bytes));
        if been_here(&request.via) || below.any(|via| been_here(&via)) {
            return Err(Refusal::LOOP);
        }
        Ok(())
    }

    /// RFC 3261 s16.3 step 5: no extension of a proxy is spoken here. ACK and CANCEL are exempt (s20.29).
    fn check_proxy_require(&self, request: &Request<'_>) -> Result<(), Refusal> {
        let asks = request.message.header(HeaderName::ProxyRequire).is_some();
        if asks && !matches!(request.method, Method::Ack | Method::Cancel) {
            return Err(Refusal::BAD_EXTENSION);
        }
        Ok(())
    }

    /// Whose the request is: by token, by the transactions that are known, else anybody's.
    fn classify(
        &mut self,
        now: Instant,
        request: &Request<'_>,
        routes: &Routes<'_>,
        repeated: bool,
    ) -> Result<Class, Refusal> {
        let ours = |kind, partition| Ok(Class { kind, partition });
        let in_dialog = request.to_tag.is_some();
        match routes.affinity {
            Affinity::Partition(partition) if in_dialog => return ours(Kind::InDialogRequest, partition),
            Affinity::Forged if !in_dialog => return Err(Refusal::FORGED),
            _ => (),
        }
        if let Some(tag) = request.to_tag {
            // Every tag of ours has a token, so nobody here knows any other; unless the request's target names the partition.
            let target = || request.target_affinity(&self.config.keyring).partition();
            let affinity = self.config.keyring.verify_tag(tag);
            return match affinity.partition().or_else(target) {
                Some(partition) => ours(Kind::InDialogRequest, partition),
                None => Err(Refusal::UNKNOWN),
            };
        }
        if let Some(partition) = self.transactions.find(request.keys.transaction) {
            return ours(Kind::InDialogRequest, partition);
        }
        match request.method {
            Method::Ack | Method::Cancel => return Err(Refusal::UNKNOWN),
            _ if self.transactions.is_merged(&request.keys) => return Err(Refusal::MERGED),
            _ => (),
        }
        let named = match request.target_affinity(&self.config.keyring) {
            Affinity::Forged => return Err(Refusal::FORGED),
            Affinity::Partition(partition) => Some(partition),
            Affinity::Absent => routes.affinity.partition(),
        };
        let partition = match named.or_else(|| request.named_dialog(&self.config.keyring)) {
            Some(partition) => partition,
            // Whether others have it is not known yet.
            None if repeated => return Err(Refusal::NO_CONTAINER),
            None => match self.choose(now, request) {
                Some(partition) => partition,
                None if self.has_active() => return Err(Refusal::OVERLOADED),
                None => return Err(Refusal::NO_CONTAINER),
            },
        };
        self.transactions.begin(now, &request.keys, partition);
        ours(Kind::NewRequest, partition)
    }

    /// A partition of the container with the least work.
    fn choose(&mut self, now: Instant, request: &Request<'_>) -> Option<PartitionId> {
        let random = self.random();
        let urgency = if request.is_emergency(&self.config.emergency) {
            Urgency::Emergency
        } else {
            Urgency::Usual
        };
        let direct = self
            .balancer
            .choose(now, random, urgency, |slot| self.waits(now, slot, urgency));
        let slot = direct.or_else(|| {
            let relayed = |slot: Slot| self.waits_relayed(now, slot);
            self.balancer.choose(now, random, urgency, relayed)
        })?;
        self.balancer.sent(now, slot);
        let owned = self.routing.owned(slot);
        Some(owned[(request.keys.transaction % owned.len() as u64) as usize])
    }

    /// How long the oldest message that a container has not confirmed has waited; none if it can take no new dialog. Half of the window is for calls
    /// that are up, and for emergency calls: while a container waits for the store it confirms nothing, and new ones are taken for some seconds.
    fn waits(&self, now: Instant, slot: Slot, urgency: Urgency) -> Option<Duration> {
        let link = self.containers.link(slot).filter(|_| self.owns(slot))?;
        let room = match urgency {
            Urgency::Usual => (self.config.limits.window_bytes / 2).max(MAX_MESSAGE),
            Urgency::Emergency => MAX_MESSAGE,
        };
        link.window.has_room(room).then(|| link.window.waited(now))
    }

    /// The same of one that is reached by way of another proxy, which alone knows how long.
    fn waits_relayed(&self, now: Instant, slot: Slot) -> Option<Duration> {
        (self.owns(slot) && self.relayed(now, slot).is_some()).then_some(Duration::ZERO)
    }

    /// Whether it owns a partition that a new dialog could be in.
    pub(super) fn owns(&self, slot: Slot) -> bool {
        !self.routing.owned(slot).is_empty()
    }

    /// How many of a hundred usual new dialogs are refused here at present.
    pub(super) fn refused_percent(&self, now: Instant) -> u8 {
        let direct = |slot: Slot| self.waits(now, slot, Urgency::Usual);
        let waits = |slot: Slot| direct(slot).or_else(|| self.waits_relayed(now, slot));
        self.balancer.refused_percent(waits)
    }

    /// RFC 3261 s16.4 and s16.6 towards a container.
    fn edit_inward(
        &self,
        request: &Request<'_>,
        routes: &Routes<'_>,
        partition: PartitionId,
        source: &Flow,
        edit: &mut Edit,
    ) {
        let message = request.message;
        let token = self.config.keyring.token(partition);
        let flow = Flow {
            translated: self.own.is_translated(source.listener, source.transport)
                || is_translated(&request.via, source),
            ..*source
        };
        let flow = self.with_holder(flow).encode(&self.config.keyring);
        edit.clear();
        remove_own_fields(message, edit);
        edit.push_above_with(message, HeaderName::Via, |out| {
            let branch = request.keys.branch(request.looped);
            self.own.write_via(out, source.listener, source.transport, &branch);
            out.extend_from_slice(b";pt=");
            out.extend_from_slice(token.as_bytes());
            out.extend_from_slice(b";fl=");
            out.extend_from_slice(flow.as_bytes());
        });
        edit.set_received(message, source.remote);
        edit.decrement_max_forwards(message);
        if routes.own > 0 {
            edit.pop(message, HeaderName::Route, routes.own);
        }
        if let Some((target, last)) = &routes.strict {
            // RFC 3261 s16.4: a strict router put our URI in the place of the target and that at the end of the Route.
            if let Some(span) = message.span_of(message.request_uri_bytes()) {
                edit.replace(span, target);
            }
            edit.remove_value(message, last);
        }
        if request.makes_dialog() {
            edit.push_above_with(message, HeaderName::RecordRoute, |out| {
                self.own
                    .write_record_route(out, source.listener, source.transport, token, &flow);
            });
        }
        edit.ensure_content_length(message);
    }

    /// A peer's response to a container's request: below our Via stands the container's, which names the partition.
    fn peer_response(&mut self, arrival: Arrival<'_>, edit: &mut Edit, effects: &mut Effects) {
        let message = arrival.message;
        let mut vias = message.vias();
        let ours = vias.next();
        let ours = ours.is_some_and(|via| self.own.may_have_sent(via.host, via.port));
        let partition = vias
            .next()
            .filter(|_| ours)
            .and_then(|via| self.config.keyring.verify_branch(via.branch()?).partition());
        let Some(partition) = partition else {
            self.counters.count(Kind::PeerResponse, Outcome::Dropped);
            return self.counters.drop(DropReason::StrayResponse);
        };
        edit.clear();
        remove_own_fields(message, edit);
        edit.pop(message, HeaderName::Via, 1);
        edit.ensure_content_length(message);
        let outcome = match self.deliver(arrival.now, partition, message, edit, effects) {
            Ok(outcome) => outcome,
            Err(refusal) => {
                self.counters.drop(refusal.drop);
                Outcome::Dropped
            }
        };
        self.counters.count(Kind::PeerResponse, outcome);
    }

    // ---- from containers ----

    /// A container's message.
    pub(super) fn container(
        &mut self,
        arrival: Arrival<'_>,
        (slot, link): (Slot, LinkId),
        edit: &mut Edit,
        effects: &mut Effects,
    ) {
        let message = arrival.message;
        edit.clear();
        let mut vias = message.vias();
        let top = vias.next();
        let sent = match self.check_output(arrival, top.as_ref(), slot, edit) {
            Err(Unfit::Fenced(partition, fenced)) => {
                let body = Body::Fenced(fenced);
                effects.push(Effect::Frame { link, body });
                if self.wait_for_ownership(arrival, link, partition) {
                    return;
                }
                Err(DropReason::Fenced)
            }
            Err(Unfit::Drop(why)) => Err(why),
            Ok(_) if message.is_response() => self.respond(arrival.now, message, (top, vias.next()), edit, effects),
            Ok(partition) => self.outward(arrival.now, message, partition, edit, effects),
        };
        self.count_output(message, sent);
    }

    /// Counts what became of a container's message.
    pub(super) fn count_output(&mut self, message: &Message<'_>, sent: Result<(), DropReason>) {
        let kind = if message.is_request() {
            Kind::ContainerRequest
        } else {
            Kind::ContainerResponse
        };
        match sent {
            Ok(()) => self.counters.count(kind, Outcome::Forwarded),
            Err(why) => {
                self.counters.count(kind, Outcome::Dropped);
                self.counters.drop(why);
            }
        }
    }

    /// The fence: only the owner's output passes, and output from memory only with a fresh heartbeat.
    fn check_output(
        &self,
        arrival: Arrival<'_>,
        top: Option<&Via<'_>>,
        slot: Slot,
        edit: &mut Edit,
    ) -> Result<Option<PartitionId>, Unfit> {
        let message = arrival.message;
        let via = top.ok_or(Unfit::Drop(DropReason::Malformed))?;
        let keyring = &self.config.keyring;
        let named = if message.is_request() {
            via.branch().map(|branch| keyring.verify_branch(branch))
        } else {
            via.param(b"pt").map(|token| keyring.verify(token))
        };
        let partition = named.and_then(Affinity::partition);
        if let Some(partition) = partition
            && let Some((owner, epoch)) = self.routing.fenced(slot, partition)
        {
            let fenced = Fenced {
                partition: u32::from(partition.0),
                owner: owner.0,
                epoch: epoch.0,
            };
            return Err(Unfit::Fenced(partition, fenced));
        }
        let stamps = |header: &Header<'_>| header.name_bytes.eq_ignore_ascii_case(HEARTBEAT_HEADER.as_bytes());
        let is_stale = |header: &Header<'_>| !self.is_fresh(arrival.now, slot, header.value);
        if own_fields(message).any(|header| stamps(&header) && is_stale(&header)) {
            return Err(Unfit::Drop(DropReason::Stale));
        }
        remove_own_fields(message, edit);
        Ok(partition)
    }

    /// Whether a container's output from memory names a heartbeat that was sent not long ago.
    fn is_fresh(&self, now: Instant, slot: Slot, heartbeat: &[u8]) -> bool {
        std::str::from_utf8(heartbeat)
            .ok()
            .and_then(|number| number.parse().ok())
            .and_then(|number| self.containers.link(slot)?.age(now, number))
            .is_some_and(|age| age <= self.config.lease * 4 / 5)
    }

    /// Sends a response, whose topmost Via is ours and whose next is the client's, to the client (RFC 3261 s16.7, s18.2.2).
    pub(super) fn respond(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        vias: (Option<Via<'_>>, Option<Via<'_>>),
        edit: &mut Edit,
        effects: &mut Effects,
    ) -> Result<(), DropReason> {
        let (Some(ours), Some(client)) = vias else {
            return Err(DropReason::StrayResponse);
        };
        let flow = ours
            .param(b"fl")
            .and_then(|text| Flow::decode(text, &self.config.keyring))
            .ok_or(DropReason::NoFlow)?;
        if message.status().is_some_and(|status| status >= 200)
            && let Some((keys, _)) = ours.branch().and_then(Keys::of_branch)
        {
            self.transactions.end(now, keys.transaction);
        }
        edit.pop(message, HeaderName::Via, 1);
        self.own.fill_contact(message, flow.listener, edit);
        edit.set_overload_control(message, &client, self.overload);
        self.send(response_flow(flow, &client), effects, |out| {
            edit.apply_into(message, out);
        });
        Ok(())
    }

    /// RFC 3261 s16.6 for a container's request: on the flow of the topmost Route of ours, else to the next hop.
    fn outward(
        &mut self,
        now: Instant,
        message: &Message<'_>,
        partition: Option<PartitionId>,
        edit: &mut Edit,
        effects: &mut Effects,
    ) -> Result<(), DropReason> {
        let request = Request::read_outward(message, &self.config.keyring).map_err(|refusal| refusal.drop)?;
        let routes = Routes::read(&request, &self.own, &self.config.keyring);
        let flow = match routes.flow {
            // One that does not verify is not replaced by the target, which the peer has chosen freely.
            Some(text) => Flow::decode(text, &self.config.keyring),
            None => self.next_hop(&request, &routes),
        };
        let refusal = match (flow, self.check_hops(&request)) {
            (Some(flow), Ok(())) => {
                self.edit_outward(&request, &routes, partition, &flow, edit);
                self.send(flow, effects, |out| edit.apply_into(message, out));
                return Ok(());
            }
            (_, Err(refusal)) => refusal,
            (None, Ok(())) => Refusal::NO_FLOW,
        };
        self.refuse_container(now, refusal, message, partition, effects);
        Err(refusal.drop)
    }

    fn edit_outward(
        &self,
        request: &Request<'_>,
        routes: &Routes<'_>,
        partition: Option<PartitionId>,
        flow: &Flow,
        edit: &mut Edit,
    ) {
        let message = request.message;
        edit.push_above_with(message, HeaderName::Via, |out| {
            let branch = request.keys.branch(request.looped);
            self.own.write_via(out, flow.listener, flow.transport, &branch);
            // The answer comes back to where this left from, whatever translates it on its way (RFC 3581 s4).
            out.extend_from_slice(b";rport");
        });
        edit.decrement_max_forwards(message);
        self.own.fill_contact(message, flow.listener, edit);
        if routes.own > 0 {
            edit.pop(message, HeaderName::Route, routes.own);
        }
        if let Some(partition) = partition
            && request.makes_dialog()
        {
            let token = self.config.keyring.token(partition);
            let text = self.with_holder(*flow).encode(&self.config.keyring);
            edit.push_above_with(message, HeaderName::RecordRoute, |out| {
                self.own
                    .write_record_route(out, flow.listener, flow.transport, token, &text);
            });
        }
        edit.ensure_content_length(message);
    }

    /// Without a flow: the next Route or the Request-URI (RFC 3261 s16.6 step 6), if it is an address.
    fn next_hop(&self, request: &Request<'_>, routes: &Routes<'_>) -> Option<Flow> {
        let uri = match routes.next {
            Some(uri) => Some(uri),
            None => request.message.request_uri(),
        }
        .filter(sip::Uri::is_sip)?;
        let Host::Address(ip) = uri.host()? else { return None };
        let stream = uri
            .params
            .get(b"transport")
            .is_some_and(|t| t.eq_ignore_ascii_case(b"tcp"));
        let (transport, listener) = (
            if stream { Transport::Tcp } else { Transport::Udp },
            self.own.listener_towards(ip),
        );
        Some(Flow {
            transport,
            listener,
            remote: SocketAddr::new(ip, uri.port.unwrap_or(DEFAULT_PORT)),
            translated: self.own.is_translated(listener, transport),
            held: None,
        })
    }

    /// The flow as others are told it: where each proxy has an address of its own, a datagram's flow is bound to that.
    fn with_holder(&self, flow: Flow) -> Flow {
        let is_bound = flow.transport == Transport::Udp && self.own.is_apart();
        let here = is_bound.then(|| Held::Address {
            process: self.config.me.incarnation,
            place: self.own.place(),
        });
        Flow {
            held: flow.held.or(here),
            ..flow
        }
    }

    // ---- out ----

    /// Sends to a client, through the worker that holds its connection, or the proxy that has the address of its flow. While there is no such proxy,
    /// this one sends: a peer that takes datagrams from any source hears it.
    pub(super) fn send(&self, mut to: Flow, effects: &mut Effects, write: impl FnOnce(&mut Vec<u8>)) {
        match to.held {
            Some(held) if !self.holds(held) => {
                if let Some((link, mut body)) = self.through_holder(&to, held) {
                    write(&mut body.message);
                    let body = Body::ToClient(body);
                    return effects.push(Effect::Frame { link, body });
                }
                to.held = None;
            }
            Some(Held::Connection { by, .. }) if by != self.config.me => {
                let worker = by.worker;
                return effects.push_message(write, |message| Effect::Worker { worker, to, message });
            }
            // All workers of a process have its address.
            _ => (),
        }
        effects.push_message(write, |message| Effect::Client { to, message });
    }
}

/// Header fields that parts of the cluster write for one another. Free for a message without fields of unknown name, as most are.
fn own_fields<'a>(message: &Message<'a>) -> impl Iterator<Item = Header<'a>> + use<'a> {
    let is_own = |header: &Header<'_>| {
        let start = header.name_bytes.get(..HEADER_PREFIX.len());
        start.is_some_and(|start| start.eq_ignore_ascii_case(HEADER_PREFIX.as_bytes()))
    };
    message.headers(HeaderName::Other).filter(is_own)
}

fn remove_own_fields(message: &Message<'_>, edit: &mut Edit) {
    for header in own_fields(message) {
        edit.remove_header(message, header.ordinal);
    }
}

/// Why a container's output goes no further.
enum Unfit {
    Fenced(PartitionId, Fenced),
    Drop(DropReason),
}

/// Where a response goes: the flow of its request, but as the client's Via says (RFC 3261 s18.2.2, RFC 3581 s4). `maddr` is not
/// followed: it would let anybody aim our answers.
pub(super) fn response_flow(flow: Flow, via: &Via<'_>) -> Flow {
    let port = via.port.unwrap_or(DEFAULT_PORT);
    let remote = match flow.transport {
        Transport::Udp if via.rport().is_some() => flow.remote,
        // A datagram without rport goes to the port of sent-by; a stream does so should its connection be gone.
        _ => SocketAddr::new(flow.remote.ip(), port),
    };
    Flow { remote, ..flow }
}

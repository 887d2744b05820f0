//! From memory to records and back.

use bytes::Bytes;
use sip::dialog::{
    Agreed, Dialog, DialogParts, DialogState, DialogText, OutgoingInvite, OutgoingInviteParts, Pending, ReliableParts,
    SentAck, SessionParts,
};
use sip::transaction::{
    ClientSnapshot, ClientState, ClientTransaction, ServerSnapshot, ServerState, ServerTransaction, Timers,
};
use sip::{Instant, Limits, NameAddr, OwnedMessage, Refresher};
use ucf::ProxyId;

use super::clock::StoreClock;
use super::partition::{Cancel, ClientTx, Partition, ServerTx};
use crate::application::{AskSlot, CallSlot, DialogSlot, Flow, SessionCore, TimerId};
use crate::records::{self, Key, Kind, Record};

/// Writes the record of a key, which counts as stored from then on; `None` if there is nothing to be kept.
pub(super) fn store(
    partition: &mut Partition,
    key: Key,
    clock: StoreClock,
    now: Instant,
    contact: &[u8],
) -> Option<Bytes> {
    let record = encode(partition, key, clock, now, contact)?;
    let stored = match key.kind {
        Kind::Session => &mut partition.sessions.get_mut(&key.id)?.stored,
        Kind::Server => &mut partition.servers.get_mut(&key.id)?.stored,
        Kind::Client => &mut partition.clients.get_mut(&key.id)?.stored,
    };
    *stored = true;
    Some(record)
}

/// The record of a key; `None` if there is nothing to be kept.
pub(super) fn encode(
    partition: &Partition,
    key: Key,
    clock: StoreClock,
    now: Instant,
    contact: &[u8],
) -> Option<Bytes> {
    let id = key.id;
    match key.kind {
        Kind::Session => {
            let session = partition.sessions.get(&id)?;
            // A session without dialog is a request that is answered at once.
            if session.is_over() && session.timers.is_empty() && session.attributes.is_empty() {
                return None;
            }
            Some(write(&from_session(session, clock, now, contact)))
        }
        Kind::Server => Some(write(&from_server(partition.servers.get(&id)?, clock, now))),
        Kind::Client => Some(write(&from_client(partition.clients.get(&id)?, clock, now))),
    }
}

fn write(record: &impl prost::Message) -> Bytes {
    record.encode_to_vec().into()
}

fn from_session(session: &SessionCore, clock: StoreClock, now: Instant, contact: &[u8]) -> records::Session {
    records::Session {
        dialogs: session
            .dialogs
            .iter()
            .map(|slot| from_dialog(slot, clock, now, contact))
            .collect(),
        attributes: session
            .attributes
            .iter()
            .map(|(name, value)| records::Attribute {
                name: name.to_string(),
                value: value.clone(),
            })
            .collect(),
        timers: session
            .timers
            .iter()
            .map(|(id, at)| records::Timer {
                id: id.0,
                deadline: clock.store(*at),
            })
            .collect(),
        calls: session.calls.iter().map(|call| from_call(call, contact)).collect(),
        asks: session.asks.iter().map(from_ask).collect(),
        numbers: if session.numbers == numbers_by(&session.dialogs) {
            0
        } else {
            session.numbers
        },
    }
}

/// How many numbers are used up as far as the dialogs say.
fn numbers_by(dialogs: &[DialogSlot]) -> u32 {
    dialogs
        .iter()
        .map(|slot| slot.number.saturating_add(1))
        .max()
        .unwrap_or(0)
}

fn from_ask(ask: &AskSlot) -> records::Ask {
    let AskSlot {
        number,
        question,
        about,
    } = ask;
    records::Ask {
        number: *number,
        question: question.clone(),
        about: about.clone(),
    }
}

fn to_ask(record: records::Ask) -> AskSlot {
    let records::Ask {
        number,
        question,
        about,
    } = record;
    AskSlot {
        number,
        question,
        about,
    }
}

fn from_call(call: &CallSlot, contact: &[u8]) -> records::Call {
    let OutgoingInviteParts { text, cseq, sdp } = call.invite.to_parts();
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    records::Call {
        number: call.number,
        call_id: copy(text.call_id),
        local: copy(text.local),
        remote: copy(text.remote),
        contact: unusual(text.contact, contact),
        target: copy(text.target),
        cseq,
        sdp,
        transaction: call.transaction,
        flow: Some(from_flow(&call.flow)),
    }
}

/// A Contact, empty if it is the usual one.
fn unusual(value: &[u8], usual: &[u8]) -> Bytes {
    if value == usual {
        Bytes::new()
    } else {
        Bytes::copy_from_slice(value)
    }
}

fn from_dialog(slot: &DialogSlot, clock: StoreClock, now: Instant, contact: &[u8]) -> records::Dialog {
    let parts = slot.dialog.to_parts(now);
    let text = parts.text;
    let copy = |bytes: &[u8]| Bytes::copy_from_slice(bytes);
    records::Dialog {
        number: slot.number,
        call_id: copy(text.call_id),
        local: copy(text.local),
        remote: copy(text.remote),
        contact: unusual(text.contact, contact),
        target: copy(text.target),
        routes: copy(text.routes),
        state: parts.state as u32,
        caller: parts.caller,
        local_cseq: parts.local_cseq,
        remote_cseq: parts.remote_cseq,
        flow: Some(from_flow(&slot.flow)),
        session: parts.session.map(|timer| records::Refresh {
            seconds: timer.interval,
            min_se: timer.min_se,
            ours: timer.we_refresh,
            refresh: clock.store(now + timer.refresh_left),
            expires: clock.store(now + timer.left),
        }),
        pending: (parts.pending != Pending::default()).then(|| from_pending(&parts.pending)),
        reliable: parts.reliable.into_iter().map(from_reliable).collect(),
        invite: slot.invite,
        ended: slot.ended,
        call: slot.call,
        bye_due: slot.bye_due,
        ack: parts.ack.filter(has_body).map(|sent| records::SentAck {
            cseq: sent.cseq,
            ack: sent.ack,
            until: clock.store(sent.until),
        }),
    }
}

/// An ACK without a body can be written anew from the dialog.
fn has_body(sent: &SentAck) -> bool {
    !sent.ack.ends_with(b"\r\n\r\n")
}

fn from_reliable(part: ReliableParts) -> records::Reliable {
    let ReliableParts {
        rseq,
        sdp,
        cseq,
        status,
        response,
    } = part;
    records::Reliable {
        rseq,
        sdp,
        cseq,
        status: u32::from(status),
        response,
    }
}

fn from_pending(pending: &Pending) -> records::Pending {
    let Pending {
        in_invite,
        in_offer,
        in_update,
        out_invite,
        out_offer,
        late_offer,
        out_update,
        rseq,
        unacknowledged,
        remote_rseq,
        invite_agreed,
        update_agreed,
    } = *pending;
    records::Pending {
        in_invite,
        in_offer,
        in_update,
        out_invite,
        out_offer,
        out_update,
        rseq,
        unacknowledged,
        remote_rseq,
        invite_agreed: invite_agreed.map(from_agreed),
        update_agreed: update_agreed.map(from_agreed),
        late_offer,
    }
}

fn from_agreed(agreed: Agreed) -> records::Agreed {
    records::Agreed {
        seconds: agreed.seconds,
        uac: agreed.refresher == Refresher::Uac,
        require: agreed.require,
    }
}

fn to_agreed(record: records::Agreed) -> Agreed {
    Agreed {
        seconds: record.seconds,
        refresher: if record.uac { Refresher::Uac } else { Refresher::Uas },
        require: record.require,
    }
}

fn from_flow(flow: &Flow) -> records::Flow {
    records::Flow {
        proxy: flow.proxy.incarnation,
        worker: u32::from(flow.proxy.worker),
        token: flow.token.as_deref().map(Bytes::copy_from_slice).unwrap_or_default(),
        reliable: flow.reliable,
    }
}

fn from_server(server: &ServerTx, clock: StoreClock, now: Instant) -> records::Server {
    let mut snapshot = server.machine.snapshot(now);
    if server.acknowledged {
        (snapshot.state, snapshot.response) = (ServerState::Confirmed, None);
    }
    records::Server {
        session: server.session.unwrap_or_default(),
        dialog: server.dialog,
        request: server
            .request
            .as_ref()
            .map(|request| request.bytes().clone())
            .unwrap_or_default(),
        response: snapshot.response.unwrap_or_default(),
        state: snapshot.state as u32,
        until: clock.store(now + snapshot.left),
        invite: snapshot.invite,
        cseq: server.cseq,
        flow: Some(from_flow(&Flow {
            proxy: server.proxy,
            token: None,
            reliable: snapshot.reliable,
        })),
        key: server.key,
        merged: server.merged,
    }
}

fn from_client(client: &ClientTx, clock: StoreClock, now: Instant) -> records::Client {
    let snapshot = client.machine.snapshot(now);
    records::Client {
        session: client.session,
        dialog: client.dialog,
        request: snapshot.bytes,
        state: snapshot.state as u32,
        until: clock.store(now + snapshot.left),
        invite: snapshot.invite,
        cseq: client.cseq,
        flow: Some(from_flow(&client.flow)),
        method: client.method.to_string(),
        internal: client.internal,
        call: client.call,
        relays: client.relays,
        cancel: client.cancel as u32,
    }
}

/// Puts the records of a claim into a partition. What cannot be read is left out and counted: it would have been written by a version
/// that this one is not to follow.
pub(super) fn load(
    partition: &mut Partition,
    records: impl IntoIterator<Item = (Bytes, Bytes)>,
    clock: StoreClock,
    now: Instant,
    contact: &[u8],
) -> usize {
    let mut unreadable = 0;
    for (name, value) in records {
        let Some(key) = Key::parse(&name) else {
            unreadable += 1;
            continue;
        };
        let loaded = match Record::decode(key.kind, value) {
            Ok(Record::Session(record)) => load_session(partition, key, record, clock, now, contact),
            Ok(Record::Server(record)) => load_server(partition, key, record, clock, now),
            Ok(Record::Client(record)) => load_client(partition, key, record, clock, now),
            Err(_) => None,
        };
        unreadable += usize::from(loaded.is_none());
    }
    count_open(partition);
    join(partition);
    unreadable
}

/// Transactions find what they lean on: an INVITE under way its dialog, a request that was passed on its original.
fn join(partition: &mut Partition) {
    for (id, client) in partition.clients.iter().filter(|(_, client)| !client.answered) {
        if let Some(server) = client.relays.and_then(|relays| partition.servers.get_mut(&relays)) {
            server.relayed = true;
        }
        let session = partition.sessions.get_mut(&client.session);
        let slot = session.and_then(|session| session.dialog_mut(client.dialog));
        if let Some(slot) = slot.filter(|_| &*client.method == "INVITE") {
            slot.outgoing = Some(*id);
        }
    }
}

fn load_session(
    partition: &mut Partition,
    key: Key,
    record: records::Session,
    clock: StoreClock,
    now: Instant,
    contact: &[u8],
) -> Option<()> {
    let mut session = Box::new(SessionCore::new(key.id));
    session.stored = true;
    session.dialogs = Vec::with_capacity(record.dialogs.len());
    for dialog in record.dialogs {
        session.dialogs.push(to_dialog(dialog, clock, now, contact)?);
    }
    session.attributes = record
        .attributes
        .into_iter()
        .map(|a| (a.name.into(), a.value))
        .collect();
    session.timers = record
        .timers
        .into_iter()
        .map(|timer| (TimerId(timer.id), clock.load(timer.deadline)))
        .collect();
    session.asks = record.asks.into_iter().map(to_ask).collect();
    session.numbers = record.numbers.max(numbers_by(&session.dialogs));
    for call in &record.calls {
        session.calls.push(to_call(call, contact)?);
    }
    partition.sessions.insert(key.id, session);
    Some(())
}

/// The tag in the value of a From or To.
fn tag(value: &[u8]) -> &[u8] {
    NameAddr::parse(value)
        .and_then(|address| address.tag())
        .unwrap_or_default()
}

fn to_call(record: &records::Call, contact: &[u8]) -> Option<CallSlot> {
    let text = DialogText {
        call_id: &record.call_id,
        local: &record.local,
        local_tag: tag(&record.local),
        remote: &record.remote,
        contact: if record.contact.is_empty() {
            contact
        } else {
            &record.contact
        },
        target: &record.target,
        ..DialogText::default()
    };
    let parts = OutgoingInviteParts {
        text,
        cseq: record.cseq,
        sdp: record.sdp,
    };
    Some(CallSlot {
        number: record.number,
        invite: OutgoingInvite::from_parts(Timers::default(), &parts)?,
        transaction: record.transaction,
        flow: to_flow(record.flow.clone()?)?,
    })
}

fn to_dialog(record: records::Dialog, clock: StoreClock, now: Instant, contact: &[u8]) -> Option<DialogSlot> {
    let text = DialogText {
        call_id: &record.call_id,
        local: &record.local,
        local_tag: tag(&record.local),
        remote: &record.remote,
        remote_tag: tag(&record.remote),
        contact: if record.contact.is_empty() {
            contact
        } else {
            &record.contact
        },
        target: &record.target,
        routes: &record.routes,
    };
    let parts = DialogParts {
        text,
        state: DialogState::from_number(u8::try_from(record.state).ok()?)?,
        caller: record.caller,
        local_cseq: record.local_cseq,
        remote_cseq: record.remote_cseq,
        session: record.session.map(|timer| SessionParts {
            interval: timer.seconds,
            min_se: timer.min_se,
            we_refresh: timer.ours,
            refresh_left: clock.left(now, timer.refresh),
            left: clock.left(now, timer.expires),
        }),
        pending: record.pending.map(|pending| to_pending(&pending)).unwrap_or_default(),
        reliable: record.reliable.into_iter().map(to_reliable).collect::<Option<_>>()?,
        ack: record.ack.map(|sent| SentAck {
            cseq: sent.cseq,
            ack: sent.ack,
            until: clock.load(sent.until),
        }),
    };
    let dialog = Dialog::from_parts(now, Timers::default(), parts)?;
    let mut slot = DialogSlot::new(record.number, dialog, to_flow(record.flow?)?);
    slot.invite = record.invite;
    slot.call = record.call;
    slot.bye_due = record.bye_due;
    slot.ended = record.ended;
    Some(slot)
}

fn to_reliable(record: records::Reliable) -> Option<ReliableParts> {
    let records::Reliable {
        rseq,
        sdp,
        cseq,
        status,
        response,
    } = record;
    Some(ReliableParts {
        rseq,
        sdp,
        cseq,
        status: u16::try_from(status).ok()?,
        response,
    })
}

fn to_pending(record: &records::Pending) -> Pending {
    Pending {
        in_invite: record.in_invite,
        in_offer: record.in_offer,
        in_update: record.in_update,
        out_invite: record.out_invite,
        out_offer: record.out_offer,
        late_offer: record.late_offer,
        out_update: record.out_update,
        rseq: record.rseq,
        unacknowledged: record.unacknowledged,
        remote_rseq: record.remote_rseq,
        invite_agreed: record.invite_agreed.map(to_agreed),
        update_agreed: record.update_agreed.map(to_agreed),
    }
}

fn to_flow(record: records::Flow) -> Option<Flow> {
    Some(Flow {
        proxy: ProxyId {
            incarnation: record.proxy,
            worker: u16::try_from(record.worker).ok()?,
        },
        token: (!record.token.is_empty()).then(|| record.token.to_vec().into()),
        reliable: record.reliable,
    })
}

fn load_server(
    partition: &mut Partition,
    key: Key,
    record: records::Server,
    clock: StoreClock,
    now: Instant,
) -> Option<()> {
    let snapshot = ServerSnapshot {
        invite: record.invite,
        reliable: record.flow.as_ref()?.reliable,
        state: ServerState::from_number(u8::try_from(record.state).ok()?)?,
        response: (!record.response.is_empty()).then_some(record.response),
        left: clock.left(now, record.until),
    };
    let answered = snapshot.state != ServerState::Proceeding;
    if answered && snapshot.left.is_zero() {
        partition.ripen(now, key);
        return Some(());
    }
    let request = match record.request {
        empty if empty.is_empty() => None,
        bytes => Some(Box::new(OwnedMessage::scan(bytes, &Limits::default()).ok()?)),
    };
    let server = ServerTx {
        machine: ServerTransaction::restore(now, Timers::default(), snapshot),
        session: (record.session != 0).then_some(record.session),
        dialog: record.dialog,
        request,
        cseq: record.cseq,
        proxy: to_flow(record.flow?)?.proxy,
        key: record.key,
        merged: record.merged,
        relayed: false,
        armed: None,
        stored: true,
        acknowledged: false,
    };
    partition.servers.insert(key.id, Box::new(server));
    Some(())
}

fn load_client(
    partition: &mut Partition,
    key: Key,
    record: records::Client,
    clock: StoreClock,
    now: Instant,
) -> Option<()> {
    let snapshot = ClientSnapshot {
        invite: record.invite,
        reliable: record.flow.as_ref()?.reliable,
        state: ClientState::from_number(u8::try_from(record.state).ok()?)?,
        bytes: record.request,
        left: clock.left(now, record.until),
    };
    let answered = matches!(snapshot.state, ClientState::Completed | ClientState::Accepted);
    if answered && snapshot.left.is_zero() {
        partition.ripen(now, key);
        return Some(());
    }
    let client = ClientTx {
        machine: ClientTransaction::restore(now, Timers::default(), snapshot),
        session: record.session,
        dialog: record.dialog,
        call: record.call,
        relays: record.relays,
        cancel: match record.cancel {
            0 => Cancel::No,
            1 => Cancel::Wanted,
            _ => Cancel::Sent,
        },
        method: record.method.into(),
        cseq: record.cseq,
        flow: to_flow(record.flow?)?,
        internal: record.internal,
        answered,
        armed: None,
        stored: true,
    };
    partition.clients.insert(key.id, Box::new(client));
    Some(())
}

/// A session without dialog (a request outside of any, not answered yet) has no record of its own; and what is open is counted anew.
fn count_open(partition: &mut Partition) {
    let servers = partition.servers.values().filter(|server| server.request.is_some());
    let open: Vec<u64> = servers
        .filter_map(|server| server.session)
        .chain(
            partition
                .clients
                .values()
                .filter(|client| !client.answered)
                .map(|client| client.session),
        )
        .collect();
    partition.in_progress = open.len();
    for id in open {
        partition
            .sessions
            .entry(id)
            .or_insert_with(|| Box::new(SessionCore::new(id)))
            .open += 1;
    }
}

//! An engine, a store in memory and one clock: what the tests of a worker share.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use container::application;
use container::engine::{ConnectionId, Engine, Input, Leaving, Released, Settings, Turn, Write, WriteOutcome};
use container::records::Key;
use sip::{Instant, Limits, Message, OwnedMessage};
use ucf::store::{Era, Model, StoreReply, StoreRequest};
use ucf::token::{Key as SecretKey, Keyring};
use ucf::transactions::{Keys, Parts};
use ucf::{Epoch, Incarnation, PartitionId, ProxyId};

pub const PARTITION: PartitionId = PartitionId(3);
pub const PROXY: ProxyId = ProxyId {
    incarnation: 77,
    worker: 0,
};

/// The store, the time, and who is who.
pub struct World {
    pub now: Instant,
    pub store: Model,
    pub keyring: Arc<Keyring>,
    pub writes: usize,
    /// What the store's clock has jumped by, in milliseconds.
    pub jump: u64,
}

/// One life of a container with one worker.
pub struct Life {
    pub engine: Engine,
    pub member: Incarnation,
    pub number: u64,
}

impl World {
    pub fn new() -> Self {
        let key = SecretKey { id: 1, secret: [7; 16] };
        Self {
            now: Instant::from_micros(5_000_000),
            store: Model::new(Era(1)),
            keyring: Arc::new(Keyring::new(key, &[], 8)),
            writes: 0,
            jump: 0,
        }
    }

    /// A container that has claimed [`PARTITION`] from whoever has it.
    pub fn life(&mut self, member: u64, application: &str) -> Life {
        self.successor(member, application, false)
    }

    /// The same, or one that was handed it over.
    pub fn successor(&mut self, member: u64, application: &str, handed_over: bool) -> Life {
        let settings = Settings {
            keyring: self.keyring.clone(),
            advertised: "192.0.2.1:5060".into(),
            application: application::from_json(application).expect("a good application"),
        };
        let mut engine = Engine::new(settings, [member, 1]);
        engine.set_store_clock(self.now, self.store_time());
        let mut life = Life {
            engine,
            member: Incarnation(member),
            number: 0,
        };
        let (epoch, records) = self.claimed(life.member);
        match handed_over {
            true => life.engine.receive(self.now, PARTITION, epoch, records),
            false => life.engine.activate(self.now, PARTITION, epoch, records),
        }
        life
    }

    /// Claims [`PARTITION`] and loads what is stored of it.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn claim(&mut self, life: &mut Life) {
        let (epoch, records) = self.claimed(life.member);
        life.engine.activate(self.now, PARTITION, epoch, records);
    }

    fn claimed(&mut self, member: Incarnation) -> (Epoch, Vec<(Bytes, Bytes)>) {
        let expected = self.store.partition(PARTITION).and_then(|stored| stored.owner);
        let claim = StoreRequest::Claim {
            partition: PARTITION,
            member,
            expected,
            at_least: Epoch(1),
            as_target: false,
        };
        let StoreReply::Claimed { epoch } = self.store.apply(&claim) else {
            panic!("the claim is granted")
        };
        let records = self.store.partition(PARTITION).expect("claimed").records.clone();
        let records = records
            .into_iter()
            .map(|(key, value)| (Bytes::from(key), Bytes::from(value)));
        (epoch, records.collect())
    }

    pub fn store_time(&self) -> u64 {
        1_700_000_000_000 + self.jump + self.now.as_micros() / 1000
    }

    /// Ends the turn and writes it.
    pub fn turn(&mut self, life: &mut Life) -> Released {
        if let Some(turn) = life.engine.end_turn(self.now) {
            self.write(life, &turn);
        }
        self.released(life)
    }

    /// What may leave now, if [`PROXY`] is connected.
    pub fn released(&self, life: &mut Life) -> Released {
        life.engine.take_released(self.now, &[PROXY])
    }

    pub fn write(&mut self, life: &mut Life, turn: &Turn) {
        let outcomes: Vec<_> = turn
            .writes
            .iter()
            .map(|write| self.write_one(life.member, write))
            .collect();
        life.engine.handle_written(turn.number, &outcomes);
    }

    fn write_one(&mut self, member: Incarnation, write: &Write) -> WriteOutcome {
        self.writes += 1;
        let key = |key: &Key| key.to_bytes().to_vec();
        let request = StoreRequest::Write(ucf::store::Write {
            partition: write.partition,
            member,
            epoch: write.epoch,
            seq: write.number,
            replace: write.replace,
            sets: write.sets.iter().map(|(k, value)| (key(k), value.to_vec())).collect(),
            deletes: write.deletes.iter().map(key).collect(),
        });
        match self.store.apply(&request) {
            StoreReply::Written { behind: false } | StoreReply::Repeated => WriteOutcome::Written,
            StoreReply::Written { behind: true } => WriteOutcome::Behind,
            StoreReply::Refused(stored) => WriteOutcome::Stale {
                owner: stored.owner,
                epoch: stored.epoch,
            },
            other => panic!("{other:?}"),
        }
    }

    /// Hands a message in, ends the turn, and gives what left.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn exchange(&mut self, life: &mut Life, message: &str) -> Vec<String> {
        self.give(life, message);
        texts(&self.turn(life).outputs)
    }

    pub fn give(&mut self, life: &mut Life, message: &str) {
        life.number += 1;
        let input = Input {
            connection: ConnectionId(1),
            number: life.number,
        };
        life.engine.handle_sip(self.now, input, PROXY, scan(message.as_bytes()));
    }

    /// Lets time pass, deadline by deadline, and gives what left.
    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn pass(&mut self, life: &mut Life, time: Duration) -> Vec<(Duration, String)> {
        let start = self.now;
        let end = self.now + time;
        let mut left = Vec::new();
        loop {
            let next = life.engine.poll_timeout().unwrap_or(Instant::MAX).max(self.now);
            self.now = next.min(end);
            if next > end {
                return left;
            }
            life.engine.handle_timeout(self.now);
            let outputs = self.turn(life).outputs;
            left.extend(texts(&outputs).into_iter().map(|text| (self.now.since(start), text)));
        }
    }

    /// As a proxy would pass the request on: its Via and, for one that makes a dialog, its Record-Route.
    pub fn via_proxy(&self, request: &str, transport: &str) -> String {
        let message = scan(request.as_bytes());
        let wire = message.as_message();
        let via = wire.via().expect("a Via");
        let from = wire.from().expect("a From");
        let parts = Parts {
            branch: via.branch().unwrap_or_default(),
            sent_by: via.host,
            call_id: wire.call_id().unwrap_or_default(),
            from_tag: from.tag().unwrap_or_default(),
            cseq: wire.cseq().expect("a CSeq").number,
            uri: wire.request_uri_bytes(),
        };
        let (keys, looped) = Keys::of_request(&parts, &self.keyring);
        let branch = String::from_utf8(keys.branch(looped).to_vec()).expect("ASCII");
        let token = self.keyring.token(PARTITION);
        let (line, rest) = request.split_once("\r\n").expect("a request line");
        let route = match wire.method() {
            sip::Method::Invite if wire.to().and_then(|to| to.tag()).is_none() => {
                format!("Record-Route: <sip:192.0.2.1:5060;lr;a={token};fl=flow1>\r\n")
            }
            _ => String::new(),
        };
        format!(
            "{line}\r\nVia: SIP/2.0/{transport} 192.0.2.1:5060;branch={branch};pt={token};fl=flow1\r\n{route}{rest}"
        )
    }
}

pub fn scan(bytes: &[u8]) -> OwnedMessage {
    OwnedMessage::scan(Bytes::copy_from_slice(bytes), &Limits::default()).expect("a message")
}

pub fn texts(outputs: &[Leaving]) -> Vec<String> {
    outputs
        .iter()
        .map(|leaving| String::from_utf8_lossy(&leaving.output.bytes).into_owned())
        .collect()
}

/// The status of a response.
pub fn status(text: &str) -> u16 {
    scan(text.as_bytes()).as_message().status().unwrap_or_default()
}

pub fn statuses(messages: &[String]) -> Vec<u16> {
    messages.iter().map(|text| status(text)).collect()
}

/// Its To tag.
pub fn to_tag(text: &str) -> String {
    let message = scan(text.as_bytes());
    let wire: Message<'_> = message.as_message();
    let tag = wire.to().and_then(|to| to.tag()).unwrap_or_default().to_vec();
    String::from_utf8(tag).expect("ASCII")
}

/// A caller with one call.
pub struct Caller {
    pub call: String,
    pub to_tag: String,
    pub cseq: u32,
    pub transport: &'static str,
}

impl Caller {
    pub fn new(call: &str) -> Self {
        Self {
            call: call.into(),
            to_tag: String::new(),
            cseq: 1,
            transport: "UDP",
        }
    }

    #[allow(dead_code, reason = "not every test that shares this needs it")]
    pub fn tcp(call: &str) -> Self {
        Self {
            transport: "TCP",
            ..Self::new(call)
        }
    }

    /// A request as it reaches the container.
    pub fn request(&self, world: &World, method: &str, cseq: u32, extra: &str) -> String {
        let (call, transport) = (&self.call, self.transport);
        let tag = if self.to_tag.is_empty() {
            String::new()
        } else {
            format!(";tag={}", self.to_tag)
        };
        // ACK of a non-2xx and CANCEL share the branch of their INVITE (RFC 3261 s9.1, s17.1.1.3).
        let branch_method = if method == "CANCEL" { "INVITE" } else { method };
        let body = if method == "INVITE" { "v=0\r\n" } else { "" };
        let kind = if body.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let text = format!(
            "{method} sip:bob@192.0.2.1:5060 SIP/2.0\r\nVia: SIP/2.0/{transport} 198.51.100.9:5080;branch=z9hG4bK{call}{branch_method}{cseq}\r\n\
             From: \"Alice\" <sip:alice@198.51.100.9>;tag=a-{call}\r\nTo: <sip:bob@192.0.2.1>{tag}\r\nCall-ID: {call}@198.51.100.9\r\n\
             CSeq: {cseq} {method}\r\nContact: <sip:alice@198.51.100.9:5080>\r\nMax-Forwards: 69\r\n{extra}{kind}Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        world.via_proxy(&text, transport)
    }

    /// The next request of this method.
    pub fn next(&mut self, world: &World, method: &str) -> String {
        self.cseq += 1;
        self.request(world, method, self.cseq, "")
    }
}

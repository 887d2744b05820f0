//! The caller: a slot for each call in progress.

use std::io::Write;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use super::lines::{Lines, find, is, number};
use super::{Load, Outcome};

/// The offer, and the answer too.
pub const SDP: &str = "v=0\r\no=caller 53655765 2353687637 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\n\
                       m=audio 6000 RTP/AVP 0 8\r\na=rtpmap:0 PCMU/8000\r\na=rtpmap:8 PCMA/8000\r\n";

#[derive(Clone, Copy, PartialEq, Eq)]
enum Stage {
    Free,
    Invited,
    /// Answered; that many final answers are awaited.
    Ending(u32),
}

#[derive(Clone, Copy)]
struct Slot {
    call: u64,
    stage: Stage,
    begun: Instant,
    heard: Instant,
}

/// What a response calls for.
pub enum Event {
    Nothing,
    /// The requests of this slot are to be sent.
    Send(usize),
}

/// All calls.
pub struct Calls<'a> {
    load: &'a Load,
    slots: Vec<Slot>,
    free: Vec<usize>,
    started: u64,
    outcome: Outcome,
    requests: Vec<Vec<u8>>,
    run: u32,
}

/// What of a response is used.
#[derive(Default)]
struct Response<'a> {
    status: u64,
    slot: usize,
    call: u64,
    cseq: u64,
    invite: bool,
    to: &'a [u8],
    contact: &'a [u8],
    routes: [&'a [u8]; 4],
    route_count: usize,
}

impl<'a> Calls<'a> {
    pub fn new(load: &'a Load) -> Self {
        let now = Instant::now();
        let free = Slot {
            call: 0,
            stage: Stage::Free,
            begun: now,
            heard: now,
        };
        Self {
            load,
            slots: vec![free; load.window],
            free: (0..load.window).rev().collect(),
            started: 0,
            outcome: Outcome::default(),
            requests: Vec::new(),
            run: std::process::id() ^ now.elapsed().subsec_nanos(),
        }
    }

    pub fn finished(&self) -> bool {
        self.outcome.done + self.outcome.lost + self.outcome.refused >= self.load.calls
    }

    pub fn outcome(mut self, took: Duration) -> Outcome {
        self.outcome.took = took;
        self.outcome.setup.sort_unstable();
        self.outcome
    }

    fn local(&self, slot: usize) -> SocketAddr {
        self.load.callers[slot % self.load.callers.len()]
    }

    /// Begins calls until `due` have been begun or no slot is free.
    pub fn begin(&mut self, due: u64, mut send: impl FnMut(usize, &[u8])) {
        let mut bytes = Vec::with_capacity(1024);
        while self.started < due {
            let Some(slot) = self.free.pop() else { return };
            let now = Instant::now();
            self.started += 1;
            self.slots[slot] = Slot {
                call: self.started,
                stage: Stage::Invited,
                begun: now,
                heard: now,
            };
            bytes.clear();
            let (proxy, local, call, run) = (self.load.proxy, self.local(slot), self.started, self.run);
            let length = SDP.len();
            let targets = &self.load.targets;
            let _ = match targets.get(call as usize % targets.len().max(1)) {
                Some(target) => write!(bytes, "INVITE {target}"),
                None => write!(bytes, "INVITE sip:svc@{proxy}"),
            };
            let _ = write!(
                bytes,
                " SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK-{slot}-{call}-{run}-i\r\n\
                 From: \"caller\" <sip:caller@{local}>;tag=f{call}\r\nTo: <sip:svc@{proxy}>\r\nCall-ID: {slot}-{call}-{run}@load.invalid\r\n\
                 CSeq: 1 INVITE\r\nContact: <sip:caller@{local}>\r\nMax-Forwards: 70\r\nUser-Agent: load\r\nSubject: benchmark\r\n\
                 Content-Type: application/sdp\r\nContent-Length: {length}\r\n\r\n{SDP}"
            );
            send(slot, &bytes);
        }
    }

    /// Calls without an answer for `patience` are lost.
    pub fn forget(&mut self, patience: Duration) {
        for slot in 0..self.slots.len() {
            if self.slots[slot].stage != Stage::Free && self.slots[slot].heard.elapsed() > patience {
                self.outcome.lost += 1;
                self.release(slot);
            }
        }
    }

    fn release(&mut self, slot: usize) {
        self.slots[slot].stage = Stage::Free;
        self.slots[slot].call = 0;
        self.free.push(slot);
    }

    /// The requests that the last [`Event::Send`] asked for.
    pub fn requests(&self, _slot: usize) -> &[Vec<u8>] {
        &self.requests
    }

    /// Takes a response in.
    pub fn response(&mut self, bytes: &[u8]) -> Event {
        let response = read(bytes).filter(|response| {
            self.slots
                .get(response.slot)
                .is_some_and(|slot| slot.call == response.call)
        });
        let Some(response) = response else {
            self.outcome.strays += 1;
            return Event::Nothing;
        };
        let slot = response.slot;
        let now = Instant::now();
        self.slots[slot].heard = now;
        match (self.slots[slot].stage, response.status) {
            (Stage::Invited, ..200) => {}
            (Stage::Ending(_), ..200) => self.outcome.reordered += u64::from(response.status > 100),
            (Stage::Invited, 200) if response.invite => {
                let micros = now.duration_since(self.slots[slot].begun).as_micros();
                self.outcome.setup.push(u32::try_from(micros).unwrap_or(u32::MAX));
                self.write_requests(&response);
                self.slots[slot].stage = Stage::Ending(self.load.options + 1);
                if self.load.keep {
                    self.outcome.done += 1;
                    self.release(slot);
                }
                return Event::Send(slot);
            }
            (Stage::Ending(awaited), status) if !response.invite => {
                self.outcome.reordered += u64::from(status != 200);
                self.slots[slot].stage = Stage::Ending(awaited - 1);
                if awaited == 1 {
                    self.outcome.done += 1;
                    self.release(slot);
                }
            }
            (Stage::Invited, _) => {
                self.outcome.refused += 1;
                self.release(slot);
            }
            _ => self.outcome.strays += 1,
        }
        Event::Nothing
    }

    /// ACK, OPTIONS as many as wanted, BYE.
    fn write_requests(&mut self, response: &Response) {
        let last = if self.load.keep { 0 } else { self.load.options + 1 };
        let wanted = last as usize + 1;
        self.requests.resize_with(wanted, Vec::new);
        let local = self.local(response.slot);
        let (slot, call, run) = (response.slot, response.call, self.run);
        for (number, bytes) in (0..).zip(&mut self.requests) {
            let (method, cseq) = match number {
                0 => ("ACK", 1),
                n if n == last => ("BYE", n + 1),
                n => ("OPTIONS", n + 1),
            };
            bytes.clear();
            let _ = write!(bytes, "{method} ");
            bytes.extend_from_slice(response.contact);
            let _ = write!(
                bytes,
                " SIP/2.0\r\nVia: SIP/2.0/UDP {local};branch=z9hG4bK-{slot}-{call}-{run}-{number}\r\n"
            );
            for route in response.routes[..response.route_count].iter().rev() {
                bytes.extend_from_slice(b"Route:");
                bytes.extend_from_slice(route);
                bytes.extend_from_slice(b"\r\n");
            }
            let _ = write!(bytes, "From: \"caller\" <sip:caller@{local}>;tag=f{call}\r\n");
            bytes.extend_from_slice(response.to);
            let _ = write!(
                bytes,
                "\r\nCall-ID: {slot}-{call}-{run}@load.invalid\r\nCSeq: {cseq} {method}\r\nContact: <sip:caller@{local}>\r\n\
                 Max-Forwards: 70\r\nContent-Length: 0\r\n\r\n"
            );
        }
    }
}

/// Reads what a response tells about its call.
fn read(bytes: &[u8]) -> Option<Response<'_>> {
    let mut response = Response {
        status: number(bytes.strip_prefix(b"SIP/2.0 ")?)?.0,
        slot: usize::MAX,
        ..Response::default()
    };
    for line in Lines(bytes).skip(1) {
        match line[0] | 0x20 {
            b'r' if is(line, b"Record-Route:") && response.route_count < response.routes.len() => {
                response.routes[response.route_count] = &line[13..];
                response.route_count += 1;
            }
            b't' if is(line, b"To:") => response.to = line,
            b'c' if is(line, b"Contact:") => {
                let inner = &line[find(line, b'<')? + 1..];
                response.contact = &inner[..find(inner, b'>')?];
            }
            b'c' if is(line, b"Call-ID:") => {
                let (slot, rest) = number(&line[8..])?;
                response.slot = usize::try_from(slot).ok()?;
                response.call = number(rest.strip_prefix(b"-")?)?.0;
            }
            b'c' if is(line, b"CSeq:") => {
                let (cseq, method) = number(&line[5..])?;
                response.cseq = cseq;
                response.invite = method.ends_with(b"INVITE");
            }
            _ => {}
        }
    }
    Some(response)
}

//! Thousands of callees at one UDP port, in a thread of their own: each call rings, is answered, and answers whatever is asked in it.
//!
//! What is said twice is answered twice (RFC 3261 s17.2): an answer depends on nothing but its request and on whether the call was answered.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap};
use std::net::{SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Context;

use super::caller::{Message, enlarge_buffers, parameter};

/// RFC 3261 s17.1.1.1.
const T1: Duration = Duration::from_millis(500);

/// How often the end is looked for.
const LOOK: Duration = Duration::from_millis(20);

/// Callees at work; they hang up without a word when dropped.
#[derive(Debug)]
pub struct Callees {
    over: Arc<AtomicBool>,
    heard: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Callees {
    /// Listens at `local`; every call rings for `ring`.
    pub fn start(local: SocketAddr, ring: Duration) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(local).with_context(|| format!("callees at {local}"))?;
        enlarge_buffers(socket.as_raw_fd());
        let (over, heard) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut desk = Desk {
            socket,
            local,
            ring,
            heard: Arc::clone(&heard),
            calls: HashMap::new(),
            due: BinaryHeap::new(),
        };
        let thread = std::thread::spawn({
            let over = Arc::clone(&over);
            move || {
                while !over.load(Ordering::Relaxed) {
                    desk.turn();
                }
            }
        });
        Ok(Self {
            over,
            heard,
            thread: Some(thread),
        })
    }

    /// Messages that came, of any kind.
    #[must_use]
    pub fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }
}

impl Drop for Callees {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            thread.join().expect("callees do not panic");
        }
    }
}

/// A call's INVITE and what was last said to it.
struct Call {
    from: SocketAddr,
    /// CSeq of the INVITE that is being answered.
    cseq: u32,
    /// The answer to it.
    ok: Vec<u8>,
    /// It rings no more.
    answered: bool,
    /// The answer is repeated until its ACK comes (RFC 3261 s13.3.1.4).
    interval: Option<Duration>,
    cancelled: bool,
}

struct Desk {
    socket: UdpSocket,
    local: SocketAddr,
    ring: Duration,
    heard: Arc<AtomicU64>,
    /// By Call-ID.
    calls: HashMap<String, Call>,
    due: BinaryHeap<Reverse<(Instant, String)>>,
}

impl Desk {
    fn turn(&mut self) {
        let now = Instant::now();
        let next = self
            .due
            .peek()
            .map_or(LOOK, |Reverse((at, _))| at.saturating_duration_since(now));
        let wait = next.clamp(Duration::from_millis(1), LOOK);
        self.socket.set_read_timeout(Some(wait)).expect("more than nothing");
        let mut buffer = [0; 65_536];
        // Nothing to read, or an earlier datagram was refused: neither is an end.
        let received = self.socket.recv_from(&mut buffer);
        self.heard.fetch_add(u64::from(received.is_ok()), Ordering::Relaxed);
        if let Ok((length, from)) = received
            && let Some(message) = Message::read(&buffer[..length]).filter(|message| message.status.is_none())
        {
            self.asked(&message, from);
        }
        self.speak(Instant::now());
    }

    fn asked(&mut self, message: &Message, from: SocketAddr) {
        let call = self.calls.get_mut(message.call_id);
        match message.method {
            "INVITE" => self.invited(message, from),
            "ACK" => {
                if let Some(call) = call.filter(|call| call.cseq == message.cseq) {
                    call.interval = None;
                }
            }
            "CANCEL" => {
                self.say(&self.answer(message, 200, "OK"), from);
                if let Some(call) = self.calls.get_mut(message.call_id).filter(|call| !call.answered) {
                    call.cancelled = true;
                    let gone = String::from_utf8_lossy(&call.ok).replacen("200 OK", "487 Request Terminated", 1);
                    self.say(gone.as_bytes(), from);
                }
            }
            _ => {
                // After a BYE no answer is repeated any more.
                if let Some(call) = call.filter(|_| message.method == "BYE") {
                    call.interval = None;
                }
                self.say(&self.answer(message, 200, "OK"), from);
            }
        }
    }

    fn invited(&mut self, message: &Message, from: SocketAddr) {
        let ok = self.answer(message, 200, "OK");
        let known = self.calls.get_mut(message.call_id);
        if let Some(call) = known {
            let again = call.cseq == message.cseq;
            if again && !call.answered {
                self.say(&self.answer(message, 180, "Ringing"), from);
            } else if !call.cancelled {
                // A re-INVITE, or the same again.
                (call.cseq, call.ok, call.from) = (message.cseq, ok.clone(), from);
                call.interval.get_or_insert(T1);
                if !again {
                    self.due
                        .push(Reverse((Instant::now() + T1, message.call_id.to_owned())));
                }
                self.say(&ok, from);
            }
            return;
        }
        let call = Call {
            from,
            cseq: message.cseq,
            ok,
            answered: false,
            interval: Some(T1),
            cancelled: false,
        };
        self.calls.insert(message.call_id.to_owned(), call);
        self.due
            .push(Reverse((Instant::now() + self.ring, message.call_id.to_owned())));
        self.say(&self.answer(message, 180, "Ringing"), from);
    }

    /// Answers the calls that have rung, and repeats the answers that nobody has acknowledged.
    fn speak(&mut self, now: Instant) {
        while let Some(Reverse((at, _))) = self.due.peek()
            && *at <= now
        {
            let Some(Reverse((_, id))) = self.due.pop() else { return };
            let Some(call) = self.calls.get_mut(&id).filter(|call| !call.cancelled) else {
                continue;
            };
            let Some(interval) = call.interval else { continue };
            call.answered = true;
            call.interval = Some((interval * 2).min(T1 * 8));
            let (bytes, from) = (call.ok.clone(), call.from);
            self.due.push(Reverse((now + interval, id)));
            self.say(&bytes, from);
        }
    }

    fn say(&self, bytes: &[u8], to: SocketAddr) {
        // What the kernel refuses is lost, as on any network.
        let _ = self.socket.send_to(bytes, to);
    }

    /// With a tag that the call keeps, and everything that makes a dialog.
    fn answer(&self, request: &Message, status: u16, reason: &str) -> Vec<u8> {
        use std::fmt::Write;
        let mut text = format!("SIP/2.0 {status} {reason}\r\n");
        for via in &request.via {
            let _ = write!(text, "Via: {via}\r\n");
        }
        for route in &request.record_route {
            let _ = write!(text, "Record-Route: {route}\r\n");
        }
        let tag = match parameter(request.to, "tag") {
            Some(_) => String::new(),
            None => format!(";tag=callee-{}", parameter(request.from, "tag").unwrap_or_default()),
        };
        let (from, to, call_id) = (request.from, request.to, request.call_id);
        let (cseq, method, local) = (request.cseq, request.method, self.local);
        let _ = write!(
            text,
            "From: {from}\r\nTo: {to}{tag}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <sip:callee@{local}>\r\n"
        );
        let body = if method == "INVITE" && status == 200 {
            format!(
                "v=0\r\no=callee 1 1 IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio 6002 RTP/AVP 0\r\n",
                ip = local.ip()
            )
        } else {
            String::new()
        };
        if !body.is_empty() {
            text.push_str("Content-Type: application/sdp\r\n");
        }
        let _ = write!(text, "Content-Length: {}\r\n\r\n{body}", body.len());
        text.into_bytes()
    }
}

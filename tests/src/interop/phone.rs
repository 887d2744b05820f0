//! A phone that a test plays word by word, where what is tried is which message comes before which. It says nothing by itself.

use std::collections::{HashMap, HashSet};
use std::fmt::Write;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::Context;

use super::caller::{Message, parameter};

/// Longer than any takeover, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// After how long what was asked is asked again (RFC 3261 s17.1.1.1).
pub const T1: Duration = Duration::from_millis(500);

/// The offers and answers of these phones; nobody looks at them.
const SDP: &str =
    "v=0\r\no=phone 1 1 IN IP4 127.0.0.1\r\ns=-\r\nc=IN IP4 127.0.0.1\r\nt=0 0\r\nm=audio 6000 RTP/AVP 0\r\n";

/// A UDP port, and what came to it and was not looked for yet.
#[derive(Debug)]
pub struct Phone {
    socket: UdpSocket,
    local: SocketAddr,
    proxy: SocketAddr,
    heard: Vec<String>,
    /// What was looked for and found: a repeat of it is nothing new.
    known: HashSet<Name>,
    /// How often each message came.
    came: HashMap<Name, usize>,
}

/// Call-ID, method, CSeq and status.
type Name = (String, String, u32, Option<u16>);

impl Phone {
    /// One at `local` that sends everything to `proxy`.
    pub fn open(local: SocketAddr, proxy: SocketAddr) -> anyhow::Result<Self> {
        let socket = UdpSocket::bind(local).with_context(|| format!("a phone at {local}"))?;
        socket.set_read_timeout(Some(Duration::from_millis(1)))?;
        Ok(Self {
            socket,
            local,
            proxy,
            heard: Vec::new(),
            known: HashSet::new(),
            came: HashMap::new(),
        })
    }

    /// Sends a message.
    pub fn say(&self, text: &str) -> anyhow::Result<()> {
        self.socket.send_to(text.as_bytes(), self.proxy)?;
        Ok(())
    }

    /// Waits for a request of the dialog; one that came before counts.
    pub fn hear_request(&mut self, leg: &Leg, method: &str) -> anyhow::Result<String> {
        let what = format!("{method} in {}", leg.call_id);
        self.hear(&what, None, |m| {
            m.status.is_none() && m.method == method && m.call_id == leg.call_id
        })
    }

    /// A request of the dialog, if it has come by now.
    pub fn has_heard(&mut self, leg: &Leg, method: &str) -> Option<String> {
        self.receive();
        self.take(|m| m.status.is_none() && m.method == method && m.call_id == leg.call_id)
    }

    /// The final responses that came to a request of the dialog, by status, and how often each of them came.
    #[must_use]
    pub fn answers(&self, leg: &Leg, method: &str, cseq: u32) -> Vec<(u16, usize)> {
        let of = |(name, times): (&Name, &usize)| {
            let (call_id, of, number, status) = name;
            let status = status.filter(|status| *status >= 200)?;
            (*call_id == leg.call_id && of == method && *number == cseq).then_some((status, *times))
        };
        self.came.iter().filter_map(of).collect()
    }

    /// What came and was not looked for, provisional responses left out.
    #[must_use]
    pub fn unexpected(&self) -> Vec<&String> {
        let is_provisional = |text: &&String| text.starts_with("SIP/2.0 1");
        self.heard.iter().filter(|text| !is_provisional(text)).collect()
    }

    /// Waits for an INVITE to this user.
    pub fn hear_call(&mut self, user: &str) -> anyhow::Result<String> {
        let to = format!("sip:{user}@");
        self.hear(&format!("a call to {user}"), None, |m| {
            m.status.is_none() && m.method == "INVITE" && m.to_tag().is_none() && m.to.contains(&to)
        })
    }

    /// Waits for a final response to a request of the dialog, which is repeated meanwhile.
    pub fn hear_answer(&mut self, request: &str, status: u16) -> anyhow::Result<String> {
        let asked = Message::read(request.as_bytes()).context("a request of ours")?;
        let (method, cseq, call_id) = (asked.method, asked.cseq, asked.call_id);
        self.hear(
            &format!("{status} to {method} {cseq} of {call_id}"),
            Some(request),
            |m| m.status == Some(status) && (m.method, m.cseq, m.call_id) == (method, cseq, call_id),
        )
    }

    fn hear(&mut self, what: &str, again: Option<&str>, fits: impl Fn(&Message) -> bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut repeat = Instant::now() + T1;
        loop {
            if let Some(text) = self.take(&fits) {
                return Ok(text);
            }
            let now = Instant::now();
            anyhow::ensure!(now < deadline, "not heard: {what}; but {:#?}", self.heard);
            if let Some(request) = again.filter(|_| now >= repeat) {
                self.say(request)?;
                repeat = now + T1;
            }
            self.receive();
        }
    }

    /// The first message of which this holds, among those that came.
    fn take(&mut self, fits: impl Fn(&Message) -> bool) -> Option<String> {
        let is_it = |text: &String| Message::read(text.as_bytes()).is_some_and(|message| fits(&message));
        let at = self.heard.iter().position(is_it)?;
        let text = self.heard.remove(at);
        self.heard.retain(|other| name(other) != name(&text));
        self.known.extend(name(&text));
        Some(text)
    }

    fn receive(&mut self) {
        let mut buffer = [0; 65_536];
        // Nothing to read, or an earlier datagram was refused: neither is an end.
        let Ok((length, _)) = self.socket.recv_from(&mut buffer) else {
            return;
        };
        let text = String::from_utf8_lossy(&buffer[..length]).into_owned();
        let Some(name) = name(&text) else { return };
        let is_new = !self.known.contains(&name);
        *self.came.entry(name).or_default() += 1;
        if is_new {
            self.heard.push(text);
        }
    }
}

fn name(text: &str) -> Option<Name> {
    let message = Message::read(text.as_bytes())?;
    Some((
        message.call_id.into(),
        message.method.into(),
        message.cseq,
        message.status,
    ))
}

/// A phone's side of a dialog.
#[derive(Clone, Debug)]
pub struct Leg {
    /// Its Call-ID.
    pub call_id: String,
    /// Where its requests go: the Contact of the other side, or whom it calls.
    pub target: String,
    local: String,
    remote: String,
    routes: Vec<String>,
    address: SocketAddr,
}

impl Leg {
    /// A call to be made from `phone` to `target`.
    #[must_use]
    pub fn calling(phone: &Phone, name: &str, target: &str) -> Self {
        let address = phone.local;
        Self {
            call_id: format!("{name}@{}", address.ip()),
            target: target.to_owned(),
            local: format!("<sip:{name}@{address}>;tag=tag-{name}"),
            remote: format!("<{target}>"),
            routes: Vec::new(),
            address,
        }
    }

    /// The side of whom this INVITE calls.
    pub fn called(phone: &Phone, invite: &str) -> anyhow::Result<Self> {
        let message = Message::read(invite.as_bytes()).context("an INVITE")?;
        let tag = parameter(message.from, "tag").context("a From tag")?;
        Ok(Self {
            call_id: message.call_id.to_owned(),
            target: message.contact.context("a Contact")?.to_owned(),
            local: format!("{};tag=callee-{tag}", message.to),
            remote: message.from.to_owned(),
            routes: message.record_route.iter().map(|route| (*route).to_owned()).collect(),
            address: phone.local,
        })
    }

    /// This 2xx has made the dialog.
    pub fn answered(&mut self, ok: &str) -> anyhow::Result<()> {
        let message = Message::read(ok.as_bytes()).context("a 2xx")?;
        self.remote = message.to.to_owned();
        self.target = message.contact.context("a Contact")?.to_owned();
        self.routes = message.route_set();
        Ok(())
    }

    /// Replaces (RFC 3891) for who is to take the place of this side.
    #[must_use]
    pub fn replaces(&self) -> String {
        let tag = |value| parameter(value, "tag").unwrap_or_default();
        format!(
            "{};to-tag={};from-tag={}",
            self.call_id,
            tag(&self.remote),
            tag(&self.local)
        )
    }

    /// A request; an INVITE has an offer.
    #[must_use]
    pub fn request(&self, method: &str, cseq: u32, extra: &str) -> String {
        self.write(method, cseq, &format!("{method}-{cseq}"), extra)
    }

    /// The ACK of a 2xx.
    #[must_use]
    pub fn ack(&self, cseq: u32) -> String {
        self.request("ACK", cseq, "")
    }

    /// The ACK of a refusal: the branch of its INVITE (RFC 3261 s17.1.1.3).
    #[must_use]
    pub fn ack_refusal(&self, cseq: u32) -> String {
        self.write("ACK", cseq, &format!("INVITE-{cseq}"), "")
    }

    fn write(&self, method: &str, cseq: u32, branch: &str, extra: &str) -> String {
        let (address, call_id) = (self.address, &self.call_id);
        let mut text = format!("{method} {} SIP/2.0\r\n", self.target);
        let branch = format!("z9hG4bK-{}-{branch}", call_id.replace('@', "-"));
        let _ = write!(
            text,
            "Via: SIP/2.0/UDP {address};branch={branch};rport\r\nMax-Forwards: 70\r\n"
        );
        for route in &self.routes {
            let _ = write!(text, "Route: {route}\r\n");
        }
        let _ = write!(
            text,
            "From: {}\r\nTo: {}\r\nCall-ID: {call_id}\r\nCSeq: {cseq} {method}\r\nContact: <sip:phone@{address}>\r\n{extra}",
            self.local, self.remote
        );
        finish(text, method == "INVITE")
    }

    /// A response to a request of the other side; a 2xx to INVITE has an answer.
    pub fn answer(&self, request: &str, status: u16) -> anyhow::Result<String> {
        let message = Message::read(request.as_bytes()).context("a request")?;
        let mut text = format!("SIP/2.0 {status} Because\r\n");
        for via in &message.via {
            let _ = write!(text, "Via: {via}\r\n");
        }
        for route in &message.record_route {
            let _ = write!(text, "Record-Route: {route}\r\n");
        }
        let _ = write!(
            text,
            "From: {}\r\nTo: {}\r\nCall-ID: {}\r\nCSeq: {} {}\r\nContact: <sip:phone@{}>\r\n",
            message.from, self.local, message.call_id, message.cseq, message.method, self.address
        );
        Ok(finish(text, message.method == "INVITE" && status < 300))
    }
}

fn finish(mut head: String, with_sdp: bool) -> String {
    let body = if with_sdp { SDP } else { "" };
    if with_sdp {
        head.push_str("Content-Type: application/sdp\r\n");
    }
    let _ = write!(head, "Content-Length: {}\r\n\r\n{body}", body.len());
    head
}

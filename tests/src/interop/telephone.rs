//! A telephone with sound: one call at a time, signalling and RTP on UDP sockets of its own.

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};

/// How long anything may take to come, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// Between two packets of sound (RFC 3551 s4.2).
const PACKET: Duration = Duration::from_millis(20);

/// The telephone.
#[derive(Debug)]
pub struct Telephone {
    name: &'static str,
    sip: UdpSocket,
    sound: UdpSocket,
    /// Where its messages go.
    cluster: SocketAddr,
    /// Its number in packets of sound (RFC 3550 s5.1).
    source: u32,
    packets: u32,
    /// Where the other side's sound comes from and its own goes.
    pub hears: Option<SocketAddr>,
    calls: u32,
    cseq: u32,
    /// To, routes and target of requests in the dialog.
    to: String,
    routes: String,
    target: String,
}

/// The values of a message's header fields of this name.
fn values<'a>(message: &'a str, name: &'a str) -> impl DoubleEndedIterator<Item = &'a str> {
    let lines = message.split("\r\n\r\n").next().unwrap_or_default().lines();
    lines.filter_map(move |line| {
        line.split_once(": ")
            .filter(|(is, _)| *is == name)
            .map(|(_, value)| value)
    })
}

fn value<'a>(message: &'a str, name: &'a str) -> &'a str {
    values(message, name).next().unwrap_or_default()
}

/// Where a session description says that sound is to go.
pub fn described(message: &str) -> anyhow::Result<SocketAddr> {
    let find = |start: &str| message.lines().find_map(|line| line.strip_prefix(start));
    let address = find("c=IN IP4 ").and_then(|address| address.trim().parse::<IpAddr>().ok());
    let port = find("m=audio ").and_then(|rest| rest.split(' ').next()?.parse().ok());
    let found = address.zip(port).map(SocketAddr::from);
    found.with_context(|| format!("no session description in {message}"))
}

impl Telephone {
    /// A telephone at an address of its own.
    pub fn new(name: &'static str, sip: SocketAddr, cluster: SocketAddr) -> anyhow::Result<Self> {
        Ok(Self {
            name,
            sip: UdpSocket::bind(sip).with_context(|| format!("{name} at {sip}"))?,
            sound: UdpSocket::bind((sip.ip(), 0))?,
            cluster,
            source: u32::from(sip.port()) << 16 | std::process::id() & 0xffff,
            packets: 0,
            hears: None,
            calls: 0,
            cseq: 0,
            to: String::new(),
            routes: String::new(),
            target: String::new(),
        })
    }

    fn description(&self) -> anyhow::Result<String> {
        let at = self.sound.local_addr()?;
        let (ip, port, version) = (at.ip(), at.port(), self.cseq + 1);
        Ok(format!(
            "v=0\r\no={} 1 {version} IN IP4 {ip}\r\ns=-\r\nc=IN IP4 {ip}\r\nt=0 0\r\nm=audio {port} RTP/AVP 0\r\na=sendrecv\r\n",
            self.name
        ))
    }

    fn send(&self, head: &str, description: &str) -> anyhow::Result<()> {
        let kind = if description.is_empty() {
            ""
        } else {
            "Content-Type: application/sdp\r\n"
        };
        let length = description.len();
        let message = format!("{head}{kind}Content-Length: {length}\r\n\r\n{description}");
        self.sip.send_to(message.as_bytes(), self.cluster)?;
        Ok(())
    }

    fn request(&self, method: &str, extra: &str, description: &str) -> anyhow::Result<()> {
        let at = self.sip.local_addr()?;
        let Self {
            name,
            calls,
            cseq,
            to,
            routes,
            target,
            ..
        } = self;
        let head = format!(
            "{method} {target} SIP/2.0\r\nVia: SIP/2.0/UDP {at};branch=z9hG4bK{name}{calls}{cseq}{method}\r\n{routes}{extra}\
             From: <sip:{name}@{at}>;tag={name}{calls}\r\nTo: {to}\r\nCall-ID: {name}{calls}@{at}\r\nCSeq: {cseq} {method}\r\n\
             Contact: <sip:{name}@{at}>\r\nMax-Forwards: 70\r\n"
        );
        self.send(&head, description)
    }

    /// The next message of which this holds; others are passed over.
    fn receive(&self, what: &str, wanted: impl Fn(&str) -> bool) -> anyhow::Result<String> {
        let end = Instant::now() + LIMIT;
        let mut buffer = [0; 65_536];
        let mut seen = Vec::new();
        while let left @ 1.. = end.saturating_duration_since(Instant::now()).as_millis() {
            self.sip
                .set_read_timeout(Some(Duration::from_millis(u64::try_from(left)?)))?;
            let Ok((length, _)) = self.sip.recv_from(&mut buffer) else {
                break;
            };
            let message = String::from_utf8_lossy(&buffer[..length]).into_owned();
            if wanted(&message) {
                return Ok(message);
            }
            seen.push(message.lines().next().unwrap_or_default().to_owned());
        }
        bail!("{}: {what} did not come within {LIMIT:?}, but {seen:?}", self.name)
    }

    /// Calls a user of the cluster.
    pub fn call(&mut self, user: &str) -> anyhow::Result<()> {
        self.begin(user, "")
    }

    /// Calls to take the place of another one that has called that user (RFC 3891 s3).
    pub fn take_place(&mut self, of: &Self, user: &str) -> anyhow::Result<()> {
        let Self { name, calls, .. } = of;
        let tag = of.to.split(";tag=").nth(1).context("its call is answered")?;
        let call_id = format!("{name}{calls}@{}", of.sip.local_addr()?);
        let replaces = format!("Replaces: {call_id};to-tag={tag};from-tag={name}{calls}\r\nRequire: replaces\r\n");
        self.begin(user, &replaces)
    }

    fn begin(&mut self, user: &str, extra: &str) -> anyhow::Result<()> {
        self.calls += 1;
        self.cseq = 1;
        self.target = format!("sip:{user}@{}", self.cluster);
        self.to = format!("<{}>", self.target);
        self.routes = String::new();
        self.request("INVITE", extra, &self.description()?)
    }

    /// Offers another session within the call.
    pub fn change(&mut self) -> anyhow::Result<()> {
        self.cseq += 1;
        self.request("INVITE", "", &self.description()?)
    }

    /// Hangs up, and waits for the answer to that.
    pub fn hang_up(&mut self) -> anyhow::Result<()> {
        self.cseq += 1;
        self.request("BYE", "", "")?;
        let cseq = format!("{} BYE", self.cseq);
        let answer = self.receive("the answer to BYE", |message| value(message, "CSeq") == cseq)?;
        ensure!(answer.starts_with("SIP/2.0 200"), "{answer}");
        Ok(())
    }

    /// Waits for the 200 to its INVITE, and acknowledges it.
    pub fn accepted(&mut self) -> anyhow::Result<()> {
        let cseq = format!("{} INVITE", self.cseq);
        let call_id = format!("{}{}@{}", self.name, self.calls, self.sip.local_addr()?);
        let is_final = |message: &str| {
            value(message, "Call-ID") == call_id && value(message, "CSeq") == cseq && !message.starts_with("SIP/2.0 1")
        };
        let answer = self.receive("the answer to INVITE", is_final)?;
        ensure!(answer.starts_with("SIP/2.0 200"), "{answer}");
        self.hears = Some(described(&answer)?);
        self.to = value(&answer, "To").to_owned();
        let contact = value(&answer, "Contact");
        self.target = contact
            .trim_start_matches('<')
            .split('>')
            .next()
            .unwrap_or_default()
            .to_owned();
        if self.routes.is_empty() {
            let routes = values(&answer, "Record-Route").rev();
            self.routes = routes.map(|route| format!("Route: {route}\r\n")).collect();
        }
        self.request("ACK", "", "")
    }

    /// Waits for an INVITE that it has not answered yet, and answers with 200.
    pub fn accept(&mut self) -> anyhow::Result<()> {
        let known = self.to.clone();
        let key = |message: &str| format!("{} {}", value(message, "Call-ID"), value(message, "CSeq"));
        let invite = self.receive("an INVITE", |message| {
            message.starts_with("INVITE ") && key(message) != known
        })?;
        self.to = key(&invite);
        self.cseq += 1;
        self.hears = Some(described(&invite)?);
        self.answer(&invite, &self.description()?)?;
        self.receive("an ACK", |message| message.starts_with("ACK ")).map(drop)
    }

    /// Waits for the other side to hang up.
    pub fn ended(&mut self) -> anyhow::Result<()> {
        let bye = self.receive("a BYE", |message| message.starts_with("BYE "))?;
        self.answer(&bye, "")
    }

    fn answer(&self, request: &str, description: &str) -> anyhow::Result<()> {
        let mut head = "SIP/2.0 200 OK\r\n".to_owned();
        for name in ["Via", "Record-Route", "From", "Call-ID", "CSeq"] {
            head.extend(values(request, name).map(|value| format!("{name}: {value}\r\n")));
        }
        let to = value(request, "To");
        let tag = if to.contains(";tag=") {
            String::new()
        } else {
            format!(";tag={}", self.name)
        };
        let at = self.sip.local_addr()?;
        head += &format!("To: {to}{tag}\r\nContact: <sip:{}@{at}>\r\n", self.name);
        self.send(&head, description)
    }

    /// Sends one packet of sound (RFC 3550 s5.1): 20 ms of G.711.
    fn speak(&mut self) -> anyhow::Result<()> {
        self.packets += 1;
        let mut packet = vec![0x80, 0];
        packet.extend_from_slice(&(self.packets as u16).to_be_bytes());
        packet.extend_from_slice(&(self.packets * 160).to_be_bytes());
        packet.extend_from_slice(&self.source.to_be_bytes());
        packet.resize(12 + 160, 0xd5);
        // Nobody there is no error of ours.
        let _ = self.sound.send_to(&packet, self.hears.context("nobody to speak to")?);
        Ok(())
    }

    /// Whether a packet of the other's sound has come from where it is to come from, waiting for it no longer than for one.
    fn hear(&self, other: u32) -> anyhow::Result<bool> {
        let mut packet = [0; 2048];
        self.sound.set_read_timeout(Some(PACKET / 2))?;
        let heard = self.sound.recv_from(&mut packet).ok();
        Ok(heard.is_some_and(|(length, from)| {
            Some(from) == self.hears && length == 172 && packet[8..12] == other.to_be_bytes()
        }))
    }
}

/// Both speak until each has heard the other for half a second.
pub fn talk(one: &mut Telephone, other: &mut Telephone) -> anyhow::Result<()> {
    const WANTED: usize = 25;
    let end = Instant::now() + LIMIT;
    let mut heard = (0, 0);
    while heard.0 < WANTED || heard.1 < WANTED {
        ensure!(
            Instant::now() < end,
            "{} and {} heard {heard:?} packets",
            one.name,
            other.name
        );
        one.speak()?;
        other.speak()?;
        heard.0 += usize::from(one.hear(other.source)?);
        heard.1 += usize::from(other.hear(one.source)?);
    }
    Ok(())
}

//! A stand-in for a container on the inner leg: owns every partition, answers at once, remembers nothing. It shows what the proxy alone costs,
//! because the load's CPU can drive it to saturation as it does any other proxy.

use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use prost::Message as _;
use ucf::greeting::{End, Greeting, NONCE_LEN};
use ucf::token::Keyring;
use ucf::transactions::Keys;
use ucf::wire::{Body, Confirm, Frame, Hello, MemberState, Ownership, Report, Transactions};

use super::callee;
use super::lines::{Lines, is, number};
use crate::bench::udp::{polled, wait};

/// How often containers report.
const REPORTS: Duration = Duration::from_millis(100);

/// Listens for the connections of proxy workers.
pub struct Container {
    cluster: String,
    incarnation: u64,
    /// What its Contact says: the cluster's address.
    advertised: SocketAddr,
    keyring: Keyring,
    sip: TcpListener,
    ucf: TcpListener,
    sip_links: Vec<SipLink>,
    ucf_links: Vec<UcfLink>,
    reported: Instant,
    /// Of new dialogs since the last turn.
    fresh: Transactions,
}

/// Plain SIP from one proxy worker.
struct SipLink {
    stream: TcpStream,
    peer: SocketAddr,
    input: Vec<u8>,
    output: Vec<u8>,
    messages: u64,
    confirmed: u64,
}

/// UCF from one proxy worker.
struct UcfLink {
    stream: TcpStream,
    input: Vec<u8>,
    output: Vec<u8>,
    nonce: [u8; NONCE_LEN],
    sip: Option<SocketAddr>,
    heartbeat: u64,
}

impl Container {
    /// Listens at both addresses.
    pub fn listen(
        cluster: &str,
        keyring: Keyring,
        advertised: SocketAddr,
        sip: SocketAddr,
        ucf: SocketAddr,
    ) -> io::Result<Self> {
        let listen = |address| {
            let listener = TcpListener::bind(address)?;
            listener.set_nonblocking(true)?;
            io::Result::Ok(listener)
        };
        Ok(Self {
            cluster: cluster.to_owned(),
            incarnation: u64::from(std::process::id()) | 1 << 40,
            advertised,
            keyring,
            sip: listen(sip)?,
            ucf: listen(ucf)?,
            sip_links: Vec::new(),
            ucf_links: Vec::new(),
            reported: Instant::now(),
            fresh: Transactions::default(),
        })
    }

    /// Serves until told to stop.
    pub fn run(mut self, stop: &AtomicBool) {
        while !stop.load(Ordering::Relaxed) {
            let mut watched = vec![polled(&self.sip), polled(&self.ucf)];
            watched.extend(self.sip_links.iter().map(|link| polled(&link.stream)));
            watched.extend(self.ucf_links.iter().map(|link| polled(&link.stream)));
            wait(&mut watched, 20);
            self.turn();
        }
    }

    /// Does what there is to do, without waiting. A connection that fails is closed; its proxy opens another.
    fn turn(&mut self) {
        self.accept();
        let mut sip_links = std::mem::take(&mut self.sip_links);
        sip_links.retain_mut(|link| self.serve(link).is_ok());
        self.sip_links = sip_links;
        let report = self.reported.elapsed() >= REPORTS;
        if report {
            self.reported = Instant::now();
        }
        let mut ucf_links = std::mem::take(&mut self.ucf_links);
        ucf_links.retain_mut(|link| self.converse(link, report).is_ok());
        self.ucf_links = ucf_links;
        self.fresh = Transactions::default();
    }

    fn accept(&mut self) {
        while let Ok((stream, peer)) = self.sip.accept() {
            if prepare(&stream).is_err() {
                continue;
            }
            self.sip_links.push(SipLink {
                stream,
                peer,
                input: Vec::new(),
                output: Vec::new(),
                messages: 0,
                confirmed: 0,
            });
        }
        while let Ok((stream, _)) = self.ucf.accept() {
            if prepare(&stream).is_err() {
                continue;
            }
            // Nobody is to be kept out of a bench.
            let nonce = [7; NONCE_LEN];
            let mut output = Vec::new();
            let greeting = Greeting::new(&self.keyring, End::Accepted, nonce);
            push(&mut output, Body::Challenge(greeting.challenge()));
            self.ucf_links.push(UcfLink {
                stream,
                input: Vec::new(),
                output,
                nonce,
                sip: None,
                heartbeat: 0,
            });
        }
    }

    fn serve(&mut self, link: &mut SipLink) -> io::Result<()> {
        read(&mut link.stream, &mut link.input)?;
        let mut taken = 0;
        while let Some(length) = message_length(&link.input[taken..]) {
            let message = &link.input[taken..taken + length];
            link.messages += 1;
            callee::answer(message, self.advertised, |answer| link.output.extend_from_slice(answer));
            if message.starts_with(b"INVITE ") {
                announce(&mut self.fresh, &self.keyring, message);
            }
            taken += length;
        }
        link.input.drain(..taken);
        write(&mut link.stream, &mut link.output)
    }

    fn converse(&mut self, link: &mut UcfLink, report: bool) -> io::Result<()> {
        read(&mut link.stream, &mut link.input)?;
        let mut taken = 0;
        while let Some(frame) = next_frame(&link.input, &mut taken)? {
            match frame.body {
                Some(Body::Challenge(challenge)) => {
                    let greeting = Greeting::new(&self.keyring, End::Accepted, link.nonce);
                    push(&mut link.output, Body::Hello(greeting.hello(&challenge, self.hello())));
                    self.introduce(&mut link.output);
                }
                Some(Body::Hello(hello)) => link.sip = hello.sip.parse().ok(),
                Some(Body::Heartbeat(heartbeat)) => link.heartbeat = heartbeat.number,
                _ => {}
            }
        }
        link.input.drain(..taken);
        let Some(peer) = link.sip else {
            return write(&mut link.stream, &mut link.output);
        };
        if let Some(sip) = self
            .sip_links
            .iter_mut()
            .find(|sip| sip.peer == peer && sip.confirmed < sip.messages)
        {
            sip.confirmed = sip.messages;
            let upto = sip.confirmed;
            push(
                &mut link.output,
                Body::Confirm(Confirm {
                    upto,
                    ..Confirm::default()
                }),
            );
        }
        if !self.fresh.keys.is_empty() {
            push(&mut link.output, Body::Transactions(self.fresh.clone()));
        }
        if report {
            self.report(link.heartbeat, &mut link.output);
        }
        write(&mut link.stream, &mut link.output)
    }

    fn hello(&self) -> Hello {
        Hello {
            version: 1,
            cluster: self.cluster.clone(),
            name: "stand-in".into(),
            incarnation: self.incarnation,
            ..Hello::default()
        }
    }

    fn introduce(&self, output: &mut Vec<u8>) {
        self.report(0, output);
        let partitions: Vec<u32> = (0..self.keyring.partitions() as u32).collect();
        let ownership = Ownership {
            owner: self.incarnation,
            epochs: vec![1; partitions.len()],
            partitions,
            complete: true,
            ..Ownership::default()
        };
        push(output, Body::Ownership(ownership));
    }

    fn report(&self, heartbeat: u64, output: &mut Vec<u8>) {
        let report = Report {
            heartbeat,
            state: MemberState::Active as i32,
            ..Report::default()
        };
        push(output, Body::Report(report));
    }
}

/// Tells a new dialog's transaction, begun and ended at once.
fn announce(fresh: &mut Transactions, keyring: &Keyring, message: &[u8]) {
    let via = Lines(message)
        .skip(1)
        .find(|line| is(line, b"Via:"))
        .unwrap_or_default();
    let parameter = |name: &[u8]| {
        let mut all = via.split(|byte| *byte == b';');
        all.find_map(|part| part.strip_prefix(name))
    };
    let keys = parameter(b"branch=").and_then(Keys::of_branch);
    let partition = parameter(b"pt=").and_then(|token| keyring.verify(token).partition());
    if let (Some((keys, _)), Some(partition)) = (keys, partition) {
        fresh.keys.push(keys.transaction);
        fresh.merged.push(keys.merged);
        fresh.partitions.push(u32::from(partition.0));
        fresh.ended.push(keys.transaction);
    }
}

fn prepare(stream: &TcpStream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    stream.set_nonblocking(true)
}

fn read(stream: &mut TcpStream, into: &mut Vec<u8>) -> io::Result<()> {
    let mut buffer = [0; 65_536];
    match stream.read(&mut buffer) {
        Ok(0) => Err(ErrorKind::UnexpectedEof.into()),
        Ok(length) => {
            into.extend_from_slice(&buffer[..length]);
            Ok(())
        }
        Err(error) if error.kind() == ErrorKind::WouldBlock => Ok(()),
        Err(error) => Err(error),
    }
}

fn write(stream: &mut TcpStream, from: &mut Vec<u8>) -> io::Result<()> {
    while !from.is_empty() {
        match stream.write(from) {
            Ok(written) => drop(from.drain(..written)),
            Err(error) if error.kind() == ErrorKind::WouldBlock => return Ok(()),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Length of the first whole message.
fn message_length(bytes: &[u8]) -> Option<usize> {
    let mut head = 0;
    let mut body = 0;
    loop {
        let rest = &bytes[head..];
        let line = &rest[..=super::lines::find(rest, b'\n')?];
        head += line.len();
        if line == b"\r\n" {
            return (bytes.len() >= head + body).then_some(head + body);
        }
        if is(line, b"Content-Length:") {
            body = usize::try_from(number(&line[15..])?.0).ok()?;
        }
    }
}

fn push(output: &mut Vec<u8>, body: Body) {
    let frame = Frame { body: Some(body) };
    let length = frame.encoded_len() as u32;
    output.extend_from_slice(&length.to_be_bytes());
    frame.encode(output).expect("a Vec grows");
}

fn next_frame(input: &[u8], taken: &mut usize) -> io::Result<Option<Frame>> {
    let Some((prefix, rest)) = input[*taken..].split_first_chunk::<4>() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes(*prefix) as usize;
    let Some(bytes) = rest.get(..length) else {
        return Ok(None);
    };
    *taken += 4 + length;
    Frame::decode(bytes).map(Some).map_err(io::Error::other)
}

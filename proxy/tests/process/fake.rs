//! A container that owns every partition, answers at once and remembers what it got.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use sip::{Frame, Framer, Limits, Side};
use transport::tcp::{Connection, Listener};
use transport::{InBuffer, OutBuffer, ucf_link};
use ucf::greeting::End;
use ucf::token::{Key, Keyring};
use ucf::wire::{Body, Hello, MemberState, Ownership, Report};

pub const CLUSTER: &str = "demo";
pub const PARTITIONS: u32 = 16;

/// How often a container that dies repeats its answers: more than is read at once.
pub const LAST_WORDS: usize = 400;

/// A running one; it ends with the test's runtime.
#[derive(Clone)]
pub struct Container {
    pub name: String,
    pub sip: SocketAddr,
    pub ucf: SocketAddr,
    state: Arc<State>,
}

struct State {
    incarnation: u64,
    epoch: u64,
    /// Writes its last words for the first request and ends at once.
    dies: bool,
    ends: tokio::sync::Notify,
    /// What came, in order of arrival, per connection: Call-ID and method, of responses the status.
    requests: Mutex<Vec<(String, String)>>,
}

impl Container {
    /// Starts one; a higher epoch takes all partitions from a lower.
    pub fn start(name: &str, incarnation: u64, epoch: u64) -> Self {
        Self::start_with(name, incarnation, epoch, false)
    }

    /// Starts one that ends both connections of a link once it has answered a first request, [`LAST_WORDS`] times more.
    pub fn start_dying(name: &str, incarnation: u64, epoch: u64) -> Self {
        Self::start_with(name, incarnation, epoch, true)
    }

    fn start_with(name: &str, incarnation: u64, epoch: u64, dies: bool) -> Self {
        let any = "127.0.0.1:0".parse().unwrap();
        let (sip, ucf) = (Listener::bind(any, false).unwrap(), Listener::bind(any, false).unwrap());
        let container = Self {
            name: name.to_owned(),
            sip: sip.local_addr(),
            ucf: ucf.local_addr(),
            state: Arc::new(State {
                incarnation,
                epoch,
                dies,
                ends: tokio::sync::Notify::new(),
                requests: Mutex::default(),
            }),
        };
        tokio::spawn(container.clone().accept(sip, ucf));
        container
    }

    /// What it got so far.
    pub fn requests(&self) -> Vec<(String, String)> {
        self.state.requests.lock().unwrap().clone()
    }

    async fn accept(self, sip: Listener, ucf: Listener) {
        loop {
            // A worker makes its SIP connection first, then its UCF connection; but workers may interleave.
            tokio::select! {
                connection = sip.accept() => { tokio::spawn(self.clone().serve(connection.unwrap())); }
                connection = ucf.accept() => { tokio::spawn(self.clone().converse(connection.unwrap())); }
            }
        }
    }

    async fn serve(self, connection: Connection) {
        let mut input = InBuffer::new();
        let mut out = OutBuffer::new(16 << 20);
        let mut framer = Framer::new(Side::Accepted, Limits::default());
        while connection.read(&mut input).await.unwrap_or(false) {
            loop {
                let (consumed, frame) = framer.next(input.data()).expect("the proxy writes SIP");
                if consumed == 0 {
                    break;
                }
                if let Some(Frame::Message(range)) = frame {
                    let message = std::str::from_utf8(&input.data()[range]).unwrap();
                    self.note(message);
                    answer(message, &mut out);
                    for _ in 0..LAST_WORDS * usize::from(self.state.dies) {
                        answer(message, &mut out);
                    }
                }
                input.consume(consumed);
            }
            if connection.write(&mut out).await.is_err() {
                return;
            }
            if self.state.dies {
                self.state.ends.notify_one();
                return;
            }
        }
    }

    fn note(&self, message: &str) {
        let mut words = message.split(' ');
        let method = words.find(|word| *word != "SIP/2.0").unwrap().to_owned();
        let call = header(message, "Call-ID").unwrap().to_owned();
        self.state.requests.lock().unwrap().push((call, method));
    }

    async fn converse(self, connection: Connection) {
        let mut input = InBuffer::new();
        let mut out = OutBuffer::new(ucf_link::LINK_BOUND);
        let ours = Hello {
            version: ucf_link::VERSION,
            cluster: CLUSTER.into(),
            name: self.name.clone(),
            incarnation: self.state.incarnation,
            ..Hello::default()
        };
        let keyring = keyring();
        let greeted = ucf_link::hello(&connection, &mut input, &keyring, End::Accepted, ours).await;
        if greeted.is_err() {
            return;
        }
        let owned = Ownership {
            owner: self.state.incarnation,
            partitions: (0..PARTITIONS).collect(),
            epochs: vec![self.state.epoch; PARTITIONS as usize],
            complete: true,
            ..Ownership::default()
        };
        ucf_link::push(Body::Ownership(owned), &mut out).unwrap();
        let mut heartbeat = 0;
        loop {
            let report = Report {
                heartbeat,
                state: MemberState::Active as i32,
                ..Report::default()
            };
            ucf_link::push(Body::Report(report), &mut out).unwrap();
            if connection.write(&mut out).await.is_err() {
                return;
            }
            tokio::select! {
                biased;
                () = self.state.ends.notified() => return,
                body = ucf_link::next(&connection, &mut input) => match body {
                    Ok(Some(Body::Heartbeat(beat))) => heartbeat = beat.number,
                    Ok(Some(_)) => {}
                    Ok(None) | Err(_) => return,
                }
            }
        }
    }
}

/// The cluster's key as the proxy is told, and the next one.
pub fn keyring() -> Keyring {
    let secret = std::array::from_fn(|n| n as u8);
    let next = Key {
        id: 1,
        secret: [0x11; 16],
    };
    Keyring::new(Key { id: 0, secret }, &[next], PARTITIONS)
}

/// The value of the first header of that name.
pub fn header<'a>(message: &'a str, name: &str) -> Option<&'a str> {
    let mut lines = message.split("\r\n").skip(1).take_while(|line| !line.is_empty());
    lines.find_map(|line| {
        line.split_once(':')
            .filter(|(n, _)| n.eq_ignore_ascii_case(name))
            .map(|(_, v)| v.trim())
    })
}

/// DIAL is another method of the tests: the container itself asks whom its Request-URI names, by the Route that it names.
fn dial(request: &str, token: &str) -> String {
    let uri = request.split(' ').nth(1).unwrap();
    let id = header(request, "Call-ID").unwrap();
    let route = header(request, "X-Route").map_or_else(String::new, |route| format!("Route: {route}\r\n"));
    format!(
        "OPTIONS {uri} SIP/2.0\r\nVia: SIP/2.0/TCP 192.0.2.1;branch=z9hG4bK{token}-1\r\n{route}Max-Forwards: 70\r\n\
         From: <sip:fake@192.0.2.1>;tag={token}-2\r\nTo: <{uri}>\r\nCall-ID: dialled-{id}\r\nCSeq: 1 OPTIONS\r\n\
         Content-Length: 0\r\n\r\n"
    )
}

fn answer(request: &str, out: &mut OutBuffer) {
    let method = request.split(' ').next().unwrap();
    // WAIT is a method of the tests: nobody ever answers it.
    if method == "ACK" || method == "WAIT" || method == "SIP/2.0" {
        return;
    }
    let via = header(request, "Via").unwrap();
    let token = via
        .split(';')
        .find_map(|part| part.trim().strip_prefix("pt="))
        .expect("the proxy names the partition");
    if method == "DIAL" {
        out.push(dial(request, token).as_bytes()).unwrap();
    }
    for status in if method == "INVITE" {
        &["180 Ringing", "200 OK"][..]
    } else {
        &["200 OK"][..]
    } {
        let mut response = format!("SIP/2.0 {status}\r\n");
        for line in request.split("\r\n").skip(1).take_while(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap();
            match name {
                "To" if !line.contains("tag=") => response.push_str(&format!("{line};tag={token}-fake\r\n")),
                "Via" | "From" | "To" | "Call-ID" | "CSeq" | "Record-Route" => {
                    response.push_str(&format!("{line}\r\n"))
                }
                _ => {}
            }
        }
        response.push_str(&format!(
            "Contact: <sip:fake@192.0.2.1;a={token}>\r\nContent-Length: 0\r\n\r\n"
        ));
        out.push(response.as_bytes()).unwrap();
    }
}

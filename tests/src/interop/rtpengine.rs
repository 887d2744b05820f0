//! Debian's rtpengine, and what it says of the calls whose media it leads.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::Path;
use std::process::Command;
use std::time::Duration;

use anyhow::Context;
use container::rtpengine::bencode::{Dictionary, Writer};

use super::process::{Process, wait_for};

/// How long it may take to start, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(30);

/// An rtpengine of the test's own, without its kernel module.
#[derive(Debug)]
pub struct Rtpengine {
    process: Process,
    control: SocketAddr,
}

impl Rtpengine {
    /// Starts it at an address of its own; its log and its configuration go to `files`.
    pub fn start(files: &Path, at: Ipv4Addr) -> anyhow::Result<Self> {
        let control = SocketAddr::from((at, 2223));
        // Else it reads the one of the system, with more ports.
        let config = files.join("rtpengine.conf");
        std::fs::write(&config, "[rtpengine]\n")?;
        let mut command = Command::new("rtpengine");
        command.arg(format!("--config-file={}", config.display()));
        command.args(["--table=-1", "--foreground", "--log-stderr", "--log-level=6"]);
        command.arg(format!("--interface={at}"));
        command.arg(format!("--listen-ng={control}"));
        let log = files.join(format!("rtpengine-{at}.log"));
        let process = Process::start(&mut command, &log).context("rtpengine (Debian: rtpengine-daemon)")?;
        let rtpengine = Self { process, control };
        wait_for("rtpengine answers", LIMIT, || {
            rtpengine.ask(Writer::new().string("command", b"ping")).ok()
        })
        .with_context(|| rtpengine.process.log_tail())?;
        Ok(rtpengine)
    }

    fn ask(&self, request: Writer) -> anyhow::Result<Vec<u8>> {
        let socket = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
        socket.set_read_timeout(Some(Duration::from_millis(200)))?;
        let cookie = format!("{} ", socket.local_addr()?.port());
        socket.send_to(&[cookie.as_bytes(), &request.finish()].concat(), self.control)?;
        let mut buffer = vec![0; 65_536];
        let (length, _) = socket.recv_from(&mut buffer)?;
        let reply = buffer[..length].strip_prefix(cookie.as_bytes());
        Ok(reply.context("another cookie")?.to_vec())
    }

    /// Where it leads media, and listens for what is asked of it.
    #[must_use]
    pub fn ip(&self) -> IpAddr {
        self.control.ip()
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// The names of the calls that it knows.
    pub fn calls(&self) -> anyhow::Result<Vec<String>> {
        let reply = self.ask(Writer::new().string("command", b"list").integer("limit", 32))?;
        let reply = String::from_utf8(reply)?;
        let list = reply.split("5:callsl").nth(1).with_context(|| reply.clone())?;
        // Ours are sixteen digits long.
        Ok(list.split("16:").skip(1).map(|call| call[..16].to_owned()).collect())
    }

    /// What it says to a query of a call: its error, if there is one.
    pub fn query(&self, call: &str) -> anyhow::Result<Option<String>> {
        let reply = self.ask(asked_for(call))?;
        let reply = Dictionary::parse(&reply).context("no dictionary")?;
        let reason = reply.string(b"error-reason");
        Ok(reason.map(|reason| String::from_utf8_lossy(reason).into_owned()))
    }

    /// How many packets of sound have come from each side of a call.
    pub fn packets(&self, call: &str) -> anyhow::Result<Vec<u64>> {
        let reply = self.ask(asked_for(call))?;
        let reply = String::from_utf8_lossy(&reply);
        // The first stream of each side's first medium; RTCP is the second.
        let sides = reply.split("6:mediasl").skip(1);
        let count = |side: &str| {
            let stats = side.split("5:statsd").nth(1)?;
            stats.split("7:packetsi").nth(1)?.split('e').next()?.parse().ok()
        };
        let counts: Option<Vec<u64>> = sides.map(count).collect();
        counts.with_context(|| reply.to_string())
    }
}

fn asked_for(call: &str) -> Writer {
    Writer::new()
        .string("call-id", call.as_bytes())
        .string("command", b"query")
}

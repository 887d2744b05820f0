//! A phone behind a NAT. Real processes, a real redis-server, real sockets.

use std::net::UdpSocket;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use tests::interop::cluster::{Cluster, Manifest};

const LIMIT: Duration = Duration::from_secs(15);
const PING: &[u8] = b"\r\n\r\n";

/// A phone that believes to be at 10.0.0.7:5060, seen by the cluster only as the outer side of its NAT.
struct Phone {
    outer: UdpSocket,
    target: std::net::SocketAddr,
}

impl Phone {
    fn request(&self, method: &str, number: u32, to_tag: &str, extra: &str) -> anyhow::Result<()> {
        let target = self.target;
        let message = format!(
            "{method} sip:echo@{target} SIP/2.0\r\nVia: SIP/2.0/UDP 10.0.0.7:5060;rport;branch=z9hG4bKnat{method}{number}\r\n\
             From: <sip:phone@10.0.0.7>;tag=phone\r\nTo: <sip:echo@{target}>{to_tag}\r\nCall-ID: nat@10.0.0.7\r\n\
             CSeq: {number} {method}\r\nContact: <sip:phone@10.0.0.7:5060>\r\nMax-Forwards: 70\r\n{extra}Content-Length: 0\r\n\r\n"
        );
        self.outer.send_to(message.as_bytes(), target)?;
        Ok(())
    }

    /// The next datagram that `wanted` likes.
    fn next(&self, what: &str, wanted: impl Fn(&[u8]) -> bool) -> anyhow::Result<String> {
        let deadline = Instant::now() + LIMIT;
        let mut buffer = [0; 4096];
        while Instant::now() < deadline {
            match self.outer.recv_from(&mut buffer) {
                Ok((len, from)) if wanted(&buffer[..len]) => {
                    // A NAT lets nobody else in.
                    assert_eq!(from, self.target, "{what}");
                    return Ok(String::from_utf8_lossy(&buffer[..len]).into_owned());
                }
                Ok(_) => {}
                Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
                Err(error) => return Err(error.into()),
            }
        }
        bail!("no {what} within {LIMIT:?}")
    }

    fn answer(&self, method: &str) -> anyhow::Result<String> {
        let end = format!(" {method}\r\n");
        self.next(method, |bytes| {
            bytes.starts_with(b"SIP/2.0 200 ") && bytes.windows(end.len()).any(|part| part == end.as_bytes())
        })
    }
}

fn field<'a>(message: &'a str, name: &str) -> anyhow::Result<&'a str> {
    let line = message.lines().find(|line| line.starts_with(name));
    let line = line.with_context(|| format!("{name} in {message}"))?;
    Ok(line.split_once(": ").context("a header field")?.1)
}

/// Whoever took the call and whoever carried it are gone: the successor has the other proxy ping at once, and the phone's binding lives on.
#[test]
fn a_flow_through_a_nat_is_kept_open_after_its_proxy_and_its_container_died() -> anyhow::Result<()> {
    let cluster = Cluster::start(Manifest {
        name: "nat",
        address: [86, 3],
        proxy_workers: 1,
        ..Manifest::default()
    })?;
    let outer = UdpSocket::bind((cluster.caller_address(), 40_001))?;
    outer.set_read_timeout(Some(Duration::from_millis(50)))?;
    let phone = Phone {
        outer,
        target: cluster.address(),
    };
    phone.request("INVITE", 1, "", "")?;
    let answer = phone.answer("INVITE")?;
    let to_tag = field(&answer, "To")?.split_once('>').context("a tag")?.1.to_owned();
    let route = format!("Route: {}\r\n", field(&answer, "Record-Route")?);
    phone.request("ACK", 1, &to_tag, &route)?;
    let before = cluster.until("the dialog is shown", LIMIT, |status| status.dialogs() == 1)?;
    let owner = before.containers.iter().find(|part| part.dialogs == Some(1));
    let owner = owner.context("somebody has it")?.name.clone();
    // The proxies share the address: the phone does not see which of them has its call, so each is killed once.
    for (round, proxy) in before.proxies.iter().enumerate() {
        cluster.kill(&proxy.name)?;
        if round == 0 {
            cluster.kill(&owner)?;
            phone.next("ping of the successor", |bytes| bytes == PING)?;
        }
        cluster.settle(Duration::from_secs(30))?;
    }
    phone.request("BYE", 2, &to_tag, &route)?;
    phone.answer("BYE")?;
    Ok(())
}

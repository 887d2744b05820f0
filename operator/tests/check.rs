//! The request by which `helm test` sees whether a SipCluster answers.

use std::net::SocketAddr;
use std::time::Duration;

use crds::Transport;
use operator::check::options;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, UdpSocket};

/// Longer than anything here takes.
const AMPLE: Duration = Duration::from_secs(20);

/// The cluster's address as peers have it.
const PEERS: &str = "203.0.113.7:5060";

/// The answer to a request with this status line; what it lacks to be one of RFC 3261 nobody reads.
fn answer(request: &str, status: &str) -> String {
    assert!(request.starts_with(&format!("OPTIONS sip:{PEERS}")), "{request}");
    let echoed = request
        .lines()
        .filter(|line| line.starts_with("Via") || line.starts_with("Call-ID"));
    format!(
        "SIP/2.0 {status}\r\n{}\r\n\r\n",
        echoed.collect::<Vec<_>>().join("\r\n")
    )
}

/// A server that lets the first datagrams pass and then answers with each of these statuses.
async fn datagrams(unanswered: usize, statuses: &'static [&'static str]) -> SocketAddr {
    let socket = UdpSocket::bind("127.0.0.1:0").await.expect("a socket");
    let address = socket.local_addr().expect("an address");
    tokio::spawn(async move {
        let mut bytes = vec![0; 65_535];
        for number in 0.. {
            let (length, peer) = socket.recv_from(&mut bytes).await.expect("a datagram");
            let request = String::from_utf8_lossy(&bytes[..length]);
            for status in statuses.iter().filter(|_| number >= unanswered) {
                let answer = answer(&request, status);
                socket.send_to(answer.as_bytes(), peer).await.expect("it is sent");
            }
        }
    });
    address
}

/// A server that answers one connection with each of these statuses and closes it.
async fn stream(statuses: &'static [&'static str]) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("a socket");
    let address = listener.local_addr().expect("an address");
    tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.expect("a connection");
        let mut request = Vec::new();
        while !request.ends_with(b"\r\n\r\n") {
            stream.read_buf(&mut request).await.expect("a request");
        }
        for status in statuses {
            let answer = answer(&String::from_utf8_lossy(&request), status);
            stream.write_all(answer.as_bytes()).await.expect("it is sent");
        }
    });
    address
}

#[tokio::test]
async fn a_200_is_waited_for_and_a_lost_datagram_repeated() {
    let to = datagrams(1, &["100 Trying", "200 OK"]).await;
    options(to, PEERS, Transport::Udp, AMPLE).await.expect("an answer");
    let to = stream(&["100 Trying", "200 OK"]).await;
    options(to, PEERS, Transport::Tcp, AMPLE).await.expect("an answer");
}

#[tokio::test]
async fn everything_else_fails_and_says_what_it_was() {
    let to = datagrams(0, &["503 Service Unavailable"]).await;
    let refused = options(to, PEERS, Transport::Udp, AMPLE).await.expect_err("a refusal");
    assert_eq!(refused.to_string(), "SIP/2.0 503 Service Unavailable");
    let to = stream(&["404 Not Found"]).await;
    let refused = options(to, PEERS, Transport::Tcp, AMPLE).await.expect_err("a refusal");
    assert_eq!(refused.to_string(), "SIP/2.0 404 Not Found");
    let to = stream(&["100 Trying"]).await;
    let closed = options(to, PEERS, Transport::Tcp, AMPLE).await.expect_err("no answer");
    assert_eq!(format!("{closed:#}"), format!("{to}: closed without an answer"));
    let to = datagrams(usize::MAX, &[]).await;
    let silent = options(to, PEERS, Transport::Udp, Duration::from_millis(50)).await;
    assert_eq!(
        silent.expect_err("no answer").to_string(),
        format!("no answer from {to} within 0.05 s")
    );
}

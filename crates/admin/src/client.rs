//! HTTP GET of an admin port: small and bounded.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// A process that works answers at once; one that does not within this time is silent.
const TIMEOUT: Duration = Duration::from_secs(1);

/// The largest answer that is read: a state is a few hundred bytes.
const MAX_ANSWER: u64 = 1 << 20;

/// Status and body of `GET path`.
pub async fn get(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    tokio::time::timeout(TIMEOUT, exchange(address, path))
        .await
        .map_err(|_| io::ErrorKind::TimedOut)?
}

/// The JSON of `GET /state`.
pub async fn state(address: SocketAddr) -> io::Result<Value> {
    let (status, body) = get(address, "/state").await?;
    if status != 200 {
        return Err(io::Error::other(format!("status {status}")));
    }
    serde_json::from_str(&body).map_err(io::Error::other)
}

async fn exchange(address: SocketAddr, path: &str) -> io::Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    // HTTP/1.0: the end of the connection ends the body, nothing is chunked.
    let request = format!("GET {path} HTTP/1.0\r\nHost: {address}\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = String::new();
    stream.take(MAX_ANSWER).read_to_string(&mut answer).await?;
    let (head, body) = answer
        .split_once("\r\n\r\n")
        .ok_or_else(|| io::Error::other("no end of headers"))?;
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok());
    Ok((status.ok_or_else(|| io::Error::other("no status"))?, body.to_owned()))
}

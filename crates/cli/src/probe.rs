//! What a part says of itself, in the words of the resource's status.

use std::net::SocketAddr;
use std::time::Duration;

use admin::client;
use crds::status::Answer;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// Asks the container or proxy of this name. If another answers at its address, it does not.
pub async fn ask(admin: SocketAddr, name: &str) -> Option<Answer> {
    let mut state = client::state(admin).await.ok()?;
    if state["name"].as_str().is_some_and(|answering| answering != name) {
        return None;
    }
    if state["state"].is_null() {
        // A part that tells no state is one that is ready or not.
        let is_ready = client::get(admin, "/readyz").await.ok()?.0 == 200;
        state["state"] = if is_ready { "Active" } else { "Joining" }.into();
    }
    Answer::read(&state)
}

/// Whether a Redis serves. One that wants a password does: the containers have it.
pub async fn redis_serves(address: &str) -> bool {
    let exchange = async {
        let mut stream = TcpStream::connect(address).await?;
        stream.write_all(b"PING\r\n").await?;
        let mut answer = [0; 64];
        let length = stream.read(&mut answer).await?;
        std::io::Result::Ok(answer[..length].starts_with(b"+PONG") || answer[..length].starts_with(b"-NOAUTH"))
    };
    matches!(
        tokio::time::timeout(Duration::from_secs(1), exchange).await,
        Ok(Ok(true))
    )
}

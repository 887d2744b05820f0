//! What a part says of itself, in the words of the resource's status.

use std::net::SocketAddr;
use std::time::Duration;

use crds::status::State;
use serde_json::Value;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http;

/// What a part answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Where it stands.
    pub state: State,
    /// What it holds has its second copy.
    pub replicated: bool,
    /// Of a container: it answers before it has written, because Redis is away for all of them.
    pub from_memory: bool,
    /// Of a container: partitions that it owns.
    pub partitions: u64,
    /// Of a container: dialogs that it holds.
    pub dialogs: u64,
    /// Of a container: transactions in progress.
    pub load: u64,
}

impl Answer {
    /// Whether what a container holds has its second copy in Redis, in a word.
    pub fn copies(&self) -> &'static str {
        match (self.replicated, self.from_memory) {
            (_, true) => "memory",
            (true, false) => "yes",
            (false, false) => "no",
        }
    }
}

/// Asks the container or proxy of this name. If another answers at its address, it does not.
pub async fn ask(admin: SocketAddr, name: &str) -> Option<Answer> {
    let state = http::state(admin).await.ok()?;
    if state["name"].as_str().is_some_and(|answering| answering != name) {
        return None;
    }
    let word = match state["state"].as_str() {
        Some(word) => from_word(word)?,
        // A part that tells no state is one that is ready or not.
        None if http::get(admin, "/readyz").await.ok()?.0 == 200 => State::Active,
        None => State::Joining,
    };
    Some(Answer {
        state: word,
        replicated: state["replicated"].as_bool().unwrap_or(true),
        from_memory: state["fromMemory"].as_bool().unwrap_or(false),
        partitions: count(&state["partitions"]),
        dialogs: count(&state["dialogs"]),
        load: count(&state["load"]),
    })
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

fn from_word(word: &str) -> Option<State> {
    let word = Value::String(word.to_owned());
    serde_json::from_value(word).ok()
}

fn count(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

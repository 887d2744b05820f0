//! UCF frames on a TCP connection: four bytes of length, big-endian, then a `ucf::wire::Frame`.

use std::time::Duration;

use prost::Message;
use ucf::greeting::{End, Greeting, NONCE_LEN};
use ucf::token::Keyring;
use ucf::wire::{Body, Frame, Hello, MAX_FRAME};

use crate::buffer::{Full, InBuffer, OutBuffer};
use crate::error::{Error, Result};
use crate::tcp::Connection;

/// Bytes that may wait on one link. Two complete announcements of ownership fit; a peer that falls behind further is closed.
pub const LINK_BOUND: usize = 2 * (MAX_FRAME + PREFIX);

/// How long a peer may take to say hello.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(2);

/// Connections that one listener has accepted and that have not said hello, at most ([`Places`](crate::places::Places)). More than a cluster's
/// parts make together, and each holds a read buffer.
pub const MAX_GREETING: usize = 256;

/// The largest frame that is read from a peer that is not known yet.
const MAX_HELLO: usize = 2 << 10;

/// The version of `ucf::wire` that is spoken here.
pub const VERSION: u32 = 1;

const PREFIX: usize = 4;

/// Appends one frame.
///
/// # Panics
/// If the frame is longer than [`MAX_FRAME`], which the sender's own bounds exclude.
pub fn push(body: Body, out: &mut OutBuffer) -> std::result::Result<(), Full> {
    let frame = Frame { body: Some(body) };
    let len = frame.encoded_len();
    assert!(len <= MAX_FRAME, "frames are bounded by their makers");
    out.push_with(|bytes| {
        bytes.extend_from_slice(&(len as u32).to_be_bytes());
        frame.encode(bytes).expect("a Vec grows");
    })
}

/// Takes the next whole frame from what was read; `None` if there is none yet. Frames of kinds unknown here are skipped.
pub fn take(input: &mut InBuffer) -> Result<Option<Body>> {
    take_within(input, MAX_FRAME)
}

fn take_within(input: &mut InBuffer, most: usize) -> Result<Option<Body>> {
    loop {
        let data = input.data();
        let Some((prefix, rest)) = data.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > most {
            return Err(Error::peer(format!(
                "UCF peer announces a frame of {len} bytes; at most {most} are allowed"
            )));
        }
        let Some(bytes) = rest.get(..len) else { return Ok(None) };
        let frame =
            Frame::decode(bytes).map_err(|error| Error::peer(format!("UCF peer sent no UCF frame: {error}")))?;
        input.consume(PREFIX + len);
        if let Some(body) = frame.body {
            return Ok(Some(body));
        }
    }
}

/// Waits for the next frame; `None` is the end of the link.
pub async fn next(connection: &Connection, input: &mut InBuffer) -> Result<Option<Body>> {
    next_within(connection, input, MAX_FRAME).await
}

async fn next_within(connection: &Connection, input: &mut InBuffer, most: usize) -> Result<Option<Body>> {
    loop {
        if let Some(body) = take_within(input, most)? {
            return Ok(Some(body));
        }
        if !connection.read(input).await? {
            return Ok(None);
        }
    }
}

/// Says hello and waits for the peer's, which is checked for version, cluster and proof (`ucf::greeting`). What the peer sent after it stays
/// in `input`.
///
/// # Errors
/// [`Fault::Stranger`](crate::Fault::Stranger) if the peer proves nothing: whoever accepted it counts and logs that.
pub async fn hello(
    connection: &Connection,
    input: &mut InBuffer,
    keyring: &Keyring,
    end: End,
    ours: Hello,
) -> Result<Hello> {
    let peer = connection.peer_addr();
    match tokio::time::timeout(HELLO_PATIENCE, greet(connection, input, keyring, end, ours)).await {
        Ok(greeted) => greeted,
        Err(_) => Err(Error::network(
            format!("no hello from tcp:{peer}"),
            std::io::ErrorKind::TimedOut.into(),
        )),
    }
}

async fn greet(
    connection: &Connection,
    input: &mut InBuffer,
    keyring: &Keyring,
    end: End,
    ours: Hello,
) -> Result<Hello> {
    let peer = connection.peer_addr();
    let cluster = ours.cluster.clone();
    let mut nonce = [0; NONCE_LEN];
    getrandom::fill(&mut nonce).map_err(|error| {
        Error::local(
            "no random numbers from the system",
            std::io::Error::other(error.to_string()),
        )
    })?;
    let greeting = Greeting::new(keyring, end, nonce);
    say(connection, Body::Challenge(greeting.challenge())).await?;
    let Body::Challenge(challenge) = first_words(connection, input).await? else {
        return Err(Error::stranger(format!("tcp:{peer} sent no challenge first")));
    };
    say(connection, Body::Hello(greeting.hello(&challenge, ours))).await?;
    match first_words(connection, input).await? {
        Body::Hello(hello) if hello.version != VERSION => Err(Error::peer(format!(
            "tcp:{peer} speaks UCF version {}, not {VERSION}",
            hello.version
        ))),
        Body::Hello(hello) if hello.cluster != cluster => Err(Error::peer(format!(
            "tcp:{peer} is of cluster {:?}, not {cluster:?}",
            hello.cluster
        ))),
        Body::Hello(hello) if !greeting.verifies(&challenge, &hello) => Err(Error::stranger(format!(
            "tcp:{peer} says that it is {:?} and does not have the cluster's key: give all proxies and containers the same SIPCLUSTER_KEY, or \
             its own among SIPCLUSTER_OTHER_KEYS",
            hello.name
        ))),
        Body::Hello(hello) => Ok(hello),
        _ => Err(Error::stranger(format!("tcp:{peer} did not say hello first"))),
    }
}

async fn say(connection: &Connection, body: Body) -> Result<()> {
    let mut out = OutBuffer::new(MAX_HELLO + PREFIX);
    push(body, &mut out).map_err(|_| Error::peer("this side's hello is too long"))?;
    connection.write(&mut out).await
}

/// The next frame of a peer that is not known yet.
async fn first_words(connection: &Connection, input: &mut InBuffer) -> Result<Body> {
    let body = next_within(connection, input, MAX_HELLO).await?;
    body.ok_or_else(|| {
        Error::network(
            format!("tcp:{} closed instead of saying hello", connection.peer_addr()),
            std::io::ErrorKind::UnexpectedEof.into(),
        )
    })
}

//! UCF frames on a TCP connection: four bytes of length, big-endian, then a `ucf::wire::Frame`.

use std::time::Duration;

use prost::Message;
use ucf::wire::{Body, Frame, Hello, MAX_FRAME};

use crate::buffer::{Full, InBuffer, OutBuffer};
use crate::error::{Error, Result};
use crate::tcp::Connection;

/// Bytes that may wait on one link. Two complete announcements of ownership fit; a peer that falls behind further is closed.
pub const LINK_BOUND: usize = 2 * (MAX_FRAME + PREFIX);

/// How long a peer may take to say hello.
pub const HELLO_PATIENCE: Duration = Duration::from_secs(2);

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
    loop {
        let data = input.data();
        let Some((prefix, rest)) = data.split_first_chunk::<PREFIX>() else {
            return Ok(None);
        };
        let len = u32::from_be_bytes(*prefix) as usize;
        if len > MAX_FRAME {
            return Err(Error::peer(format!(
                "UCF peer announces a frame of {len} bytes; at most {MAX_FRAME} are allowed"
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
    loop {
        if let Some(body) = take(input)? {
            return Ok(Some(body));
        }
        if !connection.read(input).await? {
            return Ok(None);
        }
    }
}

/// Says hello and waits for the peer's, which is checked for version and cluster. What the peer sent after it stays in `input`.
pub async fn hello(connection: &Connection, input: &mut InBuffer, ours: Hello) -> Result<Hello> {
    let peer = connection.peer_addr();
    let cluster = ours.cluster.clone();
    let mut out = OutBuffer::new(LINK_BOUND);
    push(Body::Hello(ours), &mut out).expect("a hello is small");
    connection.write(&mut out).await?;
    let theirs = match tokio::time::timeout(HELLO_PATIENCE, next(connection, input)).await {
        Err(_) => {
            return Err(Error::network(
                format!("no hello from tcp:{peer}"),
                std::io::ErrorKind::TimedOut.into(),
            ));
        }
        Ok(first) => first?,
    };
    match theirs {
        Some(Body::Hello(hello)) if hello.version != VERSION => Err(Error::peer(format!(
            "tcp:{peer} speaks UCF version {}, not {VERSION}",
            hello.version
        ))),
        Some(Body::Hello(hello)) if hello.cluster != cluster => Err(Error::peer(format!(
            "tcp:{peer} is of cluster {:?}, not {cluster:?}",
            hello.cluster
        ))),
        Some(Body::Hello(hello)) => Ok(hello),
        Some(_) => Err(Error::peer(format!("tcp:{peer} did not say hello first"))),
        None => Err(Error::network(
            format!("tcp:{peer} closed instead of saying hello"),
            std::io::ErrorKind::UnexpectedEof.into(),
        )),
    }
}

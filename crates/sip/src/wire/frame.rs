//! Messages out of a byte stream (RFC 3261 s18.3), and keep-alives between them (RFC 5626 s3.5.1, s4.4.1).

use std::ops::Range;

use super::message::Message;
use super::scan::{Index, Limits, ScanError};

/// Which side opened the connection: that one sends pings, the other answers them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// We accepted the connection: CRLFCRLF is a ping.
    Accepted,
    /// We opened it: CRLF is a pong.
    Opened,
}

/// What stands next in a stream.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Frame {
    /// A whole message, by its range in the bytes that were given. [`Framer::message`] gives access to it.
    Message(Range<usize>),
    /// A keep-alive that wants CRLF as an answer.
    Ping,
    /// The answer to our keep-alive.
    Pong,
}

/// Why a stream cannot be read on; the connection is to be closed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum FrameError {
    /// The header is not SIP or beyond the limits.
    #[error(transparent)]
    Scan(#[from] ScanError),
    /// No Content-Length, or not a sane one, so that nobody knows where the message ends. What was read can still be
    /// answered with 400, see [`Framer::refused`].
    #[error("no single numeric Content-Length")]
    ContentLength,
}

/// Finds the messages of one stream. It holds no bytes: the caller keeps those that are not consumed, and gives them
/// again with what came behind them. What was looked at is not looked at again.
#[derive(Debug)]
pub struct Framer {
    side: Side,
    limits: Limits,
    index: Index,
}

impl Framer {
    /// A framer for a new connection.
    #[must_use]
    pub fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            index: Index::new(),
        }
    }

    /// Looks for the next frame in `input`, all bytes that are not consumed yet. Says how many of them are consumed
    /// now (they must not be given again), and the frame if one is whole; a message's range lies within them.
    ///
    /// # Errors
    /// When the stream cannot be read on.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), FrameError> {
        let _ = (input, self.side, self.limits);
        todo!()
    }

    /// The message of the frame that [`Self::next`] just gave, in the same input.
    #[must_use]
    pub fn message<'a>(&'a self, input: &'a [u8]) -> Message<'a> {
        Message::new(input, &self.index)
    }

    /// The head of the message for which [`Self::next`] gave [`FrameError::ContentLength`], in the same input.
    #[must_use]
    pub fn refused<'a>(&'a self, input: &'a [u8]) -> Message<'a> {
        Message::new(input, &self.index)
    }
}

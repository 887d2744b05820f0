//! Messages out of a byte stream (RFC 3261 s18.3), and keep-alives between them (RFC 5626 s3.5.1, s4.4.1).

use std::ops::Range;

use super::message::Message;
use super::scan::{Index, Limits, ScanError, Span};

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
/// again with what came behind them. What was looked at is not looked at again, so that a peer who sends byte by byte
/// costs no more than one who sends all at once.
#[derive(Debug)]
pub struct Framer {
    side: Side,
    limits: Limits,
    index: Index,
    state: State,
}

#[derive(Clone, Copy, Debug)]
enum State {
    /// Between messages, where keep-alives may stand.
    Between,
    /// The start of the input is a message whose blank line has not come.
    Head,
    /// It is a message of this length.
    Body { length: usize },
}

impl Framer {
    /// A framer for a new connection.
    #[must_use]
    pub fn new(side: Side, limits: Limits) -> Self {
        Self {
            side,
            limits,
            index: Index::new(),
            state: State::Between,
        }
    }

    /// Looks for the next frame in `input`, all bytes that are not consumed yet. Says how many of them are consumed
    /// now (they must not be given again), and what they were; `(0, None)` asks for more bytes, a number without a
    /// frame (a line end that means nothing) to be called again.
    ///
    /// # Errors
    /// When the stream cannot be read on; it gives the same error ever after.
    pub fn next(&mut self, input: &[u8]) -> Result<(usize, Option<Frame>), FrameError> {
        if matches!(self.state, State::Between) {
            match self.between(input) {
                Some(found) => return Ok(found),
                None => {
                    self.index.restart(0);
                    self.state = State::Head;
                }
            }
        }
        if matches!(self.state, State::Head) {
            let Some(head) = self.index.scan_head(input, &self.limits)? else {
                return Ok((0, None));
            };
            let body = self.index.content_length().ok_or(FrameError::ContentLength)?;
            let length = head.saturating_add(body as usize);
            if length > self.limits.message.min(65_535) {
                return Err(ScanError::TooLong.into());
            }
            self.index.body = Span::new(head, length);
            self.state = State::Body { length };
        }
        match self.state {
            State::Body { length } if length <= input.len() => {
                self.state = State::Between;
                Ok((length, Some(Frame::Message(0..length))))
            }
            _ => Ok((0, None)),
        }
    }

    /// Keep-alives and stray line ends (RFC 3261 s7.5); `None` where a message starts.
    fn between(&self, input: &[u8]) -> Option<(usize, Option<Frame>)> {
        Some(match (self.side, input) {
            (_, []) | (_, b"\r") => (0, None),
            (Side::Opened, [b'\r', b'\n', ..]) => (2, Some(Frame::Pong)),
            (Side::Accepted, [b'\r', b'\n', b'\r', b'\n', ..]) => (4, Some(Frame::Ping)),
            // Half a ping, or a stray line end: the next bytes tell.
            (Side::Accepted, b"\r\n" | b"\r\n\r") => (0, None),
            (Side::Accepted, [b'\r', b'\n', ..]) => (2, None),
            (_, [b'\n', ..]) => (1, None),
            _ => return None,
        })
    }

    /// The message of the frame that [`Self::next`] just gave, in the same input.
    #[must_use]
    pub fn message<'a>(&'a self, input: &'a [u8]) -> Message<'a> {
        Message::new(input, &self.index)
    }

    /// The index of that message, spans counted from its first byte.
    #[must_use]
    pub fn index(&self) -> &Index {
        &self.index
    }

    /// The head of the message for which [`Self::next`] gave [`FrameError::ContentLength`], in the same input.
    #[must_use]
    pub fn refused<'a>(&'a self, input: &'a [u8]) -> Message<'a> {
        Message::new(input, &self.index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frames(side: Side, stream: &[u8], chunk: usize) -> Result<Vec<Vec<u8>>, FrameError> {
        let mut framer = Framer::new(side, Limits::default());
        let (mut found, mut start, mut end) = (Vec::new(), 0, 0);
        while end < stream.len() {
            end = (end + chunk).min(stream.len());
            loop {
                let input = &stream[start..end];
                let (consumed, frame) = framer.next(input)?;
                match frame {
                    None if consumed == 0 => break,
                    None => {}
                    Some(Frame::Message(range)) => {
                        assert_eq!(framer.message(input).as_bytes(), &input[range.clone()]);
                        found.push(input[range].to_vec());
                    }
                    Some(Frame::Ping) => found.push(b"ping".to_vec()),
                    Some(Frame::Pong) => found.push(b"pong".to_vec()),
                }
                start += consumed;
            }
        }
        Ok(found)
    }

    const ONE: &[u8] = b"OPTIONS sip:a SIP/2.0\r\nl:\r\n 4\r\n\r\n\r\n\r\n";
    const TWO: &[u8] = b"SIP/2.0 200 OK\nContent-Length: 0\n\n";

    #[test]
    fn chunks_do_not_matter() {
        let stream = [b"\r\n\r\n", ONE, TWO, b"\r\n", ONE, b"\r\n\r\n\r\n", ONE].concat();
        let accepted = vec![
            b"ping".to_vec(),
            ONE.to_vec(),
            TWO.to_vec(),
            ONE.to_vec(),
            b"ping".to_vec(),
            ONE.to_vec(),
        ];
        let pong = || b"pong".to_vec();
        let opened = vec![
            pong(),
            pong(),
            ONE.to_vec(),
            TWO.to_vec(),
            pong(),
            ONE.to_vec(),
            pong(),
            pong(),
            pong(),
            ONE.to_vec(),
        ];
        for chunk in 1..stream.len() {
            assert_eq!(frames(Side::Accepted, &stream, chunk), Ok(accepted.clone()), "{chunk}");
            assert_eq!(frames(Side::Opened, &stream, chunk), Ok(opened.clone()), "{chunk}");
        }
    }

    #[test]
    fn a_stream_without_one_sane_length_ends() {
        for lengths in [
            "",
            "l: x\r\n",
            "l: -1\r\n",
            "l: 1\r\nContent-Length: 1\r\n",
            "l: 99999999999\r\n",
        ] {
            let stream = format!("OPTIONS sip:a SIP/2.0\r\n{lengths}\r\n");
            assert_eq!(
                frames(Side::Accepted, stream.as_bytes(), 1),
                Err(FrameError::ContentLength),
                "{lengths}"
            );
        }
        let stream = b"OPTIONS sip:a SIP/2.0\r\nl: 65535\r\n\r\n";
        assert_eq!(frames(Side::Accepted, stream, 7), Err(ScanError::TooLong.into()));
    }

    #[test]
    fn what_never_ends_is_cut_off_at_the_limits() {
        let line = [b'a'; 9000];
        assert_eq!(frames(Side::Accepted, &line, 1), Err(ScanError::LineTooLong.into()));
        let folds = [b"OPTIONS sip:a SIP/2.0\r\na:b\r\n".to_vec(), b" c\r\n".repeat(3000)].concat();
        assert_eq!(frames(Side::Accepted, &folds, 1), Err(ScanError::LineTooLong.into()));
        let headers = [b"OPTIONS sip:a SIP/2.0\r\n".to_vec(), b"a:b\r\n".repeat(200)].concat();
        assert_eq!(
            frames(Side::Accepted, &headers, 1),
            Err(ScanError::TooManyHeaders.into())
        );
        let wide = [
            b"OPTIONS sip:a SIP/2.0\r\n".to_vec(),
            [b"a:".to_vec(), vec![b'b'; 8000], b"\r\n".to_vec()].concat().repeat(9),
        ]
        .concat();
        assert_eq!(frames(Side::Accepted, &wide, 1000), Err(ScanError::TooLong.into()));
    }
}

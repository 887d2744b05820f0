//! Bounded byte buffers of the stream transports: contiguous, so that a batch is one system call and a message one slice.

use std::fmt;

/// How much is read from a stream at once. Large enough for some hundred messages of a busy container link, small enough to stay in
/// the second-level cache.
pub const READ_CHUNK: usize = 64 << 10;

/// Below this, moving the rest of a buffer to its front is cheaper than growing it.
const COMPACT_BELOW: usize = 4 << 10;

/// The bound of an [`OutBuffer`] would be exceeded: the peer reads too slowly.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Full;

impl fmt::Display for Full {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the peer reads too slowly: its output buffer is full")
    }
}

impl std::error::Error for Full {}

/// What waits to be written to one stream.
#[derive(Debug)]
pub struct OutBuffer {
    bytes: Vec<u8>,
    written: usize,
    bound: usize,
}

impl OutBuffer {
    /// An empty buffer that never holds more than `bound` bytes.
    #[must_use]
    pub fn new(bound: usize) -> Self {
        Self {
            bytes: Vec::new(),
            written: 0,
            bound,
        }
    }

    /// Bytes that wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.bytes.len() - self.written
    }

    /// Whether nothing waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// What waits, oldest first.
    #[must_use]
    pub fn pending(&self) -> &[u8] {
        &self.bytes[self.written..]
    }

    /// Appends one message, whole or not at all.
    pub fn push(&mut self, message: &[u8]) -> Result<(), Full> {
        if self.len() + message.len() > self.bound {
            return Err(Full);
        }
        self.make_room(message.len());
        self.bytes.extend_from_slice(message);
        Ok(())
    }

    /// Lets `write` append one message in place; what it appended is taken back if the bound is exceeded.
    pub fn push_with(&mut self, write: impl FnOnce(&mut Vec<u8>)) -> Result<(), Full> {
        self.make_room(0);
        let before = self.bytes.len();
        write(&mut self.bytes);
        if self.len() > self.bound {
            self.bytes.truncate(before);
            return Err(Full);
        }
        Ok(())
    }

    /// Notes that the first `count` pending bytes are written.
    pub fn consume(&mut self, count: usize) {
        self.written += count.min(self.len());
        if self.written == self.bytes.len() {
            self.clear();
        }
    }

    /// Drops everything, keeping memory of ordinary size for the next batch.
    pub fn clear(&mut self) {
        self.bytes.clear();
        self.written = 0;
        if self.bytes.capacity() > 4 * READ_CHUNK {
            self.bytes.shrink_to(READ_CHUNK);
        }
    }

    fn make_room(&mut self, more: usize) {
        let full = self.bytes.capacity() - self.bytes.len() < more;
        if self.written > 0 && (full || self.len() < COMPACT_BELOW) {
            self.bytes.drain(..self.written);
            self.written = 0;
        }
    }
}

/// What has been read from one stream and not yet been taken.
#[derive(Debug, Default)]
pub struct InBuffer {
    bytes: Vec<u8>,
    start: usize,
    end: usize,
}

impl InBuffer {
    /// An empty buffer; memory is taken with the first read.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// What has been read and not been taken.
    #[must_use]
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Takes the first `count` bytes away.
    pub fn consume(&mut self, count: usize) {
        self.start = (self.start + count).min(self.end);
        if self.start == self.end {
            self.start = 0;
            self.end = 0;
        }
    }

    /// Whether everything that was read has been taken.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.start == self.end
    }

    /// Gives the memory back if nothing is held; for connections that are idle most of the time.
    pub fn release(&mut self) {
        if self.is_empty() {
            self.bytes = Vec::new();
        }
    }

    /// Free space to read into, at least `want` bytes; then [`InBuffer::filled`].
    pub fn space(&mut self, want: usize) -> &mut [u8] {
        if self.bytes.len() - self.end < want && self.start > 0 {
            self.bytes.copy_within(self.start..self.end, 0);
            self.end -= self.start;
            self.start = 0;
        }
        if self.bytes.len() - self.end < want {
            self.bytes.resize(self.end + want, 0);
        }
        &mut self.bytes[self.end..]
    }

    /// Notes that `count` bytes of [`InBuffer::space`] were filled.
    pub fn filled(&mut self, count: usize) {
        self.end = (self.end + count).min(self.bytes.len());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn out_buffer_keeps_order_and_bound() {
        let mut out = OutBuffer::new(10);
        out.push(b"12345").unwrap();
        out.push_with(|bytes| bytes.extend_from_slice(b"678")).unwrap();
        assert_eq!(out.push(b"xyz"), Err(Full));
        assert_eq!(out.push_with(|bytes| bytes.extend_from_slice(b"xyz")), Err(Full));
        out.consume(6);
        assert_eq!(out.pending(), b"78");
        out.push(b"90abcdef").unwrap();
        assert_eq!(out.pending(), b"7890abcdef");
        out.consume(10);
        assert!(out.is_empty());
    }

    #[test]
    fn in_buffer_gives_back_what_was_read_in_order() {
        let mut input = InBuffer::new();
        let mut expected = Vec::new();
        let mut seen = Vec::new();
        for round in 0..100u8 {
            let chunk = vec![round; usize::from(round) % 13];
            input.space(16)[..chunk.len()].copy_from_slice(&chunk);
            input.filled(chunk.len());
            expected.extend_from_slice(&chunk);
            let take = input.data().len() / 2;
            seen.extend_from_slice(&input.data()[..take]);
            input.consume(take);
        }
        seen.extend_from_slice(input.data());
        assert_eq!(seen, expected);
    }
}

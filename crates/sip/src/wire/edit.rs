//! Edits as splices: what is not named stays as it is, byte by byte.

use bytes::BufMut;

use super::header::HeaderName;
use super::message::Message;
use super::scan::Span;
use super::values::Value;

/// A list of splices on one message. Made once, used for every message: inserted bytes share one buffer.
///
/// Places count in the message before any splice. Splices apply in the order of their places; at the same place, in
/// the order in which they were made.
#[derive(Clone, Debug, Default)]
pub struct Edit {
    splices: Vec<Splice>,
    inserted: Vec<u8>,
}

#[derive(Clone, Copy, Debug)]
struct Splice {
    removed: Span,
    from: u32,
    to: u32,
}

impl Edit {
    /// No splices.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Forgets all splices, keeps the memory.
    pub fn clear(&mut self) {
        self.splices.clear();
        self.inserted.clear();
    }

    /// Whether nothing is to be changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.splices.is_empty()
    }

    /// Replaces a range by what `write` appends; all other edits are made of this.
    pub fn splice(&mut self, removed: Span, write: impl FnOnce(&mut Vec<u8>)) {
        let from = self.inserted.len() as u32;
        write(&mut self.inserted);
        let to = self.inserted.len() as u32;
        let place = self
            .splices
            .partition_point(|splice| splice.removed.start <= removed.start);
        self.splices.insert(place, Splice { removed, from, to });
    }

    /// Inserts bytes before the byte at `at`.
    pub fn insert(&mut self, at: usize, bytes: &[u8]) {
        self.splice(Span::new(at, at), |out| out.extend_from_slice(bytes));
    }

    /// Replaces a range.
    pub fn replace(&mut self, span: Span, bytes: &[u8]) {
        self.splice(span, |out| out.extend_from_slice(bytes));
    }

    /// Removes a range.
    pub fn remove(&mut self, span: Span) {
        self.splice(span, |_| {});
    }

    /// Writes the edited message.
    pub fn apply_into(&self, message: &Message<'_>, out: &mut impl BufMut) {
        let bytes = message.buffer();
        let mut at = usize::from(message.index().start);
        let end = message.index().end();
        for splice in &self.splices {
            let upto = splice.removed.start().clamp(at, end.max(at));
            out.put_slice(bytes.get(at..upto).unwrap_or_default());
            out.put_slice(&self.inserted[splice.from as usize..splice.to as usize]);
            at = splice.removed.end().max(upto);
        }
        out.put_slice(bytes.get(at..end).unwrap_or_default());
    }

    // ---- header fields ----

    /// Adds a header field on top of all others, as the canonical name, `value` and CRLF.
    pub fn push_top(&mut self, message: &Message<'_>, name: HeaderName, value: &[u8]) {
        self.push_top_with(message, name, |out| out.extend_from_slice(value));
    }

    /// The same, with a value that `write` appends.
    pub fn push_top_with(&mut self, message: &Message<'_>, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let at = message
            .header_at(0)
            .map_or_else(|| message.blank_line(), |header| header.line.start());
        self.header_line(at, name, write);
    }

    /// Adds a header field above the first one of its name, or else on top of all others: where a proxy puts its
    /// Via, Record-Route or Route.
    pub fn push_above_with(&mut self, message: &Message<'_>, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        let first = message.index().first(name).unwrap_or(0);
        let at = message
            .header_at(first)
            .map_or_else(|| message.blank_line(), |header| header.line.start());
        self.header_line(at, name, write);
    }

    /// Adds a header field behind all others.
    pub fn append(&mut self, message: &Message<'_>, name: HeaderName, value: &[u8]) {
        self.header_line(message.blank_line(), name, |out| out.extend_from_slice(value));
    }

    fn header_line(&mut self, at: usize, name: HeaderName, write: impl FnOnce(&mut Vec<u8>)) {
        self.splice(Span::new(at, at), |out| {
            out.extend_from_slice(name.as_str().as_bytes());
            out.extend_from_slice(b": ");
            write(out);
            out.extend_from_slice(b"\r\n");
        });
    }

    /// Removes a header field with its line.
    pub fn remove_header(&mut self, message: &Message<'_>, ordinal: usize) {
        if let Some(header) = message.header_at(ordinal) {
            self.remove(header.line);
        }
    }

    /// Removes one element of a comma list, and its line if it is alone there. Several of one line: [`Self::pop`].
    pub fn remove_value(&mut self, message: &Message<'_>, value: &Value<'_>) {
        let _ = (message, value);
        todo!()
    }

    /// Removes the first `count` elements of a comma list, over as many header fields as they stand in.
    pub fn pop(&mut self, message: &Message<'_>, name: HeaderName, count: usize) {
        let _ = (message, name, count);
        todo!()
    }

    /// Replaces one element of a comma list.
    pub fn replace_value(&mut self, value: &Value<'_>, bytes: &[u8]) {
        self.replace(value.span, bytes);
    }

    // ---- what a proxy does ----

    /// Adds what the topmost Via lacks for its response to find back (RFC 3261 s18.2.1, RFC 3581 s4): `received` when
    /// the source differs from sent-by or `rport` is asked for, and the value of `rport`.
    pub fn set_received(&mut self, message: &Message<'_>, source: std::net::SocketAddr) {
        let _ = (message, source);
        todo!()
    }

    /// Takes one from Max-Forwards, or adds it with 70 (RFC 3261 s16.6, step 3).
    pub fn decrement_max_forwards(&mut self, message: &Message<'_>) {
        let _ = message;
        todo!()
    }

    /// Adds Content-Length where there is none: on a stream it must be there (RFC 3261 s18.3).
    pub fn ensure_content_length(&mut self, message: &Message<'_>) {
        let _ = message;
        todo!()
    }
}

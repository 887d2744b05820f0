//! Header fields and the elements of comma lists (RFC 3261 s7.3.1).

use super::header::HeaderName;
use super::message::Message;
use super::params::find_unquoted;
use super::scan::{Span, trim};

/// One header field as it stands there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header<'a> {
    /// Its place among the header fields, from 0.
    pub ordinal: usize,
    /// The name, if it is known.
    pub name: HeaderName,
    /// The name as written.
    pub name_bytes: &'a [u8],
    /// The value without white space around it; a folded one has its line ends within.
    pub value: &'a [u8],
    /// Where the value stands.
    pub span: Span,
    /// The field with its line end.
    pub line: Span,
}

/// One element of a header field that is a comma list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Value<'a> {
    /// The element without white space around it.
    pub bytes: &'a [u8],
    /// Where it stands.
    pub span: Span,
    /// The header field that it stands in.
    pub ordinal: usize,
    /// Its place in that header field, from 0.
    pub position: usize,
    /// Whether it is the last one of its header field.
    pub is_last: bool,
}

/// The elements of all header fields of one name, in order. Empty elements are skipped.
#[derive(Clone, Debug)]
pub struct Values<'a> {
    message: Message<'a>,
    name: HeaderName,
    /// The header field under work, where in the message it goes on, and how many elements it has given.
    ordinal: usize,
    at: Option<usize>,
    position: usize,
}

impl<'a> Values<'a> {
    pub(crate) fn new(message: Message<'a>, name: HeaderName) -> Self {
        Self {
            message,
            name,
            ordinal: message.index().first(name).unwrap_or(usize::MAX),
            at: None,
            position: 0,
        }
    }
}

impl<'a> Iterator for Values<'a> {
    type Item = Value<'a>;

    #[inline]
    fn next(&mut self) -> Option<Value<'a>> {
        loop {
            let entry = self.message.index().headers.get(self.ordinal)?;
            let start = self.at.unwrap_or(entry.value.start());
            if entry.name != self.name || start > entry.value.end() {
                self.ordinal += 1;
                (self.at, self.position) = (None, 0);
                if entry.name == self.name && !self.message.index().is_repeated(self.name) {
                    self.ordinal = usize::MAX;
                }
                continue;
            }
            let end = entry.value.end();
            let bytes = &self.message.buffer()[..end];
            let comma = find_unquoted(bytes, start, b',').unwrap_or(end);
            self.at = Some(comma + 1);
            let element = trim(&bytes[..comma], start);
            if !element.is_empty() {
                self.position += 1;
                return Some(Value {
                    bytes: &bytes[element.clone()],
                    span: Span::new(element.start, element.end),
                    ordinal: self.ordinal,
                    position: self.position - 1,
                    is_last: comma >= end,
                });
            }
        }
    }
}

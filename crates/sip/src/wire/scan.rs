//! The zero-copy scan: one pass over the bytes, and an [`Index`] of small numbers remains.
//!
//! Framing, routing and typed access all work from this index. It has no lifetime and no allocation once it is warm,
//! so a worker keeps one and scans every datagram into it.
//!
//! A message that cannot be answered at all makes the scan fail ([`ScanError`]). One that is wrong but answerable is
//! indexed, and its first [`Fault`] is kept for [`crate::check`], which says with what to refuse it.

use memchr::memchr2;

use super::header::HeaderName;

/// What a peer may make us hold. More than this is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of a message with its body; at most 65 535, the most a datagram can carry and an [`Index`] can address.
    pub message: usize,
    /// Header fields; at most 254.
    pub headers: usize,
    /// Bytes of the start line, and of one header field with its continuation lines.
    pub line: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            message: 65_535,
            headers: 128,
            line: 8192,
        }
    }
}

/// A range of a message's bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Span {
    pub(crate) start: u16,
    pub(crate) end: u16,
}

impl Span {
    /// `start..end`, cut to what a message can have.
    #[must_use]
    pub fn new(start: usize, end: usize) -> Self {
        let (start, end) = (start.min(65_535), end.min(65_535));
        Self {
            start: start as u16,
            end: end.max(start) as u16,
        }
    }

    /// First byte.
    #[must_use]
    pub const fn start(self) -> usize {
        self.start as usize
    }

    /// One past the last byte.
    #[must_use]
    pub const fn end(self) -> usize {
        self.end as usize
    }

    /// How many bytes.
    #[must_use]
    pub const fn len(self) -> usize {
        self.end as usize - self.start as usize
    }

    /// No bytes at all.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.start == self.end
    }

    /// The bytes; empty if the span is not of this buffer.
    #[must_use]
    pub fn of(self, bytes: &[u8]) -> &[u8] {
        bytes.get(self.start()..self.end()).unwrap_or_default()
    }
}

/// Why bytes are no message that could be answered: the caller counts and drops them, or closes the stream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScanError {
    /// Nothing, or line ends only: a keep-alive (RFC 5626 s3.5.1).
    #[error("nothing but line ends")]
    Empty,
    /// The bytes end before the blank line that ends the header.
    #[error("the header does not end")]
    Incomplete,
    /// The first line is neither a request line nor a status line.
    #[error("the first line is not SIP")]
    NotSip,
    /// Longer than [`Limits::message`].
    #[error("the message is too long")]
    TooLong,
    /// A line longer than [`Limits::line`].
    #[error("a line is too long")]
    LineTooLong,
    /// More header fields than [`Limits::headers`].
    #[error("too many header fields")]
    TooManyHeaders,
}

/// What is wrong with a message that was indexed all the same; the first that was found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Fault {
    /// The request line is not `Method SP Request-URI SP SIP-Version` (RFC 3261 s7.1).
    RequestLine,
    /// A SIP version other than 2.0.
    Version,
    /// The status line has no code of three digits (RFC 3261 s7.2).
    StatusLine,
    /// A header line without a name and a colon.
    HeaderLine,
    /// A CR that no LF follows.
    BareCr,
    /// Content-Length is not a number, or is above the limit.
    ContentLength,
    /// Content-Length stands there twice.
    DuplicateContentLength,
    /// Content-Length says more than the datagram holds (RFC 3261 s18.3).
    ShortBody,
}
const NONE: u8 = u8::MAX;

/// One header field: where its line, its value and the value's end are. The line ends where the next one starts.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entry {
    pub(crate) start: u16,
    pub(crate) value: Span,
    pub(crate) name: HeaderName,
}

/// What the first line says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StartLine {
    Unknown,
    Request { method: Span, uri: Span },
    Response { status: u16, reason: Span },
}

/// The reusable, lifetime-free result of a scan. Together with the bytes it makes a [`crate::Message`].
#[derive(Clone, Debug)]
pub struct Index {
    pub(crate) headers: Vec<Entry>,
    /// Ordinal of the first header field of each name.
    first: [u8; HeaderName::COUNT],
    /// One bit per name that stands there more than once.
    repeated: u128,
    pub(crate) start_line: StartLine,
    pub(crate) start: u16,
    pub(crate) body: Span,
    content_length: Option<u32>,
    fault: Option<Fault>,
    /// Start of the line under work, and how far its end has been looked for: where a stream's scan goes on.
    line: usize,
    probe: usize,
}

const _: () = assert!(HeaderName::COUNT <= 128, "one bit of `repeated` per name");

impl Default for Index {
    fn default() -> Self {
        Self {
            headers: Vec::new(),
            first: [NONE; HeaderName::COUNT],
            repeated: 0,
            start_line: StartLine::Unknown,
            start: 0,
            body: Span::default(),
            content_length: None,
            fault: None,
            line: 0,
            probe: 0,
        }
    }
}

impl Index {
    /// An empty index with room for a usual message.
    #[must_use]
    pub fn new() -> Self {
        Self {
            headers: Vec::with_capacity(24),
            ..Self::default()
        }
    }

    /// Scans one datagram, or one whole message. Line ends before it are skipped (RFC 3261 s7.5); what follows the
    /// body that Content-Length names is not part of it (s18.3); without Content-Length the body is the rest.
    ///
    /// # Errors
    /// When this is no message that could be answered; the index is then of no use.
    pub fn scan(&mut self, bytes: &[u8], limits: &Limits) -> Result<(), ScanError> {
        let start = bytes.iter().take_while(|b| matches!(b, b'\r' | b'\n')).count();
        if start == bytes.len() {
            return Err(ScanError::Empty);
        }
        if bytes.len() > limits.message.min(65_535) {
            return Err(ScanError::TooLong);
        }
        self.restart(start);
        let Some(head_end) = self.scan_head(bytes, limits)? else {
            return Err(ScanError::Incomplete);
        };
        let rest = bytes.len() - head_end;
        let body = match self.content_length {
            Some(length) if length as usize <= rest => length as usize,
            Some(_) => {
                self.note(Fault::ShortBody);
                rest
            }
            None => rest,
        };
        self.body = Span::new(head_end, head_end + body);
        Ok(())
    }

    /// Forgets everything; the next line to scan starts at `start`.
    pub(crate) fn restart(&mut self, start: usize) {
        self.headers.clear();
        self.first = [NONE; HeaderName::COUNT];
        self.repeated = 0;
        self.start_line = StartLine::Unknown;
        self.start = start as u16;
        self.body = Span::default();
        self.content_length = None;
        self.fault = None;
        self.line = start;
        self.probe = start;
    }

    /// Scans on to the blank line, and says where the body starts; `None` if more bytes are needed, for which the
    /// same bytes and more are to be given.
    pub(crate) fn scan_head(&mut self, bytes: &[u8], limits: &Limits) -> Result<Option<usize>, ScanError> {
        let bytes = &bytes[..bytes.len().min(limits.message).min(65_535)];
        loop {
            let Some((end, next)) = self.find_line_end(bytes) else {
                return if bytes.len() - self.line > limits.line {
                    Err(ScanError::LineTooLong)
                } else if bytes.len() == limits.message.min(65_535) {
                    Err(ScanError::TooLong)
                } else {
                    Ok(None)
                };
            };
            if next - self.line > limits.line {
                return Err(ScanError::LineTooLong);
            }
            if self.start_line == StartLine::Unknown {
                self.take_start_line(bytes, end)?;
            } else if end == self.line {
                self.body = Span::new(next, next);
                return Ok(Some(next));
            } else {
                self.take_header(bytes, end, limits)?;
            }
            (self.line, self.probe) = (next, next);
        }
    }

    /// Where the line under work ends without and with its line end. A header line goes on over continuation lines
    /// (RFC 3261 s7.3.1), so the first byte of the next line must be at hand.
    #[inline]
    fn find_line_end(&mut self, bytes: &[u8]) -> Option<(usize, usize)> {
        loop {
            let Some(found) = memchr2(b'\r', b'\n', &bytes[self.probe..]) else {
                self.probe = bytes.len();
                return None;
            };
            let end = self.probe + found;
            self.probe = end;
            // A lone LF ends a line too: many senders and test tools write it, and nothing else can be meant.
            let next = if bytes[end] == b'\n' {
                end + 1
            } else {
                match bytes.get(end + 1) {
                    Some(b'\n') => end + 2,
                    Some(_) => {
                        self.note(Fault::BareCr);
                        self.probe = end + 1;
                        continue;
                    }
                    None => return None,
                }
            };
            if end == self.line || self.start_line == StartLine::Unknown {
                return Some((end, next));
            }
            match bytes.get(next) {
                Some(b' ' | b'\t') => self.probe = next,
                Some(_) => return Some((end, next)),
                None => return None,
            }
        }
    }

    fn take_start_line(&mut self, bytes: &[u8], end: usize) -> Result<(), ScanError> {
        let line = &bytes[self.line..end];
        self.start_line = if line.len() >= 4 && line[..4].eq_ignore_ascii_case(b"SIP/") {
            self.status_line(line)
        } else {
            self.request_line(line)?
        };
        Ok(())
    }

    /// RFC 3261 s7.1: `Method SP Request-URI SP SIP-Version`.
    fn request_line(&mut self, line: &[u8]) -> Result<StartLine, ScanError> {
        let trimmed = trim_end(line);
        let method = trimmed.iter().take_while(|b| is_token(**b)).count();
        let version = trimmed
            .iter()
            .rposition(|b| is_lws(*b))
            .map(|at| &trimmed[at + 1..])
            .ok_or(ScanError::NotSip)?;
        if method == 0 || !is_lws(trimmed[method]) || version.len() < 4 || !version[..4].eq_ignore_ascii_case(b"SIP/") {
            return Err(ScanError::NotSip);
        }
        let uri_end = trimmed.len() - version.len() - 1;
        let uri = trimmed.get(method + 1..uri_end).unwrap_or_default();
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            self.note(Fault::Version);
        }
        if uri.is_empty() || trimmed.len() != line.len() || trimmed[method] != b' ' || trimmed[uri_end] != b' ' {
            self.note(Fault::RequestLine);
        }
        if uri
            .iter()
            .any(|b| matches!(b, b' ' | b'\t' | b'\r' | b'<' | b'>' | b'"'))
        {
            self.note(Fault::RequestLine);
        }
        Ok(StartLine::Request {
            method: Span::new(self.line, self.line + method),
            uri: Span::new(self.line + method + 1, self.line + method + 1 + uri.len()),
        })
    }

    /// RFC 3261 s7.2: `SIP-Version SP Status-Code SP Reason-Phrase`.
    fn status_line(&mut self, line: &[u8]) -> StartLine {
        let mut parts = line.splitn(3, |b| *b == b' ');
        let version = parts.next().unwrap_or_default();
        let code = parts.next().unwrap_or_default();
        let reason = parts.next().unwrap_or_default().len();
        if !version.eq_ignore_ascii_case(b"SIP/2.0") {
            self.note(Fault::Version);
        }
        let status = match code {
            [a @ b'1'..=b'6', b, c] if b.is_ascii_digit() && c.is_ascii_digit() => {
                u16::from(a - b'0') * 100 + u16::from(b - b'0') * 10 + u16::from(c - b'0')
            }
            _ => {
                self.note(Fault::StatusLine);
                0
            }
        };
        let end = self.line + line.len();
        StartLine::Response {
            status,
            reason: Span::new(end - reason, end),
        }
    }

    #[inline]
    fn take_header(&mut self, bytes: &[u8], end: usize, limits: &Limits) -> Result<(), ScanError> {
        let ordinal = self.headers.len();
        if ordinal >= limits.headers.min(usize::from(NONE)) {
            return Err(ScanError::TooManyHeaders);
        }
        let line = &bytes[self.line..end];
        let length = line.iter().take_while(|b| is_token(**b)).count();
        let colon = length + line[length..].iter().take_while(|b| is_lws(**b)).count();
        let (name, value) = if length > 0 && line.get(colon) == Some(&b':') {
            (HeaderName::recognize(&line[..length]), trim(line, colon + 1))
        } else {
            self.note(Fault::HeaderLine);
            (HeaderName::Other, 0..line.len())
        };
        let value = Span::new(self.line + value.start, self.line + value.end);
        self.headers.push(Entry {
            start: self.line as u16,
            value,
            name,
        });
        if name == HeaderName::ContentLength {
            self.take_content_length(value.of(bytes));
        }
        if self.first[name as usize] == NONE {
            self.first[name as usize] = ordinal as u8;
        } else {
            self.repeated |= 1 << name as usize;
        }
        Ok(())
    }

    /// Two lengths, even equal ones, let two readers of one stream disagree on where a message ends, so neither is
    /// believed.
    fn take_content_length(&mut self, value: &[u8]) {
        if self.first[HeaderName::ContentLength as usize] != NONE {
            self.note(Fault::DuplicateContentLength);
            self.content_length = None;
            return;
        }
        self.content_length = parse_u32(value);
        if self.content_length.is_none() {
            self.note(Fault::ContentLength);
        }
    }

    pub(crate) fn note(&mut self, fault: Fault) {
        self.fault.get_or_insert(fault);
    }

    /// What is wrong with the message, if anything is. [`crate::check`] turns this into the answer.
    #[must_use]
    pub const fn fault(&self) -> Option<Fault> {
        self.fault
    }

    /// The value of a sane Content-Length.
    #[must_use]
    pub const fn content_length(&self) -> Option<u32> {
        self.content_length
    }

    /// How many header fields there are.
    #[must_use]
    pub fn header_count(&self) -> usize {
        self.headers.len()
    }

    /// Ordinal of the first header field of this name.
    #[must_use]
    pub fn first(&self, name: HeaderName) -> Option<usize> {
        match self.first[name as usize] {
            NONE => None,
            ordinal => Some(usize::from(ordinal)),
        }
    }

    /// Whether this name stands there more than once.
    #[must_use]
    pub const fn is_repeated(&self, name: HeaderName) -> bool {
        self.repeated & (1 << name as usize) != 0
    }

    /// One past the last byte of the message.
    #[must_use]
    pub const fn end(&self) -> usize {
        self.body.end()
    }

    /// Gives back memory that this message does not need; for an index that is kept.
    pub fn shrink(&mut self) {
        self.headers.shrink_to_fit();
    }
}

/// RFC 3261 s25.1, token.
pub(crate) const fn is_token(byte: u8) -> bool {
    const TOKEN: [bool; 256] = {
        let mut table = [false; 256];
        let others = *b"-.!%*_+`'~";
        let mut i = 0;
        while i < 256 {
            table[i] = (i as u8).is_ascii_alphanumeric();
            i += 1;
        }
        let mut i = 0;
        while i < others.len() {
            table[others[i] as usize] = true;
            i += 1;
        }
        table
    };
    TOKEN[byte as usize]
}

/// Linear white space, the line ends of folded fields included (RFC 3261 s25.1, LWS).
pub(crate) const fn is_lws(byte: u8) -> bool {
    matches!(byte, b' ' | b'\t' | b'\r' | b'\n')
}

/// The range of `bytes[from..]` without white space around it.
pub(crate) fn trim(bytes: &[u8], from: usize) -> std::ops::Range<usize> {
    let mut start = from.min(bytes.len());
    let mut end = bytes.len();
    while start < end && is_lws(bytes[start]) {
        start += 1;
    }
    while end > start && is_lws(bytes[end - 1]) {
        end -= 1;
    }
    start..end
}

/// `bytes` without white space around them.
pub(crate) fn trimmed(bytes: &[u8]) -> &[u8] {
    &bytes[trim(bytes, 0)]
}

fn trim_end(bytes: &[u8]) -> &[u8] {
    let end = bytes.iter().rposition(|b| !is_lws(*b)).map_or(0, |at| at + 1);
    &bytes[..end]
}

/// Digits only; `None` for anything else and above `u32::MAX`.
pub(crate) fn parse_u32(digits: &[u8]) -> Option<u32> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u32, |number, digit| {
        digit.is_ascii_digit().then_some(())?;
        number.checked_mul(10)?.checked_add(u32::from(digit - b'0'))
    })
}

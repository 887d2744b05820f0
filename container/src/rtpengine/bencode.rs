//! Bencode: strings `4:text`, integers `i7e`, lists `l..e` and dictionaries `d..e`, whose keys are strings.

/// How deep lists and dictionaries may lie in one another.
const MAX_DEPTH: u8 = 16;

/// A dictionary that is written.
#[derive(Debug)]
pub struct Writer(Vec<u8>);

impl Default for Writer {
    fn default() -> Self {
        Self(vec![b'd'])
    }
}

impl Writer {
    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// One more entry, a string. Keys are to be given in their order.
    #[must_use]
    pub fn string(mut self, key: &str, value: &[u8]) -> Self {
        put(&mut self.0, key.as_bytes());
        put(&mut self.0, value);
        self
    }

    /// One more entry, a list of strings.
    #[must_use]
    pub fn strings(mut self, key: &str, values: &[&str]) -> Self {
        put(&mut self.0, key.as_bytes());
        self.0.push(b'l');
        for value in values {
            put(&mut self.0, value.as_bytes());
        }
        self.0.push(b'e');
        self
    }

    /// One more entry, a number.
    #[must_use]
    pub fn integer(mut self, key: &str, value: i64) -> Self {
        put(&mut self.0, key.as_bytes());
        self.0.extend_from_slice(format!("i{value}e").as_bytes());
        self
    }

    /// Its bytes.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.0.push(b'e');
        self.0
    }
}

fn put(out: &mut Vec<u8>, text: &[u8]) {
    out.extend_from_slice(format!("{}:", text.len()).as_bytes());
    out.extend_from_slice(text);
}

/// A dictionary that is read, in place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dictionary<'a>(&'a [u8]);

impl<'a> Dictionary<'a> {
    /// The dictionary that these bytes are, to their end; `None` if they are anything else.
    #[must_use]
    pub fn parse(bytes: &'a [u8]) -> Option<Self> {
        (bytes.first() == Some(&b'd') && skip(bytes, MAX_DEPTH)?.is_empty()).then_some(Self(bytes))
    }

    /// The entry of this key, if it is a string.
    #[must_use]
    pub fn string(&self, key: &[u8]) -> Option<&'a [u8]> {
        let mut rest = &self.0[1..];
        while rest.first() != Some(&b'e') {
            let (name, value) = string(rest)?;
            if name == key {
                return string(value).map(|(text, _)| text);
            }
            rest = skip(value, MAX_DEPTH)?;
        }
        None
    }
}

/// A string, and what follows it.
fn string(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let colon = bytes.iter().take(8).position(|byte| *byte == b':')?;
    let (digits, rest) = (&bytes[..colon], &bytes[colon + 1..]);
    if !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let length: usize = std::str::from_utf8(digits).ok()?.parse().ok()?;
    rest.split_at_checked(length)
}

/// What follows the value that stands first.
fn skip(bytes: &[u8], depth: u8) -> Option<&[u8]> {
    let (first, mut rest) = bytes.split_first()?;
    match first {
        b'0'..=b'9' => string(bytes).map(|(_, rest)| rest),
        b'i' => {
            let end = rest.iter().position(|byte| *byte == b'e')?;
            let digits = rest[..end].strip_prefix(b"-").unwrap_or(&rest[..end]);
            let is_number = !digits.is_empty() && digits.iter().all(u8::is_ascii_digit);
            is_number.then(|| &rest[end + 1..])
        }
        b'l' | b'd' => {
            let depth = depth.checked_sub(1)?;
            while *rest.first()? != b'e' {
                if *first == b'd' {
                    rest = string(rest)?.1;
                }
                rest = skip(rest, depth)?;
            }
            Some(&rest[1..])
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read() {
        let written = Writer::new().string("command", b"offer").strings("flags", &["a", "bc"]);
        let written = written.integer("n", -7).string("sdp", b"v=0\r\n").finish();
        assert_eq!(written, b"d7:command5:offer5:flagsl1:a2:bce1:ni-7e3:sdp5:v=0\r\ne");
        let read = Dictionary::parse(&written).expect("a dictionary");
        assert_eq!(read.string(b"sdp"), Some(&b"v=0\r\n"[..]));
        assert_eq!((read.string(b"flags"), read.string(b"none")), (None, None));
    }

    #[test]
    fn what_is_not_a_dictionary_is_not_read() {
        for wrong in [
            "",
            "d",
            "e",
            "de4",
            "i7e",
            "l1:ae",
            "d1:ae",
            "d1:a",
            "d1:ai7",
            "d1:aie",
            "d1:ai-e",
            "d1:ai7xe",
            "di7e1:ae",
            "d1:a9:short",
            "d1:a99999999999999999999:xe",
            "d1:a-1:xe",
            "d+1:a1:xe",
            "d1:axe",
            "d1:ald1:be",
        ] {
            assert_eq!(Dictionary::parse(wrong.as_bytes()), None, "{wrong}");
        }
        let deep = |levels: usize| format!("d1:a{}{}e", "l".repeat(levels), "e".repeat(levels));
        assert!(Dictionary::parse(deep(usize::from(MAX_DEPTH) - 1).as_bytes()).is_some());
        assert_eq!(Dictionary::parse(deep(10_000).as_bytes()), None);
    }
}

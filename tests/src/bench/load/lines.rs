//! The header lines of a message, found with memchr(3).

/// Lines up to the empty one, without their ends.
pub struct Lines<'a>(pub &'a [u8]);

impl<'a> Iterator for Lines<'a> {
    type Item = &'a [u8];

    fn next(&mut self) -> Option<&'a [u8]> {
        let end = find(self.0, b'\n')?;
        let line = &self.0[..end];
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        self.0 = &self.0[end + 1..];
        (!line.is_empty()).then_some(line)
    }
}

/// Position of a byte.
pub fn find(text: &[u8], byte: u8) -> Option<usize> {
    // SAFETY: memchr reads at most `len` bytes from a pointer to as many.
    let at = unsafe { libc::memchr(text.as_ptr().cast(), i32::from(byte), text.len()) };
    (!at.is_null()).then(|| at as usize - text.as_ptr() as usize)
}

/// Whether a line is that of a header, given with its colon.
pub fn is(line: &[u8], header: &[u8]) -> bool {
    line.len() > header.len() && line[..header.len()].eq_ignore_ascii_case(header)
}

/// A number at the start of a text, after blanks.
pub fn number(text: &[u8]) -> Option<(u64, &[u8])> {
    let text = text.trim_ascii_start();
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    let value = text[..digits].iter().try_fold(0_u64, |value, digit| {
        value.checked_mul(10)?.checked_add(u64::from(digit - b'0'))
    })?;
    (digits > 0).then_some((value, &text[digits..]))
}

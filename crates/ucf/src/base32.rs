//! Bits as text of `[0-9a-v]`: the alphabet of every token, safe in tags, branches and URI parameters.

const DIGITS: &[u8; 32] = b"0123456789abcdefghijklmnopqrstuv";

/// Value of each byte as a digit, 255 where it is none. Upper case counts as lower case: parameter values may come back in
/// either (RFC 3261 s7.3.1).
static VALUES: [u8; 256] = values();

const fn values() -> [u8; 256] {
    let mut values = [255; 256];
    let mut i = 0;
    while i < 32 {
        values[DIGITS[i] as usize] = i as u8;
        values[DIGITS[i].to_ascii_uppercase() as usize] = i as u8;
        i += 1;
    }
    values
}

/// Writes the lowest `out.len() * 5` bits of `value`, highest first.
pub fn write(value: u128, out: &mut [u8]) {
    let mut rest = value;
    for digit in out.iter_mut().rev() {
        *digit = DIGITS[(rest & 31) as usize];
        rest >>= 5;
    }
}

/// Reads up to 25 digits, highest first.
#[must_use]
pub fn read(text: &[u8]) -> Option<u128> {
    let mut value = 0u128;
    for byte in text {
        let digit = VALUES[usize::from(*byte)];
        if digit > 31 {
            return None;
        }
        value = value << 5 | u128::from(digit);
    }
    Some(value)
}

/// Digits that `bytes` bytes take.
#[must_use]
pub const fn digits(bytes: usize) -> usize {
    (bytes * 8).div_ceil(5)
}

/// Writes `bytes` as [`digits`]`(bytes.len())` digits, five bytes as eight digits; returns how many.
pub fn encode(bytes: &[u8], out: &mut [u8]) -> usize {
    let mut at = 0;
    for chunk in bytes.chunks(5) {
        let mut block = [0; 8];
        block[3..3 + chunk.len()].copy_from_slice(chunk);
        let bits = u64::from_be_bytes(block);
        for i in 0..digits(chunk.len()) {
            out[at] = DIGITS[(bits >> (35 - 5 * i) & 31) as usize];
            at += 1;
        }
    }
    at
}

/// Reads what [`encode`] wrote; returns the number of bytes, or nothing if it is not such a text or does not fit.
#[must_use]
pub fn decode(text: &[u8], out: &mut [u8]) -> Option<usize> {
    let mut at = 0;
    for chunk in text.chunks(8) {
        let mut bits = 0u64;
        for (i, byte) in chunk.iter().enumerate() {
            let digit = VALUES[usize::from(*byte)];
            if digit > 31 {
                return None;
            }
            bits |= u64::from(digit) << (35 - 5 * i);
        }
        let bytes = chunk.len() * 5 / 8;
        if digits(bytes) != chunk.len() || bits & ((1 << (40 - 8 * bytes)) - 1) != 0 {
            return None;
        }
        out.get_mut(at..at + bytes)?
            .copy_from_slice(&bits.to_be_bytes()[3..3 + bytes]);
        at += bytes;
    }
    Some(at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_encoded_decodes_to_the_same() {
        let bytes: Vec<u8> = (0..48).map(|i| (i * 37 + 11) as u8).collect();
        for length in 0..=bytes.len() {
            let mut text = [0; 80];
            let mut back = [0; 48];
            let written = encode(&bytes[..length], &mut text);
            assert_eq!(written, digits(length));
            assert_eq!(decode(&text[..written], &mut back), Some(length));
            assert_eq!(back[..length], bytes[..length]);
        }
    }

    #[test]
    fn only_one_text_stands_for_given_bytes() {
        let mut out = [0; 8];
        assert_eq!(decode(b"00", &mut out), Some(1));
        assert_eq!(decode(b"01", &mut out), None, "left-over bits must be zero");
        assert_eq!(decode(b"0", &mut out), None, "no bytes take one digit");
        assert_eq!(decode(b"0w", &mut out), None, "not a digit");
        assert_eq!(decode(b"0000000000000000", &mut out[..5]), None, "does not fit");
    }

    #[test]
    fn numbers_survive() {
        let mut text = [0; 13];
        write(u128::from(u64::MAX), &mut text);
        assert_eq!(read(&text), Some(u128::from(u64::MAX)));
        assert_eq!(read(&text.to_ascii_uppercase()), Some(u128::from(u64::MAX)));
        assert_eq!(read(b"00z"), None);
    }
}

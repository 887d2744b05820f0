//! Any bytes as a stream, in pieces whose lengths are drawn from it: the same messages are found as in one piece.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/sip/tests/support/properties.rs"]
#[allow(dead_code, reason = "each target uses some of them")]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    let mut at = 0;
    properties::framing_is_independent_of_chunks(bytes, || {
        at += 1;
        1 + usize::from(bytes[at % bytes.len()])
    });
});

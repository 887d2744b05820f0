//! Any bytes as one message: scanned, read, checked, edited and answered. The properties are those of the mutation test.
#![no_main]

use libfuzzer_sys::fuzz_target;

#[path = "../../crates/sip/tests/support/properties.rs"]
#[allow(dead_code, reason = "each target uses some of them")]
mod properties;

fuzz_target!(|bytes: &[u8]| {
    properties::scan_is_sound(bytes);
    // Where to splice is drawn from the input too.
    let mut at = 0;
    properties::splices_agree_with_a_model(bytes, |bound| {
        at += 1;
        usize::from(bytes[at % bytes.len()]) % bound.max(1)
    });
});

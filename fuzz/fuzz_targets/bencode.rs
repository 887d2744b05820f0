//! Any bytes as what rtpengine replies: read within bounds or refused, and nothing is read that does not stand there.
#![no_main]

use container::rtpengine::Answer;
use container::rtpengine::bencode::Dictionary;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    if let Some(dictionary) = Dictionary::parse(bytes) {
        for key in [&b"result"[..], b"sdp", b"error-reason", b"", &bytes[..bytes.len().min(3)]] {
            if let Some(text) = dictionary.string(key) {
                assert!(bytes.as_ptr_range().contains(&text.as_ptr()) && text.len() < bytes.len());
            }
        }
    }
    let _ = Answer::parse(bytes);
});

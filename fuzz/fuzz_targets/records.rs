//! Any bytes as what Redis holds and as what the parts tell each other: read within bounds or refused, and written as it was read.
#![no_main]

use bytes::Bytes;
use container::records::{Key, Kind, Record};
use libfuzzer_sys::fuzz_target;
use prost::Message;

fuzz_target!(|bytes: &[u8]| {
    for kind in [Kind::Session, Kind::Server, Kind::Client] {
        let Ok(record) = Record::decode(kind, Bytes::copy_from_slice(bytes)) else {
            continue;
        };
        let written = match &record {
            Record::Session(record) => record.encode_to_vec(),
            Record::Server(record) => record.encode_to_vec(),
            Record::Client(record) => record.encode_to_vec(),
        };
        assert_eq!(Record::decode(kind, written.into()).as_ref(), Ok(&record));
    }
    if let Some(key) = Key::parse(bytes) {
        assert_eq!(key.to_bytes(), bytes);
    }
    if let Ok(frame) = ucf::wire::Frame::decode(bytes) {
        assert_eq!(ucf::wire::Frame::decode(&*frame.encode_to_vec()).as_ref(), Ok(&frame));
    }
});

//! A warm worker allocates nothing to scan, check, edit and frame a message.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use sip::{Edit, Frame, Framer, HeaderName, Index, Limits, Message, ResponseBuilder, Side, check};

thread_local! {
    static ALLOCATIONS: Cell<usize> = const { Cell::new(0) };
}

struct Counting;

// SAFETY: every call goes on to the system's allocator unchanged.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.with(|count| count.set(count.get() + 1));
        // SAFETY: as the caller promises.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, pointer: *mut u8, layout: Layout) {
        // SAFETY: as the caller promises.
        unsafe { System.dealloc(pointer, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_warm_hop_allocates_nothing() {
    let invite = include_bytes!("support/invite.sip");
    let source = "192.0.2.1:5061".parse().unwrap();
    let (mut index, mut edit, mut out) = (Index::new(), Edit::new(), Vec::new());
    let mut framer = Framer::new(Side::Accepted, Limits::default());
    let mut hop = || {
        index.scan(invite, &Limits::default()).unwrap();
        let message = Message::new(invite, &index);
        check(&message).unwrap();
        edit.clear();
        edit.pop(&message, HeaderName::Route, 1);
        edit.push_above_with(&message, HeaderName::Via, |out| {
            out.extend_from_slice(b"SIP/2.0/UDP p;branch=z9hG4bK1")
        });
        edit.set_received(&message, source);
        edit.decrement_max_forwards(&message);
        edit.ensure_content_length(&message);
        out.clear();
        edit.apply_into(&message, &mut out);
        assert_eq!(framer.next(&out), Ok((out.len(), Some(Frame::Message(0..out.len())))));
        out.clear();
        ResponseBuilder::new(&mut out, &message, 180, "Ringing", Some(b"t"))
            .header(HeaderName::Contact, b"<sip:c>")
            .finish();
    };
    hop();
    let before = ALLOCATIONS.with(Cell::get);
    (0..10).for_each(|_| hop());
    assert_eq!(ALLOCATIONS.with(Cell::get) - before, 0);
}

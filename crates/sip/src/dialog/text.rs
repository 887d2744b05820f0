//! The texts of a dialog in one allocation.

/// The texts of a dialog.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DialogText<'a> {
    /// Call-ID.
    pub call_id: &'a [u8],
    /// Our address as it stands in From of our requests, with our tag.
    pub local: &'a [u8],
    /// Our tag; part of `local`.
    pub local_tag: &'a [u8],
    /// The peer's address as it stands in To of our requests, with its tag.
    pub remote: &'a [u8],
    /// The peer's tag; part of `remote`.
    pub remote_tag: &'a [u8],
    /// The value of our Contact.
    pub contact: &'a [u8],
    /// The peer's target URI.
    pub target: &'a [u8],
    /// The route set as the value of one Route header; empty if there is none.
    pub routes: &'a [u8],
}

/// More text than this makes no dialog: 16 KiB is twenty times what phones and trunks send, and bounds what one INVITE
/// can make us hold.
const MAX: usize = 16 * 1024;

#[derive(Clone, Debug)]
pub(super) struct Text {
    bytes: Box<[u8]>,
    /// Where call_id, local, remote, contact and target end; the routes follow.
    ends: [u16; 5],
    /// Start and length of the tags, which are parts of local and remote.
    local_tag: (u16, u16),
    remote_tag: (u16, u16),
}

impl Text {
    pub(super) fn new(text: &DialogText<'_>) -> Option<Self> {
        let parts = [
            text.call_id,
            text.local,
            text.remote,
            text.contact,
            text.target,
            text.routes,
        ];
        if parts.iter().map(|part| part.len()).sum::<usize>() > MAX {
            return None;
        }
        let mut ends = [0; 5];
        let mut end = 0;
        for (slot, part) in ends.iter_mut().zip(&parts) {
            end += part.len();
            *slot = u16::try_from(end).ok()?;
        }
        // A folded value is written out in one line (RFC 3261 s7.3.1).
        let unfold = |byte: u8| if matches!(byte, b'\r' | b'\n') { b' ' } else { byte };
        Some(Self {
            bytes: parts.concat().into_iter().map(unfold).collect(),
            local_tag: place(ends[0], text.local, text.local_tag)?,
            remote_tag: place(ends[1], text.remote, text.remote_tag)?,
            ends,
        })
    }

    pub(super) fn get(&self) -> DialogText<'_> {
        let [call_id, local, remote, contact, target] = self.ends.map(usize::from);
        let tag = |(start, len): (u16, u16)| &self.bytes[usize::from(start)..][..usize::from(len)];
        DialogText {
            call_id: &self.bytes[..call_id],
            local: &self.bytes[call_id..local],
            local_tag: tag(self.local_tag),
            remote: &self.bytes[local..remote],
            remote_tag: tag(self.remote_tag),
            contact: &self.bytes[remote..contact],
            target: &self.bytes[contact..target],
            routes: &self.bytes[target..],
        }
    }

    /// The same with another target (RFC 3261 s12.2: target refresh). `false` if it is beyond measure; then nothing
    /// changes.
    pub(super) fn set_target(&mut self, target: &[u8]) -> bool {
        if self.get().target == target {
            return true;
        }
        match Self::new(&DialogText { target, ..self.get() }) {
            Some(text) => *self = text,
            None => return false,
        }
        true
    }

    /// The same with another route set.
    pub(super) fn set_routes(&mut self, routes: &[u8]) -> bool {
        match Self::new(&DialogText { routes, ..self.get() }) {
            Some(text) => *self = text,
            None => return false,
        }
        true
    }

    pub(super) fn heap_size(&self) -> usize {
        self.bytes.len()
    }
}

/// Where the tag stands in the text. Any place with the same bytes will do; the last is the parameter's own.
fn place(start: u16, value: &[u8], tag: &[u8]) -> Option<(u16, u16)> {
    if tag.is_empty() {
        return Some((0, 0));
    }
    let at = value.windows(tag.len()).rposition(|window| window == tag)?;
    Some((start + u16::try_from(at).ok()?, u16::try_from(tag.len()).ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: DialogText<'_> = DialogText {
        call_id: b"a84b4c76e66710",
        local: b"<sip:bob@biloxi.example>;tag=8321",
        local_tag: b"8321",
        remote: b"\"9fx\" <sip:alice@atlanta.example>;tag=9fx",
        remote_tag: b"9fx",
        contact: b"<sip:bob@192.0.2.4>",
        target: b"sip:alice@pc33.atlanta.example",
        routes: b"<sip:p1.example;lr>, <sip:p2.example;lr>",
    };

    #[test]
    fn what_goes_in_comes_out() {
        let mut text = Text::new(&TEXT).expect("fits");
        assert_eq!(text.get(), TEXT);
        assert!(text.set_target(b"sip:alice@10.0.0.9"));
        let expected = DialogText {
            target: b"sip:alice@10.0.0.9",
            ..TEXT
        };
        assert_eq!(text.get(), expected);
    }

    #[test]
    fn a_folded_value_becomes_one_line() {
        let remote = b"Alice\r\n <sip:alice@atlanta.example>;tag=9fx";
        let text = Text::new(&DialogText { remote, ..TEXT }).expect("fits");
        assert_eq!(text.get().remote, b"Alice   <sip:alice@atlanta.example>;tag=9fx");
    }

    #[test]
    fn text_beyond_measure_makes_no_dialog() {
        let target = vec![b'x'; MAX];
        assert!(
            Text::new(&DialogText {
                target: &target,
                ..TEXT
            })
            .is_none()
        );
        let mut text = Text::new(&TEXT).expect("fits");
        assert!(!text.set_target(&target));
        assert_eq!(text.get(), TEXT);
    }
}

//! Numbers that nobody outside foresees, out of a seed, and their place in tags and branches.

use std::hash::Hasher as _;

use siphasher::sip::SipHasher24;
use ucf::base32;
use ucf::token::{BRANCH_COOKIE, TOKEN_LEN};

/// Characters of a number.
pub(super) const NUMBER_LEN: usize = base32::digits(8);

/// A keyed counter: numbers never repeat within a seed as long as the hash does not collide, and tell nothing of one another.
#[derive(Debug)]
pub(crate) struct Entropy {
    seed: [u64; 2],
    count: u64,
}

impl Entropy {
    pub fn new(seed: [u64; 2]) -> Self {
        Self { seed, count: 0 }
    }

    /// The next number.
    pub fn number(&mut self) -> u64 {
        self.count += 1;
        let mut hasher = SipHasher24::new_with_keys(self.seed[0], self.seed[1]);
        hasher.write_u64(self.count);
        hasher.finish()
    }
}

/// Appends `-` and the number.
pub(super) fn append(out: &mut Vec<u8>, number: u64) {
    out.push(b'-');
    let at = out.len();
    out.resize(at + NUMBER_LEN, 0);
    base32::write(u128::from(number), &mut out[at..]);
}

/// The session's number in a tag of ours.
pub(super) fn number_in_tag(tag: &[u8]) -> Option<u64> {
    let text = tag.get(TOKEN_LEN + 1..TOKEN_LEN + 1 + NUMBER_LEN)?;
    u64::try_from(base32::read(text)?).ok()
}

/// The transaction's number in a branch of ours.
pub(super) fn number_in_branch(branch: &[u8]) -> Option<u64> {
    number_in_tag(branch.get(BRANCH_COOKIE.len()..)?)
}

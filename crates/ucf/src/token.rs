//! The affinity token: text that names a partition and proves that the cluster issued it.
//!
//! `1` (version), one digit of key id, four of partition, sixteen of keyed check (80 bits of SipHash-2-4-128): 22 characters
//! of `[0-9a-v]`. It stands at the beginning of tags and branches (`<token>-<unique>`) and as value of the URI parameter `a`
//! and the Via parameter `pt`. All tokens of a key are computed once: issuing is a copy and verifying a comparison.

use std::fmt;
use std::hash::Hasher as _;
use std::str::FromStr;

use siphasher::sip::SipHasher24;
use siphasher::sip128::{Hasher128 as _, SipHasher24 as SipHasher24of128};

use crate::{PartitionId, base32};

/// Characters of a token.
pub const TOKEN_LEN: usize = 22;

/// What every branch of RFC 3261 begins with (s8.1.1.7).
pub const BRANCH_COOKIE: &[u8] = b"z9hG4bK";

/// Ids of keys: a token names its own in one digit.
pub const IDS: u8 = 32;

const VERSION: u8 = b'1';
const PARTITION: std::ops::Range<usize> = 2..6;

/// A token as text.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Token([u8; TOKEN_LEN]);

impl Token {
    /// The token's characters.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }

    /// The token's characters.
    #[must_use]
    pub fn as_str(&self) -> &str {
        std::str::from_utf8(&self.0).expect("tokens are ASCII")
    }
}

impl fmt::Display for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// What a text says about its partition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Affinity {
    /// It does not look like one of ours.
    Absent,
    /// Issued by this cluster.
    Partition(PartitionId),
    /// It looks like one of ours, but its check, key or partition is wrong.
    Forged,
}

impl Affinity {
    /// The partition, if the text was issued by this cluster.
    #[must_use]
    pub fn partition(self) -> Option<PartitionId> {
        match self {
            Self::Partition(partition) => Some(partition),
            Self::Absent | Self::Forged => None,
        }
    }
}

/// A secret that all parts of the cluster share.
#[derive(Clone, Copy)]
pub struct Key {
    /// 0 to 31, another one for each of the keys that verify.
    pub id: u8,
    /// The secret itself.
    pub secret: [u8; 16],
}

impl fmt::Debug for Key {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Key({})", self.id)
    }
}

/// A text that is no key, or none beside others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unfit {
    /// The text without what may be a secret.
    pub value: String,
    /// What to give in its place.
    pub remedy: &'static str,
}

/// 32 hexadecimal digits; with another id than 0 `ID:DIGITS`.
impl FromStr for Key {
    type Err = Unfit;

    fn from_str(text: &str) -> Result<Self, Unfit> {
        let unfit = || Unfit {
            value: format!("<{} characters>", text.len()),
            remedy: "give 32 hexadecimal digits, with an id from 0 to 31 as ID:DIGITS",
        };
        let (id, digits) = text.split_once(':').unwrap_or(("0", text));
        let id = id.parse().ok().filter(|id| *id < IDS).ok_or_else(unfit)?;
        if digits.len() != 32 || !digits.bytes().all(|digit| digit.is_ascii_hexdigit()) {
            return Err(unfit());
        }
        let secret = u128::from_str_radix(digits, 16).map_err(|_| unfit())?;
        Ok(Self {
            id,
            secret: secret.to_be_bytes(),
        })
    }
}

/// The keys that verify beside `current`. No two have one id, for a token names its key by the id alone.
///
/// # Errors
/// The first text that is no key, or whose id another one before it has.
pub fn other_keys(current: Key, texts: &[String]) -> Result<Vec<Key>, Unfit> {
    let mut others: Vec<Key> = Vec::new();
    for text in texts {
        let key: Key = text.parse()?;
        if std::iter::once(&current).chain(&others).any(|other| other.id == key.id) {
            return Err(Unfit {
                value: format!("{}:<digits>", key.id),
                remedy: "another key has that id; give each an id of its own, as ID:DIGITS",
            });
        }
        others.push(key);
    }
    Ok(others)
}

/// The keys that verify, and the one that issues.
#[derive(Clone)]
pub struct Keyring {
    /// The current one first.
    keys: Vec<Tokens>,
    flow: SipHasher24,
    transaction: SipHasher24,
    entropy: SipHasher24,
}

/// All tokens of one key, by partition.
#[derive(Clone)]
struct Tokens {
    id: u8,
    flow: SipHasher24,
    link: SipHasher24of128,
    tokens: Vec<Token>,
}

impl Keyring {
    /// Issues with `current`; verifies with it and with `others`, for partitions below `partitions` (at most 65,536). All have ids of their own.
    #[must_use]
    pub fn new(current: Key, others: &[Key], partitions: u32) -> Self {
        let keys = std::iter::once(&current)
            .chain(others)
            .map(|key| Tokens::new(*key, partitions))
            .collect();
        Self {
            keys,
            flow: derive(current, b"flow"),
            transaction: derive(current, b"transaction"),
            entropy: derive(current, b"entropy"),
        }
    }

    /// Hashes transactions with this key, whichever issues: with two hashes, a request that is repeated through a proxy with the other one would
    /// be a second call.
    #[must_use]
    pub fn hashing_transactions_with(self, key: Key) -> Self {
        Self {
            transaction: derive(key, b"transaction"),
            ..self
        }
    }

    /// How many partitions the cluster has.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.keys[0].tokens.len()
    }

    /// The token of a partition; `partition` must be one of the cluster's.
    #[must_use]
    pub fn token(&self, partition: PartitionId) -> &Token {
        &self.keys[0].tokens[usize::from(partition.0)]
    }

    /// The partition of a text that is a token and nothing else (`a`, `pt`).
    #[must_use]
    pub fn verify(&self, text: &[u8]) -> Affinity {
        match text.first_chunk::<TOKEN_LEN>() {
            Some(token) if text.len() == TOKEN_LEN => self.verify_token(token),
            _ => Affinity::Absent,
        }
    }

    /// The partition of a tag, `<token>-<unique>`.
    #[must_use]
    pub fn verify_tag(&self, tag: &[u8]) -> Affinity {
        match tag.split_first_chunk::<TOKEN_LEN>() {
            Some((token, [b'-', ..])) => self.verify_token(token),
            _ => Affinity::Absent,
        }
    }

    /// The partition of a branch, `z9hG4bK<token>-<unique>`.
    #[must_use]
    pub fn verify_branch(&self, branch: &[u8]) -> Affinity {
        match branch.split_at_checked(BRANCH_COOKIE.len()) {
            Some((cookie, rest)) if cookie.eq_ignore_ascii_case(BRANCH_COOKIE) => self.verify_tag(rest),
            _ => Affinity::Absent,
        }
    }

    fn verify_token(&self, text: &[u8; TOKEN_LEN]) -> Affinity {
        // Comparing tags is without regard to case (RFC 3261 s7.3.1), so one that comes back in capitals is still ours.
        let text = text.map(|byte| byte.to_ascii_lowercase());
        if text[0] != VERSION {
            return Affinity::Absent;
        }
        let (Some(key), Some(partition)) = (base32::read(&text[1..2]), base32::read(&text[PARTITION])) else {
            return Affinity::Absent;
        };
        let known = self
            .keys
            .iter()
            .find(|tokens| u128::from(tokens.id) == key)
            .and_then(|tokens| tokens.tokens.get(partition as usize));
        match known {
            Some(token) if same(&token.0, &text) => Affinity::Partition(PartitionId(partition as u16)),
            _ => Affinity::Forged,
        }
    }

    /// The check of a flow token, by the current key.
    pub(crate) fn flow_check(&self, bytes: &[u8]) -> u64 {
        hash(self.flow, bytes)
    }

    /// Whether a key that verifies made this check of a flow token.
    pub(crate) fn flow_verifies(&self, bytes: &[u8], check: u64) -> bool {
        self.keys.iter().any(|key| hash(key.flow, bytes) == check)
    }

    /// The check by which one end of a link proves to the other that it has the current key. `words` are never said twice.
    pub(crate) fn prove(&self, words: &[u8]) -> [u8; 16] {
        hash128(self.keys[0].link, words)
    }

    /// Whether a key that verifies made this check.
    pub(crate) fn proves(&self, words: &[u8], proof: &[u8]) -> bool {
        self.keys.iter().any(|key| same(&hash128(key.link, words), proof))
    }

    /// The keyed hash of transactions: equal in all proxies of the cluster.
    pub(crate) fn transaction_hasher(&self) -> SipHasher24 {
        self.transaction
    }

    /// A keyed hash of `bytes` for what outsiders shall not foresee, such as a To tag of a proxy's own answer.
    #[must_use]
    pub fn hash(&self, bytes: &[u8]) -> u64 {
        hash(self.entropy, bytes)
    }
}

impl fmt::Debug for Keyring {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_list().entries(self.keys.iter().map(|key| key.id)).finish()
    }
}

impl Tokens {
    fn new(key: Key, partitions: u32) -> Self {
        let count = partitions.min(1 << 16);
        Self {
            id: key.id % IDS,
            flow: derive(key, b"flow"),
            link: SipHasher24of128::new_with_key(&derived(key, b"link")),
            tokens: (0..count).map(|partition| token(key, partition as u16)).collect(),
        }
    }
}

fn token(key: Key, partition: u16) -> Token {
    let mut text = [VERSION; TOKEN_LEN];
    base32::write(u128::from(key.id % IDS), &mut text[1..2]);
    base32::write(u128::from(partition), &mut text[PARTITION]);
    let mut hasher = SipHasher24of128::new_with_key(&key.secret);
    hasher.write(b"affinity");
    hasher.write(&text[..PARTITION.end]);
    base32::write(hasher.finish128().as_u128(), &mut text[PARTITION.end..]);
    Token(text)
}

fn derive(key: Key, usage: &[u8]) -> SipHasher24 {
    SipHasher24::new_with_key(&derived(key, usage))
}

/// A key of its own for each use, so that what one use reveals does not help to forge another's.
fn derived(key: Key, usage: &[u8]) -> [u8; 16] {
    let mut hasher = SipHasher24of128::new_with_key(&key.secret);
    hasher.write(b"derive ");
    hasher.write(usage);
    hasher.finish128().as_u128().to_be_bytes()
}

fn hash128(mut hasher: SipHasher24of128, bytes: &[u8]) -> [u8; 16] {
    hasher.write(bytes);
    hasher.finish128().as_u128().to_be_bytes()
}

fn hash(mut hasher: SipHasher24, bytes: &[u8]) -> u64 {
    hasher.write(bytes);
    hasher.finish()
}

/// Compares all of it whatever differs first, so that the time tells a forger nothing.
fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |difference, (a, b)| difference | (a ^ b)) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(id: u8) -> Key {
        Key {
            id,
            secret: [id + 1; 16],
        }
    }

    #[test]
    fn tokens_verify_wherever_they_stand() {
        let ring = Keyring::new(key(3), &[], 1024);
        for partition in [0, 1, 513, 1023].map(PartitionId) {
            let token = ring.token(partition).as_str();
            let here = Affinity::Partition(partition);
            assert_eq!(token.len(), TOKEN_LEN);
            assert!(token.bytes().all(|b| b.is_ascii_digit() || b.is_ascii_lowercase()));
            assert_eq!(ring.verify(token.as_bytes()), here);
            assert_eq!(ring.verify(token.to_ascii_uppercase().as_bytes()), here);
            assert_eq!(ring.verify_tag(format!("{token}-x7").as_bytes()), here);
            assert_eq!(ring.verify_branch(format!("z9hG4bK{token}-9").as_bytes()), here);
        }
    }

    #[test]
    fn a_changed_token_is_forged() {
        let ring = Keyring::new(key(3), &[], 1024);
        let good = ring.token(PartitionId(77)).0;
        for at in 1..TOKEN_LEN {
            let mut bad = good;
            bad[at] = if bad[at] == b'0' { b'1' } else { b'0' };
            assert_eq!(ring.verify(&bad), Affinity::Forged, "digit {at}");
        }
    }

    #[test]
    fn foreign_texts_are_not_ours() {
        let ring = Keyring::new(key(3), &[], 1024);
        let token = ring.token(PartitionId(0)).as_str();
        let texts = ["", "as7d6f5", "1", "zz", "-", "1928301774-1928301774-1928301774"];
        for text in texts {
            assert_eq!(ring.verify(text.as_bytes()), Affinity::Absent, "{text}");
            assert_eq!(ring.verify_tag(text.as_bytes()), Affinity::Absent, "{text}");
            assert_eq!(ring.verify_branch(text.as_bytes()), Affinity::Absent, "{text}");
        }
        assert_eq!(
            ring.verify_tag(token.as_bytes()),
            Affinity::Absent,
            "a tag has a unique part"
        );
        assert_eq!(ring.verify(format!("{token}-1").as_bytes()), Affinity::Absent);
    }

    #[test]
    fn tokens_of_all_keys_verify_and_those_of_unknown_ones_do_not() {
        let issued = |key: Key| *Keyring::new(key, &[], 64).token(PartitionId(9));
        let others: Vec<Key> = (0..7).map(key).collect();
        let ring = Keyring::new(key(31), &others, 64);
        for key in others.into_iter().chain([key(31)]) {
            let token = issued(key);
            assert_eq!(
                ring.verify(token.as_bytes()),
                Affinity::Partition(PartitionId(9)),
                "{key:?}"
            );
            assert_eq!(
                *ring.token(PartitionId(9)) == token,
                key.id == 31,
                "the current one issues"
            );
        }
        assert_eq!(ring.verify(issued(key(7)).as_bytes()), Affinity::Forged, "no such id");
        let namesake = Key { id: 3, ..key(7) };
        assert_eq!(
            ring.verify(issued(namesake).as_bytes()),
            Affinity::Forged,
            "another key"
        );
        assert_eq!(
            Keyring::new(key(31), &[], 8).verify(issued(key(31)).as_bytes()),
            Affinity::Forged,
            "no such partition"
        );
    }

    #[test]
    fn other_keys_have_ids_of_their_own() {
        let others = |ids: &[u8]| {
            let texts = ids.iter().map(|id| format!("{id}:000102030405060708090a0b0c0d0e0f"));
            let others = other_keys(key(3), &texts.collect::<Vec<_>>());
            others
                .map(|keys| keys.iter().map(|key| key.id).collect::<Vec<_>>())
                .map_err(|unfit| unfit.value)
        };
        assert_eq!(others(&[1, 2]), Ok(vec![1, 2]));
        assert_eq!(others(&[1, 2, 1, 3]), Err("1:<digits>".into()), "as one before it");
        assert_eq!(others(&[1, 2, 3]), Err("3:<digits>".into()), "as the current one");
        assert_eq!(others(&[1, 32]), Err("<35 characters>".into()), "no key");
    }

    #[test]
    fn a_key_reads_as_its_id_and_its_digits() {
        let digits = "000102030405060708090a0B0C0D0E0F";
        let secret = std::array::from_fn(|n| n as u8);
        for (text, id) in [(digits.to_owned(), 0), (format!("31:{digits}"), 31)] {
            let key: Key = text.parse().expect("a key");
            assert_eq!((key.id, key.secret), (id, secret));
        }
        for wrong in [
            "",
            "1:",
            "topsecret",
            &digits[1..],
            &format!("32:{digits}"),
            &format!("+{}", &digits[1..]),
        ] {
            let unfit = wrong.parse::<Key>().expect_err("no key");
            assert_eq!(unfit.value, format!("<{} characters>", wrong.len()));
        }
    }
}

//! How the two ends of a UCF link find out that both are of the cluster.
//!
//! Each end first sends a [`Challenge`], a number that it has never sent before, and then a [`Hello`] whose `proof` is a keyed check of what
//! the `Hello` says, of both numbers and of which end speaks. So nobody without the cluster's key can say hello, and what was heard on one
//! link, or of the other end, proves nothing on another.

use prost::Message as _;

use crate::token::Keyring;
use crate::wire::{Challenge, Hello};

/// Bytes of a challenge.
pub const NONCE_LEN: usize = 16;

/// Which end of a link speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// The one that made the connection.
    Opened,
    /// The one that accepted it.
    Accepted,
}

impl End {
    fn other(self) -> Self {
        match self {
            Self::Opened => Self::Accepted,
            Self::Accepted => Self::Opened,
        }
    }
}

/// One end's greeting.
#[derive(Debug)]
pub struct Greeting<'a> {
    keyring: &'a Keyring,
    end: End,
    nonce: [u8; NONCE_LEN],
}

impl<'a> Greeting<'a> {
    /// Of this `end`; `nonce` is random.
    #[must_use]
    pub fn new(keyring: &'a Keyring, end: End, nonce: [u8; NONCE_LEN]) -> Self {
        Self { keyring, end, nonce }
    }

    /// What is sent first.
    #[must_use]
    pub fn challenge(&self) -> Challenge {
        Challenge {
            nonce: self.nonce.to_vec(),
        }
    }

    /// The hello with its proof, in answer to the other end's challenge.
    #[must_use]
    pub fn hello(&self, challenge: &Challenge, hello: Hello) -> Hello {
        let words = words(self.end, &challenge.nonce, &self.nonce, &hello);
        Hello {
            proof: self.keyring.prove(&words).to_vec(),
            ..hello
        }
    }

    /// Whether the other end, whose challenge that was, has proved its hello by a key that verifies.
    #[must_use]
    pub fn verifies(&self, challenge: &Challenge, hello: &Hello) -> bool {
        let words = words(self.end.other(), &self.nonce, &challenge.nonce, hello);
        self.keyring.proves(&words, &hello.proof)
    }
}

/// What is proved: who speaks, the number that was `asked` and the speaker's `own`, and all of the hello that stands before the proof.
fn words(speaker: End, asked: &[u8], own: &[u8], hello: &Hello) -> Vec<u8> {
    let mut words = vec![speaker as u8];
    for nonce in [asked, own] {
        words.extend_from_slice(&(nonce.len() as u32).to_be_bytes());
        words.extend_from_slice(nonce);
    }
    let said = Hello {
        proof: Vec::new(),
        ..hello.clone()
    };
    words.extend_from_slice(&said.encode_to_vec());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::token::Key;

    fn ring(current: u8, retired: &[u8]) -> Keyring {
        let key = |id: u8| Key { id, secret: [id; 16] };
        let retired: Vec<Key> = retired.iter().map(|id| key(*id)).collect();
        Keyring::new(key(current), &retired, 8)
    }

    fn someone() -> Hello {
        Hello {
            version: 1,
            cluster: "demo".into(),
            name: "demo-1".into(),
            incarnation: 9,
            worker: Some(1),
            sip: "192.0.2.1:5060".into(),
            proof: Vec::new(),
        }
    }

    #[test]
    fn any_key_that_the_other_end_knows_proves_a_hello() {
        let (new, old) = (ring(2, &[1]), ring(1, &[2]));
        let opened = Greeting::new(&new, End::Opened, [1; NONCE_LEN]);
        let accepted = Greeting::new(&old, End::Accepted, [2; NONCE_LEN]);
        let hello = opened.hello(&accepted.challenge(), someone());
        assert!(accepted.verifies(&opened.challenge(), &hello));
        let answer = accepted.hello(&opened.challenge(), someone());
        assert!(opened.verifies(&accepted.challenge(), &answer));
        let stranger = ring(3, &[]);
        assert!(!Greeting::new(&stranger, End::Accepted, [2; NONCE_LEN]).verifies(&opened.challenge(), &hello));
    }

    #[test]
    fn a_hello_proves_itself_alone_and_once() {
        let ring = ring(1, &[]);
        let opened = Greeting::new(&ring, End::Opened, [1; NONCE_LEN]);
        let accepted = Greeting::new(&ring, End::Accepted, [2; NONCE_LEN]);
        let hello = opened.hello(&accepted.challenge(), someone());
        let later = Greeting::new(&ring, End::Accepted, [3; NONCE_LEN]);
        assert!(!later.verifies(&opened.challenge(), &hello), "on another link");
        assert!(!accepted.verifies(&later.challenge(), &hello), "of another speaker");
        let mirrored = Greeting::new(&ring, End::Opened, [2; NONCE_LEN]);
        assert!(
            !mirrored.verifies(&opened.challenge(), &hello),
            "by the end that said it"
        );
        let changes: [fn(&mut Hello); 7] = [
            |hello| hello.version += 1,
            |hello| hello.cluster.push('x'),
            |hello| hello.name.push('x'),
            |hello| hello.incarnation += 1,
            |hello| hello.worker = None,
            |hello| hello.sip.push('x'),
            |hello| hello.proof[15] ^= 1,
        ];
        for (n, change) in changes.iter().enumerate() {
            let mut changed = hello.clone();
            change(&mut changed);
            assert!(!accepted.verifies(&opened.challenge(), &changed), "change {n}");
        }
        for proof in [Vec::new(), vec![0; 16], vec![0; 17]] {
            let bare = Hello { proof, ..hello.clone() };
            assert!(!accepted.verifies(&opened.challenge(), &bare));
        }
    }
}

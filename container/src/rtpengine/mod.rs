//! The ng protocol of rtpengine, through which media is led: an [`Outside`](crate::application::Outside) of applications.
//!
//! A question is a [`Command`] and the instances that may carry it out; the client sends it as a bencoded dictionary behind a cookie, in
//! one datagram, and repeats it until a reply with the cookie comes. An instance that stays silent is passed over while others are there,
//! and pinged until it is heard again.

pub mod bencode;
mod client;

pub use client::Client;

use std::net::SocketAddr;

use bytes::Bytes;

use bencode::{Dictionary, Writer};

/// Stands before the instances of a question if the first of them leads the call. A version that does not know it passes it over, as it is no
/// address.
const RUNS: &str = "runs";

/// What rtpengine is to do with a call.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Command<'a> {
    /// Takes the description of one side, and gives the one for the other.
    Offer {
        /// The side that offers.
        from: u32,
        /// The other side, if it has been heard of.
        to: Option<u32>,
        /// The session description.
        sdp: &'a [u8],
    },
    /// The same for the answer.
    Answer {
        /// The side that has offered.
        from: u32,
        /// The side that answers.
        to: u32,
        /// The session description.
        sdp: &'a [u8],
    },
    /// Forgets the call.
    Delete,
}

impl Command<'_> {
    /// The question for the instance that leads the call, which is asked first, and for `others`, in their order. `call` names the call.
    #[must_use]
    pub fn question(&self, own: Option<SocketAddr>, others: &[SocketAddr], call: u64) -> Bytes {
        let runs = own.map(|_| RUNS.to_owned());
        let instances = own.iter().chain(others).map(SocketAddr::to_string);
        let mut question = runs
            .into_iter()
            .chain(instances)
            .collect::<Vec<_>>()
            .join(",")
            .into_bytes();
        question.push(b' ');
        let dictionary = Writer::new().string("call-id", format!("{call:016x}").as_bytes());
        let side = |side: u32| side.to_string().into_bytes();
        // The addresses of one side are no affair of the other.
        let replace: &[&str] = &["origin", "session-connection"];
        let dictionary = match *self {
            Self::Offer { from, to, sdp } => {
                let offer = dictionary.string("command", b"offer").string("from-tag", &side(from));
                let offer = offer.strings("replace", replace).string("sdp", sdp);
                match to {
                    Some(to) => offer.string("to-tag", &side(to)),
                    None => offer,
                }
            }
            Self::Answer { from, to, sdp } => dictionary
                .string("command", b"answer")
                .string("from-tag", &side(from))
                .strings("replace", replace)
                .string("sdp", sdp)
                .string("to-tag", &side(to)),
            // At once: the call's name is never used again.
            Self::Delete => dictionary.string("command", b"delete").integer("delete-delay", 0),
        };
        question.extend_from_slice(&dictionary.finish());
        question.into()
    }
}

/// What an instance has said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Answer<'a> {
    /// Which one.
    pub instance: SocketAddr,
    /// The session description for the other side; none if it was not asked for one, or refused.
    pub sdp: Option<&'a [u8]>,
}

impl<'a> Answer<'a> {
    /// What the client gives as the answer to a question.
    #[must_use]
    pub fn parse(answer: &'a [u8]) -> Option<Self> {
        let (instance, dictionary) = split(answer)?;
        let dictionary = Dictionary::parse(dictionary)?;
        Some(Self {
            instance: std::str::from_utf8(instance).ok()?.parse().ok()?,
            sdp: dictionary.string(b"sdp").filter(|_| is_ok(dictionary)),
        })
    }
}

fn is_ok(reply: Dictionary<'_>) -> bool {
    matches!(reply.string(b"result"), Some(b"ok" | b"pong"))
}

/// What stands before the first blank, and behind it.
fn split(bytes: &[u8]) -> Option<(&[u8], &[u8])> {
    let at = bytes.iter().position(|byte| *byte == b' ')?;
    Some((&bytes[..at], &bytes[at + 1..]))
}

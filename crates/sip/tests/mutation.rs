//! Ten seconds of mutated messages, in whatever order a seed gives: nothing panics, and the properties hold.
//!
//! `MUTATION_SEED` starts elsewhere, `MUTATION_SECONDS` goes on for longer. A failure prints the seed of its one input;
//! `MUTATION_SEED=<that> MUTATION_SECONDS=0 cargo test -p sip --test mutation` runs that input alone.

#![allow(
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a test that runs for a while looks at the clock, and at how it was called"
)]

#[path = "support/corpus.rs"]
mod corpus;
#[path = "support/properties.rs"]
mod properties;

use std::time::{Duration, Instant};

/// Steele and others' SplitMix64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// Below `bound`; 0 for a bound of 0.
    fn below(&mut self, bound: usize) -> usize {
        if bound == 0 {
            0
        } else {
            (self.next() % bound as u64) as usize
        }
    }
}

/// What parsers stumble over.
const PIECES: &[&[u8]] = &[
    b"\r\n",
    b"\n",
    b"\r",
    b"\r\n ",
    b"\r\n\r\n",
    b":",
    b";",
    b",",
    b"<",
    b">",
    b"\"",
    b"\\",
    b"@",
    b"%00",
    b"[",
    b"]",
    b"?",
    b"=",
    b"/",
    b" ",
    b"\t",
    b"\0",
    b"\xff",
    b"0",
    b"-1",
    b"65535",
    b"65536",
    b"4294967296",
    b"l: 4\r\n",
    b"Content-Length: 0\r\n",
    b"Via: SIP/2.0/TCP [::1]:1;rport,\r\n SIP/2.0/UDP a;received=1.2.3.4\r\n",
    b";rport",
    b";received=",
    b"Route: <sip:a;lr>,<sip:b;lr>\r\n",
    b"Max-Forwards: 1\r\n",
    b"v:",
    b"SIP/2.0",
    b"INVITE sip:a SIP/2.0\r\n",
    b"SIP/2.0 200 OK\r\n",
    b";tag=",
    b"<sip:a@b>",
    b"Contact: *\r\n",
];

fn mutate(random: &mut Random, bytes: &mut Vec<u8>, others: &[Vec<u8>]) {
    let at = random.below(bytes.len() + 1);
    let end = (at + random.below(20)).min(bytes.len());
    match random.below(8) {
        0 if at < bytes.len() => bytes[at] = random.next() as u8,
        1 if at < bytes.len() => bytes[at] ^= 1 << random.below(8),
        2 => drop(bytes.drain(at..end)),
        3 => {
            let copy = bytes[at..end].to_vec();
            let to = random.below(bytes.len() + 1);
            bytes.splice(to..to, copy);
        }
        4 => {
            let other = &others[random.below(others.len())];
            let from = random.below(other.len());
            let to = (from + random.below(200)).min(other.len());
            bytes.splice(at..end, other[from..to].iter().copied());
        }
        5 if random.below(8) == 0 => bytes.truncate(at),
        _ => {
            let piece = PIECES[random.below(PIECES.len())];
            bytes.splice(at..at, piece.iter().copied());
        }
    }
}

/// Says which input failed, when a property panics.
struct Report<'a> {
    seed: u64,
    input: &'a [u8],
}

impl Drop for Report<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "MUTATION_SEED={} MUTATION_SECONDS=0, input: {}",
                self.seed,
                self.input.escape_ascii()
            );
        }
    }
}

fn one(seed: u64, corpus: &[Vec<u8>]) {
    let mut random = Random(seed);
    let mut input = corpus[random.below(corpus.len())].clone();
    for _ in 0..random.below(6) {
        mutate(&mut random, &mut input, corpus);
    }
    let report = Report { seed, input: &input };
    properties::scan_is_sound(&input);
    properties::splices_agree_with_a_model(&input, |bound| random.below(bound));
    let mut stream = input.clone();
    stream.extend_from_slice(&corpus[random.below(corpus.len())]);
    let most = 1 + random.below(40);
    properties::framing_is_independent_of_chunks(&stream, || random.below(most));
    drop(report);
}

#[test]
fn mutated_messages_break_nothing() {
    let variable = |name: &str| std::env::var(name).ok().map(|value| value.parse::<u64>().expect(name));
    let seed = variable("MUTATION_SEED").unwrap_or(3261);
    let seconds = variable("MUTATION_SECONDS").unwrap_or(10);
    println!("MUTATION_SEED={seed} MUTATION_SECONDS={seconds}");
    let mut corpus: Vec<Vec<u8>> = corpus::torture().into_values().collect();
    corpus.push(include_bytes!("support/invite.sip").to_vec());
    corpus.push(include_bytes!("support/ok.sip").to_vec());
    let end = Instant::now() + Duration::from_secs(seconds);
    let mut inputs = 0;
    loop {
        one(seed.wrapping_add(inputs), &corpus);
        inputs += 1;
        if Instant::now() >= end {
            break;
        }
    }
    println!("{inputs} inputs");
}

//! Seeded mutation: whatever stands in a message or in a record, a worker neither panics nor forgets to answer for its inputs.

#[path = "common/callee.rs"]
#[allow(dead_code, reason = "shared with the other tests of a worker")]
mod callee;
#[path = "common/world.rs"]
#[allow(dead_code, reason = "shared with the other tests of a worker")]
mod world;

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use callee::{Callee, SDP};
use container::application::Outside;
use container::engine::{ConnectionId, Input};
use container::records::{Key, Record};
use container::rtpengine::bencode::{Dictionary, Writer};
use container::rtpengine::{Answer, Client};
use sip::{Limits, OwnedMessage};
use ucf::Epoch;
use world::{Caller, Life, PARTITION, PROXY, World, texts, to_tag};

const RUNS: u64 = 3_000;

struct Dice(u64);

impl Dice {
    fn roll(&mut self, sides: usize) -> usize {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        ((z ^ (z >> 31)) % sides.max(1) as u64) as usize
    }

    /// Changes, removes, doubles or inserts a few bytes.
    fn mutate(&mut self, bytes: &mut Vec<u8>) {
        for _ in 0..=self.roll(4) {
            let at = self.roll(bytes.len());
            let end = (at + self.roll(12)).min(bytes.len());
            match self.roll(4) {
                0 if at < bytes.len() => bytes[at] = self.roll(256) as u8,
                1 => drop(bytes.drain(at..end)),
                2 => {
                    let part = bytes[at..end].to_vec();
                    bytes.splice(at..at, part);
                }
                _ => bytes.insert(at, b"\r\n;,<>\"=@:0"[self.roll(11)]),
            }
        }
    }
}

/// A call that rings, and its messages.
fn messages(world: &mut World, life: &mut Life) -> Vec<Vec<u8>> {
    let mut caller = Caller::new("one");
    let invite = caller.request(
        world,
        "INVITE",
        1,
        "Supported: 100rel, timer\r\nSession-Expires: 1800\r\n",
    );
    let ringing = world.exchange(life, &invite);
    caller.to_tag = to_tag(&ringing[0]);
    let mut texts = vec![
        invite,
        caller.request(world, "CANCEL", 1, ""),
        caller.request(world, "ACK", 1, ""),
    ];
    for (cseq, method) in ["PRACK", "UPDATE", "INVITE", "OPTIONS", "INFO", "BYE"]
        .into_iter()
        .enumerate()
    {
        texts.push(caller.request(world, method, cseq as u32 + 2, "RAck: 1 1 INVITE\r\n"));
    }
    texts.into_iter().map(String::into_bytes).collect()
}

#[test]
fn no_message_panics_a_worker_and_every_one_is_confirmed() {
    let mut world = World::new();
    let mut life = world.life(1, r#"{"answer": {"ring": "3s", "hold": "9s"}}"#);
    let originals = messages(&mut world, &mut life);
    for seed in 0..RUNS {
        let mut dice = Dice(seed);
        let mut bytes = originals[dice.roll(originals.len())].clone();
        dice.mutate(&mut bytes);
        let Ok(message) = OwnedMessage::scan(Bytes::from(bytes), &Limits::default()) else {
            continue;
        };
        life.number += 1;
        let input = Input {
            connection: ConnectionId(1),
            number: life.number,
        };
        life.engine.handle_sip(world.now, input, PROXY, message);
        let released = world.turn(&mut life);
        assert_eq!(released.confirms.len(), 1, "seed {seed}");
        if dice.roll(8) == 0 {
            world.pass(&mut life, Duration::from_millis(700));
        }
    }
    world.pass(&mut life, Duration::from_secs(4000));
    assert_eq!(
        life.engine.holdings().open_transactions,
        0,
        "all is answered in the end"
    );
}

#[test]
fn no_callee_panics_a_worker_and_every_call_ends() {
    let mut world = World::new();
    let mut life = world.life(1, r#"{"b2bua": {"routes": [{"target": "sip:203.0.113.7:5090"}]}}"#);
    let reliable = "Require: 100rel\r\nRSeq: 5\r\n";
    let says = [
        (100, ""),
        (183, reliable),
        (180, ""),
        (200, ""),
        (422, "Min-SE: 3600\r\n"),
        (486, ""),
        (302, ""),
    ];
    let mut answered = 0;
    for seed in 0..RUNS / 4 {
        let mut dice = Dice(seed);
        let caller = Caller::new(&format!("call{seed}"));
        let invite = caller.request(&world, "INVITE", 1, "Supported: 100rel\r\n");
        let out = world.exchange(&mut life, &invite);
        let callee = Callee::new(&out[0], "b1");
        for _ in 0..4 {
            let (status, extra) = says[dice.roll(says.len())];
            let mut bytes = callee.respond(&world, status, extra, SDP).into_bytes();
            if dice.roll(3) == 0 {
                bytes = callee.request(&world, "UPDATE", 1, "", SDP).into_bytes();
            }
            dice.mutate(&mut bytes);
            let Ok(message) = OwnedMessage::scan(Bytes::from(bytes), &Limits::default()) else {
                continue;
            };
            life.number += 1;
            let input = Input {
                connection: ConnectionId(1),
                number: life.number,
            };
            life.engine.handle_sip(world.now, input, PROXY, message);
            let released = world.turn(&mut life);
            assert_eq!(released.confirms.len(), 1, "seed {seed}");
            let left = texts(&released.outputs);
            answered += usize::from(left.iter().any(|text| text.starts_with("SIP/2.0 200 ")));
        }
        if dice.roll(8) == 0 {
            let cancel = caller.request(&world, "CANCEL", 1, "");
            world.exchange(&mut life, &cancel);
            world.pass(&mut life, Duration::from_millis(700));
        }
    }
    assert!(answered > 50, "{answered}: most are understood in spite of it");
    world.pass(&mut life, Duration::from_secs(4000));
    let holdings = life.engine.holdings();
    assert_eq!((holdings.open_transactions, holdings.dialogs), (0, 0), "all has ended");
}

/// Ten seconds of it for all applications together.
const RECORDS: Duration = Duration::from_secs(5);

fn no_record_panics(mut world: World, mut life: Life) {
    let stored = world.store.partition(PARTITION).expect("owned").records.clone();
    assert!(stored.len() >= 2);
    let begun = std::time::Instant::now();
    for seed in 0_u64.. {
        let mut dice = Dice(seed);
        let records: Vec<(Bytes, Bytes)> = stored
            .iter()
            .map(|(key, value)| {
                let (mut key, mut value) = (key.clone(), value.clone());
                if dice.roll(8) == 0 {
                    dice.mutate(&mut key);
                }
                dice.mutate(&mut value);
                (key.into(), value.into())
            })
            .collect();
        for (key, value) in &records {
            if let Some(key) = Key::parse(key) {
                let _ = Record::decode(key.kind, value.clone());
            }
        }
        life.engine.activate(world.now, PARTITION, Epoch(seed + 2), records);
        life.engine.handle_timeout(world.now + Duration::from_secs(5));
        life.engine.end_turn(world.now);
        if begun.elapsed() >= RECORDS {
            println!("{seed} sets of records");
            break;
        }
    }
    world.pass(&mut life, Duration::from_secs(1));
}

#[test]
fn no_record_of_a_call_panics_a_successor() {
    let mut world = World::new();
    let mut life = world.life(1, r#"{"answer": {"ring": "3s"}}"#);
    messages(&mut world, &mut life);
    world.pass(&mut life, Duration::from_secs(1));
    no_record_panics(world, life);
}

#[test]
fn no_record_of_a_call_out_panics_a_successor() {
    let mut world = World::new();
    let mut life = world.life(1, r#"{"b2bua": {"routes": [{"target": "sip:203.0.113.7:5090"}]}}"#);
    let caller = Caller::new("call");
    let invite = caller.request(&world, "INVITE", 1, "Supported: 100rel\r\n");
    let out = world.exchange(&mut life, &invite);
    let ringing = Callee::new(&out[0], "b1").respond(&world, 180, "", SDP);
    world.exchange(&mut life, &ringing);
    no_record_panics(world, life);
}

/// Whatever an rtpengine replies, or somebody in its place: it is read or not, and every ask is answered in the end.
#[test]
fn no_datagram_panics_the_client_of_rtpengine() {
    let mut dice = Dice(7);
    let instance: SocketAddr = "192.0.2.10:2223".parse().expect("an address");
    let reply = Writer::new().string("result", b"ok").strings("tags", &["a", "bc"]);
    let reply = reply.integer("created", -7).string("sdp", b"v=0\r\ns=x\r\n").finish();
    let application =
        r#"{"b2bua": {"routes": [{"target": "sip:203.0.113.7:5090"}], "media": {"rtpengine": ["192.0.2.10:2223"]}}}"#;
    let mut world = World::new();
    let mut life = world.life(1, application);
    let invite = Caller::new("one").request(&world, "INVITE", 1, "");
    world.give(&mut life, &invite);
    let asking = world.turn(&mut life).asks.remove(0);
    let mut client = Client::new(1);
    let mut now = world.now;
    let (mut understood, mut answered) = (0, 0);
    for _ in 0..RUNS {
        client.ask(now, asking.id, asking.question.clone());
        let (_, datagram) = client.poll_transmit().expect("it asks");
        let cookie = datagram.iter().position(|byte| *byte == b' ').expect("a cookie");
        let mut changed = [&datagram[..=cookie], &reply].concat();
        dice.mutate(&mut changed);
        understood += usize::from(Dictionary::parse(&changed[(cookie + 1).min(changed.len())..]).is_some());
        client.handle_datagram(now, instance, &changed);
        now = now + Duration::from_secs(2);
        client.handle_timeout(now);
        while let Some((_, answer)) = client.poll_answer() {
            answered += 1;
            let _ = answer.as_deref().map(Answer::parse);
        }
        while client.poll_transmit().is_some() {}
    }
    // The last ones are repeated a few times first.
    for _ in 0..8 {
        now = now + Duration::from_secs(2);
        client.handle_timeout(now);
    }
    answered += std::iter::from_fn(|| client.poll_answer()).count();
    assert_eq!(answered, RUNS as usize);
    assert!(
        understood > 0 && understood < answered,
        "{understood} of {answered} are still bencode"
    );
}

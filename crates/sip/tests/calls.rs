//! Whole calls between two phones made of this crate's parts, over a link that loses, doubles and reorders, with
//! takeovers at any step.

mod support;

use bytes::Bytes;
use sip::Instant;
use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;
use support::phone::{Phone, Plan};
use support::random::Random;

#[derive(Clone, Copy)]
struct Faults {
    loss: u64,
    doubling: u64,
    /// Takeovers in a thousand steps.
    takeover: u64,
}

struct Call {
    random: Random,
    faults: Faults,
    reliable: bool,
    now: Instant,
    phones: [Phone; 2],
    wire: BinaryHeap<Reverse<(Instant, u64, usize, Bytes)>>,
    sent: u64,
    takeovers: u32,
}

/// Takeovers of one call: each sends what is unanswered again, so without a bound they would feed themselves.
const MAX_TAKEOVERS: u32 = 25;

impl Call {
    fn new(seed: u64, faults: Faults) -> Self {
        let mut random = Random(seed);
        let reliable = random.chance(30);
        let interval = random.chance(50).then_some(90 + random.below(300) as u32);
        let phones = ["caller", "callee"].map(|name| Phone::new(name, random.next(), reliable, interval));
        Self {
            random,
            faults,
            reliable,
            now: Instant::from_micros(5),
            phones,
            wire: BinaryHeap::new(),
            sent: 0,
            takeovers: 0,
        }
    }

    /// What the users will do: a few things in the middle, at the end one hangs up.
    fn plan(&mut self, minutes: u64) {
        let end = Duration::from_secs(60 * minutes);
        for _ in 0..self.random.below(8) {
            let when = self.now + Duration::from_millis(self.random.below(end.as_millis() as u64));
            let what = ["INVITE", "UPDATE", "INFO"][self.random.below(3) as usize];
            // Both at once now and then.
            for phone in 0..2 {
                if self.random.chance(60) {
                    self.phones[phone].plan(when, Plan::Request(what));
                }
            }
        }
        let who = self.random.below(2) as usize;
        self.phones[who].plan(self.now + end, Plan::Request("BYE"));
        if self.random.chance(25) {
            self.phones[1 - who].plan(self.now + end, Plan::Request("BYE"));
        }
        if self.random.chance(20) {
            let when = self.now + Duration::from_millis(self.random.below(6000));
            self.phones[0].plan(when, Plan::Cancel);
        }
    }

    fn post(&mut self, from: usize) {
        for bytes in std::mem::take(&mut self.phones[from].outbox) {
            let copies = match self.reliable {
                true => 1,
                false if self.random.chance(self.faults.loss) => 0,
                false => 1 + u64::from(self.random.chance(self.faults.doubling)),
            };
            for _ in 0..copies {
                let delay = if self.reliable {
                    10_000
                } else {
                    self.random.below(200_000)
                };
                self.sent += 1;
                let due = self.now + Duration::from_micros(delay);
                self.wire.push(Reverse((due, self.sent, 1 - from, bytes.clone())));
            }
        }
    }

    fn run(&mut self) {
        self.phones[0].invite(self.now);
        self.post(0);
        let mut steps = 0;
        while let Some(due) = self.next_event() {
            self.now = self.now.max(due);
            self.step();
            steps += 1;
            assert!(
                steps < 20_000,
                "it never ends: {:?} {:?}",
                self.phones[0].log,
                self.phones[1].log
            );
        }
    }

    fn next_event(&self) -> Option<Instant> {
        let wire = self.wire.peek().map(|Reverse((due, ..))| *due);
        let phones = self.phones.iter().filter_map(Phone::poll_timeout);
        phones.chain(wire).min()
    }

    fn step(&mut self) {
        let now = self.now;
        if self.takeovers < MAX_TAKEOVERS && self.random.below(1000) < self.faults.takeover {
            self.takeovers += 1;
            let who = self.random.below(2) as usize;
            self.phones[who].take_over(now);
        } else if self.wire.peek().is_some_and(|Reverse((due, ..))| *due <= now) {
            let Reverse((_, _, to, bytes)) = self.wire.pop().expect("peeked");
            self.phones[to].receive(now, bytes);
        } else {
            self.phones.iter_mut().for_each(|phone| phone.handle_timeout(now));
        }
        (0..2).for_each(|phone| self.post(phone));
    }

    fn check(&self) {
        let [caller, callee] = &self.phones;
        let logs = format!("{:?}\n{:?}", caller.log, callee.log);
        assert!(caller.is_idle() && callee.is_idle(), "something stays: {logs}");
        let count = |phone: &Phone, what: &str| phone.log.iter().filter(|line| line.starts_with(what)).count();
        assert_eq!(count(caller, "time-out") + count(callee, "time-out"), 0, "{logs}");
        assert_eq!(count(caller, "no ") + count(callee, "no "), 0, "{logs}");
        assert_eq!(
            count(caller, "session expired") + count(callee, "session expired"),
            0,
            "{logs}"
        );
        assert_eq!(count(callee, "rings"), 1, "{logs}");
        let answered = count(caller, "answered");
        assert_eq!(answered + count(caller, "refused 487"), 1, "one outcome: {logs}");
        assert_eq!(count(callee, "answers"), answered, "both agree: {logs}");
        assert_eq!(count(callee, "cancelled"), 1 - answered, "{logs}");
        for phone in &self.phones {
            assert!(count(phone, "hung up on") <= 1, "{logs}");
            let mut seen: Vec<_> = phone.log.iter().filter(|line| line.starts_with("got ")).collect();
            let all = seen.len();
            seen.sort();
            seen.dedup();
            assert_eq!(seen.len(), all, "a request was processed twice: {logs}");
        }
        if answered == 1 {
            assert!(count(caller, "hangs up") + count(callee, "hangs up") >= 1, "{logs}");
        }
    }
}

fn run(seeds: std::ops::Range<u64>, faults: Faults) {
    for seed in seeds {
        let outcome = std::panic::catch_unwind(|| {
            let mut call = Call::new(seed, faults);
            let minutes = 1 + call.random.below(15);
            call.plan(minutes);
            call.run();
            call.check();
        });
        if let Err(panic) = outcome {
            eprintln!("the failing seed is {seed}");
            std::panic::resume_unwind(panic);
        }
    }
}

#[test]
fn every_call_comes_up_talks_and_ends_over_a_lossy_link() {
    let faults = Faults {
        loss: 12,
        doubling: 8,
        takeover: 0,
    };
    run(0..2000, faults);
}

#[test]
fn a_call_whose_processes_die_at_any_step_is_the_same_call() {
    let faults = Faults {
        loss: 8,
        doubling: 5,
        takeover: 60,
    };
    run(2000..4000, faults);
}

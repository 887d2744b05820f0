//! Containers that are not equal, and more calls than they can take: queues in virtual time, proxies that choose by what is reported.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, VecDeque};
use std::time::Duration;

use sip::Instant;
use ucf::load::{Balancer, Urgency};
use ucf::routing::Slot;
use ucf::wire::{MemberState, Report};

const TICK: u64 = 1; // milliseconds
const REPORTS: u64 = 100;
const PROXIES: usize = 3;
/// Requests of a call that is up: ACK, and BYE after a while of at most so many milliseconds.
const IN_DIALOG: u64 = 2;
const TALK: u64 = 4000;
/// Callers that wait longer for an answer have given up, in milliseconds.
const PATIENCE: u64 = 2000;

/// A container that does so many requests a second, one after the other.
struct Container {
    rate: u64,
    /// Thousandths of a request that it has had time for.
    credit: u64,
    queue: VecDeque<Asked>,
    /// When calls that are up ask for something.
    later: BinaryHeap<Reverse<u64>>,
    random: u64,
}

struct Asked {
    at: u64,
    new: bool,
}

/// How a proxy chooses.
#[derive(Clone, Copy, PartialEq)]
enum How {
    RoundRobin,
    LeastLoaded(Urgency),
}

/// Starts of the random numbers: what settles with one of them may swing with another.
const SEEDS: std::ops::RangeInclusive<u64> = 1..=8;

const USUAL: How = How::LeastLoaded(Urgency::Usual);

/// What callers saw.
#[derive(Default, Debug)]
struct Seen {
    set_up: Vec<u64>,
    refused: u64,
    in_dialog: Vec<u64>,
    new_by_container: Vec<u64>,
}

impl Seen {
    /// Calls that were set up within a time, in milliseconds.
    fn within(&self, patience: u64) -> u64 {
        self.set_up.iter().filter(|took| **took <= patience).count() as u64
    }

    /// So many of a thousand were set up in this time or faster.
    fn percentile(&self, permille: usize) -> u64 {
        let mut sorted = self.set_up.clone();
        sorted.sort_unstable();
        sorted[(sorted.len() * permille / 1000).min(sorted.len() - 1)]
    }
}

fn at(millis: u64) -> Instant {
    Instant::from_micros((100_000 + millis) * 1000)
}

fn random(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// `calls` new calls a second for so many seconds, at containers of these rates that have all been active for long.
fn run(rates: &[u64], calls: u64, seconds: u64, how: How, fresh: Option<usize>, seed: u64) -> Seen {
    let mut containers: Vec<_> = rates
        .iter()
        .map(|rate| Container {
            rate: *rate,
            credit: 0,
            queue: VecDeque::new(),
            later: BinaryHeap::new(),
            random: 7,
        })
        .collect();
    let mut balancers: Vec<Balancer> = (0..PROXIES).map(|_| Balancer::default()).collect();
    let mut seen = Seen {
        new_by_container: vec![0; rates.len()],
        ..Seen::default()
    };
    let (mut state, mut turn) = (seed.wrapping_mul(0x9e37_79b9_7f4a_7c15), 0);
    // Long ago, so that only the fresh one ramps up.
    for balancer in &mut balancers {
        for slot in (0..rates.len()).filter(|slot| Some(*slot) != fresh) {
            balancer.report(
                Instant::from_micros(1),
                Slot(slot as u16),
                &report(&containers[slot], 0),
            );
        }
    }
    for now in (0..seconds * 1000).step_by(TICK as usize) {
        // Each container reports to all proxies, each at its own moment.
        for (n, container) in containers.iter().enumerate() {
            if now % REPORTS == (n as u64 * 37) % REPORTS {
                let report = report(container, now);
                let waited = Duration::from_micros(report.queue_delay_us.into());
                for balancer in &mut balancers {
                    balancer.report(at(now), Slot(n as u16), &report);
                    balancer.waited(at(now), Slot(n as u16), waited);
                }
            }
        }
        // As many as come in this millisecond, at random.
        let mut come = random(&mut state) % 2001 * calls / 1_000_000;
        come += u64::from(random(&mut state) % 1_000_000 < calls * 1000 % 1_000_000);
        for _ in 0..come {
            let proxy = (random(&mut state) % PROXIES as u64) as usize;
            let chosen = match how {
                How::RoundRobin => Some(Slot((turn % rates.len() as u64) as u16)),
                How::LeastLoaded(urgency) => {
                    let draw = random(&mut state);
                    let waits = |slot: Slot| {
                        let oldest = containers[usize::from(slot.0)].queue.front();
                        Some(Duration::from_millis(oldest.map_or(0, |asked| now - asked.at)))
                    };
                    balancers[proxy].choose(at(now), draw, urgency, waits)
                }
            };
            turn += 1;
            let Some(slot) = chosen else {
                seen.refused += 1;
                continue;
            };
            balancers[proxy].sent(at(now), slot);
            seen.new_by_container[usize::from(slot.0)] += 1;
            let container = &mut containers[usize::from(slot.0)];
            container.queue.push_back(Asked { at: now, new: true });
        }
        for container in &mut containers {
            container.work(now, &mut seen);
        }
    }
    seen
}

fn report(container: &Container, now: u64) -> Report {
    let oldest = container.queue.front().map_or(0, |asked| now - asked.at);
    Report {
        state: MemberState::Active as i32,
        open_transactions: container.queue.len() as u32,
        queue_delay_us: (oldest * 1000) as u32,
        ..Report::default()
    }
}

impl Container {
    fn work(&mut self, now: u64, seen: &mut Seen) {
        while self.later.peek().is_some_and(|Reverse(due)| *due <= now) {
            self.later.pop();
            self.queue.push_back(Asked { at: now, new: false });
        }
        self.credit += self.rate * TICK;
        while self.credit >= 1000
            && let Some(asked) = self.queue.pop_front()
        {
            self.credit -= 1000;
            let took = now + TICK - asked.at;
            if asked.new {
                seen.set_up.push(took);
                self.later.push(Reverse(now + 10));
                self.later.push(Reverse(now + random(&mut self.random) % TALK));
            } else {
                seen.in_dialog.push(took);
            }
        }
        if self.queue.is_empty() {
            self.credit = self.credit.min(1000);
        }
    }
}

/// Calls a second that containers of these rates can take, all in all.
fn capacity(rates: &[u64]) -> u64 {
    rates.iter().sum::<u64>() / (1 + IN_DIALOG)
}

/// The most calls a second that are set up in 100 ms, 99 of a hundred.
fn throughput(rates: &[u64], how: How) -> u64 {
    let most = capacity(rates);
    let steps = (1..=20).map(|step| most * step / 20);
    let good = steps.take_while(|calls| {
        let seen = run(rates, *calls, 10, how, None, 1);
        seen.percentile(990) <= 100 && seen.refused == 0
    });
    good.last().unwrap_or(0)
}

#[test]
fn one_of_four_at_half_speed_costs_less_than_its_half() {
    const RATES: [u64; 4] = [3000, 3000, 3000, 1500];
    let (round_robin, least_loaded) = (throughput(&RATES, How::RoundRobin), throughput(&RATES, USUAL));
    println!("calls a second set up in 100 ms: round robin {round_robin}, least loaded {least_loaded}");
    assert!(least_loaded * 10 >= round_robin * 14, "{least_loaded} of {round_robin}");
}

#[test]
fn at_twice_and_four_times_the_capacity_as_many_calls_succeed_as_at_the_best_of_times() {
    const RATES: [u64; 3] = [3000, 3000, 3000];
    const SECONDS: u64 = 20;
    let capacity = capacity(&RATES);
    let peak = (6..=10)
        .map(|step| run(&RATES, capacity * step / 10, SECONDS, USUAL, None, 1).within(PATIENCE))
        .max()
        .unwrap_or(0);
    for (times, seed) in [2, 4]
        .into_iter()
        .flat_map(|times| SEEDS.map(move |seed| (times, seed)))
    {
        let seen = run(&RATES, capacity * times, SECONDS, USUAL, None, seed);
        let good = seen.within(PATIENCE);
        let slowest = seen.in_dialog.iter().max().copied().unwrap_or(0);
        let slow = seen.in_dialog.iter().filter(|took| **took > 500).count();
        println!(
            "{times} times the capacity: {good} of {peak} at the peak, {} refused, {slow} of {} in dialog later than T1, at most {slowest} ms",
            seen.refused,
            seen.in_dialog.len()
        );
        assert!(good * 100 >= peak * 95, "{good} of {peak}");
        assert!(
            slowest < PATIENCE,
            "in-dialog requests are answered while a caller waits: {slowest} ms"
        );
    }
    // Without any limit the queue eats all of it.
    let drowned = run(&RATES, capacity * 2, SECONDS, How::RoundRobin, None, 1);
    assert!(
        drowned.within(PATIENCE) * 10 < peak * 6,
        "the comparison means something: {}",
        drowned.within(PATIENCE)
    );
}

#[test]
fn a_flood_of_emergency_calls_leaves_the_calls_that_are_up_their_answers() {
    const RATES: [u64; 3] = [3000, 3000, 3000];
    for (times, seed) in [2, 4]
        .into_iter()
        .flat_map(|times| SEEDS.map(move |seed| (times, seed)))
    {
        let flood = run(
            &RATES,
            capacity(&RATES) * times,
            20,
            How::LeastLoaded(Urgency::Emergency),
            None,
            seed,
        );
        let slowest = flood.in_dialog.iter().max().copied().unwrap_or(0);
        let good = flood.within(PATIENCE);
        println!(
            "{times} times the capacity in emergency calls: {good} set up, {} refused, in dialog at most {slowest} ms",
            flood.refused
        );
        assert!(slowest < PATIENCE, "{slowest} ms");
        assert!(good * 10 >= capacity(&RATES) * 20 * 9, "{good}");
    }
}

#[test]
fn a_full_and_a_fresh_one_among_four_leave_the_work_to_the_others_without_a_refusal() {
    // The first does next to nothing, the last has just become active.
    const RATES: [u64; 4] = [30, 3000, 3000, 3000];
    let seen = run(&RATES, 1000, 5, USUAL, Some(3), 1);
    let [full, one, other, fresh] = seen.new_by_container[..] else {
        panic!("four")
    };
    println!("full {full}, usual {one} and {other}, fresh {fresh}");
    assert_eq!(seen.refused, 0);
    assert!(full * 10 < one, "{full} of {one}");
    assert!(fresh * 5 < one * 4 && fresh > 0, "{fresh} of {one}");
    assert!(seen.percentile(950) <= 100, "{} ms", seen.percentile(950));
}

//! Thousands of generated runs, and proof that their checks can fail.
//!
//! `SIM_SEED=17 cargo test -p tests --test sim one_seed -- --exact --nocapture --ignored` replays a run and prints its log, and
//! `one_seed_of_the_real_parts` in its place a run of the real parts; `SIM_SEEDS=100000` runs more of both.

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use tests::sim::checks::Seen;
use tests::sim::{Broken, Outcome, real, run};

fn seeds() -> u64 {
    let wanted = std::env::var("SIM_SEEDS").ok().and_then(|s| s.parse().ok());
    wanted.unwrap_or(2_000)
}

/// The command that runs one seed again, by the test that does so.
fn replay(seed: u64, test: &str) -> String {
    format!("replay: SIM_SEED={seed} cargo test -p tests --test sim {test} -- --exact --nocapture --ignored")
}

/// Runs `0..count` in parallel until one fails; the lowest failing seed and what was violated.
fn first_violation(count: u64, broken: Broken) -> (Option<(u64, String)>, Seen) {
    first_failure(count, |seed| run(seed, broken, false))
}

fn first_failure(count: u64, run: impl Fn(u64) -> Outcome + Sync) -> (Option<(u64, String)>, Seen) {
    let next = AtomicU64::new(0);
    let found = Mutex::new(None::<(u64, String)>);
    let total = Mutex::new(Seen::default());
    let threads = std::thread::available_parallelism().map_or(2, |n| n.get());
    std::thread::scope(|scope| {
        for _ in 0..threads {
            scope.spawn(|| {
                while found.lock().expect("no panic").is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= count {
                        return;
                    }
                    let outcome = run(seed);
                    total.lock().expect("no panic").add(&outcome.seen);
                    if let Some(violation) = outcome.violation {
                        let mut found = found.lock().expect("no panic");
                        if found.as_ref().is_none_or(|(lowest, _)| *lowest > seed) {
                            *found = Some((seed, violation));
                        }
                    }
                }
            });
        }
    });
    let seen = *total.lock().expect("no panic");
    (found.into_inner().expect("no panic"), seen)
}

#[test]
fn no_seed_violates_an_invariant() {
    let count = seeds();
    let (found, seen) = first_violation(count, Broken::Nothing);
    if let Some((seed, violation)) = found {
        panic!("seed {seed}: {violation}\n{}", replay(seed, "one_seed"));
    }
    println!("{count} seeds: {seen:?}");
    // Runs that exercise nothing prove nothing.
    assert!(
        seen.from_memory > 0 && seen.hand_overs > 0 && seen.refused > 0 && seen.fenced > 0,
        "{seen:?}"
    );
}

/// Runs the seed that the environment names, and prints what happened.
fn replayed(run: impl Fn(u64) -> Outcome) {
    let seed = std::env::var("SIM_SEED").expect("SIM_SEED names the seed");
    let outcome = run(seed.parse().expect("a seed is a number"));
    println!("{}\n{:?}", outcome.log, outcome.seen);
    assert_eq!(outcome.violation, None, "seed {seed}");
}

#[test]
#[ignore = "replays SIM_SEED"]
fn one_seed() {
    replayed(|seed| run(seed, Broken::Nothing, true));
}

#[test]
#[ignore = "replays SIM_SEED"]
fn one_seed_of_the_real_parts() {
    replayed(|seed| real::run(seed, Broken::Nothing, true));
}

fn runs_alike(seed: u64, run: impl Fn(u64, Broken, bool) -> Outcome) {
    let (one, two) = (run(seed, Broken::Nothing, true), run(seed, Broken::Nothing, true));
    assert_eq!(one.log, two.log, "seed {seed}");
    assert_eq!(one.seen, two.seen, "seed {seed}");
}

#[test]
fn runs_are_deterministic() {
    (0..5).for_each(|seed| runs_alike(seed, run));
    (0..2).for_each(|seed| runs_alike(seed, real::run));
}

#[test]
fn no_seed_of_the_real_parts_violates_an_invariant() {
    let count = seeds();
    let (found, seen) = first_failure(count, |seed| real::run(seed, Broken::Nothing, false));
    if let Some((seed, violation)) = found {
        panic!(
            "seed {seed}: {violation}\n{}",
            replay(seed, "one_seed_of_the_real_parts")
        );
    }
    println!("{count} seeds of the real parts: {seen:?}");
    assert!(
        seen.claims > 0 && seen.hand_overs > 0 && seen.refused > 0 && seen.calls > 0,
        "{seen:?}"
    );
    assert!(
        seen.from_memory > 0 && seen.fenced > 0 && seen.cancels > 0 && seen.compared > 0,
        "{seen:?}"
    );
    assert!(seen.relayed > 0, "{seen:?}");
}

fn finds_a_violation(broken: Broken) {
    let (found, seen) = first_violation(1_000, broken);
    let (seed, violation) = found.unwrap_or_else(|| panic!("{broken:?} went unnoticed: {seen:?}"));
    println!("{broken:?}: seed {seed}: {violation}");
}

fn finds_a_violation_of_the_real_parts(broken: Broken) {
    let (found, seen) = first_failure(1_000, |seed| real::run(seed, broken, false));
    let (seed, violation) = found.unwrap_or_else(|| panic!("{broken:?} went unnoticed: {seen:?}"));
    println!("{broken:?}, real parts: seed {seed}: {violation}");
}

#[test]
fn without_the_epoch_comparison_a_violation_is_found() {
    finds_a_violation(Broken::EpochComparison);
    finds_a_violation_of_the_real_parts(Broken::EpochComparison);
}

#[test]
fn with_output_before_its_write_a_violation_is_found() {
    finds_a_violation(Broken::OutputFirst);
    finds_a_violation_of_the_real_parts(Broken::OutputFirst);
}

#[test]
fn with_two_owners_acting_from_memory_a_violation_is_found() {
    finds_a_violation(Broken::MemoryUnasked);
    finds_a_violation_of_the_real_parts(Broken::MemoryUnasked);
}

#[test]
fn with_islands_unseen_a_violation_is_found() {
    finds_a_violation_of_the_real_parts(Broken::IslandsUnseen);
}

#[test]
fn with_hand_over_without_fencing_a_violation_is_found() {
    finds_a_violation(Broken::HandOverUnfenced);
    finds_a_violation_of_the_real_parts(Broken::HandOverUnfenced);
}

#[test]
fn with_a_master_that_answers_without_its_replicas_a_violation_is_found() {
    finds_a_violation(Broken::AnswersAlone);
    finds_a_violation_of_the_real_parts(Broken::AnswersAlone);
}

#[test]
fn with_claims_that_let_nobody_write_first_a_violation_is_found() {
    finds_a_violation(Broken::ClaimsUnasked);
    finds_a_violation_of_the_real_parts(Broken::ClaimsUnasked);
}

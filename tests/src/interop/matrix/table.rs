//! Runs cells side by side and prints them: as a test of cargo's does, and as the page `docs/faults.md`.

use std::collections::VecDeque;
use std::fmt::Write;
use std::process::ExitCode;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use super::{Cell, Load, Row, cells};
use crate::bench::machine;
use crate::interop::caller::Transport;
use crate::interop::process::source_root;

/// In `make test`: enough for each container to have its part of everything.
const BRIEF: Load = Load {
    dialogs: 200,
    ringing: 40,
    rate: 20,
    ring: Duration::from_secs(3),
    stop: Duration::from_secs(10),
};

/// In `make report`.
const FULL: Load = Load {
    dialogs: 1_000,
    ringing: 100,
    stop: Duration::from_secs(60),
    ..BRIEF
};

/// Cells at a time: most of their time they wait.
const THREADS: usize = 2;

/// A cell that was run.
type Done = (Cell, anyhow::Result<Row>);

/// The test: arguments without a dash choose cells whose title contains one of them, `--full` the report's load; of cargo's own arguments `--list`
/// and `--test-threads=N` count.
#[must_use]
pub fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let wanted: Vec<&String> = arguments.iter().filter(|argument| !argument.starts_with('-')).collect();
    let all = cells();
    let count = all.len();
    let chosen = |cell: &Cell| match wanted.is_empty() {
        true => cell.is_of_every_test(),
        false => wanted.iter().any(|word| cell.title().contains(word.as_str())),
    };
    let chosen: Vec<_> = (0..).zip(all).filter(|(_, cell)| chosen(cell)).collect();
    let has = |flag: &str| arguments.iter().any(|argument| argument == flag);
    if has("--list") {
        chosen.iter().for_each(|(_, cell)| println!("{}: test", cell.title()));
        return ExitCode::SUCCESS;
    }
    let given = arguments
        .iter()
        .find_map(|argument| argument.strip_prefix("--test-threads="));
    let threads = given.and_then(|number| number.parse().ok()).unwrap_or(THREADS);
    let left_out = count - chosen.len();
    let load = if has("--full") { FULL } else { BRIEF };
    println!("\nrunning {} cells, {} dialogs each", chosen.len(), load.dialogs);
    let begun = Instant::now();
    let done = run(chosen, load, threads);
    println!("\n{}", table(&done));
    let failed = failures(&done);
    let (word, passed) = (if failed == 0 { "ok" } else { "FAILED" }, done.len() - failed);
    // As libtest has it, so that who counts tests counts these.
    println!(
        "test result: {word}. {passed} passed; {failed} failed; 0 ignored; 0 measured; {left_out} filtered out; finished in {:.2}s\n",
        begun.elapsed().as_secs_f64()
    );
    if failed == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(101)
    }
}

/// The report: every cell at full load, side by side as in the test, into `docs/faults.md`.
pub fn report() -> anyhow::Result<ExitCode> {
    let done = run((0..).zip(cells()).collect(), FULL, THREADS);
    let page = page(&done);
    println!("{page}");
    std::fs::write(source_root().join("docs/faults.md"), page)?;
    Ok(ExitCode::from(u8::from(failures(&done) > 0)))
}

fn failures(done: &[Done]) -> usize {
    done.iter().filter(|(_, outcome)| outcome.is_err()).count()
}

/// Runs `threads` cells at a time; gives them in the order of the list.
fn run(chosen: Vec<(u8, Cell)>, load: Load, threads: usize) -> Vec<Done> {
    let waiting = Mutex::new(VecDeque::from(chosen));
    let done = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..threads.max(1) {
            scope.spawn(|| {
                loop {
                    let next = waiting.lock().expect("no panic").pop_front();
                    let Some((number, cell)) = next else { return };
                    let begun = Instant::now();
                    let outcome = cell.run(number, load, Transport::Udp);
                    let word = if outcome.is_ok() { "ok" } else { "FAILED" };
                    println!(
                        "cell {} ... {word} ({:.1} s)",
                        cell.title(),
                        begun.elapsed().as_secs_f64()
                    );
                    if let Err(error) = &outcome {
                        // Alternate form: the causes, without a backtrace of the harness.
                        println!("{error:#}");
                    }
                    done.lock().expect("no panic").push((number, cell, outcome));
                }
            });
        }
    });
    let mut done = done.into_inner().expect("no panic");
    done.sort_by_key(|(number, ..)| *number);
    done.into_iter().map(|(_, cell, outcome)| (cell, outcome)).collect()
}

/// Every cell in a line, as Markdown.
fn table(done: &[Done]) -> String {
    let mut text = String::from(
        "| application | fault | dialogs | ringing | new calls | lost | refused calls | refused requests | worst answer | whole again |\n\
         | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |\n",
    );
    for (cell, outcome) in done {
        let _ = write!(text, "| {} | {} | ", cell.application.name(), cell.name);
        let _ = match outcome {
            Ok(Row { tally, whole }) => {
                let ((dialogs, ringing), (worst, method)) = (tally.stood, tally.worst);
                writeln!(
                    text,
                    "{dialogs} | {ringing} | {} | {} | {} | {} | {:.2} s ({method}) | {:.1} s |",
                    tally.new,
                    tally.lost,
                    tally.refused,
                    tally.deferred,
                    worst.as_secs_f64(),
                    whole.as_secs_f64(),
                )
            }
            Err(error) => {
                let why = format!("{:#}", error.root_cause());
                writeln!(
                    text,
                    "**failed**: {} | | | | | | | |",
                    why.lines().next().unwrap_or_default()
                )
            }
        };
    }
    text
}

fn page(done: &[Done]) -> String {
    let mut text = String::from(
        "# Faults\n\nWritten by `make report`. Each row is a cluster of its own (three containers, two proxies, a Redis; real processes): so many dialogs \
         stand and so many calls ring when the fault comes, 20 new calls come every second all the while, and standing dialogs are asked (OPTIONS) eighty \
         times a second. When the cluster is whole again every dialog is asked (re-INVITE) and ended (BYE): one that does not answer 200, a ringing call \
         that is not answered and a call that nobody answers at all are *lost*. Before that, what the containers hold is compared with what Redis has: one owner, \
         its epoch and the same records of every partition. *Refused* is what was answered 5xx meanwhile. The *worst answer* is the \
         longest wait for a final answer, of new calls for the first one; what a call rings is left out. *Whole again* is the time from the fault's \
         beginning until everything is active and the partitions are shared out, the fault's own time included.\n\n",
    );
    let _ = writeln!(text, "Machine: {}.\n\n{}", machine::description(), table(done));
    text
}

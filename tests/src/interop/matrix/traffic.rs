//! The calls of a cell, played in a thread of their own: some stand, some ring, new ones come all the time while the fault happens; in the end
//! everything is asked, and every call has its verdict.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Receiver, channel};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, ensure};

use crate::interop::caller::{Caller, Dialog, Outcome, State};

/// Longer than any takeover on a busy machine; and longer than Timers B and F, so that what nobody answers is known to be lost.
const LIMIT: Duration = Duration::from_secs(40);

/// How many of the standing dialogs are asked (OPTIONS) with each new call: in each outage there are some of every container's.
const PROBES: usize = 4;

/// How many calls there are.
#[derive(Clone, Copy, Debug)]
pub struct Load {
    /// Dialogs that stand when the fault comes.
    pub dialogs: usize,
    /// Calls that ring then.
    pub ringing: usize,
    /// New calls, one second's.
    pub rate: u32,
    /// How long each rings: the manifest's `ring`.
    pub ring: Duration,
    /// How long a Redis that is stopped stands still.
    pub stop: Duration,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub struct Tally {
    /// Dialogs that stood, and calls that rang.
    pub stood: (usize, usize),
    /// Calls that came while the fault was there.
    pub new: usize,
    /// Calls that were cut off, left ringing or left without any answer.
    pub lost: usize,
    /// New calls that were refused (5xx): the phone knows, and may call again.
    pub refused: usize,
    /// Requests within dialogs that were refused (5xx) while the fault was there; the dialogs went on.
    pub deferred: usize,
    /// The longest wait for an answer, the ringing left out; and for which method.
    pub worst: (Duration, &'static str),
    /// The first calls that were lost or refused, in words.
    pub examples: Vec<String>,
}

/// Calls in progress.
pub struct Traffic {
    calm: Arc<AtomicBool>,
    thread: JoinHandle<anyhow::Result<Tally>>,
}

impl Traffic {
    /// Opens a caller in the new thread and returns once all standing dialogs stand and all ringing calls ring.
    pub fn start(load: Load, open: impl FnOnce() -> anyhow::Result<Caller> + Send + 'static) -> anyhow::Result<Self> {
        let calm = Arc::new(AtomicBool::new(false));
        let (ready, is_ready) = channel();
        let thread = std::thread::spawn({
            let calm = Arc::clone(&calm);
            move || {
                let mut caller = open()?;
                prepare(&mut caller, load)?;
                // Nobody listens any more if the test has failed meanwhile: then nobody needs the tally either.
                let _ = ready.send(());
                let fault = caller.outcomes.len();
                go_on(&mut caller, load, &calm)?;
                let asked = ask(&mut caller)?;
                caller.expect_no_call_doubled()?;
                Ok(tally(&caller, load, fault, asked))
            }
        });
        let traffic = Self { calm, thread };
        traffic.stands(&is_ready)
    }

    fn stands(self, ready: &Receiver<()>) -> anyhow::Result<Self> {
        if ready.recv().is_ok() {
            return Ok(self);
        }
        // The thread has ended: why, it says itself.
        self.finish()?;
        unreachable!("a thread that is not ready ends with an error")
    }

    /// No more new calls; asks everything and gives the tally.
    pub fn finish(self) -> anyhow::Result<Tally> {
        self.calm.store(true, Ordering::Relaxed);
        self.thread.join().expect("the caller does not panic")
    }
}

fn prepare(caller: &mut Caller, load: Load) -> anyhow::Result<()> {
    caller.paced(400, 0..load.dialogs, |caller, _| {
        caller.invite();
    });
    caller.all_answered(LIMIT).context("before the fault")?;
    caller.expect_all_ok("INVITE", 0, load.dialogs)?;
    caller.paced(1_000, 0..load.ringing, |caller, _| {
        caller.invite();
    });
    caller.until("the calls ring", LIMIT, |caller| {
        caller.count(State::Ringing) == load.ringing
    })
}

/// New calls and questions in standing dialogs, until it is `calm` again and all have their answers.
fn go_on(caller: &mut Caller, load: Load, calm: &AtomicBool) -> anyhow::Result<()> {
    let mut next = (0..load.dialogs).cycle();
    let storm = std::iter::repeat(()).take_while(|()| !calm.load(Ordering::Relaxed));
    caller.paced(load.rate, storm, |caller, ()| {
        caller.invite();
        for index in next.by_ref().take(PROBES) {
            let dialog = &caller.dialogs[index];
            if dialog.state == State::Confirmed && dialog.pending.is_empty() {
                caller.request(index, "OPTIONS");
            }
        }
    });
    // What is unanswered after this limit is lost, and counted so.
    let _ = caller.all_answered(LIMIT);
    let _ = caller.settle(LIMIT);
    Ok(())
}

/// A re-INVITE and a BYE in every dialog that stands. Gives the number of outcomes before them.
fn ask(caller: &mut Caller) -> anyhow::Result<usize> {
    let since = caller.outcomes.len();
    for method in ["INVITE", "BYE"] {
        let dialogs = caller.indices(State::Confirmed);
        ensure!(!dialogs.is_empty(), "no dialog stands: {}", caller.summary());
        caller.paced(1_000, dialogs, |caller, dialog| caller.request(dialog, method));
        let _ = caller.settle(LIMIT);
    }
    Ok(since)
}

/// How one call went.
enum Verdict {
    Good,
    Refused(u16),
    Lost(String),
}

/// By its outcomes, of which those from `asked` on are the final questions' (`true`).
fn verdict(dialog: &Dialog, outcomes: &[(bool, &Outcome)]) -> Verdict {
    let invited = outcomes.iter().find(|(_, outcome)| outcome.method == "INVITE");
    match invited.map(|(_, outcome)| outcome.status) {
        None => return Verdict::Lost(format!("never answered, {:?}", dialog.state)),
        Some(200) => {}
        Some(408) => return Verdict::Lost("no answer to INVITE".into()),
        Some(status) if dialog.remote_tags.is_empty() => return Verdict::Refused(status),
        Some(status) => return Verdict::Lost(format!("rang, then {status}")),
    }
    if !dialog.byes.is_empty() {
        return Verdict::Lost("ended by the other side".into());
    }
    // Asked during the fault, a 5xx is an honest answer; afterwards only 200 is.
    let wrong = |(last, outcome): &&(bool, &Outcome)| match outcome.status {
        200 => false,
        500 | 503 => *last,
        _ => true,
    };
    if let Some((_, outcome)) = outcomes.iter().find(wrong) {
        return Verdict::Lost(format!("{} answered {}", outcome.method, outcome.status));
    }
    let asked: Vec<_> = outcomes.iter().filter(|(last, _)| *last).collect();
    if asked.len() != 2 || dialog.state != State::Ended {
        return Verdict::Lost(format!("{} of re-INVITE and BYE answered", asked.len()));
    }
    Verdict::Good
}

fn tally(caller: &Caller, load: Load, fault: usize, asked: usize) -> Tally {
    let mut tally = Tally {
        stood: (load.dialogs, load.ringing),
        new: caller.dialogs.len() - load.dialogs - load.ringing,
        ..Tally::default()
    };
    let mut of_dialog: Vec<Vec<(bool, &Outcome)>> = vec![Vec::new(); caller.dialogs.len()];
    for (at, outcome) in caller.outcomes.iter().enumerate() {
        of_dialog[outcome.dialog].push((at >= asked, outcome));
        if at < fault {
            continue;
        }
        let first = of_dialog[outcome.dialog].len() == 1;
        let waited = if first {
            outcome.first.max(outcome.took.saturating_sub(load.ring))
        } else {
            outcome.took
        };
        tally.worst = tally.worst.max((waited, outcome.method));
        tally.deferred += usize::from(!first && at < asked && outcome.status >= 500);
    }
    for (dialog, outcomes) in caller.dialogs.iter().zip(&of_dialog) {
        let what = match verdict(dialog, outcomes) {
            Verdict::Good => continue,
            Verdict::Refused(status) => {
                tally.refused += 1;
                format!("refused with {status}")
            }
            Verdict::Lost(why) => {
                tally.lost += 1;
                format!("lost, {why}")
            }
        };
        if tally.examples.len() < 20 {
            tally
                .examples
                .push(format!("{}: {what}; {:?}", dialog.call_id, dialog.heard));
        }
    }
    tally
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Instant;

    fn outcome(method: &'static str, status: u16) -> Outcome {
        Outcome {
            dialog: 0,
            method,
            status,
            first: Duration::ZERO,
            took: Duration::ZERO,
            sent: Instant::now(),
            repeats: 0,
        }
    }

    /// The verdict on a call that rang and ended, by its answers during the fault and at the end.
    fn judged(during: &[(&'static str, u16)], at_the_end: &[(&'static str, u16)]) -> Verdict {
        let dialog = Dialog::judged(State::Ended, &["one"]);
        let of = |all: &[(&'static str, u16)]| all.iter().map(|(m, s)| outcome(m, *s)).collect::<Vec<_>>();
        let (during, end) = (of(during), of(at_the_end));
        let during = during.iter().map(|outcome| (false, outcome));
        let all: Vec<_> = during.chain(end.iter().map(|outcome| (true, outcome))).collect();
        verdict(&dialog, &all)
    }

    #[test]
    fn a_dialog_is_lost_by_481_at_any_time_and_by_500_at_the_end() {
        const END: [(&str, u16); 2] = [("INVITE", 200), ("BYE", 200)];
        let call = ("INVITE", 200);
        assert!(matches!(judged(&[call], &END), Verdict::Good));
        assert!(matches!(judged(&[call, ("OPTIONS", 500)], &END), Verdict::Good));
        assert!(matches!(judged(&[call, ("OPTIONS", 481)], &END), Verdict::Lost(_)));
        let late = [("INVITE", 200), ("BYE", 500)];
        assert!(matches!(judged(&[call], &late), Verdict::Lost(_)));
        assert!(matches!(judged(&[call], &END[..1]), Verdict::Lost(_)));
        assert!(matches!(judged(&[("INVITE", 500)], &[]), Verdict::Lost(_)));
        assert!(matches!(judged(&[], &[]), Verdict::Lost(_)));
    }

    #[test]
    fn a_call_that_never_rang_is_refused_and_one_that_rang_is_lost() {
        let invite = outcome("INVITE", 503);
        let silent = Dialog::judged(State::Failed, &[]);
        assert!(matches!(verdict(&silent, &[(false, &invite)]), Verdict::Refused(503)));
        let rang = Dialog::judged(State::Failed, &["one"]);
        assert!(matches!(verdict(&rang, &[(false, &invite)]), Verdict::Lost(_)));
    }
}

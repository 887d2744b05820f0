//! Phones over TCP, outside the cluster: each keeps its connection, is silent on it between what it says in a call, and connects anew for the
//! next if the connection has been closed. (SIPp gives up the call, or itself, when that befalls a connection of its own.)

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::ensure;

use crate::interop::caller::{Caller, Outcome, State, Transport};
use crate::interop::network::Namespace;

/// What a phone says in a call.
const SAYS: [&str; 3] = ["INVITE", "INVITE", "BYE"];

/// Between that: longer than the two seconds for which a proxy that is to go takes everything. What is not answered by then is said again, for
/// a load balancer may have led the connection to a node where nobody knows it.
const SILENCE: Duration = Duration::from_secs(3);

/// Between a new call and the next.
const EVERY: Duration = Duration::from_millis(250);

/// So many that each has one call at a time, if little is said again.
const PHONES: usize = 40;

/// The longest that calls take to end.
const LIMIT: Duration = Duration::from_secs(60);

/// Most of those that are up once the first of them end.
pub const ENOUGH: usize = (SAYS.len() - 1) * (SILENCE.as_millis() / EVERY.as_millis()) as usize * 3 / 4;

/// Calls from this network, or from this host's, until `over`, and until all calls have ended; `up` are up meanwhile.
///
/// # Errors
/// A call was refused, or lost.
pub fn call(network: Option<&str>, target: SocketAddr, over: &AtomicBool, up: &AtomicUsize) -> anyhow::Result<()> {
    // The network's own, whatever it is.
    let address = Ipv4Addr::UNSPECIFIED;
    if let Some(name) = network.map(str::to_owned) {
        Namespace { name, address }.enter()?;
    }
    let mut caller = Caller::new(Transport::Tcp, address.into(), target, PHONES)?;
    // Of each call: how much of it has been said, and when the next is due.
    let mut calls: Vec<(usize, Instant)> = Vec::new();
    let (mut next, mut last) = (Instant::now(), None);
    loop {
        caller.pump(Duration::from_millis(10));
        let now = Instant::now();
        for (index, (said, due)) in calls.iter_mut().enumerate().filter(|(_, (_, due))| *due <= now) {
            *due = now + SILENCE;
            let dialog = &caller.dialogs[index];
            if is_over(dialog.state) {
                continue;
            }
            if !dialog.pending.is_empty() {
                caller.repeat(index);
            } else if let Some(method) = SAYS.get(*said) {
                caller.request(index, method);
                *said += 1;
            }
        }
        up.store(caller.count(State::Confirmed), Ordering::Relaxed);
        if !over.load(Ordering::Relaxed) {
            if next <= now {
                caller.invite();
                calls.push((1, now + SILENCE));
                next += EVERY;
            }
        } else if (0..calls.len()).all(|index| is_over(caller.dialogs[index].state) || is_gone(&caller, index))
            || now.duration_since(*last.get_or_insert(now)) >= LIMIT
        {
            break;
        }
    }
    let has_ended = |index: &usize| caller.dialogs[*index].state == State::Ended || is_gone(&caller, *index);
    let ended = (0..calls.len()).filter(has_ended).count();
    let mut refused = caller.outcomes.iter();
    let refused = refused.find(|outcome| outcome.status != 200 && !says_gone(outcome));
    ensure!(
        refused.is_none() && ended == calls.len(),
        "over TCP: {}; {refused:?}",
        caller.summary()
    );
    caller.expect_no_call_doubled()
}

fn is_over(state: State) -> bool {
    matches!(state, State::Ended | State::Failed)
}

/// Its BYE has ended it, and the answer went with a connection: the repetition is told that there is no such call.
fn is_gone(caller: &Caller, index: usize) -> bool {
    let mut outcomes = caller.outcomes.iter().filter(|outcome| outcome.dialog == index);
    outcomes.any(says_gone)
}

fn says_gone(outcome: &Outcome) -> bool {
    (outcome.method, outcome.status) == ("BYE", 481) && outcome.repeats > 0
}

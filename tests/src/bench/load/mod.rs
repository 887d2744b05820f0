//! The load generator: caller and, if asked for, callee of many calls in one thread.
//!
//! A call is INVITE, 180, 200, ACK, BYE, 200; ACK and BYE leave together, Record-Route is honoured. Nothing is sent again: a call without
//! its next answer for two seconds is lost.

mod callee;
mod caller;
mod container;
mod lines;

use std::io;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

pub use container::Container;

use super::udp::{Batch, polled, socket, wait};
use caller::{Calls, Event};

/// After so long without an answer a call is lost.
const PATIENCE: Duration = Duration::from_secs(2);

/// What to do.
#[derive(Clone, Debug)]
pub struct Load {
    /// Where calls go.
    pub proxy: SocketAddr,
    /// The caller's ports; calls are spread over them.
    pub callers: Vec<SocketAddr>,
    /// Callees to play; none if the calls are answered by a cluster.
    pub callees: Vec<SocketAddr>,
    /// Calls in progress at all times, or at most if `rate` is given.
    pub window: usize,
    /// Calls in all.
    pub calls: u64,
    /// New calls a second; in a closed loop without it.
    pub rate: Option<u32>,
    /// OPTIONS sent between ACK and BYE, all in one go: an order turned round shows as a 500 or 481 (RFC 3261 s12.2.2).
    pub options: u32,
    /// Leave out the BYE: the dialogs stay.
    pub keep: bool,
    /// Request-URIs of INVITEs, in turn; the service at `proxy` if there are none.
    pub targets: Vec<String>,
}

/// What came of it.
#[derive(Clone, Debug, Default)]
pub struct Outcome {
    /// Calls that ran to their end.
    pub done: u64,
    /// Calls that met silence.
    pub lost: u64,
    /// Calls that were refused.
    pub refused: u64,
    /// Messages of a call that overtook another one of it.
    pub reordered: u64,
    /// Messages that belonged to no call.
    pub strays: u64,
    /// How long it took.
    pub took: Duration,
    /// INVITE to 200, in microseconds, sorted.
    pub setup: Vec<u32>,
}

impl Outcome {
    /// Calls a second.
    #[must_use]
    pub fn rate(&self) -> f64 {
        self.done as f64 / self.took.as_secs_f64()
    }

    /// The set-up time that `share` of the calls did not exceed, in microseconds.
    #[must_use]
    pub fn setup_at(&self, share: f64) -> u32 {
        let at = (self.setup.len() as f64 * share) as usize;
        self.setup
            .get(at.min(self.setup.len().saturating_sub(1)))
            .copied()
            .unwrap_or(0)
    }
}

/// Makes all the calls.
pub fn run(load: &Load) -> io::Result<Outcome> {
    let callers = load
        .callers
        .iter()
        .map(|at| socket(*at))
        .collect::<io::Result<Vec<_>>>()?;
    let callees = load
        .callees
        .iter()
        .map(|at| socket(*at))
        .collect::<io::Result<Vec<_>>>()?;
    let mut polled: Vec<libc::pollfd> = callers.iter().chain(&callees).map(polled).collect();
    let mut calls = Calls::new(load);
    let mut batch = Batch::default();
    let start = Instant::now();
    let mut swept = start;
    while !calls.finished() {
        let due = load.rate.map_or(load.calls, |rate| {
            (start.elapsed().as_secs_f64() * f64::from(rate)) as u64 + 1
        });
        calls.begin(due.min(load.calls), |slot, bytes| {
            send(&callers[slot % callers.len()], bytes, load.proxy)
        });
        if swept.elapsed() > PATIENCE / 10 {
            swept = Instant::now();
            calls.forget(PATIENCE);
        }
        if !wait(&mut polled, if load.rate.is_some() { 1 } else { 20 }) {
            continue;
        }
        for (_, caller) in callers.iter().enumerate().filter(|(at, _)| polled[*at].revents != 0) {
            for datagram in 0..batch.receive(caller) {
                let event = calls.response(batch.get(datagram).0);
                if let Event::Send(slot) = event {
                    for bytes in calls.requests(slot) {
                        send(&callers[slot % callers.len()], bytes, load.proxy);
                    }
                }
            }
        }
        for (at, callee) in callees
            .iter()
            .enumerate()
            .filter(|(at, _)| polled[callers.len() + at].revents != 0)
        {
            for datagram in 0..batch.receive(callee) {
                let (bytes, from) = batch.get(datagram);
                callee::answer(bytes, load.callees[at], |answer| send(callee, answer, from));
            }
        }
    }
    Ok(calls.outcome(start.elapsed()))
}

fn send(socket: &UdpSocket, bytes: &[u8], to: SocketAddr) {
    // A full buffer loses the datagram, which shows as a lost call.
    let _ = socket.send_to(bytes, to);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load(last: u8) -> Load {
        let at = |port| SocketAddr::from(([127, 0, 92, last], port));
        Load {
            proxy: at(5060),
            callers: vec![at(6060), at(6061)],
            callees: vec![at(5060)],
            window: 16,
            calls: 300,
            rate: None,
            options: 2,
            keep: false,
            targets: Vec::new(),
        }
    }

    #[test]
    fn caller_and_callee_understand_one_another() {
        let outcome = run(&load(1)).unwrap();
        assert_eq!(
            (outcome.done, outcome.lost, outcome.refused, outcome.reordered),
            (300, 0, 0, 0)
        );
        assert_eq!(outcome.setup.len(), 300);
    }

    #[test]
    fn what_overtakes_is_counted() {
        let load = load(2);
        let mut calls = Calls::new(&load);
        let mut answers = Vec::new();
        calls.begin(1, |_, invite| {
            callee::answer(invite, load.proxy, |answer| answers.push(answer.to_vec()))
        });
        assert!(matches!(calls.response(&answers[1]), Event::Send(_)), "200");
        assert!(
            matches!(calls.response(&answers[0]), Event::Nothing),
            "180 behind its 200"
        );
        let refused = String::from_utf8(answers[1].clone()).unwrap();
        let refused = refused
            .replace("200 OK", "500 Late")
            .replace("CSeq: 1 INVITE", "CSeq: 2 OPTIONS");
        calls.response(refused.as_bytes());
        assert_eq!(calls.outcome(Duration::ZERO).reordered, 2);
    }
}

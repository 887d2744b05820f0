//! Calls from outside the cluster, the whole time: SIPp's, each with an INVITE, a re-INVITE after a while, and a BYE.

use std::net::{IpAddr, Ipv4Addr, SocketAddr, UdpSocket};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;

use super::world::World;
use crate::interop::process::wait_every;
use crate::interop::sipp::{Run, Sipp, Statistics};

/// New calls a second.
const RATE: u32 = 10;

/// How long a call is up before its re-INVITE, in milliseconds, as SIPp has it.
const HOLDS_MS: &str = "6000";

/// The longest that a call may take, in milliseconds: one that is lost fails.
const LIMIT_MS: &str = "45000";

/// More calls than any scenario needs.
const ENOUGH: u32 = 100_000;

/// The host outside of a cluster of ours.
pub const OUTSIDE: Ipv4Addr = Ipv4Addr::new(198, 18, 255, 50);

/// SIPp at work.
pub struct Calls {
    sipp: Sipp,
    pid: u32,
    answers: PathBuf,
    errors: PathBuf,
}

/// What became of them.
#[derive(Clone, Copy, Debug, Default)]
pub struct Outcome {
    /// Calls made.
    pub made: u64,
    /// Calls that were up, or were being set up, and did not end as they should.
    pub lost: u64,
    /// Calls that were refused at once (503).
    pub refused: u64,
    /// The longest that an answer took.
    pub worst: Duration,
}

impl Calls {
    /// Starts calling, and waits until as many calls are up as will be.
    pub fn start(world: &World, target: SocketAddr, port: u16) -> anyhow::Result<Self> {
        let name = format!("calls-{port}");
        let (scratch, outside) = (world.scratch(), world.kubernetes.outside());
        let local = match outside {
            Some(_) => IpAddr::V4(OUTSIDE),
            None => towards(target)?,
        };
        let run = Run {
            scenario: "reinvite",
            target: Some(target),
            local: SocketAddr::new(local, port),
            rate: RATE,
            calls: ENOUGH,
            extra: &[
                "-d",
                HOLDS_MS,
                "-timeout",
                "600",
                "-recv_timeout",
                LIMIT_MS,
                "-trace_rtt",
                "-rtt_freq",
                "1",
            ],
            network: outside,
            anywhere: outside.is_none(),
            ..Run::default()
        };
        let mut sipp = Sipp::start(scratch, &name, &run)?;
        sipp.wait_until("calls are up", Duration::from_secs(60), |now| now.successful() >= 10)?;
        let pid = sipp.pid();
        let answers = scratch.join(format!("reinvite_{pid}_rtt.csv"));
        Ok(Self {
            sipp,
            pid,
            answers,
            errors: scratch.join(format!("{name}.errors")),
        })
    }

    /// No new calls; waits until those that are up have ended.
    pub fn finish(self) -> anyhow::Result<Outcome> {
        let Self {
            mut sipp,
            pid,
            answers,
            errors,
        } = self;
        // SIGUSR1: SIPp begins no more calls and ends with the last one.
        // SAFETY: a signal to a process that we started and have not waited for.
        unsafe { libc::kill(pid as i32, libc::SIGUSR1) };
        let ended = |sipp: &mut Sipp| sipp.ended().then_some(());
        wait_every(
            Duration::from_millis(50),
            "all calls have ended",
            Duration::from_secs(90),
            || ended(&mut sipp),
        )
        .with_context(|| format!("{:?}", sipp.statistics()))?;
        let statistics: Statistics = sipp.statistics();
        // SIPp quotes messages as they came.
        let refused = refused(&String::from_utf8_lossy(&std::fs::read(&errors).unwrap_or_default()));
        // What a SIPp that died had under way is lost as well.
        let ended_well = statistics.successful() + refused;
        Ok(Outcome {
            made: statistics.begun(),
            lost: statistics.begun().saturating_sub(ended_well),
            refused,
            worst: worst(&std::fs::read_to_string(&answers).with_context(|| format!("{}", answers.display()))?),
        })
    }
}

/// Our address from which the target is reached; nothing is sent.
fn towards(target: SocketAddr) -> anyhow::Result<IpAddr> {
    let socket = UdpSocket::bind(match target {
        SocketAddr::V4(_) => "0.0.0.0:0",
        SocketAddr::V6(_) => "[::]:0",
    })?;
    socket.connect(target)?;
    Ok(socket.local_addr()?.ip())
}

/// The longest response time of a file of SIPp's: lines of date, milliseconds and the timer's name.
fn worst(text: &str) -> Duration {
    let times = text
        .lines()
        .filter_map(|line| line.split(';').nth(1)?.trim().parse::<f64>().ok());
    Duration::from_micros((times.fold(0.0, f64::max) * 1000.0) as u64)
}

/// The calls of SIPp's errors whose INVITE was answered with 503.
fn refused(errors: &str) -> u64 {
    let is_refusal = |line: &&str| line.contains("while expecting '100' (index 1), received 'SIP/2.0 503 ");
    errors.lines().filter(is_refusal).count() as u64
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_refusal_is_told_from_a_loss() {
        let aborting = |index: &str, received: &str| {
            format!(
                "1.5: Aborting call on unexpected message for Call-Id '1@h': while expecting {index}, received 'SIP/2.0 {received}\n"
            )
        };
        let errors = [
            aborting("'100' (index 1)", "503 Service Overloaded"),
            aborting("'100' (index 1)", "500 Server Error"),
            aborting("'200' (index 7)", "503 Service Overloaded"),
        ];
        assert_eq!(super::refused(&errors.concat()), 1);
    }

    #[test]
    fn the_worst_answer_is_found() {
        let text = "Date_ms;response_time_ms;rtd_name\n1.5;12.345;1\n1.6;1034.5;invite\n";
        assert_eq!(super::worst(text).as_micros(), 1_034_500);
    }
}

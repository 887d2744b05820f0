//! Runs SIPp and reads its statistics.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::process::{Process, source_root, wait_for};

/// What a SIPp is to do.
#[derive(Clone, Debug)]
pub struct Run<'a> {
    /// A file of `tests/scenarios` without `.xml`, or a built-in scenario (`uac`, `uas`).
    pub scenario: &'a str,
    /// Where calls go; `None` for a callee.
    pub target: Option<SocketAddr>,
    /// Its own address.
    pub local: SocketAddr,
    /// One TCP connection for all calls, instead of one UDP socket.
    pub tcp: bool,
    /// New calls a second.
    pub rate: u32,
    /// Calls in all.
    pub calls: u32,
    /// Further arguments.
    pub extra: &'a [&'a str],
    /// The network namespace that it runs in; `None` for the test's own.
    pub network: Option<&'a str>,
    /// Whether it calls a host that its user has named, wherever that is. Else calls stay on this machine.
    pub anywhere: bool,
}

impl Default for Run<'_> {
    fn default() -> Self {
        Self {
            scenario: "uac",
            target: None,
            local: SocketAddr::from(([127, 0, 0, 1], 0)),
            tcp: false,
            rate: 100,
            calls: 1,
            extra: &[],
            network: None,
            anywhere: false,
        }
    }
}

/// SIPp at work.
#[derive(Debug)]
pub struct Sipp {
    process: Process,
    statistics: PathBuf,
}

/// The last row of SIPp's statistics, by its column names.
#[derive(Clone, Debug, Default)]
pub struct Statistics(HashMap<String, String>);

impl Statistics {
    fn number(&self, column: &str) -> u64 {
        self.0.get(column).and_then(|value| value.parse().ok()).unwrap_or(0)
    }

    /// Calls begun so far.
    #[must_use]
    pub fn begun(&self) -> u64 {
        self.number("TotalCallCreated")
    }

    /// Calls that ran to the scenario's end.
    #[must_use]
    pub fn successful(&self) -> u64 {
        self.number("SuccessfulCall(C)")
    }

    /// Calls that met anything unexpected, or a timeout.
    #[must_use]
    pub fn failed(&self) -> u64 {
        self.number("FailedCall(C)")
    }

    /// Calls in progress.
    #[must_use]
    pub fn current(&self) -> u64 {
        self.number("CurrentCall")
    }

    /// Messages sent again.
    #[must_use]
    pub fn retransmissions(&self) -> u64 {
        self.number("Retransmissions(C)")
    }

    /// Mean of a scenario's response timer, such as 1.
    #[must_use]
    pub fn response_time(&self, timer: u32) -> Option<Duration> {
        let mut parts = self.0.get(&format!("ResponseTime{timer}(C)"))?.split(':');
        let mut next = || parts.next()?.parse::<u64>().ok();
        let seconds = next()? * 3600 + next()? * 60 + next()?;
        Some(Duration::from_secs(seconds) + Duration::from_micros(next()?))
    }
}

impl Sipp {
    /// Starts SIPp; its files go to `scratch`.
    pub fn start(scratch: &Path, name: &str, run: &Run) -> anyhow::Result<Self> {
        let statistics = scratch.join(format!("{name}.csv"));
        let mut command = match run.network {
            Some(network) => {
                let mut command = Command::new("nsenter");
                command.arg(format!("--net=/run/netns/{network}")).arg("sipp");
                command
            }
            None => Command::new("sipp"),
        };
        command.current_dir(scratch);
        let own = source_root().join(format!("tests/scenarios/{}.xml", run.scenario));
        if own.exists() {
            command.arg("-sf").arg(&own);
        } else {
            command.args(["-sn", run.scenario]);
        }
        command.args(["-i", &run.local.ip().to_string(), "-p", &run.local.port().to_string()]);
        command.args([
            "-t",
            if run.tcp { "t1" } else { "u1" },
            "-nostdin",
            "-fd",
            "1",
            "-trace_stat",
            "-stf",
        ]);
        command.arg(&statistics);
        command.args(["-trace_err", "-error_file"]);
        command.arg(scratch.join(format!("{name}.errors")));
        command.args(["-buff_size", "4000000", "-deadcall_wait", "0"]);
        if let Some(target) = run.target {
            ensure!(
                run.anywhere || run.network.is_some() || target.ip().is_loopback(),
                "calls stay on this machine"
            );
            command.args(["-r", &run.rate.to_string(), "-m", &run.calls.to_string()]);
            command.args(["-l", &run.calls.to_string()]);
            command.args(run.extra).arg(target.to_string());
        } else {
            command.args(run.extra);
        }
        let process = Process::start(&mut command, &scratch.join(format!("{name}.log")))
            .context("SIPp (Debian: sip-tester) is needed for this test")?;
        Ok(Self { process, statistics })
    }

    /// Its process id.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// Whether it has ended.
    pub fn ended(&mut self) -> bool {
        self.process.ended().is_some()
    }

    /// What SIPp has counted up to its last row (one a second).
    #[must_use]
    pub fn statistics(&self) -> Statistics {
        let text = std::fs::read_to_string(&self.statistics).unwrap_or_default();
        let mut lines = text.lines();
        let names = lines.next().unwrap_or_default();
        let Some(last) = lines.next_back() else {
            return Statistics::default();
        };
        let pairs = names.split(';').zip(last.split(';'));
        Statistics(pairs.map(|(k, v)| (k.to_owned(), v.to_owned())).collect())
    }

    /// Waits until its statistics fulfil a condition.
    pub fn wait_until(
        &mut self,
        what: &str,
        limit: Duration,
        condition: impl Fn(&Statistics) -> bool,
    ) -> anyhow::Result<()> {
        wait_for(what, limit, || condition(&self.statistics()).then_some(()))
            .with_context(|| format!("{:?}\n{}", self.statistics(), self.process.log_tail()))
    }

    /// Waits for its end and gives the final statistics.
    pub fn finish(mut self, limit: Duration) -> anyhow::Result<Statistics> {
        self.process.wait(limit)?;
        Ok(self.statistics())
    }
}

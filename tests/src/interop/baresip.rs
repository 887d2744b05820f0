//! The softphone baresip.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, ensure};

use super::cluster::Cluster;
use super::process::{Process, signal, wait_for};

/// How long anything may take, on a machine that is busy with other tests.
const LIMIT: Duration = Duration::from_secs(60);

/// A softphone that says one tone, and plays what it hears to nobody.
#[derive(Debug)]
pub struct Baresip {
    process: Process,
    log: PathBuf,
}

impl Baresip {
    /// One that answers, or calls and waits.
    pub fn start(cluster: &Cluster, name: &str, at: SocketAddr, calls: Option<&str>) -> anyhow::Result<Self> {
        let files = cluster.files().join(name);
        std::fs::create_dir_all(&files)?;
        let config = format!(
            "poll_method epoll\nsip_listen {at}\ncall_max_calls 4\n\
             audio_source ausine,440\nausrc_srate 48000\nausrc_channels 2\naudio_player aubridge,nowhere\naudio_alert aubridge,nowhere\n\
             module_path /usr/lib/baresip/modules\nmodule g711.so\nmodule ausine.so\nmodule aubridge.so\n\
             module_app account.so\nmodule_app menu.so\n"
        );
        std::fs::write(files.join("config"), config)?;
        std::fs::write(
            files.join("accounts"),
            format!("<sip:{name}@{at}>;regint=0;answermode=auto\n"),
        )?;
        std::fs::write(files.join("contacts"), "")?;
        let mut command = Command::new("baresip");
        command.arg("-f").arg(&files);
        calls
            .iter()
            .for_each(|whom| _ = command.args(["-e", &format!("d {whom}")]));
        let log = cluster.files().join(format!("{name}.log"));
        let process =
            Process::start(&mut command, &log).context("baresip (Debian: baresip-core) is needed for this test")?;
        Ok(Self { process, log })
    }

    /// Waits until these words stand in its log.
    pub fn says(&self, words: &str) -> anyhow::Result<()> {
        let said = || std::fs::read(&self.log).is_ok_and(|log| String::from_utf8_lossy(&log).contains(words));
        let found = wait_for(words, LIMIT, || said().then_some(()));
        found.with_context(|| self.process.log_tail())
    }

    /// Tells it to end, which it does once it has hung up.
    pub fn end(&mut self) -> anyhow::Result<()> {
        signal(self.process.pid(), libc::SIGINT)?;
        let ended = self.process.wait(LIMIT)?;
        ensure!(ended.success(), "{ended}: {}", self.process.log_tail());
        Ok(())
    }
}

//! What the CPU time of processes goes to, by perf(1) if it is installed.

use std::path::Path;
use std::process::{Command, Stdio};

use super::machine::version;
use crate::interop::process::signal;

/// Below this share a symbol is left out.
const LEAST: &str = "2";

/// Runs `work` while `pids` are sampled; the costliest symbols, or nothing without perf.
pub fn during<T>(pids: &[u32], files: &Path, work: impl FnOnce() -> T) -> (T, Vec<String>) {
    let data = files.join("perf.data");
    let list: Vec<String> = pids.iter().map(u32::to_string).collect();
    let recording = version("perf", "--version").and_then(|_| {
        let mut command = Command::new("perf");
        command
            .args(["record", "-F", "1999", "-p", &list.join(","), "-o"])
            .arg(&data);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().ok()
    });
    let done = work();
    let Some(mut recording) = recording else {
        return (done, Vec::new());
    };
    // The signal ends the recording in order; had perf refused to start, it has ended already.
    let _ = signal(recording.id(), libc::SIGINT);
    let _ = recording.wait();
    (done, symbols(&data))
}

fn symbols(data: &Path) -> Vec<String> {
    let mut command = Command::new("perf");
    command.args([
        "report",
        "--stdio",
        "--no-children",
        "--sort",
        "symbol",
        "-g",
        "none",
        "--percent-limit",
        LEAST,
        "-i",
    ]);
    let Ok(output) = command.arg(data).output() else {
        return Vec::new();
    };
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    let lines = text.lines().filter(|line| !line.starts_with('#') && line.contains('%'));
    lines
        .map(|line| {
            line.split_whitespace()
                .filter(|word| *word != "-")
                .collect::<Vec<_>>()
                .join(" ")
        })
        .take(16)
        .collect()
}

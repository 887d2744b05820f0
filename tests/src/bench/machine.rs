//! The machine: what it is, which CPU runs what, and what a process has used.

use std::process::Command;
use std::time::Duration;

use crate::interop::process::cpu_time;

/// The CPU of what is measured.
pub const MEASURED: usize = 1;
/// The CPU of the load and of all else.
pub const LOAD: usize = 0;

/// One line: CPU, cores, memory, kernel.
#[must_use]
pub fn description() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        line.and_then(|line| Some(line.split_once(':')?.1.trim().to_owned()))
            .unwrap_or_default()
    };
    let cpu = field(&read("/proc/cpuinfo"), "model name");
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let memory: u64 = memory.trim_end_matches(" kB").parse().unwrap_or(0);
    let kernel = read("/proc/sys/kernel/osrelease");
    // What follows is this build's, and tells a reader nothing.
    let kernel: Vec<_> = kernel.trim().split('.').take(2).collect();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let hypervisor = if read("/proc/cpuinfo").contains("hypervisor") {
        " (virtual machine)"
    } else {
        ""
    };
    format!(
        "{cpu}{hypervisor}, {cores} CPUs, {} GiB, Linux {}",
        memory >> 20,
        kernel.join(".")
    )
}

/// First line of `program --version`, or of whatever argument asks for it.
#[must_use]
pub fn version(program: &str, argument: &str) -> Option<String> {
    let output = Command::new(program).arg(argument).output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    text.lines()
        .find(|line| !line.trim().is_empty())
        .map(|line| line.trim().to_owned())
}

/// A process and all that descend from it.
#[must_use]
pub fn family(pid: u32) -> Vec<u32> {
    let mut all = vec![pid];
    let mut at = 0;
    while at < all.len() {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", all[at]))
            .into_iter()
            .flatten()
            .flatten();
        for task in tasks {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            all.extend(
                children
                    .split_whitespace()
                    .filter_map(|child| child.parse::<u32>().ok()),
            );
        }
        at += 1;
    }
    all
}

/// CPU time of several processes.
#[must_use]
pub fn cpu_of(pids: &[u32]) -> Duration {
    pids.iter().map(|pid| cpu_time(*pid)).sum()
}

/// Pins all threads of the processes to one CPU.
pub fn pin(pids: &[u32], cpu: usize) {
    for pid in pids {
        for task in std::fs::read_dir(format!("/proc/{pid}/task"))
            .into_iter()
            .flatten()
            .flatten()
        {
            if let Some(thread) = task.file_name().to_str().and_then(|name| name.parse().ok()) {
                pin_thread(thread, cpu);
            }
        }
    }
}

/// Pins the calling thread, and those it starts from now on.
pub fn pin_self(cpu: usize) {
    pin_thread(0, cpu);
}

fn pin_thread(thread: libc::pid_t, cpu: usize) {
    // SAFETY: a cpu_set_t is plain bits; sched_setaffinity reads it during the call only. On a machine without that CPU it refuses, and the
    // thread goes on unpinned.
    unsafe {
        let mut set: libc::cpu_set_t = std::mem::zeroed();
        libc::CPU_SET(cpu, &mut set);
        libc::sched_setaffinity(thread, size_of::<libc::cpu_set_t>(), &raw const set);
    }
}

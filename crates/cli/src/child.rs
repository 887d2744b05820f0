//! Processes that live no longer than the supervisor.

use std::fs::OpenOptions;
use std::io;
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};

/// Starts `command` with its output appended to `log`. Must be called on the supervisor's main thread: the kernel ends the child when the
/// *thread* that started it ends.
pub fn start(command: &mut Command, log: &Path) -> io::Result<Child> {
    let out = OpenOptions::new().create(true).append(true).open(log)?;
    command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
    // A group of its own, or Ctrl-C would reach the child before the supervisor has stopped things in order.
    command.process_group(0);
    let supervisor = std::process::id();
    // SAFETY: between fork and exec only system calls are made that are safe there (prctl, getppid).
    unsafe {
        command.pre_exec(move || {
            if libc::prctl(libc::PR_SET_PDEATHSIG, libc::SIGKILL) != 0 {
                return Err(io::Error::last_os_error());
            }
            // The supervisor may have died before the kernel was told.
            if libc::getppid().cast_unsigned() != supervisor {
                return Err(io::Error::other("the supervisor has ended"));
            }
            Ok(())
        });
    }
    command.spawn()
}

/// Sends a signal; a process that has ended already is as it should be.
pub fn signal(pid: u32, signal: i32) {
    if let Ok(pid) = i32::try_from(pid)
        && pid > 1
    {
        // SAFETY: kill(2) takes no pointers.
        unsafe { libc::kill(pid, signal) };
    }
}

/// How a process ended, for people.
pub fn ending(status: ExitStatus) -> String {
    use std::os::unix::process::ExitStatusExt;
    match (status.code(), status.signal()) {
        (Some(code), _) => format!("ended with status {code}"),
        (None, Some(signal)) => format!("was killed by signal {signal}"),
        (None, None) => "ended".into(),
    }
}

/// The last lines of a log, indented.
pub fn log_tail(log: &Path) -> String {
    let text = String::from_utf8_lossy(&std::fs::read(log).unwrap_or_default()).into_owned();
    let lines: Vec<_> = text.lines().collect();
    let last = &lines[lines.len().saturating_sub(5)..];
    last.iter().map(|line| format!("\n    {line}")).collect()
}

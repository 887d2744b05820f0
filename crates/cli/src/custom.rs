//! An application of the user's own: where its executable is, and whether that takes its options.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use crds::Custom;

use crate::failure::{Failure, USAGE};

/// How long the executable may take to read its options.
const PATIENCE: Duration = Duration::from_secs(10);

/// Finds the executable that the manifest `file` names, and asks it whether it takes its options, before anything is started.
pub fn prepare(custom: &mut Custom, file: &Path) -> Result<(), Failure> {
    let directory = file.parent().unwrap_or(Path::new(""));
    let named = custom.command.clone();
    let wrong = |problem: String| {
        Failure::usage(format!(
            "{}: spec.application.custom.command: {:?}: {problem}",
            file.display(),
            named.display().to_string()
        ))
    };
    let path = directory.join(&custom.command);
    let path = path.canonicalize().map_err(|error| {
        wrong(format!(
            "{error}; build it, and write its path from the manifest's directory"
        ))
    })?;
    let is_executable = path
        .metadata()
        .is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0);
    if !is_executable {
        return Err(wrong("it is not an executable file; write the path of one".into()));
    }
    custom.command = path;
    let application = serde_json::json!({ "custom": custom }).to_string();
    let (code, said) = ask(&custom.command, &application).map_err(wrong)?;
    match code {
        Some(0) => Ok(()),
        Some(code) if code == i32::from(USAGE) => {
            let options = serde_json::to_string(&custom.options).expect("options are JSON");
            Err(Failure::usage(format!(
                "{}: spec.application.custom.options: {options}: {}",
                file.display(),
                said.trim()
            )))
        }
        _ => Err(wrong(format!(
            "it does not take --check-application; let its main call container::run: {}",
            said.trim()
        ))),
    }
}

/// The exit code of `COMMAND --check-application APPLICATION`, and what it says.
fn ask(command: &Path, application: &str) -> Result<(Option<i32>, String), String> {
    let mut child = Command::new(command)
        .args(["--check-application", application])
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it does not start: {error}"))?;
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                return Err("it does not answer --check-application; let its main call container::run".into());
            }
        }
    };
    let mut said = Vec::new();
    if let Some(stderr) = child.stderr.take() {
        // What fits into a pipe is all that it can have said by now.
        let _ = stderr.take(4096).read_to_end(&mut said);
    }
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}

//! An application of the user's own: where its executable is, and whether that takes its options.

use std::io::Read;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{ChildStderr, Command, Stdio};
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use crds::Custom;

use crate::failure::{Failure, USAGE};

/// How long the executable may take to read its options.
const PATIENCE: Duration = Duration::from_secs(10);

/// How long its last words are waited for once it has ended.
const LAST_WORDS: Duration = Duration::from_millis(500);

/// How much of what it says is repeated, in bytes.
const MAX_WORDS: usize = 4096;

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
    let mut command = Command::new(&custom.command);
    let (code, said) = ask(command.args(["--check-application", &application])).map_err(wrong)?;
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

/// The exit code of a container that is only to check something, and what it says.
pub fn ask(command: &mut Command) -> Result<(Option<i32>, String), String> {
    let mut child = command
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| format!("it does not start: {error}"))?;
    let words = listen(child.stderr.take().expect("it is piped"));
    let deadline = Instant::now() + PATIENCE;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(5)),
            _ => {
                let _ = child.kill();
                let _ = child.wait();
                let asked = command.get_args().next().unwrap_or_default().to_string_lossy();
                return Err(format!("it does not answer {asked}; let its main call container::run"));
            }
        }
    };
    // A program that it has started may hold the pipe open: what was said until then is enough.
    let until = Instant::now() + LAST_WORDS;
    let mut said = Vec::new();
    while let Ok(words) = words.recv_timeout(until.saturating_duration_since(Instant::now())) {
        said.extend(words);
    }
    said.truncate(MAX_WORDS);
    Ok((status.code(), String::from_utf8_lossy(&said).into_owned()))
}

/// Reads what the executable says while it runs, or it would stop once the pipe is full; gives its first words.
fn listen(mut stderr: ChildStderr) -> Receiver<Vec<u8>> {
    let (tell, words) = std::sync::mpsc::channel();
    std::thread::spawn(move || {
        let mut heard = 0;
        let mut chunk = [0; MAX_WORDS];
        while let Ok(count @ 1..) = stderr.read(&mut chunk) {
            if heard < MAX_WORDS {
                // Whoever does not wait any more needs no words.
                let _ = tell.send(chunk[..count].to_vec());
            }
            heard = heard.saturating_add(count);
        }
    });
    words
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(name: &str, text: &str) -> Custom {
        let path = std::env::temp_dir().join(format!("{name}-{}", std::process::id()));
        // Written by another process: what another test starts meanwhile would inherit our descriptor, and a file that is open for writing does
        // not start (ETXTBSY).
        let write = "printf '#!/bin/sh\\n%s\\n' \"$2\" > \"$1\" && chmod 700 \"$1\"";
        let mut writer = Command::new("/bin/sh");
        let written = writer.args(["-c", write, "sh"]).arg(&path).arg(text).status().unwrap();
        assert!(written.success(), "{written}");
        Custom {
            command: path,
            options: serde_json::Map::new(),
        }
    }

    fn said(name: &str, text: &str) -> String {
        let mut custom = script(name, text);
        let started = Instant::now();
        let failure = prepare(&mut custom, Path::new("/manifest.yaml")).unwrap_err();
        assert!(started.elapsed() < PATIENCE, "it is not waited for in vain");
        std::fs::remove_file(&custom.command).unwrap();
        failure.message
    }

    #[test]
    fn an_application_that_says_much_is_heard_out_and_its_first_words_are_repeated() {
        let text = "echo no such option >&2; head -c 1000000 /dev/zero | tr '\\0' x >&2; exit 64";
        let failure = said("custom-loud", text);
        assert!(
            failure.contains("options") && failure.contains("no such option\nxxx"),
            "{failure}"
        );
        assert!(failure.len() < 5000, "{}", failure.len());
    }

    #[test]
    fn an_application_is_not_waited_for_because_of_one_that_it_has_started() {
        let failure = said("custom-daemon", "sleep 12 & echo such a thing is unknown >&2; exit 64");
        assert!(failure.contains("such a thing is unknown"), "{failure}");
    }
}

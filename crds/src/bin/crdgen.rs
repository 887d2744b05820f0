//! Writes what is generated from the types; with `--check` says whether it is up to date.

use std::path::Path;
use std::process::ExitCode;

fn main() -> ExitCode {
    let check = std::env::args().nth(1).as_deref() == Some("--check");
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut stale = false;
    for (file, text) in crds::generated() {
        let file = root.join("..").join(file);
        if std::fs::read_to_string(&file).is_ok_and(|present| present == text) {
            continue;
        }
        if check {
            eprintln!("{} is not what the types say: run `make generate`", file.display());
            stale = true;
        } else if let Err(error) = std::fs::write(&file, text) {
            eprintln!("{}: {error}", file.display());
            stale = true;
        }
    }
    if stale { ExitCode::FAILURE } else { ExitCode::SUCCESS }
}

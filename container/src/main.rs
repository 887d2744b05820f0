//! The container process with the applications that are built in.

use std::process::ExitCode;

fn main() -> ExitCode {
    container::run_built_in()
}

//! The container process with the applications that are built in.

use std::process::ExitCode;

#[global_allocator]
static ALLOCATOR: container::Allocator = container::Allocator;

fn main() -> ExitCode {
    container::run_built_in()
}

//! The fault matrix: see `tests::interop::matrix`. A test without cargo's harness, because a table is what it has to show.
//!
//! `cargo test -p tests --test interop_matrix -- frozen` runs the cells whose title has the word.

fn main() -> std::process::ExitCode {
    tests::interop::matrix::main()
}

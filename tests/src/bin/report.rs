//! `make report`: the fault matrix in full, into `docs/faults.md`. See `tests::interop::matrix`.

fn main() -> anyhow::Result<std::process::ExitCode> {
    tests::interop::matrix::report()
}

//! `make e2e`: the scenarios on a real Kubernetes; `--play` leaves one up. See `tests::e2e`.

fn main() -> std::process::ExitCode {
    if std::env::args().nth(1).as_deref() == Some("--play") {
        return match tests::e2e::play() {
            Ok(()) => std::process::ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error:?}");
                std::process::ExitCode::FAILURE
            }
        };
    }
    tests::e2e::main()
}

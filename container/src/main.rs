//! The container process: reads its configuration, starts the workers and the member, waits, hands over.

mod process;

use std::process::ExitCode;

use tokio::runtime::{Builder, LocalOptions};

use process::config::Config;

fn main() -> ExitCode {
    let config = Config::from_process();
    admin::logging::init(config.log_format);
    let runtime = match Builder::new_current_thread()
        .enable_all()
        .build_local(LocalOptions::default())
    {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!(%error, "cannot start");
            return ExitCode::FAILURE;
        }
    };
    match runtime.block_on(process::run(config)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            tracing::error!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

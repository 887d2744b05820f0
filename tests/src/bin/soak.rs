//! `make soak`: calls with a fault every ten seconds for SOAK_SECONDS. See `tests::interop::soak`.

use std::time::Duration;

fn main() -> anyhow::Result<()> {
    let seconds = std::env::var("SOAK_SECONDS").ok().and_then(|text| text.parse().ok());
    tests::interop::soak::run(Duration::from_secs(seconds.unwrap_or(600)))
}

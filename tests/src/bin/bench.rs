//! `make bench`: measures everything and writes `docs/bench.md`. See `tests::bench`.

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    tests::bench::main(&arguments)
}

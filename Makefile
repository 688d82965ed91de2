# Every job of this project; CI calls only these. `make help` lists them.
SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test check bench prove golden clean

# The newest Python that everything the demo installs has wheels for.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
BIN := .venv/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check install --quiet --constraint constraints.txt

help: ## list the targets
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

.venv/python:
	@"$(PYTHON)" -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "error: deploykit needs Python 3.11 or newer, '$(PYTHON)' is older; run: make PYTHON=/path/to/python3.11" >&2; exit 2; }
	@"$(PYTHON)" -m venv .venv \
		|| { echo "error: this Python can't make virtual environments; on Debian and Ubuntu run: apt install python3-venv" >&2; exit 2; }
	@touch $@

.venv/user: .venv/python pyproject.toml constraints.txt
	@echo "Installing into .venv (torch's CPU build, ONNX Runtime, Triton) …"
	@$(PIP) --editable '.[cpu,deploy,engine,export,train,local]'
	@touch $@

.venv/dev: .venv/user
	@$(PIP) --editable '.[dev]'
	@touch $@

demo: .venv/user ## train a small model, export it, and stream from a real Triton (about 4 minutes)
	@exec $(BIN)/python examples/demo.py

# Threads that wait without spinning: PyTorch, ONNX Runtime and Triton share the cores here, and spinning costs them tenfold.
test: .venv/dev ## run the test suite
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest

check: .venv/dev ## format, lint, types, import contracts
	@$(BIN)/ruff format --check .
	@$(BIN)/ruff check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-cache

bench: .venv/dev ## measure us beside the peers (in environments of their own); results in benchmarks/results
	@$(BIN)/python benchmarks/export.py
	@$(BIN)/python benchmarks/builder.py
	@$(BIN)/python benchmarks/serving.py
	@$(BIN)/python benchmarks/gateway.py
	@$(BIN)/python benchmarks/training.py

prove: .venv/dev ## the slow proofs; results in benchmarks/results
	@OMP_WAIT_POLICY=passive $(BIN)/python -m pytest -m slow
	@$(BIN)/python benchmarks/numpy2.py
	@$(BIN)/python benchmarks/client_only.py
	@$(BIN)/python benchmarks/memory.py
	@$(BIN)/python benchmarks/training_memory.py
	@$(BIN)/python benchmarks/quality.py
	@$(BIN)/python benchmarks/large.py
	@$(BIN)/python benchmarks/runtimes.py
	@$(BIN)/python benchmarks/pod_life.py
	@$(BIN)/python benchmarks/sweep.py
	@$(BIN)/python benchmarks/manifests.py
	@$(BIN)/python benchmarks/linter.py

golden: .venv/dev ## write model_repository/ and k8s/ again
	@$(BIN)/python examples/golden.py

clean: ## remove what these targets made
	rm -rf .venv demo .pytest_cache .mypy_cache .ruff_cache .hypothesis build *.egg-info benchmarks/.envs

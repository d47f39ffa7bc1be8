# make demo   the whole experiment in miniature (installs first if needed)
# make help   everything else
#
# PYTHON is the interpreter from which the environment is made; VENV is where it is, or an existing one to use.

PYTHON ?= python3
VENV ?= .venv

BIN := $(VENV)/bin
STAMP := $(VENV)/.ogpsa-installed
PIP := $(BIN)/python -m pip --disable-pip-version-check

# On more than one GPU, llamafactory-cli calls `torchrun` by its bare name.
export PATH := $(abspath $(BIN)):$(PATH)

.DEFAULT_GOAL := help
.PHONY: help install demo test test-fast lint clean

help: ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-10s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: $(STAMP) ## make the environment in $(VENV) (once; again when pyproject.toml or setup.py change)

$(BIN)/python:
	@$(PYTHON) -c 'import sys; v = sys.version_info; \
	sys.exit(None if (3, 11) <= v < (3, 14) else "Python 3.11, 3.12 or 3.13 is needed, and $(PYTHON) is %d.%d. " \
	"Run `make $(MAKECMDGOALS) PYTHON=python3.11`." % v[:2])'
	$(PYTHON) -m venv $(VENV)

# Three steps, as DeepSpeed's set-up imports torch and builds its wheel with what is in the environment.
# Its operators are compiled on first use, so that a machine without CUDA can install it too.
$(STAMP): pyproject.toml setup.py | $(BIN)/python
	$(PIP) install --quiet setuptools wheel
	$(PIP) install --quiet -e '.[dev,evaluate]'
	DS_BUILD_OPS=0 $(PIP) install --quiet --no-build-isolation -e '.[dev,deepspeed,evaluate]'
	@touch $@

# One thread and no GPU: a model this small is fastest so. Between kinds of CPU, figures differ by a few tenths.
demo: export OMP_NUM_THREADS = 1
demo: export CUDA_VISIBLE_DEVICES =
demo: install ## world, SFT and DPO naively and by OGPSA, evaluation, a slice of the lab; tables and figures
	$(BIN)/ogpsa lab build
	$(BIN)/ogpsa pipeline examples/yaml/mini/naive_pipeline.yaml --restart
	$(BIN)/ogpsa pipeline examples/yaml/mini/pipeline.yaml --restart
	$(BIN)/ogpsa lab evaluate
	$(BIN)/ogpsa lab compare
	$(BIN)/ogpsa lab run examples/yaml/mini/grid.yaml --output saves/lab_demo
	$(BIN)/ogpsa report saves/lab_demo

# Two at a time, a file's tests together: they share what takes long to set up. In the order of tests/conftest.py, which
# begins with the files that take longest. One thread each, as models are small.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: install ## the whole test suite
	$(PYTEST)

test-fast: install ## the tests that take seconds
	$(PYTEST) -m 'not slow'

lint: install ## ruff and mypy
	$(BIN)/python -m ruff check .
	$(BIN)/python -m ruff format --check .
	$(BIN)/python -m mypy

clean: ## remove what builds and tests leave behind (not the environment, not the results)
	rm -rf build dist src/*.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

# The verbs people type. Each makes the environment in .venv first, if there is none.
PYTHON ?= python3
VENV ?= .venv
LOWEST ?= .venv-lowest
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2
ARGS ?=

.PHONY: help chromium demo test test-all test-shapes test-scale test-package test-lowest lint check docs clean

help:
	@echo "make demo          the main job on rendered data, 10 to 16 minutes on two cores: demo/report.html"
	@echo "make test          the fast test suite; ARGS=--cov adds what it covers"
	@echo "make chromium      the browser that the tests of the page drive, where apt-get can install it"
	@echo "make test-all      the slow tests too"
	@echo "make test-shapes   the fast suite with the shapes in signatures checked at every call"
	@echo "make test-scale    prediction and depth maps on a local Ray of two workers; installs Ray (0.6 GB)"
	@echo "make test-package  sdist -> wheel -> a fresh environment, and what a user gets there"
	@echo "make test-lowest   the fast suite with the lowest versions that pyproject.toml allows (8 GB in .venv-lowest)"
	@echo "make lint          ruff, mypy, import contracts"
	@echo "make check         lint and test"
	@echo "make docs          the documentation as a site: site/index.html"
	@echo "make clean         remove the environments and caches"

$(READY): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "monoskd needs Python 3.11 or newer, this is " + sys.version.split()[0])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(BIN)/python -m pip install --quiet --editable '.[serve]' --group dev
	@touch $@

# The tests of the page need Chromium. Where it can be installed it is; where not, they skip and say so.
chromium:
	@command -v chromium >/dev/null || command -v google-chrome >/dev/null || .ci/chromium || true

demo: $(READY)
	$(BIN)/monoskd demo --out demo

test: $(READY) chromium
	$(PYTEST) -m "not slow" $(ARGS)

test-all: $(READY) chromium
	$(PYTEST) $(ARGS)

test-shapes: $(READY)
	PYTHONPATH=.ci $(PYTEST) -m "not slow and not wrong_shapes" --jaxtyping-packages=monoskd,shapes.check $(ARGS)

test-scale: $(READY)
	$(BIN)/python -m pip install --quiet --editable '.[scale]'
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest tests/scale $(ARGS)

test-package: $(READY)
	$(BIN)/python .ci/test_package.py

test-lowest:
	$(PYTHON) -m venv $(LOWEST)
	$(PYTHON) .ci/lowest.py > $(LOWEST)/constraints.txt
	$(LOWEST)/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(LOWEST)/bin/python -m pip install --quiet --constraint $(LOWEST)/constraints.txt --editable '.[serve]' --group test
	OMP_NUM_THREADS=1 $(LOWEST)/bin/python -m pytest -n 2 -m "not slow" $(ARGS)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

check: lint test

docs: $(READY)
	$(BIN)/python -m pip install --quiet --group docs
	$(BIN)/mkdocs build --strict

clean:
	rm -rf $(VENV) $(LOWEST) site .pytest_cache .ruff_cache .mypy_cache .hypothesis .import_linter_cache .coverage*

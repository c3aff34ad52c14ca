# Everything a newcomer needs: make demo, make test. Set-up goes into .venv, through constraints.txt.
# Any Python from 3.11 on will do: the first that is there of these, or the one that `make setup PYTHON=...` names.
FIT := import sys, ensurepip, venv; sys.exit(sys.version_info < (3, 11))
PYTHONS := python3.11 python3.12 python3.13 python3.14 python3
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
# Distributions that bring bundles under another licence; a bundle put into one is found without a further set-up.
MODELS := $(wildcard models/*/pyproject.toml)
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml $(MODELS) constraints.txt requirements-scoring.txt | cksum | cut -d' ' -f1)
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc)
# One thread a worker: more threads than cores collapse.
# What takes more than 5 s is told at the end: it may want the mark `slow`.
PYTEST := OMP_NUM_THREADS=1 $(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal --durations=20 --durations-min=5
COVERED := --cov --cov-report=term --cov-fail-under=90

.PHONY: setup demo test test-all test-slow check benchmark-quick clean help

help:
	@echo "make demo       the whole way on synthetic images, into demo/ (3 to 6 minutes on 2 cores)"
	@echo "make test       ruff, mypy, and all tests but the slow ones, with coverage (about 8 minutes on 2 cores)"
	@echo "make test-slow  the slow tests: kills by the hundred, long loads (PESI_SLOW_ROUNDS=5: with fewer rounds)"
	@echo "make test-all   both at once"
	@echo "make check      ruff and mypy"
	@echo "make setup      install into .venv (PYTHON=python3.12: with this one)"
	@echo "make benchmark-quick   every benchmark script on a small synthetic set (about 2 minutes on 1 core)"
	@echo "make clean      remove what these make"

setup: $(STAMP)

# A name that is found is not yet a Python that runs: pyenv has names for versions that are not chosen.
$(STAMP):
	@if $(VENV)/bin/python -c '$(FIT)' 2>/dev/null; then exit 0; fi; \
	for python in $(or $(PYTHON),$(PYTHONS)); do \
	  if $$python -c '$(FIT)' 2>/dev/null; then \
	    echo "make: .venv is of $$python, $$($$python --version)"; $$python -m venv --clear $(VENV); exit; \
	  fi; \
	done; \
	echo "make: no Python from 3.11 on with its venv module was found; tried: $(or $(PYTHON),$(PYTHONS))." >&2; \
	echo "make: install one (Debian, Ubuntu: apt install python3 python3-venv), or name one: make setup PYTHON=/path/to/python3" >&2; \
	exit 1
	$(VENV)/bin/python -m venv .venv-scoring
	$(PIP) install --constraint constraints.txt --editable ".[dev]" $(MODELS:%/pyproject.toml=--editable %)
	.venv-scoring/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements-scoring.txt
	rm -f $(VENV)/.installed-*
	touch $@

demo: setup
	@if [ -e demo ]; then echo "make: demo/ is there already: remove it, or run $(VENV)/bin/pesi demo OTHER"; exit 1; fi
	$(VENV)/bin/pesi demo demo

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

test: check
	rm -f .coverage .coverage.*
	$(PYTEST) -m "not slow" $(COVERED)

test-slow: setup
	$(PYTEST) -m slow

test-all: check
	rm -f .coverage .coverage.*
	$(PYTEST) $(COVERED)

benchmark-quick: setup
	$(VENV)/bin/python benchmarks/quick.py

clean:
	rm -rf $(VENV) .venv-scoring demo .coverage .coverage.* .hypothesis .pytest_cache .mypy_cache .ruff_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

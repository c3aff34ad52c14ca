# Everything a newcomer needs: make demo, make test. Set-up goes into .venv, through constraints.txt.
PYTHON ?= python3.11
VENV := .venv
PIP := $(VENV)/bin/python -m pip --disable-pip-version-check --quiet
STAMP := $(VENV)/.installed-$(shell cat pyproject.toml constraints.txt requirements-scoring.txt | cksum | cut -d' ' -f1)
JOBS ?= $(shell env -u OMP_NUM_THREADS nproc)

.PHONY: setup demo test check lint benchmark-quick clean help

help:
	@echo "make demo    the whole way on synthetic images, into demo/ (3 to 6 minutes on 2 cores)"
	@echo "make test    all tests, with coverage (about 8 minutes on 2 cores)"
	@echo "make check   ruff and mypy"
	@echo "make setup   install into .venv"
	@echo "make benchmark-quick   every benchmark script on a small synthetic set (about 2 minutes on 1 core)"

setup: $(STAMP)

$(STAMP):
	$(PYTHON) -m venv $(VENV)
	$(PIP) install --constraint constraints.txt --editable ".[dev]"
	$(PYTHON) -m venv .venv-scoring
	.venv-scoring/bin/python -m pip --disable-pip-version-check --quiet install --requirement requirements-scoring.txt
	rm -f $(VENV)/.installed-*
	touch $@

demo: setup
	@if [ -e demo ]; then echo "make: demo/ is there already: remove it, or run $(VENV)/bin/pesi demo OTHER"; exit 1; fi
	$(VENV)/bin/pesi demo demo

# One thread a worker: more threads than cores collapse.
test: export OMP_NUM_THREADS := 1
test: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	rm -f .coverage .coverage.*
	$(VENV)/bin/python -m pytest --numprocesses $(JOBS) --dist worksteal --cov --cov-report=term --cov-fail-under=90

check: setup
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

benchmark-quick: setup
	$(VENV)/bin/python benchmarks/quick.py

clean:
	rm -rf $(VENV) .venv-scoring demo .coverage .coverage.* .pytest_cache .mypy_cache .ruff_cache

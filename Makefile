# `make demo` and `make test` are all a fresh machine needs: they make .venv and install into it.
PYTHON ?= python3
BIN := .venv/bin
.PHONY: demo test test-data test-slow check clean

demo: .venv/.installed
	$(BIN)/python tools/train_net.py --config quickstart.yaml

test: .venv/.dev
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow and not gpu and not data" -n 2

# real images and weights: RESDET_SHARED names the folder that holds data/ and weights/
test-data: .venv/.dev
	$(BIN)/python -m pytest -m "data and not slow and not gpu"

test-slow: .venv/.dev
	$(BIN)/python -m pytest -m "slow and not gpu"

check: .venv/.dev
	$(BIN)/ruff check .
	$(BIN)/mypy

.venv/bin/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "error: ResDet wants Python 3.11 or newer, $(PYTHON) is older; try: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"

.venv/.installed: pyproject.toml | .venv/bin/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/.dev: pyproject.toml | .venv/.installed
	$(BIN)/python -m pip install --quiet --editable . --group dev
	@touch $@

clean:
	rm -rf .venv build dist *.egg-info

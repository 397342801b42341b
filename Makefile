# Everything a checkout needs. The first target that runs makes .venv and installs nasir with its tools into it.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-fast lint format bench clean

demo: $(READY)
	$(BIN)/nasir run specs/quickstart.yaml

test: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal

test-fast: $(READY)
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal -m "not slow"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy nasir

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.ir
	$(BIN)/python -m benchmarks.rewrite
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.lowering
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.search_load

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "nasir needs Python 3.11 or later; none was found (set PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Everything a checkout needs. The first target that runs makes .venv and installs nasir with its tools into it.
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# one release of torch instead of the newest that pip finds, as `torch==2.12.1`; pip picks the torchvision made for it
TORCH :=
SUITE = OMP_NUM_THREADS=1 $(BIN)/python -m pytest -q -n 2 --dist worksteal
VERSIONS = $(BIN)/python -c 'from importlib.metadata import version; import sys; \
	print("Python", sys.version.split()[0], *(f"{name} {version(name)}" for name in ("torch", "torchvision")))'
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && echo $$p && break; done)

.PHONY: demo test test-zoo test-fast test-torch lint format docs bench clean

demo: $(READY)
	$(BIN)/nasir run specs/quickstart.yaml

test: $(READY)
	@$(VERSIONS)
	$(SUITE) -m "not zoo"

# the many networks and optimizers of other libraries
test-zoo: $(READY)
	@$(VERSIONS)
	$(SUITE) -m zoo

test-fast: $(READY)
	@$(VERSIONS)
	$(SUITE) -m "not slow"

# the whole suite with one release of torch, in an environment of its own: make test-torch VERSION=2.12.1
test-torch:
	@test -n "$(VERSION)" || { echo "say which release: make test-torch VERSION=2.12.1"; exit 2; }
	$(MAKE) test test-zoo VENV=.venv-torch-$(VERSION) TORCH="torch==$(VERSION)"

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy nasir

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# what of the documentation is written by the code itself: the tables of docs/architecture.md, runs.md and models.md
docs: $(READY)
	$(BIN)/python tests/architecture.py
	$(BIN)/python tests/journal_table.py
	$(BIN)/python tests/models_table.py

bench: $(READY)
	$(BIN)/python -m benchmarks.ir
	$(BIN)/python -m benchmarks.history
	$(BIN)/python -m benchmarks.rewrite
	$(BIN)/python -m benchmarks.memory
	$(BIN)/python -m benchmarks.lowering
	$(BIN)/python -m benchmarks.analysis
	$(BIN)/python -m benchmarks.record
	$(BIN)/python -m benchmarks.data
	$(BIN)/python -m benchmarks.cost
	$(BIN)/python -m benchmarks.search_load
	$(BIN)/python -m benchmarks.step_overhead
	$(BIN)/python -m benchmarks.guards
	$(BIN)/python -m benchmarks.imports

$(READY): pyproject.toml
	@test -n "$(PYTHON)" || { echo "nasir needs Python 3.11 or later; none was found (set PYTHON=...)"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade pip
	$(BIN)/python -m pip install --quiet --disable-pip-version-check $(TORCH) --editable ".[dev]"
	@touch $@

clean:
	rm -rf $(VENV) .venv-torch-* build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .hypothesis

# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Test processes; each takes one thread.
WORKERS ?= 2

.PHONY: demo test test-all lint types floors docs wheel lowest bench clean

# One environment for everything; made anew when the project's metadata changes.
$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,testing,docs,dev]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/foreseer compare --out compare

test: $(VENV)/.ready
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Every law over every tiny model, of which `make test` tries a sixth.
test-all: $(VENV)/.ready
	FORESEER_ALL=1 $(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

lint: $(VENV)/.ready
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(VENV)/.ready
	$(BIN)/python .ci/types.py

# Each floor imports only what lies below it.
floors: $(VENV)/.ready
	$(BIN)/python .ci/floors.py

docs: $(VENV)/.ready
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --site-dir site

# The wheel, built into dist/ and run in an environment of its own.
wheel: $(VENV)/.ready
	.ci/wheel constraints.txt

# The same with the lowest versions that pyproject.toml claims.
lowest: $(VENV)/.ready
	$(BIN)/python .ci/lowest.py > $(VENV)/lowest.txt
	.ci/wheel $(VENV)/lowest.txt

bench: $(VENV)/.ready
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only --benchmark-columns=median,iqr,rounds

clean:
	rm -rf $(VENV) build dist *.egg-info compare site .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

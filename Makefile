# Two commands do everything on a fresh machine: `make demo` and `make test`.
PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
# Test processes; each takes one thread.
WORKERS ?= 2

# Engine, policies and kit.
QUICK := session plugins parts drafting predictors schedules_of_policies malformed_answers votes_of_the_fallible rows_and_steps rows_alone pauses finite bank bank_on_accelerators metrics options \
	beginning_anew told_of_a_step votes naming registry versions taylor_properties planned timetable planner likeness partly_known_parts places psnr \
	words_of_the_report kit kit_catches_wrong_policies

.PHONY: demo evidence quick mutants test test-all lint types floors docs wheel lowest bench gpu clean

# One environment for everything; made anew when the project's metadata changes.
$(VENV)/.ready: pyproject.toml constraints.txt plugins_example/foreseer-comfyui/pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench,testing,docs,dev]'
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e 'plugins_example/foreseer-comfyui[test]'
	touch $@

demo: $(VENV)/.ready
	$(BIN)/foreseer compare --out compare --restart --policies agreement reuse taylorseer taylorseer:target=last_block \
	  cg_taylor:threshold=0.06 speca speca_released

# After each change: what needs neither diffusers nor another process.
quick: $(VENV)/.ready
	FORESEER_QUICK=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal $(QUICK:%=tests/test_%.py)

# Whether the quick tests notice small faults: `make mutants FILES=core/trial.py`; without FILES hours.
mutants: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt cosmic-ray==8.7.0
	nice $(BIN)/python tests/mutants.py $(FILES)

test: $(VENV)/.ready
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal plugins_example/foreseer-methods/tests
	$(BIN)/python -m pytest -q plugins_example/foreseer-comfyui/tests
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

# Every case of every law; of those that have many `make test` tries some (SHARES in tests/conftest.py).
test-all: $(VENV)/.ready
	FORESEER_ALL=1 $(BIN)/python -m pytest -q -n $(WORKERS) --dist worksteal plugins_example/foreseer-methods/tests
	$(BIN)/python -m pytest -q plugins_example/foreseer-comfyui/tests
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
	FORESEER_SITE=site $(BIN)/python -m pytest -q tests/test_docs_site.py

# The wheel, built into dist/ and run in an environment of its own.
wheel: $(VENV)/.ready
	.ci/wheel constraints.txt

# The same with the lowest versions that pyproject.toml claims.
lowest: $(VENV)/.ready
	$(BIN)/python .ci/lowest.py > $(VENV)/lowest.txt
	.ci/wheel $(VENV)/lowest.txt

# One GPU in under nine minutes, in order of worth: policies in published shapes, other caches, compiled models and CUDA
# graphs, features and weights on the host, the suite's tests. The same command goes on with what is left.
gpu: $(VENV)/.ready
	-$(BIN)/pip install --quiet --disable-pip-version-check --retries 0 --timeout 10 --no-deps -e plugins_example/foreseer-methods
	$(BIN)/python -m foreseer.bench.gpu

# Every number of docs/evidence.md and the pages behind it, and those pages: under three hours on two cores. Stopped,
# it goes on; `docs/_build/make_results.py --list` says how long each part takes.
evidence: $(VENV)/.ready
	$(BIN)/pip install --quiet --disable-pip-version-check --no-deps -e plugins_example/foreseer-methods -e plugins_example/foreseer-hicache
	nice $(BIN)/python docs/_build/make_results.py --jobs $(WORKERS)
	$(BIN)/python docs/_build/evidence.py

bench: $(VENV)/.ready
	$(BIN)/python -m pytest tests/benchmarks --benchmark-enable --benchmark-only --benchmark-columns=median,iqr,rounds

clean:
	rm -rf $(VENV) build dist *.egg-info compare site .mypy_cache .ruff_cache .pytest_cache .hypothesis .benchmarks

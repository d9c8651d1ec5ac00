# On a fresh machine each target sets up .venv by itself; PYTHON picks the interpreter.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-run

.PHONY: demo test coverage check docs wheel clean

demo: .venv/installed
	$(BIN)/forget-callback demo --out $(OUT)

test: .venv/dev
	$(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

coverage: .venv/dev
	$(BIN)/python -m pytest --cov=forget_callback --cov-report=term-missing:skip-covered

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# In a fresh .venv with nothing beside the wheel but what it depends on: what is not declared is not there.
wheel: clean
	$(MAKE) --no-print-directory .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt build
	$(BIN)/python -m build
	$(BIN)/pip install --quiet -c constraints.txt dist/*.whl
	.ci/smoke $(BIN)

clean:
	rm -rf .venv build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache demo-run

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

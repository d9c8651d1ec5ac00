# On a fresh machine each target sets up .venv by itself; PYTHON picks the interpreter. Where it has this clone installed
# already, as README does it, demo uses that.
PYTHON ?= python3
BIN := .venv/bin
OUT ?= demo-run
TORCH ?= torch
# Without browsers, demos, other processes and pages.
FAST := tests/cli tests/metrics tests/probes tests/report tests/runs tests/scoring tests/snapshots tests/tools \
	tests/training tests/integration/test_training.py tests/integration/test_trainers.py

.PHONY: demo test coverage check lowest newest integrations docs wheel clean

demo:
	@if $(PYTHON) .ci/installed_here.py; then $(PYTHON) -m forget_callback demo --out $(OUT); \
	else $(MAKE) --no-print-directory .venv/installed && $(BIN)/forget-callback demo --out $(OUT); fi

# Three on two cores: a third of the time a test waits, for a process, a file or a clock.
test: .venv/dev
	$(BIN)/python -m pytest -n 3 --dist loadfile --no-loadscope-reorder

coverage: .venv/dev
	$(BIN)/python -m pytest --every-turn --cov=forget_callback --cov-report=term-missing:skip-covered

check: .venv/dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy

# The fast part of the suite on the lowest versions that pyproject.toml allows, and on the newest there are, each in an
# environment of its own. TORCH=torch==2.13.0 keeps a certain torch, UV_TORCH_BACKEND=cpu takes one without CUDA. What
# other versions warn of is not ours.
lowest: RESOLUTION := lowest-direct
newest: RESOLUTION := highest
lowest newest: .venv/bin/python
	$(BIN)/pip install --quiet uv
	$(BIN)/uv venv --quiet --clear --python $(PYTHON) .venv-$@
	$(BIN)/uv pip install --quiet --python .venv-$@ --resolution $(RESOLUTION) '$(TORCH)' -e '.[test]'
	$(BIN)/uv pip list --quiet --python .venv-$@ | grep -E '^(torch|transformers|trl|peft|wandb|numpy|pandas) '
	.venv-$@/bin/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder --every-turn -W default $(FAST)

# Other people's trainers, each in an environment of its own on .venv: minutes each, 3.5 GB, of which triton is 2.
integrations: .venv/dev
	.ci/integrations axolotl
	.ci/integrations ms_swift
	.ci/integrations llamafactory
	.ci/integrations unsloth

docs: .venv/dev
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# By name from an index of its own, in a fresh .venv with nothing beside the wheel but what it depends on: what is not
# declared is not there.
wheel: clean
	$(MAKE) --no-print-directory .venv/bin/python
	$(BIN)/pip install --quiet -c constraints.txt build
	$(BIN)/python -m build
	$(BIN)/pip install --quiet -c constraints.txt --extra-index-url "$$($(BIN)/python .ci/index.py dist build/index)" forget-callback
	.ci/smoke $(BIN)

clean:
	rm -rf .venv .venv-* build dist site *.egg-info .mypy_cache .pytest_cache .ruff_cache demo-run

.venv/bin/python:
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --upgrade pip

.venv/installed: .venv/bin/python pyproject.toml constraints.txt
	@echo "installing into .venv what forget_callback needs, torch is the largest of it: a few minutes"
	$(BIN)/pip install --quiet -c constraints.txt -e .
	touch $@

.venv/dev: .venv/bin/python pyproject.toml constraints.txt
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

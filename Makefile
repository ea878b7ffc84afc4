# The front door. Everything is installed into .venv, with the exact versions of requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

PIP_COMPAT := .venv-compat/bin/python -m pip install --quiet --disable-pip-version-check
COMPAT_PYTHON ?= .venv-compat/bin/python

.PHONY: demo fast test check attack compat bench results lint format docs lock clean

demo: .venv/installed            ## a smaller model out of a larger one, from nothing, in minutes
	$(BIN)/inheritune run recipes/demo.yaml

fast: .venv/installed-dev lint   ## lint, and the quick tests of what changed since the last commit
	@files=$$($(BIN)/python tests/changed.py); \
	if [ -z "$$files" ]; then echo "no test file belongs to what changed"; \
	else $(BIN)/python -m pytest -x -m "not long" $$files || [ $$? = 5 ]; fi

test: .venv/installed-dev lint   ## lint, types, import contract, quick tests: about 3 minutes on 2 cores
	$(BIN)/python -m pytest -n 2 --dist worksteal -m "not long"

check: .venv/installed-dev attack ## what takes long: kills, time limits, compiled training, all families
	$(BIN)/python -m pytest -n 2 --dist worksteal -m long

attack: .venv/installed-dev      ## bad inputs and kills at random moments, in two minutes; `python -m tests.attack --help` for more of them
	$(BIN)/python -m tests.attack

compat: .venv/installed-dev $(if $(filter .venv-compat/%,$(COMPAT_PYTHON)),.venv-compat/installed) .node-compat/installed ## a real model that is downloaded; what is written, read by transformers 4 in an environment of its own (COMPAT_PYTHON=PATH: in that one) and by llama.cpp (node-llama-cpp; needs npm)
	INHERITUNE_COMPAT_PYTHON=$(COMPAT_PYTHON) INHERITUNE_COMPAT_NODE=$(CURDIR)/.node-compat $(BIN)/python -m pytest tests/compat

bench: .venv/installed           ## training speed beside the machine's own limit, and what is lost end to end
	$(BIN)/inheritune bench

results: .venv/installed         ## docs/results.md from nothing: text, references, suites for two cores, tables; resumes, takes hours
	$(BIN)/python benchmarks/run_suites.py
	$(BIN)/python benchmarks/results.py runs/*-2-cores runs/miniature-* runs/*-smollm2 --into docs/results.md

lint: .venv/installed-dev        ## ruff, mypy, import-linter
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo

format: .venv/installed-dev      ## ruff's formatting and safe fixes
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

docs: .venv/installed            ## docs/recipe.md and docs/suite.md from the recipe's models, docs/architectures.md from the checks of all families
	$(BIN)/python -m inheritune.cli.description > docs/recipe.md
	$(BIN)/python -m inheritune.cli.description suite > docs/suite.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/families/document.py > docs/architectures.new
	mv docs/architectures.new docs/architectures.md

lock:                            ## requirements.lock anew, from the ranges in pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' -e '.[dev]'
	(echo '# Exact versions, used as pip constraints by the Makefile; written by `make lock`.'; \
	 .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+cpu/\1/') > requirements.lock
	rm -rf .venv-lock

clean:                           ## the environment and caches; runs/ stays
	rm -rf .venv .venv-compat .venv-lock .node-compat .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

.venv-compat/installed: requirements-compat.lock
	$(PYTHON) -m venv .venv-compat
	$(PIP_COMPAT) --requirement requirements-compat.lock
	touch $@

.node-compat/installed: Makefile
	mkdir -p .node-compat && echo '{"private": true}' > .node-compat/package.json
	npm install --prefix .node-compat --save-exact --ignore-scripts --no-audit --no-fund node-llama-cpp@3.21.1
	touch $@

.venv/installed: .venv/created pyproject.toml requirements.lock
	$(PIP) -e .
	touch $@

.venv/installed-dev: .venv/created pyproject.toml requirements.lock
	$(PIP) -e '.[dev]'
	touch .venv/installed $@

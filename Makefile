# The front door. Everything is installed into .venv, with the exact versions of requirements.lock.
PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint requirements.lock

PIP_COMPAT := .venv-compat/bin/python -m pip install --quiet --disable-pip-version-check
COMPAT_PYTHON ?= .venv-compat/bin/python
PIP_LOWEST := .venv-lowest/bin/python -m pip install --quiet --disable-pip-version-check
LOWEST_PYTHON ?= .venv-lowest/bin/python
PIP_DOCS := .venv-docs/bin/python -m pip install --quiet --disable-pip-version-check
DOCS_PYTHON ?= .venv-docs/bin/python

.PHONY: demo fast test check attack compat bench gpu gpu-rehearsal results lint format docs docs-site lock clean

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

attack: .venv/installed-dev      ## bad inputs and kills at random moments, in a minute; `python -m tests.attack --help` for more of them
	$(BIN)/python -m tests.attack --inputs 200 --kills 10

compat: .venv/installed-dev $(if $(filter .venv-compat/%,$(COMPAT_PYTHON)),.venv-compat/installed) $(if $(filter .venv-lowest/%,$(LOWEST_PYTHON)),.venv-lowest/installed) $(if $(filter .venv-docs/%,$(DOCS_PYTHON)),.venv-docs/installed) .node-compat/installed ## what needs environments of its own (COMPAT_PYTHON=PATH, LOWEST_PYTHON=PATH, DOCS_PYTHON=PATH: those): a real model, transformers 4, the lowest versions, llama.cpp (node-llama-cpp; needs npm), the site, the notebooks, the package
	INHERITUNE_COMPAT_PYTHON=$(COMPAT_PYTHON) INHERITUNE_LOWEST_PYTHON=$(LOWEST_PYTHON) INHERITUNE_DOCS_PYTHON=$(DOCS_PYTHON) INHERITUNE_COMPAT_NODE=$(CURDIR)/.node-compat $(BIN)/python -m pytest tests/compat

bench: .venv/installed           ## training speed beside the machine's own limit, and what is lost end to end
	$(BIN)/inheritune bench

gpu: .venv/installed-dev         ## all that needs one GPU, in 8 minutes: runs/gpu has figures and tables; `python benchmarks/gpu.py --help`
	$(BIN)/python benchmarks/gpu.py

gpu-rehearsal: .venv/installed-dev ## the same on tiny shapes on the CPU, as `make check` runs it
	$(BIN)/python benchmarks/gpu.py --rehearsal --out runs/gpu-rehearsal

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

docs: .venv/installed            ## the generated pages: recipe and suite from their models, cli and api from the code, architectures from the checks of all families
	$(BIN)/python -m inheritune.cli.description > docs/recipe.md
	$(BIN)/python -m inheritune.cli.description suite > docs/suite.md
	$(BIN)/python -m inheritune.cli.reference cli > docs/cli.md
	$(BIN)/python -m inheritune.cli.reference api > docs/api.md
	OMP_NUM_THREADS=1 $(BIN)/python tests/families/document.py > docs/architectures.new
	mv docs/architectures.new docs/architectures.md

docs-site: $(if $(filter .venv-docs/%,$(DOCS_PYTHON)),.venv-docs/installed) ## the site of docs/ in build/site; a broken link is an error; look at it with `python -m http.server --directory build/site`
	NO_MKDOCS_2_WARNING=1 $(DOCS_PYTHON) -m mkdocs build --strict

lock:                            ## requirements.lock anew, from the ranges in pyproject.toml
	rm -rf .venv-lock && $(PYTHON) -m venv .venv-lock
	.venv-lock/bin/python -m pip install --quiet 'torch==2.13.0' -e '.[dev]'
	(echo '# Exact versions, used as pip constraints by the Makefile; written by `make lock`.'; \
	 .venv-lock/bin/python -m pip freeze --exclude-editable | sed 's/^\(torch==[0-9.]*\)+cpu/\1/') > requirements.lock
	rm -rf .venv-lock

clean:                           ## the environment and caches; runs/ stays
	rm -rf .venv .venv-compat .venv-lowest .venv-docs .venv-lock .node-compat build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

.venv/created:
	$(PYTHON) -m venv .venv
	touch $@

.venv-compat/installed: requirements-compat.lock
	$(PYTHON) -m venv .venv-compat
	$(PIP_COMPAT) --requirement requirements-compat.lock
	touch $@

.venv-lowest/installed: requirements-lowest.lock
	$(PYTHON) -m venv .venv-lowest
	$(PIP_LOWEST) --requirement requirements-lowest.lock
	touch $@

# Notebooks run with the packages of .venv, behind those of the environment itself.
.venv-docs/installed: requirements-docs.lock .venv/installed-dev
	$(PYTHON) -m venv .venv-docs
	$(PIP_DOCS) --requirement requirements-docs.lock
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import site; print(site.getsitepackages()[0])')')" \
	  > $$(.venv-docs/bin/python -c 'import site; print(site.getsitepackages()[0])')/inheritune-packages.pth
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

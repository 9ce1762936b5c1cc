# The front door. `make` alone lists the targets; every one sets up what it needs and does no work
# that is already done.

PYTHON  ?= python3# 3.11 to 3.13: makes the virtual environment
PROFILE ?= book# or smoke, or full
ONLY    ?=# chapters, as in ONLY="linear vae"; all when empty
JOBS    ?= 2# chapters at a time
PORT    ?= 8000
RESOLUTION ?= highest

BIN   := .venv/bin
READY := .venv/.ready
BOOK   = $(BIN)/python -m tools.book
CHOICE = --jobs $(JOBS) $(if $(ONLY),--only $(ONLY))

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup book data execute test test-pages lint assignments grade serve lab screenshots bench lock \
	clean distclean

help: ## list the targets
	@echo 'make TARGET [PROFILE=smoke|book|full] [ONLY="linear vae"] [JOBS=2] [PORT=8000] [PYTHON=python3]'
	@echo
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

setup: $(READY) ## make the virtual environment that all other targets use

$(READY): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' || { \
		echo 'Python 3.11, 3.12 or 3.13 is needed, but $(PYTHON) is' "$$($(PYTHON) --version 2>&1 | head -n 1)."; \
		echo 'Name another, as in: make PYTHON=python3.12 …'; exit 1; }
	@echo 'Setting up .venv: several gigabytes the first time.'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --disable-pip-version-check -r requirements.lock
	$(BIN)/python -m pip install --disable-pip-version-check --no-deps -e .
	@touch $@

book: $(READY) ## obtain the data, execute every chapter, render _build/html/index.html
	@$(BOOK) build --profile $(PROFILE) $(CHOICE)

data: $(READY) ## fetch MNIST and Fashion-MNIST into the cache, and verify them
	$(BIN)/python -m aecore.data mnist fashion_mnist

execute: $(READY) ## execute the chapters without rendering
	@$(BOOK) execute --profile $(PROFILE) $(CHOICE)

test: $(READY) ## execute the chapters twice in the smoke profile, then run all tests
	@$(BOOK) verify --profile smoke --jobs $(JOBS)
	@test -e _build/html/index.html || $(BOOK) render --profile smoke
	$(BIN)/python -m pytest

test-pages: $(READY) ## test the rendered pages alone
	$(BIN)/python -m pytest tests/browser

lint: $(READY) ## check style and types: package, tools, tests and the chapters' cells
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	@$(BOOK) convert
	$(BIN)/ruff check --ignore D,E402,B018,PT _build/notebooks/*.ipynb
	$(BIN)/ruff format --check --line-length 76 _build/notebooks/*.ipynb
	$(BIN)/mypy

assignments: $(READY) ## make the students' and the instructor's versions (ASSIGNMENT=vae, or all)
	@$(BIN)/python -m tools.assignments $(ASSIGNMENT) --jobs $(JOBS)

grade: $(READY) ## grade a class: ASSIGNMENT=vae SUBMISSIONS=folder [RESULTS= AGAIN=1 DASK=address UNSAFE=1]
	@test -n '$(ASSIGNMENT)' -a -n '$(SUBMISSIONS)' || { \
		echo 'Say what to grade: make grade ASSIGNMENT=vae SUBMISSIONS=folder'; exit 1; }
	@$(BIN)/python -m tools.grading '$(ASSIGNMENT)' '$(SUBMISSIONS)' --jobs $(JOBS) \
		$(if $(RESULTS),--results '$(RESULTS)') $(if $(AGAIN),--again) \
		$(if $(DASK),--dask '$(DASK)') $(if $(UNSAFE),--unsafe)

serve: ## show the book at http://127.0.0.1:8000 (PORT=)
	@test -e _build/html/index.html || { echo 'There is no book yet: make book'; exit 1; }
	$(PYTHON) -m http.server --bind 127.0.0.1 --directory _build/html $(PORT)

lab: $(READY) ## open the chapters in JupyterLab
	$(BIN)/jupyter-lab book

screenshots: $(READY) ## photograph every page into _build/screenshots
	$(BIN)/python -m tools.screenshots

bench: $(READY) ## run the benchmarks
	@for script in benchmarks/*.py; do echo "$$script"; PYTHONPATH=. $(BIN)/python "$$script" || exit 1; done

lock: ## pin the newest versions that pyproject.toml allows (RESOLUTION=lowest-direct: the oldest)
	$(PYTHON) -m venv _build/uv
	_build/uv/bin/pip install --quiet uv
	_build/uv/bin/uv pip compile --universal --upgrade --resolution $(RESOLUTION) --all-extras \
		--python-version 3.11 --no-annotate --no-header --no-emit-index-url --no-emit-find-links \
		--quiet --output-file requirements.lock pyproject.toml

clean: ## remove what was built; the data and .venv stay
	rm -rf _build .pytest_cache .ruff_cache .mypy_cache .hypothesis

distclean: clean ## remove .venv as well
	rm -rf .venv

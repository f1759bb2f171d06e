# Everything here installs what it needs into .venv by itself; a fresh Debian machine needs only
# make, python3 (>= 3.11) and python3-venv. Another interpreter: make demo PYTHON=python3.12

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/installed.stamp
PEERS := $(VENV)/peers.stamp
RUNTIME := $(VENV)/runtime.stamp
PIP := $(BIN)/python -m pip install --disable-pip-version-check --quiet --constraint constraints.txt

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format docs bench assets verifier-pyz clean

help: ## This list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## (.*)/  make \1\t\2/' | expand -t 22

install: $(INSTALLED) ## Both packages and the developer tools in .venv

$(INSTALLED): pyproject.toml constraints.txt
	@command -v $(PYTHON) >/dev/null || { \
	  echo "make: no $(PYTHON) found. Install it (Debian: apt install python3 python3-venv) or name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "make: Hallmark needs Python 3.11 or newer; $(PYTHON) is $$($(PYTHON) -V 2>&1). Name another: make PYTHON=python3.12" >&2; exit 2; }
	@$(PYTHON) -c 'import ensurepip, venv' 2>/dev/null || { \
	  echo "make: $(PYTHON) cannot create virtual environments (Debian: apt install python3-venv)" >&2; exit 2; }
	@echo "installing into $(VENV) (some minutes the first time)"
	@$(PYTHON) -m venv $(VENV)
	@$(PIP) hatchling editables setuptools wheel
	@$(PIP) --no-build-isolation --editable '.[registry,dev]'
	@touch $@

# invisible-watermark without its dependencies: see the extra in pyproject.toml.
$(PEERS): $(INSTALLED)
	@$(PIP) --no-build-isolation --editable '.[peers]'
	@$(PIP) --no-deps invisible-watermark
	@touch $@

demo: $(INSTALLED) ## Issue copies, attack their images, resolve them back; writes demo/report.html
	$(BIN)/python -m registry.demo --out demo

# onnxruntime-web, which is too large to be committed; without npm, tests of the page that needs it are skipped.
$(RUNTIME): web/package-lock.json web/build.mjs
	@if command -v npm >/dev/null; then $(MAKE) --no-print-directory assets; else echo "no npm: make assets is left out"; fi
	@touch $@

test: $(INSTALLED) $(PEERS) $(RUNTIME) ## All tests
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile $(TESTS)

lint: $(INSTALLED) ## Style, types, and the direction of imports
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(INSTALLED) ## Rewrite the sources in the common style
	$(BIN)/ruff check --fix --exit-zero .
	$(BIN)/ruff format .

docs: $(INSTALLED) ## The documentation as a site, build/docs/index.html
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --quiet

bench: $(INSTALLED) $(PEERS) ## All benchmarks; QUICK=1 for a short run, PAPER=1 with the paper's search in full (days)
	@for script in attribution learned regression verify scan images issue stylegan2 full_size trace inversion removal peers issue_cost \
	    serve stream resolve resolve_http queries console faults false_accusation collusion lineage; do \
	  echo "== bench/$$script.py"; $(BIN)/python -m bench.$$script $(if $(QUICK),--quick) \
	    $(if $(PAPER),$$(test $$script = inversion && echo --paper)) || exit 1; done

assets: ## The console's scripts and styles, from web/ into registry/console/assets (needs Node 20 and npm)
	@command -v npm >/dev/null || { echo "make: no npm found; only who changes web/ needs it (Debian: apt install npm)" >&2; exit 2; }
	cd web && npm ci --no-audit --no-fund && npm run --silent build

verifier-pyz: $(INSTALLED) ## The verifier in one file, dist/verifier.pyz; GPU=1 with CUDA's provider
	$(BIN)/python deploy/verifier_pyz.py --out dist/verifier.pyz $(if $(GPU),--gpu)

clean: ## Remove everything that make has made
	rm -rf $(VENV) demo build dist .mypy_cache .pytest_cache .ruff_cache .import_linter_cache .hypothesis
	find registry verifier migrations bench tests -name __pycache__ -type d -prune -exec rm -rf {} +

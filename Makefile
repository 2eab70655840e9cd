# Every target sets up what it needs in .venv by itself and can be run again at any time.
#   make demo                       serve a pretrained model and classify two photos
#   make test                       lint, types, import rules and all tests that take seconds
#   make test PYTHON=python3.12     with another interpreter (before the first set-up)
#   make bench QUICK=1              a quick benchmark; BENCH_FLAGS="--servers ..." chooses
#   make demo PIP_FLAGS="..."       with further options for pip, such as an index of your own

PYTHON ?= python3
PIP_FLAGS ?=
QUICK ?=
BENCH_FLAGS ?=
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
EXTRAS := dev,demo,examples,explain,onnx
EXAMPLE := examples/efficientnet_lite0

.DEFAULT_GOAL := help
.PHONY: help setup demo serve test test-slow test-all lint format types imports bench bench-echo clean distclean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## \(.*\)/  make \1\t\2/p' Makefile | expand -t 20

setup: $(INSTALLED) ## make .venv and install the project into it, editable

# The stamp is younger than pyproject.toml once everything in it is installed.
$(INSTALLED): pyproject.toml
	@command -v $(PYTHON) >/dev/null || { \
	  echo "$(PYTHON) was not found: install Python 3.11 or newer, or name one with make PYTHON=..." >&2; exit 1; }
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "torchserve-py needs Python 3.11 or newer, $(PYTHON) is $$($(PYTHON) -V 2>&1): name a newer one with make PYTHON=python3.12" >&2; exit 1; }
	@$(PYTHON) -c 'import ensurepip' 2>/dev/null || { \
	  echo "$(PYTHON) cannot make environments: on Debian or Ubuntu, apt-get install python3-venv" >&2; exit 1; }
	@echo "Installing into $(VENV); the first time this downloads torch and takes some minutes."
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip --disable-pip-version-check install -q $(PIP_FLAGS) -e '.[$(EXTRAS)]'
	@touch $@

demo: $(INSTALLED) ## archive, serve, classify, scale, stop; fails unless the cat is a cat
	@$(BIN)/python $(EXAMPLE)/demo.py

serve: $(INSTALLED) ## the demo's model on the default ports, in the foreground
	@$(BIN)/python $(EXAMPLE)/archive.py
	@exec $(BIN)/torchserve-py --start --foreground --ncs --model-store model_store \
	  --models efficientnet_lite0=efficientnet_lite0.mar

test: lint types imports ## everything that guards a commit, in minutes
	$(BIN)/python -m pytest -q -m "not slow"

# pytest answers 5 when no test matches, which is no failure here.
test-slow: $(INSTALLED) ## only the tests that `make test` leaves out
	$(BIN)/python -m pytest -q -m slow || test $$? -eq 5

test-all: lint types imports ## every check and every test
	$(BIN)/python -m pytest -q

lint: $(INSTALLED) ## ruff: rules and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

format: $(INSTALLED) ## let ruff put the formatting right
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

types: $(INSTALLED) ## mypy, strict
	$(BIN)/mypy

imports: $(INSTALLED) ## who may import whom
	$(BIN)/lint-imports

bench: $(INSTALLED) ## beside every peer, 30 minutes (QUICK=1: 5); needs wrk, java and a C compiler
	@$(BIN)/python -m benchmarks.run $(if $(filter-out 0,$(QUICK)),--quick) $(BENCH_FLAGS)

bench-echo: $(INSTALLED) ## the requests/s of `make bench` alone
	@$(BIN)/python -m benchmarks.run --suites echo $(if $(filter-out 0,$(QUICK)),--quick) $(BENCH_FLAGS)

clean: ## remove what running left behind
	rm -rf build dist logs key_file.json .pytest_cache .mypy_cache .ruff_cache .hypothesis .import_linter_cache
	rm -f model_store/*.mar
	find archiver frontend worker handlers tests examples benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## also remove the environments
	rm -rf $(VENV) .bench

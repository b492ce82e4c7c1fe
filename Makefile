# Every target makes its own .venv and installs what it needs at the versions of constraints.txt; the second call is quick.
#   make test PYTHON=python3.12      another Python (after make clean)
#   make test WORKERS=4              more test processes
#   make test ARGS="-k entropy -x"   anything for pytest; bench and study take ARGS too

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=

VENV := .venv
BIN := $(VENV)/bin
# Silent when it goes well; all that pip said when it does not.
LOG := $(VENV)/install.log
define install
@$(BIN)/python -m pip --disable-pip-version-check --no-input install -c constraints.txt $(1) >$(LOG) 2>&1 </dev/null \
	|| { cat $(LOG) >&2; exit 1; }
endef

.DEFAULT_GOAL := help
.PHONY: help test nightly lint format study bench clean
# Two pips at work in one .venv would spoil it.
.NOTPARALLEL:

help: ## list the targets
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1	\2/p' Makefile

# One thread for each test process: threads of several processes on the same cores wait for each other.
test: $(VENV)/.extra-test ## run the tests and the examples in the docstrings
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadgroup --maxprocesses=$(WORKERS) $(ARGS)

nightly: $(VENV)/.extra-test ## run the long tests: thousands of random clouds
	$(BIN)/python -m pytest -n auto --dist loadgroup --maxprocesses=$(WORKERS) -m nightly $(ARGS)

lint: $(VENV)/.extra-dev ## check style, format and types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.extra-dev ## format the code and repair what ruff can repair
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

study: $(VENV)/.extra-study ## run the study: which regularizer helps
	$(BIN)/simplicial-reg study $(ARGS)

bench: $(VENV)/.extra-test ## time the package and its peers, the short form; ARGS=--full for all
	$(BIN)/python -m benchmarks $(ARGS)

clean: ## remove .venv, caches and builds
	rm -rf $(VENV) build dist .hypothesis .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A stamp is written last, so that an installation that was cut short is done again.

$(VENV)/.made:
	@echo "making $(VENV) with $(PYTHON)"
	@$(PYTHON) -m venv --clear $(VENV)
	@touch $@

# torch first and alone: the pin decides which build of it is taken before anything else can ask for another. hatchling
# and editables build the package below without a second, unpinned environment.
$(VENV)/.torch: constraints.txt $(VENV)/.made
	@echo "installing torch into $(VENV) (once, some minutes on a slow line)"
	$(call install,torch)
	$(call install,hatchling editables)
	@touch $@

$(VENV)/.extra-%: pyproject.toml constraints.txt $(VENV)/.torch
	@echo "installing simplicial_reg[$*] into $(VENV) (once, some minutes on a slow line)"
	$(call install,--no-build-isolation -e '.[$*]')
	@touch $@

# All targets set up what they need: a virtual environment in .venv and, where you are root, Debian's packages.
PYTHON ?= python3
VENV := .venv
# Programs start as they do for anybody: what was compiled once is kept.
unexport PYTHONDONTWRITEBYTECODE
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DIR ?=
SECONDS ?= 120
TARGET ?=
QUICK ?=
ONLY ?=

.PHONY: help demo test lint types cover fuzz soak bench system clean

help:
	@echo "make demo [DIR=~/Photos]   three peers on this computer share, find and get (about a minute)"
	@echo "make test                  lint, types and all tests"
	@echo "make cover                 the tests of core/ with their statement coverage"
	@echo "make fuzz [SECONDS=120] [TARGET=request]   every reader of outside bytes under atheris, that long each"
	@echo "make soak [SECONDS=120]    one member in bad company: 500 members' connections, 500 strangers, and honest members measured"
	@echo "make bench [QUICK=1] [ONLY=single]   tinyp2p beside other programs on the same files; all of it writes docs/benchmarks.md (QUICK: 3 minutes)"
	@echo "make clean                 remove the virtual environment and caches"

# The lock file holds versions and hashes of everything that is installed; --no-deps, so that nothing newer is looked for beside it.
$(STAMP): requirements.lock pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	$(BIN)/python -m pip check --disable-pip-version-check
	touch $(STAMP)

demo: $(STAMP)
	$(BIN)/python -m bench.demo $(if $(DIR),--folder "$(DIR)")

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(STAMP)
	$(BIN)/mypy

# The examples are run in their languages, tests of a local network make one with ip; what cannot be installed is skipped by name.
PROGRAMS := curl ip ruby php perl node openssl
PACKAGES := curl iproute2 ruby php-cli perl nodejs openssl
system:
	@for program in $(PROGRAMS); do command -v $$program >/dev/null || missing=1; done; [ -z "$$missing" ] || { [ "$$(id -u)" = 0 ] \
		&& command -v apt-get >/dev/null && apt-get update -qq && apt-get install -y -qq --no-install-recommends $(PACKAGES); } || true

test: system lint types
	$(BIN)/python -m pytest --numprocesses 2 --dist worksteal

cover: $(STAMP)
	$(BIN)/python -m pytest tests/core tests/sim --cov=tinyp2p.core --cov-report=term-missing --cov-fail-under=95

# What makes a target fail is left in tests/fuzz/failed.
fuzz: $(STAMP)
	$(BIN)/python -m tests.fuzz.run $(SECONDS) $(TARGET)

soak: $(STAMP)
	$(BIN)/python -m bench.soak --seconds $(SECONDS)

# Where you are root, the other programs are installed with apt-get; those from PyPI get a virtual environment of their own.
bench: $(STAMP)
	$(BIN)/python -m bench.speed $(if $(QUICK),--quick) $(if $(ONLY),--only $(ONLY))

clean:
	rm -rf $(VENV) .bench-venv .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage

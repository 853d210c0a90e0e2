# Every target does its own set-up: `.venv` beside this file, filled from the lock files.
#
#   make demo [CONTENT=path] [OUT=dir] [ARGS="--seeders 3 --viewers 5"]
#   make test [ARGS="-k name"] [JOBS=3]    make lint   make format   make lock   make clean
#
# PYTHON=/path/to/python picks the interpreter (3.11, 3.12 or 3.13).

SHELL := /bin/sh
.DEFAULT_GOAL := help
.PHONY: help demo test lint format lock clean setup setup-dev

# Taken literally, so that a `$` in a path survives; recipes read them from the environment.
override CONTENT := $(value CONTENT)
override OUT := $(value OUT)
export CONTENT OUT PYTHON

help:
	@sed -n '/^$$/q; s/^#$$//p; s/^# //p' Makefile

setup:
	@sh .ci/setup run

setup-dev:
	@sh .ci/setup dev

demo: setup
	@exec .venv/bin/swarmledger demo \
	    $(if $(value CONTENT),--content="$$CONTENT") $(if $(value OUT),--out="$$OUT") $(ARGS)

# Side by side: most tests wait for sockets, epochs and processes. JOBS=0 runs one after the other.
JOBS ?= 3

test: setup-dev
	@exec .venv/bin/python -m pytest -n $(JOBS) --dist loadfile --no-loadscope-reorder $(ARGS)

lint: setup-dev
	.venv/bin/ruff check .
	.venv/bin/ruff format --check .
	.venv/bin/mypy --strict
	.venv/bin/lint-imports
	.venv/bin/codespell

format: setup-dev
	.venv/bin/ruff check --fix .
	.venv/bin/ruff format .

# Resolves pyproject.toml for all supported Pythons at once and keeps the pins that still fit.
# Newest releases instead: make lock UPGRADE=--upgrade, or UPGRADE='--upgrade-package NAME'.
LOCK := .venv/bin/uv pip compile pyproject.toml --quiet --universal --python-version 3.11 \
    --generate-hashes --no-header --extra all --group build

lock: setup-dev
	$(LOCK) --group dev $(UPGRADE) --output-file requirements-dev.lock
	$(LOCK) --constraints requirements-dev.lock --output-file requirements.lock

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache build dist
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

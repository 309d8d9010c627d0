# make demo: audit the built-in model.   make test: the whole suite.   make setup: only the environment.
# PYTHON=python3.12 make setup   takes another interpreter (3.11 or later).

PYTHON ?= python3

.PHONY: setup demo test check docs bench

setup: .venv/.ready

.venv/.ready: requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "expected Python 3.11 or later, got %s: PYTHON=python3.12 make setup" % sys.version.split()[0])'
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --disable-pip-version-check -r requirements.lock
	.venv/bin/python -m pip install --disable-pip-version-check --no-deps --no-build-isolation -e .
	@touch $@

demo: setup
	.venv/bin/sapper audit

test: setup
	scripts/test

check: setup
	scripts/check

docs: setup
	.venv/bin/python scripts/docs

bench: setup
	bench/setup
	bench/run

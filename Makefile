# Needs Python 3.11 or later and make, nothing else. `make help` lists the targets.

PYTHON ?= python3
VENV := .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.ready
LOCK_VENV := build/lock-venv
PACKAGES := broker actors middleware pipelines otel dashboard bench tests

.DEFAULT_GOAL := help
.PHONY: help setup demo run test check format bench faults soak secrets lock clean

help: ## this list
	@grep -E '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1	\2/' | expand -t 16

setup: $(STAMP) ## install everything that requirements.lock names into .venv

# Remade only when the lock or the project's own metadata changes.
$(STAMP): requirements.lock pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Headrace needs Python 3.11 or later, and '$(PYTHON)' is" \
	    "$$($(PYTHON) -V 2>/dev/null || echo 'not there'). Name another one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Setting up $(VENV) from requirements.lock (once) ..."
	@$(PYTHON) -m venv $(VENV)
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --require-hashes -r requirements.lock
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps --no-build-isolation --editable .
	@touch $@

demo: $(STAMP) ## real jobs through real workers on an embedded server, checked at the end
	$(PY) -m bench.demo $(ARGS)

run: $(STAMP) ## server, workers and scheduler in the foreground, until Ctrl-C
	$(PY) -m actors

# Most tests wait: it takes three processes to keep two cores busy.
AT_ONCE ?= 3

test: $(STAMP) ## the test suite, without what is marked slow
	$(PY) -m pytest -n $(AT_ONCE) --dist loadfile -m "not slow"

check: $(STAMP) ## format, lint, types, layers, Lua headers
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy $(PACKAGES)
	$(VENV)/bin/lint-imports
	$(PY) -m tests.lua_headers

format: $(STAMP) ## put the code into shape
	$(PY) -m ruff format .
	$(PY) -m ruff check --fix .

bench: $(STAMP) ## measure against the stock RedisBroker in the same run
	$(PY) -m bench

faults: $(STAMP) ## break things on purpose, the slow ones too
	$(PY) -m pytest -p tests.faults.report --faults-results tests/faults/results.json \
	  --faults-page docs/reliability.md -m faults

MINUTES ?= 10

soak: $(STAMP) ## faults at a steady rate for MINUTES=n, and whether memory stays flat
	$(PY) -m tests.faults.soak --minutes $(MINUTES)

PASSWORDS := redis_worker redis_scheduler redis_admin grafana dashboard

# The containers' own users read the files, which Docker mounts one by one; nobody else on this
# host gets into the directory.
secrets: $(STAMP) ## passwords for compose.yaml in secrets/; those that are there stay
	@mkdir -p secrets && chmod 700 secrets
	@for name in $(PASSWORDS); do [ -s secrets/$${name}_password ] || \
	  $(PY) -c 'import secrets; print(secrets.token_hex(24))' > secrets/$${name}_password; done
	@[ -s secrets/dashboard_users ] || echo "operator:operator:$$( \
	  $(PY) -m dashboard hash-password < secrets/dashboard_password)" > secrets/dashboard_users
	@chmod 644 secrets/*

lock: ## resolve again and rewrite requirements.lock (needs a package index)
	$(PYTHON) -m venv $(LOCK_VENV)
	$(LOCK_VENV)/bin/python -m pip install --quiet --disable-pip-version-check uv
	$(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 --upgrade \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --override lock/overrides.txt --extra dev --output-file requirements.lock \
	  pyproject.toml lock/extra.in
	# What the image has: the same versions, without what only developers need.
	$(LOCK_VENV)/bin/uv pip compile --quiet --universal --python-version 3.11 \
	  --generate-hashes --no-emit-index-url --no-emit-find-links --no-header --no-annotate \
	  --override lock/overrides.txt --constraint requirements.lock --output-file lock/image.lock \
	  pyproject.toml lock/extra.in

clean: ## remove .venv, caches and build results
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis

# The one entry. `make` alone lists the targets.
.DEFAULT_GOAL := help
.PHONY: help setup lock format check test test-unit test-integration test-e2e test-system chaos bench run db migrate ci clean

BIN := .venv/bin
STAMP := .venv/.ready
PYTEST := $(BIN)/pytest
PARALLEL ?= -n 2

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml requirements.lock scripts/bootstrap.sh scripts/bootstrap-requirements.txt
	@sh scripts/bootstrap.sh
	@touch $@

setup: $(STAMP) ## create .venv with the locked dependencies (only what changed)

lock: $(STAMP) ## pin the newest versions that pyproject.toml allows, by hash
	$(BIN)/uv pip compile --quiet --upgrade --universal --python-version 3.11 --generate-hashes --all-extras \
		--group dev --no-header pyproject.toml --output-file requirements.lock

run: $(STAMP) ## API, worker and an embedded PostgreSQL with sample handlers; data stays in ./.taskforge
	@TASKFORGE_DATA_DIR="$${TASKFORGE_DATA_DIR:-$(CURDIR)/.taskforge}" exec $(BIN)/taskforge dev

test: $(STAMP) ## every test, from nothing
	$(PYTEST) $(PARALLEL) -m "not serial"
	$(PYTEST) -m "serial"

test-unit: $(STAMP) ## the pure ones, in seconds
	$(PYTEST) $(PARALLEL) tests/unit tests/property

test-integration: $(STAMP) ## against a real PostgreSQL
	$(PYTEST) $(PARALLEL) tests/integration

test-e2e: $(STAMP) ## the real processes
	$(PYTEST) tests/e2e

test-system: $(STAMP) ## the tests that use a database, on the system's PostgreSQL 15 (or TASKFORGE_PG_BIN)
	@sh scripts/system-postgres.sh $(PYTEST) $(PARALLEL) -m "not serial" --ignore tests/unit --ignore tests/guards
	@sh scripts/system-postgres.sh $(PYTEST) tests/chaos

chaos: $(STAMP) ## the fault tests, longer than `make test` runs them
	TASKFORGE_CHAOS_FACTOR="$${TASKFORGE_CHAOS_FACTOR:-10}" $(PYTEST) -s tests/chaos

bench: $(STAMP) ## measure, each figure beside its ceiling
	$(BIN)/taskforge bench

format: $(STAMP) ## fix what can be fixed
	$(BIN)/ruff check --fix --quiet .
	$(BIN)/ruff format .

check: $(STAMP) ## format, lint, types, import directions
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

db: $(STAMP) ## psql into the embedded database of `make run`
	@TASKFORGE_DATA_DIR="$${TASKFORGE_DATA_DIR:-$(CURDIR)/.taskforge}" $(BIN)/python scripts/db.py

migrate: $(STAMP) ## bring DATABASE_URL (or the embedded database) to the current schema
	@TASKFORGE_DATA_DIR="$${TASKFORGE_DATA_DIR:-$(CURDIR)/.taskforge}" $(BIN)/taskforge migrate

ci: check test test-system ## what .ci/run calls: check, every test, then PostgreSQL 15

clean: ## remove the environment and caches; the data in ./.taskforge stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .import_linter_cache .hypothesis build dist
	find src tests -name __pycache__ -type d -prune -exec rm -rf {} +

# `make help` lists the targets. `make study` and `make test` need nothing but Python 3.11 and make.
PYTHON ?= python3.11
EPOCHS ?= 15
VARIANT ?= v4
export PATH := $(CURDIR)/.venv/bin:$(PATH)
RUN = mlflow run . --experiment-name fashion-mnist-lenet --env-manager local
DEV = .venv/.requirements-dev
BENCH = .venv-bench/.requirements

.PHONY: help setup data study train test debian check bench ui lock clean clean-store

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.requirements ## make the virtual environment from requirements.txt

.venv/.requirements: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.txt
	@touch $@

$(DEV): .venv/.requirements requirements-dev.txt
	.venv/bin/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(BENCH): requirements.txt requirements-bench.txt
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --requirement requirements.txt --requirement requirements-bench.txt
	@touch $@

data: setup ## find or fetch Fashion-MNIST, and verify it
	PYTHONPATH=src python -m lenet_study data

study: setup ## run the whole study; EPOCHS=1 makes a quick pass
	$(RUN) -e study -P epochs=$(EPOCHS)

train: setup ## train one model: VARIANT=v2 EPOCHS=15
	$(RUN) -e train -P variant=$(VARIANT) -P epochs=$(EPOCHS)

ui: setup ## open MLflow's UI on http://127.0.0.1:5000
	mlflow ui

test: check debian ## lint, types, all tests
	PYTHONPATH=src python -m pytest

debian: # what only tests need; those that need it skip, and say so, where it cannot be installed
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium chromium-driver postgresql >/dev/null; } || \
	  echo "Chromium, its driver or PostgreSQL is missing: their tests are skipped."

check: $(DEV) ## lint, format and types
	ruff check .
	ruff format --check .
	mypy

bench: setup $(BENCH) ## measure speed and memory; BENCH_OPTIONS="--help" tells how to measure less
	PYTHONPATH=src python -m bench $(BENCH_OPTIONS)

lock: $(DEV) ## pin everything that the requirements*.in files need
	for name in requirements requirements-dev requirements-bench; do \
	  uv pip compile --quiet --no-header --no-annotate --no-emit-index-url --no-emit-find-links \
	    --python-version 3.11.7 --output-file $$name.txt $$name.in && sed -i 's/+cpu$$//' $$name.txt; \
	done

clean: ## delete the virtual environment and caches
	rm -rf .venv .venv-bench .pytest_cache .ruff_cache .mypy_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-store: ## delete all local runs, models and searches
	rm -rf mlflow.db mlflow.db-* mlflow.db.lock optuna.db optuna.db-* optuna.db.lock
	find mlruns -mindepth 1 ! -name README.md -delete

# `make help` lists the targets. `make study` and `make test` need nothing but Python 3.11 and make.
PYTHON ?= python3.11
EPOCHS ?= 15
REPEATS ?= 1
VARIANT ?= v4
export PATH := $(CURDIR)/.venv/bin:$(PATH)
RUN = mlflow run . --experiment-name fashion-mnist-lenet --env-manager local
DEV = .venv/.requirements-dev
BENCH = .venv-bench/.requirements

DOCKER ?= docker
COMPOSE ?= $(shell $(DOCKER) compose version >/dev/null 2>&1 && echo $(DOCKER) compose || echo docker-compose)
PORT ?= 5000
SECRETS ?= $(CURDIR)/docker/secrets
COMMA := ,
ALLOWED = $(or $(HOSTS),127.0.0.1:$(PORT)$(COMMA)localhost:$(PORT))
STACK_NAME ?= lenet-study
STACK = PORT=$(PORT) SECRETS="$(SECRETS)" HOSTS="$(ALLOWED)" $(COMPOSE) --file docker/compose.yaml --project-name $(STACK_NAME)
SERVER = python -m lenet_study.server
PREPARE = $(SERVER) prepare --secrets "$(SECRETS)" --port "$(PORT)" --hosts "$(ALLOWED)" --artifacts "$(ARTIFACTS)"
RUNNING = $(DOCKER) ps --quiet --filter label=com.docker.compose.project=$(STACK_NAME) --filter publish=$(PORT)

# The programs of an environment name its folder: of a project that was moved, none can be started.
MOVED := $(shell test ! -f .venv/bin/pip || head -3 .venv/bin/pip | grep -qF '$(CURDIR)/.venv/' || \
  { rm -rf .venv && echo The environment was made in another folder, and is made anew.; })
$(if $(MOVED),$(info $(MOVED)))

.PHONY: help setup data study train test test-docker debian check bench faults ui mlproject docs lock clean clean-store \
  wheels image image-cuda image-serve server server-stop server-backup server-restore server-local trainer

help: ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

setup: .venv/.project ## make the virtual environment: what requirements.txt lists, and the project

.venv/.requirements: requirements.txt
	$(PYTHON) -m venv .venv
	.venv/bin/python -m pip install --quiet --requirement requirements.txt
	@touch $@

INSTALL = -m pip install --quiet --no-index --no-deps --no-build-isolation --editable .

# Not listed in requirements.txt: MLflow shares an environment between clones with the same list.
.venv/.project: pyproject.toml .venv/.requirements
	.venv/bin/python $(INSTALL)
	@touch $@

$(DEV): .venv/.project requirements-dev.txt
	.venv/bin/python -m pip install --quiet --requirement requirements-dev.txt
	@touch $@

$(BENCH): requirements.txt requirements-bench.txt pyproject.toml
	$(PYTHON) -m venv .venv-bench
	.venv-bench/bin/python -m pip install --quiet --requirement requirements.txt --requirement requirements-bench.txt
	.venv-bench/bin/python $(INSTALL)
	@touch $@

data: setup ## find or fetch Fashion-MNIST, and verify it
	python -m lenet_study data

study: setup ## run the whole study; EPOCHS=1 makes a quick pass, REPEATS=10 trains with ten seeds
	$(RUN) -e study -P epochs=$(EPOCHS) -P repeats=$(REPEATS)

train: setup ## train one model: VARIANT=v2 EPOCHS=15
	$(RUN) -e train -P variant=$(VARIANT) -P epochs=$(EPOCHS)

ui: setup ## print the addresses of the study's views, and serve them: http://127.0.0.1:5000
	@python -m lenet_study views
	mlflow ui

test: setup check debian ## lint, types, all tests but those of Docker, and what of src they reach
	python -m pytest -m "not docker and not random_kills" --numprocesses auto --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

test-docker: setup $(DEV) ## the tests of Docker; starts a daemon and makes base images where that is needed
	python -m pytest -m docker

debian: # what only tests need; those that need it skip, and say so, where it cannot be installed
	@command -v chromium >/dev/null && command -v chromedriver >/dev/null && \
	  ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 || \
	  { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get -qq update && \
	    DEBIAN_FRONTEND=noninteractive apt-get -qq install --yes chromium chromium-driver postgresql >/dev/null; } || \
	  echo "Chromium, its driver or PostgreSQL is missing: their tests are skipped."

check: $(DEV) ## lint, format, types, and who imports whom
	ruff check .
	ruff format --check .
	mypy
	python -m pytest --quiet --noconftest tests/project/test_rooms.py

bench: setup $(BENCH) ## measure speed and memory; BENCH_OPTIONS="--help" tells how to measure less
	python -m bench $(BENCH_OPTIONS)

faults: setup $(DEV) ## inject faults, and write docs/reliability.md; FAULTS_OPTIONS="--scale 0.1" injects fewer
	python -m bench.reliability $(FAULTS_OPTIONS)

INDEX = $(shell printf %s "$(TORCH_INDEX)" | tr -c a-zA-Z0-9 -)

wheels: docker/wheels/.cpu$(INDEX) ## fetch what the images install; TORCH_INDEX=address of PyTorch's CPU builds

docker/wheels/.%: requirements.txt requirements-serve.txt | .venv/.requirements
	rm -f docker/wheels/*.whl docker/wheels/*.tar.gz docker/wheels/.c*
	.venv/bin/python -m pip download --quiet --dest docker/wheels \
	  $(if $(TORCH_INDEX),--extra-index-url $(TORCH_INDEX)) \
	  --requirement requirements.txt --requirement requirements-serve.txt
	@touch $@

INPUTS = src pyproject.toml requirements.txt requirements-serve.txt docker/Dockerfile
COMMIT = $(shell git rev-parse HEAD)$(shell test -z "$$(git status --porcelain -- $(INPUTS))" || echo -dirty)
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' pyproject.toml)
BUILD = DOCKER_BUILDKIT=1 $(DOCKER) build --quiet --file docker/Dockerfile --build-arg PIP_NO_INDEX=1 \
  --build-arg COMMIT=$(COMMIT) --build-arg VERSION=$(VERSION) $(if $(BASE),--build-arg BASE=$(BASE)) $(BUILD_OPTIONS)

image: wheels ## build the image lenet-study; BASE=another base image with Python 3.11
	$(BUILD) --target cpu --tag lenet-study .

image-cuda: docker/wheels/.cuda$(INDEX) ## build the image lenet-study-cuda
	$(BUILD) --target cuda --tag lenet-study-cuda .

image-serve: wheels setup ## build the image lenet-study-serve, with the registry's champion inside
	python -m lenet_study fetch --to docker/model
	$(BUILD) --target serve --tag lenet-study-serve .

server: setup ## start a team's server in Docker, on http://127.0.0.1:5000; PORT=another
	@test -n "$$($(RUNNING))" || $(SERVER) free --port "$(PORT)"
	@$(PREPARE)
	@$(DOCKER) image inspect lenet-study >/dev/null 2>&1 || $(MAKE) image
	$(STACK) up --detach
	@$(SERVER) check --secrets "$(SECRETS)" --address http://127.0.0.1:$(PORT) --patience 120
	@echo "MLflow is on http://127.0.0.1:$(PORT) for user admin, password in $(SECRETS)/admin_password."
	@echo "To log there: . $(SECRETS)/client.sh"

trainer: ## run one command beside the server: ARGUMENTS="train --variant v2"
	IMAGE_ID=$$($(DOCKER) image inspect --format '{{.Id}}' lenet-study) $(STACK) run --rm trainer $(ARGUMENTS)

server-stop: ## stop it; what it has stays in Docker's volumes
	$(STACK) down

server-backup: setup ## write an archive of all that it holds, while it runs: TO=FILE
	@$(SERVER) backup --compose 'env $(STACK)' --to "$(TO)"

server-restore: setup ## fill a new server's empty volumes from such an archive, then start it: FROM=FILE
	@$(PREPARE)
	$(STACK) up --detach database
	@timeout 120 sh -c 'until $(STACK) exec -T database pg_isready --quiet --host 127.0.0.1; do sleep 1; done'
	@$(SERVER) restore --compose 'env $(STACK)' --source "$(FROM)"
	@$(MAKE) server

server-local: setup ## the same server without Docker: in PostgreSQL if that is installed, else in SQLite
	@$(SERVER) free --port "$(PORT)"
	@$(PREPARE)
	@$(SERVER) serve --secrets "$(SECRETS)" --port $(PORT) --hosts "$(ALLOWED)" --artifacts "$(ARTIFACTS)"

mlproject: setup ## write MLproject and docker/MLproject from the commands' declarations
	python -m lenet_study.cli.mlproject .

docs: setup ## write docs/runs.md from the schema
	python -m lenet_study.tracking.runs_page > docs/runs.md

# Newer releases: LOCK_OPTIONS=--upgrade. uv reads no settings of pip's, which may say where torch's CPU builds are,
# and prefers what is locked, so that the lock's torch, without +cpu, would be the index's build for CUDA.
lock: $(DEV) ## pin everything that the requirements*.in files need
	export UV_FIND_LINKS="$${UV_FIND_LINKS:-$$PIP_FIND_LINKS}"; \
	for name in requirements requirements-serve requirements-dev requirements-bench; do \
	  uv pip compile --upgrade-package torch $(LOCK_OPTIONS) --quiet --no-header --no-annotate \
	    --no-emit-index-url --no-emit-find-links --python-version 3.11.7 --output-file $$name.txt $$name.in && \
	    sed -i 's/+cpu$$//' $$name.txt || exit; \
	done
	@! grep -H '^nvidia-' requirements*.txt || { echo "uv found no CPU build of torch: set UV_FIND_LINKS"; false; }

clean: ## delete the virtual environment and caches
	rm -rf .venv .venv-bench .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage*
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

clean-store: ## delete all local runs, models and searches
	rm -rf checkpoints spool mlflow.db mlflow.db-* mlflow.db.* optuna.db optuna.db-* optuna.*lock
	find mlruns -mindepth 1 ! -name README.md -delete

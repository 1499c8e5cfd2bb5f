PYTHON ?= python3
BIN := .venv/bin
RUN := $(BIN)/python -m
REQUIREMENTS := requirements.txt requirements-local.txt requirements-dev.txt
SOURCES := app workflows activities saga gateways client audit orders config sandbox deploy benchmarks examples worker.py webhooks.py codec_server.py starter.py tests

# Of the caller's shell, either would make mypy and the programs find modules twice or elsewhere.
unexport PYTHONPATH MYPYPATH
# Programs start faster with their compiled files, and the sandbox loads the module of a workflow for every run.
unexport PYTHONDONTWRITEBYTECODE

.DEFAULT_GOAL := help
.PHONY: help install demo up observe migrate test prove check format lock screenshots histories chaos negative-controls shape bench bench-hot bench-scale bench-peers bench-server image check-image check-manifests dashboards check-monitoring check-kubernetes check-tls clean

help: ## show these verbs
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

install: .venv/installed ## make .venv with everything the project needs, pinned by hash

demo: install ## the local stack and orders of every kind, with their outcomes; KEEP=1 keeps it running, VERBOSE=1 shows every rule
	@$(RUN) deploy.local.stack demo $(if $(KEEP),--keep) $(if $(VERBOSE),--verbose)

up: install ## the local stack, a worker and the web process, until Ctrl-C
	@$(RUN) deploy.local.stack up

observe: install ## the same with its metrics, and with Prometheus and Alertmanager where they are installed
	@$(RUN) deploy.local.stack observe

migrate: install ## bring the database at DATABASE_URL to the newest schema
	@$(RUN) app.migrate

PYTEST := $(RUN) pytest -q -p tests.support.progress
PROOFS := chaos runs, releases, every crash point, the whole fault matrix, 2000 sequences of activities, the whole model, sagas replayed at every task, the README word for word, seeded bugs

test: install ## everything but the long proofs, on the real servers, in minutes
	@$(PYTEST) -n 4 -m "not prove"
	@echo "make prove adds $(PROOFS)."

prove: install ## the long proofs: about half an hour
	@echo "This takes about half an hour on two cores: $(PROOFS)."
	@$(PYTEST) -n 4 -m prove
	@$(RUN) tests.proof.negative_controls

check: install ## lint, format, types and import rules
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(RUN) mypy --strict $(SOURCES)
	$(BIN)/lint-imports

format: install ## put the code in its one format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

COMPILE := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header
lock: install ## pin the newest versions that pyproject.toml allows
	$(COMPILE) pyproject.toml -o requirements.txt
	$(COMPILE) --group local -c requirements.txt -o requirements-local.txt
	$(COMPILE) --group dev -c requirements.txt -c requirements-local.txt -o requirements-dev.txt
	$(COMPILE) --group manifests -o requirements-manifests.txt
	$(COMPILE) --group dashboards -o requirements-dashboards.txt
	$(foreach each,dbos restate plots,$(COMPILE) --group bench-$(each) -c requirements.txt -c requirements-local.txt -o requirements-bench-$(each).txt;)

screenshots: install ## take the pictures in docs/ from the real Web UI and the sandbox; needs Chromium
	$(RUN) tests.tools.screenshots

histories: install ## record the histories that are missing: FORCE=1 for all
	@$(RUN) tests.tools.histories $(if $(FORCE),--force)

chaos: install ## a whole shop while faults are injected, and whether anything was lost: SEED=… ORDERS=… EXECUTION=local-first
	@$(RUN) tests.proof.chaos $(if $(SEED),--seed $(SEED)) $(if $(ORDERS),--orders $(ORDERS)) $(if $(EXECUTION),--execution $(EXECUTION))

negative-controls: install ## seed bugs on purpose, and see each caught by its test
	@$(RUN) tests.proof.negative_controls

shape: install ## show what an order costs: stages, activities, events, time
	$(RUN) tests.tools.shape

BENCH := $(firstword $(wildcard .venv-bench/bin/python) $(BIN)/python) -m benchmarks
bench: install ## how fast it is, beside what: at most ten minutes. PROFILE=full ENGINE=postgres ARGS=…; see docs/performance.md
	@$(BENCH) run --profile $(or $(PROFILE),quick) --engine $(or $(ENGINE),dev) $(if $(PROFILE),,--minutes 9) $(ARGS)

bench-hot: install ## reservations alone, of one product that everybody wants: about three minutes
	@$(BENCH) hot $(ARGS)

bench-scale: install ## a shop of a million orders, 5000 open runs, several workers: about half an hour
	@$(BENCH) scale $(ARGS)

PEERS := $(foreach each,dbos restate plots,-r requirements-bench-$(each).txt)
bench-peers: install ## make .venv-bench for the arms of DBOS and Restate, and for the plots; Restate needs npm
	@$(PYTHON) -m venv .venv-bench
	@echo "Installing DBOS, Restate and matplotlib into .venv-bench …"
	@.venv-bench/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements.txt -r requirements-local.txt $(PEERS)
	@command -v npm >/dev/null && npm ci --silent --ignore-scripts --prefix benchmarks/restate_server || echo "Without npm: no server of Restate."

TEMPORAL := go.temporal.io/server/cmd
TEMPORAL_VERSION ?= v1.32.1
bench-server: ## build Temporal's server on PostgreSQL for ENGINE=postgres; needs Go, and minutes
	@command -v go >/dev/null || { echo "make bench-server needs Go: on Debian, apt-get install golang"; exit 1; }
	@echo "Building Temporal's server $(TEMPORAL_VERSION) into .temporal-server …"
	@GOBIN=$(CURDIR)/.temporal-server go install $(TEMPORAL)/server@$(TEMPORAL_VERSION) $(TEMPORAL)/tools/sql@$(TEMPORAL_VERSION)
	@rm -rf .temporal-server/schema
	@cp -r "$$(go env GOMODCACHE)/go.temporal.io/server@$(TEMPORAL_VERSION)/schema/postgresql/v12" .temporal-server/schema
	@chmod -R u+w .temporal-server/schema

BUILDER := $(firstword $(foreach each,buildah podman docker,$(shell command -v $(each))))
IMAGE ?= order-sagas:latest
image: ## build the image with buildah, podman or docker: BASE=… IMAGE=…
	@test -n "$(BUILDER)" || { echo "make image needs buildah, podman or docker: on Debian, apt-get install buildah"; exit 1; }
	$(BUILDER) build $(if $(BASE),--build-arg BASE=$(BASE)) $(IMAGE_FLAGS) -f deploy/Containerfile -t $(IMAGE) .

check-image: install ## build the image on a base made here, and test it; needs podman, buildah, mmdebstrap
	@BASE=$(BASE) $(RUN) tests.deploy.check_image

check-manifests: .venv-manifests/installed ## hold deploy/ against linters and schemas, which it installs for itself
	@$(RUN) tests.deploy.check_manifests

dashboards: .venv-dashboards/installed ## write the Grafana dashboards into .local/dashboards, or FOLDER=…
	@.venv-dashboards/bin/python -m deploy.monitoring.dashboards $(or $(FOLDER),.local/dashboards)

check-monitoring: .venv-dashboards/installed ## let a real Prometheus and Alertmanager judge metrics, alerts and dashboards
	@$(RUN) tests.deploy.check_monitoring

check-kubernetes: install ## let an API server judge the manifests: yours, or kube-apiserver and etcd
	@$(RUN) tests.deploy.check_kubernetes

check-tls: install ## real servers with TLS, and a pgbouncer: PGBOUNCER=… for another than the system's
	@PGBOUNCER=$(PGBOUNCER) $(RUN) pytest -q -p no:xdist -rs tests/deploy/check_tls.py

clean: ## forget the local data and all caches
	@$(or $(wildcard $(BIN)/python),$(PYTHON)) -m deploy.local.data
	rm -rf .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
	find . -name .venv -prune -o -name __pycache__ -type d -exec rm -rf {} +

.venv-manifests/installed: requirements-manifests.txt | install
	@$(PYTHON) -m venv .venv-manifests
	@echo "Installing checkov, kubernetes-validate, hadolint and check-jsonschema into .venv-manifests …"
	@.venv-manifests/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-manifests.txt
	@touch $@

.venv-dashboards/installed: requirements-dashboards.txt | install
	@$(PYTHON) -m venv .venv-dashboards
	@echo "Installing grafana-foundation-sdk into .venv-dashboards …"
	@.venv-dashboards/bin/pip install --quiet --disable-pip-version-check --require-hashes -r requirements-dashboards.txt
	@touch $@

.venv/installed: $(REQUIREMENTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed, this is " + sys.version.split()[0] + ". Name one: make PYTHON=python3.12 …")'
	@test -x $(BIN)/pip || $(PYTHON) -m venv .venv
	@echo "Installing the pinned packages into .venv: about a minute …"
	@$(BIN)/pip install --quiet --disable-pip-version-check --require-hashes $(addprefix -r ,$(REQUIREMENTS))
	@touch $@

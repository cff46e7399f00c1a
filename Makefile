# `make build` sets up everything, builds the demo engine and lets it write; `make test` runs every check.
PYTHON ?= python3
TORCH ?= torch==2.13.0
VENV := .venv
BIN := $(VENV)/bin

.PHONY: build test lint format clean

build: $(VENV)/.installed
	$(BIN)/innerq-export build --model llama --output engines/llama --overwrite
	$(BIN)/innerq-export run engines/llama --prompt "And it came to pass in those days, that" --max-new-tokens 100

test: $(VENV)/.installed-dev lint
	$(BIN)/python -m pytest --numprocesses 2 --dist loadfile

lint: $(VENV)/.installed-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/python scripts/check_clang_format.py

format: $(VENV)/.installed-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .
	$(BIN)/python scripts/check_clang_format.py --fix

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -qq --upgrade pip
	$(BIN)/pip install -qq "$(TORCH)"
	$(BIN)/pip install -qq --editable ".[rtx]"
	touch $@

$(VENV)/.installed-dev: $(VENV)/.installed
	$(BIN)/pip install -qq --editable ".[rtx,plugin-test,dev]"
	touch $@

clean:
	rm -rf $(VENV) build .mypy_cache .ruff_cache .pytest_cache

# Every target makes its own .venv first: nothing on the machine but Python 3.11+ and make is assumed.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test lint format bench nightly clean

help:            ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*## /\t/'

$(STAMP): pyproject.toml constraints.txt
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@echo "installing the pinned dependencies into $(VENV) (a few minutes the first time)"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check "uv>=0.5"
	@$(BIN)/uv pip install --quiet --compile-bytecode --python $(BIN)/python --constraint constraints.txt --editable ".[all]"
	@touch $(STAMP)

install: $(STAMP) ## everything into .venv, at the versions of constraints.txt

demo: $(STAMP)   ## one governed ML query, end to end, on the embedded stack
	$(BIN)/hoop demo --auto-approve --out demo-out

test: $(STAMP)   ## unit and end-to-end tests (under 10 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "not nightly"

nightly: $(STAMP) ## the long suites
	$(BIN)/python -m pytest -m nightly --timeout 3600

lint: $(STAMP)   ## ruff, mypy --strict, import layers
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: $(STAMP) ## ruff format and safe fixes
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(STAMP)  ## the benchmark suite
	$(BIN)/hoop bench

clean:           ## removes .venv and everything the demo wrote
	rm -rf $(VENV) demo-out

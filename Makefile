# On a fresh clone: make demo, make test. Needs Python >= 3.11 and a way to PyPI, nothing else.

ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PYTHON ?= $(firstword $(foreach name,python3.13 python3.12 python3.11 python3.14 python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && echo $(name))))
CODE := bridge schemas tests

.DEFAULT_GOAL := help
.PHONY: help demo test chaos lint fmt build schemas lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-9s%s\n", $$1, $$2 }' Makefile

demo: $(READY) ## broker, simulated service and bridge, and what flows (ARGS="--for 20")
	@$(BIN)/asm-bridge demo $(ARGS)

test: lint ## linters, type check, all tests (ARGS="--broker embedded -k changes")
	@$(BIN)/python -m pytest $(ARGS)

chaos: $(READY) ## the bridge among faults, judged (ARGS="--minutes 30 --seed 7"; docs/chaos.md)
	@$(BIN)/python -m tests.support.chaos.run $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check $(CODE)
	@$(BIN)/ruff format --check $(CODE)
	@$(BIN)/mypy $(CODE)

fmt: $(READY) ## put the code in its form, mend what ruff can
	@$(BIN)/ruff check --fix $(CODE)
	@$(BIN)/ruff format $(CODE)

build: $(READY) ## sdist and wheel, into dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build
	@cd schemas && ../$(BIN)/python -m hatchling build -d ../dist

schemas: $(READY) ## generate schemas/json and schemas/asyncapi.json from the records
	@$(BIN)/asm-bridge schemas export schemas/json
	@mv schemas/json/asyncapi.json schemas/

COMPILE := pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-header --no-annotate pyproject.toml

lock: $(READY) ## choose the newest allowed versions of all requirements
	@command -v uv >/dev/null || $(BIN)/python -m pip install -q uv
	@PATH="$$PATH:$(BIN)" && uv $(COMPILE) --output-file requirements.txt \
		&& uv $(COMPILE) --extra dev --constraint requirements.txt --output-file requirements-dev.txt

clean: ## remove everything that was made, the environment too
	@rm -rf $(VENV) dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# uv may lack this machine's certificates or settings, which pip has: where it fails, pip does the same.
$(READY): requirements-dev.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@rm -rf $(VENV)
	@echo "creating $(VENV) (once)"
	@if command -v uv >/dev/null && uv venv -q --python "$$(command -v $(PYTHON))" $(VENV) \
		&& uv pip install -q --python $(BIN)/python --require-hashes -r requirements-dev.txt \
		&& uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e schemas -e .; then :; else \
		rm -rf $(VENV) && $(PYTHON) -m venv $(VENV) \
		&& $(BIN)/python -m pip install -q --require-hashes -r requirements-dev.txt \
		&& $(BIN)/python -m pip install -q --no-deps --no-build-isolation -e schemas -e .; fi
	@touch $@

# On a fresh clone: make demo, make test. Needs Python >= 3.11 and a way to PyPI, nothing else.

ARGS ?=
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
# Python $(1) of this machine, pyenv's too; empty if there is none.
find = $(firstword $(foreach python,python$(1) $(wildcard $(HOME)/.pyenv/versions/$(1).*/bin/python$(1)),$(shell \
	$(python) -c '' >/dev/null 2>&1 && command -v $(python))))
PYTHON ?= $(firstword $(foreach version,3.13 3.12 3.11 3.14,$(call find,$(version))) $(foreach name,python3 python,$(shell \
	$(name) -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1 && command -v $(name))))
AUDIT := .venv-audit
DOCS := .venv-docs
CODE := bridge schemas tests .ci/release.py .ci/docs.py

.DEFAULT_GOAL := help
.PHONY: help demo test unit interop generators sinks examples docs asyncapi fuzz chaos lint fmt build release image manifests audit sbom licences schemas lock clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  make %-11s%s\n", $$1, $$2 }' Makefile

demo: $(READY) ## broker, simulated service and bridge, and what flows (ARGS="--for 20")
	@$(BIN)/asm-bridge demo $(ARGS)

test: lint ## linters, type check, all tests (ARGS="--broker embedded -k changes"); without ARGS also make unit
	@$(BIN)/python -m pytest $(PARALLEL) $(ARGS)
	@$(if $(ARGS),:,$(MAKE) --no-print-directory unit)

# Test files side by side, as many as tests/conftest.py says and in its order, xdist's own being off. The other Pythons
# come after them: many a test of a real broker has a deadline.
PARALLEL := -n auto --dist loadfile --no-loadscope-reorder

unit: $(READY) ## the unit tests on every other Python from 3.11 to 3.14 that this machine has
	@own=$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])'); \
	others=$$(for version in $(foreach version,3.11 3.12 3.13 3.14,$(if $(call find,$(version)),$(version))); do \
		test $$version = $$own || echo unit-$$version; \
	done); \
	test -z "$$others" || $(MAKE) --no-print-directory -j 2 $$others

unit-%: .venv-%/.ready
	@said=$$(.venv-$*/bin/python -m pytest -n 2 --dist loadfile -q --hypothesis-profile few tests/unit 2>&1) \
		&& echo "Python $*: $$(printf "%s\n" "$$said" | tail -n 1)" || { printf "%s\n" "$$said"; exit 1; }

interop: $(READY) ## behind nginx, HAProxy, Caddy and Envoy, as far as this machine has them
	@$(BIN)/python -m pytest tests/interop $(ARGS)

PYTHON_EXAMPLES := analytics calls microservice
NPM := $(shell command -v npm)
MVN := $(shell command -v mvn)
FLINK := examples/analytics/flink
# In place of the distribution asm-kafka-bridge-schemas.
FROM_SCHEMAS := PYTHONPATH=schemas
EXAMPLES_READY := $(PYTHON_EXAMPLES:%=examples/%/.venv/.ready) $(if $(NPM),examples/typescript/node_modules/.ready) \
	$(if $(MVN),$(FLINK)/lib/.ready)

examples: $(READY) $(EXAMPLES_READY) ## all examples, each in its own environment, and a proof of the report
	@EXAMPLES=1 $(BIN)/python -m pytest tests/examples $(ARGS)

# What an example's README says: make example-analytics ARGS="--picture report.png"
example-analytics: examples/analytics/.venv/.ready
	@$(FROM_SCHEMAS) examples/analytics/.venv/bin/python examples/analytics/report.py $(ARGS)

example-flink: $(FLINK)/lib/.ready
	@java -cp '$(FLINK)/lib/*' $(FLINK)/RunSql.java examples/analytics/report.flink.sql

example-calls: examples/calls/.venv/.ready
	@cd examples/calls && .venv/bin/python calls.py

example-microservice: examples/microservice/.venv/.ready
	@$(FROM_SCHEMAS) examples/microservice/.venv/bin/python examples/microservice/long_waits.py

example-typescript: examples/typescript/node_modules/.ready
	@cd examples/typescript && npm start --silent

examples/%/.venv/.ready: examples/%/requirements.txt
	@test -n "$(PYTHON)" || { echo "make: no Python >= 3.11 found" >&2; exit 1; }
	@echo "creating examples/$*/.venv (once)"
	@rm -rf examples/$*/.venv && $(PYTHON) -m venv examples/$*/.venv
	@examples/$*/.venv/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

$(FLINK)/lib/.ready: $(FLINK)/pom.xml
	@cd $(FLINK) && mvn -q -B dependency:copy-dependencies -DoutputDirectory=lib
	@touch $@

examples/typescript/node_modules/.ready: examples/typescript/package-lock.json
	@cd examples/typescript && npm ci --loglevel=error --no-audit --no-fund
	@touch $@

generators: $(READY) ## types from schemas/json in TypeScript, Go, Java, Python, compiled; tables of Kafka Connect
	@GENERATORS=1 $(BIN)/python -m pytest tests/interop/test_generators.py tests/interop/test_kafka_connect.py $(ARGS)

sinks: $(READY) ## Kafka Connect 4.1 and 4.2 write Iceberg and PostgreSQL as docs/kafka-connect.md says (needs mvn, javac)
	@SINKS=1 $(BIN)/python -m pytest --broker maven tests/interop/test_sinks.py $(ARGS)

fuzz: $(READY) ## a million hostile inputs for each target, made by coverage (ARGS="--runs 10000 http2"; docs/fuzzing.md)
	@{ command -v uv >/dev/null && uv pip install -q --python $(BIN)/python --require-hashes -r requirements-fuzz.txt; } \
		|| $(BIN)/python -m pip install -q --require-hashes -r requirements-fuzz.txt \
		|| echo "make: atheris is not to be had here: the inputs are made at random"
	@$(BIN)/python -m tests.support.fuzz.run $(ARGS)

chaos: $(READY) ## the bridge among faults, judged (ARGS="--minutes 30 --seed 7"; docs/chaos.md)
	@$(BIN)/python -m tests.support.chaos.run $(ARGS)

lint: $(READY) ## ruff and mypy
	@$(BIN)/ruff check $(CODE) examples
	@$(BIN)/ruff format --check $(CODE) examples
	@$(BIN)/mypy $(CODE)

fmt: $(READY) ## put the code in its form, mend what ruff can
	@$(BIN)/ruff check --fix $(CODE) examples
	@$(BIN)/ruff format $(CODE) examples

build: $(READY) ## sdists and wheels of the bridge and of its records, into dist/
	@rm -rf dist
	@$(BIN)/python -m hatchling build
	@cd schemas && ../$(BIN)/python -m hatchling build -d ../dist

release: $(READY) ## refuse what must not be released, then build (TAG=vX.Y.Z)
	@$(BIN)/python .ci/release.py $(if $(TAG),--tag "$(TAG)")
	@$(MAKE) --no-print-directory build

docs: $(DOCS)/.ready ## the documentation as a site, into site/
	@NO_MKDOCS_2_WARNING=1 $(DOCS)/bin/mkdocs build && echo "site/index.html"

ASYNCAPI := .cache/asyncapi
asyncapi: $(ASYNCAPI)/.ready ## schemas/asyncapi.json as HTML, into site/asyncapi.html (needs npm)
	@node .ci/asyncapi.cjs $(ASYNCAPI) site && echo "site/asyncapi.html"

# Without the browser that the template would fetch for PDFs.
$(ASYNCAPI)/.ready:
	@rm -rf $(ASYNCAPI) && mkdir -p $(ASYNCAPI)
	@PUPPETEER_SKIP_DOWNLOAD=1 npm install --loglevel=error --no-audit --no-fund --prefix $(ASYNCAPI) \
		@asyncapi/generator@3.4.1 @asyncapi/html-template@3.5.6
	@touch $@

PINNED = $(shell sed -n 's/^FROM //p' .ci/base/Dockerfile)
image: ## the container image, asm-kafka-bridge:local (BASE=pinned: on the base image's digest)
	@docker build $(if $(BASE),--build-arg BASE=$(if $(filter pinned,$(BASE)),$(PINNED),$(BASE))) -t asm-kafka-bridge:local .

manifests: ## render deploy/kubernetes and validate it (needs Go, and schemas from GitHub)
	@for folder in base example; do go run sigs.k8s.io/kustomize/kustomize/v5@v5.8.2 build deploy/kubernetes/$$folder \
		| go run github.com/yannh/kubeconform/cmd/kubeconform@v0.8.0 -strict -summary $(ARGS) || exit 1; done

audit: $(AUDIT)/.ready ## look up all locked requirements in the vulnerability data (needs a way to it)
	@$(AUDIT)/bin/pip-audit --strict --disable-pip --require-hashes $(foreach lock,$(wildcard requirements*.txt),-r $(lock))

sbom: $(AUDIT)/.ready ## the bill of materials of the image and the wheel, sbom/asm-kafka-bridge.cdx.json (CycloneDX)
	@rm -rf sbom && mkdir sbom && $(PYTHON) -m venv --without-pip sbom/.venv
	@$(AUDIT)/bin/python -m pip --python sbom/.venv/bin/python install -q --require-hashes -r requirements.txt
	@$(AUDIT)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible --output-format JSON \
		--output-file sbom/asm-kafka-bridge.cdx.json sbom/.venv/bin/python
	@rm -rf sbom/.venv

licences: $(READY) ## the licence of each locked requirement, as a table
	@$(BIN)/python -m tests.support.licences

schemas: $(READY) ## generate schemas/json and schemas/asyncapi.json from the records
	@$(BIN)/asm-bridge schemas export schemas/json
	@mv schemas/json/asyncapi.json schemas/

COMPILE := pip compile --quiet --universal --python-version 3.11 --upgrade --generate-hashes --no-emit-index-url \
	--no-emit-find-links --no-emit-package asm-kafka-bridge-schemas --no-header --no-annotate

lock: $(READY) ## choose the newest allowed versions of all requirements
	@command -v uv >/dev/null || $(BIN)/python -m pip install -q uv
	@PATH="$$PATH:$(BIN)" && uv $(COMPILE) pyproject.toml --output-file requirements.txt \
		&& uv $(COMPILE) pyproject.toml --extra dev --constraint requirements.txt --output-file requirements-dev.txt \
		&& uv $(COMPILE) --group audit --output-file requirements-audit.txt \
		&& uv $(COMPILE) --group docs --output-file requirements-docs.txt \
		&& uv $(COMPILE) --group build --output-file requirements-build.txt \
		&& uv $(COMPILE) --group fuzz --output-file requirements-fuzz.txt
	@PATH="$$PATH:$(BIN)" && for example in $(PYTHON_EXAMPLES:%=examples/%); do \
		uv $(COMPILE) $$example/requirements.in --output-file $$example/requirements.txt || exit 1; \
	done

clean: ## remove everything that was made, the environment too
	@rm -rf $(VENV) .venv-* dist site $(ASYNCAPI) sbom .fuzz .pytest_cache .mypy_cache .ruff_cache .hypothesis
	@rm -rf examples/*/.venv examples/typescript/node_modules $(FLINK)/lib
	@find $(CODE) -name __pycache__ -prune -exec rm -rf {} +

# An environment at $(2) with Python $(1) and the locked versions. uv may lack this machine's certificates or settings,
# which pip has: where it fails, pip does the same.
define environment
	@test -n "$(1)" || { echo "make: no Python >= 3.11 found: install one, or say make PYTHON=/path/to/python" >&2; exit 1; }
	@rm -rf $(2)
	@echo "creating $(2) (once)"
	@if command -v uv >/dev/null && uv venv -q --python "$(1)" $(2) \
		&& uv pip install -q --python $(2)/bin/python --require-hashes -r requirements-dev.txt \
		&& uv pip install -q --python $(2)/bin/python --no-deps --no-build-isolation -e schemas -e .; then :; else \
		rm -rf $(2) && $(1) -m venv $(2) \
		&& $(2)/bin/python -m pip install -q --require-hashes -r requirements-dev.txt \
		&& $(2)/bin/python -m pip install -q --no-deps --no-build-isolation -e schemas -e .; fi
	@touch $@
endef

$(READY): requirements-dev.txt
	$(call environment,$(PYTHON),$(VENV))

$(AUDIT)/.ready $(DOCS)/.ready: .venv-%/.ready: requirements-%.txt
	@rm -rf $(@D) && $(PYTHON) -m venv $(@D)
	@$(@D)/bin/python -m pip install -q --require-hashes -r $<
	@touch $@

.PRECIOUS: .venv-%/.ready
.venv-%/.ready: requirements-dev.txt
	$(call environment,$(call find,$*),.venv-$*)

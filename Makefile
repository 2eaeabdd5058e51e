# Everything starts here: `make help`. The first target that needs it makes .venv; nothing else is installed anywhere.

VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
INSTALLED_BENCH := $(VENV)/.installed-bench
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint fmt bench docs soak clean

help: ## Show this list.
	@echo "raydc: from a data set to an answering endpoint"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))
	@echo "Set RAYDC_PYTHON to choose the Python (3.11 to 3.14) that .venv is made with."

demo: $(INSTALLED) ## Handwritten digits, from the data set to an answered request.
	$(BIN)/python examples/download.py digits
	$(BIN)/raydc run examples/digits/spec.yaml --new --once $(DEMO_FLAGS)

test: $(INSTALLED) ## All tests; says at the end which could not run here, and why.
	$(BIN)/python -m pytest

lint: $(INSTALLED) ## ruff, mypy --strict and the contracts of the layers.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports

fmt: $(INSTALLED) ## Format, and mend what ruff can mend.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(INSTALLED_BENCH) ## Training and serving against the usual ways; what the same bits cost. Serving needs wrk (apt install wrk).
	$(BIN)/python bench/train.py
	$(BIN)/python bench/exact.py
	$(BIN)/python bench/serve.py

docs: $(INSTALLED) ## Write docs/spec.md from the classes of the spec.
	$(BIN)/python docs/generate.py

soak: $(INSTALLED) ## The long tests.
	$(BIN)/python -m pytest --soak -m soak

clean: ## Remove .venv, caches and build output; runs and data stay.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# pip is the last thing that venv makes, so an interrupted attempt is made again.
$(BIN)/pip:
	@python=$$(.ci/find-python) && echo "making $(VENV) with $$python" && { "$$python" -m venv $(VENV) || { \
	  echo "$$python could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }; }

$(INSTALLED): pyproject.toml | $(BIN)/pip
	@echo "installing raydc and what it needs into $(VENV); the first time takes some minutes"
	@$(PIP) --editable '.[dev,examples]'
	@touch $@

$(INSTALLED_BENCH): $(INSTALLED)
	@$(PIP) --editable '.[dev,examples,bench]'
	@touch $@

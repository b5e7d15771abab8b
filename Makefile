# Everything starts here: `make demo` and `make test` set up what they need by themselves.
# A machine needs git, make, Python 3.11 or newer with venv, and a package index.

PYTHON ?= python3
VENV = .venv
BIN = $(VENV)/bin
INSTALLED = $(VENV)/.installed

# Of `make demo`: where the data is (nothing: it draws its own), and where the results go.
# DATA is taken by `make bench`, too.
DATA =
OUT = demo

# Share of branches and lines in percent that tests must reach.
COVERAGE = 85
CORE = io data metrics inference
CORE_COVERAGE = 95

.PHONY: help demo test lint format fuzz bench bench-quick freeze venv clean
.DELETE_ON_ERROR:

help:  ## Say what can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-11s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: $(INSTALLED)  ## Train, score and predict in minutes; DATA=folder for real data, OUT=folder
	$(BIN)/diapir demo $(if $(DATA),--data "$(DATA)") --out "$(OUT)"

test: lint  ## Check format, lint and types, run the tests, demand coverage
	$(BIN)/python -m pytest --numprocesses=auto --dist=loadfile --no-loadscope-reorder --cov --cov-report=
	@$(BIN)/coverage report --fail-under=$(COVERAGE)
	@for package in $(CORE); do \
		printf '%s: ' $$package; \
		$(BIN)/coverage report --include="*/diapir/$$package/*" --format=total \
			--fail-under=$(CORE_COVERAGE) || exit 1; \
	done

lint: $(INSTALLED)  ## Check format, lint and types
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy

format: $(INSTALLED)  ## Format, and mend what can be mended by itself
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

fuzz: $(INSTALLED)  ## Feed 100,000 damaged and hostile inputs to every reader; RESUME=1 goes on
	$(BIN)/python benchmarks/fuzz.py --count 100000 --out docs/reliability/fuzz.json \
		$(if $(RESUME),--resume)
	$(BIN)/python benchmarks/reliability.py

bench: $(INSTALLED)  ## Measure all that is claimed of speed and memory; DATA=folder for real data
	$(BIN)/python benchmarks/performance.py $(if $(DATA),--data "$(DATA)")

bench-quick: $(INSTALLED)  ## The same on little, within minutes, compared with no limit of speed
	$(BIN)/python benchmarks/performance.py --effort quick --out artifacts/bench \
		$(if $(DATA),--data "$(DATA)")

venv: $(INSTALLED)  ## Install into .venv, with the versions of constraints.txt

# Runs again when the dependencies or their versions change.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Diapir needs Python \
	3.11 or newer, this is %d.%d; name another: make PYTHON=python3.12" % sys.version_info[:2])'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --disable-pip-version-check \
		--constraint constraints.txt --editable '.[dev,volume,serve,export]'
	@touch $@

freeze: $(INSTALLED)  ## Write the versions that are in .venv to constraints.txt
	@{ sed -n '/^#/p' constraints.txt; \
	   $(BIN)/python -m pip freeze --all --exclude-editable \
	   | grep -viE '^(pip|triton|nvidia-[a-z0-9-]+|cuda-[a-z-]+)=='; } > constraints.new
	@mv constraints.new constraints.txt && touch $(INSTALLED)

clean:  ## Remove the environment, caches and the demo's results
	rm -rf $(VENV) demo dist build artifacts .coverage .coverage.* htmlcov \
		.mypy_cache .ruff_cache .pytest_cache .hypothesis
	find src tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

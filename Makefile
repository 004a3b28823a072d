# Each target makes .venv if it is missing, so a fresh clone needs Python 3.11 and make, nothing else.
PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers/.installed

.PHONY: help demo test lint docs coverage mutants bench faults fuzz clean
help:  ## list the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dp,flare,scvi,trex]" --group dev
	touch $@

demo: $(STAMP)  ## five hospitals, one tumour classifier, one minute
	$(BIN)/infl demo --out demo_output

test: $(STAMP)  ## lint, types, all tests
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest

lint: $(STAMP)  ## mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation into docs/_build/html
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group doc
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

coverage: $(STAMP)  ## run all tests and say which branches none of them takes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest
	$(BIN)/coverage combine --quiet
	for part in privacy/* keys/* nn/lock.py nn/field.py federation/*; do \
		$(BIN)/coverage report --include="src/infl/$$part" --fail-under=97 || exit 1; done
	$(BIN)/coverage report

mutants: $(STAMP)  ## change seal, lock and keys in many places, and see that their tests notice (an hour)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group mutants
	$(BIN)/python tests/mutants.py

# Federated software that benchmarks compare with; its dependencies exclude those of infl[flare].
$(PEERS): pyproject.toml constraints.txt
	test -x $(dir $(PEERS))bin/python || $(PYTHON) -m venv $(dir $(PEERS))
	$(dir $(PEERS))bin/python -m pip install --quiet --constraint constraints.txt torch
	$(dir $(PEERS))bin/python -m pip install --quiet --constraint constraints.txt --editable . --group peers
	touch $@

bench: $(STAMP) $(PEERS)  ## run every benchmark and write benchmarks/results/*.json
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --group bench
	for script in benchmarks/[a-z]*.py; do $(BIN)/python $$script || exit 1; done

faults: $(STAMP)  ## kill, cut and fill what a run between machines needs, and see that it goes on (half an hour; as root for all)
	$(BIN)/python tests/federation/flare/faults.py

fuzz: $(STAMP)  ## give every parser a million broken files and messages (some minutes)
	$(BIN)/python tests/test_fuzz.py

clean:  ## remove what the other targets made
	rm -rf $(VENV) $(dir $(PEERS)) demo_output docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

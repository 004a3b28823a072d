# Each target makes its environment if it is missing, so a fresh clone needs Python 3.11 or later and make, nothing else:
# .venv for python3, .venv-3.13 for `make test PYTHON=python3.13`.
PYTHON ?= python3
VENV   := $(if $(filter python3,$(PYTHON)),.venv,.venv-$(subst python,,$(notdir $(PYTHON))))
BIN    := $(VENV)/bin
STAMP  := $(VENV)/.installed
PEERS  := .venv-peers/.installed
TESTS  :=
# Files with tests that must have the machine to themselves: to collect all tests a second time takes half a minute.
ALONE   = $(shell grep -rlE 'mark\.alone\b' --include='*.py' $(or $(TESTS),tests))
# Files with tests that take long; without them, nothing else is collected for `make test-long`.
LONG    = $(shell grep -rlE 'mark\.long\b' --include='*.py' tests)
# Tests start many processes; each would compile the package again.
unexport PYTHONDONTWRITEBYTECODE
STEPS  := 20000
# pyenv puts Pythons on the path that it runs only when they are chosen.
PYENV   = $$(pyenv versions --bare 2>/dev/null | grep -E '^$(subst python,,$(notdir $(PYTHON)))\.[0-9.]+$$' | tail -1)
RUN     = if $(PYTHON) -c '' 2>/dev/null; then $(PYTHON) $(1); else PYENV_VERSION=$(PYENV) $(PYTHON) $(1); fi
# Which versions known to work together there are depends on the environment's Python.
PINS    = $$($(BIN)/python -c 'import sys; print("constraints.txt" if sys.version_info < (3, 12) else "constraints-today.txt")')

.PHONY: help environment interpreter demo test test-long lint docs charts coverage release mutants bench faults study fuzz model-check clean
help:  ## list the targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/'

$(BIN)/python:
	$(call RUN,-m venv $(VENV))

$(STAMP): pyproject.toml constraints.txt constraints-today.txt | $(BIN)/python
	$(BIN)/python -m pip install --quiet --upgrade "pip>=25.1"
	$(BIN)/python -m pip install --quiet --constraint $(PINS) torch
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --editable ".[dp,flare,scvi,trex]" --group dev
	touch $@

environment: $(STAMP)  ## make the environment, and do nothing in it

interpreter:  ## say which Python PYTHON= names; fail where there is none
	@$(call RUN,-c 'import sys; print(sys.version.split()[0])')

demo: $(STAMP)  ## five hospitals, one tumour classifier, one minute
	$(BIN)/infl demo --out demo_output

# One thread in each worker: with more, workers on as many cores get into each other's way.
test test-long: export OMP_NUM_THREADS := $(or $(OMP_NUM_THREADS),1)

test: $(STAMP)  ## lint, types, all tests but those that take long
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	test "$(PINS)" != constraints.txt || $(BIN)/mypy # against one set of versions: what others say of their types differs
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not alone and not long" $(TESTS)
	$(if $(ALONE),$(BIN)/python -m pytest -m "alone and not long" $(ALONE))

test-long: $(STAMP)  ## tests that take long: runs between processes, attacks on run after run (some minutes)
	$(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "long and not alone" $(LONG)

lint: $(STAMP)  ## mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP)  ## build the documentation into docs/_build/html
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --group doc
	$(BIN)/python -m sphinx -W --keep-going -b html docs docs/_build/html

charts: $(STAMP)  ## render the Helm chart by Helm's own library, and check it by Kubernetes' schemas
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --group charts
	$(BIN)/python -m pytest tests/cli/test_chart.py

coverage: $(STAMP)  ## run all tests and say which branches none of them takes
	$(BIN)/coverage erase
	$(BIN)/coverage run -m pytest -n auto --dist loadfile --no-loadscope-reorder -m "not alone"
	$(if $(ALONE),$(BIN)/coverage run -m pytest -m alone $(ALONE))
	$(BIN)/coverage combine --quiet
	for part in privacy/* keys/* nn/lock.py nn/field.py federation/* deploy/*; do \
		$(BIN)/coverage report --include="src/infl/$$part" --fail-under=97 || exit 1; done
	$(BIN)/coverage report

release: $(STAMP)  ## write VERSION= where it stands, build, try in new environments of two Pythons; dist/ is what is uploaded
	$(BIN)/python release/release.py $(VERSION)

mutants: $(STAMP)  ## change seal, lock, keys and the checks of a site in many places, and see that their tests notice (an hour)
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --group mutants
	$(BIN)/python tests/mutants.py

# Federated software that benchmarks compare with; its dependencies exclude those of infl[flare].
$(PEERS): pyproject.toml constraints.txt
	test -x $(dir $(PEERS))bin/python || { $(call RUN,-m venv $(dir $(PEERS))); }
	$(dir $(PEERS))bin/python -m pip install --quiet --constraint constraints.txt torch
	$(dir $(PEERS))bin/python -m pip install --quiet --constraint constraints.txt --editable . --group peers
	touch $@

bench: $(STAMP) $(PEERS)  ## run every benchmark and write benchmarks/results/*.json; cut short, it goes on at the next call
	$(BIN)/python -m pip install --quiet --constraint $(PINS) --group bench
	mkdir -p .bench
	for script in benchmarks/[a-z]*.py; do \
		done=.bench/$$(basename $$script); test -e $$done || { $(BIN)/python $$script && touch $$done; } || exit 1; done
	rm -r .bench

faults: $(STAMP)  ## kill, cut and fill what a run between machines needs, and see that it goes on (over half an hour; as root for all)
	$(BIN)/python tests/deploy/flare/faults.py

study: $(STAMP)  ## studies between processes over TLS: the guide word by word, all tasks as steps, −9 at thirty places (half an hour)
	$(BIN)/python -m pytest tests/cli/test_study_between_hospitals.py
	$(BIN)/python tests/deploy/flare/study_faults.py

fuzz: $(STAMP)  ## give every parser a million broken files and messages (some minutes), then let enemies play (ten more; STEPS=1000000: a night)
	$(BIN)/python tests/test_fuzz.py
	INFL_ENEMY_STEPS=$(STEPS) $(BIN)/python -m pytest -q tests/federation/test_enemy_machine.py -k enemies_get_nothing

model-check:  ## search every state of the model of attempts, reveals and epochs; needs spin and gcc (half a minute)
	@$(call RUN,tests/model/check.py)

clean:  ## remove what the other targets made
	rm -rf .venv .venv-* .bench demo_output docs/_build .pytest_cache .mypy_cache .ruff_cache .import_linter_cache

# make play          install what is missing, then open a world in the browser
# make test          the test suite
# make test-cluster  what it leaves out of killed nodes, drivers and replicas: some minutes
# make test-long     the soaks that both leave out
# make test-cov      the test suite with its coverage; fails below 80 % of the lines
# make check         format, lint, types, layering and structure

PYTHON ?= python3
VENV := .venv
INSTALLED := $(VENV)/.installed
BIN := $(VENV)/bin

.PHONY: play test test-cluster test-long test-cov check install clean

play: $(INSTALLED)
	$(BIN)/gamegen play

test: $(INSTALLED)
	./cluster/install-system-packages.sh
	$(BIN)/python -m pytest -n 2

test-cluster: $(INSTALLED)
	./cluster/install-system-packages.sh
	$(BIN)/python -m pytest -n 2 -m 'cluster and not long'

test-long: $(INSTALLED)
	./cluster/install-system-packages.sh
	$(BIN)/python -m pytest -m long

test-cov: $(INSTALLED)
	./cluster/install-system-packages.sh
	$(BIN)/python -m pytest -n 2 --cov --cov-report=term:skip-covered

check: $(INSTALLED)
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py tests/test_structure.py

install: $(INSTALLED)

# The stamp is made last: an interrupted installation is taken up again.
$(INSTALLED): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 13))' || \
	  { echo "$(PYTHON) is not Python 3.11 or 3.12: run make PYTHON=python3.12"; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) build dist *.egg-info .mypy_cache .pytest_cache .ruff_cache .coverage*

# Needs Graphviz (apt-get install graphviz).
docs/architecture.svg: docs/architecture.dot
	dot -Tsvg $< -o $@

# `make train` and `make test` set themselves up in .venv from the lock file.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
# Recorded tapes (neuralmm import), if there are any: the same policies are evaluated on them too.
STORE ?= store

.PHONY: train test paper check site package lock clean

train: $(READY)
	$(BIN)/neuralmm train $(if $(wildcard $(STORE)),--store $(STORE))

test: $(READY)
	$(BIN)/python -m pytest --numprocesses auto --dist loadfile

# A demonstration on loopback: a local exchange plays a recorded tape of the store, a desk trades on it.
paper: $(READY)
	$(BIN)/python -m examples.paper --store $(STORE)

check: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy

$(READY): requirements.lock pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "NeuralMM needs Python 3.11 or newer: make PYTHON=python3.11 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --requirement requirements.lock
	$(BIN)/pip install --quiet --no-deps --editable .
	$(BIN)/neuralmm warm
	touch $@

# The documentation as a site, in the folder site; a warning is an error.
site: $(READY)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

# Build, check and use what would be published.
package: $(READY)
	.ci/package.sh

# Resolve the lock file anew, from pyproject.toml.
lock:
	$(BIN)/pip-compile --quiet --extra replay --extra live --extra deploy --extra docs --extra dev --strip-extras --no-emit-index-url --no-emit-find-links \
		--no-emit-trusted-host --no-annotate --constraint constraints.txt --output-file requirements.lock pyproject.toml
	sed -i 's/^\(torch==[0-9.]*\)+cpu$$/\1/' requirements.lock

clean:
	rm -rf .venv site

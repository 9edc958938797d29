# make quickstart   install, and run the whole road on handwritten digits; a second run takes seconds
# make test         install, and run lint, types and tests
# make clean        remove what quickstart made, and .venv

PYTHON ?= python3
BIN := .venv/bin
ROAD := quickstart

.PHONY: quickstart test clean
.DELETE_ON_ERROR:

quickstart: $(BIN)/cnn-eval
	@$(MAKE) --no-print-directory -f examples/digits/Makefile BIN=$(BIN)/ OUT=$(ROAD)

test: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/python -m pytest

# The commands, installed so that changes in the source are seen at once.
$(BIN)/cnn-eval: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@touch $@

.venv/test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@touch $@ $(BIN)/cnn-eval

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cnnkit needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf .venv $(ROAD)

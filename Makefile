# make quickstart   install, and run the whole road on handwritten digits; a second run takes seconds
# make test         install, and run lint, types, import rules and all tests that are not marked slow: minutes, on two cores
#                   (make -j2 test runs the checks next to the tests, and saves half a minute)
# make test-all     the same with the slow ones: whole examples, the README's commands, signals on every command, torchrun
# make test-gpu     on a machine with a GPU: what needs one, what is refused there, and how fast it is
# make fuzz         damage 10,000 inputs, run the commands on them, and write the counts into docs/reliability.md: 10 minutes
# make man          write docs/man again, the manual pages, from the help of the commands
# make clean        remove what quickstart made, and .venv

PYTHON ?= python3
BIN := .venv/bin
ROAD := quickstart
# Tests run in two processes of one thread each. A file of tests stays in one process, so that what its fixtures make is made once;
# the longest files come first (tests/conftest.py). For a single file: .venv/bin/python -m pytest tests/test_cli.py
# Tests that call make get no flags of this one: its job server is not theirs.
PYTEST = MAKEFLAGS= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of processes: what they import is compiled once.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-all fast-tests all-tests fuzz test-gpu man checks clean
.DELETE_ON_ERROR:

quickstart: $(BIN)/cnn-eval
	@$(MAKE) --no-print-directory -f examples/digits/Makefile BIN=$(BIN)/ OUT=$(ROAD)

test: checks fast-tests

test-all: checks all-tests

fast-tests: .venv/test
	$(PYTEST) -m "not slow"

all-tests: .venv/test
	$(PYTEST)

test-gpu: .venv/test
	@$(BIN)/python -c 'import sys; from cnnkit.engine import device; sys.exit(0 if device.gpus() else "make test-gpu needs an NVIDIA GPU; the driver shows none here")'
	$(BIN)/cnn-extract --version
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py cuda
	$(BIN)/python benchmarks/train.py

fuzz: .venv/test
	$(BIN)/python tests/fuzz/fuzz.py --count 10000 --report docs/reliability.md

man: $(BIN)/cnn-eval
	$(BIN)/python -m cnnkit.cli.man docs/man
	@$(LINK_PAGES)

checks: .venv/test
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/lint-imports

# An editable installation leaves the manual pages out; a wheel has them in share/man.
LINK_PAGES = for section in man1 man7; do mkdir -p .venv/share/man/$$section && ln -sf "$(CURDIR)/docs/man/$$section/"* .venv/share/man/$$section/; done

# The commands, installed so that changes in the source are seen at once.
$(BIN)/cnn-eval: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable .
	@$(LINK_PAGES)
	@touch $@

.venv/test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install --quiet --editable '.[test]'
	@$(LINK_PAGES)
	@touch $@ $(BIN)/cnn-eval

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cnnkit needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf .venv $(ROAD)

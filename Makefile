# make quickstart   install, and run the whole workflow on handwritten digits; a second run takes seconds
# make test         install, and run lint, types, import rules and the tests not marked slow: minutes on two cores
#                   (make -j2 test runs the checks and the tests in parallel, which saves half a minute)
# make test-all     the same including slow tests: whole examples, the commands of README and docs, signals on every command, torchrun, Ray,
#                   which is installed next to the rest, in .venv/ray
# make test-gpu     on a machine with a GPU: the tests that need one, and benchmarks
# make bench        measure the commands and other programs that do the same work, on an idle machine: 15 minutes;
#                   DATA=folder of photographs, WEIGHTS=of MobileNetV2, ROUNDS=3, ONLY=row,row (benchmarks/README.md)
# make fuzz         run the commands on 10,000 damaged inputs, and write the counts to docs/reliability.md: 10 minutes
# make man          write docs/man again, the manual pages, from the help of the commands
# make clean        remove the output of quickstart, and .venv

PYTHON ?= python3
BIN := .venv/bin
OUT := quickstart
ROUNDS ?= 5
# Tests run in two processes of one thread each. Each test file runs in one process, so that its fixtures are made once; the slowest files
# run first (tests/conftest.py). For a single file: .venv/bin/python -m pytest tests/test_cli.py
# MAKEFLAGS is empty for tests that call make: they must not use the job server of this make.
PYTEST = MAKEFLAGS= $(BIN)/python -m pytest --numprocesses 2 --dist loadfile --no-loadscope-reorder

# Tests start hundreds of processes: let Python cache the compiled modules.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: quickstart test test-all fast-tests all-tests fuzz test-gpu bench man checks clean
.DELETE_ON_ERROR:

quickstart: $(BIN)/cnn-eval
	@$(MAKE) --no-print-directory -f examples/digits/Makefile BIN=$(BIN)/ OUT=$(OUT)

test: checks fast-tests

test-all: checks all-tests

fast-tests: .venv/test
	$(PYTEST) -m "not slow"

all-tests: .venv/test .venv/ray/made
	$(PYTEST)

test-gpu: .venv/test
	@$(BIN)/python -c 'import sys; from cnnkit.engine import device; sys.exit(0 if device.gpus() else "make test-gpu needs an NVIDIA GPU; the driver shows none here")'
	$(BIN)/cnn-extract --version
	$(BIN)/python -m pytest -m gpu
	$(BIN)/python benchmarks/gpu.py cuda

bench: .venv/peers/made
	$(BIN)/python benchmarks/suite.py $(if $(DATA),--data '$(DATA)') $(if $(WEIGHTS),--weights '$(WEIGHTS)') --rounds $(ROUNDS) --only '$(ONLY)'

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

# An editable installation does not include the manual pages; a wheel has them in share/man.
LINK_PAGES = for section in man1 man7; do mkdir -p .venv/share/man/$$section && ln -sf "$(CURDIR)/docs/man/$$section/"* .venv/share/man/$$section/; done

# Python compiles the modules that are imported when they are; pip would compile more than ten thousand.
PIP := --quiet --no-compile

# An editable installation of the commands: changes of the source take effect at once.
$(BIN)/cnn-eval: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP) --editable .
	@$(LINK_PAGES)
	@touch $@

.venv/test: pyproject.toml | $(BIN)/python
	$(BIN)/python -m pip install $(PIP) --editable '.[test]'
	@$(LINK_PAGES)
	@touch $@ $(BIN)/cnn-eval

# Environments on top of .venv: its packages, in the same versions, and further ones.
ON_TOP = $(BIN)/python -m venv $(@D) && \
	$(BIN)/python -c 'import site; print("import site; site.addsitedir(%r)" % site.getsitepackages()[0])' > "$$(echo $(@D)/lib/python3*/site-packages)/base.pth" && \
	$(BIN)/python -m pip freeze --exclude-editable > $(@D)/constraints.txt
ON_TOP_PIP = $(@D)/bin/python -m pip install $(PIP) --constraint $(@D)/constraints.txt

# Ray brings pandas and pyarrow, which scikit-learn imports wherever they are installed. Where it cannot be installed, its tests are skipped,
# and the next make tries again. Two programs must not write to .venv and read its packages at once, so that it waits for those of the tests.
BEFORE_RAY := .venv/test
.venv/ray/made: pyproject.toml | $(BEFORE_RAY)
	$(ON_TOP)
	@if $(ON_TOP_PIP) --editable '.[ray]'; then touch $@; else echo "Ray is not installed; its tests are skipped"; fi

# The other programs of `make bench`
.venv/peers/made: benchmarks/peers.txt | $(BIN)/cnn-eval
	$(ON_TOP)
	$(ON_TOP_PIP) --requirement benchmarks/peers.txt
	@touch $@

$(BIN)/python:
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "cnnkit needs Python 3.11 or newer; name one with make PYTHON=python3.12")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --upgrade pip

clean:
	rm -rf .venv $(OUT)

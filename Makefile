# Everything runs from here: `make install`, `make demo`, `make test`, `make check`, `make bench`.
#
# TORCH chooses the build of torch (the version is in constraints.txt):
#   make test                cpu, the default: the CPU build
#   make TORCH=cu130 test    a CUDA build; any folder name of https://download.pytorch.org/whl works
TORCH ?= cpu

PYTHON ?= $(shell for python in python3.11 python3.12 python3.13 python3 python; do \
	$$python -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null \
	&& echo $$python && break; done)

VENV := .venv
PIP := $(VENV)/bin/python -m pip install --disable-pip-version-check --quiet
RUN_STAMP := $(VENV)/.installed-$(TORCH)
TEST_STAMP := $(VENV)/.installed-$(TORCH)-test
METADATA := pyproject.toml constraints.txt

# PyTorch's own index is asked for the CPU build; where it cannot be reached, pip's own index serves.
ifeq ($(TORCH),cpu)
TORCH_FROM := --no-deps --retries 0 --timeout 15 \
	--extra-index-url https://download.pytorch.org/whl/cpu
else
TORCH_FROM := --index-url https://download.pytorch.org/whl/$(TORCH)
endif

# Tests run two at a time, each with one thread: the same sums on every machine, no oversubscription.
PYTEST := OMP_NUM_THREADS=1 TOKENIZERS_PARALLELISM=false $(VENV)/bin/python -m pytest -n 2

.DELETE_ON_ERROR:
.PHONY: install demo test check bench system_packages

install: $(RUN_STAMP)

demo: $(RUN_STAMP)
	$(VENV)/bin/lorakit demo

test: $(TEST_STAMP) system_packages
	$(PYTEST)

check: $(TEST_STAMP) system_packages
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy
	$(PYTEST)

bench: $(TEST_STAMP)
	for script in benchmarks/*.py; do $(VENV)/bin/python $$script || exit 1; done

# Tests stop a save before each of its system calls (strace) and run code in a jail (bubblewrap).
system_packages:
	@scripts/system_packages.sh

$(VENV)/bin/python:
	@test -n "$(PYTHON)" || { echo "lorakit needs Python 3.11 or newer; none was found."; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(RUN_STAMP): $(METADATA) | $(VENV)/bin/python
	$(PIP) $(TORCH_FROM) $$(grep '^torch==' constraints.txt)
	$(PIP) --constraint constraints.txt --editable .
	rm -f $(VENV)/.installed-*
	touch $@

$(TEST_STAMP): $(RUN_STAMP)
	$(PIP) --constraint constraints.txt --editable '.[test,peers,gpu]'
	touch $@

# make setup | demo | test | lint | docs | cuda-gate | cuda-on-host | clean      docs/building.md says what each needs and does.
#
# Needed on the machine: Python >= 3.11 with venv and headers, g++, make. Everything else comes from PyPI into .venv/.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := setup
.DELETE_ON_ERROR:
.PHONY: setup demo test test-host test-python lint docs cuda-gate cuda-on-host benchmark-ops clean

PYTHON ?= python3
# Tests have one thread unless they are about threads, so several run at once.
PYTEST_ARGS ?= --numprocesses auto --maxprocesses 4 --dist worksteal
# Tests marked `alone` run after them, one by one.
TESTS ?= tests
PYDISTILL_CUDA ?= auto
PYDISTILL_BUILD ?= 1
export PYDISTILL_CUDA

VENV := .venv
BIN := $(VENV)/bin
# cmake and ninja of the machine if it has them, else pip's.
export PATH := $(PATH):$(CURDIR)/$(BIN)

SOURCES := $(wildcard csrc/kernels/* csrc/cpu/* csrc/cpu/simd/* csrc/bindings/* csrc/cuda/* csrc/engine/* csrc/ops/* csrc/tensors/*)
FORMATTED := $(wildcard csrc/*/*.h csrc/*/*.cpp csrc/*/*.cu csrc/*/*.cuh csrc/cpu/simd/* csrc/tests/cuda_on_host/*.* \
    csrc/tests/cuda_on_host/include/*)
# The stamp's name tells how the extension was built, so that another choice builds it again.
EXTENSION := $(VENV)/.extension-cuda-$(PYDISTILL_CUDA)-build-$(PYDISTILL_BUILD)

setup: $(EXTENSION)

$(VENV)/.created:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and f"pydistill needs Python 3.11 or later, this is {sys.version}")'
	$(PYTHON) -m venv $(VENV)
	@touch $@

$(VENV)/.dependencies: pyproject.toml $(VENV)/.created
	$(BIN)/python -m pip install --quiet --disable-pip-version-check torch torchvision "setuptools>=77" wheel ninja numpy
	PYDISTILL_BUILD=0 $(BIN)/python -m pip install --quiet --disable-pip-version-check --no-build-isolation \
	    --config-settings editable_mode=compat --editable '.[cli,vision,test,dev]'
	command -v cmake > /dev/null || $(BIN)/python -m pip install --quiet --disable-pip-version-check cmake
	@touch $@

$(EXTENSION): $(VENV)/.dependencies setup.py $(SOURCES)
	@rm -f $(VENV)/.extension-*
ifeq ($(PYDISTILL_BUILD),0)
	rm -f pydistill/_C*.so
else
	@mkdir -p build
	@# The compiler's output is kept in build/extension.log and shown if it fails.
	@$(BIN)/python setup.py build_ext --inplace > build/extension.log 2>&1 || { cat build/extension.log; exit 1; }
	@grep '^pydistill:' build/extension.log
endif
	@touch $@

demo: setup
	$(BIN)/pydistill demo

test: test-host test-python

test-host: $(VENV)/.dependencies
	cmake -S . -B build/host -DPYDISTILL_SANITIZE=ON
	cmake --build build/host --parallel 2
	ctest --test-dir build/host --parallel 2 --output-on-failure

test-python: setup
	@# pytest's status 5: no test of this kind; there must be some of one kind.
	ran=0; \
	run() { \
	    local status=0; \
	    $(BIN)/python -m pytest "$$@" $(TESTS) || status=$$?; \
	    case $$status in 0) ran=1;; 5) ;; *) exit $$status;; esac; \
	}; \
	run -m "not alone" $(PYTEST_ARGS); \
	run -m alone $(PYTEST_ARGS) --numprocesses 0; \
	if [ $$ran = 0 ]; then \
	    echo "test-python: no test was found; TESTS says where they are, PYTEST_ARGS how they run" >&2; exit 5; \
	fi

lint: $(VENV)/.dependencies
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/clang-format --dry-run --Werror $(FORMATTED)

docs: setup
	$(BIN)/python docs/reference.py build/docs
	@echo build/docs/index.html

cuda-gate: $(VENV)/.dependencies
	.ci/cuda-gate

# The kernels for the GPU at many more sizes than `make test` runs them at, on the host.
cuda-on-host: $(VENV)/.dependencies
	cmake -S . -B build/host -DPYDISTILL_SANITIZE=ON
	cmake --build build/host --parallel 2
	ctest --test-dir build/host --build-config sweep --tests-regex cuda_on_host --parallel 2 --output-on-failure

# Memory that is freed is kept: the pages of fresh results would take more time than many an op.
benchmark-ops: setup
	MALLOC_MMAP_MAX_=0 MALLOC_TRIM_THRESHOLD_=100000000000 MALLOC_TOP_PAD_=100000000 \
	    $(BIN)/python -m pytest benchmarks/ops --benchmark-columns=median,iqr,rounds

clean:
	rm -rf $(VENV) build dist *.egg-info pydistill/_C*.so .pytest_cache .mypy_cache .ruff_cache .hypothesis .benchmarks

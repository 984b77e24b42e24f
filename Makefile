# Everything runs in a virtual environment of its own, made on first use.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
READY := $(VENV)/.installed

.DEFAULT_GOAL := help
.PHONY: help install demo test bench sweep fuzz scale lint docs golden wheel-test clean

help:  ## what each target does
	@grep -E '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed 's/:.*##/\t/' | expand -t 14

$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "graphopt needs Python 3.11 or newer; set PYTHON=python3.12, say"; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable ".[dev]"
	@touch $@

install: $(READY)  ## a virtual environment in .venv with graphopt and what its tests need

demo: $(READY)  ## compile a real OCR network, read a line of text with it, compare with ONNX Runtime
	$(BIN)/python -m golden_models.demo

test: $(READY)  ## the test suite (at most 20 minutes on 2 cores)
	$(BIN)/python -m pytest -n 2 --dist worksteal tests

bench: $(READY)  ## time eleven models beside ONNX Runtime and OpenVINO; writes bench.html
	$(BIN)/python -m golden_models.bench --threads 1,2 --html bench.html

sweep: $(READY)  ## the complete, long sweeps
	$(BIN)/python -m pytest -n 2 --dist worksteal -m sweep tests

FUZZ ?= 5000
SEED ?= 0
fuzz: $(READY)  ## every pass over FUZZ=5000 random graphs, and the back end over a few of them
	$(BIN)/python -m graphopt.testing.fuzzing --examples $(FUZZ) --seed $(SEED)
	$(BIN)/python -m graphopt.testing.fuzzing --examples $$(($(FUZZ) / 50)) --seed $(SEED) --passes O2 --compile

scale: $(READY)  ## seconds and memory by the size of the model
	$(BIN)/python -m tests.sweep.scale

lint: $(READY)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(READY)  ## the documentation as HTML in site/
	$(BIN)/mkdocs build --strict

golden: $(READY)  ## regenerate the golden graphs; review the diff
	$(BIN)/python -m pytest tests/golden --update-golden

wheel-test: $(READY)  ## build the wheel and try it on every Python 3.11 to 3.13 found
	$(BIN)/python tests/wheel_smoke.py

clean:  ## remove what was built
	rm -rf $(VENV) build dist site fuzz-failures .mypy_cache .ruff_cache .pytest_cache

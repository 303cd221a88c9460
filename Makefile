# `make run` and `make test` need Python 3.11+ and make; everything else they set up themselves.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
PACKAGES := store lm sae features steering microworld pipelines benchmarks tests

export PATH := $(CURDIR)/$(BIN):$(PATH)
export DVC_NO_ANALYTICS := 1
export HF_HUB_OFFLINE ?= 1

.PHONY: run test check bench clean

run: $(READY)
	$(BIN)/dvc repro
	@echo "report: reports/index.html"

test: $(READY)
	$(BIN)/python -m pytest -q --numprocesses 2 --dist loadfile --durations=15

check: $(READY)
	$(BIN)/ruff check $(PACKAGES)
	$(BIN)/ruff format --check $(PACKAGES)
	$(BIN)/mypy $(PACKAGES)
	$(BIN)/python -m pytest -q tests/test_ladder.py tests/test_packaging.py tests/test_public_names.py

bench: $(READY)
	$(BIN)/python -m benchmarks

$(READY): pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

clean:
	rm -rf data plots metrics reports .work

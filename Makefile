# make demo | test | lint | bench: each creates what it needs (a .venv, pinned by constraints.txt). PYTHON picks the interpreter.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DEMO ?= build/demo
BENCH ?= build/bench
WORKERS ?= auto

.PHONY: demo test lint bench clean

# A town that the shipped network has never seen -> rosbag2 -> labelled rosbag2, table, pictures and a page in $(DEMO).
demo: $(STAMP)
	$(BIN)/mdkt demo $(DEMO) --force

# One torch thread a worker: the workers share the cores.
test: lint
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n $(WORKERS) --cov --cov-report=term:skip-covered $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(STAMP)
	mkdir -p $(BENCH)
	$(BIN)/mdkt bench --json $(BENCH)/bench.json

$(STAMP): setup.py constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf build dist *.egg-info

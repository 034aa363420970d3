# Every target creates the virtual environment that it needs.
PYTHON ?= python3
EXECUTE ?= false
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check docs bench gpu example clean

demo: $(VENV)/user  ## train two levels, plan in mazes that they have never seen, compare with flat planners, write a report
	$(BIN)/hiwm run experiment=demo
	@echo "Report: runs/demo/report.html"
	@echo "MLflow: $(BIN)/hiwm mlflow"

test: $(VENV)/dev  ## all tests, in two processes
	$(BIN)/pytest -n 2 --dist loadfile

check: $(VENV)/dev  ## format, lint, types, import layers, collection of the benchmarks, documentation site, tests
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/pyright --pythonpath $(BIN)/python
	$(BIN)/lint-imports
	$(BIN)/pytest tests/benchmarks --collect-only -o python_files='bench_*.py'
	$(MAKE) docs test

docs: $(VENV)/dev  ## the documentation in site/; EXECUTE=true runs the notebooks
	NO_MKDOCS_2_WARNING=1 PYTHONWARNINGS='ignore:IProgress not found' HIWM_EXECUTE=$(EXECUTE) $(BIN)/mkdocs build --strict

bench: $(VENV)/dev  ## speed and memory, as ratios measured side by side
	$(BIN)/python -m pytest tests/benchmarks -s -o python_files='bench_*.py'

gpu: $(VENV)/dev  ## on a machine with a GPU: the tests of tests/gpu on it, then speed, memory and exactness in a table
	$(BIN)/python tests/benchmarks/bench_gpu.py
	$(BIN)/pip install -q -c constraints.txt stable-worldmodel==0.1.1 torchvision
	HIWM_GPU=1 $(BIN)/pytest tests/gpu
	$(BIN)/python tests/benchmarks/bench_gpu.py analysis/results/gpu.csv

$(BIN)/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/user: $(BIN)/python pyproject.toml setup.py constraints.txt
	$(BIN)/pip install -q -c constraints.txt torch
	$(BIN)/pip install -q -c constraints.txt -e .
	touch $@

$(VENV)/dev: $(VENV)/user
	$(BIN)/pip install -q -c constraints.txt -e '.[dev]'
	touch $@

example: $(VENV)/user  ## train the experiment that ships with hiwm, and put it into the package
	$(BIN)/hiwm run experiment=example root=runs/shipped threads=1 tracking=none
	$(BIN)/python -m hiwm.example runs/shipped

clean:
	rm -rf $(VENV) build dist site *.egg-info

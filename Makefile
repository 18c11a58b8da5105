# Python >= 3.11, make and pip are all that must be there: `make` lists what can be made.

PYTHON ?= python3
VENV ?= .venv
CONSTRAINTS ?= constraints.txt
# Test processes. Each runs torch with one thread, so that two of them do not fight over the processors.
JOBS ?= 2

BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
NOTEBOOKS := $(wildcard notebooks/*.ipynb notebooks/electives/*.ipynb)

.DEFAULT_GOAL := help
.PHONY: help setup run test lint pytest lab notebooks bench soak clean

help:  ## list what can be made
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## (.*)/  make \1#\2/' | tr '#' '\t' | expand -t 16

setup: $(STAMP)  ## create .venv and install everything, unless that is done

# A stamp newer than both lists says that the environment is complete.
$(STAMP): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "$(PYTHON) is Python %d.%d, but 3.11 or later is needed: name one, as in make setup PYTHON=python3.12" % sys.version_info[:2])'
	test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -e '.[course,test]' -c $(CONSTRAINTS)
	@touch $(STAMP)

# glibc keeps freed memory for the next batch: an epoch of 150 scenes takes 0.85 to 0.91 of the time without the limits.
run: setup  ## do the main job: render, train, evaluate, infer; writes results/
	MALLOC_TRIM_THRESHOLD_=1073741824 MALLOC_MMAP_THRESHOLD_=1073741824 \
		$(BIN)/python -m roadtopo_lib.app.main_job --out results

test: lint pytest  ## everything that CI runs: lint, tests, notebooks, coverage

lint: setup  ## check style and formatting
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

# The notebooks' cells depend on each other: loadscope keeps a file in one process. The slowest files start first, so
# that no process waits for another's long one at the end; folders are named one by one, since pytest 8.4 takes
# `tests` after `tests/browser` for done. No test may need a network.
pytest: setup  ## run the tests and the notebooks, with coverage
	OMP_NUM_THREADS=1 HF_HUB_OFFLINE=1 $(BIN)/python -m pytest tests/browser \
		$(if $(NOTEBOOKS),--nbval $(NOTEBOOKS)) tests/notebooks tests/unit -n $(JOBS) --dist loadscope --no-loadscope-reorder \
		--durations=40 --cov=roadtopo_lib --cov-report=term-missing:skip-covered --cov-fail-under=85

lab: setup  ## open the course in JupyterLab
	@test -e notebooks/01_config.ipynb || echo "notebooks/01_config.ipynb is not there yet: opening the folder notebooks"
	@mkdir -p notebooks
	$(BIN)/jupyter lab $(if $(filter 0,$(shell id -u)),--allow-root) $(or $(wildcard notebooks/01_config.ipynb),notebooks)

notebooks: setup  ## make the notebooks from their texts: run every cell, store the outputs
	$(BIN)/python notebooks/build.py

# Those that ask for a folder are studies of hours: their commands stand in data_samples/README.md.
bench: setup  ## measure the speed targets, see tests/benchmarks
	@for script in $$(grep -L 'add_argument("folder"' tests/benchmarks/*.py); do echo "== $$script"; $(BIN)/python $$script || exit 1; done

soak: setup  ## kill trainings 200 times; watch memory over 1,000 steps and frames; try 5,000 damaged files and command lines; plant every fault of tests/notebooks/planted_faults.py, does its notebook notice?
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/kill_test.py --kills 200 --writing 80
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/long_run.py --steps 1000 --frames 1000
	OMP_NUM_THREADS=1 $(BIN)/python tests/soak/fuzz.py --inputs 5000
	$(BIN)/python tests/notebooks/planted_faults.py

clean:  ## remove .venv, caches and build left-overs; results/ and runs/ stay
	rm -rf .venv build dist *.egg-info .pytest_cache .ruff_cache .coverage htmlcov
	find . -name __pycache__ -prune -exec rm -rf {} +

# Two commands do all the set-up: `make demo` and `make test` make their own environment in .venv.
# Python 3.11 or newer and make are all that must be there.

PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11 python; do \
	$$p -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null && { echo $$p; break; }; done)
VENV ?= .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt
OUT ?= study
SHARED ?= -n 2 --dist worksteal # the tests, shared out over two processes

.PHONY: help demo smoke test test-slow test-gpu check format-check format lint types layering snippets bench architectures resnet-trace break-duals science reproduce spectra doctor clean

help: ## this list
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 14

$(BIN)/python:
	@test -n "$(PYTHON)" || { echo "Python 3.11 or newer is needed and was not found; install it, or: make PYTHON=/path/to/python3"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# what a user installs
$(VENV)/.run: pyproject.toml constraints.txt | $(BIN)/python
	$(PIP) -e ".[data,report]"
	@touch $@

# what a developer needs on top
$(VENV)/.dev: $(VENV)/.run
	$(PIP) -e ".[dev]"
	@touch $@

demo: $(VENV)/.run ## the main job: a page on how an mlp learns MNIST, in ./study
	$(BIN)/ntkit study mlp:3x512:relu mnist --out $(OUT)
	@echo "open $(OUT)/index.html"

smoke: $(VENV)/.run ## the main job at a small size
	$(BIN)/ntkit study mlp:2x64:relu digits --n-train 100 --n-test 100 --steps 40 --out $(OUT)-smoke --quiet

test: $(VENV)/.dev ## the tests, those over ten seconds left out
	$(BIN)/python -m pytest $(SHARED)

test-slow: $(VENV)/.dev ## the slow tests
	$(BIN)/python -m pytest -m slow $(SHARED)

test-gpu: $(VENV)/.dev ## the tests that need a CUDA device
	$(BIN)/python -m pytest -m gpu

check: format-check lint types layering test snippets ## the one gate

format-check: $(VENV)/.dev
	$(BIN)/ruff format --check src tests benchmarks

format: $(VENV)/.dev ## rewrite the code in the project's format
	$(BIN)/ruff format src tests benchmarks
	$(BIN)/ruff check --fix src tests benchmarks

lint: $(VENV)/.dev
	$(BIN)/ruff check src tests benchmarks

types: $(VENV)/.dev
	$(BIN)/pyright

layering: $(VENV)/.dev
	$(BIN)/lint-imports --no-cache

snippets: $(VENV)/.dev ## run every Python block of README and docs
	$(BIN)/python -m pytest tests/snippets.py

bench: $(VENV)/.dev ## speed beside the peers, written to benchmarks/results and README.md
	$(BIN)/python benchmarks/setup_peers.py
	$(BIN)/python benchmarks/run_peers.py
	$(BIN)/python benchmarks/machine_limit.py
	$(BIN)/python benchmarks/scaling.py
	$(BIN)/python benchmarks/cold_start.py
	$(BIN)/python benchmarks/readme_table.py

architectures: $(VENV)/.dev ## 200 random architectures against the textbook and wide networks, written to benchmarks/results
	$(BIN)/python benchmarks/architectures.py

resnet-trace: $(VENV)/.dev ## ResNet-18's trace kernel of 1,000 images under 4 GiB, written to benchmarks/results
	$(BIN)/python benchmarks/resnet_trace.py --width 16
	$(BIN)/python benchmarks/resnet_trace.py --width 64

break-duals: $(VENV)/.dev ## every formula of the duals off by 1e-6: the tests must notice; written to benchmarks/results
	$(BIN)/python benchmarks/break_duals.py

science: $(VENV)/.dev ## the figures that the study's claims rest on, written to benchmarks/results
	$(BIN)/python benchmarks/science_study.py

reproduce: $(VENV)/.run ## CIFAR-10 by exact kernels as published (an hour; needs NTKIT_DATA), written to benchmarks/results
	$(BIN)/ntkit reproduce arora-cntk --scale laptop --out .bench/arora
	$(BIN)/python benchmarks/keep_reproduction.py .bench/arora

spectra: $(VENV)/.run ## spectra and what they predict, all experiments (needs NTKIT_DATA), written to benchmarks/results
	$(BIN)/python benchmarks/large_spectra.py
	set -e; for name in kopitkov yang-boolean yang-depth yang-learning-rate; do \
		$(BIN)/ntkit reproduce $$name --out .bench/$$name; $(BIN)/python benchmarks/keep_reproduction.py .bench/$$name; done
	$(BIN)/ntkit reproduce learning-curves --scale paper --out .bench/learning-curves
	$(BIN)/python benchmarks/keep_reproduction.py .bench/learning-curves

doctor: $(VENV)/.run ## what this installation runs on
	$(BIN)/ntkit doctor

clean: ## remove the environments and what was made
	rm -rf $(VENV) .bench $(OUT) $(OUT)-smoke

# One environment, and one for torchtitan. Everything a target needs, it installs.

PYTHON ?= python3
VENV   := .venv
BIN    := $(VENV)/bin
CPUS   := $(shell $(PYTHON) -c 'import os; print(len(os.sched_getaffinity(0)))')

.PHONY: demo test test-slow soak check docs bench titan dist clean

$(VENV)/%.installed: pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[$*]"
	touch $@

demo: $(VENV)/demo.installed          ## the main job on real text, in ./demo
	$(BIN)/python examples/demo.py --out demo

test: $(VENV)/dev.installed           ## the test suite, under 8 minutes on two cores
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m "not slow" -n $(CPUS) --dist loadfile

test-slow: $(VENV)/dev.installed      ## kills, whole runs, compilation
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m slow -n $(CPUS) --dist load

soak: $(VENV)/dev.installed           ## 100 kills of a run of two processes; 20 minutes
	OMP_NUM_THREADS=1 $(BIN)/python tests/faults/soak.py --kills 100

check: $(VENV)/dev.installed          ## style, formatting, types
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: $(VENV)/docs.installed           ## the documentation as a site, in ./site
	$(BIN)/mkdocs build

bench: $(VENV)/bench.installed        ## every figure of speed, its peers and its floor; 20 minutes
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps timm
	$(BIN)/python -m benchmarks

# Its pins (datasets below 4.8) are not ours, so it has an environment of its own.
titan: .venv-titan/.installed         ## torchtitan's components in the released torchtitan, on CPUs
	OMP_NUM_THREADS=1 .venv-titan/bin/python -m pytest tests/integrations/test_torchtitan.py

.venv-titan/.installed: pyproject.toml
	test -x .venv-titan/bin/python || $(PYTHON) -m venv .venv-titan
	.venv-titan/bin/python -m pip install --quiet --disable-pip-version-check \
		torchtitan==0.3.0 torch==2.13.0 triton==3.9.0 pytest -e .
	touch $@

dist: $(VENV)/dev.installed           ## wheel and sdist in dist/: the same bytes from the same commit
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) $(BIN)/python -m hatchling build -c -d dist
	cd dist && sha256sum *

clean:
	rm -rf $(VENV) .venv-titan demo build dist site .pytest_cache .mypy_cache .ruff_cache .hypothesis

# `make demo` compares mixers and names the page; `make test` checks everything. Both do all the set-up.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV := .venv
RUN := $(VENV)/bin
READY := $(VENV)/.ready
export TOKENIZERS_PARALLELISM := false
# waiting threads sleep: on a machine with other work, spinning makes two threads up to eight times slower
export OMP_WAIT_POLICY ?= passive

.PHONY: demo smoke small bench test test-torch test-slow test-hf test-oldest lint format clean

demo: $(READY)  ## six stacks of mixers on recall and text, under 10 minutes on two cores after the install
	OMP_NUM_THREADS=1 $(RUN)/tokenmix compare demo

smoke: $(READY)  ## five language models on Python's own source text, about a minute after the install
	$(RUN)/python recipes/language_modeling/train.py --config recipes/language_modeling/configs/smoke.yaml

small: $(READY)  ## the printed result: under 20 minutes on two cores
	$(RUN)/python recipes/language_modeling/train.py --config recipes/language_modeling/configs/small.yaml

test: lint  ## ruff, mypy (strict) and the test suite
	OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist worksteal

test-torch: $(READY)  ## operations, mixers, models and laws without the native kernels: what serves where no compiler is
	TOKENMIX_KERNELS=torch OMP_NUM_THREADS=1 $(RUN)/python -m pytest -n 2 --dist worksteal \
		tests/ops tests/mixers tests/models tests/test_laws.py tests/test_blocks.py tests/test_state.py

test-slow: $(READY)  ## proofs that take minutes
	$(RUN)/python -m pytest -m slow

test-hf: $(READY)  ## transformers' own tests, fetched from PyPI, on our models (docs/hf_suite.md)
	$(RUN)/python tests/hf_suite/run.py

test-oldest: $(READY)  ## tests of models and swapped models with the oldest transformers that pyproject.toml allows
	$(RUN)/python tests/hf_suite/oldest.py

bench: $(READY)  ## every comparison of README's table, about 15 minutes; see python -m benchmarks --help
	$(RUN)/python -m pip install --disable-pip-version-check -q -e '.[bench]'
	OMP_NUM_THREADS=1 $(RUN)/python -m benchmarks

lint: $(READY)
	$(RUN)/ruff check .
	$(RUN)/ruff format --check .
	$(RUN)/mypy

format: $(READY)
	$(RUN)/ruff format .
	$(RUN)/ruff check --fix .

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "tokenmix needs Python 3.11 or newer, found $$($(PYTHON) --version); set PYTHON=/path/to/python3.11"; exit 1; }
	test -x $(RUN)/python || $(PYTHON) -m venv $(VENV)
	$(RUN)/python -m pip install --disable-pip-version-check -q -e '.[test]'
	@touch $(READY)

clean:
	rm -rf $(VENV) runs build dist src/*.egg-info .mypy_cache .ruff_cache .pytest_cache

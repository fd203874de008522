# `make demo` and `make test` are all a fresh clone needs: they make the environment themselves.
#   PYTHON=python3.12 make test     another interpreter
#   make test ARGS="-k report -x"   arguments for pytest

VENV ?= .venv
export PYTHON
BIN = $(VENV)/bin
STAMP = $(VENV)/.stamp
PYTEST = $(BIN)/python -m pytest -n 2
# packs that examples use, in a folder of their own: in the environment they would take part in every other test
PACKS_BESIDE = rm -rf build/packs && $(BIN)/python -m pip install --quiet --no-deps --target build/packs \
	contrib/trtcore-contrib-llm contrib/trtcore-contrib-modelopt
DEFAULT = not gpu and not models and not slow and not benchmark and not browser

.PHONY: help browser types coverage examples release setup demo test lint unit test-all conformance dynamic models halves contrib quantized matrix fuzz fuzz-archives fuzz-inplace fuzz-kernels gpu bench docs format clean

help:  ## what the targets do
	@grep -E '^[a-z-]+:.*##' Makefile | sed -E 's/^([a-z-]+):.*## */\1\t/' | expand -t 12

setup: $(STAMP)  ## make or update .venv

$(STAMP): pyproject.toml .ci/setup
	.ci/setup $(VENV) test
	@touch $@

demo: $(STAMP)  ## compile pretrained MiniLM and embed real sentences
	$(BIN)/trtcore demo $(ARGS)

test: lint unit  ## lint, types and the default tests

lint: $(STAMP)  ## ruff, the directions of imports, and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/mypy tests/typing_of_users.py docs/examples

unit: $(STAMP)  ## the default tests alone
	$(PYTEST) -m "$(DEFAULT)" $(ARGS)

test-all: lint  ## everything that can run here apart from the benchmarks
	$(PYTEST) -m "not benchmark" $(ARGS)

types: $(STAMP)  ## what mypy and pyright say of users' code and of the examples
	$(BIN)/python -m pip install --quiet --editable ".[types]"
	$(PACKS_BESIDE)
	PYTHONPATH=build/packs $(BIN)/python -m pytest tests/test_typing.py $(ARGS)

coverage: $(STAMP)  ## the default tests, and which lines none of them runs: build/coverage (twice as long)
	$(BIN)/python -m pip install --quiet --editable ".[coverage]"
	rm -rf build/coverage && mkdir -p build/coverage
	$(BIN)/python -m coverage run -m pytest -n 2 -m "$(DEFAULT)" $(ARGS); status=$$?; \
	$(BIN)/python -m coverage combine --quiet && $(BIN)/python -m coverage html --quiet --directory build/coverage/html && \
	$(BIN)/python -m coverage report && exit $$status

release: $(STAMP)  ## sdist and wheel into dist/, tried in a clean environment; see docs/releasing.md
	rm -rf dist
	$(BIN)/python -m hatchling build -d dist
	$(BIN)/python -m pytest tests/test_release.py -m "slow or not slow" $(ARGS)

conformance: $(STAMP)  ## every sample input of PyTorch's for every op (hours; goes on where it stopped)
	$(BIN)/python tests/conformance/run.py $(ARGS)

dynamic: $(STAMP)  ## operators at the smallest, usual and largest sizes of a profile (an hour; goes on where it stopped)
	$(BIN)/python tests/conformance/dynamic.py $(ARGS)

halves: $(STAMP)  ## the gallery in float16 and bfloat16 against float32 eager, into docs/models-in-half-precision.md (half an hour)
	$(BIN)/python tests/models/halves.py --write $(ARGS)

models: $(STAMP)  ## whole models at their base sizes
	$(BIN)/python -m pytest -m models $(ARGS)

examples: $(STAMP)  ## every script of docs/examples, with what they need beside the default environment
	$(BIN)/python -m pip install --quiet --editable ".[examples]"
	$(PACKS_BESIDE)
	PYTHONPATH=build/packs $(BIN)/python -m pytest tests/test_examples.py -s $(ARGS)

quantized: $(STAMP)  ## models quantised with torchao, which is no part of the default environment
	$(BIN)/python -m pip install --quiet --editable ".[quantize]"
	$(BIN)/python -m pytest tests/converters/test_quantize.py tests/converters/test_stored_quantised.py $(ARGS)

matrix: $(STAMP)  ## the default tests under every Python and torch that can be had here (hours; see tests/matrix.py)
	$(BIN)/python tests/matrix.py $(ARGS)

fuzz: $(STAMP)  ## 10,000 random graphs against eager
	$(BIN)/python tests/fuzz/run.py $(ARGS)

fuzz-archives: $(STAMP)  ## 10,000 damaged and hostile files against load
	$(BIN)/python tests/fuzz/archives.py $(ARGS)

fuzz-inplace: $(STAMP)  ## 5,000 random programs that write in place, against eager; goes on where it stopped
	$(BIN)/python tests/fuzz/run_in_place.py $(ARGS)

fuzz-kernels: $(STAMP)  ## 500 random subgraphs as generated kernels, in Triton's interpreter
	$(BIN)/python -m pytest -m slow tests/plugins/codegen/test_codegen_fuzz.py $(ARGS)

contrib: $(STAMP)  ## the packs in contrib/, installed in a fresh environment, with their longer tests
	$(BIN)/python -m pip install --quiet --editable ".[contrib]"
	$(PYTEST) tests/contrib $(ARGS)

browser: $(STAMP) docs  ## the report's page and the documentation in headless Chromium (Debian: apt-get install chromium)
	$(BIN)/python -m pip install --quiet --editable ".[browser]"
	$(BIN)/python -m pytest tests/report/test_browser.py tests/test_site.py $(ARGS)

gpu: $(STAMP)  ## the tests that need an NVIDIA GPU
	$(BIN)/python -m pytest -m gpu -s tests/gpu tests $(ARGS)

bench: $(STAMP)  ## measure; see docs/performance.md
	$(BIN)/python tests/benchmarks/run.py $(ARGS)

docs: build/docs/.stamp  ## build the documentation into build/site, in an environment without torch
	NO_MKDOCS_2_WARNING=1 build/docs/bin/mkdocs build --strict --quiet --config-file .mkdocs.yml

build/docs/.stamp: docs/requirements.txt
	$(or $(PYTHON),python3.11) -m venv build/docs
	build/docs/bin/python -m pip install --quiet --requirement docs/requirements.txt
	@touch $@

format: $(STAMP)  ## rewrite the code as ruff wants it
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

clean:  ## remove the environment and everything built
	rm -rf $(VENV) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis

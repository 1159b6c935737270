"""The contract of plug-ins, passed by each of ours; `pytest --integration` runs the same on another one."""

from collections.abc import Iterator
from importlib.util import find_spec
from typing import Any

import pytest

from extra_client.integrations.contract import *  # noqa: F403
from extra_client.integrations.pytest_plugin import load
from support.novelty_server import Server

#: The integrations, and the package that each needs.
INTEGRATIONS = {
    "support.trainers.plain_function:PlainFunction": "numpy",
    "support.trainers.trl_trainer:AfterNormalization": "trl",
    "support.trainers.trl_trainer:BeforeNormalization": "trl",
    "support.trainers.trl_trainer:AsynchronousTrainer": "trl",
    "support.trainers.openrlhf_actor:AgentHook": "openrlhf",
    "support.trainers.openrlhf_actor:RewardFile": "openrlhf",
    "support.trainers.verl_workers:AfterNormalization": "verl",
    "support.trainers.prime_rl_group:PrimeRL": "verifiers",
    "support.trainers.slime_batch:Slime": "torch",
    "support.trainers.slime_batch:Miles": "torch",
    "support.trainers.nemo_rl_batch:NemoRL": "torch",
}


@pytest.fixture(scope="module", params=INTEGRATIONS, ids=lambda name: name.removeprefix("support.trainers."))
def integration_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    package = INTEGRATIONS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make test-plugins` installs it and runs these")
    return name


@pytest.fixture(scope="module")
def integration(integration_name: str) -> Any:
    return load(integration_name)


@pytest.fixture(scope="session")
def novelty_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"

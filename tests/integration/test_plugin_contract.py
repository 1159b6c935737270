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
    "support.trainers.slime_batch:Slime": "torch",
    "support.trainers.slime_batch:Miles": "torch",
    "support.trainers.nemo_rl_batch:NemoRL": "torch",
    "support.trainers.prime_rl_group:PrimeRL": "verifiers",
}


@pytest.fixture(scope="module", params=INTEGRATIONS, ids=lambda name: name.partition(":")[2])
def integration_name(request: pytest.FixtureRequest) -> str:
    name: str = request.param
    package = INTEGRATIONS[name]
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed: `make test-plugins` installs it and runs these")
    return name


@pytest.fixture(scope="module")
def integration(integration_name: str) -> Any:
    return load(integration_name)


@pytest.fixture(scope="module")
def novelty_target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("novelty")
    with Server(folder):
        yield f"unix:{folder / 'socket'}"

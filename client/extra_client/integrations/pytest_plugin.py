"""The pytest plug-in for authors of integrations: `pytest --integration module:name`.

It runs the tests in `contract` on that integration. pytest loads this module in every environment that has
the package, so it imports little.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from extra_rl.contract_tests import collect, named_object

if TYPE_CHECKING:
    from extra_client.integrations.contract import Integration


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("extra-rl-integration", "contract tests of a trainer's plug-in (extra-rl)")
    group.addoption("--integration", metavar="MODULE:NAME", help="run the contract tests on this Integration")
    group.addoption(
        "--integration-novelty",
        metavar="HOST:PORT",
        help="novelty server of these tests (default: one is started; pip install 'extra-rl[novelty]')",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the contract tests: beside the paths that are given, or alone."""
    if config.option.integration is None:
        return
    load(config.option.integration)
    collect(config, Path(__file__).with_name("contract.py"))


@pytest.fixture(scope="session")
def integration_name(request: pytest.FixtureRequest) -> str:
    """Return MODULE:NAME of the integration."""
    name: str | None = request.config.option.integration
    if name is None:
        pytest.skip("name an integration: --integration MODULE:NAME")
    return name


@pytest.fixture(scope="session")
def integration(integration_name: str) -> "Integration":
    """Return the integration."""
    return load(integration_name)


@pytest.fixture(scope="session")
def novelty_target(request: pytest.FixtureRequest) -> Iterator[str]:
    """Return the address of a novelty server."""
    target: str | None = request.config.option.integration_novelty
    if target is not None:
        yield target
        return
    from extra_client import embedded

    with embedded.start("novelty") as service:
        yield service.target


def load(name: str) -> "Integration":
    """Return an integration that MODULE:NAME names.

    Raises:
        pytest.UsageError: There is none.
    """
    found, colon = named_object("--integration", "MODULE:NAME", name)
    if not colon or not hasattr(found, "step") or not hasattr(found, "cannot"):
        text = f"--integration takes MODULE:NAME; {name!r} is no class with `step` and `cannot`"
        raise pytest.UsageError(text)
    integration: Integration = found()
    return integration

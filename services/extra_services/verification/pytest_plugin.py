"""The pytest plug-in for authors of custom verifiers: `pytest --verifier module:function`.

It runs the tests in `verifier_contract` on that function. pytest loads this module in every environment that
has the package, so it imports nothing of the service.
"""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from extra_rl.contract_tests import collect, named_object

#: The verifier of this run.
VERIFIER: pytest.StashKey[Callable[[str, str], object]] = pytest.StashKey()
_CASES: pytest.StashKey[list["Case"]] = pytest.StashKey()


@dataclass(frozen=True)
class Case:
    """A pair with its wanted score, from the author's file."""

    name: str
    response: str
    answer: str
    score: float


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("extra-rl", "contract tests of a custom verifier (extra-rl)")
    group.addoption("--verifier", metavar="MODULE:FUNCTION", help="run the contract tests on this verifier")
    group.addoption(
        "--verifier-cases",
        type=Path,
        metavar="FILE",
        help="JSON Lines of its cases: response, answer, and score (true, false or a number in [0, 1])",
    )
    group.addoption(
        "--verifier-seconds",
        type=float,
        default=5.0,
        help="seconds that one call may take, as timeout_seconds of the server (default: %(default)s)",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Collect the contract tests: beside the paths that are given, or alone."""
    if config.option.verifier is None:
        return
    config.stash[VERIFIER] = load(config.option.verifier)
    path = config.option.verifier_cases
    config.stash[_CASES] = read_cases(path) if path else []
    collect(config, Path(__file__).with_name("verifier_contract.py"))


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Make one test of each case in the file of cases."""
    if "case" in metafunc.fixturenames and metafunc.module.__name__.endswith("verifier_contract"):
        cases = metafunc.config.stash[_CASES]
        metafunc.parametrize("case", cases, ids=[case.name for case in cases])


def read_cases(path: Path) -> list[Case]:
    """Return the author's cases.

    Raises:
        pytest.UsageError: A line is no case.
    """
    cases = []
    for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
            cases.append(
                Case(f"line {number}", str(row["response"]), str(row["answer"]), float(row["score"]))
            )
        except (ValueError, KeyError, TypeError) as error:
            text = f"{path}, line {number}: no case with response, answer and score ({error!r})"
            raise pytest.UsageError(text) from error
    return cases


def load(name: str) -> Callable[[str, str], object]:
    """Return the function that MODULE:FUNCTION names.

    Raises:
        pytest.UsageError: There is none.
    """
    found, colon = named_object("--verifier", "MODULE:FUNCTION", name)
    if not colon or not callable(found):
        raise pytest.UsageError(f"--verifier takes MODULE:FUNCTION; {name!r} is no function")
    verifier: Callable[[str, str], object] = found
    return verifier

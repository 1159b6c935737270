"""What the verification service expects of a custom verifier, as tests (`pytest --verifier module:function`).

Every call runs in a child process with a time limit, as in the service's workers. So a verifier that hangs or
ends its process fails its test and nothing else.
"""

import math
import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest

from extra_services.verification.custom import InvalidResult, parsed
from extra_services.verification.pytest_plugin import VERIFIER, Case

#: Pairs that a verifier may meet: it may judge them as it likes.
_ORDINARY = {
    "a boxed answer": (r"The sum is \boxed{42}.", "42"),
    "a wrong answer": (r"So it is \boxed{41}.", "42"),
    "LaTeX": (r"$$x = \boxed{\frac{1}{2}}$$", r"\frac{1}{2}"),
    "a choice": ("The answer is (B).", "B"),
    "an answer without a box": ("42", "42"),
    "text in other scripts": ("答案是 **42** ≈ ４２ 🙂", "42"),
    "program and tests": ("```python\nprint(42)\n```", '{"tests": [{"stdin": "", "stdout": "42"}]}'),
}
#: Responses that models and attackers write. A verifier must return a result for each, in time.
_HOSTILE = {
    "an empty response": "",
    "spaces and line ends": " \n\t\r\n ",
    "an empty box": r"\boxed{}",
    "a box that is not closed": r"\boxed{42",
    "nested braces": "{" * 20000,
    "a long line of digits": "7" * 100000,
    "a long line of letters": "a" * 100000 + "!",
    "many spaces": "42" + " " * 100000 + "x",
    "many boxes": r"\boxed{42}" * 10000,
    "many lines": "step\n" * 20000,
    "NUL and control characters": "\x00\x01\x1b[2J\u202e42",
    "combining characters": "4" + "\u0301" * 10000,
    "characters outside the basic plane": "\U0001f600" * 10000,
    "format strings": "%s%n{0.__class__}{}",
    "code": "__import__('os').system('true')",
    "HTML": "<think>" * 1000 + "42",
    "a huge power": r"\boxed{9^{9^{9^{9}}}}",
    "not a number": r"\boxed{nan}",
}


@dataclass(frozen=True)
class Outcome:
    """What a call did: its result, or the reason for which there is none."""

    #: (score, components), if the verifier returned a valid result.
    result: tuple[float, dict[str, float]] | None
    problem: str = ""
    #: What the call changed in its process.
    changed: tuple[str, ...] = ()


#: Returns what the verifier does with a response and a reference answer.
Call = Callable[[str, str], Outcome]


@pytest.fixture(scope="module")
def call(request: pytest.FixtureRequest) -> Call:
    """Return a function that calls the verifier in a child process."""
    verifier = request.config.stash[VERIFIER]
    seconds = request.config.option.verifier_seconds
    return lambda response, answer: _called(verifier, response, answer, seconds)


def _called(verifier: Callable[[str, str], object], response: str, answer: str, seconds: float) -> Outcome:
    # Forked, so that the verifier is loaded already, as in a warm worker.
    context = multiprocessing.get_context("fork")
    receiver, sender = context.Pipe(duplex=False)
    child = context.Process(target=_call, args=(verifier, response, answer, sender), daemon=False)
    child.start()
    sender.close()
    try:
        if not receiver.poll(seconds):
            return Outcome(None, f"not finished after {seconds:g} s: the server would kill its worker")
        outcome: Outcome = receiver.recv()
        return outcome
    except EOFError:
        child.join()
        return Outcome(None, f"it ended its process (exit code {child.exitcode})")
    finally:
        child.kill()
        child.join()


def _call(verifier: Callable[[str, str], object], response: str, answer: str, sender: Any) -> None:
    before = _state()
    try:
        returned = verifier(response, answer)
    except Exception as error:
        sender.send(Outcome(None, f"it raised {type(error).__name__}: {error}"[:500]))
        return
    changed = tuple(name for name, value in _state().items() if value != before[name])
    try:
        sender.send(Outcome(parsed(returned), changed=changed))
    except InvalidResult as error:
        sender.send(Outcome(None, f"it {error}"[:500]))


def _state() -> dict[str, object]:
    """Return what a call must leave as it was, because the next call runs in the same process."""
    return {
        "the working directory": os.getcwd(),
        "environment variables": dict(os.environ),
        "the recursion limit": sys.getrecursionlimit(),
        "running threads": threading.active_count(),
        "child processes": len(multiprocessing.active_children()),
        "a pending alarm": signal.getitimer(signal.ITIMER_REAL)[0] > 0,
        "standard output": id(sys.stdout),
    }


def _require_result(outcome: Outcome) -> tuple[float, dict[str, float]]:
    if outcome.result is None:
        pytest.fail(f"the verifier gave no verdict: {outcome.problem}", pytrace=False)
    return outcome.result


@pytest.mark.parametrize("name", _ORDINARY)
def test_it_returns_a_score(call: Call, name: str) -> None:
    """True, False, a number in [0, 1], or a dict of finite numbers with "score"."""
    _require_result(call(*_ORDINARY[name]))


@pytest.mark.parametrize("name", _HOSTILE)
@pytest.mark.parametrize("answer", ["42", r"\frac{1}{2}"])
def test_any_response_gets_a_result_in_time(call: Call, name: str, answer: str) -> None:
    """An exception would be the status ERROR, a hang TIMEOUT: the response would have no reward."""
    _require_result(call(_HOSTILE[name], answer))


@pytest.mark.parametrize("response", ["", " ", "\n", r"\boxed{}"])
def test_nothing_is_not_correct(call: Call, response: str) -> None:
    """A response without content must not get the whole reward."""
    score, _ = _require_result(call(response, "42"))
    assert score < 1, f"{response!r} is correct for the reference answer 42"


@pytest.mark.parametrize("name", _ORDINARY)
def test_the_same_pair_gets_the_same_result(call: Call, name: str) -> None:
    """A reward must not depend on chance: a run could not be resumed, nor judged anew."""
    first = _require_result(call(*_ORDINARY[name]))
    for _ in range(2):
        again = _require_result(call(*_ORDINARY[name]))
        assert again[1].keys() == first[1].keys()
        assert math.isclose(again[0], first[0]), "the score changed"
        assert all(math.isclose(again[1][part], first[1][part]) for part in first[1]), "a component changed"


@pytest.mark.parametrize("name", _ORDINARY)
def test_it_leaves_its_process_as_it_was(call: Call, name: str) -> None:
    """The worker's process judges other items afterwards."""
    outcome = call(*_ORDINARY[name])
    _require_result(outcome)
    assert outcome.changed == (), f"a call changed {', '.join(outcome.changed)}"


def test_a_case_gets_its_score(call: Call, case: Case) -> None:
    """The author's own cases, from --verifier-cases."""
    score, _ = _require_result(call(case.response, case.answer))
    assert math.isclose(score, case.score, abs_tol=1e-9), (
        f"score {score}, not {case.score}: {case.response!r}"
    )

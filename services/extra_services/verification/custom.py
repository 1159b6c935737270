"""Verifiers of users, found by the name of their entry point and run in a worker.

A package declares one in its `pyproject.toml`: `[project.entry-points."extra_rl.verifiers"]`, `my_name =
"module:function"`. The function takes the whole response and the reference answer. It returns True or False,
a score in [0, 1], or named components: a dict of finite numbers, in which "score" (True, False or in [0, 1])
is the score. Only a score of 1 is CORRECT. Anything else that it returns, NaN too, and an exception are the
status ERROR.
"""

import math
import numbers
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points

from extra_rl.references import invalid_text
from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.quick import SHOWN
from extra_services.verification.verdict import Verdict, VerificationItem

#: The component that is the score.
SCORE = "score"
#: Components that a verdict may have, and the longest name of one, in characters.
MAX_COMPONENTS, MAX_NAME = 256, 200

GROUP = "extra_rl.verifiers"


@cache
def known() -> frozenset[str]:
    """Return the names of the installed verifiers."""
    return frozenset(entry.name for entry in entry_points(group=GROUP))


def judge(item: VerificationItem) -> Verdict:
    """Decide `item` with the verifier that its options name."""
    name = item.options.verifier
    rule = f"custom:{name}"
    try:
        score, components = parsed(_verifier(name)(item.response, item.answer))
    except InvalidResult as error:
        return Verdict(VerdictStatus.ERROR, rule, detail=str(error)[:SHOWN])
    status = VerdictStatus.CORRECT if score == 1 else VerdictStatus.WRONG
    return Verdict(status, rule, score=score, components=components)


class InvalidResult(ValueError):
    """A verifier returned something that is no result."""


def parsed(returned: object) -> tuple[float, dict[str, float]]:
    """Return score and components of what a verifier returned.

    Raises:
        InvalidResult: It is no result of a verifier.
    """
    if not isinstance(returned, Mapping):
        return _score(returned), {}
    if SCORE not in returned:
        raise InvalidResult(f"returned components without {SCORE!r}: {returned!r}")
    if len(returned) - 1 > MAX_COMPONENTS:
        raise InvalidResult(f"returned {len(returned) - 1} components, more than {MAX_COMPONENTS}")
    return _score(returned[SCORE]), {
        _name(name): _number(value, f"the component {name!r}")
        for name, value in returned.items()
        if name != SCORE
    }


def _score(value: object) -> float:
    score = _number(value, "the score")
    if not 0 <= score <= 1:
        raise InvalidResult(f"returned {value!r}, not True, False or a score in [0, 1]")
    return score


def _number(value: object, what: str) -> float:
    # NumPy's bool is no number to Python, and its 0-dimensional arrays are none either.
    if type(value).__module__ == "numpy" and hasattr(value, "item") and getattr(value, "ndim", 1) == 0:
        value = value.item()
    if not isinstance(value, (bool, numbers.Real)):
        raise InvalidResult(f"returned {value!r} as {what}, not a number")
    number = float(value)
    if not math.isfinite(number):
        raise InvalidResult(f"returned {value!r} as {what}, not a finite number")
    return number


def _name(name: object) -> str:
    if not isinstance(name, str) or not name or len(name) > MAX_NAME or invalid_text(name):
        raise InvalidResult(
            f"returned a component named {name!r}: names are texts of 1 to {MAX_NAME} characters"
        )
    return name


@cache
def _verifier(name: str) -> Callable[[str, str], object]:
    (entry,) = entry_points(group=GROUP, name=name)
    verifier: Callable[[str, str], object] = entry.load()
    return verifier

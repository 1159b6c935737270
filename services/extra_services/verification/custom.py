"""Verifiers of users, found by the name of their entry point and run in a worker.

A package declares one in its `pyproject.toml`: `[project.entry-points."extra_rl.verifiers"]`, `my_name =
"module:function"`. The function takes the whole response and the reference answer and returns True or False.
An exception becomes the status ERROR.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.quick import SHOWN
from extra_services.verification.verdict import Verdict, VerificationItem

GROUP = "extra_rl.verifiers"


@cache
def known() -> frozenset[str]:
    """Return the names of the installed verifiers."""
    return frozenset(entry.name for entry in entry_points(group=GROUP))


def judge(item: VerificationItem) -> Verdict:
    """Decide `item` with the verifier that its options name."""
    name = item.options.verifier
    returned = _verifier(name)(item.response, item.answer)
    rule = f"custom:{name}"
    if not isinstance(returned, bool):
        text = f"returned {returned!r}, not True or False"
        return Verdict(VerdictStatus.ERROR, rule, detail=text[:SHOWN])
    return Verdict(VerdictStatus.CORRECT if returned else VerdictStatus.WRONG, rule)


@cache
def _verifier(name: str) -> Callable[[str, str], object]:
    (entry,) = entry_points(group=GROUP, name=name)
    verifier: Callable[[str, str], object] = entry.load()
    return verifier

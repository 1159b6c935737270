"""A user's own verifier, found by the name of its entry point and run in a worker like everything else.

A package declares it in its `pyproject.toml`: `[project.entry-points."extra_rl.verifiers"]`, `my_name =
"module:function"`. The function takes the whole response and the reference answer and returns True or False;
what it raises becomes an ERROR.
"""

from collections.abc import Callable
from functools import cache
from importlib.metadata import entry_points

from extra_services.verification.quick import SHOWN
from extra_services.verification.verdict import Item, Status, Verdict

GROUP = "extra_rl.verifiers"


@cache
def known() -> frozenset[str]:
    """Names of the verifiers that are installed."""
    return frozenset(entry.name for entry in entry_points(group=GROUP))


def judge(item: Item) -> Verdict:
    """The verdict of the verifier that the item's options name."""
    name = item.options.verifier
    returned = _verifier(name)(item.response, item.answer)
    rule = f"custom:{name}"
    if not isinstance(returned, bool):
        return Verdict(Status.ERROR, rule, detail=f"returned {returned!r}, not True or False"[:SHOWN])
    return Verdict(Status.CORRECT if returned else Status.WRONG, rule)


@cache
def _verifier(name: str) -> Callable[[str, str], object]:
    (entry,) = entry_points(group=GROUP, name=name)
    verifier: Callable[[str, str], object] = entry.load()
    return verifier

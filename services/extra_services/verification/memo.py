"""Keep results on short texts: rollouts of one prompt mostly have the same few answers and last sentences."""

from collections.abc import Callable
from functools import lru_cache, wraps
from typing import TypeVar

#: Longest text whose result is kept, in characters, and most results of one function.
_SHORT, _MOST = 200, 4096

Result = TypeVar("Result")

_forget: list[Callable[[], None]] = []


def kept(function: Callable[[str], Result]) -> Callable[[str], Result]:
    """Return `function` with its results on the last few thousand short texts kept."""
    known = lru_cache(maxsize=_MOST)(function)
    _forget.append(known.cache_clear)

    @wraps(function)
    def look_up(text: str) -> Result:
        return known(text) if len(text) <= _SHORT else function(text)

    return look_up


def forget() -> None:
    """Drop all results, for a measurement."""
    for cleared in _forget:
        cleared()

"""Keep results on short texts: the rollouts of a prompt have many answers and sentences in common.

What is long is never kept, so that a policy that repeats itself cannot fill the memory.
"""

from collections.abc import Callable, Hashable
from functools import lru_cache, wraps
from typing import Any, TypeVar, cast

Function = TypeVar("Function", bound=Callable[..., Any])

_forget: list[Callable[[], None]] = []


def kept(longest: int = 200, most: int = 4096) -> Callable[[Function], Function]:
    """Return a decorator that keeps the last results of a function of a text.

    Args:
        longest: Length of the longest first argument, a text or a tuple, whose result is kept.
        most: Number of results.
    """

    def decorate(function: Function) -> Function:
        known = lru_cache(maxsize=most)(function)
        _forget.append(known.cache_clear)

        @wraps(function)
        def look_up(first: str | tuple[str, ...], *rest: Hashable) -> Any:
            return known(first, *rest) if len(first) <= longest else function(first, *rest)

        return cast(Function, look_up)

    return decorate


def forget() -> None:
    """Drop all results, for a measurement."""
    for clear in _forget:
        clear()

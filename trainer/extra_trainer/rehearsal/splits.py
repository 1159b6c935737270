"""Splits of the made problems: a hash of a problem decides where it may be used, so no two splits overlap.

Problems for fitting a start model, for training and for evaluation are disjoint by construction: no seed and
no count can put a problem into two splits. Each split has two halves, likewise: settings that are tuned on
one half can be reported on the other.
"""

import hashlib
from typing import Literal

Split = Literal["fitting", "train", "evaluation"]
Half = Literal["first", "second"]

#: Tenths of all problems, by the hash of the problem modulo 10.
_TENTHS: dict[Split, frozenset[int]] = {
    "fitting": frozenset(range(6)),
    "train": frozenset({6, 7, 8}),
    "evaluation": frozenset({9}),
}


def split_of_key(key: str) -> Split:
    """Return the only split that may hold the problem with this key, its canonical text."""
    tenth = _number_of(key) % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def half_of_key(key: str) -> Half:
    """Return the only half of its split that may hold the problem with this key."""
    return "second" if _number_of(key) // 10 % 2 else "first"


def id_of_key(name: str, key: str) -> str:
    """Return the id of the problem with this key among the problems called `name`."""
    return f"{name}-{hashlib.sha256(key.encode()).hexdigest()[:12]}"


def _number_of(key: str) -> int:
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big")

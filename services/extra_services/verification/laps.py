"""Where a worker's time on an item goes, by name; without a worker, nothing is noted.

A worker has neither metrics nor traces: its laps travel with the verdict, and its server counts them.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager

#: (name, seconds, seconds from the item's start to the lap's end).
Lap = tuple[str, float, float]

_started = 0.0
_taken: list[Lap] | None = None


def begin() -> list[Lap]:
    """Notes laps from here on, in the list that is returned."""
    global _started, _taken
    _started, _taken = time.perf_counter(), []
    return _taken


@contextmanager
def lap(name: str) -> Iterator[None]:
    """Notes the time of its block."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if _taken is not None:
            ended = time.perf_counter()
            _taken.append((name, ended - began, ended - _started))

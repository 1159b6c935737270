"""Times of the stages of an item inside a worker process.

A worker has no metrics and no traces. Its stage timings travel back with the verdict, and the server records
them. Outside a worker, where `start` was never called, nothing is recorded.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple


class StageTiming(NamedTuple):
    """One stage of an item."""

    stage: str
    seconds: float
    #: Seconds from the item's start to the end of the stage.
    end: float


_started = 0.0
_timings: list[StageTiming] | None = None


def start() -> list[StageTiming]:
    """Start an item, and return the list to which `timed` will append its stages."""
    global _started, _timings
    _started, _timings = time.perf_counter(), []
    return _timings


@contextmanager
def timed(stage: str) -> Iterator[None]:
    """Record the time of a block as the stage `stage`."""
    began = time.perf_counter()
    try:
        yield
    finally:
        if _timings is not None:
            ended = time.perf_counter()
            _timings.append(StageTiming(stage, ended - began, ended - _started))

"""The verification domain as its users call it: validate, decide on the fast path, else ask the workers.

A `Call` is one request's share of the service. Closing it cancels whatever of it is still waiting or running.
"""

import time
from collections.abc import Sequence
from concurrent.futures import Future
from types import TracebackType

from extra_services.errors import InvalidInput
from extra_services.verification import quick
from extra_services.verification.fair_queue import Line
from extra_services.verification.judge import judge
from extra_services.verification.pool import Finished, Outcome, TimedOut, WorkerPool
from extra_services.verification.verdict import Item, Status, Verdict


class Verifier:
    """Verifies items on the fast path and in the workers of `pool`."""

    def __init__(self, pool: WorkerPool, timeout_seconds: float) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds

    def call(self) -> "Call":
        """A new call; use it in a `with` statement."""
        return Call(self._pool)

    def timeout(self, wanted: float | None) -> float:
        """The time limit of an item in seconds; InvalidInput if `wanted` is out of range."""
        if wanted is None:
            return self._timeout_seconds
        if not 0 < wanted <= self._timeout_seconds:
            text = f"must be above 0 and at most the server's {self._timeout_seconds:g} s, not {wanted:g}"
            raise InvalidInput("timeout_seconds", text)
        return wanted

    def check(self, item: Item, path: str) -> None:
        """InvalidInput if `item`, at `path` of its request, cannot be verified whatever the response says."""
        if not item.answer.strip():
            raise InvalidInput(f"{path}answer", "is empty: a reference answer is required")

    def quick(self, item: Item) -> Verdict | None:
        """The verdict if the fast path can prove it, in microseconds; else None."""
        started = time.perf_counter()
        verdict = quick.decide(item)
        return verdict and verdict.timed(0.0, time.perf_counter() - started)


class Call:
    """The items of one request that need a worker."""

    def __init__(self, pool: WorkerPool) -> None:
        self._pool = pool
        self._line = Line()
        self._open: set[Future[Outcome]] = set()

    def __enter__(self) -> "Call":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for future in list(self._open):
            future.cancel()

    def submit(self, items: Sequence[Item], timeout: float) -> list["Future[Outcome]"]:
        """Futures, in order, to hand to `verdict` when done; Overloaded, and nothing started, if no room."""
        futures = self._pool.submit(self._line, judge, list(items), timeout)
        for future in futures:
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return futures


def verdict(outcome: Outcome, timeout: float) -> Verdict:
    """What became of an item in a worker."""
    if isinstance(outcome.end, Finished):
        decided: Verdict = outcome.end.value
    elif isinstance(outcome.end, TimedOut):
        decided = Verdict(Status.TIMEOUT, "time_limit", detail=f"undecided after {timeout:g} s of execution")
    else:
        decided = Verdict(Status.ERROR, "worker", detail=outcome.end.reason)
    return decided.timed(outcome.queue_seconds, outcome.execution_seconds)

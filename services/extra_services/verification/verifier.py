"""The verification domain as its users call it: validate, decide at once, remember, or ask the workers.

A `Call` is one request's share of the service. Closing it cancels whatever of it is still waiting or
running. Everything here is for one thread (the event loop's), and takes microseconds; what takes longer
happens in the workers.
"""

import math
import time
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from types import TracebackType

import structlog

from extra_services.errors import InvalidInput
from extra_services.verification import custom, instruments, quick
from extra_services.verification.cache import VerdictCache
from extra_services.verification.fair_queue import Line
from extra_services.verification.judge import judge, judge_question
from extra_services.verification.pool import Finished, Outcome, TimedOut, WorkerPool
from extra_services.verification.quick import Question
from extra_services.verification.verdict import Item, Method, Status, Verdict

log = structlog.get_logger()

#: How far a number may be from its 32-bit form, as a fraction of it.
_FLOAT32 = 2.0**-23


@dataclass(frozen=True)
class Hard:
    """An item that needs a worker; `asked` is its question, None if the worker has to find that out too."""

    item: Item
    asked: Question | None


class Verifier:
    """Verifies items on the fast path and in the workers of `pool`."""

    def __init__(self, pool: WorkerPool, timeout_seconds: float, cache_size: int) -> None:
        self._pool = pool
        self._timeout_seconds = timeout_seconds
        self._cache = VerdictCache(cache_size)

    def call(self) -> "Call":
        """A new call; use it in a `with` statement."""
        return Call(self._pool)

    def timeout(self, wanted: float | None) -> float:
        """The time limit of an item in seconds; InvalidInput if `wanted` is out of range."""
        if wanted is None:
            return self._timeout_seconds
        # The message holds 32 bits of it: the server's own limit may come back a little larger.
        if not 0 < wanted <= self._timeout_seconds * (1 + _FLOAT32):
            text = f"must be above 0 and at most the server's {self._timeout_seconds:g} s, not {wanted:g}"
            raise InvalidInput("timeout_seconds", text)
        return min(wanted, self._timeout_seconds)

    def check(self, item: Item, path: str) -> None:
        """InvalidInput if `item`, at `path` of its request, cannot be verified whatever the response says."""
        if not item.answer.strip():
            raise InvalidInput(f"{path}answer", "is empty: a reference answer is required")
        for name in ("relative_tolerance", "absolute_tolerance"):
            tolerance = getattr(item.options, name)
            if not (math.isfinite(tolerance) and tolerance >= 0):
                raise InvalidInput(f"{path}options.{name}", f"must be at least 0 and finite, not {tolerance}")
        if item.method is Method.CUSTOM and item.options.verifier not in custom.known():
            names = ", ".join(sorted(custom.known())) or "none"
            text = f"no verifier {item.options.verifier!r} in group {custom.GROUP}; installed are: {names}"
            raise InvalidInput(f"{path}options.verifier", text)

    def decide(self, item: Item) -> Verdict | Hard:
        """The verdict if the fast path can prove it or it is remembered; else what to hand to a call."""
        started = time.perf_counter()
        if item.method is Method.CUSTOM or len(item.response) + len(item.answer) > quick.MAX_LENGTH:
            return Hard(item, None)
        try:
            asked = quick.question(item)
            decided = quick.decide(asked)
        except (
            Exception
        ):  # A text that trips the fast path must not fail its neighbours: it may trip a worker.
            log.exception("the fast path failed")
            return Hard(item, None)
        if decided:
            return decided.timed(0.0, time.perf_counter() - started)
        known = self._cache.get(asked)
        return replace(known, cached=True).timed(0.0, 0.0) if known else Hard(item, asked)

    def require_room(self, count: int) -> None:
        """Overloaded, or InvalidInput if there never will be, unless so many items may wait for a worker."""
        self._pool.queue.require_room(count)

    def finish(self, hard: Hard, outcome: Outcome, timeout: float) -> Verdict:
        """What became of an item in a worker."""
        self._observe(outcome)
        if isinstance(outcome.end, Finished):
            decided: Verdict = outcome.end.value
            if hard.asked:
                self._cache.put(hard.asked, decided)
        elif isinstance(outcome.end, TimedOut):
            text = f"undecided after {timeout:g} s of execution"
            decided = _undecided(hard, Status.TIMEOUT, "time_limit", text)
        else:
            decided = _undecided(hard, Status.ERROR, "worker", outcome.end.reason)
        return decided.timed(outcome.queue_seconds, outcome.execution_seconds)

    def watch(self) -> None:
        """Has the gauges ask this verifier when the metrics are read."""
        queue = self._pool.queue
        instruments.ITEMS_WAITING.set_function(lambda: queue.waiting)
        instruments.ITEMS_RUNNING.set_function(lambda: queue.running)
        instruments.QUEUE_LIMIT.set(queue.capacity)
        instruments.WORKERS.set_function(lambda: len(self._pool.worker_ids()))
        instruments.CACHED_VERDICTS.set_function(lambda: len(self._cache))

    def _observe(self, outcome: Outcome) -> None:
        executed = outcome.execution_seconds
        stages = instruments.STAGES
        stages.ended("queue", outcome.queue_seconds, ago=executed)
        stages.ended("execute", executed)
        if isinstance(outcome.end, Finished):
            for name, seconds, end in outcome.end.laps:
                stages.ended(name, seconds, ago=executed - end)


def _undecided(hard: Hard, status: Status, rule: str, detail: str) -> Verdict:
    """What a worker left undecided, with both sides described if the fast path has read them."""
    if hard.asked is None:
        return Verdict(status, rule, detail=detail)
    return replace(quick.described(hard.asked), status=status, rule=rule, detail=detail)


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

    def submit(self, items: Sequence[Hard], timeout: float) -> list["Future[Outcome]"]:
        """Futures, in order, to hand to `Verifier.finish`; Overloaded, and nothing started, if no room."""
        work = [(judge_question, hard.asked) if hard.asked else (judge, hard.item) for hard in items]
        futures = self._pool.submit(self._line, work, timeout)
        for future in futures:
            self._open.add(future)
            future.add_done_callback(self._open.discard)
        return futures

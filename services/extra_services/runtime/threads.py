"""Runs the blocking work of a request in a thread, with the request's context for logs and spans.

The queue for a thread is bounded: a request that finds it full is refused with a time to retry after. It
would otherwise be answered when its caller has given up.
"""

import asyncio
import contextvars
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from prometheus_client import Gauge

from extra_services.errors import Overloaded
from extra_services.runtime.metrics import Stages

Result = TypeVar("Result")


class Threads(ThreadPoolExecutor):
    """Pool of `count` threads; at most `max_queue` requests wait for one."""

    def __init__(self, count: int, max_queue: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._count, self._max_queue = count, max_queue
        self._waiting = 0
        self._mean_seconds = 0.05
        self._lock = threading.Lock()

    def enter(self, refuse: bool) -> None:
        """Count a waiting request.

        Raises:
            Overloaded: Too many wait, and `refuse` is true.
        """
        with self._lock:
            if refuse and self._waiting >= self._max_queue:
                seconds = min(30.0, max(0.05, self._waiting * self._mean_seconds / self._count))
                raise Overloaded(f"{self._waiting} requests wait already, max_queue of this server", seconds)
            self._waiting += 1

    def leave(self) -> None:
        """Count one waiting request less."""
        with self._lock:
            self._waiting -= 1

    def took(self, seconds: float) -> None:
        """Take into the mean that a request used a thread for so long."""
        with self._lock:
            self._mean_seconds += 0.05 * (seconds - self._mean_seconds)


async def in_thread(
    threads: Threads, call: Callable[[], Result], stages: Stages, waiting: Gauge, refuse: bool = True
) -> Result:
    """Run `call` in one of `threads` and return its result; the wait for a thread is the stage "queue".

    Args:
        threads: Where it runs.
        call: The blocking work.
        stages: Histogram that has the stage "queue".
        waiting: Gauge of requests that wait.
        refuse: Whether a full queue refuses the request; false for requests that are bounded elsewhere.

    Raises:
        Overloaded: The queue is full, and `refuse` is true.
    """
    submitted = time.perf_counter()

    def leave() -> None:
        waiting.dec()
        threads.leave()

    def run() -> Result:
        leave()
        begun = time.perf_counter()
        stages.ended("queue", begun - submitted)
        try:
            return call()
        finally:
            threads.took(time.perf_counter() - begun)

    threads.enter(refuse)
    waiting.inc()
    future = threads.submit(contextvars.copy_context().run, run)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancel():  # It had not begun.
            leave()
        raise

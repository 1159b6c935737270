"""Blocking work of a request in a thread, where its logs and spans still know the request.

The queue for a thread is bounded: a request that finds it full is refused, and told when to come back,
instead of being answered when nobody waits for it any more.
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
    """`count` threads, and at most `max_queue` requests that wait for one."""

    def __init__(self, count: int, max_queue: int, name: str) -> None:
        super().__init__(count, thread_name_prefix=name)
        self._count, self._max_queue = count, max_queue
        self._waiting = 0
        self._mean_seconds = 0.05
        self._lock = threading.Lock()

    def enter(self, refuse: bool) -> None:
        """Counts one that waits; Overloaded if there are too many, and `refuse` says so."""
        with self._lock:
            if refuse and self._waiting >= self._max_queue:
                seconds = min(30.0, max(0.05, self._waiting * self._mean_seconds / self._count))
                raise Overloaded(f"{self._waiting} requests wait already, max_queue of this server", seconds)
            self._waiting += 1

    def leave(self) -> None:
        """It waits no more."""
        with self._lock:
            self._waiting -= 1

    def took(self, seconds: float) -> None:
        """A request has had a thread for so long."""
        with self._lock:
            self._mean_seconds += 0.05 * (seconds - self._mean_seconds)


async def in_thread(
    threads: Threads, call: Callable[[], Result], stages: Stages, waiting: Gauge, refuse: bool = True
) -> Result:
    """What `call` returns, run in one of `threads`; its wait for one is the stage "queue".

    Overloaded if the queue is full; with `refuse` false it waits nevertheless, for what is bounded elsewhere.
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
        if future.cancel():  # it had not begun
            leave()
        raise

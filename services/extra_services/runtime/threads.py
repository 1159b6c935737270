"""Blocking work of a request in a thread, where its logs and spans still know the request."""

import asyncio
import contextvars
import time
from collections.abc import Callable
from concurrent.futures import Executor
from typing import TypeVar

from prometheus_client import Gauge

from extra_services.runtime.metrics import Stages

Result = TypeVar("Result")


async def in_thread(executor: Executor, call: Callable[[], Result], stages: Stages, waiting: Gauge) -> Result:
    """What `call` returns, run in `executor`; its wait for a thread is the stage "queue"."""
    submitted = time.perf_counter()

    def run() -> Result:
        waiting.dec()
        stages.ended("queue", time.perf_counter() - submitted)
        return call()

    waiting.inc()
    future = executor.submit(contextvars.copy_context().run, run)
    try:
        return await asyncio.wrap_future(future)
    except asyncio.CancelledError:
        if future.cancel():  # it had not begun
            waiting.dec()
        raise

"""The queue for a thread refuses a request only if it is full."""

import asyncio
import threading

import pytest
from prometheus_client import CollectorRegistry, Gauge

from extra_services.errors import Overloaded
from extra_services.memory.instruments import STAGES
from extra_services.runtime.threads import Threads, in_thread


async def test_beyond_the_queue_a_request_is_refused_and_told_when_to_come_back() -> None:
    waiting = Gauge("waiting", "Requests that wait.", registry=CollectorRegistry())
    begun, release = threading.Event(), threading.Event()

    def block() -> str:
        begun.set()
        release.wait()
        return "answered"

    with Threads(1, 2, "test") as threads:
        running = asyncio.create_task(in_thread(threads, block, STAGES, waiting))
        await asyncio.to_thread(begun.wait)
        queued = [asyncio.create_task(in_thread(threads, block, STAGES, waiting)) for _ in range(2)]
        await asyncio.sleep(0)
        with pytest.raises(Overloaded) as refused:
            await in_thread(threads, block, STAGES, waiting)
        assert refused.value.retry_after_seconds > 0
        # What leaves the queue, by being cancelled here, makes room.
        queued.pop().cancel()
        await asyncio.sleep(0)
        queued.append(asyncio.create_task(in_thread(threads, block, STAGES, waiting)))
        await asyncio.sleep(0)
        release.set()
        assert await asyncio.gather(running, *queued) == ["answered"] * 3

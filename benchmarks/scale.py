"""Throughput with several replicas: `extra-rl bench scale --json`.

Measured are 1, 2 and 4 verification servers with one worker each, with the client's round robin over them,
and 1 and 2 novelty servers on one Redis that writes every change to its disk. Callers that wait for their
answers (closed loop) keep all servers busy. The numbers of replicas are measured in turn, REPEATS times. The
result is one JSON object: `ratios` are calls per second divided by those of one replica (medians); `figures`
are the rates, and the processors that servers, Redis and this client used. If their sum is close to the
machine's processors, these are the limit.
"""

import argparse
import asyncio
import itertools
import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import AsyncExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import psutil

from benchmarks.overload import Call, closed_loop, verification_call
from benchmarks.processes import used_by
from extra_client import Group, aio, embedded
from support.memory_stores import redis_server

REPEATS = 3
#: Callers, and groups of eight embeddings per novelty call.
CALLERS, GROUPS = 16, 32
_numbers = itertools.count()


def main() -> None:
    """Measure, and print the JSON object."""
    arguments = argparse.ArgumentParser(prog="extra-rl bench scale")
    arguments.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    arguments.add_argument("--service", choices=("verification", "novelty"), action="append")
    arguments.add_argument("--seconds", type=float, default=8.0, help="of each run")
    chosen = arguments.parse_args()
    ratios: dict[str, float] = {}
    figures: dict[str, Any] = {"processors": os.cpu_count()}
    for service in chosen.service or ("verification", "novelty"):
        with tempfile.TemporaryDirectory() as folder:
            measured = asyncio.run(_measure(service, chosen.seconds, Path(folder)))
        one = measured[1]["calls_per_second"]
        for count, found in measured.items():
            ratios[f"{service}_{count}"] = round(found["calls_per_second"] / one, 3)
            figures[f"{service}_{count}"] = {name: float(f"{value:.4g}") for name, value in found.items()}
    print(json.dumps({"ratios": ratios, "figures": figures}))


async def _measure(service: str, seconds: float, folder: Path) -> dict[int, dict[str, float]]:
    """Return the measured values by number of replicas."""
    counts = (1, 2, 4) if service == "verification" else (1, 2)
    async with AsyncExitStack() as stack:
        redis = stack.enter_context(_redis(folder)) if service == "novelty" else None
        folders = [folder / str(number) for number in range(max(counts))]
        servers = [stack.enter_context(_replica(service, redis, each)) for each in folders]
        calls = {}
        for count in counts:
            # The client spreads its calls over all addresses of a target.
            target = "ipv4:" + ",".join(server.target for server in servers[:count])
            calls[count] = await _caller(service, target, stack)
        for call in calls.values():
            await closed_loop(call, 2.0, CALLERS)
        rates: dict[int, list[float]] = {count: [] for count in counts}
        used: dict[int, list[dict[str, float]]] = {count: [] for count in counts}
        for _ in range(REPEATS):
            for count, call in calls.items():
                before = _processor_seconds(servers, redis)
                outcome = await closed_loop(call, seconds, CALLERS)
                after = _processor_seconds(servers, redis)
                rates[count].append(outcome.goodput)
                used[count].append({who: (after[who] - before[who]) / outcome.seconds for who in after})
    return {
        count: {"calls_per_second": statistics.median(rates[count])}
        | {
            f"processors_of_{who}": statistics.median(run[who] for run in used[count])
            for who in used[count][0]
        }
        for count in counts
    }


@contextmanager
def _replica(service: str, redis: tuple[str, int] | None, folder: Path) -> Iterator[embedded.EmbeddedService]:
    folder.mkdir()
    settings: dict[str, Any] = {"workers": 1, "slow_workers": 0}
    if redis is not None:
        settings = {"redis_url": redis[0], "embedder": "none", "threads": 1}
    settings |= {"host": "127.0.0.1", "port": 0, "log_level": "error"}
    with embedded.start(service, folder / "log", **settings) as server:
        yield server


async def _caller(service: str, target: str, stack: AsyncExitStack) -> Call:
    if service == "verification":
        return verification_call(await stack.enter_async_context(aio.VerificationClient(target)))
    client = await stack.enter_async_context(aio.NoveltyClient(target, "scale"))
    return _novelty_call(client)


def _novelty_call(client: aio.NoveltyClient) -> Call:
    """Return a call that scores and stores GROUPS groups of eight embeddings, of its own prompts."""
    chance = np.random.default_rng(0)
    vectors = chance.standard_normal((GROUPS, 8, 384)).astype(np.float32)

    async def call() -> None:
        first = next(_numbers) % 200 * GROUPS
        groups = [
            Group(prompt_id=f"p{first + place}", embeddings=vectors[place], correct=[True] * 8)
            for place in range(GROUPS)
        ]
        for scores in await client.score_groups(groups):
            assert scores.error is None

    return call


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield address and process id of a durable redis-server."""
    if shutil.which("redis-server") is None:
        sys.exit("no redis-server on this machine: apt-get install redis-server")
    with redis_server(folder) as server:
        yield server.url, server.process.pid


def _processor_seconds(
    servers: list[embedded.EmbeddedService], redis: tuple[str, int] | None
) -> dict[str, float]:
    """Return the processor seconds of the servers with their children, of Redis, and of this process."""
    roots = [psutil.Process(server.process.pid) for server in servers]
    every = [process for root in roots for process in (root, *root.children(recursive=True))]
    found = {"servers": used_by(every), "client": time.process_time()}
    if redis is not None:
        found["redis"] = used_by([psutil.Process(redis[1])])
    return found


if __name__ == "__main__":
    main()

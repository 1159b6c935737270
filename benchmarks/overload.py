"""Five times the peak load of a service: `extra-rl bench overload --json [--service NAME] [--seconds 20]`.

The services are measured one after the other, each with a queue that holds about a second of its work.
First, enough callers to keep the service busy wait for their answers (closed loop); their rate is the peak.
Then calls are sent at FACTOR times that rate without waiting for answers (open loop). Both are repeated in
turn, REPEATS times. The result is one JSON object: `ratios` are goodput under overload divided by the peak
(medians); `figures` are the rates, the share of refused calls, the shortest wait that a refusal asks for,
and the latency of accepted calls (p50 and p99), at the peak and under overload.
"""

import argparse
import asyncio
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from extra_client import OverloadedError, aio, embedded
from support.generation_models import make_model

FACTOR, REPEATS = 5, 3
#: Callers in the closed loop.
CALLERS = 12
#: Pairs per verification call: a small part of a training step.
PAIRS = 32
_numbers = itertools.count()

Call = Callable[[], Awaitable[object]]


@dataclass
class LoadResult:
    """Results of the calls of one run."""

    seconds: float = 0.0
    offered: int = 0
    refused: int = 0
    latencies: list[float] = field(default_factory=list)
    delays: list[float] = field(default_factory=list)

    @property
    def goodput(self) -> float:
        """Answered calls per second."""
        return len(self.latencies) / self.seconds

    async def send(self, call: Call) -> None:
        """Make one call and record its latency or refusal; any other error is raised."""
        self.offered += 1
        started = time.perf_counter()
        try:
            await call()
        except OverloadedError as refusal:
            self.refused += 1
            self.delays.append(refusal.retry_after or 0.0)
            return
        self.latencies.append(time.perf_counter() - started)

    def quantile(self, percent: int) -> float:
        """Return a percentile of the latencies of answered calls, in seconds."""
        return statistics.quantiles(self.latencies, n=100)[percent - 1]


async def closed_loop(call: Call, seconds: float, callers: int = CALLERS) -> LoadResult:
    """Run `callers` that each send the next call when the previous one is answered."""
    outcome, started = LoadResult(), time.perf_counter()

    async def caller() -> None:
        while time.perf_counter() < started + seconds:
            await outcome.send(call)

    await asyncio.gather(*(caller() for _ in range(callers)))
    outcome.seconds = time.perf_counter() - started
    return outcome


async def open_loop(call: Call, seconds: float, rate: float) -> LoadResult:
    """Send `rate` calls per second; answers after the last call was sent count, and so does their time."""
    outcome, started = LoadResult(), time.perf_counter()
    sent = []
    for number in range(int(rate * seconds)):
        await asyncio.sleep(max(0.0, started + number / rate - time.perf_counter()))
        sent.append(asyncio.create_task(outcome.send(call)))
    await asyncio.gather(*sent)
    outcome.seconds = time.perf_counter() - started
    return outcome


def verification_call(client: aio.VerificationClient) -> Call:
    """Return a call that verifies PAIRS new pairs that the fast path cannot decide."""

    async def call() -> None:
        numbers = [next(_numbers) for _ in range(PAIRS)]
        verdicts = await client.verify([rf"\boxed{{x+{n}}}" for n in numbers], [f"{n}+x" for n in numbers])
        assert all(verdict.correct for verdict in verdicts)

    return call


def novelty_call(client: aio.NoveltyClient) -> Call:
    """Return a call that scores and stores a group of four new texts."""

    async def call() -> None:
        number = next(_numbers)
        texts = [f"First we take {number}, then add {number + k}, so the sum is {k}. " * 3 for k in range(4)]
        await client.score(f"p{number % 500}", texts=texts, correct=[True] * 4)

    return call


def generation_call(client: aio.GenerationClient) -> Call:
    """Return a call that generates eight rollouts of 32 tokens."""

    async def call() -> None:
        await client.generate([[2, 3, 4]], n=8, max_tokens=32, min_tokens=32, seed=next(_numbers))

    return call


async def _measure(name: str, seconds: float, folder: Path) -> tuple[float, dict[str, float]]:
    model = make_model(folder / "model")
    settings: dict[str, dict[str, Any]] = {
        "verification": {
            "workers": 1,
            "slow_workers": 0,
            "max_queue": PAIRS * CALLERS,
            "timeout_seconds": 30,
        },
        "novelty": {"threads": 1, "request_threads": 4, "max_queue": 16},
        "generation": {"model": model, "threads": 1, "max_batch": 32, "max_queue": 128},
    }
    log = folder / f"{name}.log"
    async with AsyncExitStack() as stack:
        server = stack.enter_context(embedded.start(name, log, log_level="error", **settings[name]))
        call = await _caller(name, server.target, stack)
        await closed_loop(call, 2.0)  # warm-up: the first calls load models
        peaks, overloads = [], []
        for _ in range(REPEATS):
            peaks.append(await closed_loop(call, seconds))
            overloads.append(await open_loop(call, seconds, FACTOR * peaks[-1].goodput))
    ratio = statistics.median(o.goodput / p.goodput for p, o in zip(peaks, overloads, strict=True))
    figures: dict[str, float] = {}
    for kind, runs in (("peak", peaks), ("overload", overloads)):
        figures[f"{kind}_calls_per_second"] = statistics.median(run.goodput for run in runs)
        for percent in (50, 99):
            figures[f"{kind}_p{percent}_seconds"] = statistics.median(run.quantile(percent) for run in runs)
    figures["offered_per_second"] = statistics.median(run.offered / run.seconds for run in overloads)
    figures["refused"] = statistics.median(run.refused / run.offered for run in overloads)
    figures["least_retry_after_seconds"] = min(d for run in overloads for d in run.delays or [0.0])
    return ratio, figures


async def _caller(name: str, target: str, stack: AsyncExitStack) -> Call:
    if name == "verification":
        return verification_call(await stack.enter_async_context(aio.VerificationClient(target)))
    if name == "novelty":
        return novelty_call(await stack.enter_async_context(aio.NoveltyClient(target, "overload")))
    return generation_call(await stack.enter_async_context(aio.GenerationClient(target)))


def main() -> None:
    """Measure, and print the JSON object."""
    arguments = argparse.ArgumentParser(prog="extra-rl bench overload")
    names = ("verification", "novelty", "generation")
    arguments.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    arguments.add_argument("--service", choices=names, action="append", help="only this; may be repeated")
    arguments.add_argument("--seconds", type=float, default=10.0, help="of each run")
    chosen = arguments.parse_args()
    ratios, figures = {}, {}
    for name in chosen.service or names:
        with tempfile.TemporaryDirectory() as folder:
            ratios[name], figures[name] = asyncio.run(_measure(name, chosen.seconds, Path(folder)))
        figures[name] = {figure: float(f"{value:.4g}") for figure, value in figures[name].items()}
    rounded = {name: round(ratio, 3) for name, ratio in ratios.items()}
    print(json.dumps({"ratios": rounded, "figures": figures}))


if __name__ == "__main__":
    main()

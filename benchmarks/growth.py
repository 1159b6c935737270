"""How cost grows with the work: `extra-rl bench growth` writes docs/performance/growth.md and its plots.

Each part changes one size and keeps all others: prompts in the memory, solutions kept per prompt, rollouts of
a group, tokens of a response, concurrent callers, replicas. A curve is a cost at several sizes, its *slope*
that of a straight line through the logarithms of both: 1 is linear, 0 does not grow, 2 is quadratic. Every
curve has the slope that its work makes us expect. A fixed cost of a call makes the measured slope smaller; a
slope more than TOLERANCE above the expected one is a fault, and the command fails.

Seconds are CPU seconds, of the threads that work or of the server's processes, because other work on the
machine changes seconds by the clock many times over; of repeated calls the least counts, which is the one
that was disturbed least. The first parts call the domain, callers and replicas are real servers over gRPC.
"""

import argparse
import asyncio
import json
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import AsyncExitStack, ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar
from xml.sax.saxutils import escape

import numpy as np
import psutil
from numpy.typing import NDArray

from benchmarks.processes import used_by
from extra_client import Group, NamespaceSettings, aio, embedded
from extra_rl import wire
from extra_rl.rollout_record import pack_array
from extra_rl.tokens import TokenTexts
from extra_rl.v1 import prefix_pb2
from extra_rl.vocabulary import TextWindow
from extra_services.memory.embedding import Embedder
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings as StoredSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.derivation import derivation
from extra_services.novelty.request import RolloutGroup
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.prefix.splitting import boundaries
from extra_trainer.rehearsal.tokenizer import make_tokenizer

OUTPUT = Path(__file__).resolve().parents[1] / "docs/performance"
#: A curve may be so much steeper than expected: its points are few, and noise moves them.
TOLERANCE = 0.2
REPEATS = 5
NAMESPACE = "growth"

Given = TypeVar("Given")


@dataclass
class Curve:
    """A cost at several sizes."""

    name: str
    unit: str
    #: The slope that the work has.
    expected: float
    #: Size and cost, sizes rising.
    points: list[tuple[float, float]] = field(default_factory=list)

    @property
    def slope(self) -> float:
        """The measured slope."""
        sizes, costs = np.array(self.points).T
        return float(np.polyfit(np.log(sizes), np.log(np.maximum(costs, 1e-12)), 1)[0])

    @property
    def fault(self) -> bool:
        """Whether it grows faster than its work."""
        return self.slope > self.expected + TOLERANCE


@dataclass
class Part:
    """What was measured while one size changed."""

    name: str
    #: What changed, and what did not.
    size: str
    fixed: str
    curves: dict[str, Curve] = field(default_factory=dict)

    def add(self, name: str, unit: str, expected: float, size: float, cost: float) -> None:
        """Add a point to a curve."""
        self.curves.setdefault(name, Curve(name, unit, expected)).points.append((size, cost))


def least(call: Callable[[Given], object], given: Iterable[Given]) -> float:
    """Return the least CPU seconds of a call, in all threads of this process, over what it is given."""
    times = []
    for each in given:
        started = time.process_time()
        call(each)
        times.append(time.process_time() - started)
    return min(times)


class Domain:
    """A memory of vectors in a folder, without gRPC."""

    def __init__(self, folder: Path, dimension: int, capacity: int, seed: int = 0) -> None:
        self.folder = folder
        self.dimension = dimension
        self._capacity = capacity
        self._random = np.random.default_rng(seed)
        self.open()

    def open(self) -> None:
        """Open the store."""
        self.memory = Memory(SqliteStore(self.folder), None, threads=1)
        self.memory.create_namespace(NAMESPACE, StoredSettings(self._capacity, 1))
        self.scorer = NoveltyScorer(self.memory)

    def groups(self, prompts: list[int], rollouts: int) -> list[RolloutGroup]:
        """Return a group of random vectors for each prompt, all correct."""
        shape = (len(prompts), rollouts, self.dimension)
        vectors = self._random.standard_normal(shape).astype(np.float32)
        correct = np.ones(rollouts, dtype=np.bool_)
        return [
            RolloutGroup(f"prompt-{prompt}", correct, embeddings=some)
            for prompt, some in zip(prompts, vectors, strict=True)
        ]

    def score(self, groups: list[RolloutGroup]) -> None:
        """Score and remember groups."""
        answers, _ = self.scorer.score(NAMESPACE, groups)
        assert all(hasattr(answer, "novelty") for answer in answers), answers

    def chosen(self, count: int, of: int) -> list[int]:
        """Return distinct random prompts."""
        some: list[int] = self._random.choice(of, count, replace=False).tolist()
        return some

    def bytes(self) -> int:
        """Return the bytes of the database, without its log."""
        return (self.folder / "memory.sqlite").stat().st_size

    def close(self) -> None:
        """Close the store, which moves its log into the database, and free the index."""
        self.memory.close()
        del self.memory, self.scorer


def by_prompts(most: int, folder: Path) -> Part:
    """Measure calls about 64 prompts in memories of more and more of them."""
    part = Part("prompts", "prompts in the memory", "64 prompts x 4 rollouts a call, 32 dimensions, 8 kept")
    domain, stored = Domain(folder, 32, 8), 0
    for size in (10**power for power in range(3, 7) if 10**power <= most):
        started = time.process_time()
        for first in range(stored, size, 500):
            domain.score(domain.groups(list(range(first, min(first + 500, size))), 8))
        new, stored = size - stored, size
        part.add("store a new prompt", "ms", 0, size, 1e3 * (time.process_time() - started) / new)
        calls = [domain.groups(domain.chosen(64, size), 4) for _ in range(2 * REPEATS)]
        part.add("score, in the index", "ms", 0, size, 1e3 * least(domain.score, calls[:REPEATS]))
        part.add("memory of the index", "bytes", 1, size, domain.memory.index_bytes())
        part.add("count all entries", "ms", 1, size, 1e3 * least(_count, [domain] * REPEATS))
        domain.close()
        part.add("the store", "bytes", 1, size, domain.bytes())
        part.add("open the store", "ms", 0, size, 1e3 * least(Domain.open, [domain]))
        part.add("score, from the store", "ms", 0, size, 1e3 * least(domain.score, calls[REPEATS:]))
    domain.close()
    return part


def _count(domain: Domain) -> None:
    domain.memory.store_entries()


def by_memory(folder: Path) -> Part:
    """Measure calls with more and more solutions kept per prompt."""
    part = Part("memory", "solutions kept per prompt", "64 prompts x 8 rollouts a call, 64 dimensions")
    prompts = list(range(64))
    for capacity in (16, 64, 256, 1024):
        domain = Domain(folder / str(capacity), 64, capacity)
        for _ in range(capacity // 16 + 1):
            domain.score(domain.groups(prompts, 16))
        calls = [domain.groups(prompts, 8) for _ in range(REPEATS + 1)]
        part.add("score and store", "ms", 1, capacity, 1e3 * least(domain.score, calls[1:]))
        part.add("memory of the index", "bytes", 1, capacity, domain.memory.index_bytes())
        domain.close()
        part.add("the store", "bytes", 1, capacity, domain.bytes())
        domain.open()
        part.add("load from the store, and score", "ms", 1, capacity, 1e3 * least(domain.score, calls[:1]))
        domain.close()
    return part


def by_rollouts(folder: Path) -> Part:
    """Measure calls with larger and larger groups."""
    part = Part("rollouts", "rollouts a group", "64 prompts a call, 64 dimensions, 64 kept")
    prompts = list(range(64))
    for rollouts in (4, 8, 16, 32, 64):
        domain = Domain(folder / str(rollouts), 64, 64)
        for _ in range(2):
            domain.score(domain.groups(prompts, 64))
        cost = least(domain.score, [domain.groups(prompts, rollouts) for _ in range(REPEATS)])
        # Each rollout is compared with 64 solutions and its siblings: more than linear only by these.
        part.add("score and store", "ms", 1, rollouts, 1e3 * cost)
        domain.close()
    return part


def response(tokens: int) -> str:
    """Return a derivation with about so many characters, which are tokens of the rehearsal's tokenizer."""
    random, lines, written = np.random.default_rng(tokens), [], 0
    while written < tokens - 20:
        a, b = random.integers(100, 999, 2).tolist()
        lines.append(f"{a}+{b}={a + b}")
        written += len(lines[-1]) + 1
    return "\n".join([*lines, "\\boxed{7}"])


def by_length(folder: Path) -> Part:
    """Measure what is done with a response as it gets longer."""
    part = Part("length", "tokens of a response", "one response; up to 15 prefixes of 256 word pieces each")
    tokenizer = make_tokenizer()
    texts = TokenTexts(tokenizer)
    embedder = Embedder("all-MiniLM-L6-v2", "cpu", cached_texts=0, threads=1)
    embedder.embed(["to warm up"])
    for length in (128, 512, 2048, 8192):
        text = response(length)
        _add_length(part, texts, embedder, text, np.array(tokenizer(text)["input_ids"], dtype=np.int32))
    embedder.close()
    return part


def _add_length(part: Part, texts: TokenTexts, embedder: Embedder, text: str, ids: NDArray[np.int32]) -> None:
    """Measure one response."""
    entropies = np.random.default_rng(0).random(len(ids), dtype=np.float32)
    ends = texts.ends(ids, text)
    cut = [int(ends[tokens - 1]) for tokens in boundaries(ids, texts.newline_ids, 32)]
    quick: dict[str, Callable[[str], object]] = {
        "find the ends of its tokens": lambda text: texts.ends(ids, text),
        "cut it into prefixes": lambda _: boundaries(ids, texts.newline_ids, 32),
        "record it": lambda _: (pack_array(ids), pack_array(entropies.astype(np.float16))),
        "read its derivation": derivation,
    }
    slow: dict[str, Callable[[str], object]] = {
        "embed all of it": lambda text: embedder.embed([text], TextWindow.WHOLE),
        "embed its prefixes, one pass": lambda text: embedder.embed_prefixes([text], [cut]),
        "embed its prefixes, exact": lambda text: embedder.embed([text[:end] for end in cut]),
    }
    for name, call in {**quick, **slow}.items():
        repeats = 1 if name in slow else REPEATS
        part.add(name, "ms", 1, len(ids), 1e3 * least(call, [text] * repeats))
    message = prefix_pb2.EntropyRollout(
        token_ids=wire.int_bytes(ids),
        entropies=wire.float_bytes(entropies),
        text=text,
        token_ends=wire.int_bytes(ends),
    )
    part.add("the message with it", "bytes", 1, len(ids), message.ByteSize())


def by_callers(folder: Path) -> Part:
    """Measure 128 calls by more and more callers at once."""
    part = Part(
        "callers", "callers at once", "128 calls of 16 prompts x 8 rollouts, 64 dimensions, one server"
    )
    with _server(data_folder=folder) as server:
        for callers in (1, 4, 16, 64):
            cost, size = asyncio.run(_calls([server.target], callers, [server.process.pid]))
            part.add("a call", "ms", 0, callers, 1e3 * cost)
            part.add("memory of the server", "bytes", 0, callers, size)
    return part


def by_replicas(folder: Path) -> Part:
    """Measure 128 calls by 16 callers to more and more servers on one Redis."""
    part = Part("replicas", "replicas on one Redis", "128 calls by 16 callers, 16 prompts x 8 rollouts each")
    with _redis(folder) as (url, redis), ExitStack() as stack:
        servers: list[embedded.EmbeddedService] = []
        for count in (1, 2, 4):
            while len(servers) < count:
                servers.append(stack.enter_context(_server(redis_url=url)))
            processes = [redis, *(server.process.pid for server in servers)]
            cost, _ = asyncio.run(_calls([server.target for server in servers], 16, processes))
            part.add("a call, with Redis", "ms", 0, count, 1e3 * cost)
    return part


async def _calls(targets: list[str], callers: int, processes: list[int]) -> tuple[float, int]:
    """Return CPU seconds of the processes a call, of 128 calls, and their memory in bytes."""
    vectors = np.random.default_rng(0).standard_normal((16, 8, 64)).astype(np.float32)
    settings = NamespaceSettings(min_history=1)
    watched = [psutil.Process(process) for process in processes]

    async def calls(client: aio.NoveltyClient, caller: int, count: int) -> None:
        for _ in range(count):
            groups = [
                Group(prompt_id=f"{callers}-{caller}-{i}", embeddings=some, correct=[True] * 8)
                for i, some in enumerate(vectors)
            ]
            for scores in await client.score_groups(groups):
                assert scores.error is None, scores.error

    async with AsyncExitStack() as stack:
        clients = [
            await stack.enter_async_context(aio.NoveltyClient(target, NAMESPACE, settings=settings))
            for target in targets
        ]
        await asyncio.gather(*(calls(client, 10_000 + i, 2) for i, client in enumerate(clients)))
        before = used_by(watched)
        await asyncio.gather(
            *(calls(clients[caller % len(clients)], caller, 128 // callers) for caller in range(callers))
        )
        used = used_by(watched) - before
        return used / 128, sum(process.memory_info().rss for process in watched)


def _server(**settings: Any) -> embedded.EmbeddedService:
    return embedded.start(
        "novelty", start_timeout=600, embedder="none", threads=1, log_level="error", **settings
    )


@contextmanager
def _redis(folder: Path) -> Iterator[tuple[str, int]]:
    """Yield address and process id of a durable redis-server."""
    from support.memory_stores import redis_server

    with redis_server(folder) as server:
        yield server.url, server.process.pid


#: Left, top, width and height of a plot's axes, in pixels.
LEFT, TOP, WIDTH, HEIGHT = 60, 16, 360, 260
COLORS = ("#1f6fb4", "#d1601d", "#2c8a3c", "#8a4fb0", "#b0306a", "#6b6b00", "#00808a", "#555555")


def plot(part: Part) -> str:
    """Return a part as SVG: each curve as multiples of its first point, both axes logarithmic.

    A dashed line from the first point has the slope that is expected of at least one curve.
    """
    curves = list(part.curves.values())
    relative = [np.array(curve.points) / np.array([1, curve.points[0][1]]) for curve in curves]
    sizes = np.log10(np.concatenate([points[:, 0] for points in relative]))
    costs = np.log10(np.concatenate([points[:, 1] for points in relative]))
    low, high = float(min(costs.min(), -0.3)), float(max(costs.max(), sizes.max() - sizes.min(), 0.3))

    def at(size: float, cost: float) -> str:
        x = LEFT + WIDTH * (size - sizes.min()) / (sizes.max() - sizes.min())
        return f"{x:.1f},{TOP + HEIGHT * (1 - (cost - low) / (high - low)):.1f}"

    grid = []
    for power in range(int(np.ceil(low)), int(np.floor(high)) + 1):
        line = at(sizes.min(), power)
        grid.append(f'<path d="M{line}h{WIDTH}" stroke="#ddd"/>')
        height = float(line.split(",")[1]) + 4
        grid.append(f'<text x="{LEFT - 6}" y="{height}" text-anchor="end">{10.0**power:g}x</text>')
    for size in dict.fromkeys(size for curve in curves for size, _ in curve.points):
        x = at(np.log10(size), low).split(",")[0]
        grid.append(f'<text x="{x}" y="{TOP + HEIGHT + 16}" text-anchor="middle">{size:,.0f}</text>')
    lines = [
        f'<path d="M{at(sizes.min(), 0)}L{at(sizes.max(), slope * (sizes.max() - sizes.min()))}"'
        ' stroke="#999" stroke-dasharray="4"/>'
        for slope in sorted({curve.expected for curve in curves})
    ]
    legend = []
    for number, (curve, points) in enumerate(zip(curves, relative, strict=True)):
        color = COLORS[number % len(COLORS)]
        path = "L".join(at(*point) for point in np.log10(points))
        lines.append(f'<path d="M{path}" stroke="{color}" stroke-width="2"/>')
        y = TOP + 12 + 20 * number
        legend.append(f'<rect x="{LEFT + WIDTH + 16}" y="{y - 9}" width="12" height="4" fill="{color}"/>')
        label = f"{curve.name}: {curve.slope:.2f} ({curve.expected:g})"
        legend.append(f'<text x="{LEFT + WIDTH + 34}" y="{y}">{escape(label)}</text>')
    middle = f'x="{LEFT + WIDTH / 2}" y="{TOP + HEIGHT + 34}" text-anchor="middle"'
    name = f"<text {middle}>{escape(part.size)}</text>"
    area = LEFT + WIDTH + 290, TOP + HEIGHT + 44
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {area[0]} {area[1]}" width="{area[0]}"'
        ' font-family="sans-serif" font-size="12">\n<rect width="100%" height="100%" fill="#fff"/>\n'
        + "\n".join([*grid, '<g fill="none">', *lines, "</g>", *legend, name])
        + "\n</svg>\n"
    )


def page(parts: list[Part]) -> str:
    """Return the Markdown page with the tables and plots of all parts."""
    lines = [
        "# Cost that grows as it should",
        "",
        "Made by `extra-rl bench growth`; do not edit. "
        f"{datetime.now(UTC):%Y-%m-%d}, {psutil.cpu_count()} cores, load {psutil.getloadavg()[0]:.0f}.",
        "Seconds are CPU seconds. A slope is that of cost against size, both as logarithms: 1 is linear, 0",
        f"is no growth. More than {TOLERANCE:g} above the expected is a fault; a fixed cost lowers it.",
    ]
    for part in parts:
        curves = list(part.curves.values())
        sizes = [size for size, _ in curves[0].points]
        lines += ["", f"## By {part.size}", "", f"{part.fixed[0].upper()}{part.fixed[1:]}.", ""]
        lines.append("| cost | " + " | ".join(f"{size:,.0f}" for size in sizes) + " | slope | expected |")
        lines.append("|---|" + "---:|" * (len(sizes) + 2))
        for curve in curves:
            costs = " | ".join(f"{cost:,.0f}" if cost >= 1000 else f"{cost:.3g}" for _, cost in curve.points)
            slope = f"{curve.slope:.2f}" + (" **fault**" if curve.fault else "")
            lines.append(f"| {curve.name}, {curve.unit} | {costs} | {slope} | {curve.expected:g} |")
        lines += ["", f"![Cost by {part.size}](growth-{part.name}.svg)"]
    return "\n".join(lines) + "\n"


def main(arguments: list[str]) -> None:
    """Measure, write page and plots, and print one JSON object."""
    parts: dict[str, Callable[[Path], Part]] = {
        "memory": by_memory,
        "rollouts": by_rollouts,
        "length": by_length,
        "callers": by_callers,
        "replicas": by_replicas,
    }
    parser = argparse.ArgumentParser(prog="extra-rl bench growth", description=__doc__)
    parser.add_argument(
        "--part", action="append", choices=["prompts", *parts], help="only these; no page then"
    )
    parser.add_argument("--most-prompts", type=int, default=100_000, help="1000000 takes four to ten minutes")
    parser.add_argument("--output", type=Path, default=OUTPUT, help="folder of page and plots")
    parser.add_argument("--json", action="store_true", help="accepted for all benchmarks; always JSON")
    chosen = parser.parse_args(arguments)
    measured = []
    for name, measure in {"prompts": lambda folder: by_prompts(chosen.most_prompts, folder), **parts}.items():
        if chosen.part and name not in chosen.part:
            continue
        if name == "replicas" and shutil.which("redis-server") is None:
            print("no redis-server on this machine: replicas are left out", file=sys.stderr)
            continue
        with tempfile.TemporaryDirectory() as folder:
            measured.append(measure(Path(folder)))
        print(f"measured by {measured[-1].size}", file=sys.stderr)
    if not chosen.part:
        chosen.output.mkdir(parents=True, exist_ok=True)
        (chosen.output / "growth.md").write_text(page(measured))
        for part in measured:
            (chosen.output / f"growth-{part.name}.svg").write_text(plot(part))
    curves = {f"{part.name}: {curve.name}": curve for part in measured for curve in part.curves.values()}
    slopes = {name: round(curve.slope, 3) for name, curve in curves.items()}
    figures = {
        name: {"expected": c.expected, "unit": c.unit, "points": c.points} for name, c in curves.items()
    }
    print(json.dumps({"slopes": slopes, "figures": figures}))
    faults = [name for name, curve in curves.items() if curve.fault]
    if faults:
        sys.exit(f"these grow faster than their work: {', '.join(faults)}")


if __name__ == "__main__":
    main(sys.argv[1:])

"""Speed of novelty scoring, side by side with the plain algorithm: `extra-rl bench novelty --json`.

Every ratio compares two things measured in turn in this run, as the median of several repeats. `ratios` holds
the comparisons, `figures` the rates behind them and further measurements. `--part` measures one part only.
The part `derivation` gives the least CPU seconds of several repeats.
`--capacity-test` fills an index with 1,000,000 prompts x 16 vectors in float16 (about 13 GB of memory) and
measures that.
"""

import argparse
import gc
import json
import math
import os
import resource
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import faiss
import grpc
import numpy as np
import torch
import torch.nn.functional as functional
from numpy.typing import NDArray

from extra_client import Group, NoveltyClient
from extra_rl.v1 import namespace_pb2, namespace_pb2_grpc, novelty_pb2, novelty_pb2_grpc
from extra_rl.vocabulary import Metric, OutcomeScope, ScoreMode, VectorStorage
from extra_services.memory.embedding import Embedder
from extra_services.memory.index import RingIndex
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty import arithmetic, derivation, metrics, outcome_scoring
from extra_services.novelty.derivation import Derivation
from extra_services.novelty.derivation_scoring import DerivationScorer, sketches_of
from extra_services.novelty.problem import statement
from extra_services.novelty.request import RolloutGroup, ScoringOptions
from extra_services.novelty.ring_scoring import RingScorer
from extra_services.novelty.scoring import NoveltyScorer
from extra_services.runtime import memo

PROMPTS, ROLLOUTS, DIMENSION = 512, 8, 384
REPEATS = 15
SOLUTIONS = Path(__file__).parents[1] / "tests/data/novelty_problems.jsonl"

Vectors = NDArray[np.float32]


class PlainTorch:
    """Section 1 as one writes it down: a deque of tensors per prompt, and for each rollout the largest of
    its similarities to memory and siblings. With `hoisted` a group's memory is stacked once, not per rollout.
    """

    def __init__(self, capacity: int, hoisted: bool = False) -> None:
        self.hoisted = hoisted
        self.memory: dict[int, deque[torch.Tensor]] = {p: deque(maxlen=capacity) for p in range(PROMPTS)}

    def remember(self, embeddings: torch.Tensor) -> None:
        """Updates the memories only."""
        unit = functional.normalize(embeddings, dim=-1)
        for prompt in range(PROMPTS):
            self.memory[prompt].extend(unit[prompt * ROLLOUTS : (prompt + 1) * ROLLOUTS])

    def score(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Novelty float32 [512 * 8] of consecutive groups; updates the memories."""
        unit = functional.normalize(embeddings, dim=-1)
        novelty = torch.zeros(len(unit))
        for prompt in range(PROMPTS):
            group = unit[prompt * ROLLOUTS : (prompt + 1) * ROLLOUTS]
            memory = self.memory[prompt]
            stacked = torch.stack(list(memory)) if self.hoisted else None
            for i in range(ROLLOUTS):
                if stacked is None:
                    others = torch.stack([*memory, *group[:i], *group[i + 1 :]])
                else:
                    others = torch.cat([stacked, group[:i], group[i + 1 :]])
                novelty[prompt * ROLLOUTS + i] = max(0.0, 1 - (others @ group[i]).max().item())
            self.memory[prompt].extend(group)
        return novelty


class InMemory:
    """The domain's class that scores and remembers a batch of embeddings, over its index."""

    def __init__(self, capacity: int) -> None:
        self.index = RingIndex(DIMENSION, capacity, 4 * 2**30)
        self.rings = RingScorer(self.index, NamespaceSettings(capacity, 1))
        self.prompts = [f"p{prompt}" for prompt in range(PROMPTS)]
        self.counts = np.full(PROMPTS, ROLLOUTS)

    def remember(self, embeddings: Vectors) -> None:
        """Updates the memories only."""
        unit, _ = metrics.unit_vectors(embeddings)
        self.index.check_out(self.prompts)
        self.rings.remember(self.prompts, self.counts, unit)
        self.index.check_in(self.prompts)

    def score(self, embeddings: Vectors) -> Vectors:
        """Novelty float32 [512 * 8] of consecutive groups; updates the memories."""
        unit, usable = metrics.unit_vectors(embeddings)
        assert usable.all()
        self.index.check_out(self.prompts)
        novelty, _ = self.rings.score(self.prompts, self.counts, unit, Metric.EMBEDDING)
        self.rings.remember(self.prompts, self.counts, unit)
        self.index.check_in(self.prompts)
        return novelty


def seconds(call: Callable[[], object]) -> float:
    """Return the seconds of a call."""
    started = time.perf_counter()
    call()
    return time.perf_counter() - started


def cpu_seconds(call: Callable[[], object]) -> float:
    """Return the CPU seconds of a call in all threads of this process: waiting counts nothing."""
    started = time.process_time()
    call()
    return time.process_time() - started


def in_turn(
    repeats: int, *calls: Callable[[], object], clock: Callable[[Callable[[], object]], float] = seconds
) -> list[float]:
    """Median seconds of each call, the calls made in turn so that what disturbs one disturbs all."""
    times = [[clock(call) for call in calls] for _ in range(repeats)]
    return [statistics.median(column) for column in zip(*times, strict=True)]


def embeddings(seed: int) -> Vectors:
    """float32 [512 * 8, 384]."""
    return np.random.default_rng(seed).standard_normal((PROMPTS * ROLLOUTS, DIMENSION)).astype(np.float32)


def groups(vectors: Vectors, correct: bool = True) -> list[RolloutGroup]:
    """The batch as the domain takes it."""
    mask = np.full(ROLLOUTS, correct)
    return [
        RolloutGroup(f"p{p}", mask, embeddings=vectors[p * ROLLOUTS : (p + 1) * ROLLOUTS])
        for p in range(PROMPTS)
    ]


def scoring(capacity: int, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """The service's computation against the plain algorithm, memories full and updated."""
    plain, hoisted, ours = PlainTorch(capacity), PlainTorch(capacity, hoisted=True), InMemory(capacity)
    for seed in range(-(-capacity // ROLLOUTS)):
        vectors = embeddings(seed)
        plain.remember(torch.from_numpy(vectors))
        hoisted.remember(torch.from_numpy(vectors))
        ours.remember(vectors)
    vectors = embeddings(10_000)
    tensors = torch.from_numpy(vectors)
    assert np.abs(plain.score(tensors).numpy() - ours.score(vectors)).max() < 1e-5, "both must score the same"
    repeats = REPEATS if capacity < 100 else 3
    plain_s, hoisted_s, ours_s = in_turn(
        repeats, lambda: plain.score(tensors), lambda: hoisted.score(tensors), lambda: ours.score(vectors)
    )
    ratios[f"score_{capacity}"] = plain_s / ours_s
    ratios[f"score_{capacity}_hoisted"] = hoisted_s / ours_s
    figures[f"score_{capacity}"] = {
        "plain_per_second": PROMPTS * ROLLOUTS / plain_s,
        "hoisted_per_second": PROMPTS * ROLLOUTS / hoisted_s,
        "per_second": PROMPTS * ROLLOUTS / ours_s,
    }


def durable_scoring(storage: VectorStorage, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """The whole domain, with checks, locks and the durable write, against the plain algorithm in memory.

    By the clock, which includes the disk, and by CPU seconds, which other work on the machine disturbs less.
    """
    plain = PlainTorch(16)
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(SqliteStore(Path(folder)), embedder=None)
        memory.create_namespace("bench", NamespaceSettings(16, 1, storage=storage))
        scorer = NoveltyScorer(memory)
        for seed in range(3):
            plain.remember(torch.from_numpy(embeddings(seed)))
            scorer.score("bench", groups(embeddings(seed)))
        vectors = embeddings(10_000)
        batch, tensors = groups(vectors), torch.from_numpy(vectors)
        score_only = ScoringOptions(mode=ScoreMode.SCORE_ONLY)
        calls: list[Callable[[], object]] = [
            lambda: plain.score(tensors),
            lambda: scorer.score("bench", batch),
            lambda: scorer.score("bench", batch, score_only),
        ]
        (plain_s, durable_s, only_s), cpu = (
            in_turn(REPEATS, *calls),
            in_turn(REPEATS, *calls, clock=cpu_seconds),
        )
        memory.close()
    name = "score_16_durable" if storage is VectorStorage.FLOAT32 else f"score_16_durable_{storage.value}"
    ratios[name], ratios[f"{name}_cpu"] = plain_s / durable_s, cpu[0] / cpu[1]
    figures[name] = {
        "per_second": PROMPTS * ROLLOUTS / durable_s,
        "score_only_per_second": PROMPTS * ROLLOUTS / only_s,
        "per_cpu_second": PROMPTS * ROLLOUTS / cpu[1],
        "score_only_per_cpu_second": PROMPTS * ROLLOUTS / cpu[2],
        "plain_per_cpu_second": PROMPTS * ROLLOUTS / cpu[0],
    }


class PlainCounts:
    """Outcome novelty as one writes it down: a dictionary of counts per prompt, all rollouts wrong."""

    def __init__(self) -> None:
        self.counts: dict[str, dict[str, int]] = {}

    def score(self, batch: list[RolloutGroup]) -> list[list[float]]:
        """1/sqrt(N) of each rollout, the group itself included; updates the counts."""
        novelty = []
        for group in batch:
            counts = self.counts.setdefault(group.prompt_id, {})
            for answer in group.answers or []:
                counts[answer] = counts.get(answer, 0) + 1
            novelty.append([1 / math.sqrt(counts[answer]) for answer in group.answers or []])
        return novelty


class OutcomesInMemory:
    """The domain's functions that score and count a batch, over dictionaries."""

    def __init__(self) -> None:
        self.settings = NamespaceSettings()
        self.counts: dict[str, dict[str, float]] = {}

    def score(self, batch: list[RolloutGroup]) -> list[Vectors]:
        """Novelty of each group; updates the counts."""
        decay, capacity = self.settings.outcome_decay, self.settings.outcome_capacity
        novelty = []
        for group in batch:
            given = outcome_scoring.given_answers(group, OutcomeScope.WRONG)
            earlier = self.counts.get(group.prompt_id, {})
            novelty.append(outcome_scoring.outcome_novelty(given, earlier, decay, ignore_history=False))
            self.counts[group.prompt_id] = outcome_scoring.counted(given, earlier, decay, capacity)
        return novelty


def answered(seed: int, rollouts: int) -> list[RolloutGroup]:
    """512 all-wrong groups with skewed answers, about 40 distinct ones of a prompt after 20 batches."""
    given = np.random.default_rng(seed).zipf(1.5, (PROMPTS, rollouts)).clip(max=500)
    wrong = np.zeros(rollouts, np.bool_)
    return [RolloutGroup(f"p{p}", wrong, answers=[str(n) for n in row]) for p, row in enumerate(given)]


def outcomes(rollouts: int, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Groups a second of outcome novelty, tables filled.

    `in_memory` decides and counts over dictionaries; `score_only` is the whole domain, with checks, locks and
    counts read from the store; `durable` also writes, and waits for the disk. Each by the clock and by CPU
    seconds; the ratios are those of CPU seconds to the plain version.
    """
    plain, ours = PlainCounts(), OutcomesInMemory()
    score_and_count = ScoringOptions(Metric.OUTCOME)
    score_only = ScoringOptions(Metric.OUTCOME, ScoreMode.SCORE_ONLY)
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(SqliteStore(Path(folder)), embedder=None)
        memory.create_namespace("bench", NamespaceSettings())
        scorer = NoveltyScorer(memory)
        for seed in range(20):
            expected, found = plain.score(answered(seed, rollouts)), ours.score(answered(seed, rollouts))
            assert np.abs(np.array(expected) - np.array(found)).max() < 1e-6, "both must score the same"
            scorer.score("bench", answered(seed, rollouts), score_and_count)
        batch = answered(10_000, rollouts)
        calls: dict[str, Callable[[], object]] = {
            "plain": lambda: plain.score(batch),
            "in_memory": lambda: ours.score(batch),
            "score_only": lambda: scorer.score("bench", batch, score_only),
            "durable": lambda: scorer.score("bench", batch, score_and_count),
        }
        clock = dict(zip(calls, in_turn(REPEATS, *calls.values()), strict=True))
        cpu = {
            name: statistics.median(cpu_seconds(call) for _ in range(REPEATS)) for name, call in calls.items()
        }
        tables = memory.store.answer_counts(memory.namespace("bench"), [f"p{p}" for p in range(PROMPTS)])
        memory.close()
    ratios |= {f"outcome_{rollouts}_{name}": cpu["plain"] / cpu[name] for name in calls if name != "plain"}
    figures[f"outcome_{rollouts}"] = {
        "answers_per_prompt": statistics.mean(map(len, tables.values())),
        **{f"{name}_groups_per_second": PROMPTS / clock[name] for name in calls},
        **{f"{name}_groups_per_cpu_second": PROMPTS / cpu[name] for name in calls},
    }


class Server:
    """A novelty server process on a Unix socket."""

    def __init__(self, folder: Path, *flags: str) -> None:
        self.target = f"unix:{folder / 'socket'}"
        command = [sys.executable, "-m", "extra_services.novelty.main", f"--host={self.target}"]
        data = [f"--data-folder={folder / 'data'}", "--log-level=error", "--metrics-port=off", *flags]
        self.process = subprocess.Popen([*command, *data])
        self.channel = grpc.insecure_channel(self.target, [("grpc.max_receive_message_length", -1)])
        self.stub = novelty_pb2_grpc.NoveltyServiceStub(self.channel)
        self.namespaces = namespace_pb2_grpc.NamespaceServiceStub(self.channel)
        listing = namespace_pb2.ListNamespacesRequest()
        self.namespaces.ListNamespaces(listing, wait_for_ready=True, timeout=120)

    def create(self, name: str) -> None:
        """Makes a namespace."""
        settings = namespace_pb2.NamespaceSettings(min_history=1)
        self.namespaces.CreateNamespace(
            namespace_pb2.CreateNamespaceRequest(namespace=name, settings=settings)
        )

    def stop(self) -> None:
        """Ends the process."""
        self.channel.close()
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(30)


def message(vectors: Vectors, namespace: str, prompts: range) -> novelty_pb2.ScoreGroupsRequest:
    """The batch, or the part of it about some prompts, as sent."""
    request = novelty_pb2.ScoreGroupsRequest(namespace=namespace)
    for prompt in prompts:
        rows = vectors[prompt * ROLLOUTS : (prompt + 1) * ROLLOUTS]
        request.groups.add(prompt_id=f"p{prompt}", embeddings=rows.tobytes(), correct=[True] * ROLLOUTS)
    return request


def over_grpc(figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """By the client and gRPC against in process, both with the durable store; then 16 callers against one.

    The client's part includes the messages that it makes of arrays, and its results.
    `one_message_over_inprocess` is a single message, ready to be sent, whose answer is not read.
    """
    vectors = embeddings(1)
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(SqliteStore(Path(folder) / "own"), embedder=None)
        memory.create_namespace("bench", NamespaceSettings(16, 1))
        scorer, batch = NoveltyScorer(memory), groups(vectors)
        server = Server(Path(folder), "--embedder=none")
        try:
            server.create("bench")
            whole = message(vectors, "bench", range(PROMPTS))
            sent = [
                Group(prompt_id=group.prompt_id, embeddings=group.embeddings, correct=group.correct)
                for group in batch
            ]
            with NoveltyClient(server.target, namespace="bench") as client:
                calls: list[Callable[[], object]] = [
                    lambda: scorer.score("bench", batch),
                    lambda: client.score_groups(sent),
                    lambda: server.stub.ScoreGroups(whole),
                ]
                in_turn(3, *calls)
                own_s, client_s, message_s = in_turn(REPEATS, *calls)
            ratios["grpc_over_inprocess"] = own_s / client_s
            ratios["one_message_over_inprocess"] = own_s / message_s
            figures["grpc"] = {
                "inprocess_per_second": PROMPTS * ROLLOUTS / own_s,
                "client_per_second": PROMPTS * ROLLOUTS / client_s,
                "one_message_per_second": PROMPTS * ROLLOUTS / message_s,
            }
            concurrency(server, vectors, figures, ratios)
        finally:
            server.stop()
            memory.close()


def concurrency(server: Server, vectors: Vectors, figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """The same 64 requests of 32 groups, sent by one caller and by 16."""
    parts = [message(vectors, "bench", range(start, start + 32)) for start in range(0, PROMPTS, 32)] * 4
    latencies: list[float] = []

    def send(request: novelty_pb2.ScoreGroupsRequest) -> None:
        latencies.append(seconds(lambda: server.stub.ScoreGroups(request)))

    def all_by(callers: int) -> None:
        with ThreadPoolExecutor(callers) as pool:
            list(pool.map(send, parts))

    def all_by_16() -> None:
        latencies.clear()
        all_by(16)

    one_s, many_s = in_turn(5, lambda: all_by(1), all_by_16)
    ratios["callers_16_over_1"] = one_s / many_s
    p50, p99 = np.percentile(latencies, [50, 99])
    rollouts = len(parts) * 32 * ROLLOUTS
    figures["callers"] = {
        "one_per_second": rollouts / one_s,
        "sixteen_per_second": rollouts / many_s,
        "p50_ms": 1000 * p50,
        "p99_ms": 1000 * p99,
        "p99_over_p50": p99 / p50,
    }


def solutions(count: int, seed: int) -> list[str]:
    """Texts like worked solutions of a few sentences, of differing lengths, all different."""
    random = np.random.default_rng(seed)
    texts = []
    for _ in range(count):
        a, b, *numbers = random.integers(2, 999, size=2 + int(random.integers(2, 14))).tolist()
        lines = [f"Let x be {a} and y be {b}, so that x + y = {a + b}."]
        for number in numbers:
            a += number
            lines.append(f"Next we add {number}, which gives {a}; check: {a} - {number} = {a - number}.")
        texts.append("\n".join([*lines, f"The answer is \\boxed{{{a}}}."]))
    return texts


def with_texts(figures: dict[str, Any], ratios: dict[str, float]) -> None:
    """Texts end to end against the model alone, and against embedding every rollout; half are correct."""
    embedder = Embedder("all-MiniLM-L6-v2")
    model = embedder._model  # the same model object, so that both sides embed alike
    correct = np.arange(ROLLOUTS) % 2 == 0
    count = 8
    rounds = iter(range(1000))
    with tempfile.TemporaryDirectory() as folder:
        memory = Memory(SqliteStore(Path(folder)), embedder)
        memory.create_namespace("bench", NamespaceSettings(min_history=1))
        scorer = NoveltyScorer(memory)

        same = solutions(count * ROLLOUTS, 0)

        def fresh() -> list[list[str]]:
            # Never the same texts, which would be known, but always of the same lengths.
            number = next(rounds)
            texts = [f"Attempt {number:04d}. {text}" for text in same]
            return [texts[start : start + ROLLOUTS] for start in range(0, len(texts), ROLLOUTS)]

        def ours(batch: list[list[str]]) -> None:
            scorer.score(
                "bench", [RolloutGroup(f"p{i}", correct, texts=some) for i, some in enumerate(batch)]
            )

        def encode(batch: list[list[str]], mask: NDArray[np.bool_], size: int) -> None:
            texts = [text for some in batch for text, counted in zip(some, mask, strict=True) if counted]
            model.encode(texts, batch_size=size, normalize_embeddings=True, show_progress_bar=False)

        everything = np.ones(ROLLOUTS, dtype=np.bool_)
        ours(fresh())
        ours_s, raw_s, reference_s = in_turn(
            3,
            lambda: ours(fresh()),
            # The size of batch that was found best for these texts.
            lambda: encode(fresh(), correct, 8),
            # The reference pipeline leaves the batch size to sentence-transformers.
            lambda: encode(fresh(), everything, 32),
        )
        memory.close()
    ratios["encode_efficiency"] = raw_s / ours_s
    ratios["text_vs_reference"] = reference_s / ours_s
    figures["texts"] = {
        "rollouts_per_second": count * ROLLOUTS / ours_s,
        "embedded_per_second": count * ROLLOUTS / 2 / ours_s,
        "raw_encode_per_second": count * ROLLOUTS / 2 / raw_s,
        "reference_rollouts_per_second": count * ROLLOUTS / reference_s,
    }


def derivations(file: Path, figures: dict[str, Any]) -> None:
    """The metric `derivation` without embedding, a CPU second: reading texts, and comparing what was read.

    Args:
        file: JSON lines with `problem`, `answer` and either `response` or `texts`.
        figures: Gets the figures.
    """
    solutions = _solutions(file)
    found: list[Derivation] = []

    def read() -> None:
        # As in a server that has never seen these texts. What is kept by then is what solutions of a problem
        # have in common, as in any group.
        memo.forget()
        for module in (derivation, arithmetic):
            for function in vars(module).values():
                if hasattr(function, "cache_clear"):
                    function.cache_clear()
        found.clear()
        for (problem, answer), texts in solutions.items():
            stated = statement(problem, answer)
            found.extend(derivation.derivation(text, stated) for text in texts)

    def least(call: Callable[[], object]) -> float:
        return min(cpu_seconds(call) for _ in range(7))

    read_s, sketch_s = least(read), least(lambda: sketches_of(found))
    texts = [text for some in solutions.values() for text in some]
    rows = np.resize(np.arange(len(found)), PROMPTS * ROLLOUTS)
    sketches = sketches_of(found)[rows]
    unit, _ = metrics.unit_vectors(embeddings(0))
    problems, _ = metrics.unit_vectors(embeddings(1)[:PROMPTS])
    index, settings = RingIndex(DIMENSION, 16, 2**30), NamespaceSettings(16, 1)
    names, counts = [f"p{prompt}" for prompt in range(PROMPTS)], np.full(PROMPTS, ROLLOUTS)
    index.check_out(names)
    for _ in range(2):
        index.append(names, counts, unit, sketches)
    related = np.ones(len(unit), dtype=np.float32)

    def scorer() -> DerivationScorer:
        return DerivationScorer(index, settings, names, counts, unit, sketches, sketches, problems, related)

    new = sketches.view("<u8").reshape(len(sketches), derivation.FAMILIES, derivation.WORDS)
    known = new[np.arange(len(new))[:, None] - np.arange(1, 17)]
    similarity = np.random.default_rng(2).random((len(new), 16), dtype=np.float32)
    present = np.ones(similarity.shape, dtype=np.bool_)
    compare_s = least(lambda: derivation.derivation_novelty(similarity, new, known, present, related))
    correct = np.ones(len(new), dtype=np.bool_)
    figures["derivation"] = {
        "texts": len(texts),
        "words_per_text": statistics.mean(len(text.split()) for text in texts),
        "texts_read_per_cpu_second": len(texts) / read_s,
        "sketches_per_cpu_second": len(texts) / sketch_s,
        "rollouts_compared_with_16_per_cpu_second": len(new) / compare_s,
        "rollouts_scored_from_rings_per_cpu_second": len(new) / least(lambda: scorer().novelty()),
        "rollouts_of_scale_share_per_cpu_second": len(new) / least(lambda: scorer().shares(correct)),
    }


def _solutions(file: Path) -> dict[tuple[str, str], list[str]]:
    """Return the solutions of each problem and its answer."""
    solutions: dict[tuple[str, str], list[str]] = {}
    for line in file.read_text(encoding="utf-8").splitlines():
        row = json.loads(line)
        texts = list(row["texts"].values()) if "texts" in row else [row["response"]]
        solutions.setdefault((row["problem"], str(row["answer"])), []).extend(texts)
    return solutions


def capacity_test(prompts: int = 1_000_000, capacity: int = 16) -> dict[str, Any]:
    """Fills an index in float16, then searches it."""
    index = RingIndex(DIMENSION, capacity, 16 * 2**30, VectorStorage.FLOAT16)
    block = 4096
    vectors, _ = metrics.unit_vectors(
        np.random.default_rng(0).standard_normal((block * capacity, DIMENSION)).astype(np.float32)
    )
    started = time.perf_counter()
    for start in range(0, prompts, block):
        names = [f"p{prompt}" for prompt in range(start, min(start + block, prompts))]
        counts = np.full(len(names), capacity)
        index.check_out(names)
        index.append(names, counts, vectors[: len(names) * capacity])
        index.check_in(names)
    filled = time.perf_counter() - started
    chosen = [f"p{prompt}" for prompt in np.random.default_rng(1).choice(prompts, PROMPTS, replace=False)]
    counts = np.full(PROMPTS, ROLLOUTS)
    assert not index.check_out(chosen), "all must still be there"
    search_s = statistics.median(
        seconds(lambda: index.nearest(chosen, counts, vectors[: PROMPTS * ROLLOUTS])) for _ in range(5)
    )
    return {
        "prompts": prompts,
        "vectors": prompts * capacity,
        "peak_memory_gb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6,
        "vectors_added_per_second": prompts * capacity / filled,
        "queries_per_second": PROMPTS * ROLLOUTS / search_s,
    }


def main(arguments: list[str]) -> None:
    """Prints one JSON object."""
    parser = argparse.ArgumentParser(prog="extra-rl bench novelty", description=__doc__)
    parser.add_argument(
        "--part",
        choices=["scoring", "scoring_1024", "derivation", "outcome", "grpc", "texts"],
        help="measure one part only",
    )
    parser.add_argument(
        "--solutions",
        type=Path,
        default=SOLUTIONS,
        help="JSON lines whose solutions the part `derivation` reads, by default those of the tests",
    )
    parser.add_argument("--capacity-test", action="store_true", help="1,000,000 prompts x 16 in float16")
    parser.add_argument("--json", action="store_true", help="accepted for uniformity: the output is JSON")
    chosen = parser.parse_args(arguments)
    ratios: dict[str, float] = {}
    # As a server does when it has started.
    gc.collect()
    gc.freeze()
    figures: dict[str, Any] = {"cpus": os.cpu_count(), "faiss": faiss.get_compile_options().split()}
    if chosen.capacity_test:
        figures["capacity"] = capacity_test()
    else:
        if chosen.part in (None, "scoring"):
            scoring(16, figures, ratios)
            durable_scoring(VectorStorage.FLOAT32, figures, ratios)
            durable_scoring(VectorStorage.FLOAT16, figures, ratios)
        if chosen.part in (None, "scoring_1024"):
            scoring(1024, figures, ratios)
        if chosen.part in (None, "derivation"):
            derivations(chosen.solutions, figures)
        if chosen.part in (None, "outcome"):
            outcomes(8, figures, ratios)
            outcomes(16, figures, ratios)
        if chosen.part in (None, "grpc"):
            over_grpc(figures, ratios)
        if chosen.part in (None, "texts"):
            with_texts(figures, ratios)
    print(json.dumps({"ratios": ratios, "figures": figures}, indent=2))


if __name__ == "__main__":
    main(sys.argv[1:])

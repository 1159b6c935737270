"""Index and store together equal the plain algorithm, for random operations in random order."""

import tempfile
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extra_rl.vocabulary import MemoryPolicy, ScoreMode, VectorStorage
from extra_services.memory import index, transfer
from extra_services.memory.memory import Memory
from extra_services.memory.records import EmbeddingSpace, Namespace, NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.request import GroupScores, RolloutGroup, ScoringOptions
from extra_services.novelty.scoring import NoveltyScorer
from support.memory_stores import RedisServer, redis_server

DIMENSION = 6

group = st.tuples(
    st.integers(0, 11),  # prompt
    st.lists(st.booleans(), min_size=1, max_size=12),  # correct
    st.integers(0, 2**31),  # seed of its embeddings
)
step = st.one_of(
    st.tuples(
        st.just("score"),
        st.lists(group, min_size=1, max_size=5),
        st.sampled_from(["score_and_remember", "score_only", "remember_only"]),
    ),
    st.tuples(st.just("delete"), st.sets(st.integers(0, 11), max_size=3)),
    st.tuples(st.sampled_from(["restart", "snapshot", "restore", "transfer", "other replica"])),
)
histories = given(
    capacity=st.integers(1, 10),
    min_history=st.integers(0, 4),
    everything=st.booleans(),
    half=st.booleans(),
    steps=st.lists(step, min_size=1, max_size=14),
    rings=st.integers(5, 13),
)


class Plain:
    """The algorithm of section 1 of docs/algorithm.md, with a deque per prompt."""

    def __init__(self, capacity: int, min_history: int, everything: bool, half: bool) -> None:
        self.capacity, self.min_history, self.everything, self.half = capacity, min_history, everything, half
        self.memory: dict[int, list[NDArray[np.float64]]] = {}

    def score(self, prompt: int, vectors: NDArray[np.float32], correct: list[bool], mode: str) -> list[float]:
        unit = vectors.astype(np.float64)
        unit /= np.linalg.norm(unit, axis=1, keepdims=True)
        ring = deque(self.memory.get(prompt, []), maxlen=self.capacity)
        counted = [i for i in range(len(correct)) if correct[i] or self.everything]
        novelty = [0.0] * len(correct)
        for i in counted:
            known = [*ring, *(unit[j] for j in counted if j != i)]
            if mode != "remember_only" and len(ring) >= self.min_history:
                novelty[i] = max(0.0, 1 - max(float(unit[i] @ other) for other in known)) if known else 1.0
        if mode != "score_only":
            ring.extend(unit[i].astype(np.float16) if self.half else unit[i] for i in counted)
            self.memory[prompt] = list(ring)
        return novelty


class Replicas:
    """One server process after the other on one store, or several at a time, with room for few prompts."""

    def __init__(self, folder: str, server: RedisServer | None, ring_bytes: int) -> None:
        self._folder, self._server, self._bytes = folder, server, ring_bytes
        self._idle: list[Memory] = []
        self.now = self._open()

    def restart(self) -> None:
        self.now.close()
        self.now = self._open()

    def another(self) -> None:
        """Where the store can be shared, another replica takes the next requests; it may be stale by now."""
        if self._server is not None:
            self._idle.append(self.now)
            self.now = self._idle.pop(0) if len(self._idle) > 2 else self._open()

    def close(self) -> None:
        for memory in (self.now, *self._idle):
            memory.close()

    def _open(self) -> Memory:
        if self._server is None:
            return Memory(SqliteStore(Path(self._folder)), embedder=None, index_bytes=self._bytes)
        return Memory(self._server.store(self._folder), embedder=None, index_bytes=self._bytes)


@pytest.fixture(scope="module")
def redis_store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RedisServer]:
    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@histories
@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_scores_as_brute_force_does(**history: Any) -> None:
    _replay(None, **history)


@histories
@settings(
    max_examples=60,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
def test_any_history_on_redis_scores_as_brute_force_does(redis_store: RedisServer, **history: Any) -> None:
    _replay(redis_store, **history)


def _replay(
    server: RedisServer | None,
    capacity: int,
    min_history: int,
    everything: bool,
    half: bool,
    steps: list[tuple[Any, ...]],
    rings: int,
) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(index, "FIRST_LISTS", 1):
        plain = Plain(capacity, min_history, everything, half)
        saved: dict[int, list[NDArray[np.float64]]] = {}
        replicas = Replicas(folder, server, rings * capacity * ((2 if half else 4) * DIMENSION + 8))
        made = NamespaceSettings(
            capacity,
            min_history,
            MemoryPolicy.ALL if everything else MemoryPolicy.CORRECT,
            storage=VectorStorage.FLOAT16 if half else VectorStorage.FLOAT32,
        )
        replicas.now.create_namespace("n", made)
        replicas.now.copy_namespace("n", "saved", replace=False)
        for action, *arguments in steps:
            memory = replicas.now
            if action == "restart":
                replicas.restart()
            elif action == "other replica":
                replicas.another()
            elif action == "snapshot":
                memory.copy_namespace("n", "saved", replace=True)
                saved = dict(plain.memory)
            elif action == "restore":
                memory.copy_namespace("saved", "n", replace=True)
                plain.memory = dict(saved)
            elif action == "transfer":
                file = Path(folder) / "n.parquet"
                file.write_bytes(b"".join(transfer.export(memory, "n")))
                transfer.import_file(memory, "n", file, replace=True)
            elif action == "delete":
                memory.delete_prompts("n", [f"p{prompt}" for prompt in arguments[0]])
                plain.memory = {p: ring for p, ring in plain.memory.items() if p not in arguments[0]}
            else:
                _score_both(memory, plain, *arguments)
        stored = sum(len(ring) for ring in plain.memory.values())
        assert replicas.now.store.sizes(replicas.now.store.namespace("n")).solutions == stored
        replicas.close()


def _score_both(memory: Memory, plain: Plain, groups: list[tuple[Any, ...]], mode: Any) -> None:
    made, expected = [], []
    for prompt, correct, seed in groups:
        vectors = np.random.default_rng(seed).standard_normal((len(correct), DIMENSION)).astype(np.float32)
        made.append(RolloutGroup(f"p{prompt}", np.array(correct), embeddings=vectors))
        expected.append(plain.score(prompt, vectors, correct, mode))
    answers, _ = NoveltyScorer(memory).score("n", made, ScoringOptions(mode=ScoreMode(mode)))
    for answer, values in zip(answers, expected, strict=True):
        assert isinstance(answer, GroupScores)
        # A float64 and a float32 unit vector may round to neighbouring float16 numbers.
        np.testing.assert_allclose(answer.novelty, values, atol=1e-3 if plain.half else 1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 300), st.sampled_from([0, 1, 6, 384, 40_000]), st.integers(0, 2**31))
def test_vectors_in_float16_are_those_of_numpys_rounding(rows: int, dimension: int, seed: int) -> None:
    shape = (min(rows, 2) if dimension > 1_000 else rows, dimension)
    vectors = np.random.default_rng(seed).uniform(-1, 1, shape).astype(np.float32)
    half = NamespaceSettings(storage=VectorStorage.FLOAT16)
    stored = Namespace(1, "n", half, EmbeddingSpace(), EmbeddingSpace()).as_stored(vectors)
    assert stored.dtype == np.float16
    assert stored.shape == shape
    np.testing.assert_array_equal(stored, vectors.astype(np.float16))

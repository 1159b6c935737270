"""Index and store together equal the plain algorithm, whatever happens in whatever order."""

import tempfile
from collections import deque
from pathlib import Path
from unittest.mock import patch

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from extra_services.memory import index
from extra_services.memory.memory import Memory
from extra_services.memory.records import NamespaceSettings
from extra_services.memory.sqlite_store import SqliteStore
from extra_services.novelty.request import GroupScores, Options, RolloutGroup
from extra_services.novelty.scoring import NoveltyScorer

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
    st.tuples(st.just("restart")),
    st.tuples(st.just("snapshot")),
    st.tuples(st.just("restore")),
)


class Plain:
    """The algorithm of section 3.1, written with a deque per prompt."""

    def __init__(self, capacity: int, min_history: int, everything: bool) -> None:
        self.capacity, self.min_history, self.everything = capacity, min_history, everything
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
            ring.extend(unit[i] for i in counted)
            self.memory[prompt] = list(ring)
        return novelty


@given(
    capacity=st.integers(1, 10),
    min_history=st.integers(0, 4),
    everything=st.booleans(),
    steps=st.lists(step, min_size=1, max_size=14),
    lists=st.integers(5, 13),
)
@settings(max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_any_history_scores_as_brute_force_does(
    capacity: int, min_history: int, everything: bool, steps: list[tuple], lists: int
) -> None:
    with tempfile.TemporaryDirectory() as folder, patch.object(index, "FIRST_LISTS", 1):
        policy = "all" if everything else "correct"
        plain, saved = Plain(capacity, min_history, everything), {}
        memory = _memory(folder, capacity, lists)
        memory.create_namespace("n", NamespaceSettings(capacity, min_history, policy))
        memory.copy_namespace("n", "saved", replace=False)
        for action, *arguments in steps:
            if action == "restart":
                memory.close()
                memory = _memory(folder, capacity, lists)
            elif action == "snapshot":
                memory.copy_namespace("n", "saved", replace=True)
                saved = dict(plain.memory)
            elif action == "restore":
                memory.copy_namespace("saved", "n", replace=True)
                plain.memory = dict(saved)
            else:
                _score_both(memory, plain, *arguments)
        stored = sum(len(ring) for ring in plain.memory.values())
        assert memory.store.sizes(memory.store.namespace("n")).solutions == stored
        memory.close()


def _memory(folder: str, capacity: int, lists: int) -> Memory:
    """With room for few prompts in the index, so that it grows, evicts and loads again."""
    bytes_per_prompt = capacity * (4 * DIMENSION + 8)
    return Memory(SqliteStore(Path(folder)), embedder=None, index_bytes=lists * bytes_per_prompt)


def _score_both(memory: Memory, plain: Plain, groups: list[tuple], mode: str) -> None:
    made, expected = [], []
    for prompt, correct, seed in groups:
        vectors = np.random.default_rng(seed).standard_normal((len(correct), DIMENSION)).astype(np.float32)
        made.append(RolloutGroup(f"p{prompt}", np.array(correct), embeddings=vectors))
        expected.append(plain.score(prompt, vectors, correct, mode))
    answers, _ = NoveltyScorer(memory).score("n", made, Options(mode=mode))
    for answer, values in zip(answers, expected, strict=True):
        assert isinstance(answer, GroupScores)
        np.testing.assert_allclose(answer.novelty, values, atol=1e-5)

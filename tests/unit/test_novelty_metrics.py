"""The novelty metrics: the meaning of their values, and agreement with the definitions in their papers."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from extra_services.novelty import metrics

sizes = st.lists(st.integers(0, 6), min_size=1, max_size=5)


def _unit(vectors: object) -> np.ndarray:
    array = np.asarray(vectors, dtype=np.float32)
    unit: np.ndarray = array / np.linalg.norm(array, axis=1, keepdims=True)
    return unit


def _random(counts: list[int], seed: int) -> list[np.ndarray]:
    random = np.random.default_rng(seed)
    return [
        _unit(random.standard_normal((count, 3)) + 0.5) if count else np.zeros((0, 3)) for count in counts
    ]


@given(sizes, st.integers(0, 2**31))
@settings(deadline=None)
def test_set_metrics_of_a_batch_are_those_of_each_group(counts: list[int], seed: int) -> None:
    groups = _random(counts, seed)
    vectors, lengths = np.concatenate(groups).astype(np.float32), np.array(counts)
    mean, clusters = [], []
    for group in groups:
        similarity = group @ group.T
        for i in range(len(group)):
            others = [similarity[i, j] for j in range(len(group)) if j != i]
            mean.append(1 - np.mean(others) if others else 0)
            reached, new = {i}, {i}
            while new:
                new = {j for k in new for j in range(len(group)) if similarity[k, j] >= 0.8} - reached
                reached |= new
            clusters.append((len(group) - len(reached)) / (len(group) - 1) if len(group) > 1 else 0)
    np.testing.assert_allclose(metrics.mean_cosine_novelty(vectors, lengths), mean, atol=1e-5)
    found = metrics.cluster_novelty(vectors, lengths, 0.8)
    np.testing.assert_allclose(found, clusters, atol=1e-6)
    # As answers hold them.
    assert found.dtype == metrics.mean_cosine_novelty(vectors, lengths).dtype == np.float32


def test_the_nearest_sibling_is_never_the_rollout_itself() -> None:
    vectors = _unit([[1, 0], [1, 0.1], [0, 1], [1, 0]])
    similarity, position = metrics.sibling_similarity(vectors, np.array([3, 1]))
    assert position[:2].tolist() == [1, 0]
    assert similarity[3] == -np.inf


def test_vendi_counts_what_is_distinct() -> None:
    alike, orthogonal = np.tile(_unit([[1, 2, 3]]), (4, 1)), np.eye(3, dtype=np.float32)
    vectors = np.concatenate([alike, orthogonal, _unit([[1, 1, 0]])])
    scores = metrics.vendi_scores(vectors, np.array([4, 0, 3, 1]))
    assert scores == pytest.approx([1, 0, 3, 1])


def test_a_vector_without_direction_is_found_and_the_others_have_length_one() -> None:
    rows = np.ones((5, 3), dtype=np.float32)
    rows[1], rows[2, 1], rows[3] = 0, np.nan, 3e38
    unit, usable = metrics.unit_vectors(rows)
    assert usable.tolist() == [True, False, False, False, True]
    np.testing.assert_allclose(np.linalg.norm(unit[usable], axis=1), 1, rtol=1e-6)


def test_unit_vectors_are_single_precision_whatever_they_are_made_of() -> None:
    unit, _ = metrics.unit_vectors(np.array([[3.0, 4.0]]))
    assert unit.dtype == np.float32
    assert unit.tolist() == [pytest.approx([0.6, 0.8])]


def test_surprise_needs_two_correct_rollouts_that_differ() -> None:
    logprobs = np.array([-1, -9, -5, -100], dtype=np.float32)
    surprise = metrics.policy_surprise(logprobs, np.array([True, True, True, False]))
    assert surprise.tolist() == pytest.approx([0, 1, 0, 0])
    assert not metrics.policy_surprise(logprobs, np.array([True, False, False, False])).any()
    assert not metrics.policy_surprise(np.full(4, -3, dtype=np.float32), np.ones(4, dtype=bool)).any()


def test_surprise_at_hardly_any_difference_is_small() -> None:
    logprobs = np.array([-2e-8, 0], dtype=np.float32)
    surprise = metrics.policy_surprise(logprobs, np.ones(2, dtype=bool))
    assert surprise.tolist() == pytest.approx([1 / (2**0.5 + 1), 0], rel=1e-3)


def test_a_response_shorter_than_an_ngram_is_not_novel() -> None:
    assert metrics.ngrams(np.array([7], dtype=np.int32), 2) == []
    assert metrics.ngram_novelty([], {}) == 0
    repeated = metrics.ngrams(np.array([1, 1, 1], dtype=np.int32), 2)
    assert metrics.ngram_novelty(repeated, {repeated[0]: 3}) == 0.5


def test_a_rounding_error_is_no_novelty() -> None:
    nearest = np.array([1 - 6e-8, 1 + 6e-8, 1 - 5e-7, 1 - 1e-5], dtype=np.float32)
    nothing, ones = np.full(4, -np.inf, dtype=np.float32), np.ones(4, dtype=np.int64)
    novelty = metrics.embedding_novelty(nearest, nothing, ones, 1)
    assert not novelty[:3].any()
    assert novelty[3] == pytest.approx(1e-5, rel=0.01)

"""The scale `share`: rare ways of the correct rollouts score above common ones."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_services.novelty.share import share_scores, ways

numbers = st.lists(st.integers(0, 3), min_size=0, max_size=12)


def test_a_rare_way_scores_above_a_common_one() -> None:
    remembered = np.array([0] * 9 + [1])
    scores = share_scores(remembered, np.array([0, 0, 1]), np.ones(3, dtype=bool), decay=1, prior=0)
    expected = -np.log(np.array([11, 11, 2]) / 13)
    np.testing.assert_allclose(scores, expected - expected.mean())
    assert scores[2] > 0 > scores[0]


def test_old_solutions_weigh_less() -> None:
    now = np.array([0, 1])
    correct = np.ones(2, dtype=bool)
    old, recent = np.array([0] * 4 + [1] * 4), np.array([1] * 4 + [0] * 4)
    assert (
        share_scores(old, now, correct, decay=0.5)[0] > 0 > share_scores(recent, now, correct, decay=0.5)[0]
    )
    assert share_scores(old, now, correct, decay=1)[0] == pytest.approx(0)


@given(numbers, st.lists(st.tuples(st.integers(0, 3), st.booleans()), max_size=8))
def test_scores_are_centred_over_the_correct_and_zero_for_the_wrong(
    remembered: list[int], group: list[tuple[int, bool]]
) -> None:
    way = np.array([one for one, _ in group], dtype=np.int64)
    correct = np.array([counts for _, counts in group], dtype=bool)
    scores = share_scores(np.array(remembered, dtype=np.int64), way, correct)
    assert scores.sum() == pytest.approx(0, abs=1e-9)
    assert not scores[~correct].any()
    same = way[:, None] == way
    for row in np.flatnonzero(correct):
        assert np.allclose(scores[same[row] & correct], scores[row])


@given(numbers, st.permutations(range(4)))
def test_names_of_ways_do_not_matter(remembered: list[int], names: list[int]) -> None:
    renamed = np.array(names)
    old, group, correct = (
        np.array(remembered, dtype=np.int64),
        np.array([0, 1, 1, 3]),
        np.array([1, 1, 0, 1], bool),
    )
    np.testing.assert_allclose(
        share_scores(old, group, correct), share_scores(renamed[old], renamed[group], correct), atol=1e-12
    )


def test_a_group_of_one_way_scores_zero() -> None:
    assert not share_scores(np.array([1, 1, 0]), np.array([2, 2]), np.ones(2, dtype=bool)).any()
    assert not share_scores(
        np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.int64), np.zeros(0, dtype=bool)
    ).any()


@pytest.mark.parametrize(
    ("decay", "prior", "named"), [(0, 1, "decay"), (1.1, 1, "decay"), (0.9, -1, "prior")]
)
def test_numbers_out_of_range_are_refused(decay: float, prior: float, named: str) -> None:
    with pytest.raises(ValueError, match=named):
        share_scores(np.array([0]), np.array([0]), np.ones(1, dtype=bool), decay, prior)


def test_a_solution_joins_the_most_similar_way() -> None:
    different = np.array([[0, 0.9, 0.2, 0.45], [0.9, 0, 0.7, 0.1], [0.2, 0.7, 0, 0.9], [0.45, 0.1, 0.9, 0]])
    assert ways(different.astype(np.float32)).tolist() == [0, 1, 0, 1]
    empty = ways(np.zeros((0, 0), dtype=np.float32))
    assert empty.tolist() == []
    assert empty.dtype == np.int64


def test_a_solution_that_differs_as_much_as_is_asked_starts_a_way() -> None:
    different = np.array([[0, 0.5], [0.5, 0]], dtype=np.float32)
    assert ways(different).tolist() == ways(different, least=0.5).tolist() == [0, 1]
    assert ways(different, least=0.6).tolist() == [0, 0]


def test_by_default_a_solution_loses_a_tenth_of_its_weight_and_a_way_has_one_to_begin_with() -> None:
    remembered, group, correct = np.array([0, 0, 1]), np.array([0, 1]), np.ones(2, dtype=bool)
    scores = share_scores(remembered, group, correct)
    weights = np.log([1 + 0.9**2 + 0.9 + 1, 1 + 1 + 1])
    np.testing.assert_allclose(scores, weights.mean() - weights)

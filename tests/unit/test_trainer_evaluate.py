"""pass@k is the unbiased estimate, and a result survives being written and read."""

from itertools import combinations
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from extra_trainer.evaluate import Evaluation, pass_at_k


@given(st.data())
def test_pass_at_k_is_the_share_of_k_subsets_with_a_correct_sample(data: st.DataObject) -> None:
    n = data.draw(st.integers(1, 8))
    k = data.draw(st.integers(1, n))
    correct = data.draw(st.lists(st.integers(0, n), min_size=1, max_size=4))
    shares = []
    for c in correct:
        subsets = list(combinations([True] * c + [False] * (n - c), k))
        shares.append(sum(any(subset) for subset in subsets) / len(subsets))
    assert pass_at_k(correct, n, k) == pytest.approx(sum(shares) / len(shares))


@pytest.mark.parametrize("k", [0, 9])
def test_k_beyond_the_samples_is_refused(k: int) -> None:
    with pytest.raises(ValueError, match="between 1 and n"):
        pass_at_k([1], 8, k)


def test_an_evaluation_survives_the_file(tmp_path: Path) -> None:
    result = Evaluation(3, 2, 8, 1.0, {1: 0.5, 8: 1.0}, [4, 8], 0, 31.5, 2.0)
    result.save(tmp_path / "e.json")
    assert Evaluation.load(tmp_path / "e.json") == result

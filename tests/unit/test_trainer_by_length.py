"""Micro-batches of similar length contain each sample once, in its own optimizer step."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from extra_trainer.openrlhf.by_length import UpdatesByLength, cut_by_length

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=64)


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 4))
def test_every_sample_is_in_one_micro_batch(lengths: list[int], size: int, workers: int) -> None:
    batches = cut_by_length(lengths, size, workers)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert max(map(len, batches)) <= size


@given(st.lists(st.integers(1, 200), min_size=16, max_size=16))
def test_no_more_is_padded_than_in_order_of_sampling(lengths: list[int]) -> None:
    in_order = [list(range(start, start + 4)) for start in range(0, 16, 4)]
    assert padded(lengths, cut_by_length(lengths, 4)) <= padded(lengths, in_order)


def test_each_worker_gets_short_and_long_samples() -> None:
    lengths = list(range(32))
    batches = cut_by_length(lengths, 4, workers=2)
    means = [sum(i for batch in batches[start : start + 4] for i in batch) / 16 for start in (0, 4)]
    assert abs(means[0] - means[1]) <= 4


@given(st.lists(st.integers(1, 200), min_size=1, max_size=70), st.integers(1, 4), st.integers(1, 4))
def test_an_update_gets_the_samples_that_were_drawn_for_it(
    lengths: list[int], size: int, per_update: int
) -> None:
    sampler = UpdatesByLength(lengths, size, size * per_update)
    torch.manual_seed(0)
    drawn = torch.randperm(len(lengths)).tolist()
    torch.manual_seed(0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == len(lengths) // (size * per_update) * per_update
    for number in range(len(batches) // per_update):
        own = batches[number * per_update : (number + 1) * per_update]
        first = number * size * per_update
        assert sorted(i for batch in own for i in batch) == sorted(drawn[first : first + size * per_update])


def test_micro_batches_that_do_not_divide_an_update_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        UpdatesByLength([1] * 12, 4, 6)

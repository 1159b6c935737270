"""Micro-batches of similar length contain each sample once; leaving out some does not change the gradient."""

import math
from collections.abc import Sequence
from itertools import combinations, pairwise
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import Dataset

from extra_trainer.openrlhf.by_length import (
    UpdatesByLength,
    cut_by_length,
    least_padding,
    loader_by_length,
    normalize_by_counted_tokens,
    policy_loss_only,
)
from extra_trainer.openrlhf.missing_packages import stand_in_for_missing

LENGTHS = st.lists(st.integers(1, 200), min_size=1, max_size=64)


def padded(lengths: list[int], batches: list[list[int]]) -> int:
    return sum(len(batch) * max(lengths[i] for i in batch) for batch in batches)


@given(LENGTHS, st.integers(1, 9), st.integers(1, 4))
def test_every_sample_is_in_one_micro_batch(lengths: list[int], size: int, workers: int) -> None:
    batches = cut_by_length(lengths, size, workers)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert len(batches) == -(-len(lengths) // size)
    assert min(map(len, batches)) >= 1
    # No more memory than micro-batches of that many samples would take.
    assert max(padded(lengths, [batch]) for batch in batches) <= size * max(lengths)


@given(st.lists(st.integers(1, 200), min_size=16, max_size=16))
def test_no_more_is_padded_than_in_order_of_sampling(lengths: list[int]) -> None:
    in_order = [list(range(start, start + 4)) for start in range(0, 16, 4)]
    assert padded(lengths, cut_by_length(lengths, 4)) <= padded(lengths, in_order)


@settings(deadline=None)
@given(st.lists(st.integers(1, 300), min_size=1, max_size=12), st.integers(1, 5))
def test_no_other_cuts_leave_less_padding(lengths: list[int], parts: int) -> None:
    lengths.sort()
    cuts = least_padding(lengths, parts)
    assert len(cuts) == parts + 1
    assert cuts == sorted(cuts)
    assert (cuts[0], cuts[-1]) == (0, len(lengths))
    if len(lengths) < parts:
        return
    most = -(-len(lengths) // parts) * lengths[-1]

    def tokens(cuts: Sequence[int]) -> float:
        each = [(end - start) * lengths[end - 1] for start, end in pairwise(cuts)]
        return sum(each) if max(each) <= most else math.inf

    every = combinations(range(1, len(lengths)), parts - 1)
    assert tokens(cuts) == min(tokens((0, *inner, len(lengths))) for inner in every)


def test_thousands_of_samples_are_cut_with_less_padding_than_equal_parts() -> None:
    lengths = sorted(int(length) for length in np.random.default_rng(0).lognormal(6, 1, 4096))
    cuts, equal = least_padding(lengths, 128), range(0, 4097, 32)
    tokens = [sum((end - start) * lengths[end - 1] for start, end in pairwise(c)) for c in (cuts, equal)]
    assert tokens[0] < 0.97 * tokens[1]
    assert max((end - start) * lengths[end - 1] for start, end in pairwise(cuts)) <= 32 * lengths[-1]


@given(st.lists(st.integers(1, 200), min_size=24, max_size=24), st.sampled_from([2, 3]))
def test_each_worker_gets_as_many_samples(lengths: list[int], workers: int) -> None:
    batches = cut_by_length(lengths, 4, workers)
    each = len(batches) // workers
    counts = [sum(map(len, batches[start : start + each])) for start in range(0, len(batches), each)]
    assert counts == [24 // workers] * workers


def test_each_worker_gets_short_and_long_samples() -> None:
    lengths = list(range(32))
    batches = cut_by_length(lengths, 4, workers=2)
    assert [len(batch) for batch in batches] == [4] * 8
    means = [sum(i for batch in batches[start : start + 4] for i in batch) / 16 for start in (0, 4)]
    assert abs(means[0] - means[1]) <= 4


@given(st.lists(st.integers(1, 200), min_size=1, max_size=70), st.integers(1, 4), st.integers(1, 4))
def test_an_update_gets_the_samples_that_were_drawn_for_it(
    lengths: list[int], size: int, per_update: int
) -> None:
    live = [length % 3 > 0 for length in lengths]
    sampler = UpdatesByLength(lengths, live, size, size * per_update)
    torch.manual_seed(0)
    drawn = torch.randperm(len(lengths)).tolist()
    torch.manual_seed(0)
    batches = list(sampler)
    assert len(batches) == len(sampler) == len(lengths) // (size * per_update) * per_update
    for number in range(len(batches) // per_update):
        own = batches[number * per_update : (number + 1) * per_update]
        first = number * size * per_update
        assert sorted(i for batch in own for i in batch) == sorted(drawn[first : first + size * per_update])
        assert min(map(len, own)) >= 1
        with_gradient = [[i for i in batch if live[i]] for batch in own]
        count = sum(map(len, with_gradient))
        assert sum(map(bool, with_gradient)) == min(count, per_update)
        longest = max((lengths[i] for batch in with_gradient for i in batch), default=0)
        for batch in filter(None, with_gradient):
            assert padded(lengths, [batch]) <= -(-count // per_update) * longest


def test_micro_batches_that_do_not_divide_an_update_are_refused() -> None:
    with pytest.raises(ValueError, match="do not divide"):
        UpdatesByLength([1] * 12, [True] * 12, 4, 6)


class Buffer(Dataset[Any]):  # type: ignore[misc]
    """A replay buffer of made samples: a table of token logits stands for the model."""

    def __init__(self, lengths: list[int], advantages: list[float]) -> None:
        self.items = [
            SimpleNamespace(
                place=place,
                total_length=torch.tensor(length + 3),
                action_mask=torch.ones(length),
                advantages=torch.full((length,), advantage),
            )
            for place, (length, advantage) in enumerate(zip(lengths, advantages, strict=True))
        ]

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, place: int) -> Any:
        return self.items[place]


def collate(samples: list[Any]) -> Any:
    def padded_rows(name: str) -> torch.Tensor:
        return torch.nn.utils.rnn.pad_sequence([getattr(s, name) for s in samples], batch_first=True)

    return SimpleNamespace(
        places=[sample.place for sample in samples],
        action_mask=padded_rows("action_mask"),
        advantages=padded_rows("advantages"),
    )


def gradient(buffer: Buffer, size: int, parts: int, mode: str, skip: bool) -> tuple[torch.Tensor, int]:
    """Return the gradient of an update with OpenRLHF's loss and normalization, and the rows it computed."""
    stand_in_for_missing()
    from openrlhf.models.loss import PolicyLoss
    from openrlhf.utils.loss_utils import iter_grad_accum_global_norm

    longest = max(len(item.action_mask) for item in buffer.items)
    torch.manual_seed(1)
    logprobs = (-torch.rand(len(buffer), longest)).requires_grad_()
    old = logprobs.detach() + 0.3 * torch.randn(logprobs.shape)
    loss_of = PolicyLoss(0.2, 0.28, token_level_loss=mode == "token-mean")
    torch.manual_seed(2)
    loader = loader_by_length(size * parts, skip)(
        buffer, batch_size=size, shuffle=True, drop_last=True, collate_fn=collate
    )
    rows = 0
    batches = normalize_by_counted_tokens(iter_grad_accum_global_norm)(
        loader, SimpleNamespace(), parts, lambda batch: batch.action_mask
    )
    for batch, norm in batches:
        width = batch.action_mask.shape[1]
        own, before = logprobs[batch.places, :width], old[batch.places, :width]
        loss, *_ = loss_of(own, before, batch.advantages, action_mask=batch.action_mask, **norm)
        (loss / parts).backward()
        rows += len(batch.places)
    assert logprobs.grad is not None
    return logprobs.grad, rows


@pytest.mark.parametrize("mode", ["token-mean", "sequence-mean"])
@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.tuples(st.integers(1, 9), st.sampled_from([0.0, 0.0, -0.5, 2.0])), min_size=12, max_size=12)
)
def test_samples_without_an_advantage_cost_nothing_and_change_nothing(
    mode: str, samples: list[tuple[int, float]]
) -> None:
    lengths, advantages = [length for length, _ in samples], [advantage for _, advantage in samples]
    buffer = Buffer(lengths, advantages)
    everything, all_rows = gradient(buffer, 4, 3, mode, skip=False)
    skipped, rows = gradient(buffer, 4, 3, mode, skip=True)
    torch.testing.assert_close(skipped, everything, rtol=1e-5, atol=1e-7)
    live = sum(advantage != 0 for advantage in advantages)
    assert all_rows == 12
    # A micro-batch computes one sample at least.
    assert live <= rows <= max(live, 3) + 2


@pytest.mark.parametrize(
    ("kl", "entropy", "experts", "only"),
    [
        (0.0, None, 0.0, True),
        (0.001, None, 0.0, False),
        (0.0, 0.003, 0.0, False),
        (0.0, None, 0.01, False),
    ],
)
def test_samples_are_left_out_only_where_the_policy_loss_is_the_only_one(
    kl: float, entropy: float | None, experts: float, only: bool
) -> None:
    args = SimpleNamespace(
        algo=SimpleNamespace(kl=SimpleNamespace(use_loss=kl > 0, init_coef=kl)),
        actor=SimpleNamespace(entropy_coef=entropy, aux_loss_coef=experts),
    )
    assert policy_loss_only(args) is only

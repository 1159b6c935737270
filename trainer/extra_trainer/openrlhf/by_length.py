"""Micro-batches of samples of similar length: less padding to compute, the same update.

A micro-batch is padded to its longest sample. OpenRLHF fills micro-batches in order of sampling for the
log-probabilities and at random for the update; 40 % of the rehearsal's tokens were then padding. Here the
samples of a step are sorted by length before they are cut into micro-batches. For the update, the samples of
one optimizer step are still drawn at random, and only these are sorted. The loss does not change: it is
averaged over all tokens or sequences of the optimizer step, not by micro-batch.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader, Sampler


def cut_by_length(lengths: Sequence[int], size: int, workers: int = 1) -> list[list[int]]:
    """Return indices in micro-batches of `size` samples of similar length.

    Args:
        lengths: Length of each sample, in tokens.
        size: Samples per micro-batch; the last may have fewer.
        workers: The micro-batches are ordered so that each of so many equal, consecutive parts has short and
            long ones.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    batches = [order[start : start + size] for start in range(0, len(order), size)]
    return [batch for worker in range(workers) for batch in batches[worker::workers]]


class UpdatesByLength(Sampler[list[int]]):  # type: ignore[misc]
    """Micro-batches of `size` samples for optimizer steps of `samples_per_update`, drawn without replacement.

    As in OpenRLHF, samples that do not fill an optimizer step are left out, and the draw uses torch's global
    random state.
    """

    def __init__(self, lengths: Sequence[int], size: int, samples_per_update: int) -> None:
        if samples_per_update % size:
            raise ValueError(f"{size} samples do not divide an update of {samples_per_update}")
        self._lengths, self._size, self._samples_per_update = lengths, size, samples_per_update

    def __len__(self) -> int:
        per_update = self._samples_per_update // self._size
        return len(self._lengths) // self._samples_per_update * per_update

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.randperm(len(self._lengths)).tolist()
        for start in range(0, len(self) * self._size, self._samples_per_update):
            update = drawn[start : start + self._samples_per_update]
            for batch in cut_by_length([self._lengths[index] for index in update], self._size):
                yield [update[place] for place in batch]


def loader_by_length(samples_per_update: int) -> Callable[..., DataLoader[Any]]:
    """Return a function to call in place of DataLoader for OpenRLHF's replay buffer.

    Loaders that are not shuffled stay as they are.
    """

    def make(buffer: Any, *, batch_size: int, shuffle: bool, drop_last: bool, **options: Any) -> Any:
        if not shuffle:
            return DataLoader(buffer, batch_size=batch_size, drop_last=drop_last, **options)
        lengths = [int(item.total_length) for item in buffer.items]
        batches = UpdatesByLength(lengths, batch_size, samples_per_update)
        return DataLoader(buffer, batch_sampler=batches, **options)

    return make

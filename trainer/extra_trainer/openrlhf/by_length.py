"""The micro-batches of an update: samples of similar length, without those that have no gradient.

A micro-batch is padded to its longest sample. OpenRLHF fills micro-batches in order of sampling for the
log-probabilities and at random for the update; 40 % of the rehearsal's tokens were then padding. Here the
samples of a step are sorted by length and cut into as many micro-batches, where that leaves the least
padding: a micro-batch of short samples may have more of them, as long as it has no more tokens than the
longest ones take. For the update, the samples of one optimizer step are still drawn at random, and only these
are sorted.

A sample whose advantage is 0, from a group all right or all wrong, has no gradient where the policy loss is
the only loss: without KL, entropy bonus and loss of a mixture of experts. It is then left out of the model's
passes, and its tokens still count in the mean that the loss is. So the gradient is the same up to
rounding, and the update of a step with few mixed groups takes a fraction of the time. Statistics of the
update, such as the share of clipped tokens, are over the samples that are left.
"""

from collections.abc import Callable, Iterator, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

#: Attribute of a micro-batch: tokens of each of its samples [samples, 1], of those left out too.
COUNTED_TOKENS = "counted_tokens"
#: Places that are tried for a cut, so that thousands of samples take milliseconds.
MOST_CUTS = 256


def least_padding(lengths: Sequence[int], parts: int) -> list[int]:
    """Return where to cut samples into micro-batches that have the fewest tokens with their padding.

    None has more tokens than equally many samples in each would give the one with the longest.

    Args:
        lengths: Length of each sample in tokens, ascending.
        parts: Number of micro-batches.

    Returns:
        parts + 1 places from 0 to the number of samples. If there are not fewer samples than micro-batches,
        each has one at least.
    """
    count = len(lengths)
    equal = [round(part * count / parts) for part in range(parts + 1)]
    if count <= parts:
        return equal
    cuts = np.unique([*range(0, count, -(-count // MOST_CUTS)), *equal])
    longest = np.append(0, lengths)[cuts]
    samples = cuts[None] - cuts[:, None]
    tokens = (samples * longest[None]).astype(np.float64)
    tokens[(samples < 1) | (samples * longest[None] > -(-count // parts) * lengths[-1])] = np.inf
    fewest, before = tokens[0], []
    for _ in range(parts - 1):
        sums = fewest[:, None] + tokens
        before.append(sums.argmin(axis=0))
        fewest = sums.min(axis=0)
    places = [len(cuts) - 1]
    for earlier in reversed(before):
        places.append(int(earlier[places[-1]]))
    return [0, *(int(cuts[place]) for place in reversed(places))]


def cut_by_length(lengths: Sequence[int], size: int, workers: int = 1) -> list[list[int]]:
    """Return indices in micro-batches of `size` samples of similar length.

    Args:
        lengths: Length of each sample, in tokens.
        size: Samples per micro-batch: on average for one worker, else of each but the last.
        workers: The micro-batches are ordered so that each of so many equal, consecutive parts has short and
            long ones. Each worker must get as many samples: with another number it would make another number
            of updates, and wait for the others for ever.
    """
    order = sorted(range(len(lengths)), key=lambda index: lengths[index])
    cuts = [*range(0, len(order), size), len(order)]
    if workers == 1:
        cuts = least_padding([lengths[index] for index in order], len(cuts) - 1)
    batches = [order[start:end] for start, end in pairwise(cuts)]
    return [batch for worker in range(workers) for batch in batches[worker::workers]]


def spread_by_length(lengths: Sequence[int], live: Sequence[bool], parts: int) -> list[list[int]]:
    """Return indices in `parts` micro-batches with live samples of similar length, cut by `least_padding`.

    The other samples are spread too, behind the live ones; no micro-batch is empty.

    Args:
        lengths: Length of each sample, in tokens; at least `parts` samples.
        live: Whether each sample has a gradient.
        parts: Number of micro-batches.
    """
    by_length = sorted(range(len(lengths)), key=lambda index: lengths[index])
    first = [index for index in by_length if live[index]]
    cuts = least_padding([lengths[index] for index in first], parts)
    batches = [first[start:end] for start, end in pairwise(cuts)]
    # Those without a live sample come first, so that each gets another one.
    empty_first = sorted(batches, key=len)
    for place, index in enumerate(index for index in by_length if not live[index]):
        empty_first[place % parts].append(index)
    return batches


class UpdatesByLength(Sampler[list[int]]):  # type: ignore[misc]
    """Micro-batches for optimizer steps of `samples_per_update` samples, drawn without replacement.

    As in OpenRLHF, samples that do not fill an optimizer step are left out, and the draw uses torch's global
    random state.
    """

    def __init__(
        self, lengths: Sequence[int], live: Sequence[bool], size: int, samples_per_update: int
    ) -> None:
        """Prepare the micro-batches.

        Args:
            lengths: Length of each sample, in tokens.
            live: Whether each sample has a gradient.
            size: Samples per micro-batch, on average and if all are live.
            samples_per_update: Samples of an optimizer step.

        Raises:
            ValueError: If `size` does not divide `samples_per_update`.
        """
        if samples_per_update % size:
            raise ValueError(f"{size} samples do not divide an update of {samples_per_update}")
        self._lengths, self._live = lengths, live
        self._parts, self._samples_per_update = samples_per_update // size, samples_per_update

    def __len__(self) -> int:
        return len(self._lengths) // self._samples_per_update * self._parts

    def __iter__(self) -> Iterator[list[int]]:
        drawn = torch.randperm(len(self._lengths)).tolist()
        for start in range(0, len(self) // self._parts * self._samples_per_update, self._samples_per_update):
            update = drawn[start : start + self._samples_per_update]
            lengths, live = (
                [self._lengths[index] for index in update],
                [self._live[index] for index in update],
            )
            for batch in spread_by_length(lengths, live, self._parts):
                yield [update[place] for place in batch]


def has_gradient(sample: Any) -> bool:
    """Return whether a sample of OpenRLHF's replay buffer has an advantage other than 0."""
    return bool(sample.advantages.any())


def policy_loss_only(args: Any) -> bool:
    """Return whether OpenRLHF's arguments add no other loss to the policy's."""
    return not (
        (args.algo.kl.use_loss and args.algo.kl.init_coef > 0)
        or args.actor.entropy_coef
        or args.actor.aux_loss_coef > 0
    )


def loader_by_length(samples_per_update: int, skip: bool) -> Callable[..., DataLoader[Any]]:
    """Return a function to call in place of DataLoader for OpenRLHF's replay buffer.

    Loaders that are not shuffled stay as they are.

    Args:
        samples_per_update: Samples of an optimizer step of one worker.
        skip: Whether samples without an advantage are left out.
    """

    def make(
        buffer: Any, *, batch_size: int, shuffle: bool, drop_last: bool, collate_fn: Any, **options: Any
    ) -> Any:
        if not shuffle:
            return DataLoader(
                buffer, batch_size=batch_size, drop_last=drop_last, collate_fn=collate_fn, **options
            )
        lengths = [int(item.total_length) for item in buffer.items]
        live = [not skip or has_gradient(item) for item in buffer.items]
        batches = UpdatesByLength(lengths, live, batch_size, samples_per_update)

        def collate(samples: list[Any]) -> Any:
            kept = [sample for sample in samples if not skip or has_gradient(sample)]
            # The passes need a sample, and the optimizer's step happens in any case.
            batch = collate_fn(kept or samples[:1])
            tokens = torch.tensor([[float(sample.action_mask.sum())] for sample in samples])
            setattr(batch, COUNTED_TOKENS, tokens)
            return batch

        return DataLoader(buffer, batch_sampler=batches, collate_fn=collate, **options)

    return make


def normalize_by_counted_tokens(original: Callable[..., Any]) -> Callable[..., Any]:
    """Return OpenRLHF's iterator of micro-batches with the mean over all samples, left out or not.

    Args:
        original: `openrlhf.utils.loss_utils.iter_grad_accum_global_norm`.
    """

    def iterate(batches: Any, strategy: Any, accumulated: int, mask_of: Callable[[Any], Any]) -> Any:
        def counted(batch: Any) -> Any:
            tokens = getattr(batch, COUNTED_TOKENS, None)
            return mask_of(batch) if tokens is None else tokens

        return original(batches, strategy, accumulated, counted)

    return iterate

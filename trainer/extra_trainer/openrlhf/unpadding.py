"""Removing the padding of a batch and putting it back, in plain torch.

OpenRLHF packs samples with three functions of flash-attn's `bert_padding`, which only move rows of a tensor.
Where flash-attn is missing, these take their place (missing_packages.py). The attention is then torch's,
which transformers masks by sequence from the position ids.
"""

import torch
from torch import Tensor


def index_first_axis(values: Tensor, indices: Tensor) -> Tensor:
    """Return the rows `indices` of `values`."""
    return values[indices]


def unpad_input(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """Return the unmasked rows of a padded batch, one sequence after the other.

    Args:
        values: [batch, length, ...].
        mask: [batch, length], 1 for rows to keep.

    Returns:
        The kept rows, their positions in the flattened batch, the bounds of the sequences
        (int32 [batch + 1]), the length of the longest sequence, and the length of each.
    """
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    indices = mask.flatten().nonzero().flatten()
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return values.flatten(0, 1)[indices], indices, bounds, int(lengths.max()), lengths


def pad_input(values: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """Return [batch, length, ...] with the rows at their positions `indices`, and 0 elsewhere."""
    padded = values.new_zeros(batch * length, *values.shape[1:])
    return padded.index_copy(0, indices, values).unflatten(0, (batch, length))

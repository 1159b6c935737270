"""Taking the padding out of a batch and putting it back, in plain torch.

OpenRLHF packs with three functions of flash-attn's `bert_padding`. They move rows of a tensor and need no
kernel of flash-attn's; where that is not installed these stand in for them (cpu_bridge.py), and the attention
is torch's, which transformers masks by sequence as the position ids tell.
"""

import torch
from torch import Tensor


def index_first_axis(values: Tensor, indices: Tensor) -> Tensor:
    """Rows `indices` of `values`."""
    return values[indices]


def unpad_input(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor, Tensor, int, Tensor]:
    """The rows of [batch, length, ...] that the mask [batch, length] counts, one after the other.

    Returns them, their positions in the flattened batch, the bounds of the sequences (int32 [batch + 1]), and
    the length of the longest and of each.
    """
    lengths = mask.sum(dim=-1, dtype=torch.int32)
    indices = mask.flatten().nonzero().flatten()
    bounds = torch.nn.functional.pad(lengths.cumsum(0, dtype=torch.int32), (1, 0))
    return values.flatten(0, 1)[indices], indices, bounds, int(lengths.max()), lengths


def pad_input(values: Tensor, indices: Tensor, batch: int, length: int) -> Tensor:
    """[batch, length, ...] with the rows where they were, and 0 elsewhere."""
    padded = values.new_zeros(batch * length, *values.shape[1:])
    return padded.index_copy(0, indices, values).unflatten(0, (batch, length))

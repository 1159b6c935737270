"""The KV cache of the running batch, with one row per sample, and the attention that uses it.

Each layer holds keys and values [rows, kv heads, capacity, head size]. A sample's row starts as a copy of the
keys and values of its prompt, which was computed once, and grows by one position per step. When a row ends,
the last row takes its place: the first `count` rows are always the live ones, and a step works on a slice
without gathering. Room for rows and positions grows as needed.

The caches of transformers are not suitable: DynamicCache copies everything at every step, and its rows cannot
join or leave at different lengths; StaticCache has one position for all rows. The continuous batching of
transformers keeps pages, but outside CUDA it computes attention as one masked product of all queries with all
keys of the batch (128 times the work at batch 128), and it has neither entropies nor draws per request. This
module uses the attention interface of transformers: the model is unchanged, and `attention` is registered as
the function that its layers call.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

#: Name under which `attention` is registered.
ATTENTION = "extra_rl_rows"

#: The capacity of rows grows in steps of this many tokens.
CAPACITY_STEP = 64

#: Keys and values in one layer.
Layer = tuple[torch.Tensor, torch.Tensor]


@torch.compiler.disable(recursive=True)  # type: ignore[untyped-decorator]
def attention(
    module: Any,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    sliding_window: int | None = None,
    kv: "Prefill | Rows | None" = None,
    **more: Any,
) -> tuple[torch.Tensor, None]:
    """Compute attention for transformers' layers: with `kv`, or else as a plain forward pass."""
    if kv is None:
        result: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **more
        )
        return result
    out = kv.attend(module.layer_idx, query, key, value, scaling, sliding_window)
    return out, None


AttentionInterface.register(ATTENTION, attention)
AttentionMaskInterface.register(ATTENTION, sdpa_mask)


@dataclass(frozen=True)
class ComputedSequence:
    """A sequence with its keys and values, and the logits after its last token."""

    #: int32 [length].
    tokens: NDArray[np.int32]
    #: [kv heads, length, head size] each, by layer.
    layers: list[Layer]
    #: float32 [1, vocabulary].
    logits: torch.Tensor

    @property
    def bytes(self) -> int:
        """Memory of all tensors."""
        kept = (self.logits, *(part for layer in self.layers for part in layer))
        return sum(int(tensor.nbytes) for tensor in kept)


class Prefill:
    """Attention of a pass over sequences, side by side and padded at the end; it keeps their keys and values.

    Args:
        past: Keys and values of the first positions, by layer, if there is only one sequence.
    """

    def __init__(self, past: list[Layer] | None = None) -> None:
        self._past = past
        #: [sequences, kv heads, length, head size] each, by layer.
        self.layers: list[Layer] = []

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Compute causal attention; no real token attends to the padding, which comes last."""
        assert layer == len(self.layers), "layers run in order"
        if self._past is not None:
            known = self._past[layer]
            key = torch.cat([known[0][None], key], dim=2)
            value = torch.cat([known[1][None], value], dim=2)
        self.layers.append((key, value))
        groups = query.shape[1] // key.shape[1]
        mask = _causal_mask(query.shape[2], key.shape[2], window, query.device)
        out = scaled_dot_product_attention(
            query,
            key.repeat_interleave(groups, dim=1),
            value.repeat_interleave(groups, dim=1),
            attn_mask=mask,
            is_causal=mask is None,
            scale=scaling,
        )
        return out.transpose(1, 2)

    def sequence(self, row: int, tokens: NDArray[np.int32], logits: torch.Tensor) -> ComputedSequence:
        """Return one of the sequences, copied, so that it does not keep the others in memory."""
        length = len(tokens)
        layers = [
            (key[row, :, :length].clone(), value[row, :, :length].clone()) for key, value in self.layers
        ]
        return ComputedSequence(tokens, layers, logits.clone())


def _causal_mask(queries: int, keys: int, window: int | None, device: torch.device) -> torch.Tensor | None:
    """Return bool [queries, keys], queries at the last keys' positions; None if it is plainly causal."""
    if queries == keys and (window is None or window >= keys):
        return None
    distance = torch.arange(keys - queries, keys, device=device)[:, None] - torch.arange(keys, device=device)
    mask = distance >= 0
    return mask if window is None else mask & (distance < window)


class Rows:
    """Keys and values of the running batch, of at most `max_rows` rows."""

    def __init__(self, max_rows: int) -> None:
        self.max_rows = max_rows
        self.count = 0
        #: Keys and values by layer.
        self._stores: list[Layer] = []
        # Of the current step: the position of each row, the masks by window, and the largest position.
        self._at = torch.zeros(0, dtype=torch.int64)
        self._masks: dict[int | None, torch.Tensor] = {}
        self._reach = 0

    def join(self, sequence: ComputedSequence, copies: int) -> None:
        """Append `copies` rows that start with `sequence`."""
        length, first, last = len(sequence.tokens), self.count, self.count + copies
        if not self._stores:
            self._stores = [(_empty(key), _empty(value)) for key, value in sequence.layers]
        self._grow(last, length + 1)
        self._reach = max(self._reach, length)
        for stores, layer in zip(self._stores, sequence.layers, strict=True):
            for store, part in zip(stores, layer, strict=True):
                store[first:last, :, :length] = part
        self.count = last

    def keep(self, target: list[int], source: list[int], count: int) -> None:
        """Move rows `source` to `target`, and keep the first `count` rows."""
        if source:
            for store in (store for stores in self._stores for store in stores):
                store[target, :, : self._reach] = store[source, :, : self._reach]
        self.count = count
        if count == 0:
            self._stores, self._reach = [], 0

    def prepare(self, lengths: torch.Tensor) -> None:
        """Prepare a step that adds one position to each row; `lengths` int64 [count] are those before it."""
        self._reach = int(lengths.max()) + 1
        self._grow(self.count, self._reach)
        self._at = lengths
        self._masks = {}

    def attend(
        self,
        layer: int,
        query: torch.Tensor,
        key: torch.Tensor,
        value: torch.Tensor,
        scaling: float | None,
        window: int | None,
    ) -> torch.Tensor:
        """Store the keys and values of the step, and compute attention over each row."""
        keys, values = self._stores[layer]
        rows, heads, _, size = query.shape
        _write(keys, self._at, key)
        _write(values, self._at, value)
        kv_heads = keys.shape[1]
        # The query heads of one key head are passed as query positions, so that no key is repeated.
        out = _attend(
            query.view(rows, kv_heads, heads // kv_heads, size),
            keys[:rows, :, : self._reach],
            values[:rows, :, : self._reach],
            self._mask(window, query.dtype),
            size**-0.5 if scaling is None else scaling,
        )
        return out.reshape(rows, 1, heads, values.shape[3])

    def _mask(self, window: int | None, dtype: torch.dtype) -> torch.Tensor:
        if window not in self._masks:
            at = torch.arange(self._reach, device=self._at.device)[None, :]
            hidden = at > self._at[:, None]
            if window is not None:
                hidden |= at <= self._at[:, None] - window
            mask = torch.zeros(hidden.shape, dtype=dtype, device=hidden.device)
            self._masks[window] = mask.masked_fill_(hidden, -torch.inf)[:, None, None, :]
        return self._masks[window]

    def _grow(self, rows: int, length: int) -> None:
        """Make room for `rows` of `length`, layer by layer; this can be repeated after memory ran out."""
        for layer, (keys, values) in enumerate(self._stores):
            if keys.shape[0] < rows or keys.shape[2] < length:
                rows = max(keys.shape[0], min(self.max_rows, 2 ** (rows - 1).bit_length()))
                length = max(keys.shape[2], -(-length // CAPACITY_STEP) * CAPACITY_STEP)
                self._stores[layer] = (
                    _grown(keys, self.count, rows, length),
                    _grown(values, self.count, rows, length),
                )


def _empty(part: torch.Tensor) -> torch.Tensor:
    """Return an empty store for keys or values like `part` [heads, length, size]."""
    return part.new_empty(0, part.shape[0], 0, part.shape[2])


def _grown(store: torch.Tensor, count: int, rows: int, length: int) -> torch.Tensor:
    """Copy the first `count` rows of `store` to a store with room for `rows` of `length`."""
    # Zeros: masked positions must hold finite numbers, since 0 x NaN is NaN.
    new = store.new_zeros(rows, store.shape[1], length, store.shape[3])
    new[:count, :, : store.shape[2]] = store[:count]
    return new


def _attend(
    query: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor, scaling: float
) -> torch.Tensor:
    """Return softmax(scaling query keys^T + mask) values.

    Args:
        query: [rows, heads, queries, size].
        keys: [rows, heads, length, size].
        values: [rows, heads, length, size].
        mask: [rows, 1, 1, length].
        scaling: Factor of the scores.
    """
    if query.is_cuda:
        mask = mask.expand(-1, -1, query.shape[2], -1)
        return scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=scaling)
    # On a CPU, batched products take less than half the time of the fused kernel for a single position.
    rows, heads, _, _ = query.shape
    mask = mask.expand(rows, heads, 1, -1).flatten(0, 1)
    keys, values = _flat(keys), _flat(values)
    weights = torch.baddbmm(mask, query.flatten(0, 1), keys.transpose(1, 2), alpha=scaling).softmax(-1)
    return torch.bmm(weights, values).unflatten(0, (rows, heads))


def _flat(cache: torch.Tensor) -> torch.Tensor:
    """Return [rows, heads, length, size] as [rows x heads, length, size], without a copy."""
    rows, heads, length, size = cache.shape
    return cache.as_strided((rows * heads, length, size), (cache.stride(1), cache.stride(2), 1))


def _write(store: torch.Tensor, at: torch.Tensor, new: torch.Tensor) -> None:
    """Set store[row, :, at[row]] = new[row, :, 0]; both are [rows, heads, length, size], new of length 1."""
    rows, heads, capacity, size = store.shape
    slots = torch.arange(len(at) * heads, device=at.device).view(len(at), heads) * capacity + at[:, None]
    store.view(rows * heads * capacity, size).index_copy_(0, slots.view(-1), new.reshape(-1, size))

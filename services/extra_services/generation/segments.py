"""Entropies of the newline-separated segments of a continuation."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """Tokens start .. end - 1 of a continuation."""

    start: int
    end: int
    #: Mean and maximum of the entropies, in nats.
    mean: float
    max: float


def segments(
    token_ids: NDArray[np.int32], entropies: NDArray[np.float32], newline_ids: NDArray[np.int32]
) -> list[Segment]:
    """Split a continuation after each token with a newline.

    Args:
        token_ids: int32 [length].
        entropies: float32 [length], in nats.
        newline_ids: Ids of the tokens whose text has a newline.
    """
    ends = np.flatnonzero(np.isin(token_ids, newline_ids)) + 1
    bounds = np.unique(np.concatenate([[0], ends, [len(token_ids)]]))
    return [
        Segment(start, end, float(part.mean(dtype=np.float64)), float(part.max()))
        for start, end in itertools.pairwise(bounds.tolist())
        if (part := entropies[start:end]).size
    ]

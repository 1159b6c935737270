"""Entropies of the newline-separated segments of a continuation."""

import itertools
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Segment:
    """Tokens start .. end - 1, with the mean and the largest of their entropies, in nats."""

    start: int
    end: int
    mean: float
    max: float


def segments(
    token_ids: NDArray[np.int32], entropies: NDArray[np.float32], newline_ids: NDArray[np.int32]
) -> list[Segment]:
    """The segments of token_ids [length]: each ends with its newline token, the last where the tokens end."""
    ends = np.flatnonzero(np.isin(token_ids, newline_ids)) + 1
    bounds = np.unique(np.concatenate([[0], ends, [len(token_ids)]]))
    return [
        Segment(start, end, float(part.mean(dtype=np.float64)), float(part.max()))
        for start, end in itertools.pairwise(bounds.tolist())
        if (part := entropies[start:end]).size
    ]

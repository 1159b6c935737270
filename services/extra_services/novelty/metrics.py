"""Novelty by embedding, as arithmetic on arrays: no memory, no store, no transport.

Source: ExTra (arXiv 2606.24994); section 3.1 of docs/algorithm.md. Vectors are unit vectors, so that an
inner product is a cosine similarity.
"""

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]


def sibling_similarity(vectors: Vectors, counts: NDArray[np.int64]) -> tuple[Vectors, NDArray[np.int64]]:
    """Most similar sibling of each vector, inside consecutive groups of `counts` vectors.

    `vectors` is float32 [m, d]. Returns the cosine similarity, float32 [m], -inf without siblings, and the
    sibling's position in its group, int64 [m].
    """
    similarity = np.full(len(vectors), -np.inf, dtype=np.float32)
    position = np.zeros(len(vectors), dtype=np.int64)
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts):
        if count < 2:
            continue
        # Groups of one size at a time: one batched product for all of them.
        rows = starts[counts == count][:, None] + np.arange(count)
        groups = vectors.reshape(-1, count, vectors.shape[1]) if rows.size == len(vectors) else vectors[rows]
        products = np.matmul(groups, groups.transpose(0, 2, 1))
        diagonal = np.arange(count)
        products[:, diagonal, diagonal] = -np.inf
        position[rows] = products.argmax(axis=2)
        similarity[rows] = products.max(axis=2)
    return similarity, position


def embedding_novelty(
    memory: Vectors, siblings: Vectors, history: NDArray[np.int64], min_history: int
) -> Vectors:
    """max(0, 1 - nearest similarity), float32 [m]; 0 where the memory held fewer than `min_history` before.

    `memory` and `siblings` are the largest similarities to either, float32 [m], -inf for none; `history` is
    the size of the memory, int64 [m]. Where there is nothing at all to compare with, the novelty is 1, that
    of a solution at right angles to all known ones.
    """
    nearest = np.maximum(memory, siblings)
    distance = np.where(np.isneginf(nearest), np.float32(1), np.maximum(np.float32(0), 1 - nearest))
    return np.where(history >= min_history, distance, np.float32(0)).astype(np.float32)

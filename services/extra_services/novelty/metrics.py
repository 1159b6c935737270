"""The novelty metrics as arithmetic on arrays.

Formulas, papers, ranges and costs are in sections 1 and 2 of docs/algorithm.md. Vectors are unit vectors,
so an inner product is a cosine similarity. Groups lie one after the other: the first `counts[0]` of m vectors
belong to the first group, and so on.
"""

from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

Vectors = NDArray[np.float32]
Counts = NDArray[np.int64]

#: A vector shorter than this has no direction.
LEAST_NORM = 1e-12
#: Standard deviations below this count as 0 (policy surprise).
LEAST_STD = 1e-8
#: Distances below this count as 0: they are rounding errors of float32, which `group_max` would scale to 1.
#: The reference implementation keeps them.
LEAST_DISTANCE = 1e-6


def unit_vectors(embeddings: Vectors) -> tuple[Vectors, NDArray[np.bool_]]:
    """Divide the rows of float32 [m, d] by their length.

    Returns:
        The unit vectors, and whether each row has a direction, bool [m]. A row has none if it is zero, or
        holds a number that is not finite or too large to be squared.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        norms = np.sqrt(np.einsum("ij,ij->i", embeddings, embeddings))
        usable = np.isfinite(norms) & (norms > LEAST_NORM)
        unit: Vectors = np.divide(embeddings, np.where(usable, norms, 1)[:, None], dtype=np.float32)
    return unit, usable


def sibling_similarity(vectors: Vectors, counts: Counts) -> tuple[Vectors, Counts]:
    """Find the most similar sibling of each vector.

    Returns:
        Its cosine similarity, float32 [m], -inf without siblings, and its position in the group, int64 [m].
    """
    similarity = np.full(len(vectors), -np.inf, dtype=np.float32)
    position = np.zeros(len(vectors), dtype=np.int64)
    for rows, products in _products(vectors, counts):
        diagonal = np.arange(rows.shape[1])
        products[:, diagonal, diagonal] = -np.inf
        position[rows] = products.argmax(axis=2)
        similarity[rows] = products.max(axis=2)
    return similarity, position


def embedding_novelty(memory: Vectors, siblings: Vectors, history: Counts, min_history: int) -> Vectors:
    """Return max(0, 1 - nearest similarity), float32 [m]; 0 for a distance below LEAST_DISTANCE.

    Source: ExTra (arXiv 2606.24994). Without anything to compare with, the novelty is 1, that of a solution
    at right angles to all known ones.

    Args:
        memory: Largest similarity to a stored solution, float32 [m], -inf for none.
        siblings: Largest similarity to a sibling, float32 [m], -inf for none.
        history: Size of the prompt's memory before the group, int64 [m].
        min_history: The novelty is 0 where `history` is smaller than this.
    """
    nearest = np.maximum(memory, siblings)
    distance = np.where(np.isneginf(nearest), np.float32(1), 1 - nearest)
    counted = (history >= min_history) & (distance >= LEAST_DISTANCE)
    return np.where(counted, distance, np.float32(0)).astype(np.float32)


def mean_cosine_novelty(vectors: Vectors, counts: Counts) -> Vectors:
    """Return 1 - mean similarity to the siblings, float32 [m]; 0 without siblings.

    Source: the graph cut of DRA-GRPO (arXiv 2505.09655), whose redundancy of rollout i, the sum of its
    similarities to the k siblings, is k (1 - this).
    """
    novelty = np.zeros(len(vectors), dtype=np.float32)
    for rows, products in _products(vectors, counts):
        # The sum contains the vector's similarity to itself, 1.
        novelty[rows] = 1 - (products.sum(axis=2) - 1) / (rows.shape[1] - 1)
    return novelty


def cluster_novelty(vectors: Vectors, counts: Counts, similarity: float) -> Vectors:
    """Return the share of the siblings in other clusters, float32 [m], in [0, 1]; 0 without siblings.

    Source: DARLING (arXiv 2509.02534), which partitions a group with a trained classifier. Here two vectors
    are in one cluster if a chain of pairs of at least this cosine similarity connects them.
    """
    novelty = np.zeros(len(vectors), dtype=np.float32)
    for rows, products in _products(vectors, counts):
        count = rows.shape[1]
        connected = (products >= similarity) | np.eye(count, dtype=bool)
        # Each squaring doubles the length of the chains that are found.
        for _ in range(max(1, int(np.ceil(np.log2(count))))):
            connected = np.matmul(connected, connected)
        novelty[rows] = (count - connected.sum(axis=2)) / (count - 1)
    return novelty


def vendi_scores(vectors: Vectors, counts: Counts) -> NDArray[np.float64]:
    """Return the Vendi score of each group, float64 [groups]: exp of the entropy of eigenvalues of K / count.

    Source: the Vendi score (arXiv 2210.02410). 1 if all are alike, `count` if all are orthogonal; 0 for an
    empty group.
    """
    scores = np.where(counts > 0, 1.0, 0.0)
    for count in np.unique(counts[counts > 1]):
        chosen = np.flatnonzero(counts == count)
        rows = (np.cumsum(counts) - counts)[chosen][:, None] + np.arange(count)
        groups = vectors[rows].astype(np.float64)
        values = np.linalg.eigvalsh(np.matmul(groups, groups.transpose(0, 2, 1)) / count)
        positive = np.where(values > 1e-12, values, 1.0)
        scores[chosen] = np.exp(-(positive * np.log(positive)).sum(axis=1))
    return scores


def policy_surprise(logprobs: NDArray[np.float32], correct: NDArray[np.bool_]) -> Vectors:
    """Return max(0, -(logprob - mean) / (std + 1e-8)) among the correct rollouts of a group, float32 [n].

    Source: ExTra (arXiv 2606.24994). std is the sample standard deviation; 0 for incorrect rollouts, where
    fewer than two are correct, and where std is below 1e-8.
    """
    novelty = np.zeros(len(logprobs), dtype=np.float32)
    values = logprobs[correct].astype(np.float64)
    if len(values) >= 2 and values.std(ddof=1) >= LEAST_STD:
        deviations = -(values - values.mean()) / (values.std(ddof=1) + LEAST_STD)
        novelty[correct] = np.maximum(0, deviations)
    return novelty


def ngrams(token_ids: NDArray[np.int32], size: int) -> list[bytes]:
    """Return the n-grams of a response, in order and with repeats, each as the bytes of its int32 tokens."""
    data = token_ids.astype("<i4").tobytes()
    return [data[4 * i : 4 * (i + size)] for i in range(len(token_ids) - size + 1)]


def ngram_novelty(response: list[bytes], counts: Mapping[bytes, int]) -> float:
    """Return the mean of 1 / sqrt(count + 1) over the n-grams of a response; 0 if it has none.

    Source: the count-based bonus of ExTra's reference code (arXiv 2606.24994).
    """
    if not response:
        return 0.0
    return float(np.mean(1 / np.sqrt(np.array([counts.get(ngram, 0) for ngram in response]) + 1.0)))


def _products(vectors: Vectors, counts: Counts) -> Iterator[tuple[Counts, Vectors]]:
    """Similarities inside the groups of two or more, groups of one size at a time.

    Yields the rows of the groups, int64 [groups, count], and their products, float32 [groups, count, count].
    """
    starts = np.cumsum(counts) - counts
    for count in np.unique(counts[counts > 1]):
        rows = starts[counts == count][:, None] + np.arange(count)
        whole = rows.size == len(vectors)
        groups = vectors.reshape(-1, count, vectors.shape[1]) if whole else vectors[rows]
        yield rows, np.matmul(groups, groups.transpose(0, 2, 1))

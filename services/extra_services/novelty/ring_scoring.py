"""Novelty of groups of unit vectors against the rings of their prompts, for a whole batch in one search.

This is the core of every request about embeddings: arrays in, arrays out, after its groups are checked and
its prompts are locked and checked out of the index. `scoring` handles requests, idempotency and the durable
write.
"""

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import Metric
from extra_services.memory.index import RingIndex
from extra_services.memory.records import NamespaceSettings
from extra_services.novelty import metrics
from extra_services.novelty.metrics import Counts, Vectors


@cache
def _sibling_threads() -> ThreadPoolExecutor:
    """Threads that compare siblings beside the one that searches.

    Both spend their time outside the interpreter, so that two CPUs share the work.
    """
    return ThreadPoolExecutor(4, thread_name_prefix="siblings")


# A process that is forked has none of its parent's threads: it makes its own.
os.register_at_fork(after_in_child=_sibling_threads.cache_clear)


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours of each of m vectors: cosine similarities float32 [m], -inf for none."""

    #: Similarity to the nearest stored solution, and its sequence number, int64 [m], -1 for none.
    stored: Vectors
    sequence: Counts
    #: Similarity to the nearest sibling, and its position in the group, int64 [m].
    sibling: Vectors
    position: Counts


class RingScorer:
    """Scores and remembers groups of prompts that are checked out of `index`.

    Groups lie one after the other: the first `counts[0]` of the vectors, float32 [m, dimension], belong to
    `prompts[0]`, and so on. A prompt appears once.
    """

    def __init__(self, index: RingIndex, settings: NamespaceSettings) -> None:
        self._index = index
        self._settings = settings

    def score(
        self, prompts: list[str], counts: Counts, vectors: Vectors, metric: Metric, explain: bool = False
    ) -> tuple[Vectors, Neighbours | None]:
        """Return the novelty, float32 [m], by a metric that compares vectors.

        Also returns the nearest neighbours where the metric or `explain` needs them.
        """
        found = None
        if metric is Metric.EMBEDDING or explain:
            found = self._neighbours(prompts, counts, vectors)
        if metric is Metric.MEAN_COSINE:
            return metrics.mean_cosine_novelty(vectors, counts), found
        if metric is Metric.CLUSTER_SIZE:
            return metrics.cluster_novelty(vectors, counts, self._settings.cluster_similarity), found
        assert found is not None, "the metric embedding needs them"
        history = np.repeat(self._index.sizes(prompts), counts)
        novelty = metrics.embedding_novelty(found.stored, found.sibling, history, self._settings.min_history)
        return novelty, found

    def remember(
        self,
        prompts: list[str],
        counts: Counts,
        vectors: NDArray[np.generic],
        sketches: NDArray[np.uint8] | None = None,
    ) -> None:
        """Add vectors, and sketches where there are any, to the rings, oldest out first."""
        self._index.append(prompts, counts, vectors, sketches)

    def _neighbours(self, prompts: list[str], counts: Counts, vectors: Vectors) -> Neighbours:
        """Nearest solution and nearest sibling of each vector, searched at the same time."""
        siblings = _sibling_threads().submit(metrics.sibling_similarity, vectors, counts)
        stored, sequence = self._index.nearest(prompts, counts, vectors)
        return Neighbours(stored[:, 0], sequence[:, 0], *siblings.result())

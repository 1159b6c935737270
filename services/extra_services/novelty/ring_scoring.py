"""Novelty of groups of unit vectors against the rings of their prompts, for a whole batch in one search.

What every request about embeddings comes down to, once its groups have been checked and its prompts are
locked and checked out of the index: arrays in, arrays out. Requests, idempotency and the durable write are
the business of `scoring`.
"""

from dataclasses import dataclass

import numpy as np

from extra_services.memory.index import RingIndex
from extra_services.memory.records import NamespaceSettings
from extra_services.novelty import metrics
from extra_services.novelty.metrics import Counts, Vectors
from extra_services.novelty.request import Metric


@dataclass(frozen=True)
class Neighbours:
    """The nearest of each of m vectors: cosine similarities float32 [m], -inf for none."""

    #: Of the solutions remembered before, and the sequence number int64 [m] of that solution, -1 for none.
    stored: Vectors
    sequence: Counts
    #: Of the siblings, and that sibling's position in its group, int64 [m].
    sibling: Vectors
    position: Counts


class RingScorer:
    """Scores and remembers groups of prompts that are checked out of `index`. Groups lie one after the other:
    the first `counts[0]` of the vectors, float32 [m, dimension], are of `prompts[0]`, and so on; a prompt
    appears once."""

    def __init__(self, index: RingIndex, settings: NamespaceSettings) -> None:
        self._index = index
        self._settings = settings

    def score(
        self, prompts: list[str], counts: Counts, vectors: Vectors, metric: Metric, explain: bool = False
    ) -> tuple[Vectors, Neighbours | None]:
        """Novelty float32 [m] by a metric that compares vectors, and the nearest neighbours where the metric
        or `explain` asks for them."""
        found = None
        if metric == "embedding" or explain:
            found = Neighbours(*metrics.nearest_of_both(self._index, prompts, counts, vectors))
        if metric == "mean_cosine":
            return metrics.mean_cosine_novelty(vectors, counts), found
        if metric == "cluster_size":
            return metrics.cluster_novelty(vectors, counts, self._settings.cluster_similarity), found
        assert found is not None, "the metric embedding has asked for them"
        history = np.repeat(self._index.sizes(prompts), counts)
        novelty = metrics.embedding_novelty(found.stored, found.sibling, history, self._settings.min_history)
        return novelty, found

    def remember(self, prompts: list[str], counts: Counts, vectors: Vectors) -> None:
        """Adds the vectors to the rings, oldest out first."""
        self._index.append(prompts, counts, vectors)

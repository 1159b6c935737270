"""Which stored prefix of a prompt to continue from, as arithmetic on arrays.

Source of smoothed entropy: ExTra (arXiv 2606.24994); section 3.4 of docs/algorithm.md, step 3.
"""

import numpy as np
from numpy.typing import NDArray

DEFAULT_TAU = 0.1


def smoothed_entropies(
    vectors: NDArray[np.float32], mean_entropies: NDArray[np.float64], tau: float
) -> NDArray[np.float64]:
    """Entropy of each prefix's neighbourhood, in nats, float64 [m].

    The mean of all m entropies, weighted by a softmax over cosine similarity / `tau`; `vectors` are unit
    vectors, float32 [m, dimension].
    """
    scaled = vectors.astype(np.float64) @ vectors.T.astype(np.float64) / tau
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    smoothed: NDArray[np.float64] = weights @ mean_entropies / weights.sum(axis=1)
    return smoothed

"""pass@k and how sure one can be of it.

The estimate is the unbiased one of Chen et al. (arXiv 2107.03374, section 2.1): with c of n samples correct,
pass@k = 1 - C(n - c, k) / C(n, k), averaged over problems. Its interval is the percentile bootstrap over
problems: problems are drawn with replacement, as many as there are, 10,000 times; the 2.5th and 97.5th
percentiles of the means are its ends. It tells how much the figure would move with other problems of the
same kind. It has no width where all problems came out alike: that is no certainty, only too few samples.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
#: Bounds the memory of the draws.
DRAWS_AT_ONCE = 2**20
#: Of the interval's ends.
PERCENTILES = (2.5, 97.5)


def problem_pass_at_k(correct: Sequence[int], n: int, k: int) -> NDArray[np.float64]:
    """[problems]: unbiased pass@k of each problem with `correct` of n samples right; k at most n."""
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n ({n}), not {k}")
    by_count = np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(correct, dtype=np.int64)]


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """Unbiased pass@k over problems with `correct` of n samples right; k at most n."""
    return float(problem_pass_at_k(correct, n, k).mean())


def bootstrap_means(values: NDArray[np.float64], seed: Sequence[int]) -> NDArray[np.float64]:
    """[RESAMPLES, rows]: means of `values` [rows, problems] over problems drawn with replacement.

    The rows share each draw, so that they may be compared.
    """
    random = np.random.default_rng(list(seed))
    count = values.shape[1]
    at_once = max(1, DRAWS_AT_ONCE // count)
    parts = [
        values[:, random.integers(0, count, (min(at_once, RESAMPLES - start), count))].mean(axis=2).T
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts)


def interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """The ends of the 95 % interval, from `means` [RESAMPLES]."""
    low, high = np.percentile(means, PERCENTILES)
    return float(low), float(high)

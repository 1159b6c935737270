"""pass@k with confidence intervals.

The estimate is the unbiased one of Chen et al. (arXiv 2107.03374, section 2.1): with c of n samples correct,
pass@k = 1 - C(n - c, k) / C(n, k), averaged over problems. Its interval is the percentile bootstrap over
problems: 10,000 times, as many problems as there are are drawn with replacement; the 2.5th and 97.5th
percentiles of the means are the ends. It estimates how the figure varies with other problems of the same
kind. If all problems have the same result, its width is 0: that shows too few samples, not certainty.
"""

from collections.abc import Sequence
from math import comb

import numpy as np
from numpy.typing import NDArray

RESAMPLES = 10_000
#: Most draws held in memory.
DRAWS_IN_MEMORY = 2**20
#: The ends of the interval.
PERCENTILES = (2.5, 97.5)


def problem_pass_at_k(correct: Sequence[int], n: int, k: int) -> NDArray[np.float64]:
    """Return the unbiased pass@k of each problem, float64 [problems].

    Args:
        correct: Correct samples of each problem.
        n: Samples of each problem.
        k: From 1 to n.

    Raises:
        ValueError: If k is out of range.
    """
    if not 1 <= k <= n:
        raise ValueError(f"k must lie between 1 and n ({n}), not {k}")
    by_count = np.array([1 - comb(n - c, k) / comb(n, k) for c in range(n + 1)])
    return by_count[np.asarray(correct, dtype=np.int64)]


def pass_at_k(correct: Sequence[int], n: int, k: int) -> float:
    """Return the mean of `problem_pass_at_k` over problems."""
    return float(problem_pass_at_k(correct, n, k).mean())


def bootstrap_means(values: NDArray[np.float64], seed: Sequence[int]) -> NDArray[np.float64]:
    """Return bootstrap means of rows of values, float64 [RESAMPLES, rows].

    Args:
        values: [rows, problems]; the rows share each draw of problems, so that they can be compared.
        seed: Seed of the draws.
    """
    random = np.random.default_rng(list(seed))
    count = values.shape[1]
    at_once = max(1, DRAWS_IN_MEMORY // count)
    parts = [
        values[:, random.integers(0, count, (min(at_once, RESAMPLES - start), count))].mean(axis=2).T
        for start in range(0, RESAMPLES, at_once)
    ]
    return np.concatenate(parts)


def interval(means: NDArray[np.float64]) -> tuple[float, float]:
    """Return the ends of the 95 % interval of bootstrap means [RESAMPLES]."""
    low, high = np.percentile(means, PERCENTILES)
    return float(low), float(high)

"""Advantages of groups with the novelty bonus: plain numpy, no trainer in sight.

GRPO (arXiv 2402.03300): A_i = (r_i - mean r) / (std r + 1e-6) within the group, std being the sample
standard deviation. ExTra (arXiv 2606.24994) adds alpha * novelty_i to the correct ones after this
normalisation; its released script adds a decayed, group-scaled bonus to the reward before it. Scaling, and
the variance that the decay needs, are the novelty service's. Rollouts without a verdict do not count: they
are left out of mean and std, and their advantage is 0.
"""

import zlib
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EPSILON = 1e-6


def normalise(values: Floats, counted: Bools, divide_by_std: bool) -> Floats:
    """GRPO's normalisation of values [groups, n] over the counted entries of each row; others become 0.

    A row with a single counted entry has mean 0 and std 1.
    """
    counts = counted.sum(axis=1, keepdims=True)
    kept = np.where(counted, values, 0.0)
    mean = np.where(counts > 1, kept.sum(axis=1, keepdims=True) / np.maximum(counts, 1), 0.0)
    centred = np.where(counted, values - mean, 0.0)
    if not divide_by_std:
        return centred
    variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(counts - 1, 1)
    std = np.where(counts > 1, np.sqrt(variance), 1.0)
    return centred / (std + EPSILON)


def controlled(bonus: Floats, paid: Bools, control: Literal["shuffled", "constant"], seed: int) -> Floats:
    """The bonus [groups, n] of an experiment's control: what is paid is, over all groups, the same.

    `paid` marks the rollouts that get one. "shuffled" hands their bonuses out in random order, "constant"
    pays each the mean. The order follows from `seed` and the bonuses, so a repeated step has the same.
    """
    values = bonus[paid]
    if control == "constant":
        values = np.full_like(values, values.mean() if len(values) else 0.0)
    else:
        values = np.random.default_rng([seed, zlib.crc32(values.tobytes())]).permutation(values)
    changed = np.zeros_like(bonus)
    changed[paid] = values
    return changed


def advantages(
    rewards: Floats,
    bonus: Floats,
    counted: Bools,
    *,
    placement: Literal["after_normalization", "before_normalization"],
    divide_by_std: bool = True,
) -> Floats:
    """Advantages [groups, n] of rewards [groups, n] in {0, 1} and the bonus [groups, n] of correct rollouts.

    `bonus` already holds alpha times the scaled novelty; it is paid where the reward is positive.
    """
    paid = np.where(counted & (rewards > 0), bonus, 0.0)
    if placement == "before_normalization":
        return normalise(rewards + paid, counted, divide_by_std)
    return normalise(rewards, counted, divide_by_std) + paid

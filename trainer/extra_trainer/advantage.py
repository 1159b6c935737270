"""Advantages of groups with the novelty bonus: plain numpy, no trainer in sight.

GRPO (arXiv 2402.03300): A_i = (r_i - mean r) / (std r + 1e-6) within the group, std being the sample
standard deviation. ExTra (arXiv 2606.24994) adds alpha * novelty_i to the correct ones after this
normalisation; its released script adds a decayed, group-scaled bonus to the reward before it. Rollouts
without a verdict do not count: they are left out of mean and std, and their advantage is 0.
"""

from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]

EPSILON = 1e-6
#: A group whose largest novelty is below this is not scaled to 1.
LEAST_GROUP_MAX = 1e-8


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


@dataclass
class NoveltyScale:
    """Scales novelty before alpha: `raw` distances, `group_max`, or `running_mean` of positive novelties.

    The running mean is over the whole run, so that a typical new solution counts 1 whatever the embedder.
    """

    kind: Literal["raw", "group_max", "running_mean"]
    total: float = 0.0
    count: int = 0

    def apply(self, novelty: Floats) -> Floats:
        """Scaled novelty [groups, n]; takes the values into the running mean first."""
        positive = novelty[novelty > 0]
        self.total += float(positive.sum())
        self.count += int(positive.size)
        if self.kind == "group_max":
            largest = novelty.max(axis=1, keepdims=True)
            return np.where(
                largest > LEAST_GROUP_MAX, novelty / np.maximum(largest, LEAST_GROUP_MAX), novelty
            )
        if self.kind == "running_mean" and self.count:
            return novelty / (self.total / self.count)
        return novelty


@dataclass
class RewardVariance:
    """V(x): exponential moving average, by prompt, of the variance of a group's rewards.

    The released script decays the bonus by exp(-lambda * V(x)): less where the outcome is still open.
    """

    rate: float = 0.1
    values: dict[str, float] = field(default_factory=dict)

    def update(self, prompt_ids: list[str], rewards: Floats, counted: Bools) -> Floats:
        """Takes in the groups [groups, n] and returns V(x) of each, shape [groups, 1]."""
        result = np.zeros((len(prompt_ids), 1))
        for row, prompt_id in enumerate(prompt_ids):
            kept = rewards[row][counted[row]]
            if kept.size:
                old = self.values.get(prompt_id, 0.0)
                self.values[prompt_id] = (1 - self.rate) * old + self.rate * float(kept.var())
            result[row] = self.values.get(prompt_id, 0.0)
        return result

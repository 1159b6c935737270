"""Advantages of a step's rollouts with the novelty bonus, computed in numpy while groups are still groups.

GRPO (arXiv 2402.03300): A_i = (r_i - mean r) / (std r + 1e-6) within the group, where std is the sample
standard deviation. ExTra (arXiv 2606.24994) adds alpha * novelty_i to the correct rollouts after this
normalisation. Its released script adds a bonus, scaled within the group and multiplied by exp(-lambda V(x)),
to the reward before it. The novelty service does the scaling and tracks V(x), the variance of the prompt's
rewards. Outcome novelty adds beta (b_i - mean b) to the wrong rollouts of the groups that it acts on, b_i =
1/sqrt(times that the answer was given) (arXiv 2509.06941). Undecided rollouts are left out of mean and std,
and their advantage is 0.
"""

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extra_trainer.config import NoveltyConfig, OutcomeConfig, RolloutConfig
from extra_trainer.exploration.results import GroupNovelty, OutcomeNovelty
from extra_trainer.rollouts.collector import Group

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
Placement = Literal["after_normalization", "before_normalization"]

EPSILON = 1e-6


@dataclass(frozen=True)
class StepAdvantages:
    """Advantages of a step's rollouts, and the bonuses in them; all float64 [groups, n]."""

    advantages: Floats
    #: Of novelty, for correct rollouts.
    bonus: Floats
    #: Of outcome novelty.
    outcome_bonus: Floats

    @classmethod
    def zeros(cls, groups: Sequence[Group]) -> "StepAdvantages":
        """Return advantages of 0, for groups that nothing is learned from."""
        zeros = np.zeros((len(groups), len(groups[0].rollouts)))
        return cls(zeros, zeros, zeros)


def step_advantages(
    groups: Sequence[Group],
    novelty: Sequence[GroupNovelty],
    settings: NoveltyConfig,
    outcome: OutcomeConfig,
    *,
    divide_by_std: bool,
    seed: int,
    step: int,
    rollout: RolloutConfig | None = None,
) -> StepAdvantages:
    """Return the advantages of all rollouts of a step.

    Args:
        groups: All groups of the step, in order of the batch, with the same number of rollouts each.
        novelty: The novelty of each group.
        settings: Weight and placement of the novelty bonus, and the control of an experiment.
        outcome: The same for outcome novelty.
        divide_by_std: Whether to divide a group's advantages by its standard deviation.
        seed: The run's seed, which the shuffled controls depend on.
        step: The training step, likewise.
        rollout: How responses near the limit on their length are punished; None: they are not.
    """
    correct = np.stack([group.correct for group in groups])
    decided = np.stack([group.decided for group in groups])
    bonus = settings.alpha * np.stack([group.scaled for group in novelty])
    if settings.placement == "before_normalization":
        # float32, as in OpenRLHF's tensors, so that the advantages of recorded runs can be reproduced.
        variance = np.array([[group.reward_variance] for group in novelty], np.float32).astype(np.float64)
        bonus = bonus * np.exp(-settings.variance_decay * variance)
    if settings.control is not None:
        bonus = controlled(bonus, correct, settings.control, seed)
    bonus = np.where(correct, bonus, 0.0)
    values = advantages(
        correct.astype(np.float64),
        bonus,
        decided,
        placement=settings.placement,
        divide_by_std=divide_by_std,
        punishment=None if rollout is None else overlong_punishment(groups, rollout),
    )
    outcome_bonus = outcome_bonuses(
        [group.outcome for group in novelty], correct.shape[1], outcome, seed=seed, step=step
    )
    return StepAdvantages(values + outcome_bonus, bonus, outcome_bonus)


def overlong_punishment(groups: Sequence[Group], settings: RolloutConfig) -> Floats | None:
    """Return what the length of each response adds to its reward, [groups, n] in [-1, 0]; None: nothing.

    Soft overlong punishment (DAPO, arXiv 2503.14476): 0 up to the buffer before the limit, then linear down
    to -1 at the limit. The tokens of a prefix belong to the response.
    """
    if settings.overlong != "punish":
        return None
    lengths = np.array(
        [
            [len(group.request.prefix_tokens) + len(rollout.token_ids) for rollout in group.rollouts]
            for group in groups
        ]
    )
    left = (settings.response_max_tokens - lengths) / settings.overlong_buffer
    return np.clip(left - 1.0, -1.0, 0.0)


def outcome_bonuses(
    groups: Sequence[OutcomeNovelty | None], n: int, settings: OutcomeConfig, *, seed: int, step: int
) -> Floats:
    """Return what outcome novelty adds to the advantages, [groups, n].

    Args:
        groups: The outcome novelty of each group, None for a group that it does not act on.
        n: Rollouts of a group.
        settings: Weight and centering of the bonus, and the control of an experiment.
        seed: The run's seed. The shuffled control depends on it, the step and the group's place alone, so a
            repeated step has the same one.
        step: The training step.
    """
    bonus = np.zeros((len(groups), n))
    for place, group in enumerate(groups):
        if group is None or not group.scored.any():
            continue
        values = group.values[group.scored]
        if settings.center:
            values = values - values.mean()
        if settings.control == "shuffled":
            values = np.random.default_rng([seed, step, place]).permutation(values)
        bonus[place, group.scored] = settings.beta * values
    return bonus


def advantages(
    rewards: Floats,
    bonus: Floats,
    decided: Bools,
    *,
    placement: Placement,
    divide_by_std: bool = True,
    punishment: Floats | None = None,
) -> Floats:
    """Return the advantages [groups, n].

    Args:
        rewards: [groups, n], each 0 or 1.
        bonus: [groups, n], alpha times the scaled novelty; added only where the reward is positive.
        decided: [groups, n], whether the rollout has a verdict.
        placement: Whether the bonus is added after the normalisation or before it.
        divide_by_std: Whether to divide by the standard deviation of the group.
        punishment: [groups, n], added to the rewards; None: nothing.
    """
    added = np.where(decided & (rewards > 0), bonus, 0.0)
    if punishment is not None:
        rewards = rewards + punishment
    if placement == "before_normalization":
        return normalise(rewards + added, decided, divide_by_std)
    return normalise(rewards, decided, divide_by_std) + added


def normalise(values: Floats, decided: Bools, divide_by_std: bool) -> Floats:
    """Return GRPO's normalisation of values [groups, n] over the decided entries of each row.

    Undecided entries become 0. A row with a single decided entry has mean 0 and std 1.
    """
    counts = decided.sum(axis=1, keepdims=True)
    kept = np.where(decided, values, 0.0)
    mean = np.where(counts > 1, kept.sum(axis=1, keepdims=True) / np.maximum(counts, 1), 0.0)
    centred = np.where(decided, values - mean, 0.0)
    if not divide_by_std:
        return centred
    variance = (centred**2).sum(axis=1, keepdims=True) / np.maximum(counts - 1, 1)
    std = np.where(counts > 1, np.sqrt(variance), 1.0)
    return centred / (std + EPSILON)


def controlled(bonus: Floats, correct: Bools, control: Literal["shuffled", "constant"], seed: int) -> Floats:
    """Return the bonus [groups, n] of an experiment's control: the same total, distributed without novelty.

    Args:
        bonus: [groups, n], the bonus of each rollout.
        correct: [groups, n], the rollouts that receive a bonus.
        control: "shuffled" permutes the bonuses of correct rollouts at random, "constant" gives each the
            mean.
        seed: The permutation depends on it and on the bonuses alone, so a repeated step has the same one.
    """
    values = bonus[correct]
    if control == "constant":
        values = np.full_like(values, values.mean() if len(values) else 0.0)
    else:
        values = np.random.default_rng([seed, zlib.crc32(values.tobytes())]).permutation(values)
    changed = np.zeros_like(bonus)
    changed[correct] = values
    return changed

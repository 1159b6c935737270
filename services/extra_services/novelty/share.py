"""The scale `share`: pay for a way by how small its share is, not only for its being new.

Nearest-neighbour novelty pays nothing for a way that was seen once, even if 99 % of the solutions take
another. Here a rollout is worth -log of the share of its way among the solutions of its prompt, the
remembered ones and its group's, centred over the correct rollouts of the group. A way is a set of solutions
that the metric `derivation` finds alike. Sources: differential smoothing (arXiv 2511.19942), uniqueness-
aware reinforcement learning (arXiv 2601.08763).
"""

import numpy as np
from numpy.typing import NDArray

Values = NDArray[np.float64]
Ways = NDArray[np.int64]


def ways(different: NDArray[np.float32], least: float = 0.5) -> Ways:
    """Return the number of each solution's way, int64 [m], counted from 0 in order of the first member.

    The solutions are taken in order. Each joins the way of the most similar earlier first member, or starts a
    way of its own. So the numbers of the earlier solutions do not depend on the later ones.

    Args:
        different: Probability that two solutions take different ways, float32 [m, m].
        least: From this probability on, two solutions take different ways.
    """
    first: list[int] = []
    numbers = np.zeros(len(different), dtype=np.int64)
    for row in range(len(different)):
        chances = different[row, first]
        if len(first) and chances.min() < least:
            numbers[row] = chances.argmin()
        else:
            numbers[row] = len(first)
            first.append(row)
    return numbers


def share_scores(
    remembered: Ways, group: Ways, correct: NDArray[np.bool_], decay: float = 0.9, prior: float = 1.0
) -> Values:
    """Return -log of the share of each rollout's way, centred over the group's correct rollouts, float64 [n].

    0 for wrong rollouts. A remembered solution weighs `decay` to the power of its age, a rollout 1.
    share = (weight of the way + prior) / (weight of all + prior * number of ways), so that no share is 0.

    Args:
        remembered: Way of each remembered solution, oldest first, int64 [m].
        group: Way of each rollout of the group, int64 [n].
        correct: Whether each rollout counts, bool [n].
        decay: In (0, 1].
        prior: Weight added to every way, at least 0.

    Raises:
        ValueError: `decay` or `prior` is out of range.
    """
    if not 0 < decay <= 1:
        raise ValueError(f"decay must be in (0, 1], is {decay}")
    if not prior >= 0:
        raise ValueError(f"prior must be at least 0, is {prior}")
    scores = np.zeros(len(group))
    counted = group[correct]
    if not len(counted):
        return scores
    ages = np.arange(len(remembered))[::-1]
    members = np.concatenate([remembered, counted])
    weights = np.concatenate([decay**ages, np.ones(len(counted))])
    _, places = np.unique(members, return_inverse=True)
    totals = np.bincount(places, weights=weights) + prior
    surprise = -np.log(totals / totals.sum())[places[len(remembered) :]]
    scores[correct] = surprise - surprise.mean()
    return scores

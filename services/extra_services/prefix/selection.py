"""Ranks the stored prefixes of a prompt, as arithmetic on arrays.

Source of smoothed entropy: ExTra (arXiv 2606.24994). The outcome-aware policy is this project's own: an upper
confidence bound (UCB1) on the success rate, whose prior is the paper's criterion. Both are in section 4
of docs/algorithm.md.
"""

from collections import Counter
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from extra_rl.vocabulary import SelectionPolicy
from extra_services.memory.records import Header, StoredPrefix

DEFAULT_TAU = 0.1
DEFAULT_EXPLORATION = 0.5
DEFAULT_DROP_AFTER = 16
#: Weight of the prior of the outcome-aware policy, in rollouts.
PRIOR_ROLLOUTS = 4.0
#: Success rate expected of the shortest prefix of lowest smoothed entropy.
BEST_PRIOR = 0.5


@dataclass(frozen=True)
class Candidate:
    """A prefix that may be selected, and its figures. `stored` None is the empty prefix."""

    stored: StoredPrefix | None
    smoothed_entropy: float = 0.0
    rollouts: int = 0
    successes: int = 0
    prior: float = 0.0
    score: float = 0.0
    dropped: bool = False

    @property
    def length(self) -> int:
        """Length in tokens."""
        return 0 if self.stored is None else len(self.stored.token_ids)


@dataclass(frozen=True)
class SelectionOptions:
    """Options of a selection: see SelectPrefixesRequest."""

    policy: SelectionPolicy = SelectionPolicy.SMOOTHED_ENTROPY
    tau: float = DEFAULT_TAU
    exploration: float = DEFAULT_EXPLORATION
    drop_after: int = DEFAULT_DROP_AFTER


def smoothed_entropies(
    vectors: NDArray[np.float32], mean_entropies: NDArray[np.float64], tau: float
) -> NDArray[np.float64]:
    """Return the entropy of each prefix's neighbourhood, in nats, float64 [m].

    It is the mean of all m entropies, weighted by a softmax over cosine similarity / tau. Source: ExTra
    (arXiv 2606.24994).

    Args:
        vectors: Unit vectors of the prefixes, float32 [m, dimension].
        mean_entropies: Mean entropy of each prefix's tokens, in nats, float64 [m].
        tau: Temperature of the softmax.
    """
    scaled = vectors.astype(np.float64) @ vectors.T.astype(np.float64) / tau
    weights = np.exp(scaled - scaled.max(axis=1, keepdims=True))
    smoothed: NDArray[np.float64] = weights @ mean_entropies / weights.sum(axis=1)
    return smoothed


def candidates(stored: list[StoredPrefix], tau: float) -> list[Candidate]:
    """Return the prefixes with their smoothed entropies, and the outcomes of all with the same tokens."""
    if not stored:
        return []
    entropies = np.array([prefix.mean_entropy for prefix in stored])
    smoothed = smoothed_entropies(np.stack([prefix.vector for prefix in stored]), entropies, tau)
    rollouts: Counter[bytes] = Counter()
    successes: Counter[bytes] = Counter()
    for prefix in stored:
        rollouts[prefix.token_ids.tobytes()] += prefix.rollouts
        successes[prefix.token_ids.tobytes()] += prefix.successes
    return [
        Candidate(prefix, float(entropy), rollouts[tokens], successes[tokens])
        for prefix, entropy in zip(stored, smoothed, strict=True)
        for tokens in (prefix.token_ids.tobytes(),)
    ]


def rank(
    stored: list[StoredPrefix], header: Header, options: SelectionOptions, random: np.random.Generator
) -> list[Candidate]:
    """Return all candidates, best first.

    The empty prefix is the only candidate under NONE, and one of them under OUTCOME_AWARE.
    """
    empty = Candidate(None, rollouts=header.unguided_rollouts, successes=header.unguided_successes)
    if options.policy is SelectionPolicy.NONE:
        return [empty]
    known = candidates(stored, options.tau)
    if options.policy is SelectionPolicy.OUTCOME_AWARE:
        return _by_outcome(known, empty, options)
    if options.policy is SelectionPolicy.RANDOM:
        return [known[i] for i in random.permutation(len(known))]
    if options.policy is SelectionPolicy.SHORTEST:
        # Reversed, so that between equals the most recent comes first.
        scored = [replace(candidate, score=-float(candidate.length)) for candidate in reversed(known)]
    else:
        scored = [replace(candidate, score=-candidate.smoothed_entropy) for candidate in known]
    return sorted(scored, key=lambda candidate: -candidate.score)


def _by_outcome(known: list[Candidate], empty: Candidate, options: SelectionOptions) -> list[Candidate]:
    """Rank by the upper confidence bound of the success rate.

    With k successes in n rollouts, a prior p with the weight of s = PRIOR_ROLLOUTS rollouts, and N rollouts
    in all: (k + s p) / (n + s) + exploration * sqrt(ln(1 + N) / (n + s)). A prefix without a success in
    `drop_after` rollouts is dropped, except the empty one.
    """
    everything = [replace(c, prior=prior) for c, prior in zip([empty, *known], _priors(known), strict=True)]
    total = sum(candidate.rollouts for candidate in everything)
    scored = [
        replace(
            candidate,
            score=_bound(candidate, total, options.exploration),
            dropped=candidate.stored is not None
            and candidate.successes == 0
            and candidate.rollouts >= options.drop_after,
        )
        for candidate in everything
    ]
    return sorted(scored, key=lambda candidate: (candidate.dropped, -candidate.score))


def _bound(candidate: Candidate, total: int, exploration: float) -> float:
    weight = candidate.rollouts + PRIOR_ROLLOUTS
    mean = (candidate.successes + PRIOR_ROLLOUTS * candidate.prior) / weight
    return float(mean + exploration * np.sqrt(np.log1p(total) / weight))


def _priors(known: list[Candidate]) -> list[float]:
    """Expected success rates of the empty prefix and of the known ones.

    BEST_PRIOR (1 - e/2) (1 - l/2): e is the share of prefixes with lower smoothed entropy, 1/2 for the empty
    one; l is the length as a share of the longest. The paper prefers confident prefixes; long ones are more
    often dead ends.
    """
    longest = max((candidate.length for candidate in known), default=0)
    priors = [BEST_PRIOR * 0.75]
    for candidate in known:
        lower = sum(other.smoothed_entropy < candidate.smoothed_entropy for other in known)
        priors.append(
            BEST_PRIOR * (1 - lower / len(known) / 2) * (1 - candidate.length / max(1, longest) / 2)
        )
    return priors

"""Which stored prefix of a prompt to continue from, as arithmetic on arrays.

Source of smoothed entropy: ExTra (arXiv 2606.24994). The outcome-aware policy is this project's own: an upper
confidence bound (UCB1) on the success rate, with what the paper selects by as its prior. Both are in section
4 of docs/algorithm.md.
"""

from collections import Counter
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from extra_services.memory.records import Header, StoredPrefix

Policy = Literal["smoothed_entropy", "shortest", "random", "none", "outcome_aware"]

DEFAULT_TAU = 0.1
DEFAULT_EXPLORATION = 0.5
DEFAULT_DROP_AFTER = 16
#: How many rollouts the prior of the outcome-aware policy is worth.
PRIOR_ROLLOUTS = 4.0
#: Success rate expected of the shortest prefix of lowest smoothed entropy.
BEST_PRIOR = 0.5


@dataclass(frozen=True)
class Candidate:
    """A prefix that competes, and the figures it is judged by. `stored` None is the empty prefix."""

    stored: StoredPrefix | None
    smoothed_entropy: float = 0.0
    rollouts: int = 0
    successes: int = 0
    prior: float = 0.0
    score: float = 0.0
    dropped: bool = False

    @property
    def length(self) -> int:
        """Tokens."""
        return 0 if self.stored is None else len(self.stored.token_ids)


@dataclass(frozen=True)
class Judgement:
    """How to choose: see SelectPrefixesRequest."""

    policy: Policy = "smoothed_entropy"
    tau: float = DEFAULT_TAU
    exploration: float = DEFAULT_EXPLORATION
    drop_after: int = DEFAULT_DROP_AFTER


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


def candidates(stored: list[StoredPrefix], tau: float) -> list[Candidate]:
    """The prefixes with their smoothed entropies, and the outcomes of all that have the same tokens."""
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
    stored: list[StoredPrefix], header: Header, judgement: Judgement, random: np.random.Generator
) -> list[Candidate]:
    """All that compete, best first. The empty prefix competes under `none`, alone, and `outcome_aware`."""
    empty = Candidate(None, rollouts=header.unguided_rollouts, successes=header.unguided_successes)
    if judgement.policy == "none":
        return [empty]
    known = candidates(stored, judgement.tau)
    if judgement.policy == "outcome_aware":
        return _by_outcome(known, empty, judgement)
    if judgement.policy == "random":
        return [known[i] for i in random.permutation(len(known))]
    if judgement.policy == "shortest":
        # Of equals the most recent.
        scored = [replace(candidate, score=-float(candidate.length)) for candidate in reversed(known)]
    else:
        scored = [replace(candidate, score=-candidate.smoothed_entropy) for candidate in known]
    return sorted(scored, key=lambda candidate: -candidate.score)


def _by_outcome(known: list[Candidate], empty: Candidate, judgement: Judgement) -> list[Candidate]:
    """By upper confidence bound of the success rate.

    With k successes in n rollouts, prior p worth s = PRIOR_ROLLOUTS rollouts, and N rollouts in all:
    (k + s p) / (n + s) + exploration * sqrt(ln(1 + N) / (n + s)). What has no success in `drop_after`
    rollouts is dropped, except the empty prefix.
    """
    everything = [replace(c, prior=prior) for c, prior in zip([empty, *known], _priors(known), strict=True)]
    total = sum(candidate.rollouts for candidate in everything)
    scored = [
        replace(
            candidate,
            score=_bound(candidate, total, judgement.exploration),
            dropped=candidate.stored is not None
            and candidate.successes == 0
            and candidate.rollouts >= judgement.drop_after,
        )
        for candidate in everything
    ]
    return sorted(scored, key=lambda candidate: (candidate.dropped, -candidate.score))


def _bound(candidate: Candidate, total: int, exploration: float) -> float:
    weight = candidate.rollouts + PRIOR_ROLLOUTS
    mean = (candidate.successes + PRIOR_ROLLOUTS * candidate.prior) / weight
    return float(mean + exploration * np.sqrt(np.log1p(total) / weight))


def _priors(known: list[Candidate]) -> list[float]:
    """Expected success rates, of the empty prefix and of the known ones.

    BEST_PRIOR (1 - e/2) (1 - l/2): e is the share of prefixes with lower smoothed entropy, 1/2 for the empty
    one; l is the length as a share of the longest. Confident prefixes are what the paper prefers; long ones
    are the likelier dead ends.
    """
    longest = max((candidate.length for candidate in known), default=0)
    priors = [BEST_PRIOR * 0.75]
    for candidate in known:
        lower = sum(other.smoothed_entropy < candidate.smoothed_entropy for other in known)
        priors.append(
            BEST_PRIOR * (1 - lower / len(known) / 2) * (1 - candidate.length / max(1, longest) / 2)
        )
    return priors

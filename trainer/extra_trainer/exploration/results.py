"""Results of exploration as plain data: the novelty of rollouts, and the prefixes that were chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extra_client import Nearest, PrefixCandidate, SelectedPrefix


@dataclass(frozen=True)
class OutcomeNovelty:
    """The outcome novelty of a group that it acts on; each array has an entry for each rollout, [n]."""

    #: bool: the rollouts that are scored, and may receive a bonus.
    scored: NDArray[np.bool_]
    #: float64: 1/sqrt of `times`; a missing answer has the least of its group. 0 for rollouts not scored.
    values: NDArray[np.float64]
    #: float64: times that the rollout's answer was given to the prompt, this group included; 0 for rollouts
    #: not scored and for a missing answer.
    times: NDArray[np.float64]
    #: Distinct answers of the scored rollouts; a missing one counts for none.
    distinct: int


@dataclass(frozen=True)
class GroupNovelty:
    """The novelty of a group's rollouts; 0 for rollouts that are not scored."""

    #: float64 [n], in the units of the config's `novelty.scale`.
    scaled: NDArray[np.float64]
    #: float64 [n], as measured, not scaled.
    raw: NDArray[np.float64]
    #: V(x): moving average of the variance of the prompt's rewards, with placement before_normalization.
    reward_variance: float
    #: [n]: the nearest neighbour of each scored rollout; empty if the group was not scored.
    nearest: tuple[Nearest | None, ...] = ()
    #: [n]: why a rollout is suspicious, "" if it is not; empty if none is. It is neither scored nor stored.
    suspicious: tuple[str, ...] = ()
    #: [n]: steps that no remembered solution has, with metric derivation; otherwise empty.
    new_steps: tuple[tuple[str, ...], ...] = ()
    #: None if outcome novelty does not act on the group.
    outcome: OutcomeNovelty | None = None

    @classmethod
    def none(cls, n: int) -> "GroupNovelty":
        """Return the novelty of a group of `n` rollouts that is not scored."""
        return cls(np.zeros(n), np.zeros(n), 0.0)


@dataclass(frozen=True)
class PrefixChoice:
    """The rollout of a hard group that was split, its prefixes, all candidates, and the selected one."""

    #: The group's place in the step.
    place: int
    prompt_id: str
    #: Sample that was split, and lengths of the prefixes stored, in tokens and in characters.
    sample: int
    lengths: Sequence[int]
    characters: Sequence[int]
    #: None if there was no prefix to choose.
    selected: SelectedPrefix | None
    #: All candidates, best first; None if the service did not return them.
    candidates: Sequence[PrefixCandidate] | None

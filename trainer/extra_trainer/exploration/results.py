"""What exploration found of a step, as plain data: how novel rollouts are, which prefixes were chosen."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from extra_client import Nearest, PrefixCandidate, SelectedPrefix


@dataclass(frozen=True)
class GroupNovelty:
    """How novel the rollouts of a group are; 0 for those that do not count."""

    #: float64 [n], in the units of the config's `novelty.scale`.
    scaled: NDArray[np.float64]
    #: float64 [n], as measured.
    raw: NDArray[np.float64]
    #: V(x): moving average of the variance of the prompt's rewards, with placement before_normalization.
    reward_variance: float
    #: [n]: the nearest neighbour of each that counts; empty if the group was not scored.
    nearest: tuple[Nearest | None, ...] = ()

    @classmethod
    def none(cls, n: int) -> "GroupNovelty":
        """Of a group that is not scored."""
        return cls(np.zeros(n), np.zeros(n), 0.0)


@dataclass(frozen=True)
class PrefixChoice:
    """What became of one hard group: the rollout split, its prefixes, who competed, and the one chosen."""

    #: The group's place in the step.
    place: int
    prompt_id: str
    #: Sample that was split, and lengths of the prefixes stored, in tokens and in characters.
    sample: int
    lengths: Sequence[int]
    characters: Sequence[int]
    #: None if there was no prefix to choose.
    selected: SelectedPrefix | None
    #: All that competed, best first; None if the service did not tell.
    candidates: Sequence[PrefixCandidate] | None

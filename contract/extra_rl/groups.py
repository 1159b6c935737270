"""Definitions for a group of rollouts: decided, correct, all right, all wrong, mixed, hard.

Trainer, bonus summary, reports, plug-ins and inspector all read these. A rollout is *decided* if something is
known about its response: not after a timeout or an error, and not where the reference answer could not be
read. Undecided rollouts count for nothing: a group is *all right*, *all wrong* or *mixed* by its decided ones
alone, and none of these if it has none.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from extra_rl.vocabulary import UnparseableSide, VerdictStatus

#: Statuses after which nothing is known about the response.
UNDECIDED = (VerdictStatus.TIMEOUT, VerdictStatus.ERROR)


def is_decided(status: VerdictStatus, unparseable_side: UnparseableSide | None) -> bool:
    """Return whether a verdict says anything about the response."""
    return status not in UNDECIDED and unparseable_side is not UnparseableSide.ANSWER


def decision(value: Any, name: str) -> bool | None:
    """Return a caller's word about a rollout: True, False, or None for undecided.

    A reward is no such word: -1.0, NaN and "False" are all true to Python.

    Args:
        value: A bool of Python, numpy or torch, or None.
        name: What the error calls it, such as "correct[2]".

    Raises:
        ValueError: It is something else.
    """
    if value is None or isinstance(value, bool):
        return value
    # A bool of numpy, or a tensor of one bool: both have a dtype, whose name ends so.
    if str(getattr(value, "dtype", "")).removeprefix("torch.") == "bool" and np.size(value.tolist()) == 1:
        return bool(value)
    raise ValueError(
        f"{name} is {value!r} ({type(value).__name__}), but must be True, False or None (undecided): of a "
        "reward send whether it means correct, such as reward > 0"
    )


@dataclass(frozen=True, slots=True)
class GroupOutcome:
    """Numbers of rollouts in a group: all of them, the decided ones, the correct ones."""

    rollouts: int
    decided: int
    correct: int

    @classmethod
    def of(cls, correct: Iterable[bool | None]) -> "GroupOutcome":
        """Count a group whose rollouts are correct (True), wrong (False) or undecided (None)."""
        known = list(correct)
        return cls(len(known), sum(each is not None for each in known), sum(each is True for each in known))

    @property
    def pass_rate(self) -> float:
        """Share of correct rollouts among the decided ones; NaN if none is decided."""
        return self.correct / self.decided if self.decided else float("nan")

    @property
    def all_right(self) -> bool:
        """True if all decided rollouts are correct."""
        return 0 < self.decided == self.correct

    @property
    def all_wrong(self) -> bool:
        """True if there are decided rollouts and none is correct."""
        return self.correct == 0 < self.decided

    @property
    def mixed(self) -> bool:
        """True if there are correct and wrong rollouts, so that GRPO has a gradient."""
        return 0 < self.correct < self.decided

    @property
    def hard(self) -> bool:
        """True if the pass rate is known and at most 1/n (ExTra, arXiv 2606.24994)."""
        return bool(self.decided) and self.pass_rate <= 1 / self.rollouts

"""A trainer of one's own: GRPO's advantages, and `BonusScorer`."""

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from extra_client.integrations import BonusScorer, NoveltyScoring, prompt_id
from extra_client.integrations.contract import RolloutGroup


class PlainFunction:
    """Normalizes rewards, then adds the bonus."""

    cannot: ClassVar[Mapping[str, str]] = {}

    def step(
        self, scoring: NoveltyScoring | None, groups: Sequence[RolloutGroup], number: int
    ) -> list[list[float]]:
        """Return advantages."""
        rewards = np.array([[right is True for right in group.correct] for group in groups], np.float64)
        advantages = rewards - rewards.mean(1, keepdims=True)
        if scoring is None or not scoring.active:
            return [list(row) for row in advantages]
        rows = [(place, group) for place, group in enumerate(groups) for _ in group.texts]
        bonus = BonusScorer(scoring).bonus(
            [prompt_id(group.prompt) for _, group in rows],
            [text for group in groups for text in group.texts],
            [right for group in groups for right in group.correct],
            [answer for group in groups for answer in group.answers],
            step=number,
            group_ids=[place for place, _ in rows],
            problems=[group.prompt for _, group in rows],
            reference_answers=[group.reference for _, group in rows],
        )
        return [list(row) for row in advantages + (0.0 if bonus is None else bonus.reshape(len(groups), -1))]

"""The prompts that outcome novelty acted on, until one of their rollouts succeeds.

Only a figure depends on them: how many prompts are rescued in a step. They are part of a checkpoint, so that
a resumed run counts the same ones.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from extra_trainer.exploration.results import GroupNovelty
from extra_trainer.rollouts.collector import Group


@dataclass
class Rescues:
    """The ids of the prompts that wait for a success."""

    waiting: set[str] = field(default_factory=set)

    def update(self, groups: Sequence[Group], novelty: Sequence[GroupNovelty]) -> int:
        """Take the groups of a step, in order, and return how many waiting prompts had a success."""
        rescued = 0
        for group, scores in zip(groups, novelty, strict=True):
            prompt = group.request.prompt_id
            if group.outcome.correct:
                rescued += prompt in self.waiting
                self.waiting.discard(prompt)
            elif scores.outcome is not None:
                self.waiting.add(prompt)
        return rescued

    def state(self) -> list[str]:
        """Return the waiting prompts as plain data, for `restore`."""
        return sorted(self.waiting)

    def restore(self, state: Sequence[str]) -> None:
        """Replace the waiting prompts by those of `state`."""
        self.waiting = set(state)

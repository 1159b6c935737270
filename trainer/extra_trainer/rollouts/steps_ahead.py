"""The steps whose rollouts are generated before their turn: a queue with a bound on how old they get.

Steps are begun in order, each with the prompts that come next in the data and the guided prompts that wait
longest. While a step is trained, at most `most` steps after it have begun. A step begins when the policy has
had the updates of all steps before the one in training, so its rollouts miss at most `most` updates when it
is trained in turn; `take` checks that. Nothing is begun over the end of a pass over the data.

A checkpoint must not hold steps that have begun, because their rollouts are not in it. It holds the position
from which they are begun again: the data as it was before the first of them, and the guided prompts that they
took, in front of those that still wait. So a resumed run loses no prompt and trains none twice.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

Work = TypeVar("Work")
Guided = TypeVar("Guided")


@dataclass(frozen=True)
class BegunStep(Generic[Work, Guided]):
    """A step whose rollouts are generated, or have been."""

    step: int
    #: Version of the policy that served when it began: none of its rollouts is older.
    version: int
    #: State of the data loader before the step took its prompts.
    dataloader: dict[str, Any]
    #: The guided prompts that it took from the queue, in order.
    guided: tuple[Guided, ...]
    #: None: the pass over the data ended before there were prompts for a step.
    work: Work | None


class StepsAhead(Generic[Work, Guided]):
    """The begun steps in order.

    Args:
        most: Steps that may have begun after the one in training; `rollout.max_staleness`.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._begun: deque[BegunStep[Work, Guided]] = deque()

    @property
    def begun(self) -> tuple[BegunStep[Work, Guided], ...]:
        """The steps that have begun and were not taken, in order."""
        return tuple(self._begun)

    def fill(self, step: int, begin: Callable[[int], BegunStep[Work, Guided]]) -> None:
        """Begin steps, as many as may have begun, up to the end of the pass.

        Args:
            step: The step that is taken next.
            begin: Begins the step of the given number.
        """
        while not self._begun or self._begun[-1].work is not None:
            following = self._begun[-1].step + 1 if self._begun else step
            if following > step + self._most:
                return
            self._begun.append(begin(following))

    def take(self, version: int) -> BegunStep[Work, Guided]:
        """Remove and return the first step.

        Args:
            version: The version of the policy that the step will update.

        Raises:
            RuntimeError: The step began with an older policy than the bound allows, which is a bug.
        """
        first = self._begun.popleft()
        if first.work is not None and not 0 <= version - first.version <= self._most:
            raise RuntimeError(
                f"step {first.step} began with policy version {first.version} and would update version "
                f"{version}: rollout.max_staleness is {self._most}"
            )
        return first

    def position(
        self, dataloader: Callable[[], dict[str, Any]], queue: Sequence[Guided]
    ) -> tuple[dict[str, Any], list[Guided]]:
        """Return where the steps that were not taken begin again.

        Args:
            dataloader: Returns the state of the data loader now.
            queue: The guided prompts that wait now.

        Returns:
            The state of the data loader, and the guided prompts in order, before the first of these steps.
        """
        taken = [request for step in self._begun for request in step.guided]
        return self._begun[0].dataloader if self._begun else dataloader(), [*taken, *queue]

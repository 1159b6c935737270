"""Outcome novelty as one writes it down: plain counts, for the tests of the plug-ins."""

from collections import Counter
from collections.abc import Sequence


class OutcomeModel:
    """The wrong final answers of each prompt, and the bonus of a group by the formula."""

    def __init__(self, beta: float) -> None:
        self.beta = beta
        self.counts: dict[str, Counter[str]] = {}

    def bonus(
        self, prompt: str, correct: Sequence[bool | None], answers: Sequence[str | None]
    ) -> list[float]:
        """Return beta (b_i - mean b) over the wrong rollouts of a group without a correct one; count them."""
        wrong = [place for place, right in enumerate(correct) if right is False]
        if True in correct or not wrong:
            return [0.0] * len(correct)
        counts = self.counts.setdefault(prompt, Counter())
        counts.update(answer for place in wrong if (answer := answers[place]))
        b = {place: counts[answers[place] or ""] ** -0.5 for place in wrong if answers[place]}
        least = min(b.values(), default=0.0)
        b = {place: b.get(place, least) for place in wrong}
        mean = sum(b.values()) / len(b)
        return [self.beta * (b[place] - mean) if place in b else 0.0 for place in range(len(correct))]

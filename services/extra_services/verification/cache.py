"""Remembers the verdicts of the workers: rollouts of one prompt repeat their answers.

The key is the whole question (method, options, reference answer, final answer), so a hit needs nothing
else of the response. Only what is decided is remembered: a timeout or an error may turn out otherwise
next time.
"""

from collections import OrderedDict

from extra_services.verification.quick import Question
from extra_services.verification.verdict import Status, Verdict

_UNDECIDED = (Status.TIMEOUT, Status.ERROR)


class VerdictCache:
    """The last `capacity` questions asked, least recently asked out first; for one thread."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._verdicts: OrderedDict[Question, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, asked: Question) -> Verdict | None:
        """The verdict on an equal question, or None."""
        known = self._verdicts.get(asked)
        if known is not None:
            self._verdicts.move_to_end(asked)
        return known

    def put(self, asked: Question, verdict: Verdict) -> None:
        """Remembers `verdict`, if it is a decision."""
        if verdict.status in _UNDECIDED:
            return
        self._verdicts[asked] = verdict
        self._verdicts.move_to_end(asked)
        if len(self._verdicts) > self._capacity:
            self._verdicts.popitem(last=False)

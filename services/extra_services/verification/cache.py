"""Cache of the workers' verdicts: rollouts of one prompt often repeat an answer.

The key is the whole question (method, options, reference answer, final answer), so a hit needs nothing else
of the response. Only decisions are kept: a timeout or an error may end differently next time.
"""

from collections import OrderedDict

from extra_rl.vocabulary import VerdictStatus
from extra_services.verification.quick import Question
from extra_services.verification.verdict import Verdict

_UNDECIDED = (VerdictStatus.TIMEOUT, VerdictStatus.ERROR)


class VerdictCache:
    """The verdicts on at most `capacity` questions; the least recently used goes first. Not thread-safe."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._verdicts: OrderedDict[Question, Verdict] = OrderedDict()

    def __len__(self) -> int:
        return len(self._verdicts)

    def get(self, asked: Question) -> Verdict | None:
        """Return the verdict on an equal question, or None."""
        known = self._verdicts.get(asked)
        if known is not None:
            self._verdicts.move_to_end(asked)
        return known

    def put(self, asked: Question, verdict: Verdict) -> None:
        """Keep `verdict` if it is a decision."""
        if verdict.status in _UNDECIDED:
            return
        self._verdicts[asked] = verdict
        self._verdicts.move_to_end(asked)
        if len(self._verdicts) > self._capacity:
            self._verdicts.popitem(last=False)

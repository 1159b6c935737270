"""The input and output of verification: items, comparison options and verdicts.

Everything that can become of an item is a status of its verdict and never an exception: an answer that cannot
be read, a comparison that takes too long and a worker that dies. So a trainer can distinguish a wrong answer
from an undecided one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

from extra_rl.groups import is_decided
from extra_rl.vocabulary import BoxChoice, Method, References, UnparseableSide, VerdictStatus


@dataclass(frozen=True)
class ComparisonOptions:
    """Conventions of a comparison; README.md of this package explains them."""

    boxes: BoxChoice = BoxChoice.LAST
    strict_percent: bool = False
    strict_degrees: bool = False
    relative_tolerance: float = 1e-4
    absolute_tolerance: float = 0.0
    #: Name of the verifier for Method.CUSTOM.
    verifier: str = ""
    references: References = References.ANY


class VerificationItem(NamedTuple):
    """One response to verify against one reference answer; the answer may be in a box."""

    response: str
    answer: str
    method: Method = Method.MATH
    options: ComparisonOptions = ComparisonOptions()


class Verdict(NamedTuple):
    """The decision on one item and the reason for it; times are in seconds."""

    status: VerdictStatus
    #: The rule that decided, for example "integer" or "math_verify".
    rule: str
    #: None unless the status is UNPARSEABLE.
    side: UnparseableSide | None = None
    #: The final answer as the response writes it.
    extracted: str = ""
    normalized_response: str = ""
    normalized_answer: str = ""
    detail: str = ""
    queue_seconds: float = 0.0
    execution_seconds: float = 0.0
    cached: bool = False
    #: In [0, 1]; None if the method has no scores.
    score: float | None = None
    components: Mapping[str, float] = {}

    def with_times(self, queue_seconds: float, execution_seconds: float) -> "Verdict":
        """Return a copy with these times, in seconds."""
        return self._replace(queue_seconds=queue_seconds, execution_seconds=execution_seconds)

    def unparseable(self, side: UnparseableSide, detail: str) -> "Verdict":
        """Return a copy that says that this side cannot be read, and why."""
        return self._replace(status=VerdictStatus.UNPARSEABLE, side=side, detail=detail)


def combined(verdicts: Sequence[Verdict], references: References) -> Verdict:
    """Return the verdict on a response from the verdicts on it by each of its reference answers.

    The result is one of `verdicts`, with the times of all. With ANY the first correct one decides, with ALL
    the first that is decided and not correct. If that leaves it open and one is undecided, so is the result.
    """
    correct = [verdict for verdict in verdicts if verdict.status is VerdictStatus.CORRECT]
    undecided = [verdict for verdict in verdicts if not is_decided(verdict.status, verdict.side)]
    refused = [verdict for verdict in verdicts if verdict not in correct and verdict not in undecided]
    order = (correct, undecided, refused) if references is References.ANY else (refused, undecided, correct)
    decisive = next(group[0] for group in order if group)
    return decisive.with_times(
        max(verdict.queue_seconds for verdict in verdicts),
        sum(verdict.execution_seconds for verdict in verdicts),
    )

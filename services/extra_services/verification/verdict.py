"""The input and output of verification: items, comparison options and verdicts.

Everything that can become of an item is a status of its verdict and never an exception: an answer that cannot
be read, a comparison that takes too long and a worker that dies. So a trainer can distinguish a wrong answer
from an undecided one.
"""

from dataclasses import dataclass, replace

from extra_rl.vocabulary import BoxChoice, Method, UnparseableSide, VerdictStatus


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


@dataclass(frozen=True)
class VerificationItem:
    """One response to verify against one reference answer; the answer may be in a box."""

    response: str
    answer: str
    method: Method = Method.MATH
    options: ComparisonOptions = ComparisonOptions()


@dataclass(frozen=True)
class Verdict:
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

    def with_times(self, queue_seconds: float, execution_seconds: float) -> "Verdict":
        """Return a copy with these times, in seconds."""
        return replace(self, queue_seconds=queue_seconds, execution_seconds=execution_seconds)

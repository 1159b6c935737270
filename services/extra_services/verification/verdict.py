"""What is asked and what is answered: the vocabulary of verification.

A verdict is data, never an exception: an answer that cannot be read, a comparison that takes too long and a
worker that dies are outcomes of their own, so that a trainer can tell "the model is wrong" from "we do not
know".
"""

from dataclasses import dataclass, replace
from enum import Enum


class Status(Enum):
    """Outcome of one verification."""

    CORRECT = "correct"
    WRONG = "wrong"
    UNPARSEABLE = "unparseable"
    TIMEOUT = "timeout"
    ERROR = "error"


class Side(Enum):
    """Which side could not be read: the response, or the reference answer (then the data is at fault)."""

    NONE = "none"
    RESPONSE = "response"
    ANSWER = "answer"


class Method(Enum):
    """How answers are compared."""

    MATH = "math"
    CHOICE = "choice"
    EXACT = "exact"
    NUMERIC = "numeric"
    AUTO = "auto"
    CUSTOM = "custom"


class Boxes(Enum):
    r"""Which of several `\boxed{}` is the final answer; ALL takes them together, as a list."""

    LAST = "last"
    FIRST = "first"
    ALL = "all"


@dataclass(frozen=True)
class Options:
    """Conventions of comparison; the defaults follow the benchmarks (see README.md of this package)."""

    boxes: Boxes = Boxes.LAST
    strict_percent: bool = False
    strict_degrees: bool = False
    relative_tolerance: float = 1e-4
    absolute_tolerance: float = 0.0
    verifier: str = ""


@dataclass(frozen=True)
class Item:
    """One response to verify against one reference answer (bare, or in a box)."""

    response: str
    answer: str
    method: Method = Method.MATH
    options: Options = Options()


@dataclass(frozen=True)
class Verdict:
    """What was decided of one item, and why; times are in seconds."""

    status: Status
    rule: str
    side: Side = Side.NONE
    extracted: str = ""
    normalized_response: str = ""
    normalized_answer: str = ""
    detail: str = ""
    queue_seconds: float = 0.0
    execution_seconds: float = 0.0
    cached: bool = False

    def timed(self, queue_seconds: float, execution_seconds: float) -> "Verdict":
        """The same verdict with where its time went."""
        return replace(self, queue_seconds=queue_seconds, execution_seconds=execution_seconds)

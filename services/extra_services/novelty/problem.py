"""What a problem states: its numbers, relations and words, which are no steps of a solution's way."""

import re
from dataclasses import dataclass
from functools import cached_property

from extra_services.novelty.chains import features_of

WORD = re.compile(r"[a-z]+")


@dataclass(frozen=True)
class ProblemStatement:
    """What every solution of a problem may use without being novel. Made by `statement`."""

    numbers: frozenset[str]
    words: frozenset[str]
    #: Numbers of the answer, which are among `numbers` too.
    answer: frozenset[str] = frozenset()
    relations: frozenset[str] = frozenset()

    @cached_property
    def restated(self) -> dict[str, bool]:
        """Return whether sentences restate this problem, as far as they were looked at.

        The solutions of a group have many sentences in common.
        """
        return {}


def statement(problem: str, answer: str = "") -> ProblemStatement:
    """Return the numbers, relations and words of a problem, and the numbers of its answer."""
    numbers, relations = features_of(f"{problem} ; {answer}")
    answered, _ = features_of(answer)
    return ProblemStatement(numbers, frozenset(words_of(problem)), answered, relations)


#: What is known where the problem is not sent.
NO_STATEMENT = ProblemStatement(frozenset(), frozenset())


def words_of(text: str) -> set[str]:
    """Return the words of a text in lower case."""
    return set(WORD.findall(text.lower()))

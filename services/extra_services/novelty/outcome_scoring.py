"""Outcome novelty: counts the final answers of a prompt, and scores a rollout by how rare its answer is.

Source: outcome-based exploration (arXiv 2509.06941), whose historical bonus is 1/sqrt(N) with N the times
that the answer was given to the prompt, and whose batch bonus looks at the group alone. Here N counts the
earlier groups, decayed, and the group itself, so it is at least 1; `ignore_history` leaves the earlier ones
out. By default only wrong rollouts are counted and scored: what has failed often gets less than what has not
been tried. A group without a rollout in the scope changes nothing. Nothing here reads a text or a vector, and
all of it is plain dictionaries: a group is a handful of rollouts, for which arrays would be slower.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice
from math import sqrt

import numpy as np

from extra_rl.vocabulary import OutcomeScope
from extra_services.memory.records import AnswerCounts
from extra_services.novelty.request import AnswerCount, RolloutGroup, Vectors

#: A longer answer is counted by its first half of these characters and its hash. It bounds a prompt's table.
MAX_NAME_CHARACTERS = 200
#: A decayed count below this is dropped: it would not move a float32 score.
LEAST_COUNT = 1e-8


@dataclass(frozen=True)
class GivenAnswers:
    """The rollouts of a group that count, and what each answered: None for a missing answer."""

    size: int
    rows: list[int]
    names: list[str | None]
    #: Times of each answer within the group, in order of first appearance.
    counts: dict[str, int]


def given_answers(group: RolloutGroup, scope: OutcomeScope) -> GivenAnswers:
    """Return the answers of a checked group's rollouts in `scope`; undecided rollouts are in none."""
    answers = group.answers or []
    if scope is OutcomeScope.ALL_WRONG and group.correct.any():
        return GivenAnswers(len(answers), [], [], {})
    rows = list(range(len(answers)))
    if scope is not OutcomeScope.ALL:
        correct = group.correct.tolist()
        rows = [row for row in rows if not correct[row]]
    if group.undecided is not None:
        undecided = group.undecided.tolist()
        rows = [row for row in rows if not undecided[row]]
    names = [_name(answers[row]) for row in rows]
    counts: dict[str, int] = {}
    for name in names:
        if name is not None:
            counts[name] = counts.get(name, 0) + 1
    return GivenAnswers(len(answers), rows, names, counts)


def outcome_novelty(
    given: GivenAnswers, earlier: Mapping[str, float], decay: float, ignore_history: bool
) -> Vectors:
    """Return 1 / sqrt(N) for the rollouts that count, float32 [n], and 0 for all others.

    A rollout without an answer gets the group's least score, so that leaving the answer out never pays; 0 if
    no rollout has an answer.

    Args:
        given: The group's answers.
        earlier: Counts before the group.
        decay: Factor that the group applies to the earlier counts.
        ignore_history: N counts the group alone.
    """
    factor, times = 0.0 if ignore_history else decay, earlier.get
    scores: dict[str | None, float] = {
        name: 1 / sqrt(count + factor * times(name, 0.0)) for name, count in given.counts.items()
    }
    scores[None] = min(scores.values(), default=0.0)
    novelty = [0.0] * given.size
    for row, name in zip(given.rows, given.names, strict=True):
        novelty[row] = scores[name]
    return np.array(novelty, dtype=np.float32)


def explained(given: GivenAnswers, earlier: Mapping[str, float], decay: float) -> list[AnswerCount | None]:
    """Return for each rollout how often its answer was given; None for those that do not count."""
    counts: list[AnswerCount | None] = [None] * given.size
    for row, name in zip(given.rows, given.names, strict=True):
        counts[row] = (
            AnswerCount(0.0, 0)
            if name is None
            else AnswerCount(decay * earlier.get(name, 0.0), given.counts[name])
        )
    return counts


def counted(given: GivenAnswers, earlier: AnswerCounts, decay: float, capacity: int) -> AnswerCounts:
    """Return the counts after the group, at most `capacity`: the least recently given answers go first."""
    counts = dict(earlier)
    if decay < 1:
        counts = {name: decay * count for name, count in earlier.items() if decay * count >= LEAST_COUNT}
    for name, count in given.counts.items():
        # Taken out and put in again, so that it is the most recent.
        counts[name] = counts.pop(name, 0) + count
    for name in list(islice(counts, max(0, len(counts) - capacity))):
        del counts[name]
    return counts


def _name(answer: str) -> str | None:
    """Name under which an answer is counted; None for a missing one."""
    if len(answer) <= MAX_NAME_CHARACTERS:
        return answer or None
    digest = hashlib.sha256(answer.encode()).hexdigest()
    return f"{answer[: MAX_NAME_CHARACTERS // 2]}... sha256:{digest}"

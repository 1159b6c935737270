"""Rehearsal problems: sums that need several written steps, and worked examples of solving them.

A problem is a multiset of terms, each a number or a product of two small numbers, written as one expression
("47+6*8+35=?"). It is solved by writing one operation a line until one number is left, which goes into
`\\boxed{}`. The terms may be taken in any order or paired up, and a number may be added at once or by its
tens and ones, so a problem has many distinct right solutions; the answer is one of several hundred
numbers, so that a guess does not hit it. Difficulty grows with the number of terms: the more there are, the
more slips are possible and the longer one must know which of them are still to be added.

For a start model that corrects itself, worked examples can slip (`Slips`): a digit of a result is wrong, and
either that is noticed and the result written again, or the wrong number is carried on.

The key of a problem, which decides its split (`splits`), is its multiset of terms: no order of terms can put
one problem into two splits.
"""

import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from math import prod
from pathlib import Path

from extra_trainer.rehearsal.splits import Half, Split, half_of_key, id_of_key, split_of_key

# The factors of a term: (47,) is the number 47, (6, 8) the product 6*8.
Term = tuple[int, ...]

# Weights of the numbers of terms. Fitting problems are mostly short, so that reinforcement learning can
# improve on the long ones.
_TERM_COUNTS = (2, 3, 4, 5, 6)
_TERM_COUNT_WEIGHTS: dict[Split, tuple[int, ...]] = {
    "fitting": (4, 6, 6, 3, 1),
    "train": (4, 4, 3, 2, 1),
    "evaluation": (4, 4, 3, 2, 1),
}
_PRODUCT_SHARE = 0.15
# Shares of the worked examples: those that add terms in pairs, those of the others that keep a running total
# in the order written (the rest: in any order), and those that add numbers by their tens and then their ones.
_PAIRS_SHARE = 0.1
_IN_ORDER_SHARE = 0.7
_SPLIT_SHARE = 0.25


@dataclass(frozen=True)
class Problem:
    """`prompt` ends where the first line of the solution begins; `answer` is an integer in decimal."""

    id: str
    prompt: str
    answer: str
    terms: tuple[Term, ...]


@dataclass(frozen=True)
class Slips:
    """Frequency of wrong digits in worked examples."""

    rate: float
    """Share of the lines whose result has a wrong digit."""
    noticed: float
    """Share of these where the whole result follows at once, right ("125+5=14=130"); the rest carry on."""


def canonical(terms: Iterable[Term]) -> str:
    """Return the same text for the same multiset of terms, in any order of terms and factors."""
    return "+".join(sorted(_written(tuple(sorted(term))) for term in terms))


def split_of(terms: Iterable[Term]) -> Split:
    """Return the only split that may hold these terms."""
    return split_of_key(canonical(terms))


def half_of(terms: Iterable[Term]) -> Half:
    """Return the only half of their split that may hold these terms."""
    return half_of_key(canonical(terms))


def problems(
    split: Split, count: int, seed: int, *, half: Half | None = None, terms: tuple[int, ...] | None = None
) -> list[Problem]:
    """Return problems with different terms; the same ones for the same seed.

    Args:
        split: The split to draw from.
        count: Number of problems.
        seed: Seed of the draws.
        half: The half of the split to draw from; None: both.
        terms: Numbers of terms, drawn with equal weights; None: the split's own distribution.
    """
    stream = stream_problems(split, seed, half=half, terms=terms)
    return [next(stream) for _ in range(count)]


def stream_problems(
    split: Split, seed: int, *, half: Half | None = None, terms: tuple[int, ...] | None = None
) -> Iterator[Problem]:
    """Yield the problems of `problems`, without end."""
    counts = (_TERM_COUNTS, _TERM_COUNT_WEIGHTS[split]) if terms is None else (terms, None)
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while True:
        drawn = tuple(_draw_term(rng) for _ in range(rng.choices(*counts)[0]))
        key = canonical(drawn)
        if key not in seen and split_of(drawn) == split and half in (None, half_of(drawn)):
            seen.add(key)
            yield _problem(drawn, key)


def write_jsonl(path: Path, items: Iterable[Problem]) -> None:
    """Write one JSON object per line: {id, problem, answer}."""
    lines = (json.dumps({"id": item.id, "problem": item.prompt, "answer": item.answer}) for item in items)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def worked_example(
    problem: Problem, rng: random.Random, in_order: bool = False, slips: Slips | None = None
) -> str:
    """Return a solution: lines of one operation, then the box. It is right unless a slip is not noticed.

    Args:
        problem: The problem.
        rng: Source of the order of the terms, the way of adding, and the slips.
        in_order: Whether to keep a running total over the terms as they are written, the order that is
            easiest to learn.
        slips: Frequency of wrong digits; None: none.
    """
    lines = _WrittenLines(rng, slips)
    split_up = rng.random() < _SPLIT_SHARE
    pair_up = not in_order and rng.random() < _PAIRS_SHARE
    left = list(problem.terms)
    if pair_up or not (in_order or rng.random() < _IN_ORDER_SHARE):
        rng.shuffle(left)
    while len(left) > 1:
        first, second = (_worked_out(left.pop(0), lines) for _ in range(2))
        # A running total stays in front; in pairs the result waits for its turn.
        left.insert(rng.randint(0, len(left)) if pair_up else 0, (_sum(first, second, split_up, lines),))
    return "\n".join([*lines.written, f"\\boxed{{{_worked_out(left[0], lines)}}}"])


class _WrittenLines:
    """The lines of one worked example, some of which slip."""

    def __init__(self, rng: random.Random, slips: Slips | None) -> None:
        self.written: list[str] = []
        self._rng, self._slips = rng, slips

    def add(self, operation: str, result: int) -> int:
        """Write a line and return the number with which the example continues."""
        if self._slips is None or self._rng.random() >= self._slips.rate:
            self.written.append(f"{operation}={result}")
            return result
        upto, rest = self._slip(str(result))
        if self._rng.random() < self._slips.noticed:
            self.written.append(f"{operation}={upto}={result}")
            return result
        self.written.append(f"{operation}={upto}{rest}")
        return int(upto + rest)

    def _slip(self, right: str) -> tuple[str, str]:
        """Return the digits up to the wrong one, and those after it."""
        at = self._rng.randrange(len(right))
        others = [d for d in "0123456789" if d != right[at] and not (at == 0 and d == "0")]
        return right[:at] + self._rng.choice(others), right[at + 1 :]


def _worked_out(term: Term, lines: _WrittenLines) -> int:
    """Return the term's value as written; a product is first written as a line of its own."""
    return lines.add(_written(term), prod(term)) if len(term) > 1 else prod(term)


def _sum(first: int, second: int, split_up: bool, lines: _WrittenLines) -> int:
    """Write the sum in one line, or in two if `split_up` and `second` has tens and ones, and return it."""
    tens, ones = second - second % 10, second % 10
    for part in (tens, ones) if split_up and tens and ones else (second,):
        first = lines.add(f"{first}+{part}", first + part)
    return first


def _draw_term(rng: random.Random) -> Term:
    if rng.random() < _PRODUCT_SHARE:
        return (rng.randint(2, 9), rng.randint(2, 9))
    return (rng.randint(2, 99),)


def _written(term: Term) -> str:
    return "*".join(map(str, term))


def _problem(terms: tuple[Term, ...], key: str) -> Problem:
    return Problem(
        id=id_of_key("rehearsal", key),
        prompt=f"{'+'.join(map(_written, terms))}=?\n",
        answer=str(sum(map(prod, terms))),
        terms=terms,
    )

"""Rehearsal problems: signed sums that need several written steps, and worked examples of solving them.

A problem is a multiset of signed terms, each a number or a product of two small numbers, written as one
expression ("47-6*8+35=?"). It is solved by writing one operation a line until one number is left, which goes
into `\\boxed{}`. Any two terms may be combined first and any number may be added or subtracted at once or by its
tens and ones, so a problem has many distinct right solutions, and the answer is one of several hundred
numbers, so that a guess does not hit it. Difficulty grows with the number of terms and the share of large
ones.

Problems for fitting the start model, for training and for evaluation are disjoint by construction: a hash of
the multiset decides to which split a problem belongs, so no seed, count or order of terms can put it into two.
"""

import hashlib
import json
import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

Split = Literal["fitting", "train", "evaluation"]

# Tenths of all problems, by the hash of the multiset of terms modulo 10.
_TENTHS: dict[Split, frozenset[int]] = {
    "fitting": frozenset(range(6)),
    "train": frozenset({6, 7, 8}),
    "evaluation": frozenset({9}),
}
# How often a problem has this many terms. The fitting problems lean to the short ones, which leaves the long
# ones for reinforcement learning to improve.
_TERM_COUNTS = (2, 3, 4, 5, 6)
_TERM_COUNT_WEIGHTS: dict[Split, tuple[int, ...]] = {
    "fitting": (4, 3, 2, 1, 0),
    "train": (0, 3, 3, 2, 1),
    "evaluation": (0, 3, 3, 2, 1),
}
_PRODUCT_SHARE = 0.12
_NEGATIVE_SHARE = 0.2
# How often a worked example keeps a running total in the order written; how often it adds pairs of whatever is
# left. The others keep a running total in any order.
_IN_ORDER_SHARE = 0.5
_PAIRS_SHARE = 0.25
# How often a worked example adds a number of two digits by its tens and then its ones.
_SPLIT_SHARE = 0.3


@dataclass(frozen=True, order=True)
class Term:
    """A signed number, or a signed product of two numbers (`factors`, the smaller one first)."""

    sign: int
    factors: tuple[int, ...]

    @property
    def value(self) -> int:
        product = self.sign
        for factor in self.factors:
            product *= factor
        return product


@dataclass(frozen=True)
class Problem:
    """`prompt` ends where the first line of the solution begins; `answer` is an integer in decimal."""

    id: str
    prompt: str
    answer: str
    terms: tuple[Term, ...]


def canonical(terms: Iterable[Term]) -> str:
    """The same text for the same multiset of terms, in whatever order they and their factors come."""
    return " ".join(sorted(f"{term.sign:+d}*{'*'.join(map(str, sorted(term.factors)))}" for term in terms))


def split_of(terms: Iterable[Term]) -> Split:
    """The one split that may hold these terms."""
    tenth = int.from_bytes(hashlib.sha256(canonical(terms).encode()).digest()[:8], "big") % 10
    return next(split for split, tenths in _TENTHS.items() if tenth in tenths)


def problems(split: Split, count: int, seed: int) -> list[Problem]:
    """`count` problems of `split`, no two of the same terms; the same ones for the same seed."""
    stream = stream_problems(split, seed)
    return [next(stream) for _ in range(count)]


def stream_problems(split: Split, seed: int) -> Iterator[Problem]:
    """Problems of `split` without end and without repetition."""
    rng = random.Random(f"{split}/{seed}")
    seen: set[str] = set()
    while True:
        terms = _draw_terms(split, rng)
        key = canonical(terms)
        if key not in seen and split_of(terms) == split:
            seen.add(key)
            yield _problem(terms, key)


def write_jsonl(path: Path, items: Iterable[Problem]) -> None:
    """One object a line: {id, problem, answer}."""
    lines = (json.dumps({"id": item.id, "problem": item.prompt, "answer": item.answer}) for item in items)
    path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def worked_example(problem: Problem, rng: random.Random) -> str:
    """A right solution: lines of one operation, then the box. Order and way of adding are drawn from `rng`."""
    lines: list[str] = []
    pair_up = rng.random() < _PAIRS_SHARE
    open_terms = list(problem.terms)
    if pair_up or rng.random() >= _IN_ORDER_SHARE:
        rng.shuffle(open_terms)
    while len(open_terms) > 1:
        first, second = (_worked_out(open_terms.pop(0), lines) for _ in range(2))
        # A running total stays in front; in pairs the result waits for its turn.
        place = rng.randint(0, len(open_terms)) if pair_up else 0
        open_terms.insert(place, _sum(first, second, lines, rng))
    return "\n".join([*lines, f"\\boxed{{{open_terms[0].value}}}"])


def _worked_out(term: Term, lines: list[str]) -> int:
    """The term's value; a product first gets a line of its own, without the sign."""
    if len(term.factors) > 1:
        lines.append(f"{'*'.join(map(str, term.factors))}={abs(term.value)}")
    return term.value


def _sum(first: int, second: int, lines: list[str], rng: random.Random) -> Term:
    """The sum as a number, its lines added to `lines`; a positive number is written before a negative one."""
    if first < 0 <= second:
        first, second = second, first
    for part in _parts(second, rng):
        lines.append(f"{first}{part:+d}={first + part}")
        first += part
    return _number(first)


def _draw_terms(split: Split, rng: random.Random) -> tuple[Term, ...]:
    count = rng.choices(_TERM_COUNTS, _TERM_COUNT_WEIGHTS[split])[0]
    return tuple(_draw_term(rng) for _ in range(count))


def _draw_term(rng: random.Random) -> Term:
    sign = -1 if rng.random() < _NEGATIVE_SHARE else 1
    if rng.random() < _PRODUCT_SHARE:
        return Term(sign, (rng.randint(2, 9), rng.randint(2, 9)))
    return Term(sign, (rng.randint(2, 99),))


def _number(value: int) -> Term:
    return Term(-1 if value < 0 else 1, (abs(value),))


def _parts(value: int, rng: random.Random) -> list[int]:
    """`value` in one piece, or as its tens and its ones."""
    sign, size = (-1, -value) if value < 0 else (1, value)
    tens, ones = size - size % 10, size % 10
    if tens == 0 or ones == 0 or rng.random() >= _SPLIT_SHARE:
        return [value]
    return [sign * tens, sign * ones]


def _problem(terms: tuple[Term, ...], key: str) -> Problem:
    written = "".join(
        f"{'-' if term.sign < 0 else '+'}{'*'.join(map(str, term.factors))}" for term in terms
    ).removeprefix("+")
    return Problem(
        id=f"rehearsal-{hashlib.sha256(key.encode()).hexdigest()[:12]}",
        prompt=f"{written}=?\n",
        answer=str(sum(term.value for term in terms)),
        terms=terms,
    )

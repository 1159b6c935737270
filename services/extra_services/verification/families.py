r"""Values with an integer index: "x = 2k\pi, k \in \mathbb{Z}", "\{3k : k \in \mathbb{Z}\}".

`family` takes such an answer apart into its expressions and its index. `families_equal` compares two. Those
with expressions linear in the index are compared as sets: 2k + 1 and 2n - 1 are the odd numbers, and k\pi/2
is k\pi together with k\pi + \pi/2. Others are equal if their expressions are, with the index renamed,
reversed or shifted by one.
"""

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any

import sympy

from extra_services.verification.equality import equal
from extra_services.verification.listing import members
from extra_services.verification.normalization import without_sizing

_SET = r"\\(?:mathbb|mathbf|mathrm|Bbb)\s*\{?\s*([ZN])\s*\}?|([ZN])(?![a-zA-Z])"
_SIGN = r"(?:\s*[\^_]\s*\{?\s*(?:[+*]|\\ge[q]?\s*0|>\s*0)\s*\}?)?"
_IN_SET = re.compile(rf"([a-zA-Z])\s*\\in\s*(?:{_SET}){_SIGN}\s*\)?\s*\Z")
_IN_WORDS = re.compile(
    r"([a-zA-Z])\s*(?:is|as|为|是)?\s*(?:an?|any|任意|every)?\s*(?:integers?|整数)\s*\)?\s*\Z"
    r"|(?:an?|any|all|every|each|some)\s+integers?\s+([a-zA-Z])\s*\)?\s*\Z"
)
_CONNECTION = re.compile(
    r"(?:[\s,;:|(]|\\[ ,;:]|\\mid(?![a-zA-Z])|\\q?quad(?![a-zA-Z])|\b(?:where|for|with|and)\b)+\Z"
)
_VARIABLE = re.compile(
    r"\A\s*\\?[a-zA-Z]+\s*(?:\\in\s*\\mathbb\s*\{?[RZ]\}?\s*)?(?:\\mid(?![a-zA-Z])|\||:)\s*"
)
_NAME = re.compile(r"\A\s*\\?[a-zA-Z]+(?:_\{?\w+\}?)?\s*=\s*")
_RELATION = re.compile(r"[=<>]|\\(?:le|ge|leq|geq|ne|neq|in|mid|cup)(?![a-zA-Z])|\A\s*[(\[]")
_TOKEN = re.compile(r"\\[a-zA-Z]+|[a-zA-Z]")
_TEXT = re.compile(r"\\(?:text|mbox|textrm)\s*\{([^{}]*)\}")
#: Members of one period that are compared at most.
_MOST_MEMBERS = 100


@dataclass(frozen=True)
class Family:
    """The values of `bodies` for all integers, or all whole numbers, `index`."""

    bodies: tuple[str, ...]
    index: str
    negative: bool

    def with_index(self, index: str) -> "Family":
        """Return the same family with another letter as its index."""
        renamed = tuple(
            _TOKEN.sub(lambda token: index if token.group() == self.index else token.group(), body)
            for body in self.bodies
        )
        return replace(self, bodies=renamed, index=index)


def family(text: str, index: str = "") -> Family | None:
    r"""Return the family that an answer describes, or None.

    Args:
        text: The answer, without the delimiters of formulas.
        index: The letter that counts as an index although the answer says nothing of it.
    """
    inner = " ".join(without_sizing(_TEXT.sub(r" \1 ", text)).split())
    if inner.startswith(r"\{") and inner.endswith(r"\}"):
        inner = inner[2:-2].strip()
    match = _IN_SET.search(inner) or _IN_WORDS.search(inner)
    negative = True
    if match:
        index = match[1] or match[2]
        negative = match.re is _IN_WORDS or ("Z" in match.group() and "+" not in match.group())
        connected = _CONNECTION.search(inner, 0, match.start())
        if not connected:
            return None
        inner = inner[: connected.start()]
    if not index:
        return None
    inner = _VARIABLE.sub("", inner)
    bodies = tuple(_NAME.sub("", member).strip() for member in members(inner))
    if not all(index in _TOKEN.findall(body) or "," in text for body in bodies) or index not in "".join(
        bodies
    ):
        return None
    return Family(bodies, index, negative)


def is_plain(found: Family) -> bool:
    """Return whether the members are values, and no intervals or conditions."""
    return not any(_RELATION.search(body) for body in found.bodies)


def families_equal(golds: Iterable[Any], found: Iterable[Any], index: Any, negative: bool) -> bool:
    """Compare two families of sympy expressions with the same index.

    Args:
        golds: Expressions of the reference.
        found: Expressions of the response.
        index: Their index, a symbol.
        negative: It takes negative values too.
    """
    golds, found = list(golds), list(found)
    if negative and (lines := [_line(each, index) for each in golds + found]) and all(lines):
        return _same_residues(lines[: len(golds)], lines[len(golds) :])
    steps = (index, -index, index + 1, index - 1, 1 - index) if negative else (index,)
    return len(golds) == len(found) and any(
        all(any(equal(gold, mine.subs(index, step)) for mine in found) for gold in golds) for step in steps
    )


def _line(expression: Any, index: Any) -> tuple[Any, Any] | None:
    """Return the slope and the value at 0 of an expression that is linear in `index`, else None."""
    slope = sympy.simplify(expression.diff(index))
    if slope.has(index) or slope == 0:
        return None
    return slope, expression.subs(index, 0)


def _same_residues(golds: list[Any], found: list[Any]) -> bool:
    unit = golds[0][0]
    ratios = [sympy.nsimplify(slope / unit) for slope, _ in golds + found]
    if not all(ratio.is_Rational for ratio in ratios):
        return False
    period = sympy.Rational(
        math.lcm(*(int(abs(ratio.p)) for ratio in ratios)), math.gcd(*(int(ratio.q) for ratio in ratios))
    )
    counts = [period / abs(ratio) for ratio in ratios]
    if not all(count.is_Integer for count in counts) or sum(counts) > _MOST_MEMBERS:
        return False
    offsets = [
        [(start + step * slope) / unit for step in range(int(count))]
        for (slope, start), count in zip(golds + found, counts, strict=True)
    ]
    left = [offset for line in offsets[: len(golds)] for offset in line]
    right = [offset for line in offsets[len(golds) :] for offset in line]
    return _covered(left, right, period) and _covered(right, left, period)


def _covered(offsets: list[Any], by: list[Any], period: Any) -> bool:
    """Return whether each offset differs from one in `by` by whole periods."""
    return all(any(_is_integer((offset - other) / period) for other in by) for offset in offsets)


def _is_integer(value: Any) -> bool:
    number = value.evalf(30)
    if not number.is_real:
        return False
    nearest = sympy.Integer(round(number))
    return bool(abs(number - nearest) < sympy.Float("1e-15")) and equal(value, nearest)

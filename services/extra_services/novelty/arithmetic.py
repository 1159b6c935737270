r"""Finds the equations between plain numbers in a sentence that are certainly false.

An equation is judged only if nothing around it can change its meaning: neither a root or an index before
it, nor a variable behind it, nor a modulus in its sentence. What is not understood is not judged. Sides may
differ by what their digits allow (1/3 = 0.33, 100/7 = 14), and a percentage may be meant as a share (3/4 =
75 %). Of the 672 texts of both sets of docs/novelty-quality.md no equation is found false.
"""

import math
import operator
import re
from collections.abc import Callable
from functools import lru_cache
from typing import NamedTuple

#: Longest span that is read as one equation, in characters; and the largest base and exponent of a power.
_LONGEST, _LARGEST_BASE, _LARGEST_EXPONENT = 400, 1e6, 50
_SIGNS = str.maketrans(
    {"×": "*", "·": "*", "⋅": "*", "÷": "/", "−": "-", "–": "-", "²": "^2", "³": "^3", "⁴": "^4", "≈": "="}
    | {"[": "(", "]": ")", "$": " ", "&": " ", "½": "(1/2)", "≤": "<", "≥": ">", "°": " "}
)
_FRACTION = re.compile(r"\\[dtc]?frac\s*(?:\{([^{}]*)\}|(\d))\s*(?:\{([^{}]*)\}|(\d))")
_REWRITES = (
    (re.compile(r"\^\s*\{?\\circ\}?"), " "),
    (re.compile(r"\\(?:text|mathrm|mbox)\s*\{([^{}]*)\}"), r" \1 "),
    (re.compile(r"\\%"), "%"),
    (re.compile(r"(?<=\d)(?:\{,\}|,(?=\d\d\d(?!\d)))"), ""),
    (re.compile(r"\\(?:cdot|times|ast)(?![a-z])|\btimes\b|\bmultiplied by\b"), "*"),
    (re.compile(r"\\div(?![a-z])|\bdivided by\b"), "/"),
    (re.compile(r"\bplus\b"), "+"),
    (re.compile(r"\bminus\b"), "-"),
    (re.compile(r"\\approx(?![a-z])|\bequals\b"), "="),
    (re.compile(r"\\(?:left|right|[bB]igg?[lr]?|q?quad|displaystyle)(?![a-zA-Z])|\\[^a-zA-Z]"), " "),
)
_BRACES = str.maketrans("{}", "()")
#: What gives a sentence's equations another meaning.
_OTHERWISE = re.compile(r"mod(?![a-su-z])|modul|≡|equiv|remainder|digit|clock|base", re.IGNORECASE)
_SPAN = re.compile(r"[\d.\s+\-*/^()%=<>]*=[\d.\s+\-*/^()%=<>]*")
#: Characters that hold the word before an equation, if it is one that counts.
_LONGEST_WORD = 40
_WORD_BEFORE = re.compile(r"(\\?[A-Za-z]+)$")
_WORD_BEHIND = re.compile(r"[A-Za-z]+")
#: Short words, beside which a number stands alone. Other words of one or two letters are variables.
_LISTED_SHORT = "a an as at be by do go he if in is it no of on or so to up us we cm km mm kg ml h m s l"
_SHORT = frozenset(_LISTED_SHORT.split())
#: Words before an equation that belong to its first number.
_LISTED_OPERATIONS = (
    "sqrt root of log ln lg sin cos tan binom choose gcd lcm hundred thousand million dozen half twice"
    " double percent squared cubed negative zero one two three four five six seven eight nine ten over by"
    " from"
)
_OPERATIONS = frozenset(_LISTED_OPERATIONS.split())
_RATIO_BEFORE, _RATIO_BEHIND = re.compile(r"\d\s*:$"), re.compile(r":\s*\d")
_COMMA_BEFORE, _COMMA_BEHIND = re.compile(r"(?<=\d),(?=\Z)"), re.compile(r",\d")
#: Characters that bind to the number beside them, as all that are not ASCII may; and those that do not.
_BINDING, _QUOTES = "_|!\\'", "“”‘’…"
_TOKEN = re.compile(r"\d+(?:\.\d+)?|[-+*/^()%]")


#: Things of which a binomial may choose: any more take long, and hardly fit a float.
_LARGEST_CHOICE = 1000


class _Value(NamedTuple):
    """A value, and by how much rounded numbers in it may have changed it."""

    value: float
    error: float
    #: A number alone, whose own digits say how far it was rounded.
    decimals: int | None = None
    percent: bool = False

    @property
    def calculated(self) -> bool:
        """Return whether this is more than a number alone."""
        return self.decimals is None


def false_equations(sentence: str) -> list[str]:
    """Return the spans of equations between plain numbers that are false, beyond rounding."""
    if _OTHERWISE.search(sentence):
        return []
    text = sentence
    for _ in range(3):
        text, count = _FRACTION.subn(_bracketed, text)
        if not count:
            break
    text = text.translate(_SIGNS)
    for pattern, replacement in _REWRITES:
        text = pattern.sub(replacement, text)
    text = text.translate(_BRACES)
    return [
        span[0]
        for span in _SPAN.finditer(text)
        if len(span[0]) <= _LONGEST
        and _stands_alone(text, span)
        # "1,5 * 60 = 90" has a decimal comma.
        and not _COMMA_BEFORE.search(text, 0, span.start())
        and not _COMMA_BEHIND.match(text, span.end())
        and _false(span[0])
    ]


_QUICK: dict[str, Callable[[float, float], float]] = {"+": operator.add, "-": operator.sub, "*": operator.mul}


def calculated(expression: list[str]) -> float | None:
    """Return the value of an expression without brackets, in which 4|2 is a binomial; None if it has none."""
    # Most expressions in a solution are one number, or two.
    if len(expression) == 1:
        return float(expression[0])
    if len(expression) == 3 and (quick := _QUICK.get(expression[1])):
        return quick(float(expression[0]), float(expression[2]))
    rest = list(expression)
    while "|" in rest:
        place = rest.index("|")
        try:
            of, chosen = int(rest[place - 1]), int(rest[place + 1])
        except (ValueError, IndexError):
            return None
        if of > _LARGEST_CHOICE:
            return None
        value = math.comb(of, chosen)
        rest[place - 1 : place + 2] = [str(value)]
    found = _side(" ".join(rest))
    return found.value if found else None


def _bracketed(match: "re.Match[str]") -> str:
    return f"(({match[1] or match[2]})/({match[3] or match[4]}))"


def _stands_alone(text: str, span: "re.Match[str]") -> bool:
    before, behind = text[: span.start()], text[span.end() :]
    if span[0].lstrip()[:1] == "=":
        # What stands before it is a side of its own.
        before = ""
    if _RATIO_BEFORE.search(before) or _RATIO_BEHIND.match(behind):
        return False
    if any(near in _BINDING or not (near.isascii() or near in _QUOTES) for near in before[-1:] + behind[:1]):
        return False
    word = _WORD_BEFORE.search(before[-_LONGEST_WORD:])
    if word and (
        word[1][0] == "\\"
        or word[1].lower() in _OPERATIONS
        or (len(word[1]) < 3 and word[1].lower() not in _SHORT)
    ):
        return False
    if behind[:1].isalpha() and not span[0][-1].isspace():
        return False
    word = _WORD_BEHIND.match(behind)
    return not word or len(word[0]) > 2 or word[0].lower() in _SHORT


@lru_cache(maxsize=4096)
def _false(span: str) -> bool:
    """Return whether two sides of a chain of equations are certainly unequal."""
    sides = re.split(r"([=<>])", span.strip().rstrip("."))
    values = [_side(side) for side in sides[::2]]
    if sides[0].lstrip()[:1] in ("+", "-"):
        # The rest of something, or a dash.
        values[0] = None
    return any(
        sign == "=" and left and right and (left.calculated or right.calculated) and not _agree(left, right)
        for left, sign, right in zip(values, sides[1::2], values[1:], strict=False)
    )


def _side(text: str) -> _Value | None:
    """Return the value of a side; None if it is none, or is not understood."""
    tokens = _TOKEN.findall(text)
    if not tokens or "".join(tokens) != "".join(text.split()):
        return None
    try:
        value, end = _sum(tokens, 0)
    except (ArithmeticError, ValueError, IndexError, RecursionError):
        return None
    return value if end == len(tokens) else None


def _sum(tokens: list[str], place: int) -> tuple[_Value, int]:
    left, place = _product(tokens, place)
    while place < len(tokens) and tokens[place] in "+-":
        sign = 1 if tokens[place] == "+" else -1
        right, place = _product(tokens, place + 1)
        left = _Value(left.value + sign * right.value, left.error + right.error)
    return left, place


def _product(tokens: list[str], place: int) -> tuple[_Value, int]:
    left, place = _power(tokens, place)
    while place < len(tokens) and tokens[place] in "*/":
        divides = tokens[place] == "/"
        right, place = _power(tokens, place + 1)
        value = left.value / right.value if divides else left.value * right.value
        relative = sum(one.error / abs(one.value) for one in (left, right) if one.value)
        left = _Value(value, abs(value) * relative)
    return left, place


def _power(tokens: list[str], place: int) -> tuple[_Value, int]:
    base, place = _atom(tokens, place)
    if place == len(tokens) or tokens[place] != "^":
        return base, place
    exponent, place = _power(tokens, place + 1)
    if base.value < 0 or base.value > _LARGEST_BASE or abs(exponent.value) > _LARGEST_EXPONENT:
        raise ValueError("too large to be judged")
    value = base.value**exponent.value
    relative = base.error / base.value * abs(exponent.value) if base.value else 0.0
    return _Value(value, value * (relative + 20 * exponent.error)), place


def _atom(tokens: list[str], place: int) -> tuple[_Value, int]:
    token = tokens[place]
    if token == "-":
        found, place = _product(tokens, place + 1)
        return _Value(-found.value, found.error, found.decimals), place
    if token == "(":
        found, place = _sum(tokens, place + 1)
        if tokens[place] != ")":
            raise ValueError("a bracket is missing")
        place += 1
    else:
        decimals = len(token.partition(".")[2])
        found = _Value(float(token), 10.0**-decimals if decimals > 1 else 0.0, decimals)
        place += 1
    if place < len(tokens) and tokens[place] == "%":
        return _Value(found.value, found.error, found.decimals, percent=True), place + 1
    return found, place


def _agree(left: _Value, right: _Value) -> bool:
    scales = (1.0, 0.01, 100.0) if left.percent or right.percent else (1.0,)
    return any(_close(left, right, scale) for scale in scales)


def _close(left: _Value, right: _Value, scale: float) -> bool:
    slack = left.error + right.error + 1e-9 * max(abs(left.value), abs(right.value))
    for one, other in ((left, right), (right, left)):
        # A number alone may be rounded, if there was anything to round.
        if one.decimals is not None and other.value * scale % 1:
            slack = max(slack, 10.0**-one.decimals)
    return abs(left.value - right.value * scale) <= slack or abs(left.value * scale - right.value) <= slack

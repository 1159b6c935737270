r"""Prove short answers equal or different by calculation.

The parser reads an unambiguous subset of LaTeX: numbers, fractions, roots, pi, powers and letters
("2\sqrt{3}+\frac{x}{2}"), and tuples and sets of these. Everything else (a letter before a parenthesis,
"1/2x", units, i) is left to the workers. Values without roots and letters are exact fractions. Other values
are floats with a bound of their rounding error (running error analysis: Higham, Accuracy and Stability of
Numerical Algorithms, 3.3), and letters stand for fixed numbers. Two values further apart than their bounds
are different answers. Floats prove no equality.
"""

import math
import re
import zlib
from collections.abc import Callable
from dataclasses import dataclass
from fractions import Fraction
from functools import cache
from typing import Any

#: Longest answer calculated here, in characters: the calculation blocks the event loop.
_MAX_LENGTH = 160
_MAX_EXPONENT = 64
_MAX_SIZE = 10**60
_EPSILON = 2.0**-52
#: Seeds of the two sets of numbers that letters stand for.
_POINTS = (1, 2)

_GREEK = (
    "alpha|beta|gamma|delta|epsilon|varepsilon|zeta|eta|theta|vartheta|iota|kappa|lambda|mu|nu|xi|rho|sigma|tau|upsilon"
    "|phi|varphi|chi|psi|omega|hbar|ell|Gamma|Delta|Theta|Lambda|Xi|Sigma|Upsilon|Phi|Psi|Omega"
)
_FUNCTIONS = ("\\sin", "\\cos", "\\exp", "\\ln")
_TOKEN = re.compile(
    r"\s*(\d+\.\d+|\.\d+|\d+|\\(?:frac|sqrt|pi|cdot|times|div|sin|cos|exp|ln)(?![a-zA-Z])"
    rf"|(?:\\(?:{_GREEK})(?![a-zA-Z])|[a-zA-Z])(?:\s?_(?:\{{[a-zA-Z0-9]+\}}|[a-zA-Z0-9]))?|[-+*/^(){{}}\[\]])"
)
#: Either may be a constant of integration.
_CONSTANTS = frozenset("Cc")
#: "C_5^2" and "A_5^2" may be numbers of choices.
_COUNTING = re.compile(r"[ACP]_\d+\Z")
_COMMANDS = frozenset(("\\frac", "\\sqrt", "\\cdot", "\\times", "\\div", *_FUNCTIONS))
#: "1e5", "1F_{16}", "3^{rd}", and words rather than products: three letters in a row, and "or".
_MISLEADING = re.compile(
    r"\d[eE][+-]?\d|[0-9A-F][A-F]_\{?16|\d\s*\^\s*\{?(?:st|nd|rd|th)|(?<![\\a-zA-Z])(?:[a-zA-Z]{3}|or(?![a-zA-Z]))"
)
#: "x=5" and "f(x)=x+1", but not "x=2x".
_ASSIGNMENT = re.compile(r"(([a-zA-Z])(?:\([a-zA-Z]\))?)=((?:\\[a-zA-Z]+|(?!\2)[^=<>])+)\Z")
_THOUSANDS = re.compile(r"\d,\s?\d{3}(?!\d)")
_BRACKETS = re.compile(r"([(\[]|\\\{)(.*)([)\]]|\\\})\Z", re.DOTALL)


class _Unreadable(Exception):
    """The answer is not in the subset, or too large to calculate here."""


@dataclass(frozen=True)
class _Bounded:
    """A float with a bound of its absolute error."""

    value: float
    error: float


_Number = Fraction | _Bounded
#: A parsed expression, as a function from the seed of a point to the value there.
_Expression = Callable[[int], _Number]


@dataclass(frozen=True)
class _Parsed:
    value: _Expression
    letters: frozenset[str]
    decimal: bool


def equal(response: str, answer: str, rounding: Fraction) -> bool | None:
    """Compare two normal forms.

    Args:
        response: Normal form of the final answer.
        answer: Normal form of the reference answer.
        rounding: Where one side has a decimal, values up to so far apart are left undecided.

    Returns:
        The decision, or None if nothing can be proved here.
    """
    if (
        max(len(response), len(answer)) > _MAX_LENGTH
        or _THOUSANDS.search(response)
        or _THOUSANDS.search(answer)
    ):
        return None
    response, answer = _without_assignment(response, answer)
    left, right = _split(response), _split(answer)
    single = len(left.parts) == 1 or len(right.parts) == 1
    if left.brackets != right.brackets and not single:
        return None
    try:
        members = [_parse(part) for part in left.parts], [_parse(part) for part in right.parts]
        if single:
            return _one_of_several(*members, rounding)
        return _sequences(*members, left.ordered, rounding)
    except (_Unreadable, ArithmeticError, RecursionError):
        return None


@dataclass(frozen=True)
class _Split:
    brackets: tuple[str, str]
    parts: tuple[str, ...]
    ordered: bool


def _split(text: str) -> _Split:
    """Return the members of a tuple, interval, set or list; a single answer is a list of one."""
    match = _BRACKETS.match(text)
    if match and len(parts := _at_commas(match[2])) > 1:
        return _Split((match[1], match[3]), parts, ordered=match[1] != "\\{")
    return _Split(("", ""), _at_commas(text), ordered=False)


def _at_commas(text: str) -> tuple[str, ...]:
    if "," not in text:
        return (text,)
    parts, depth, start = [], 0, 0
    for index, character in enumerate(text):
        depth += (character in "([{") - (character in ")]}")
        if character == "," and depth == 0:
            parts.append(text[start:index])
            start = index + 1
    return (*parts, text[start:])


def _without_assignment(response: str, answer: str) -> tuple[str, str]:
    """Return both without the name on the left ("x = 5"), unless the names differ."""
    mine, theirs = _ASSIGNMENT.match(response), _ASSIGNMENT.match(answer)
    if mine and theirs and mine[1] != theirs[1]:
        return response, answer
    return (mine[3] if mine else response), (theirs[3] if theirs else answer)


def _one_of_several(left: list[_Parsed], right: list[_Parsed], rounding: Fraction) -> bool | None:
    """Compare one value with one or more: different if one of these is ("5" and "5, 5" are the same set)."""
    members = [_compare(mine, theirs, rounding) for mine in left for theirs in right]
    return False if False in members else (members[0] if len(members) == 1 else None)


def _sequences(left: list[_Parsed], right: list[_Parsed], ordered: bool, rounding: Fraction) -> bool | None:
    if ordered:
        if len(left) != len(right):
            return None
        members = [_compare(*pair, rounding) for pair in zip(left, right, strict=True)]
        return False if False in members else (None if None in members else True)
    table = [[_compare(mine, theirs, rounding) for mine in left] for theirs in right]
    if any(all(decided is False for decided in row) for row in table):
        return False
    # Each member has exactly one proven partner, and the partners are distinct.
    partners = [row.index(True) for row in table if row.count(True) == 1 and None not in row]
    return True if len(partners) == len(set(partners)) == len(left) == len(right) else None


def _compare(left: _Parsed, right: _Parsed, rounding: Fraction) -> bool | None:
    if not left.letters and not right.letters:
        mine, theirs = left.value(0), right.value(0)
        if isinstance(mine, Fraction) and isinstance(theirs, Fraction):
            return _exactly(mine, theirs, rounding if left.decimal or right.decimal else None)
    if left.letters ^ right.letters == _CONSTANTS:
        return None
    # With letters, at both points: different expressions may have the same value at one.
    apart = (_apart(left, right, point) for point in _POINTS)
    return False if all(apart) else None


def _exactly(left: Fraction, right: Fraction, rounding: Fraction | None) -> bool | None:
    if left == right:
        return True
    near = rounding is not None and abs(left - right) <= rounding
    return None if near else False


def _apart(left: _Parsed, right: _Parsed, point: int) -> bool:
    first, second = _bounded(left.value(point)), _bounded(right.value(point))
    allowed = 8 * (first.error + second.error) + 1e-12 * abs(first.value)
    if left.decimal or right.decimal:
        allowed += 1.01e-6
    return abs(first.value - second.value) > allowed


def _parse(text: str) -> _Parsed:
    parser = _Parser(text)
    value = parser.sum()
    if parser.next is not None:
        raise _Unreadable
    return _Parsed(value, frozenset(parser.letters), parser.decimal)


class _Parser:
    """A recursive descent parser; each method reads one rule and returns its expression."""

    def __init__(self, text: str) -> None:
        self._tokens = _tokens(text)
        self._position = 0
        self.letters: set[str] = set()
        self.decimal = False

    @property
    def next(self) -> str | None:
        return self._tokens[self._position] if self._position < len(self._tokens) else None

    def _take(self) -> str:
        token = self.next
        if token is None:
            raise _Unreadable
        self._position += 1
        return token

    def _expect(self, token: str) -> None:
        if self._take() != token:
            raise _Unreadable

    def sum(self) -> _Expression:
        total = self._product()
        while self.next in ("+", "-"):
            operation = _add if self._take() == "+" else _subtract
            total = _binary(operation, total, self._product())
        return total

    def _product(self) -> _Expression:
        if self.next in ("+", "-"):
            negative = self._take() == "-"
            product = self._product()
            return _binary(_multiply, _constant(Fraction(-1)), product) if negative else product
        product = self._power()
        divided = False
        while (token := self.next) is not None and token not in ("+", "-", ")", "}", "]"):
            if token in ("/", "\\div"):
                self._take()
                product, divided = _binary(_divide, product, self._power()), True
                continue
            if token in ("*", "\\cdot", "\\times"):
                self._take()
            elif divided or token[0].isdigit() or token[0] == ".":
                raise _Unreadable  # "1/2x", "x2" and "3 4" may mean this or that
            elif token == "\\frac" and self._tokens[self._position - 1].isdigit():
                return self._mixed_number(product)
            product = _binary(_multiply, product, self._power())
        return product

    def _mixed_number(self, whole: _Expression) -> _Expression:
        """Read "1\\frac{4}{5}" as a sum if it is alone in its product; otherwise it may be a product."""
        start = self._position - 1
        plain = re.match(
            r"\d+\\frac\{?\d+\}?\{?\d+\}?(?:[-+)}]|\Z)", "".join(self._tokens[start : start + 9])
        )
        if not plain or (start and self._tokens[start - 1] not in ("+", "-", "(", "{")):
            raise _Unreadable
        return _binary(_add, whole, self._power())

    def _power(self) -> _Expression:
        base = self._atom()
        if self.next != "^":
            return base
        self._take()
        if self.next == "-":
            raise _Unreadable
        exponent = self._argument()
        if self.next == "^":
            raise _Unreadable
        return _binary(_raise, base, exponent)

    def _atom(self) -> _Expression:
        token = self._take()
        if token[0].isdigit() or token[0] == ".":
            self.decimal |= "." in token
            return _constant(Fraction(token))
        if token == "\\pi":
            return _constant(_Bounded(math.pi, math.pi * _EPSILON))
        if token == "\\frac":
            return _binary(_divide, self._argument(), self._argument())
        if token == "\\sqrt":
            return self._root()
        if token in _FUNCTIONS:
            return self._function(token)
        if token in ("(", "{"):
            inner = self.sum()
            self._expect(")" if token == "(" else "}")
            return inner
        return self._letter(token)

    def _root(self) -> _Expression:
        degree: _Expression = _constant(Fraction(2))
        if self.next == "[":
            self._take()
            degree = self.sum()
            self._expect("]")
        return _binary(_root, self._argument(), degree)

    def _letter(self, token: str) -> _Expression:
        letter = token.replace("{", "").replace("}", "").replace(" ", "")
        # "f(x)" may be a function, and i the imaginary unit. An e has the value of the number in any case.
        if not (token[0].isalpha() or token[0] == "\\") or letter == "i" or self.next == "(":
            raise _Unreadable
        if _COUNTING.match(letter):
            raise _Unreadable
        if letter == "e":
            return _constant(_Bounded(math.e, math.e * _EPSILON))
        self.letters.add(letter)
        return lambda point: _Bounded(_value_of(letter, point), 0.0)

    def _function(self, name: str) -> _Expression:
        r"""Read `\sin(...)` or `\sin x`; nothing may follow that could belong to the argument."""
        argument = self._atom() if self.next in ("(", "{") else self._argument()
        follows = self.next or "+"
        if follows not in ("+", "-", ")", "}") and follows not in _FUNCTIONS:
            raise _Unreadable
        return lambda point: _apply(name, _bounded(argument(point)))

    def _argument(self) -> _Expression:
        """Read the argument of a command or of ^: a group, or a single character."""
        token = self.next or ""
        if (
            token == "{"
            or (token[:1] == "\\" and token not in _COMMANDS)
            or (len(token) == 1 and token.isalnum())
        ):
            return self._atom()
        raise _Unreadable


@cache
def _value_of(letter: str, point: int) -> float:
    """Return a number between 0.3 and 3 that depends only on the letter and the point."""
    return 0.3 + 2.7 * zlib.crc32(f"{letter} {point}".encode()) / 2**32


def _apply(name: str, argument: _Bounded) -> _Bounded:
    value, error = argument.value, argument.error
    if name == "\\sin":
        return _rounded(math.sin(value), error + 2 * _EPSILON)
    if name == "\\cos":
        return _rounded(math.cos(value), error + 2 * _EPSILON)
    if name == "\\exp":
        result = math.exp(value)
        return _rounded(result, 2 * result * (error + _EPSILON))
    if value - error <= 0:
        raise _Unreadable
    return _rounded(math.log(value), 2 * error / (value - error) + _EPSILON)


def _tokens(text: str) -> list[str]:
    if _MISLEADING.search(text):
        raise _Unreadable
    tokens = []
    position = 0
    while position < len(text):
        match = _TOKEN.match(text, position)
        if match is None:
            raise _Unreadable
        tokens.append(match[1])
        position = match.end()
    return tokens


def _constant(value: _Number) -> _Expression:
    return lambda point: value


def _binary(operation: Callable[[Any, Any], _Number], left: _Expression, right: _Expression) -> _Expression:
    def value(point: int) -> _Number:
        first, second = left(point), right(point)
        if isinstance(first, Fraction) and isinstance(second, Fraction):
            return _small(operation(first, second))
        return operation(_bounded(first), _bounded(second))

    return value


def _small(value: _Number) -> _Number:
    if isinstance(value, Fraction) and max(abs(value.numerator), value.denominator) > _MAX_SIZE:
        raise _Unreadable
    return value


def _bounded(number: _Number) -> _Bounded:
    if isinstance(number, Fraction):
        value = float(number)
        return _Bounded(value, abs(value) * _EPSILON)
    return number


def _rounded(value: float, error: float) -> _Bounded:
    if not math.isfinite(value) or abs(value) > 1e100:
        raise _Unreadable
    return _Bounded(value, error + abs(value) * _EPSILON)


def _add(left: Any, right: Any) -> _Number:
    if isinstance(left, Fraction):
        return left + right  # type: ignore[no-any-return]
    return _rounded(left.value + right.value, left.error + right.error)


def _subtract(left: Any, right: Any) -> _Number:
    if isinstance(left, Fraction):
        return left - right  # type: ignore[no-any-return]
    return _rounded(left.value - right.value, left.error + right.error)


def _multiply(left: Any, right: Any) -> _Number:
    if isinstance(left, Fraction):
        return left * right  # type: ignore[no-any-return]
    error = abs(left.value) * right.error + abs(right.value) * left.error + left.error * right.error
    return _rounded(left.value * right.value, error)


def _divide(left: Any, right: Any) -> _Number:
    if isinstance(left, Fraction):
        return left / right  # type: ignore[no-any-return]
    smallest = abs(right.value) - right.error
    if smallest <= 0:
        raise _Unreadable
    value = left.value / right.value
    return _rounded(value, (left.error + abs(value) * right.error) / smallest)


def _raise(base: Any, exponent: Any) -> _Number:
    if isinstance(base, Fraction):
        if exponent.denominator == 1 and abs(exponent) <= _MAX_EXPONENT:
            return _small(base ** int(exponent))
        base, exponent = _bounded(base), _bounded(exponent)
    smallest = base.value - base.error
    if smallest <= 0:
        raise _Unreadable
    value = base.value**exponent.value
    relative = abs(exponent.value) * base.error / smallest + exponent.error * (abs(math.log(base.value)) + 1)
    return _rounded(value, 2 * abs(value) * relative + 4 * abs(value) * _EPSILON)


def _root(radicand: Any, degree: Any) -> _Number:
    if isinstance(degree, _Bounded):
        degree = Fraction(round(degree.value))
    if degree.denominator != 1 or not 2 <= degree <= _MAX_EXPONENT:
        raise _Unreadable
    if isinstance(radicand, Fraction) and degree == 2 and radicand >= 0:
        top, bottom = math.isqrt(radicand.numerator), math.isqrt(radicand.denominator)
        if (top * top, bottom * bottom) == (radicand.numerator, radicand.denominator):
            return Fraction(top, bottom)
    return _raise(_bounded(radicand), _bounded(1 / degree))

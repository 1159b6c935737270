r"""Compare expressions that step from one whole number to the next, or are about whole numbers alone.

`\lfloor n/2 \rfloor` and `\lceil n/2 \rceil - 1` agree at nearly every real number, and sympy takes the
`\gcd` of two letters for that of two polynomials, which is 1. So expressions with floors, ceilings,
remainders, gcd and lcm, and those with (-1)^n, are evaluated at whole numbers: many small ones, and those
around powers. In the names of real unknowns (x, t) floors are evaluated at fractions too.
"""

import random
from collections.abc import Iterator
from functools import cache
from math import gcd, lcm
from typing import Any

import sympy

#: Names of unknowns that are rather real numbers.
_REAL = frozenset("xyztuvw")
_ALONE = (*range(1, 31), 36, 48, 63, 64, 65, 99, 100, 101, 127, 128, 129, 720, 1023, 1024, 1025)
#: Numbers of several letters, some with common factors, some equal.
_TOGETHER = ((12, 18, 8), (18, 12, 27), (6, 6, 6), (4, 8, 2), (5, 7, 3), (9, 6, 15), (30, 42, 70), (1, 1, 1))
_MOST_POINTS, _LARGEST = 48, 40
#: Points that have to agree.
_LEAST_AGREED = 8


class _OfIntegers(sympy.Function):  # type: ignore[misc]
    """A function of any number of whole numbers in any order."""

    _calculate: Any

    @classmethod
    def eval(cls, *args: Any) -> Any:
        """Return the value for integers, or the function of its arguments in their canonical order."""
        if all(arg.is_Integer for arg in args):
            return sympy.Integer(cls._calculate(*map(int, args)))
        ordered = tuple(sorted(args, key=sympy.default_sort_key))
        return None if ordered == args else cls(*ordered)


class Gcd(_OfIntegers):
    """The greatest common divisor."""

    _calculate = staticmethod(gcd)


class Lcm(_OfIntegers):
    """The least common multiple."""

    _calculate = staticmethod(lcm)


_OF_INTEGERS = (Gcd, Lcm, sympy.Mod)
_STEPPED = (*_OF_INTEGERS, sympy.floor, sympy.ceiling)


def about_integers(*sides: Any) -> bool:
    """Return whether expressions step, or alternate, from one whole number to the next."""
    return any(side.has(*_STEPPED) or _alternates(side) for side in sides)


def _alternates(side: Any) -> bool:
    return any(power.base == -1 and power.exp.free_symbols for power in side.atoms(sympy.Pow))


def equal_at_integers(left: Any, right: Any, variables: list[Any]) -> bool:
    """Return whether two expressions have the same values; both numbers have to exist at enough points."""
    real = not any(side.has(*_OF_INTEGERS) or _alternates(side) for side in (left, right))
    agreed = 0
    for values in _points(tuple(real and str(name) in _REAL for name in variables)):
        at = dict(zip(variables, values, strict=True))
        first, second = (_number(side.subs(at)) for side in (left, right))
        if first is None or second is None:
            continue
        if abs(first - second) > 1e-9 * max(1, abs(first)):
            return False
        agreed += 1
    return agreed >= _LEAST_AGREED


def _number(value: Any) -> Any | None:
    if value.is_Rational:
        return value
    number = value.evalf(30)
    return number if number.is_number and number.is_finite and number.is_real else None


@cache
def _points(real: tuple[bool, ...]) -> tuple[tuple[Any, ...], ...]:
    """Return values for letters, of which some are real."""
    return tuple(_alone(real[0]) if len(real) == 1 else _together(real))


def _alone(real: bool) -> Iterator[tuple[Any, ...]]:
    yield from ((sympy.Integer(value),) for value in (0, *_ALONE) if real or value)
    if real:
        for bottom in (2, 3, 5, 7):
            yield from ((sympy.Rational(top, bottom),) for top in range(-2 * bottom - 1, 3 * bottom))


def _together(real: tuple[bool, ...]) -> Iterator[tuple[Any, ...]]:
    drawn = random.Random(0)
    for number in range(_MOST_POINTS):
        rows = _TOGETHER[number] if number < len(_TOGETHER) else ()
        values = [
            rows[place] if place < len(rows) else drawn.randint(1, _LARGEST) for place in range(len(real))
        ]
        yield tuple(
            sympy.Rational(value, drawn.choice((1, 1, 2, 3)) if one_is_real else 1)
            for value, one_is_real in zip(values, real, strict=True)
        )

r"""Compare two scalars or matrices of sympy.

math-verify 0.9.0 loses what is small (1/2004! and 1/2006! both become 0) and calls `simplify` on everything.
Here:

- rational numbers are compared exactly, other exact numbers by their first 25 digits relative to their size;
- decimals are equal if they agree to 6 decimals (math-verify's convention: 0.333333 is 1/3) and to 3 digits
  of their own;
- expressions with variables are evaluated at fixed points (Schwartz 1980; Zippel 1979): different values at
  one point, where both are real, prove them different; equal values to 25 digits at three or more points
  count as equal; where too few points can be evaluated, `simplify` decides. A point at a root or a pole of
  a side does not count: there it evaluates to noise.

A comparison that runs out of memory or stack raises MemoryError or RecursionError.
"""

from typing import Any

import sympy
from sympy.core.function import AppliedUndef

from extra_services.verification.whole_numbers import about_integers, equal_at_integers

_DIGITS = 40
#: Digits of the last comparison of two exact numbers at most.
_MOST_DIGITS = 3000
_EXACT = sympy.Float("1e-25", 30)
_RELATIVE = sympy.Float("1e-13", 30)
_DECIMALS = 6
_OWN_DIGITS = sympy.Float("1e-3", 30)
#: An expression that is exactly 0 evaluates to noise below this, which has no meaningful size relative to 0.
_NOISE = sympy.Float("1e-60", 30)
_MATRIX = sympy.MatrixBase | sympy.MatrixExpr
_INFINITE = (sympy.nan, sympy.zoo)

#: Values for the variables, in order of their names; the last two points suit expressions meant for integers.
_POINTS = tuple(
    tuple(sympy.Rational(value) for value in point)
    for point in (
        ("137/100", "211/91", "67/93", "331/100", "173/120", "263/110", "89/97", "401/130"),
        ("43/101", "307/111", "149/100", "83/90", "359/99", "101/77", "211/103", "47/60"),
        ("293/100", "61/97", "179/81", "227/107", "71/95", "313/100", "131/90", "229/93"),
        ("-73/100", "141/97", "-221/120", "97/91", "-113/70", "199/100", "-59/90", "307/140"),
        ("-317/100", "-53/96", "127/80", "-239/101", "163/90", "-71/60", "281/99", "-109/97"),
        ("7", "4", "9", "5", "11", "6", "13", "8"),
        ("6", "11", "5", "8", "7", "12", "10", "9"),
    )
)


def equal(left: Any, right: Any) -> bool:
    """Compare two scalars or two matrices; symmetric.

    Raises:
        MemoryError, RecursionError: The comparison is undecided.
    """
    if isinstance(left, _MATRIX) or isinstance(right, _MATRIX):
        return _matrices_equal(left, right)
    return _scalars_equal(left, right)


def constant_ratio(left: Any, right: Any) -> Any | None:
    """Return the number left/right if the ratio is constant and not 0, else None."""
    names: dict[Any, sympy.Symbol] = {}
    left, right = (_opaque(side, names).doit() for side in (left, right))
    variables = sorted(left.free_symbols | right.free_symbols, key=str)
    for point in _POINTS:
        values = _at(point, variables)
        first, second = (_value(side, values, strict=True) for side in (left, right))
        if first is not None and second is not None and first and second and first.is_real and second.is_real:
            ratio = sympy.nsimplify(left.subs(values) / right.subs(values))
            return ratio if _scalars_equal(left, ratio * right) else None
    return None


def _matrices_equal(left: Any, right: Any) -> bool:
    left, right = (_explicit(side) for side in (left, right))
    if not (isinstance(left, sympy.MatrixBase) and isinstance(right, sympy.MatrixBase)):
        return False
    return left.shape == right.shape and all(map(equal, left.flat(), right.flat()))


def _explicit(matrix: Any) -> Any:
    """Return a product or sum of matrices as one matrix where its shape is known."""
    if not isinstance(matrix, sympy.MatrixExpr):
        return matrix
    known = all(sympy.sympify(side).is_Integer for side in matrix.shape)
    return matrix.doit().as_explicit() if known else matrix.doit()


def _scalars_equal(left: Any, right: Any) -> bool:
    if not (isinstance(left, sympy.Expr) and isinstance(right, sympy.Expr)):
        return bool(left == right)
    names: dict[Any, sympy.Symbol] = {}
    left, right = (_opaque(side, names).doit() for side in (left, right))
    if left == right:
        return left not in _INFINITE
    if left.has(*_INFINITE) or right.has(*_INFINITE) or left.is_infinite or right.is_infinite:
        return False
    variables = sorted(left.free_symbols | right.free_symbols, key=str)
    if not variables:
        return _numbers_equal(left, right)
    if about_integers(left, right):
        return equal_at_integers(left, right, variables)
    decided = _equal_at_points(left, right, variables)
    return _simplifies_to_zero(left - right) if decided is None else decided


def _opaque(expression: Any, names: dict[Any, sympy.Symbol]) -> Any:
    """Return `expression` with unknown functions, and derivatives of bare symbols (else 0), as symbols."""
    unknown = expression.atoms(AppliedUndef) | {
        derivative for derivative in expression.atoms(sympy.Derivative) if derivative.expr.is_Symbol
    }
    for atom in unknown:
        names.setdefault(atom, sympy.Dummy(str(atom), real=True))
    return expression.xreplace({atom: names[atom] for atom in unknown}) if unknown else expression


def _numbers_equal(left: Any, right: Any) -> bool:
    if left.has(sympy.Float) or right.has(sympy.Float):
        return _decimals_equal(left, right)
    if left.is_Rational and right.is_Rational:
        return bool(left == right)
    first, second = _value(left), _value(right)
    if first is None or second is None:
        return _simplifies_to_zero(left - right)
    if _close(first, second, _EXACT):
        return _equal_to_enough_digits(left, right)
    return bool(min(abs(first), abs(second)) < _NOISE) and _simplifies_to_zero(left - right)


def _equal_to_enough_digits(left: Any, right: Any, values: dict[Any, Any] | None = None) -> bool:
    r"""Compare what agrees to 25 digits again, to more digits than both are written with.

    \\sqrt{10^{40}+1} and 10^{20} agree to 40 digits, and e^{\\pi\\sqrt{163}} is an integer to 30.
    """
    written = sum(
        len(str(abs(number.p))) + len(str(number.q))
        for side in (left, right)
        for number in side.atoms(sympy.Rational)
    )
    digits = min(100 + 3 * written, _MOST_DIGITS)
    first, second = (_value(side, values, digits) for side in (left, right))
    return first is None or second is None or _close(first, second, sympy.Float(10, 30) ** -(digits - 30))


def _decimals_equal(left: Any, right: Any) -> bool:
    first, second = _value(left), _value(right)
    if first is None or second is None:
        return False
    if _close(first, second, _RELATIVE):
        return True
    if any(side.is_Rational and not _repeats(side) for side in (left, right)):
        return False
    rounded = all(
        part(first).round(_DECIMALS) == part(second).round(_DECIMALS) for part in (sympy.re, sympy.im)
    )
    return rounded and _close(first, second, _OWN_DIGITS)


def _repeats(number: Any) -> bool:
    """Return whether the decimals of a rational number never end, so that a decimal can only round it."""
    bottom = number.q
    for factor in (2, 5):
        while bottom % factor == 0:
            bottom //= factor
    return bool(bottom != 1)


def _equal_at_points(left: Any, right: Any, variables: list[Any]) -> bool | None:
    """Return the decision of the points, or None if too few of them could be evaluated."""
    tolerance = _RELATIVE if left.has(sympy.Float) or right.has(sympy.Float) else _EXACT
    imaginary = left.has(sympy.I) or right.has(sympy.I)
    agreed, checked = 0, False
    for point in _POINTS:
        values = _at(point, variables)
        first, second = (_value(side, values, strict=True) for side in (left, right))
        if first is None or second is None:
            continue
        # Outside the reals, roots and logarithms depend on a choice of branch that the writer did not make.
        if not imaginary and not (first.is_real and second.is_real):
            continue
        if not _close(first, second, tolerance):
            return False
        if tolerance is _EXACT and not checked:
            checked = True
            if not _equal_to_enough_digits(left, right, values):
                return False
        agreed += 1
    return True if agreed >= 3 else None


def _at(point: tuple[Any, ...], variables: list[Any]) -> dict[Any, Any]:
    """Return values for the variables; beyond a point's coordinates they repeat, one higher each time."""
    return {symbol: point[index % len(point)] + index // len(point) for index, symbol in enumerate(variables)}


def _value(
    expression: Any, values: dict[Any, Any] | None = None, digits: int = _DIGITS, strict: bool = False
) -> Any | None:
    """Return the number that `expression` is at `values`, to `digits` digits, or None if it is no number.

    With `strict`, None also if a part of it cannot be told from 0, so that its digits are noise.
    """
    try:
        number = expression.evalf(digits, subs=values, strict=strict)
        if number.is_number and not number.has(*_INFINITE) and number.is_finite:
            real, imaginary = number.as_real_imag()
            if imaginary and abs(imaginary) < abs(real) * _EXACT:
                return real
            return number
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        pass
    return None


def _close(left: Any, right: Any, tolerance: Any) -> bool:
    size = max(abs(left), abs(right))
    return bool(size == 0 or abs(left - right) <= tolerance * size)


def _simplifies_to_zero(difference: Any) -> bool:
    try:
        return bool(sympy.simplify(difference).is_zero)
    except (ArithmeticError, AttributeError, NotImplementedError, TypeError, ValueError):
        return False
